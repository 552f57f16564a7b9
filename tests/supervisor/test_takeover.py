"""A successor on the same port beside its predecessor: nobody is refused, and one that fails takes nobody with it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefork.errors import SettingsError
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.takeover import Takeover
from prefork.system.lockfile import locked_by, read
from prefork.testing import Load, Server, connect, hold_port, request
from prefork.testing.plugin import ServerFactory
from tests.support.figures import count
from tests.support.probing import probe

GONE = r"the predecessor, pid (\d+), has ended"


def server_on(factory: ServerFactory, address: str, pidfile: Path, *, first: bool = False) -> Server:
    more = {} if first else {"takeover": pidfile}
    return probe(factory, workers=3, bind=address, reuse_port=True, pidfile=pidfile, **more)


HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "a")
file.write(f"{os.getpid()}\\n")
file.flush()
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


@contextmanager
def holding(pidfile: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a pidfile as a master does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(pidfile)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


@pytest.mark.long
def test_takeovers_under_open_loop_arrivals_lose_nobody(prefork_server: ServerFactory, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with hold_port(reuse_port=True) as address:
        server = server_on(prefork_server, address, pidfile, first=True)
        with Load(address, interval=0.004) as load:
            for _ in range(count("takeovers")):
                successor = server_on(prefork_server, address, pidfile)
                assert server.wait() == 0
                server = successor
            load.wait_for(lambda tally: tally.total >= count("takeover-arrivals"), 120)
        assert load.tally.lost == 0, load.tally
        assert server.stop() == 0


@pytest.mark.long
def test_a_successor_that_fails_to_boot_takes_nobody_with_it(prefork_server: ServerFactory, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    (tmp_path / "slow_and_broken.py").write_text("import time\ntime.sleep(0.3)\nraise RuntimeError('as asked')\n")
    with hold_port(reuse_port=True) as address:
        server = server_on(prefork_server, address, pidfile, first=True)
        with Load(address, interval=0.004) as load:
            for _ in range(3):
                failed = prefork_server(
                    "slow_and_broken:handle",
                    app_dir=tmp_path,
                    bind=address,
                    workers=3,
                    reuse_port=True,
                    takeover=pidfile,
                    options={"ready": "failed to boot"},
                )
                assert failed.wait() == 4
        assert load.tally.lost == 0, load.tally
        assert load.tally.answered > 100
        assert server.stop() == 0


def test_a_pidfile_without_a_process_is_one_clear_line(prefork_server: ServerFactory, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    for text, said in (("4194303", "no process has the pid"), ("soon", "not a pid")):
        pidfile.write_text(text)
        server = prefork_server(
            "probe:Probe",
            app_dir=Path(__file__).parents[1] / "support" / "apps",
            reuse_port=True,
            takeover=pidfile,
            options={"ready": "prefork: error: takeover: "},
        )
        assert server.wait() == 2
        assert said in server.log()
        assert "Traceback" not in server.log()


@pytest.fixture
def booting(prefork_server: ServerFactory, tmp_path: Path) -> Iterator[tuple[Server, Server, Path]]:
    """A predecessor, and its successor, whose two workers boot until a file is there."""
    pidfile, go = tmp_path / "pid", tmp_path / "go"
    (tmp_path / "waits.py").write_text(
        "import os, time\n"
        "os.write(1, b'boots\\n')\n"  # in one piece, whoever else writes
        f"while not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\n"
        "def handle(connection, address):\n    connection.sendall(b'ok')\n"
    )
    with hold_port(reuse_port=True) as address:
        server = server_on(prefork_server, address, pidfile, first=True)
        successor = prefork_server(
            "waits:handle",
            app_dir=tmp_path,
            bind=address,
            workers=2,
            reuse_port=True,
            takeover=pidfile,
            options={"ready": r"boots\n(.*\n)*boots\n"},
        )
        yield server, successor, go


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_successor_can_be_stopped_before_it_listens(
    booting: tuple[Server, Server, Path], signum: signal.Signals
) -> None:
    server, successor, _ = booting
    successor.signal(signum)
    assert successor.wait() == 0
    assert "Traceback" not in successor.log()
    assert server.stop() == 0


@pytest.mark.parametrize("signum", [signal.SIGTTOU, signal.SIGTTIN, signal.SIGHUP, signal.SIGUSR2])
def test_a_successor_hears_orders_before_it_listens(
    booting: tuple[Server, Server, Path], signum: signal.Signals
) -> None:
    """And it is silent until all of it is there: who comes meanwhile is the predecessor's."""
    server, successor, go = booting
    successor.signal(signum)
    if signum in {signal.SIGTTOU, signal.SIGTTIN}:
        size = 1 if signum == signal.SIGTTOU else 3
        successor.wait_for_log(f"{size} workers instead of 2")
        successor.wait_for(lambda: len(successor.workers()) == size)
    for _ in range(20):
        request(server.address)
    assert server.process.poll() is None
    go.touch()
    assert server.wait() == 0
    successor.wait_for_log(GONE)
    with connect(server.address) as client:
        assert client.recv(10) == b"ok"
    assert successor.stop() == 0
    assert "Traceback" not in successor.log()


