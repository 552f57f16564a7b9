"""The access log: one line for each answer, in a form that programs read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefork.errors import SettingsError
from prefork.testing.server import Server, running
from prefork.testing.waiting import wait_for
from prefork.wsgi.access import AccessLog
from tests.support.kept import Client
from tests.support.wsgi.apps import CONTENT
from tests.support.wsgi.harness import ROOT, WITHIN, ask, assert_clean, exchange, get, post, serving
from tests.wsgi.test_access_format import Answer

COMBINED = re.compile(
    r'(?P<addr>\S+) - (?P<user>\S.*?) \[(?P<time>[^\]]+)\] "(?P<request>[^"]*)" (?P<status>\d{3}) (?P<bytes>\d+|-) '
    r'"(?P<referer>[^"]*)" "(?P<agent>[^"]*)"'
)


def lines(path: Path, count: int) -> list[str]:
    """The log's lines, once there are ``count``: they are written after the answer."""
    wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, 20, f"{count} lines")
    return path.read_text().splitlines()


def test_combined(tmp_path: Path) -> None:
    path = tmp_path / "access"
    before = time.time()
    with serving("unsized", options={"access_log": str(path)}) as server:
        ask(server, get("/a%20b?c", "Referer: http://x/", "User-Agent: test/1 (a)"))
        ask(server, get("/", 'User-Agent: a"b\\c\t\xe9'))
        ask(server, get(method="HEAD"))
        exchange(server.address, b"nonsense\r\n\r\n")
        exchange(server.address, b'GET /no"host HTTP/1.1\r\nUser-Agent: a\r\n\r\n')
        exchange(server.address, b"", half_close=True)
        ask(server, post(b"hello"))
        first, second, head, refused, hostless, last = lines(path, 6)
        assert_clean(server)
    match = COMBINED.fullmatch(first)
    assert match is not None, first
    assert match["request"] == "GET /a%20b?c HTTP/1.1"
    assert (match["addr"], match["user"], match["status"], match["bytes"]) == ("127.0.0.1", "-", "200", "5")
    assert (match["referer"], match["agent"]) == ("http://x/", "test/1 (a)")
    said = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z")
    assert before - 1 <= said.timestamp() <= time.time()
    assert second.endswith(r' "-" "a\x22b\x5cc\x09\xe9"'), second
    assert '"HEAD / HTTP/1.1" 200 - ' in head
    assert re.search(r'"-" 400 \d+ "-" "-"$', refused), refused
    assert re.search(r'"GET /no\\x22host HTTP/1.1" 400 \d+ "-" "a"$', hostless), hostless
    assert '"POST / HTTP/1.1" 200 5 ' in last


