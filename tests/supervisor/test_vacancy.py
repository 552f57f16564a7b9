"""An address that is held by workers whose master was killed: the next start waits for it, and for nobody else."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.net import port_owner
from prefork.scoreboard.layout import SCOREBOARD
from prefork.testing import hold_port, wait_for
from prefork.testing.processes import freeze, is_gone, thaw

APP = "def handle(connection, address):\n    connection.sendall(b'ok')\n"
SOON = 60.0


class Started:
    """A server, and what it says."""

    def __init__(self, folder: Path, bind: str, *arguments: str) -> None:
        (folder / "app.py").write_text(APP)
        self._log = folder / f"{secrets.token_hex(4)}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "prefork",
                    "serve",
                    "app:handle",
                    "-b",
                    bind,
                    "-w1",
                    "--control=off",
                    *arguments,
                ],
                cwd=folder,
                stderr=log,
            )

    @property
    def said(self) -> list[str]:
        return self._log.read_text("utf-8").splitlines()

    def wait_for(self, text: str) -> None:
        wait_for(lambda: any(text in line for line in self.said), SOON, text)

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii")
        return [int(word) for word in children.split()]

    def ends(self) -> int:
        return self.process.wait(SOON)


@contextlib.contextmanager
def started(folder: Path, bind: str, *arguments: str) -> Iterator[Started]:
    server = Started(folder, bind, *arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@contextlib.contextmanager
def orphaned(folder: Path, bind: str, *arguments: str) -> Iterator[int]:
    """A worker that does not hear of its master's end, as one in C code does not: it is stopped."""
    with started(folder, bind, *arguments) as first:
        first.wait_for("serving on")
        (worker,) = first.workers()
        freeze([worker])
        first.process.kill()
        first.process.wait()
        try:
            yield worker
        finally:
            thaw([worker])
            wait_for(lambda: is_gone(worker), SOON)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tcp", "group", "unix", "abstract"])
def test_a_start_waits_for_orphans(tmp_path: Path, kind: str) -> None:
    with hold_port() as port, contextlib.ExitStack() as stack:
        bind = {"tcp": port, "group": port, "unix": "unix:s", "abstract": f"unix:@{secrets.token_hex(8)}"}[kind]
        shared = ["--reuse-port"] if kind == "group" else []
        worker = stack.enter_context(orphaned(tmp_path, bind, *shared))
        with started(tmp_path, bind, *shared) as stopped:
            stopped.wait_for("waiting up to 30 s for its end")
            assert f"(pid {worker}), a worker whose master was killed" in stopped.said[0]
            stopped.process.send_signal(signal.SIGTERM)
            assert stopped.ends() == 0
            assert len(stopped.said) == 1
        with started(tmp_path, bind, *shared) as second:
            second.wait_for("waiting up to 30 s for its end")
            thaw([worker])
            second.wait_for("serving on")
            second.process.send_signal(signal.SIGTERM)
            assert second.ends() == 0
    assert not (tmp_path / "s").exists()


def test_who_is_no_orphan_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign, started(tmp_path, _name(foreign)) as server:
        assert server.ends() == 3
        assert len(server.said) == 1
        assert "stop it or choose another port" in server.said[0]
    with started(tmp_path, "unix:s") as first:
        first.wait_for("serving on")
        with started(tmp_path, "unix:s") as server:
            assert server.ends() == 3
            assert f"(pid {first.process.pid}); stop it or choose another path" in server.said[0]
        first.process.send_signal(signal.SIGTERM)
        assert first.ends() == 0


def test_a_master_is_no_orphan_whichever_of_its_processes_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_port() as bind, started(tmp_path, bind) as server:
        server.wait_for("serving on")
        master = server.process.pid
        # As where we may look at none of the others, or its workers have just begun to be forked.
        monkeypatch.setattr(port_owner, "_holders", lambda _: {master})
        host, _, port = bind.rpartition(":")
        owner = port_owner.of_port(host, int(port))
        assert f"(pid {master})" in owner.text
        assert not owner.orphans
        server.process.send_signal(signal.SIGTERM)
        assert server.ends() == 0


def _name(listener: socket.socket) -> str:
    return "{}:{}".format(*listener.getsockname())


def test_workers_are_known_by_the_name_of_their_memory() -> None:
    assert port_owner.SCOREBOARD == SCOREBOARD
    assert not port_owner.of_port("127.0.0.1", 1).orphans
    assert port_owner.of_unix(f"/{os.getpid()}/none") == port_owner.PortOwner("", False)
