"""The suite itself: what it must not depend on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from prefork.services.control import paths
from prefork.testing import request
from prefork.testing.plugin import ServerFactory

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = """
import os

def handle(connection, address):
    connection.recv(65536)
    body = "\\n".join(sorted(os.environ)).encode()
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
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
