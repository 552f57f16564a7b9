"""Hang detection where servers let it be: what hangs is found, what only takes its time is not."""

from __future__ import annotations

import importlib.util

import pytest

from prefork.testing import burst, connect, request
from prefork.testing.plugin import ServerFactory
from tests.support.embed.servers import QUICK, serve_app

TIMEOUT = 1.0

IN_A_REQUEST = ("wsgiref", "werkzeug", "socketserver", "waitress", "cheroot", "bjoern")
IN_THE_LOOP = ("gevent", "asyncio", "on_asyncio", "on_uvloop")


def needs(name: str) -> str:
    """What has to be installed for a target of ``blocked``."""
    return {"on_asyncio": "uvicorn", "on_uvloop": "uvloop"}.get(name, name)


def each(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(
                name,
                marks=[
                    pytest.mark.skipif(
                        importlib.util.find_spec(needs(name)) is None, reason=f"{needs(name)} is not installed"
                    ),
                    *([] if name in (*QUICK, "on_asyncio") else [pytest.mark.long]),
                ],
            )
            for name in names
        ],
    )


@each(*IN_A_REQUEST, *IN_THE_LOOP)
def test_what_hangs_is_found_and_replaced(prefork_server: ServerFactory, name: str) -> None:
    server = serve_app(prefork_server, f"blocked:{name}", timeout=TIMEOUT)
    before = server.workers()
    with connect(server.address) as client:
        client.sendall(b"GET /?block HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.wait_for_log("has been busy with one connection for [1-9]")
        server.wait_for_log(r"blocked\.py\", line \d+ in seconds")  # the traceback tells where
        server.wait_for_log("killed by SIG(ABRT|KILL)")
        assert request(server.address).status == 200
    server.wait_for(lambda: len(server.workers()) == 2 and server.workers() != before)
    assert server.log().count("has been busy") == 1


@each(*IN_THE_LOOP)
def test_a_request_that_waits_is_no_hang_to_a_loop(prefork_server: ServerFactory, name: str) -> None:
    """Nor is a loop at rest: the first request comes when nobody has had anything to do for longer than the timeout."""
    server = serve_app(prefork_server, f"blocked:{name}", timeout=2)
    before = server.workers()
    slow = b"GET /?wait=%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert burst(server.address, 1, payload=slow % b"3").wait().answered == 1
    assert burst(server.address, 2, payload=slow % b"0").wait().answered == 2
    assert "has been busy" not in server.log()
    assert server.workers() == before
