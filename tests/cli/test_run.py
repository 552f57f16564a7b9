"""``prefork run``: a script in a worker. What a worker does with it is tried on every Python, the way there on 3.14."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.cli import remote
from prefork.cli.run import FIRST, RunWorker, _place
from prefork.services.control import Client
from prefork.testing import Server, connect, request, running_target, wait_for

TIMEOUT = 60.0

needs_remote_exec = pytest.mark.skipif(sys.version_info < FIRST, reason="sys.remote_exec is CPython 3.14's (PEP 768)")

APP = """\
import time

told = "hi"

def handle(connection, address):
    asked = connection.recv(65536)
    if b"/slow" in asked:
        time.sleep(30)  # longer than the test
    body = told.encode()
    connection.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
"""


def run(control: Path | None, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``prefork run``, with a server or without one."""
    where = [] if control is None else ["--control", str(control)]
    return subprocess.run(
        [sys.executable, "-m", "prefork", "run", *where, *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env=os.environ | environment,
    )


# What a worker does with it.


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "answer"))
        listener.listen()
        listener.settimeout(TIMEOUT)
        yield listener


def told(asked: socket.socket, script: str) -> dict[str, str]:
    """What who asked hears when the worker, which is this process, runs a script."""
    remote.run(script.encode(), "/srv/look.py", asked.getsockname())
    connection, _ = asked.accept()
    with connection, connection.makefile("rb") as file:
        answer: dict[str, str] = json.load(file)
    return answer


def test_what_it_prints_comes_back(asked: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    streams = sys.stdout, sys.stderr
    script = (
        "import sys\nprint(__name__, __file__)\nprint('b', file=sys.stderr)\nsys.stdout.write('c')\nsys.stdout.flush()"
    )
    assert told(asked, script) == {"output": "__main__ /srv/look.py\nb\nc", "raised": ""}
    assert (sys.stdout, sys.stderr) == streams
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("script", "raised"),
    [
        ("print('a')\n1 / 0", 'File "/srv/look.py", line 2, in <module>'),
        ("print('a')\nraise KeyboardInterrupt", "KeyboardInterrupt"),
        ("print('a')\nimport sys; sys.exit('no')", "SystemExit: no"),
        ("print('a')\nimport sys; sys.exit(3)", "SystemExit: 3"),
        ("print('a')\nimport sys; sys.exit()", ""),
    ],
)
def test_what_it_raises_comes_back(asked: socket.socket, script: str, raised: str) -> None:
    answer = told(asked, script)
    assert answer["output"] == "a\n"
    assert raised in answer["raised"]
    assert bool(raised) == bool(answer["raised"])
    assert "remote.py" not in answer["raised"]


