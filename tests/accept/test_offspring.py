"""What an application forks in a worker is a plain process: nothing of ours goes on there, and nobody waits for it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import Any

import pytest

from prefork.testing import Server, connect, hold_port, request
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.apps.forking import HELD
from tests.support.probing import APPS, LOGGING, get, told, wait_ended

WAYS: dict[str, dict[str, Any]] = {
    "handle": {},
    "several listeners": {"bind": ("127.0.0.1:0", "127.0.0.1:0")},
    "wsgi": {"subcommand": "wsgi"},
}
"""How the application is served."""


@pytest.fixture(params=WAYS)
def server(request: pytest.FixtureRequest, prefork_server: ServerFactory) -> Server:
    return forking(prefork_server, request.param)


def forking(factory: ServerFactory, way: str, **settings: Any) -> Server:
    settings = {"workers": 1, "control": "off", "hooks": "forking", **WAYS[way], **settings}
    return factory("forking:wsgi" if way == "wsgi" else "forking:handle", app_dir=APPS, **settings)


def ask(server: Server, path: str) -> tuple[bytes, float]:
    """All that a client gets until the end of its connection, and how long that took, in seconds."""
    began = time.monotonic()
    with connect(server.addresses[0]) as client:
        client.sendall(get(path))
        got = b"".join(iter(lambda: client.recv(65536), b""))
    return got, time.monotonic() - began


def answer(server: Server, path: str) -> Any:
    """The JSON that is answered, once."""
    got, _ = ask(server, path)
    assert got.count(b"HTTP/1.1 ") == 1, got
    return json.loads(got.partition(b"\r\n\r\n")[2])


PLAIN = {"accepting": [], "handlers": [], "caught": [signal.SIGINT], "blocked": 0, "wakeup": -1}


def test_a_child_has_nothing_of_the_worker_s(server: Server) -> None:
    keeps = "forking:handle" in str(server.process.args)  # there the connection is the application's, in a child too
    for way in ("/fork", "/pty", "/thread", "/multiprocessing"):
        found = answer(server, way)
        assert bool(found.pop("connected")) is keeps, way
        assert found == PLAIN, way
    assert answer(server, "/terminated") == [-signal.SIGTERM] * 10


def test_a_child_that_comes_back_ends_as_a_program_does(server: Server) -> None:
    pid = answer(server, "/pid")
    assert [answer(server, path) for path in ("/return", "/raise", "/exit")] == [0, 1, 3]
    assert answer(server, "/pid") == pid
    assert server.log().count("RuntimeError: in the child") == 1
    assert server.stop() == 0
    assert told(server, "^worker_exit in .*") == [f"worker_exit in {pid}"]
    assert re.search(rf"pid {pid}, generation 0\) exited with code 0 after .* s, 5 connections", server.log())


def test_a_client_does_not_wait_for_a_child_to_end(server: Server) -> None:
    began = time.monotonic()
    child = answer(server, "/hold")
    assert os.path.exists(f"/proc/{child}")  # so it was not waited for
    assert time.monotonic() - began < HELD
    kill(child)


NESTED = (
    LOGGING
    + """
import os, signal
import prefork

forks = []

def within():
    if forks.pop() if forks else False:
        os.kill(os.getpid(), signal.SIGALRM)

def fork(*_):
    if not os.fork():
        status = open("/proc/self/status").read()
        os.write(1, b"CHILD %b\\n" % status.partition("SigBlk:")[2].split()[0].encode())
        os._exit(0)
    os.wait()

os.register_at_fork(before=within)  # so it runs behind what is registered later

class Nested(prefork.Worker):
    def init(self):
        signal.signal(signal.SIGALRM, fork)

    def handle(self, connection, address):
        connection.recv(1000)
        forks.append(True)
        fork()
        connection.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")

prefork.Master(Nested, prefork.Settings(bind="127.0.0.1:0", workers=1)).run()
"""
)


def test_a_worker_hears_orders_though_a_handler_has_forked_within_a_fork(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(NESTED)
    assert request(server.address).status == 204
    assert server.stop() == 0
    assert told(server, "^CHILD .*") == ["CHILD 0000000000000000"] * 2
    assert "killed by SIGKILL" not in server.log()


def test_a_child_does_not_keep_the_port(prefork_server: ServerFactory) -> None:
    with hold_port() as address:
        first = forking(prefork_server, "wsgi", bind=address)
        child = answer(first, "/hold")
        workers = first.workers()
        kill(first.process.pid)
        wait_ended(*workers)
        assert os.path.exists(f"/proc/{child}")
        second = forking(prefork_server, "wsgi", bind=address)
        assert answer(second, "/pid") in second.workers()
        kill(child)
