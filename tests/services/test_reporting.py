"""Where a log and metrics go beside files: syslog, statsd, and the handlers of a file of logging.config."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.config.receiver import Receiver, parse
from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.services.sending import Sender
from prefork.services.statsd import Statsd, counts_of, gauges_of
from prefork.services.syslog import Syslog
from prefork.status.model import Listening, Status, Totals, Working
from prefork.system import natives
from prefork.testing import running
from prefork.testing.clock import FakeClock
from prefork.testing.waiting import wait_for
from tests.support.programs import run_program
from tests.support.wsgi.harness import ROOT, WITHIN, ask, get


@pytest.mark.parametrize(
    ("text", "receiver"),
    [
        ("localhost", Receiver("udp", "localhost", 514)),
        ("localhost:8125", Receiver("udp", "localhost", 8125)),
        ("udp://127.0.0.1:1", Receiver("udp", "127.0.0.1", 1)),
        ("tcp://[::1]:601", Receiver("tcp", "::1", 601, stream=True)),
        ("unix:///dev/log", Receiver("unix", "/dev/log")),
        ("unix:///dev/log#dgram", Receiver("unix", "/dev/log")),
        ("unix:///run/log#stream", Receiver("unix", "/run/log", stream=True)),
    ],
)
def test_receivers(text: str, receiver: Receiver) -> None:
    assert parse(text, 514) == receiver


@pytest.mark.parametrize(
    "text", ["", "unix:/dev/log", "http://a", "a:0", "a:65536", "a:b", "::1", "a b", "unix:///a#b"]
)
def test_what_is_no_receiver(text: str) -> None:
    with pytest.raises(ValueError, match="is no address to send to"):
        parse(text, 514)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"syslog_addr": "x y"}, "syslog_addr: 'x y' is no address to send to; give udp://host:port"),
        ({"statsd_host": "tcp://a:1"}, "statsd_host: 'tcp://a:1' is no address to send to; give host:port or unix:"),
        ({"statsd_prefix": "a b"}, "statsd_prefix: 'a b' is not a name in statsd"),
        ({"dogstatsd_tags": "a|b"}, "dogstatsd_tags: 'a|b' is no list of tags"),
        ({"syslog_facility": "loud"}, "syslog_facility: 'loud' is not known"),
    ],
)
def test_settings_that_are_wrong(given: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.of(given)
    assert str(caught.value).startswith(why)


@pytest.fixture
def datagrams(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "log"))
        sock.settimeout(WITHIN)
        yield sock


def record(level: int, message: str, name: str = "prefork", *, error: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("odd")
    except ValueError:
        info = sys.exc_info() if error else None
    return logging.LogRecord(name, level, __file__, 1, message, (), info)


def test_lines_of_syslog(datagrams: socket.socket) -> None:
    target = Syslog(Receiver("unix", datagrams.getsockname()), "shop", "local3")
    target.handle(record(logging.WARNING, "an odd\x1b thing"))
    target.after_fork(3, 1)
    target.handle(record(logging.INFO, "GET /", "prefork.access"))
    target.handle(record(logging.ERROR, "it failed", error=True))
    target.handle(record(logging.DEBUG, "x" * 20_000))
    said = [datagrams.recv(1 << 16).decode() for _ in range(4)]
    target.end()
    pid = r"\[\d+\]"
    assert re.fullmatch(rf"<156>shop{pid}: an odd\\x1b thing", said[0])
    assert re.fullmatch(rf"<158>shop\.access{pid}: 3\.1 GET /", said[1])
    assert re.fullmatch(rf"<155>shop{pid}: 3\.1 it failed\nTraceback .*\n.*\n.*\nValueError: odd", said[2], re.DOTALL)
    assert said[3].startswith("<159>")
    assert len(said[3]) == 8192


def test_syslog_over_a_connection() -> None:
    """A line ends where its record does; and a daemon that comes later gets what comes later."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WITHIN)
        target = Syslog(Receiver("tcp", "127.0.0.1", listener.getsockname()[1], stream=True), "shop", "user")
        target.handle(record(logging.INFO, "one\ntwo"))
        connection, _ = listener.accept()
        with connection, connection.makefile() as lines:
            connection.settimeout(WITHIN)
            target.handle(record(logging.INFO, "three"))
            target.end()
            assert re.fullmatch(r"<14>shop\[\d+\]: one#012two\n<14>shop\[\d+\]: three\n", lines.read())


