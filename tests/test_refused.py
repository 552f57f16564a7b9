"""A system that refuses a call at the start: one line that names it, an exit code, and nothing that is left behind."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefork.system.need import refused
from prefork.testing.faults import Injector, Pattern, always, unavailable
from prefork.testing.plugin import ServerFactory
from tests.support.programs import run_program

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

APP = "def handle(connection, address):\n    connection.sendall(b'ok')\n"


def start(folder: Path, name: str, pattern: Pattern) -> subprocess.CompletedProcess[str]:
    """What becomes of a server that is refused a call."""
    (folder / "app.py").write_text(APP)
    command = [sys.executable, "-m", "prefork", "serve", "app:handle", "-b", "unix:s", "-b", "127.0.0.1:0", "-w", "1"]
    with Injector(name) as injector:
        injector.fail(name, pattern)
        with subprocess.Popen(
            injector.command([*command, "--pidfile", "pid", "--control", "control"]),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=injector.pass_fds,
        ) as server:
            try:
                injector.started()
                out, said = server.communicate(timeout=60)
            finally:
                server.kill()
    return subprocess.CompletedProcess(command, server.returncode, out, said)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("memfd_create", errno.EPERM),
        ("ftruncate", errno.ENOSYS),
        ("mmap", errno.ENOMEM),
        ("eventfd", errno.EMFILE),
        ("epoll_create", errno.EPERM),
        ("epoll_add", errno.ENOSPC),
        ("pipe", errno.ENFILE),
    ],
)
def test_what_the_master_is_refused_is_one_line(tmp_path: Path, name: str, number: int) -> None:
    done = start(tmp_path, name, always(number))
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("prefork: error: the"), line
    assert ("descriptors" if number in {errno.EMFILE, errno.ENFILE} else name.partition("_")[0]) in line
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["app.py"]


def test_what_a_worker_is_refused_is_one_line(tmp_path: Path) -> None:
    pids: list[int] = []

    def in_workers(pid: int) -> int:
        pids.append(pid)
        return errno.EPERM if pid != pids[0] else 0

    done = start(tmp_path, "eventfd", in_workers)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("prefork: error: the system refuses a worker the word to stop")
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["app.py"]


FORBIDDEN = """
import sys
from prefork.cli.main import main
from tests.support import seccomp
name, number, argument, *rest = sys.argv[1:]
seccomp.deny(name, int(number), **({"argument": 0, "equal": int(argument)} if argument else {}))
sys.exit(main(["serve", "app:handle", "--workers", "1", "--control", "off", *rest]))
"""


@pytest.mark.parametrize(("setting", "begin"), [("--bind=unix:{}/s", "bind: unix:"), ("--pidfile={}/pid", "pidfile: ")])
def test_where_files_can_not_be_locked_none_is_left_behind(tmp_path: Path, setting: str, begin: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    rest = ["--app-dir", str(tmp_path), "--bind=127.0.0.1:0", setting.format(tmp_path)]
    done = run_program(FORBIDDEN, "flock", str(errno.ENOLCK), "", *rest)
    assert (done.returncode, done.stdout) == (3 if "bind" in begin else 2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"prefork: error: {begin}"), line
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["app.py"]


def test_a_worker_that_may_not_end_with_its_master_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    death_signal = "1"  # PR_SET_PDEATHSIG
    rest = ["--app-dir", str(tmp_path), "--bind=127.0.0.1:0"]
    done = run_program(FORBIDDEN, "prctl", str(errno.EPERM), death_signal, *rest)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    said = "prefork: error: the system refuses that a process ends with who has forked it (prctl(2))"
    assert done.stderr.splitlines()[-1].startswith(said)


@pytest.mark.parametrize("option", [{"threads": 1}, {"preload": True}], ids=["plain", "preload"])
def test_where_nobody_may_ask_for_a_limit_a_server_serves(
    prefork_server: ServerFactory, tmp_path: Path, option: dict[str, Any]
) -> None:
    (tmp_path / "app.py").write_text(APP)
    faults = prefork_server.faults("prlimit")
    faults.fail("prlimit", always(errno.EPERM))
    given = {"control": "off", "keepalive": 5, "bind": f"unix:{tmp_path}/s", "workers": 1, **option}
    server = prefork_server("app:handle", app_dir=tmp_path, options={"faults": faults}, **given)
    assert server.stop() == 0
    assert "Traceback" not in server.log()
    assert "serving on" in server.log()
    assert faults.failed("prlimit")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSYS, "allow it where it is forbidden"),
        (errno.ENOMEM, "free memory"),
        (errno.EMFILE, "raise the limit"),
        (errno.EFBIG, "raise the limit of a file's size"),
        (errno.EIO, "the system is at fault"),
    ],
)
def test_the_line_says_what_to_do(number: int, remedy: str) -> None:
    assert remedy in refused("a thing", "call(2)", OSError(number, "x"))
