"""Tracebacks of a worker with several lanes: it lives on, whatever they run while they are asked for."""

from __future__ import annotations

import os
import time
from pathlib import Path

from prefork.services.control import Client
from prefork.system.signals import DUMP
from prefork.testing import Load, connect
from prefork.testing.plugin import ServerFactory

APP = """
import re

def quick(connection, address):
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")

def stuck(connection, address):
    connection.sendall(b"begun")
    re.match(r"(a|a)*$", "a" * 29 + "b")  # for minutes, with the interpreter's lock
"""


def test_lanes_that_run_are_not_ended_by_the_question(prefork_server: ServerFactory, tmp_path: Path) -> None:
    """Frames that are read while they change are read where there is nothing: without the lock a dozen were enough."""
    (tmp_path / "lanes.py").write_text(APP)
    server = prefork_server("lanes:quick", app_dir=tmp_path, workers=1, threads=4)
    (worker,) = server.workers()
    with Load(server.address, clients=8, bodies=False) as load:
        for _ in range(300):
            os.kill(worker, DUMP)
            time.sleep(0.002)  # so that each meets something else
        assert server.workers() == [worker]
    assert load.tally.lost == 0
    assert load.tally.answered > 0


def test_who_runs_no_python_tells_his_all_the_same(prefork_server: ServerFactory, tmp_path: Path) -> None:
    (tmp_path / "lanes.py").write_text(APP)
    control = str(tmp_path / "control")
    server = prefork_server("lanes:stuck", app_dir=tmp_path, workers=1, threads=2, control=control, graceful_timeout=1)
    with connect(server.address) as client, Client(control) as operator:
        assert client.recv(5) == b"begun"
        text = operator.dump(0)
        assert "in stuck" in text
        assert "in match" in text
