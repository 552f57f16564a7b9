"""The log as the commands write it: form, rotation, a reader that is slow, many writers at once."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.services import log as logs
from prefork.services.log import Output, pieces
from prefork.system.need import WRITABLE
from prefork.testing import burst, call_until, request, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.probing import steady
from tests.support.programs import command, run_program
from tests.support.sockets import ROOT

TIMEOUT = 60.0
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
APP = """\
import os

def handle(connection, address):
    path = connection.recv(1000).split()[1].decode()
    if path == "/fail":
        raise RuntimeError("it failed\\n" + "\\n".join(f"[{os.getpid()} {'e' * 97}]" for _ in range(200)))
    if path == "/print":
        for number in range(50):
            print("begin", os.getpid(), "x" * 150, number, "end", sep="|")
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\nfine")
"""


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\n\r\n" % path.encode()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def record(message: str = "hello", **more: object) -> logging.LogRecord:
    made = logging.LogRecord("prefork", logging.INFO, "file", 1, message, None, None)
    made.created = 1795184645.678
    made.__dict__.update(more)
    return made


@contextlib.contextmanager
def killed(process: subprocess.Popen[str]) -> Iterator[None]:
    """What is left of it at the end of the block is killed, so that nobody waits for it who has failed."""
    try:
        yield
    finally:
        process.kill()


# Form.


def test_text(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "log"))
    output.emit(record())
    output.after_fork(3, 7)
    output.emit(record("hello %s", args=("there",)))
    output.end()
    pid = os.getpid()
    assert (tmp_path / "log").read_text().splitlines() == [
        f"2026-11-20T14:24:05.678Z INFO {pid} hello",
        f"2026-11-20T14:24:05.678Z INFO {pid}:3.7 hello there",
    ]


def test_json(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "log"), "json")
    output.emit(record('say "hi"\nü \ud800'))
    output.after_fork(3, 7)
    try:
        raise ValueError("bad")
    except ValueError:
        output.emit(record(exc_info=sys.exc_info()))
    output.end()
    first, second = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert first == {
        "time": "2026-11-20T14:24:05.678Z",
        "level": "info",
        "logger": "prefork",
        "pid": os.getpid(),
        "slot": None,
        "generation": None,
        "message": 'say "hi"\nü \\ud800' if "\\ud800" in first["message"] else first["message"],
    }
    assert (second["slot"], second["generation"]) == (3, 7)
    assert second["traceback"].endswith("ValueError: bad")


def test_a_message_whose_arguments_do_not_fit_is_told_of_and_harms_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output(str(tmp_path / "log"))
    output.emit(record("%d", args=("no number",)))
    output.emit(record())
    output.end()
    assert "Logging error" in capsys.readouterr().err
    assert len((tmp_path / "log").read_text().splitlines()) == 1


@given(st.binary(max_size=300), st.integers(1, 64))
def test_pieces_fit_are_whole_lines_where_they_can_be_and_lose_nothing(data: bytes, most: int) -> None:
    data = data.replace(b"\x01", b"\n").replace(b"\x02", b"\n")
    found = pieces(data, most)
    assert b"".join(found) == data
    assert all(len(piece) <= most for piece in found)
    for piece in found[:-1]:
        assert piece.endswith(b"\n") or (b"\n" not in piece and len(piece) == most)


def test_a_record_that_can_not_be_written_harms_nobody_and_is_counted(tmp_path: Path) -> None:
    output = Output("/dev/full")
    for _ in range(3):
        output.emit(record())
    os.dup2(os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY), output._fd)
    output.emit(record())
    output.emit(record())
    output.end()
    lost, *others = (tmp_path / "log").read_text().splitlines()
    assert lost.endswith("3 records of this log were lost: it could not be written")
    assert [line.split()[-1] for line in others] == ["hello"] * 2


CUTS = """
import os, resource, sys
from types import SimpleNamespace
from prefork.services.log import Output
from prefork.wsgi.access import AccessLog
from tests.services.test_log import record

def full(path, room):  # a write takes what there is room for, and the next one nothing, as on a full disk
    size = os.stat(path).st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1 if room is None else size + room, -1))

output, access = Output(sys.argv[1]), AccessLog(sys.argv[2], "a line of %(m)s")
answered = SimpleNamespace(status="200 OK", sent=3, field=lambda name: None)
for path, write in (
    (sys.argv[1], lambda: output.emit(record())),
    (sys.argv[2], lambda: access.write({"REQUEST_METHOD": "GET"}, answered, 0.1)),
):
    write()
    full(path, 10)
    write()
    write()
    full(path, None)
    write()
    write()