def test_what_other_threads_print_goes_where_it_went(asked: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    script = (
        "import threading\nt = threading.Thread(target=print, args=('lane',))\nt.start()\nt.join()\nprint('script')"
    )
    assert told(asked, script)["output"] == "script\n"
    assert capsys.readouterr().out == "lane\n"
    assert threading.active_count() == 1


def test_nobody_is_there_any_more(tmp_path: Path) -> None:
    remote.run(b"raise SystemError('it was run')", "look.py", str(tmp_path / "gone"))


# Where it goes on its way.

IN_A_ROOT = """
import os, sys
if sys.argv[1:]:
    os.chroot(sys.argv[1])
    os.chdir("/")
    os.setgid(65534)
    os.setuid(65534)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def in_a_root(*root: str) -> Iterator[RunWorker]:
    """A process, in a root of its own if one is given."""
    command = [sys.executable, "-c", IN_A_ROOT, *root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            who = 65534 if root else os.geteuid()
            yield RunWorker(0, process.pid, who, who)
        finally:
            process.stdin.close()


def test_the_place_has_one_name_and_nothing_is_left_of_it() -> None:
    with in_a_root() as worker:
        with _place(worker) as place:
            Path(place.own, "script.py").write_text("a")
            assert Path(place.name, "script.py").read_text() == "a"
            assert Path(place.name).stat().st_mode & 0o777 == 0o700
        assert not Path(place.name).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root goes where others don't")
def test_a_worker_does_not_lead_root_out_of_its_root(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    (theirs / "dev" / "shm").mkdir(parents=True)
    for name in ("tmp", "var"):
        (theirs / name).symlink_to(ours)
    (ours / "tmp").mkdir()
    with in_a_root(str(theirs)) as worker:
        with _place(worker) as place:
            assert place.name.startswith(f"/proc/{worker.pid}/root/dev/shm/")
            assert len(list((theirs / "dev" / "shm").iterdir())) == 1
            assert [path.name for path in ours.rglob("*")] == ["tmp"]
            # The name may lead elsewhere by now, and what is there is not ours to remove.
            made = Path(theirs, "dev", "shm", Path(place.name).name)
            made.rename(theirs / "moved")
            made.mkdir()
            (made / "script.py").write_text("")
        assert (made / "script.py").exists()


# The command.


@pytest.mark.skipif(sys.version_info >= FIRST, reason="this Python can")
def test_an_older_python_says_what_to_take_instead(tmp_path: Path) -> None:
    done = run(None, "0", str(tmp_path / "look.py"))
    assert done.returncode == 2
    version = ".".join(map(str, sys.version_info[:3]))
    assert done.stderr == (
        f"prefork: error: prefork run needs CPython 3.14, in command and workers, and this is cpython {version}; "
        "prefork dump SLOT prints a worker's tracebacks, and py-spy (pip install py-spy) looks into any process\n"
    )


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "control"


@pytest.fixture(scope="module")
def server(control: Path) -> Iterator[Server]:
    (control.parent / "shop.py").write_text(APP)
    with running_target("shop:handle", app_dir=control.parent, workers=2, control=str(control)) as server:
        yield server


def body(server: Server) -> str:
    return request(server.address).body.decode()


@needs_remote_exec
@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        (None, {}, "look.py: No such file or directory; name a Python file that you may read"),
        ("a b", {}, "look.py is not Python: invalid syntax"),
        ("pass", {"PYTHON_DISABLE_REMOTE_DEBUG": "1"}, "remote debugging is turned off for this interpreter"),
    ],
)
def test_what_can_not_be_run_is_not_brought(
    tmp_path: Path, text: str | None, environment: dict[str, str], said: str
) -> None:
    script = tmp_path / "look.py"
    if text is not None:
        script.write_text(text)
    done = run(None, "0", str(script), **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@needs_remote_exec
def test_an_idle_worker_runs_it(server: Server, control: Path, tmp_path: Path) -> None:
    script = tmp_path / "look.py"
    script.write_text("import os, shop\nprint(os.getpid(), shop.told)\nshop.told = 'changed'\n")
    assert body(server) == "hi"
    for slot in ("0", "1"):
        done = run(control, slot, str(script))
        assert (done.returncode, done.stderr) == (0, "")
        pid, said = done.stdout.split()
        assert int(pid) in server.workers()
        assert said == "hi"
    assert body(server) == "changed"


@needs_remote_exec
def test_what_it_raises_is_the_command_s_affair(server: Server, control: Path, tmp_path: Path) -> None:
    script = tmp_path / "look.py"
    script.write_text("print('so far')\n1 / 0\n")
    workers = server.workers()
    done = run(control, "1", str(script))
    assert (done.returncode, done.stdout) == (1, "so far\n")
    assert f'File "{script}", line 2' in done.stderr
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert server.workers() == workers
    # Another test may have one just now; what is left stays.
    wait_for(lambda: not list(Path("/tmp").glob("prefork-run-*")), message="nothing to be left")


@needs_remote_exec
def test_a_slot_without_a_worker(server: Server, control: Path, tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text("")
    done = run(control, "7", str(tmp_path / "look.py"))
    assert (done.returncode, done.stderr) == (1, "prefork: error: slot 7 has no worker\n")


@needs_remote_exec
@pytest.mark.long
def test_threads_and_a_worker_that_takes_its_time(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "look.py").write_text("import threading\nprint(threading.current_thread().name)\n")
    control = tmp_path / "control"
    with running_target("shop:handle", app_dir=tmp_path, workers=1, threads=2, control=str(control)) as server:
        assert run(control, "0", str(tmp_path / "look.py")).stdout == "MainThread\n"
        with connect(server.address) as one, connect(server.address) as two:
            for client in (one, two):
                client.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
            with Client(control) as asks:
                wait_for(lambda: asks.status().workers[0].in_hand == 2)
            assert run(control, "0", str(tmp_path / "look.py")).stdout == "MainThread\n"
            (tmp_path / "long.py").write_text("import time\ntime.sleep(5)\n")
            done = run(control, "0", str(tmp_path / "long.py"), "--timeout", "0.5")
            assert done.returncode == 1
            assert "runs it still; --timeout SECONDS waits longer" in done.stderr


@needs_remote_exec
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run workers as somebody else")
@pytest.mark.long
def test_workers_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text("import os\nprint(os.getuid(), os.path.exists(__file__))\n")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is root's alone
        os.chmod(folder, 0o755)
        Path(folder, "shop.py").write_text(APP)
        control = tmp_path / "control"
        with running_target("shop:handle", app_dir=folder, workers=1, user="nobody", control=str(control)):
            done = run(control, "0", str(tmp_path / "look.py"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{pwd.getpwnam('nobody').pw_uid} False\n"
