"""The suite itself: what it must not depend on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from prefork.services.control import paths
from prefork.testing import request
from prefork.testing.plugin import ServerFactory
from prefork.testing.server import Options
from tests.support.forked import SERVERS, Forked
from tests.support.probing import LOGGING

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = """
import os

def handle(connection, address):
    connection.recv(65536)
    body = "\\n".join(sorted(os.environ)).encode()
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
"""

PROCESS = """
import json, os, resource, signal, sys, threading

def of_master(pid):
    status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    kept = ("Umask", "Uid", "Groups", "SigBlk", "SigIgn", "SigCgt", "Threads", "NoNewPrivs", "Seccomp", "CapEff")
    return {
        **{name: status[name].strip() for name in kept},
        "session": os.getsid(pid) == os.getpgid(pid) == pid,
        "executable": os.readlink(f"/proc/{pid}/exe"),
    }

def found():
    return {
        "modules": sorted(sys.modules),
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "flags": [sys.flags, sys.warnoptions, sys.dont_write_bytecode],
        "main": [sys.modules["__main__"].__file__, sorted(vars(sys.modules["__main__"]))],
        "threads": threading.active_count(),
        "folder": os.getcwd(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "environment": {name: value for name, value in os.environ.items() if name != "RUNTIME_DIRECTORY"},
        "limits": [resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
        "signals": {signum: str(signal.getsignal(signum)).split(" at ")[0] for signum in signal.valid_signals()},
        "streams": [[one.encoding, one.errors, one.line_buffering, one.isatty()] for one in (sys.stdout, sys.stderr)],
        "master": of_master(os.getppid()),
    }

def handle(connection, address):
    connection.recv(65536)
    body = json.dumps(found()).encode()
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found()).encode()]
"""


def test_no_example_fails_for_being_slow() -> None:
    assert settings().deadline is None
    by_chance = {HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much}
    assert by_chance <= set(settings().suppress_health_check)


def test_the_environment_of_whoever_starts_the_tests_reaches_none() -> None:
    """Seen from a run of its own, started with all of it."""
    told = [
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONWARNINGS",
        "PREFORK_WORKERS",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "XDG_NOTHING",
    ]
    program = "import os, tests.conftest; print(*sorted(os.environ))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(told, "1") | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert set(done.stdout.split()).intersection([*told, "PYTHONPATH"]) == {"PYTHONPATH", "XDG_NOTHING"}


def test_a_server_under_test_has_an_environment_and_a_control_folder_of_its_own(
    prefork_server: ServerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shows.py").write_text(ENVIRONMENT)
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONOPTIMIZE", "PREFORK_WORKERS", "LISTEN_PID", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = prefork_server("shows:handle", app_dir=tmp_path, workers=1)
    names = request(server.address).body.decode().split("\n")
    outside = [name for name in names if name.startswith(("PYTHON", "PREFORK", "LISTEN", "NOTIFY"))]
    assert outside == ["PYTHONPATH", "PYTHONUNBUFFERED"]
    assert paths.sockets(paths.folder()) == []  # ours: a command without --control is not about that server
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("subcommand", "target"), [("serve", "shows:handle"), ("wsgi", "shows:application"), ("script", "")]
)
def test_a_server_that_is_forked_is_as_one_that_is_executed(
    prefork_server: ServerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subcommand: str, target: str
) -> None:
    """In all that an application finds of its process, and what is loaded in it. See `tests.support.forked`."""
    (tmp_path / "shows.py").write_text(PROCESS)
    script = tmp_path / "script.py"
    script.write_text(LOGGING + "import prefork, shows\nprefork.serve(shows.handle, bind='127.0.0.1:0', workers=1)\n")

    def found() -> dict[str, Any]:
        options: Options = {"env": {"SAID": "yes"}, "cwd": tmp_path}
        if subcommand == "script":
            server = prefork_server.command([sys.executable, str(script)], **options)
        else:
            server = prefork_server(target, app_dir=tmp_path, subcommand=subcommand, workers=1, options=options)
        kinds.append(type(server.process))
        answer: dict[str, Any] = json.loads(request(server.address).body)
        assert server.stop() == 0
        return answer

    kinds: list[type] = []
    forked = found()
    monkeypatch.setattr(SERVERS, "wanted", False)
    executed = found()
    assert kinds == [Forked, subprocess.Popen]
    assert forked == executed