"""


def test_a_line_that_a_full_disk_has_cut_is_no_part_of_the_next(tmp_path: Path) -> None:
    """Of both logs."""
    done = run_program(CUTS, str(tmp_path / "log"), str(tmp_path / "access"))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    first, cut, lost, *others = (tmp_path / "log").read_text().splitlines()
    assert (first[:10], first.split()[-1]) == (cut, "hello")
    assert "2 records of this log were lost" in lost
    assert others == [first] * 2
    whole = "a line of GET"
    assert (tmp_path / "access").read_text().splitlines() == [whole, whole[:10], whole, whole]


def test_two_who_opened_the_file_each_for_himself_overwrite_nothing(tmp_path: Path) -> None:
    """As workers do after a rotation."""
    outputs = [Output(str(tmp_path / "log")) for _ in range(2)]
    for output in outputs * 2:
        output.emit(record())
    for output in outputs:
        output.end()
    assert len((tmp_path / "log").read_text().splitlines()) == 4


def test_a_file_that_can_not_be_opened_is_one_line(app: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefork", "serve", "app:handle", "--log-file", str(app / "no" / "log")],
        cwd=app,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"prefork: error: log_file: '{app / 'no' / 'log'}' can't be opened: No such file or directory; {WRITABLE}\n"
    )


def test_a_library_is_silent() -> None:
    done = run_program(
        """
        import logging, prefork
        assert not logging.getLogger("prefork").handlers
        prefork.Master(prefork.Worker, prefork.Settings(log_file="/no/where", log_format="json"))
        assert not logging.getLogger("prefork").handlers
        assert not logging.getLogger().handlers
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Where it goes.


def test_the_log_of_a_server_in_a_file(prefork_server: ServerFactory, app: Path) -> None:
    path = app / "log"
    server = prefork_server("app:handle", app_dir=app, workers=1, log_file=path, options={"ready": ".*", "cwd": app})
    call_until(lambda: path.exists() and path.read_text(), lambda text: text and "serving on" in text)
    server.stop()
    assert server.log() == ""
    lines = path.read_text().splitlines()
    assert all(re.match(rf"{STAMP} [A-Z]+ {server.pid} ", line) for line in lines)


def test_standard_output(app: Path) -> None:
    with (
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "prefork",
                "serve",
                "app:handle",
                "--bind=127.0.0.1:0",
                "--log-file=-",
                "--log-format=json",
            ],
            cwd=app,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        killed(process),
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        line = json.loads(process.stdout.readline())
        assert line["message"].startswith("serving on ")
        assert (line["pid"], line["slot"]) == (process.pid, None)
        process.terminate()
        assert process.stderr.read() == ""
        rest = [json.loads(line) for line in process.stdout.read().splitlines()]
        assert {line["pid"] for line in rest} == {process.pid}


def test_a_worker_s_record_says_whose_it_is(prefork_server: ServerFactory, app: Path) -> None:
    server = prefork_server("app:handle", app_dir=app, workers=1, log_format="json")
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    (worker,) = steady(server, 1)  # its predecessor would answer too
    request(server.address, get("/fail"))
    server.wait_for_log(r"it failed.*\n")  # to the end of it
    found = [json.loads(line) for line in server.log().splitlines() if "it failed" in line]
    assert [(line["pid"], line["slot"], line["generation"]) for line in found] == [(worker, 0, 1)]
    assert "RuntimeError: it failed" in found[0]["traceback"]


# Rotation.


@contextlib.contextmanager
def readable_by_all() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="prefork-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "user",
    [
        "",
        pytest.param(
            "nobody", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
        ),
    ],
)
def test_a_rotated_file_is_opened_anew_on_sigusr1_by_master_and_workers(
    prefork_server: ServerFactory, user: str
) -> None:
    with readable_by_all() as folder:
        (folder / "app.py").write_text(APP)
        path, old = folder / "log", folder / "log.1"
        settings = {"user": user} if user else {}
        server = prefork_server(
            "app:handle",
            app_dir=folder,
            workers=1,
            bind=f"unix:{folder / 's'}",
            log_file=path,
            options={"ready": ""},
            **settings,
        )
        wait_for(lambda: path.exists() and "serving on" in path.read_text())
        path.rename(old)
        server.signal(signal.SIGUSR1)
        wait_for(path.exists, message="the new file")
        if user:
            wait_for(lambda: path.stat().st_uid == pwd.getpwnam(user).pw_uid, message="its owner")
        size = old.stat().st_size

        def fails() -> bool:
            request(f"unix:{folder / 's'}", get("/fail"))
            return "it failed" in path.read_text()

        wait_for(fails, message="a worker's record in the new file")  # it looks once a second
        server.signal(signal.SIGHUP)
        wait_for(lambda: "generation 1 serves" in path.read_text())
        if not user:
            assert "generation 1 serves" not in old.read_text()
        assert "serving on" not in path.read_text()
        assert old.stat().st_size >= size
        assert server.stop() == 0
        server.close()


