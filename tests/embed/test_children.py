"""What a handler forks within another server's loop: a plain process, that nobody waits for."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from prefork.testing import Server, connect, request
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.embed.servers import APPS, Subject, each
from tests.support.probing import get, told

HELD = 5.0  # seconds that a child of /hold lives: see tests/support/apps/forking.py


def serve(factory: ServerFactory, name: str) -> Server:
    return factory(
        "children:Worker", app_dir=APPS, workers=1, control="off", options={"env": {**os.environ, "SERVER": name}}
    )


def answer(server: Server, path: str) -> Any:
    """The JSON that is answered, once, until the end of the connection."""
    with connect(server.address) as client:
        client.sendall(get(path))
        got = b"".join(iter(lambda: client.recv(65536), b""))
    assert got.count(b"HTTP/1.") == 1, got
    return json.loads(got.partition(b"\r\n\r\n")[2])


@each()
def test_a_child_is_a_plain_process(prefork_server: ServerFactory, subject: Subject) -> None:
    server = serve(prefork_server, subject.name)
    pid = answer(server, "/pid")
    assert answer(server, "/return") in {0, 1}  # it may have failed to answer, which is as well
    found = answer(server, "/fork")
    assert (found["accepting"], found["connected"], found["handlers"], found["blocked"]) == ([], [], [], 0)
    assert answer(server, "/terminated") == [-signal.SIGTERM] * 10
    began = time.monotonic()
    child = answer(server, "/hold")
    assert os.path.exists(f"/proc/{child}")
    assert time.monotonic() - began < HELD
    kill(child)
    assert answer(server, "/pid") == pid
    assert server.stop() == 0
    if subject.name in {"uvicorn", "hypercorn"}:
        assert told(server, "^SAID .*") == ["SAID lifespan.startup", "SAID lifespan.shutdown"]


def test_a_server_that_forks_serves_in_the_child(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "forking")
    assert answer(server, "/pid") not in server.workers()
    assert answer(server, "/terminated") == [-signal.SIGTERM] * 10
    assert server.stop() == 0


FORKS = """
import os

def forks():
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        raise RuntimeError("in the child")

def wsgi(environ, start_response):
    forks()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    forks()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.mark.parametrize(("target", "other"), [("wsgi", {"worker_class": "waitress"}), ("asgi", {})])
def test_the_access_log_has_what_was_answered_alone(
    prefork_server: ServerFactory, tmp_path: Path, target: str, other: dict[str, Any]
) -> None:
    (tmp_path / "forks.py").write_text(FORKS)
    log = tmp_path / "access.log"
    server = prefork_server(
        f"forks:{target}", app_dir=tmp_path, subcommand=target, workers=1, access_log=log, control="off", **other
    )
    assert request(server.address).status == 200
    assert server.stop() == 0
    assert [line.split()[8] for line in log.read_text().splitlines()] == ["200"]
