"""An application that calls sys.exit in an embedded server: it costs nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.embed.marks import Marked, Quit, among_others, contained_asgi
from prefork.testing import connect, request
from prefork.testing.plugin import ServerFactory
from tests.support.embed.servers import SUBJECTS, Subject, each, serve_app

ANSWERED = ("wsgiref", "werkzeug", "waitress", "cheroot", "bjoern", "gevent", "uvicorn", "hypercorn", "aiohttp")
"""Those who are told of a request that fails; to others a connection is all there is."""
SLOW = b"GET /?wait=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
QUITS = b"GET /?quit HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def quits(*_: Any) -> Any:
    raise SystemExit(3)


def breaks_off(*_: Any) -> Iterator[bytes]:
    yield b"a"
    raise KeyboardInterrupt


class QuitsAtItsEnd:
    """A body that can't be closed."""

    def __iter__(self) -> Iterator[bytes]:
        return iter((b"a",))

    def close(self) -> None:
        """Quit."""
        raise SystemExit


@pytest.mark.parametrize("application", [quits, breaks_off, lambda *_: QuitsAtItsEnd()])
@pytest.mark.parametrize("around", [among_others, lambda inner: Marked(inner, contextlib.nullcontext)])
def test_to_a_server_it_is_an_application_that_fails(
    application: Callable[..., Any], around: Callable[[Any], Callable[..., Any]]
) -> None:
    pieces: list[bytes] = []

    def served() -> None:
        result = around(application)({}, lambda *_: None)
        pieces.extend(result)
        result.close()

    with pytest.raises(Quit, match=r"SystemExit|KeyboardInterrupt") as raised:
        served()
    assert isinstance(raised.value.__cause__, (SystemExit, KeyboardInterrupt))
    assert pieces == [b"a"][: application is not quits]


def test_so_it_is_in_asgi() -> None:
    async def application(*_: object) -> None:
        raise SystemExit

    with pytest.raises(Quit):
        asyncio.run(contained_asgi(application)({}, None, None))  # type: ignore[arg-type]  # a coroutine function's


@each()
def test_others_are_answered_and_the_worker_lives(prefork_server: ServerFactory, subject: Subject) -> None:
    server = serve_app(prefork_server, f"quitting:{subject.name}", workers=1)
    before = server.workers()
    with connect(server.address) as slow, connect(server.address) as quitter:
        slow.sendall(SLOW)
        quitter.sendall(QUITS)
        if subject.name in ANSWERED:
            assert b" 500 " in quitter.recv(4096)
        elif subject.name != "tornado":
            assert quitter.recv(4096) == b""
        assert b" 200 " in slow.recv(4096)
    assert request(server.address).status == 200
    if subject.name == "tornado":  # which has run its loop on, and is replaced
        server.wait_for(lambda: len(server.workers()) == 1 and server.workers() != before)
    else:
        assert server.workers() == before
    assert server.stop() == 0


def costs_nobody_else(factory: ServerFactory, subject: Subject, path: bytes, raised: str) -> None:
    """See that what a request for ``path`` does to the loop ends no other, and that the worker is replaced."""
    server = serve_app(factory, f"quitting:{subject.name}", workers=1)
    before = server.workers()
    with connect(server.address) as slow, connect(server.address) as quick:
        slow.sendall(SLOW)
        quick.sendall(QUITS.replace(b"quit", path))
        assert b" 200 " in quick.recv(4096)
        assert b" 200 " in slow.recv(4096)
    server.wait_for(lambda: len(server.workers()) == 1 and server.workers() != before)
    assert f"{raised} was raised in the loop" in server.log()
    assert server.stop() == 0


@each(subject for subject in SUBJECTS if subject.name in {"gevent", "asyncio"})
def test_what_quits_beside_requests_has_the_worker_replaced(prefork_server: ServerFactory, subject: Subject) -> None:
    costs_nobody_else(prefork_server, subject, b"beside", "SystemExit")


@each(subject for subject in SUBJECTS if subject.name in {"gevent", "asyncio"})
def test_what_quits_beside_requests_while_a_worker_leaves_costs_none_of_them(
    prefork_server: ServerFactory, subject: Subject
) -> None:
    server = serve_app(prefork_server, f"quitting:{subject.name}", workers=1)
    with connect(server.address) as slow:
        slow.sendall(SLOW.replace(b"wait=1", b"wait=1&later"))
        server.wait_for_log("QUITS later")
        assert server.stop() == 0
        assert b" 200 " in slow.recv(4096)


ON_LOOPS = {"asyncio", "uvicorn", "hypercorn", "aiohttp", "tornado"}


@each(subject for subject in SUBJECTS if subject.name in ON_LOOPS)
def test_who_stops_the_loop_costs_nobody_else_an_answer(prefork_server: ServerFactory, subject: Subject) -> None:
    costs_nobody_else(prefork_server, subject, b"halt", "RuntimeError")