def test_a_rotated_file_is_followed_without_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "log"
    output = Output(str(path))
    output.emit(record("first"))
    path.rename(tmp_path / "old")
    later = record("second")
    later.created += 1
    output.emit(later)
    output.end()
    assert (tmp_path / "old").read_text().endswith("first\n")
    assert path.read_text().endswith("second\n")


def test_when_the_new_file_can_not_be_had_the_old_one_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    output = Output(str(folder / "log"))
    output.emit(record("first"))
    folder.rename(tmp_path / "moved")
    later = record("second")
    later.created += 1
    output.emit(later)
    output.reopen()
    output.end()
    why = "No such file or directory; the file that is open goes on"
    said = f"log_file: {str(folder / 'log')!r} can't be opened anew: {why}"
    lines = (tmp_path / "moved" / "log").read_text().splitlines()
    assert [line.split(maxsplit=3)[3] for line in lines] == ["first", said, "second", said]


@pytest.mark.parametrize("what", ["FIFO that nobody reads", "socket"])
def test_what_nobody_reads_does_not_hold_the_master_up(app: Path, what: str) -> None:
    """open(2) of a FIFO waits for its reader; one line says why it was not opened, and the old file goes on."""
    path = app / "log"
    output = Output(str(path))
    path.rename(app / "old")
    with socket.socket(socket.AF_UNIX) as sock:
        if what == "socket":
            sock.bind(str(path))
        else:
            os.mkfifo(path)
        for second in (1, 2):
            later = record("still here")
            later.created += second
            output.emit(later)
    output.end()
    lines = [line.split(maxsplit=3)[3] for line in (app / "old").read_text().splitlines()]
    assert lines == [
        f"log_file: {str(path)!r} can't be opened anew: it is a {what}; the file that is open goes on",
        "still here",
        "still here",
    ]


def test_a_fifo_with_a_reader_is_a_log(app: Path) -> None:
    path = app / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = Output(str(path), owner=(65534, 65534))
    output.emit(record())
    assert os.read(reader, 1000).endswith(b" hello\n")
    assert path.stat().st_uid == os.getuid()
    os.close(reader)
    output.end()


def test_a_relative_path_is_relative_to_the_folder_that_is_changed_to(prefork_server: ServerFactory, app: Path) -> None:
    prefork_server("app:handle", chdir=app, log_file="here.log", workers=1, options={"ready": ""})
    wait_for(lambda: (app / "here.log").exists() and "serving on" in (app / "here.log").read_text())


# A slow reader.


def test_a_full_pipe_never_holds_the_master_up() -> None:
    program = """
    import logging, sys
    from prefork.services import log as logs
    logs.configure("info")
    log = logging.getLogger("prefork")
    for number in range(5000):
        log.info("record %d %s", number, "x" * 100)
    print("done", flush=True)
    sys.stdin.readline()
    log.info("the last")
    """
    with subprocess.Popen(
        command(program), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "done\n"  # with nobody reading what it logged
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or []))
        reader.start()
        wait_for(lambda: len(lines) > 300, message="the pipe to be emptied")
        time.sleep(0.2)  # so that what is in the pipe is read; without it only the count would be another
        process.stdin.write("go\n")
        process.stdin.flush()
        reader.join(TIMEOUT)
        assert process.wait(TIMEOUT) == 0
    written = [line for line in lines if " record " in line]
    assert all(re.fullmatch(rf"{STAMP} INFO \d+ record \d+ x{{100}}\n", line) for line in written)
    assert 0 < len(written) < 5000
    match = re.search(r"WARNING \d+ (\d+) records of this log were lost", lines[-2])
    assert match is not None, lines[-2]
    assert int(match[1]) == 5000 - len(written)
    assert lines[-1].endswith("the last\n")