def test_nobody_there_is_no_trouble(tmp_path: Path) -> None:
    clock = FakeClock()
    path = str(tmp_path / "log")
    sender = Sender("syslog_addr", Receiver("unix", path), clock)
    assert not sender.send(b"lost")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(WITHIN)
        assert not sender.send(b"lost too: it was tried a moment ago")
        clock.advance(1.0)
        assert sender.send(b"there")
        assert sock.recv(100) == b"there"
        while sender.send(b"x" * 1000):
            pass  # until the daemon, which reads nothing, has no room: nobody waits for it
    assert not sender.send(b"lost")
    sender.close()


def test_a_statsd_that_was_away_gets_the_first_datagram_when_it_is_back() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        place, port = sock.getsockname()
    sender = Sender("statsd_host", Receiver("udp", place, port))
    sender.send(b"lost")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((place, port))
        sock.settimeout(WITHIN)
        assert sender.send(b"there")
        assert sock.recv(100) == b"there"
    sender.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_host_with_several_addresses_of_which_one_is_listened_on(
    kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As localhost often is ::1 first, and then 127.0.0.1, where alone the daemon listens."""
    with socket.socket(socket.AF_INET, kind) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(WITHIN)
        if kind is socket.SOCK_STREAM:
            daemon.listen()
        port = daemon.getsockname()[1]
        names = [("127.0.0.2", port), ("127.0.0.1", port)]
        found = [(socket.AF_INET, kind, 0, "", name) for name in names]
        monkeypatch.setattr(natives.socket, "getaddrinfo", lambda *_, **__: found)
        clock = FakeClock()
        receiver = Receiver("udp", "log.example", 514, stream=kind is socket.SOCK_STREAM)
        sender = Sender("statsd_host", receiver, clock)
        sender.send(b"perhaps lost\n")
        clock.advance(1.0)
        assert sender.send(b"there\n")
        if kind is socket.SOCK_STREAM:
            with daemon.accept()[0] as connection, connection.makefile("rb") as lines:
                connection.settimeout(WITHIN)
                assert any(line == b"there\n" for line in lines)  # the one before may have found the way as well
        else:
            assert daemon.recv(100) == b"there\n"
        sender.close()


def test_a_host_that_is_not_known() -> None:
    with pytest.raises(SettingsError, match=r"statsd_host: .no\.such\.host\.invalid. is not known: .*; give"):
        Statsd.of(Settings(statsd_host="no.such.host.invalid:8125"))


def test_datagrams_of_statsd(datagrams: socket.socket) -> None:
    statsd = Statsd(Sender("statsd_host", Receiver("unix", datagrams.getsockname())), "a.b", "env:x,y:z")
    statsd.send("requests:1|c", "workers:2|g")
    assert datagrams.recv(9000) == b"a.b.requests:1|c|#env:x,y:z\na.b.workers:2|g|#env:x,y:z"
    statsd.send(*(f"number{number}:1|c" for number in range(100)))
    found = b""
    while found.count(b"\n") < 99:
        piece = datagrams.recv(9000)
        assert len(piece) <= 1400
        found += b"\n" * bool(found) + piece
    assert found.splitlines()[99] == b"a.b.number99:1|c|#env:x,y:z"
    statsd.close()


def test_what_the_master_tells() -> None:
    status = Status(
        version="",
        pid=1,
        state="serving",
        size=3,
        listeners=(Listening(address="a", waiting=2), Listening(address="b", waiting=1)),
        workers=(
            Working(slot=0, pid=2, state="busy", parked=4),
            Working(slot=1, pid=3, state="idle"),
            Working(slot=2, pid=4, state="starting"),
        ),
        totals=Totals(served=7, failed=1, accept_errors={"EMFILE": 5}, deaths={"max requests": 2}, forks=4),
    )
    assert dict(gauges_of(status)) == {"workers": 2, "workers.busy": 1, "workers.wanted": 3, "backlog": 3, "parked": 4}
    counts = counts_of(status)
    assert (counts["connections.served"], counts["accept_errors.EMFILE"], counts["worker_deaths.max_requests"]) == (
        7,
        5,
        2,
    )


HANDLERS = {
    "formatters": {"plain": {"format": "%(name)s|%(levelname)s|%(slot)s|%(message)s"}},
    "handlers": {
        "log": {"class": "logging.FileHandler", "filename": "conf.log", "formatter": "plain"},
        "access": {"class": "logging.FileHandler", "filename": "conf.access", "formatter": "plain"},
    },
    "root": {"handlers": ["log"], "level": "WARNING"},
    "loggers": {
        "prefork": {"level": "INFO"},
        "prefork.access": {"handlers": ["access"], "propagate": False},
    },
}
APP = """\
import logging.config
logging.config.dictConfig({"version": 1})  # which disables every logger there is, and closes every handler


def application(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("as it was asked for")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"hi"]
"""


def test_a_whole_server(tmp_path: Path, datagrams: socket.socket) -> None:
    """logconfig, syslog and statsd at once, with an application that takes all of logging for its own."""
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "log.json").write_text(json.dumps(HANDLERS))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as metrics:
        metrics.bind(("127.0.0.1", 0))
        metrics.settimeout(WITHIN)
        command = [sys.executable, "-P", "-m", "prefork", "wsgi", "shop:application", "--bind", "127.0.0.1:0"]
        command += ["--workers", "1", "--logconfig", "log.json", "--access-log", "logger"]
        command += ["--access-log-format", "%(m)s %(U)s %(s)s", "--syslog", "--syslog-addr"]
        command += [f"unix://{datagrams.getsockname()}", "--syslog-prefix", "shop", "--statsd-prefix", "gunicorn"]
        command += ["--statsd-host", f"127.0.0.1:{metrics.getsockname()[1]}", "--dogstatsd-tags", "env:test"]
        log, access = tmp_path / "conf.log", tmp_path / "conf.access"
        with running(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, within=WITHIN, ready="") as server:
            wait_for(lambda: log.exists() and "serving on" in log.read_text(), WITHIN, "the log")
            found = re.search(r"serving on (\S+)", log.read_text())
            assert found is not None
            server.addresses = (found[1],)
            assert ask(server, get("/a", "Connection: close")).status == 200
            assert ask(server, get("/fails", "Connection: close")).status == 500
            wait_for(lambda: access.exists() and access.read_text().count("\n") == 2, WITHIN, "the access log")
            assert server.stop() == 0
            said = server.log()
        told = [line for line in log.read_text().splitlines() if line.startswith("prefork|")]
        sent: list[str] = []
        metrics.setblocking(False)
        try:
            while True:
                sent += metrics.recv(9000).decode().splitlines()
        except BlockingIOError:
            pass
    assert access.read_text() == "prefork.access|INFO|0|GET /a 200\nprefork.access|INFO|0|GET /fails 500\n"
    assert told[0].startswith("prefork|INFO|None|serving on ")
    assert [line for line in told if line.startswith("prefork|ERROR|0|the application failed on GET /fails")]
    assert "serving on" not in said
    datagrams.setblocking(False)
    lines = []
    try:
        while True:
            lines.append(datagrams.recv(9000).decode())
    except BlockingIOError:
        pass
    assert [line for line in lines if re.fullmatch(r"<14>shop\[\d+\]: serving on .*", line)]
    assert [line for line in lines if re.fullmatch(r"<14>shop\.access\[\d+\]: 0\.0 GET /a 200", line)]
    assert [
        line for line in lines if re.match(r"<11>shop\[\d+\]: 0\.0 the application failed on GET /fails\nTrace", line)
    ]
    for line in (
        "gunicorn.requests:1|c",
        "gunicorn.request.status.200:1|c",
        "gunicorn.request.status.500:1|c",
        "gunicorn.log.error:1|c",
        "gunicorn.log.exception:1|c",
        "gunicorn.workers.started:1|c",
    ):
        assert f"{line}|#env:test" in sent, sent
    served = [re.fullmatch(r"gunicorn\.connections\.served:(\d+)\|c\|#env:test", line) for line in sent]
    assert sum(int(found[1]) for found in served if found) == 2, sent  # it is told now and then, of what has come since
    assert [line for line in sent if re.fullmatch(r"gunicorn\.request\.duration:\d+\.\d{3}\|ms\|#env:test", line)]


TOML = """\
[handlers.log]
class = "logging.FileHandler"
filename = "conf.log"
[loggers.prefork]
handlers = ["log"]
level = "DEBUG"
"""
INI = """\
[loggers]
keys=root
[handlers]
keys=log
[formatters]
keys=plain
[formatter_plain]
format=%(message)s
[handler_log]
class=FileHandler
formatter=plain
args=("conf.log",)
[logger_root]
handlers=log
level=INFO
"""
USES = """
import logging, os, sys
os.chdir(sys.argv[2])
from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.services import configured
try:
    configured.configure_log(Settings(logconfig=sys.argv[1]))
except SettingsError as error:
    print(error)
    sys.exit(2)
logging.getLogger("prefork").info("hello")
logging.getLogger("prefork.shop").info("from below")
"""


@pytest.mark.parametrize(("name", "text"), [("log.toml", TOML), ("log.ini", INI)])
def test_forms_of_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    done = run_program(USES, name, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "conf.log").read_text() == "hello\nfrom below\n"


def test_an_ini_says_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "100%"
    folder.mkdir()
    (folder / "log.ini").write_text(INI.replace('"conf.log"', '"%(here)s/conf.log"'))
    done = run_program(USES, str(folder / "log.ini"), str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "conf.log").read_text() == "hello\nfrom below\n"


OF_GUNICORN = """
[handlers.log]
class = "logging.FileHandler"
filename = "conf.log"
[handlers.requests]
class = "logging.FileHandler"
filename = "requests.log"
[loggers]
"gunicorn.error" = {handlers = ["log"], propagate = false}
"gunicorn.access" = {handlers = ["requests"], propagate = false}
"""
LENDS = """
import logging, sys
from prefork.config.settings import Settings
from prefork.services import configured, log
configured.configure_log(Settings(log_level="warning"))
log.lend("gunicorn.error")
theirs, shop = logging.getLogger("gunicorn.error"), logging.getLogger("shop")
shop.handlers, shop.level = theirs.handlers, theirs.level  # as applications have it
theirs.warning("by its name")
shop.warning("by its handlers")
shop.info("less than is wanted")
"""


def test_a_file_for_gunicorn(tmp_path: Path) -> None:
    (tmp_path / "log.toml").write_text(OF_GUNICORN)
    done = run_program(USES + 'logging.getLogger("prefork.access").info("GET /")\n', "log.toml", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "conf.log").read_text() == "hello\nfrom below\n"
    assert (tmp_path / "requests.log").read_text() == "GET /\n"


def test_the_log_by_the_name_that_gunicorn_has_for_it() -> None:
    done = run_program(LENDS)
    assert done.returncode == 0
    assert [line.split(maxsplit=3)[1::2] for line in done.stderr.splitlines()] == [
        ["WARNING", "by its name"],
        ["WARNING", "by its handlers"],
    ]


ROTATES = (
    USES
    + """
import pathlib, time
log, path = logging.getLogger("prefork"), pathlib.Path("conf.log")
path.rename("conf.log.1")
for _ in range(1000):
    log.info("after")
    if path.exists():
        break
    time.sleep(0.01)  # it looks once a second
pathlib.Path("conf.log.1").unlink()
os.rename("conf.log", "conf.log.1")
os.mkdir("conf.log")
time.sleep(1.1)  # so that it has looked
log.info("where it is open")
"""
)


def test_a_rotation_is_followed(tmp_path: Path) -> None:
    """Within a second, without a signal; and where the name can't be opened, the file that is open goes on."""
    (tmp_path / "log.toml").write_text(TOML)
    done = run_program(ROTATES, "log.toml", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "conf.log.1").read_text() == "after\nwhere it is open\n"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("log.toml", "a = ", "can't be used: Invalid value"),
        ("log.toml", "[handlers.log]\nclass = 'no.such'\n", "can't be used: Unable to configure handler 'log': Cannot"),
        ("log.toml", "version = 1\n", "has no handler for the logger 'prefork' nor for the root logger"),
        ("log.json", "[]", "can't be used: it is no table of settings"),
        ("log.yaml", "a: b", "can't be used: its name ends neither in .toml"),
        ("log.ini", "[loggers]\n", "can't be used: it has no 'formatters'; correct it"),
        ("log.ini", "hello\n", "can't be used: File contains no section headers. file: 'log.ini', line: 1"),
        ("log.toml", "\ufeffversion = 1\n", "has no handler for the logger 'prefork' nor for the root logger"),
        ("log.json", "\ufeff{}", "has no handler for the logger 'prefork' nor for the root logger"),
        ("none.toml", None, "can't be read: No such file or directory"),
    ],
)
def test_a_file_that_is_of_no_use(tmp_path: Path, name: str, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    done = run_program(USES, name, str(tmp_path))
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith(f"logconfig: {name!r} {why}"), done.stdout
    assert done.stdout.count("\n") == 1
