"""The pidfile: whose it is, when it is stale, who removes it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from prefork.errors import SettingsError
from prefork.services.pidfile import Pidfile
from prefork.system import natives
from prefork.system.need import WRITABLE
from prefork.testing import Server, call_until, hold_port
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.probing import APPS, ask, opened, probe


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that is to fail."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "prefork",
            "serve",
            "probe:Probe",
            "--app-dir",
            str(APPS),
            "--bind=127.0.0.1:0",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.pid"


def test_the_file_has_the_master_s_pid_as_long_as_it_lives(prefork_server: ServerFactory, path: Path) -> None:
    server = probe(prefork_server, workers=2, pidfile=path)
    assert path.read_text() == f"{server.pid}\n"
    for pid in server.workers():
        assert str(path) not in opened(pid).values()
    assert server.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("stale", ["", "1\n", "4194304\n"])
def test_a_stale_one_is_replaced_whatever_it_says(prefork_server: ServerFactory, path: Path, stale: str) -> None:
    """Also the pid of a process that lives: the number may be anybody's by now."""
    path.write_text(stale)
    server = probe(prefork_server, workers=1, pidfile=path)
    assert path.read_text() == f"{server.pid}\n"


@pytest.mark.parametrize("text", ["workers = 3\n", "12345678901\n", "17 18\n", "\0", "1\n" * 100])
def test_somebody_s_file_is_refused_and_left(path: Path, text: str) -> None:
    path.write_text(text)
    inside: Any = types.SimpleNamespace(loop=types.SimpleNamespace(descriptors=set()))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SettingsError) as caught:
        Pidfile(str(path)).attach(inside)
    assert str(caught.value) == f"pidfile: {str(path)!r} holds something else than a process id; name another file"
    assert path.read_text() == text
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_a_killed_server_left_is_replaced(prefork_server: ServerFactory, path: Path) -> None:
    server = probe(prefork_server, workers=1, pidfile=path)
    kill(*server.tree())
    assert path.read_text() == f"{server.pid}\n"
    server = probe(prefork_server, workers=1, pidfile=path)
    assert path.read_text() == f"{server.pid}\n"