def test_a_server_whose_log_nobody_reads_goes_on_supervising(app: Path) -> None:
    path = app / "s"
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with subprocess.Popen(
        [sys.executable, "-m", "prefork", "serve", "app:handle", f"--bind=unix:{path}", "--workers=2"],
        cwd=app,
        stderr=writer,
    ) as process:
        try:
            wait_for(path.exists)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            for _ in range(3):
                before = call_until(lambda: children.read_text().split(), lambda found: len(found) == 2)
                assert request(f"unix:{path}", get("/")).body == b"fine"
                kill(*map(int, before))
                call_until(
                    lambda: children.read_text().split(),
                    lambda found, before=before: len(found) == 2 and not {*found} & {*before},  # type: ignore[misc]  # mypy can't infer a lambda with a default
                )
            process.terminate()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
            os.close(reader)
            os.close(writer)


# Many writers.


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_prints_of_several_workers_do_not_mix_within_lines(
    prefork_server: ServerFactory, app: Path, unbuffered: str
) -> None:
    """Whether or not the interpreter was told not to buffer."""
    server = prefork_server("app:handle", app_dir=app, workers=4, options={"env": {"PYTHONUNBUFFERED": unbuffered}})
    burst(server.address, 40, payload=get("/print")).wait()
    wait_for(lambda: server.log().count("|end\n") == 40 * 50, message="every line")
    lines = [line for line in server.log().splitlines() if "begin" in line or "end" in line]
    assert len(lines) == 40 * 50
    assert all(re.fullmatch(r"begin\|\d+\|x{150}\|\d+\|end", line) for line in lines)


def test_tracebacks_of_several_workers_do_not_mix_within_lines_in_a_pipe(app: Path) -> None:
    """Each is longer than a pipe takes in one piece."""
    with (
        subprocess.Popen(
            [sys.executable, "-m", "prefork", "serve", "app:handle", "--bind=127.0.0.1:0", "--workers=4"],
            cwd=app,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        killed(process),
    ):
        assert process.stderr is not None
        first = process.stderr.readline()
        match = re.search(r"serving on (\S+) ", first)
        assert match is not None, first
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or []))
        reader.start()
        burst(match[1], 40, payload=get("/fail")).wait()
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        reader.join(TIMEOUT)
    inner = [line for line in lines if "eee" in line]
    assert len(inner) == 40 * 200
    assert all(re.fullmatch(r"\[\d+ e{97}\]\n", line) for line in inner)
    assert sum("the handler failed" in line for line in lines) == 40


def test_who_logs_by_himself_can_have_an_output_too() -> None:
    before = logging.getLogger("prefork").handlers[:]
    assert logs.services() == []
    output = Output()
    logging.getLogger("prefork").addHandler(output)
    try:
        assert [service._output for service in logs.services()] == [output]
    finally:
        logging.getLogger("prefork").removeHandler(output)
    assert logging.getLogger("prefork").handlers == before


HOSTILE = (
    "failed\n2026-11-20T14:24:05.678Z CRITICAL 1 root says so\n<0>so does systemd\r2026"
    "\x1b]0;title\x07 \x9b31m\u202e\udc80 \x85\ttab é"
)


def test_no_message_can_be_taken_for_a_record_or_steer_a_terminal(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "log"))
    output.emit(record("worker failed: %s", args=(HOSTILE,)))
    output.close()
    assert (tmp_path / "log").read_text() == (
        f"2026-11-20T14:24:05.678Z INFO {os.getpid()} worker failed: failed\n"
        "  2026-11-20T14:24:05.678Z CRITICAL 1 root says so\n"
        "  <0>so does systemd\\r2026\\x1b]0;title\\x07 \\x9b31m\\u202e\\udc80 \\x85\ttab é\n"
    )


def test_json_has_nothing_that_steers_a_terminal(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "log"), "json")
    output.emit(record(HOSTILE))
    output.close()
    text = (tmp_path / "log").read_text()
    assert text.count("\n") == 1
    assert text[:-1].isprintable()
    assert json.loads(text)["message"] == HOSTILE


def test_a_boot_that_fails_forges_no_line_and_steers_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"raise RuntimeError({HOSTILE!r})\n")
    done = subprocess.run(
        [sys.executable, "-m", "prefork", "serve", "app:handle", "--bind=127.0.0.1:0", "--control=off"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 4
    assert "failed to boot" in done.stderr
    assert all(char.isprintable() or char in "\n\t" for char in done.stderr)
    assert [line for line in done.stderr.splitlines() if line.startswith(("2026-11-20", "<0>"))] == []


def test_a_logger_below_ours_writes_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    program = f"""
import logging
from prefork.services.log import configure
configure("info", {str(path)!r})
logging.getLogger("prefork.shop").info("open for business")
logging.getLogger("prefork").info("ours, once")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert [line.split(" ", 3)[3] for line in path.read_text().splitlines()] == ["open for business", "ours, once"]
