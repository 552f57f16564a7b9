"""systemd-socket-activate, the real program, starts the server and passes its sockets."""

from __future__ import annotations

import shutil
import signal
import socket
import sys

import pytest

from prefork.testing import hold_port, request
from prefork.testing.plugin import ServerFactory
from tests.support.probing import APPS, get

ACTIVATE = shutil.which("systemd-socket-activate")

pytestmark = pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed (Debian: systemd)")


def test_sockets_are_taken_by_their_names(prefork_server: ServerFactory) -> None:
    with hold_port() as one, hold_port() as two:
        assert ACTIVATE is not None
        # It starts the server at the first connection, which waits until that serves.
        command = [ACTIVATE, "-l", one, "-l", two, "--fdname=web:admin", sys.executable, "-m", "prefork", "serve"]
        command += ["probe:Probe", "--app-dir", str(APPS), "--workers", "2"]
        command += ["--bind", "systemd:web", "--bind", "systemd:admin"]
        server = prefork_server.command(command, ready="Listening on|listening on")
        answer = request(one, get("/pid"))
        assert answer.status == 200, (answer, server.log())
        assert request(two, get("/pid")).status == 200
        server.wait_for_log("serving on .* with 2 workers")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        # That program has become the server, and nobody else has the sockets open: what waits there is ours to serve.
        assert "stopping: emptying the accept queues" in server.log()


def test_a_name_that_was_not_passed_is_one_clear_line(prefork_server: ServerFactory) -> None:
    with hold_port() as one:
        assert ACTIVATE is not None
        command = [ACTIVATE, "-l", one, sys.executable, "-m", "prefork", "serve", "probe:Probe"]
        command += ["--app-dir", str(APPS), "--bind", "systemd:nobody"]
        server = prefork_server.command(command, ready="Listening on|listening on")
        host, _, port = one.rpartition(":")
        with socket.create_connection((host, int(port))):
            assert server.wait() == 3
        assert "prefork: error: bind: systemd:nobody" in server.log()
        assert "Traceback" not in server.log()