@pytest.mark.parametrize("zone", ["UTC0", "XXX-5:30", "YYY3:30"])
def test_the_zone_of_an_application_is_not_that_of_the_log(
    tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        log = AccessLog(str(tmp_path / "access"), "combined")
        log.write({}, Answer(), 0.0)
        log.close()
    finally:
        monkeypatch.undo()
        time.tzset()
    match = COMBINED.fullmatch((tmp_path / "access").read_text().rstrip())
    assert match is not None
    said = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z")
    assert said.utcoffset() == timedelta(0)
    assert abs(said - datetime.now(UTC)) < timedelta(minutes=1)


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "access"
    options = {"access_log": str(path), "access_log_format": "json"}
    with serving("unsized", options=options) as server:
        ask(server, get("/a?b", 'User-Agent: "\xe9', "Referer: r"))
        exchange(server.address, b"nonsense\r\n\r\n")
        first, refused = map(json.loads, lines(path, 2))
        pid = server.pid
        assert_clean(server)
    assert abs(datetime.fromisoformat(first.pop("time")) - datetime.now(UTC)) < timedelta(minutes=1)
    assert 0 < first.pop("seconds") < 20
    assert 0 <= first.pop("queue_seconds") < 20
    assert first == {
        "pid": pid,
        "remote_addr": "127.0.0.1",
        "remote_user": None,
        "scheme": "http",
        "host": "test",
        "method": "GET",
        "uri": "/a?b",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 5,
        "referer": "r",
        "user_agent": '"\xe9',
    }
    assert (refused["status"], refused["method"]) == (400, None)


def test_a_template(tmp_path: Path) -> None:
    path = tmp_path / "access"
    form = '%(h)s "%(r)s" %(s)s %(B)d %({content-type}o)s %({content-length}o)s %({x-request-id}i)s'
    with serving("hello", options={"access_log": str(path), "access_log_format": form}) as server:
        ask(server, get("/a", "X-Request-ID: r-1"))
        exchange(server.address, b"nonsense\r\n\r\n")
        answered, refused = lines(path, 2)
        assert_clean(server)
    assert answered == '127.0.0.1 "GET /a HTTP/1.1" 200 5 text/plain 5 r-1'
    assert re.fullmatch(r'127\.0\.0\.1 "-" 400 (\d+) - \1 -', refused)


ELSEWHERE = """\
import os, time
os.environ["TZ"] = "YYY3:30"
time.tzset()
from tests.support.wsgi.apps import hello
"""


def test_local_time_is_that_of_the_start(tmp_path: Path) -> None:
    """In the log and the access log, whatever zone the application sets while it is loaded."""
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    path = tmp_path / "access"
    command = [sys.executable, "-m", "prefork", "wsgi", "elsewhere:hello", "--app-dir", str(tmp_path), "--workers", "1"]
    command += ["--bind", "127.0.0.1:0", "--log-timezone", "local", "--access-log", str(path)]
    with running(command, cwd=ROOT, env={"TZ": "XXX-5:30", "PYTHONPATH": str(ROOT)}, within=WITHIN) as server:
        ask(server, get("/", "Connection: close"))
        match = COMBINED.fullmatch(lines(path, 1)[0])
        assert server.stop() == 0
        stamps = [line.partition(" ")[0] for line in server.log().splitlines()]
    assert match is not None
    said = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z")
    for moment in (said, *map(datetime.fromisoformat, stamps)):
        assert moment.utcoffset() == timedelta(hours=5, minutes=30)
        assert abs(moment - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_user_that_the_application_names(tmp_path: Path) -> None:
    path = tmp_path / "access"
    with serving("remote_user", validate=False, options={"access_log": str(path)}) as server:
        ask(server, get())
        assert r" - a \x22quoted\x22 \u263a user [" in lines(path, 1)[0]


@pytest.mark.parametrize("form", ["combined", "json"])
def test_what_the_application_leaves_of_the_environ(tmp_path: Path, form: str) -> None:
    path = tmp_path / "access"
    options = {"access_log": str(path), "access_log_format": form}
    with serving("changes_environ", validate=False, options=options) as server:
        assert ask(server, get()).body == b"hello"
        assert str(uuid.UUID(int=5)) in lines(path, 1)[0]
        assert_clean(server)


@pytest.mark.parametrize("form", ["combined", "json"])
@pytest.mark.parametrize("where", ["file", "logger"])
def test_what_is_no_text_in_the_environ_costs_a_line_alone(tmp_path: Path, form: str, where: str) -> None:
    """The client has been told that its connection is kept, and may have asked again."""
    path = str(tmp_path / "access") if where == "file" else "logger"
    app = ["tests.support.wsgi.apps:leaves_no_text", "--bind=127.0.0.1:0", "--workers=1"]
    flags = [f"--access-log={path}", f"--access-log-format={form}"]
    with running([sys.executable, "-m", "prefork", "wsgi", *app, *flags], cwd=ROOT, within=WITHIN) as server:
        client = Client(server.address)
        assert [client.ask(get()) for _ in range(3)] == [b"hello"] * 3
        assert not client.closes
        client.close()
        server.wait_for_log("has no line in the access log")
        assert server.log().count("RuntimeError: out of its context") == 1


def test_an_application_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "access"
    with serving("raises", options={"access_log": str(path)}) as server:
        ask(server, get())
        assert '"GET / HTTP/1.1" 500 ' in lines(path, 1)[0]


def test_bytes_that_the_kernel_sent(tmp_path: Path) -> None:
    path = tmp_path / "access"
    with serving("file", validate=False, options={"access_log": str(path)}) as server:
        assert ask(server, get("/short")).body == CONTENT[:1000]
        assert '"GET /short HTTP/1.1" 200 1000 ' in lines(path, 1)[0]


def test_standard_output() -> None:
    with serving("hello", options={"access_log": "-"}) as server:
        ask(server, get("/to-stdout"))
        server.wait_for_log(r'^127\.0\.0\.1 - - \[.*\] "GET /to-stdout HTTP/1.1" 200 5 "-" "-"$')


def test_rotation(tmp_path: Path) -> None:
    """Without a signal: the lines follow the name, within a second."""
    path, moved = tmp_path / "access", tmp_path / "access.1"
    with serving("hello", options={"access_log": str(path)}) as server:
        ask(server, get("/before"))
        assert "/before" in lines(path, 1)[0]
        path.rename(moved)
        server.wait_for(lambda: bool(ask(server, get("/after"))) and path.exists())
        assert "/after" in lines(path, 1)[-1]
        assert "/before" in moved.read_text()
        assert "/before" not in path.read_text()
        assert_clean(server)


def _refused(server: Server) -> bool:
    return ask(server, get()).status == 200 and "ERROR can't write the access log" in server.log()


def test_a_full_disk_costs_no_answer() -> None:
    """/dev/full takes nothing (full(4)). It is said once."""
    with serving("hello", options={"access_log": "/dev/full"}) as server:
        server.wait_for(lambda: _refused(server))
        for _ in range(5):
            assert ask(server, get()).status == 200
        assert server.log().count("can't write the access log") == 1


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with serving("hello", options={"access_log": str(folder / "access")}) as server:
        ask(server, get("/before"))
        lines(folder / "access", 1)
        (folder / "access").unlink()
        folder.rmdir()
        said = "can't be opened anew: No such file or directory; the file that is open goes on"
        server.wait_for(lambda: ask(server, get()).status == 200 and said in server.log())
        folder.mkdir()
        server.wait_for(lambda: bool(ask(server, get("/after"))) and (folder / "access").exists())
        assert "/after" in lines(folder / "access", 1)[-1]
        assert server.log().count(said) == 1


def test_a_file_that_can_not_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "access"
    with pytest.raises(SettingsError, match=f"access_log: '{path}' can't be opened by uid [0-9]+: No such file"):
        AccessLog(str(path), "combined")


def test_a_start_whose_file_can_not_be_opened_ends_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefork", "wsgi", "tests.support.wsgi.apps:hello", "--bind=127.0.0.1:0"]
    path = tmp_path / "nowhere" / "access"
    said = subprocess.run([*command, f"--access-log={path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    lines = [line for line in said.stderr.splitlines() if "error" in line.lower()]
    assert len(lines) == 1
    assert lines[0].startswith(f"prefork: error: access_log: '{path}' can't be opened by uid ")


def test_two_writers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "access"
    one, two = AccessLog(str(path), "combined"), AccessLog(str(path), "combined")
    for number in range(20):
        (one, two)[number % 2].write({"REMOTE_ADDR": str(number)}, Answer(), 0.0)
    assert [line.split()[0] for line in lines(path, 20)] == [str(number) for number in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    one.close()
    two.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2