@pytest.mark.long
def test_a_predecessor_that_is_gone_meanwhile_hinders_nobody(prefork_server: ServerFactory, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    (tmp_path / "waits.py").write_text(
        "import pathlib, time\n"
        f"pathlib.Path({str(tmp_path)!r}, 'boots').touch()\n"
        f"while not pathlib.Path({str(tmp_path)!r}, 'go').exists():\n    time.sleep(0.01)\n"
        "def handle(connection, address):\n    connection.sendall(b'ok')\n"
    )
    with hold_port(reuse_port=True) as address:
        server = server_on(prefork_server, address, pidfile, first=True)
        server.signal(signal.SIGKILL)
        server.wait()
        # A zombie's pid still names a process; the file now holds that of a live one that will not live long.
        (tmp_path / "go").touch()
        other = server_on(prefork_server, address, pidfile, first=True)
        successor = prefork_server(
            "waits:handle", app_dir=tmp_path, bind=address, workers=2, reuse_port=True, takeover=pidfile
        )
        assert other.wait() == 0
        successor.wait_for_log(GONE)
        assert successor.stop() == 0


@pytest.mark.parametrize("held_by", ["nobody", "another"])
def test_a_stale_number_is_not_signalled(tmp_path: Path, held_by: str) -> None:
    """A killed server's pidfile may hold the number of any process by now; only the lock says whose it is."""
    pidfile, loop = tmp_path / "pid", Loop()
    with ExitStack() as stack:
        stack.callback(loop.close)
        bystander = stack.enter_context(holding(tmp_path / "its own"))
        if held_by == "another":
            stack.enter_context(holding(pidfile))
        pidfile.write_text(f"{bystander.pid}\n")
        with pytest.raises(SettingsError, match=f"pid is stale: the process that has the pid {bystander.pid} now"):
            Takeover(loop, str(pidfile))
        assert bystander.poll() is None


def test_who_may_not_look_into_the_predecessor_asks_the_list_of_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: str) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("prefork.services.pidfile.os.listdir", forbidden)
    with holding(tmp_path / "pid") as process:
        said, file = read(str(tmp_path / "pid"))
        assert said == str(process.pid)
        assert locked_by(file, process.pid)
        assert not locked_by(file, os.getpid())
        os.close(file)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_pidfile_that_is_no_file_is_one_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "pid")
    loop = Loop()
    with pytest.raises(SettingsError, match=r"can't read .*: it is not a plain file; name the predecessor's pidfile$"):
        Takeover(loop, str(tmp_path / "pid"))
    loop.close()


def test_a_predecessor_whose_end_can_not_be_watched_is_stopped_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory for one more watch")

    pidfile, go, loop = tmp_path / "pid", os.eventfd(0), Loop()
    monkeypatch.setattr(loop, "register", no_room)
    with holding(pidfile) as predecessor:
        held: Any = SimpleNamespace(listeners=[], go=go, queue=None)
        Takeover(loop, str(pidfile)).complete(held)
        assert predecessor.wait(30) == -signal.SIGTERM
    assert os.eventfd_read(go) == 1
    assert "can't see when the predecessor" in caplog.text
    os.close(go)
    loop.close()
