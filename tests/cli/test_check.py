"""``--check`` asks the functions that a start asks, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.support.programs import ROOT, command

pytestmark = pytest.mark.long

PATIENCE = 300  # seconds: some eighty commands are tried

SHOP = """
import socket


def application(environ, start_response):
    start_response("200 OK", [])
    return [b""]


async def called(scope, receive, send):
    pass


def handle(connection, address):
    pass


class Nothing(__import__("prefork").Worker):
    pass


class Raises(Nothing):
    def __init__(self):
        raise __import__("prefork").SettingsError("name: it is not mine; give another")

    def handle(self, connection, address):
        pass


class Loop(Nothing):
    def run(self):
        pass
"""

OPENS = "import socket\nlistening = socket.socket()\ndef application(environ, start_response): pass\n"

HANDLER = '{"handlers": {"f": {"class": "%s", "filename": "%s"}}, "root": {"handlers": ["f"]}}'

FILES = {
    "shop.py": SHOP,
    "opens.py": OPENS,
    "bad.toml": "x =",
    "none.json": "{}",
    "folder.json": HANDLER % ("logging.FileHandler", "folder"),
    "absent.json": HANDLER % ("logging.handlers.RotatingFileHandler", "absent/log"),
    "class.json": HANDLER % ("shop.Absent", "log"),
}

LONG = "/tmp/" + "x" * 200

REFUSED = {
    "a bad logconfig": ["wsgi", "shop", "--logconfig", "bad.toml"],
    "a logconfig that names a folder": ["wsgi", "shop", "--logconfig", "folder.json"],
    "a logconfig whose folder is not there": ["wsgi", "shop", "--logconfig", "absent.json"],
    "a log that is a folder": ["wsgi", "shop", "--log-file", "folder"],
    "a log that is a socket": ["wsgi", "shop", "--log-file", "socket"],
    "an access log that is a folder": ["wsgi", "shop", "--access-log", "folder"],
    "an access log of an embedded server": ["asgi", "shop:called", "--access-log", "absent/log"],
    "a control path that is too long": ["wsgi", "shop", "--control", LONG],
    "a descriptor that is not open": ["wsgi", "shop", "--bind", "fd://99"],
    "a descriptor that does not listen": ["wsgi", "shop", "--bind", "fd://1"],
    "an address of another machine": ["wsgi", "shop", "--bind", "192.0.2.1:80"],
    "a path without a folder": ["wsgi", "shop", "--bind", "unix:absent/s"],
    "a path that is no socket": ["wsgi", "shop", "--bind", "unix:shop.py"],
    "a path's lock in the way": ["wsgi", "shop", "--bind", "unix:locked"],
    "a path's temporary name in the way": ["wsgi", "shop", "--bind", "unix:newer"],
    "an owner of a path that is nobody": ["wsgi", "shop", "--bind", "unix:s", "--socket-user", "no-such-user"],
    "the second of two addresses": ["wsgi", "shop", "--bind", "127.0.0.1:0", "--bind", "unix:absent/s"],
    "a health address": ["wsgi", "shop", "--health-bind", "unix:absent/s"],
    "a dashboard's address": ["wsgi", "shop", "--dashboard", "unix:absent/s"],
    "a pidfile that is a folder": ["wsgi", "shop", "--pidfile", "folder"],
    "a pidfile that is none": ["wsgi", "shop", "--pidfile", "shop.py"],
    "a takeover from nobody": ["wsgi", "shop", "--takeover", "absent", "--reuse-port"],
    "a takeover from the dead": ["wsgi", "shop", "--takeover", "stale", "--reuse-port"],
    "gevent with threads": ["wsgi", "shop", "--worker-class", "gevent", "--threads", "4"],
    "waitress that is given what is ours": ["wsgi", "shop", "--worker-class", "waitress", "--worker-options", "port=1"],
    "an option that the server has not": ["asgi", "shop:called", "--worker-options", "nosuch=1"],
    "an embedded server and garbage": ["asgi", "shop:called", "--gc", "idle"],
    "an embedded server and seqpacket": ["asgi", "shop:called", "--bind", "seqpacket:s"],
    "one address for two": ["wsgi", "shop", "--worker-class", "cheroot", "--bind", ":0", "--bind", "unix:s"],
    "an unknown loop": ["asgi", "shop:called", "--worker-options", "loop=none"],
    "a Worker that serves nothing": ["serve", "shop:Nothing"],
    "a Worker that can't be made": ["serve", "shop:Raises"],
    "what is opened before the fork": ["wsgi", "opens", "--preload", "--fork-safety", "refuse"],
    "hooks that are not there": ["wsgi", "shop", "--hooks", "absent"],
    "a certificate that is none": ["wsgi", "shop", "--certfile", "shop.py"],
}

SERVED = {
    "a log and a pidfile to be made": [
        "wsgi",
        "shop",
        "--log-file",
        "log",
        "--pidfile",
        "pid",
        "--access-log",
        "access",
    ],
    "paths to be made": ["wsgi", "shop", "--bind", "unix:s", "--control", "c", "--health-bind", "unix:h"],
    "a logconfig whose files are to be made": ["wsgi", "shop", "--logconfig", "log.json"],
    "what a dead server has left": ["wsgi", "shop", "--bind", "unix:dead", "--pidfile", "stale"],
    "an embedded server": ["wsgi", "shop", "--worker-class", "waitress", "--access-log", "access"],
    "an address that somebody has": [
        "serve",
        "shop:handle",
        "--bind",
        "127.0.0.1:{port}",
        "--dashboard",
        "127.0.0.1:{port}",
    ],
    "a path that somebody has": ["serve", "shop:handle", "--bind", "unix:alive", "--control", "alive"],
}

PROGRAM = """
import json, os, signal, socket, sys
from prefork.cli.main import main
# Here, once for all that is forked.
import uvicorn, prefork.cli.serving, prefork.embed.command
import prefork.wsgi.command, prefork.wsgi.worker, prefork.wsgi.access
import prefork.services.probes, prefork.services.dashboard, prefork.services.logconfig, prefork.hooks