def test_a_living_server_s_is_refused(prefork_server: ServerFactory, path: Path) -> None:
    server = probe(prefork_server, workers=1, pidfile=path)
    done = start("--pidfile", str(path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"prefork: error: pidfile: '{path}' is a living server's, pid {server.pid}; stop it, or name another file"
    )
    assert path.read_text() == f"{server.pid}\n"
    ask(server)


def test_workers_that_outlive_the_master_for_a_moment_hold_no_lock(prefork_server: ServerFactory, path: Path) -> None:
    server = probe(prefork_server, workers=2, pidfile=path)
    os.kill(server.pid, signal.SIGSTOP)  # the workers live, and nobody else holds the file's lock
    try:
        for pid in server.workers():
            locks = [line for line in Path("/proc/locks").read_text().splitlines() if f" {pid} " in line]
            assert not locks
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), f"can't be written: Is a directory; {WRITABLE}"),
        (lambda path: path.symlink_to("/dev/null"), f"can't be written: Too many levels of symbolic links; {WRITABLE}"),
        (os.mkfifo, "is not a plain file; name another"),
    ],
    ids=["folder", "link", "pipe"],
)
def test_what_is_no_plain_file_is_refused(path: Path, make: object, said: str) -> None:
    assert callable(make)
    make(path)
    done = start("--pidfile", str(path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"prefork: error: pidfile: '{path}' {said}"
    assert os.path.lexists(path)


def test_a_file_that_can_not_be_filled_is_not_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(natives.os, "pwrite", full)
    inside: Any = types.SimpleNamespace(loop=None)
    with pytest.raises(SettingsError, match=r"can't be written: No space left on device; make room there$"):
        Pidfile(str(path)).attach(inside)
    assert not path.exists()


def test_a_folder_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "no" / "shop.pid"
    done = start("--pidfile", str(path))
    assert done.returncode == 2
    assert f"prefork: error: pidfile: '{path}' can't be written: No such file or directory" in done.stderr


def test_a_file_that_is_another_s_by_now_is_left(prefork_server: ServerFactory, path: Path) -> None:
    server = probe(prefork_server, workers=1, pidfile=path)
    path.unlink()
    path.write_text("another's\n")
    assert server.stop() == 0
    assert path.read_text() == "another's\n"


@pytest.mark.long
def test_a_successor_does_not_replace_what_is_no_pidfile_any_more(
    prefork_server: ServerFactory, path: Path, tmp_path: Path
) -> None:
    """Nor what lies beside it, under whatever name."""
    (tmp_path / "shop.pid.new").write_text("somebody's\n")
    with hold_port(reuse_port=True) as address:
        first = probe(prefork_server, workers=1, pidfile=path, bind=address, reuse_port=True)
        (tmp_path / "slow.py").write_text(
            "import pathlib, time\n"
            f"pathlib.Path({str(tmp_path / 'boots')!r}).touch()\n"
            f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists():\n    time.sleep(0.01)\n"
            "def handle(connection, address):\n    pass\n"
        )
        command = [
            sys.executable,
            "-m",
            "prefork",
            "serve",
            "slow:handle",
            "--app-dir",
            str(tmp_path),
            "--bind",
            address,
        ]
        command += ["--workers=1", "--reuse-port", f"--pidfile={path}", f"--takeover={path}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as second:
            try:
                call_until((tmp_path / "boots").exists, bool)
                path.unlink()
                path.write_text("somebody's\n")
                (tmp_path / "go").touch()
                assert first.wait() == 0
                second.terminate()
                assert second.stderr is not None
                log = second.stderr.read()
                assert "can't be replaced: it holds something else than a process id" in log
            finally:
                second.kill()
    assert path.read_text() == (tmp_path / "shop.pid.new").read_text() == "somebody's\n"


@pytest.mark.long
def test_the_longest_name_can_be_taken_over(prefork_server: ServerFactory, tmp_path: Path) -> None:
    path = tmp_path / ("p" * 255)
    with hold_port(reuse_port=True) as address:
        first = probe(prefork_server, workers=1, pidfile=path, bind=address, reuse_port=True)
        second = probe(prefork_server, workers=1, pidfile=path, bind=address, reuse_port=True, takeover=path)
        assert first.wait() == 0
        assert path.read_text() == f"{second.pid}\n"
        assert second.stop() == 0


def test_a_file_that_somebody_removed_holds_nobody_up(prefork_server: ServerFactory, path: Path) -> None:
    server = probe(prefork_server, workers=1, pidfile=path)
    path.unlink()
    assert server.stop() == 0


def test_a_relative_path_is_removed_from_where_it_was_made(
    prefork_server: ServerFactory, tmp_path: Path, path: Path
) -> None:
    server = probe(prefork_server, workers=1, pidfile="shop.pid", chdir=tmp_path, options={"cwd": "/"})
    assert path.read_text() == f"{server.pid}\n"
    assert server.stop() == 0
    assert not path.exists()


SLOW_TO_LOAD = """
import os, pathlib, time

HERE = pathlib.Path(__file__).parent
if "_PREFORK_HANDOVER" in os.environ:  # the new image, which has attached nothing yet
    (HERE / "loading").touch()
    while not (HERE / "go").exists():
        time.sleep(0.01)  # a look at the disk

def when_ready(server):
    pass

def handle(connection, address):
    connection.close()
"""


@pytest.mark.long
def test_nobody_can_have_it_within_an_upgrade(prefork_server: ServerFactory, path: Path, tmp_path: Path) -> None:
    (tmp_path / "slow_to_load.py").write_text(SLOW_TO_LOAD)
    server = prefork_server("slow_to_load:handle", app_dir=tmp_path, workers=1, pidfile=path, hooks="slow_to_load")
    server.signal(signal.SIGUSR2)
    call_until((tmp_path / "loading").exists)
    done = start("--pidfile", str(path))
    assert f"is a living server's, pid {server.pid}" in done.stderr
    (tmp_path / "go").touch()
    server.wait_for_log("generation 1 serves")
    assert path.read_text() == f"{server.pid}\n"
    server.wait_for(lambda: len(server.workers()) == 1, message="the older worker is gone")
    for pid in server.workers():
        assert str(path) not in opened(pid).values()
    assert server.stop() == 0
    assert not path.exists()


@pytest.mark.long
def test_an_upgrade_keeps_it(prefork_server: ServerFactory, path: Path) -> None:
    server = probe(prefork_server, workers=1, pidfile=path)
    (before,) = server.workers()
    server.signal(signal.SIGUSR2)
    call_until(server.workers, lambda now: before not in now and len(now) == 1)
    assert path.read_text() == f"{server.pid}\n"
    with path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert server.stop() == 0
    assert not path.exists()


def test_a_successor_takes_the_same_file_over_when_it_serves(prefork_server: ServerFactory, path: Path) -> None:
    with hold_port(reuse_port=True) as address:
        first = probe(prefork_server, workers=1, pidfile=path, bind=address, reuse_port=True)
        second: Server = probe(prefork_server, workers=1, pidfile=path, bind=address, reuse_port=True, takeover=path)
        assert first.wait() == 0
        assert path.read_text() == f"{second.pid}\n"
        assert second.stop() == 0
    assert list(path.parent.iterdir()) == []
