"""Why workers end: each cause is brought about in a real server, of which no line says what the metrics count."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from prefork.errors import ControlError
from prefork.services.control import Client
from prefork.supervisor.cause import Cause
from prefork.testing import call_until, connect, wait_for
from prefork.testing.plugin import ServerFactory
from tests.support.probing import APPS, LOGGING, PATIENCE, ask, get, held, importing, steady, talk

REWORDED = """
import json, os, socket, sys
import prefork
from prefork.supervisor import cause
from probe import Probe

control, given = sys.argv[1], json.loads(sys.argv[2])

for each in cause.TEXTS:
    cause.TEXTS[each] = "words"


class Reword(logging.Filter):
    def filter(self, record):
        if not record.getMessage().startswith("serving on"):
            record.msg, record.args = "words, and others", ()
        return True


logging.getLogger("prefork").addFilter(Reword())


class Ending(Probe):
    def init(self):
        if os.path.exists(control + ".broken"):
            raise RuntimeError("broken as asked")

    def do_recycle(self, *_):
        self.recycle()
        return os.getpid()

    def do_deafen(self, *_):
        # What listens no more listens no more for this worker alone: the socket that others share is as it was.
        for name in os.listdir("/proc/self/fd"):
            try:
                with socket.socket(fileno=os.dup(int(name))) as found:
                    listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    if listens and found.family == socket.AF_INET:
                        with socket.socket() as other:
                            os.dup2(other.fileno(), int(name), inheritable=False)
            except OSError:
                pass  # no socket, or the descriptor of the folder
        return os.getpid()


prefork.Master(Ending, prefork.Settings.of({"bind": "127.0.0.1:0", "control": control, **given})).run()
"""


class Counted:
    """A server whose words are others, and what it counts.

    Args:
        factory: runs it.
        folder: for its control socket.
        nofile: its limit of descriptors; None for the one of the tests.
        **settings: its settings.
    """

    def __init__(self, factory: ServerFactory, folder: Path, nofile: int | None = None, **settings: object) -> None:
        self.control = folder / "control"
        prefix = [] if nofile is None else ["sh", "-c", f'ulimit -n {nofile} && exec "$@"', "sh"]
        arguments = (str(self.control), json.dumps(settings))
        self.server = factory.script(LOGGING + REWORDED, *arguments, env=importing(APPS), prefix=prefix)
        self.expected: dict[str, int] = {}

    def deaths(self) -> dict[str, int]:
        """What is counted; nothing at a moment at which nobody answers, as within an exec."""
        try:
            with Client(self.control) as client:
                return client.status(processes=False).totals.deaths
        except ControlError:
            return {}

    def wait_until_busy(self) -> None:
        """Wait until its only worker has a connection in hand."""
        with Client(self.control) as client:
            call_until(  # it may just have ended, and its successor be put off
                lambda: [worker.state for worker in client.status(processes=False).workers],
                lambda states: states == ["busy"],
            )

    def count(self, cause: Cause) -> None:
        """Wait until one more has ended for ``cause``, and none for another."""
        self.expected[cause] = self.expected.get(cause, 0) + 1
        call_until(self.deaths, lambda found: found == self.expected, timeout=PATIENCE, message=f"{self.expected}")


@pytest.mark.long
def test_who_is_told_to_leave_is_counted_by_what_for(prefork_server: ServerFactory, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_requests": 30, "max_memory": "150M", "max_fds": 100}
    counted = Counted(prefork_server, tmp_path, workers=2, reload_surge=2, **limits)
    server = counted.server

    ask(server, "/recycle")
    counted.count(Cause.ASKED)
    with Client(counted.control) as client:
        client.recycle(0)
    counted.count(Cause.RECYCLED)
    os.kill(int(ask(server)), signal.SIGTERM)
    counted.count(Cause.SIGNALLED)
    ask(server, "/deafen")
    counted.count(Cause.LISTENER_LOST)
    ask(server, "/memory/200")
    counted.count(Cause.MAX_MEMORY)
    ask(server, "/descriptors/120")
    counted.count(Cause.MAX_FDS)

    server.signal(signal.SIGTTOU)
    counted.count(Cause.SHRINK)
    server.signal(signal.SIGHUP)
    counted.count(Cause.RELOAD)
    for _ in range(30):
        ask(server)
    counted.count(Cause.MAX_REQUESTS)

    # Why one is to go is known on the other side of an exec as well.
    with held(server) as (connection,):
        with Client(counted.control) as client:
            client.recycle(0)
        server.signal(signal.SIGUSR2)
        counted.count(Cause.RELOAD)
        connection.finish()
    counted.count(Cause.RECYCLED)

    steady(server, 2)  # as its settings say, which it has read anew
    with held(server):
        server.signal(signal.SIGTERM)
        counted.count(Cause.STOP)


def test_who_ends_otherwise_is_counted_by_how(prefork_server: ServerFactory, tmp_path: Path) -> None:
    counted = Counted(prefork_server, tmp_path, nofile=64, workers=1, timeout=2, graceful_timeout=3)
    server = counted.server

    ask(server, "/descriptors/46")
    with connect(server.address) as client:
        client.sendall(get("/descriptors/46"))
        counted.count(Cause.LEAK)
    with connect(server.address) as client:
        client.sendall(get("/exit/3"))
        counted.count(Cause.EXIT)
    with connect(server.address) as client:
        client.sendall(get("/die/11"))
        counted.count(Cause.CRASH)
    with held(server):
        counted.count(Cause.TIMEOUT)
    with talk(server, "/extend/60/60"):  # else it may be a hang before its successor has booted
        counted.wait_until_busy()
        server.signal(signal.SIGHUP)
        counted.count(Cause.GRACEFUL_TIMEOUT)
    broken = tmp_path / "control.broken"
    broken.touch()
    server.signal(signal.SIGHUP)
    counted.count(Cause.BOOT)


def test_who_is_too_old_is_counted_so(prefork_server: ServerFactory, tmp_path: Path) -> None:
    counted = Counted(prefork_server, tmp_path, workers=1, max_age=0.2)
    wait_for(lambda: set(counted.deaths()) == {Cause.MAX_AGE}, timeout=PATIENCE)
