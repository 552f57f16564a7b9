"""Every example is started as its reader would start it, and spoken to."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from prefork.testing import connect, hold_port, request
from prefork.testing.plugin import ServerFactory
from tests.support.probing import line

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def test_hello(prefork_server: ServerFactory) -> None:
    server = prefork_server("hello:handle", app_dir=EXAMPLES, workers="auto")
    answer = request(server.address)
    assert (answer.status, answer.body) == (200, b"hello\n")
    assert server.stop(signum=signal.SIGINT) == 0
    assert server.survivors() == []


def test_echo(prefork_server: ServerFactory) -> None:
    server = prefork_server("echo:Echo", app_dir=EXAMPLES, workers=2)
    with connect(server.address, timeout=30) as client:
        for number in range(100):
            client.sendall(b"line %d\n" % number)
            assert line(client) == f"line {number}"
    assert server.stop() == 0


def test_own_loop(prefork_server: ServerFactory) -> None:
    server = prefork_server("own_loop:Wsgiref", app_dir=EXAMPLES, workers=2)
    pids = set()

    def all_have_answered() -> bool:
        answer = request(server.address)
        assert answer.status == 200
        found = re.search(rb"prefork\.pid = '(\d+)'", answer.body)
        assert found is not None, answer.body
        pids.add(int(found[1]))
        return pids == set(server.workers())

    server.wait_for(all_have_answered)
    assert server.stop() == 0


@pytest.mark.parametrize("name", ["hello", "echo", "own_loop"])
def test_each_runs_by_itself(prefork_server: ServerFactory, name: str) -> None:
    # On the port that its source names; another test, or another server of yours, may have it.
    source = (EXAMPLES / f"{name}.py").read_text()
    assert source.count("127.0.0.1:8000") >= 1
    with hold_port() as address:
        program = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n" + source.replace("127.0.0.1:8000", address)
        server = prefork_server.script(program)
        assert server.address == address
        with connect(address, timeout=30) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(1)
        assert server.stop() == 0