os.chdir(sys.argv[1])
os.environ["PREFORK_BIND"] = "127.0.0.1:0"  # this program may run several times at once
refused, served = map(json.loads, sys.argv[2:])
for name, kept in ("dead", False), ("socket", False), ("alive", True):
    one = socket.socket(socket.AF_UNIX)
    one.bind(name)
    one.listen()
    if kept:
        alive = one
    else:
        one.close()
taken = socket.create_server(("127.0.0.1", 0))


def told(arguments):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(100)
        os.dup2(writer, 1), os.dup2(writer, 2)
        alive.close(), taken.detach(), os.close(reader)
        os._exit(main([one.format(port=port) for one in arguments]))
    os.close(writer)
    with open(reader, errors="replace") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def things():
    found = []
    for folder, folders, files in os.walk("."):
        found += [(os.path.join(folder, one), os.lstat(os.path.join(folder, one)).st_mtime_ns) for one in files]
    return sorted(one for one in found if "__pycache__" not in one[0])


port = taken.getsockname()[1]
before = things()
checked = {name: told([*words, "--check"]) for name, words in (refused | served).items()}
same = things() == before
started = {name: told(words) for name, words in refused.items()}
alive.close()
taken.close()
print(json.dumps([checked, started, same]))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What checks and starts have said, by their names, and whether the checks have changed nothing."""
    folder = tmp_path_factory.mktemp("shop")
    for name, text in {**FILES, "log.json": HANDLER % ("logging.FileHandler", "log"), "stale": "4000000\n"}.items():
        (folder / name).write_text(text)
    (folder / "folder").mkdir()
    (folder / "locked.lock").write_text("mine")
    (folder / "newer.new").write_text("mine")
    words = command(PROGRAM, str(folder), json.dumps(REFUSED), json.dumps(SERVED))
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_start_refuses_a_check_refuses(found: Any, name: str) -> None:
    checked, started, _ = found
    code, said = checked[name]
    assert code == started[name][0] in {2, 3, 4}, (said, started[name])
    assert said.splitlines()[-1].startswith("prefork: error: "), said
    assert "can be served" not in said
    if code < 4:
        assert said.splitlines()[-1] == started[name][1].splitlines()[-1]


@pytest.mark.parametrize("name", SERVED)
def test_what_is_somebodys_now_or_is_to_be_made_is_no_mistake(found: Any, name: str) -> None:
    assert found[0][name][0] == 0, found[0][name][1]


def test_a_check_makes_nothing(found: Any) -> None:
    assert found[2]
