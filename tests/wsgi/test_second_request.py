"""What is behind a request on the same connection is read as if it had come alone, or not at all."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import socket
import tracemalloc
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.wsgi.channel import Channel
from prefork.wsgi.gateway import Gateway
from prefork.wsgi.heads import Heads
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.refusal import RequestError
from tests.support.figures import count, full
from tests.support.wsgi.apps import show
from tests.support.wsgi.harness import get, parse
from tests.wsgi.test_mutations import BROWSER, CHUNKED, EXPECTS, FORM, SEEDS, mutated
from tests.wsgi.test_syntax import CASES

FIRST: Final = (BROWSER, FORM, CHUNKED, b"\r\n" + FORM)
OPTIONS: Final = WSGIOptions(limit_request_body=1 << 20, spool="none")


def leaves_bodies(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """As `show`, but it does not read the bodies of the first requests."""
    if environ["PATH_INFO"] not in {"/form", "/chunks", "/expects"}:
        return show(environ, start_response)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"left"]


@pytest.fixture(scope="module", params=[show, leaves_bodies], ids=["read", "left"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    gateway = Gateway(request.param, OPTIONS, keepalive=75.0)
    yield gateway
    gateway.close()


def answers(gateway: Gateway, stream: bytes) -> list[bytes]:
    """What comes back for each request of a client that sends ``stream`` and ends its side."""
    ours, theirs = socket.socketpair()
    found, channel, received = [], None, b""
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        theirs.settimeout(10)
        theirs.sendall(stream)
        theirs.shutdown(socket.SHUT_WR)
        while True:
            channel = gateway.serve_connection(ours, "", keeps=True, before=channel, received=received)
            if channel is None:
                break
            received = channel.rest
            found.append(_there(theirs))
        ours.close()
        found.append(b"".join(iter(lambda: theirs.recv(1 << 16), b"")))
    return [answer for answer in found if answer]


def _there(connection: socket.socket) -> bytes:
    pieces = []
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
    connection.settimeout(10)
    return b"".join(pieces)


def said(answer: bytes) -> object:
    """The status, and what the application was told if it was asked; the time of day aside."""
    if answer.partition(b"\r\n\r\n")[2] == b"":
        return answer[:12]  # to a HEAD
    reply = parse(answer)
    return (reply.status, json.loads(reply.body) if reply.has("content-type") and reply.status == 200 else reply.body)


def assert_same_behind(gateway: Gateway, first: bytes, request: bytes) -> None:
    alone = [said(answer) for answer in answers(gateway, request)]
    front, *behind = answers(gateway, first + request)
    assert parse(front).status == 200
    assert [said(answer) for answer in behind] == alone or (b"\r\nConnection: close\r\n" in front and not behind)


def test_the_table_behind_other_requests(gateway: Gateway) -> None:
    for number, (_, _, request) in enumerate(CASES if full() else CASES[::2]):
        assert_same_behind(gateway, FIRST[number % len(FIRST)], request)


def test_mutated_requests_behind_others(gateway: Gateway) -> None:
    @settings(max_examples=count("mutated-requests", part=50))
    @given(st.sampled_from(FIRST), mutated())
    def send(first: bytes, request: bytes) -> None:
        assert_same_behind(gateway, first, request)

    send()


def test_a_body_that_was_never_asked_for_is_no_request(gateway: Gateway) -> None:
    head, _, body = EXPECTS.partition(b"hello")
    found = answers(gateway, head + get("/smuggled") + body)
    assert b"/smuggled" not in b"".join(found)


class Afterwards:
    """Five bytes, and what an application does when they have been sent."""

    def __init__(self, pieces: Iterable[bytes], then: Callable[[], object], *, closing: bool) -> None:
        self._pieces = iter(pieces)
        self._then = then
        self._closing = closing

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if not self._closing:
            self._then()

    def close(self) -> None:
        if self._closing:
            self._then()


def _fails() -> None:
    raise ValueError("after the end")


def _exits() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("fails", [_fails, _exits])
@pytest.mark.parametrize(("length", "closing"), [(True, True), (False, True), (True, False)])
def test_what_fails_behind_a_whole_answer_does_not_cost_the_next(
    fails: Callable[[], object], length: bool, closing: bool
) -> None:
    """Its client has been told that the connection is kept, and may have asked again."""

    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")] * length)
        return Afterwards([b"he", b"llo"], fails, closing=closing)

    gateway = Gateway(app, OPTIONS, keepalive=75.0)
    found = answers(gateway, get() + FORM + get("/", method="HEAD") + get())
    assert [answer[:12] for answer in found] == [b"HTTP/1.1 200"] * 4
    assert [parse(answer).body for answer in (found[0], found[1], found[3])] == [b"hello"] * 3
    gateway.close()


def test_what_fails_within_an_answer_ends_the_connection() -> None:
    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Afterwards([b"he", b"llo"], _fails, closing=False)

    gateway = Gateway(app, OPTIONS, keepalive=75.0)
    (only,) = answers(gateway, get() + get())
    assert only.endswith(b"\r\n2\r\nhe\r\n3\r\nllo\r\n")
    gateway.close()


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
def test_what_fails_behind_the_head_of_an_answer_without_a_body(status: str) -> None:
    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(status, [])(b"hello")
        raise ValueError("behind the head")

    gateway = Gateway(app, OPTIONS, keepalive=75.0)
    found = answers(gateway, get("/", method="HEAD") * 2)
    assert [answer[9:12] for answer in found] == [status[:3].encode()] * 2
    gateway.close()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_nothing_is_written_behind_an_answer(version: str) -> None:
    """It would be taken for the beginning of the next."""

    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        return Afterwards([b"hello"], lambda: write(b"more"), closing=True)

    gateway = Gateway(app, OPTIONS, keepalive=75.0)
    found = answers(gateway, get(version=version) + get(version=version))
    assert b"more" not in b"".join(found)
    assert len(found) == (2 if version == "1.1" else 1)
    gateway.close()


@pytest.mark.parametrize("length", [0, 4, 11, None])
def test_a_file_that_is_longer_than_what_was_said_of_it(length: int | None) -> None:
    """It may have grown since: what was said is sent, as where the kernel sends it."""
    closed = []

    class File(io.BytesIO):
        def close(self) -> None:
            closed.append(self)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [] if length is None else [("Content-Length", str(length))])
        made: Iterable[bytes] = environ["wsgi.file_wrapper"](File(b"hello world"), 3)
        return made

    gateway = Gateway(app, OPTIONS, keepalive=75.0)
    found = answers(gateway, get() + get())
    assert [parse(answer).body for answer in found] == [b"hello world"[:length]] * 2
    assert len(closed) == 2
    gateway.close()


@pytest.mark.parametrize("field", ["X-Forwarded-Ssl: on", "X-Forwarded-Protocol: ssl", "X-Forwarded-Proto: https"])
def test_each_way_to_say_https_is_believed_by_itself(field: str) -> None:
    """Of a request, of the same again, which is known then, and of one that comes without."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.url_scheme"].encode()]

    gateway = Gateway(app, OPTIONS, keepalive=75.0)
    found = answers(gateway, get("/", field) * 2 + get())
    assert [parse(answer).body for answer in found] == [b"https", b"https", b"http"]
    gateway.close()


def read(heads: Heads, head: bytes) -> object:
    environ: dict[str, Any] = {}
    try:
        target, fields = heads.read(head, environ, proxied=True)
    except RequestError as refusal:
        return refusal.status, environ
    return environ, target, fields


def test_a_head_that_is_known_is_read_as_one_that_is_not() -> None:
    heads = Heads(OPTIONS)
    methods = ["GET", "POST", "OPTIONS", "get", "CONNECT", "PRI", "MKCOL", "G@T", ""]
    targets = [*(f"/a{chr(code)}b" for code in range(256)), "*", "http://b/", "http://b c/", "", "/" + "a" * 5000]
    versions = ["HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/1.1 ", "http/1.1", "HTTP/1.1\r", "HTTP/1.1\n"]
    lines = [f"{method} {target} {version}" for method in methods for target in targets for version in versions[:2]]
    lines += [f"GET / {version}" for version in versions] + ["GET  / HTTP/1.1", "GET /  HTTP/1.1", " GET / HTTP/1.1"]
    for version in versions[:2]:
        assert len(read(heads, get(version=version[5:]))) == 3  # type: ignore[arg-type]  # remembered from here on
    rest = get().partition(b"\r\n")[2]
    for line in lines:
        head = line.encode("latin-1") + b"\r\n" + rest
        assert read(heads, head) == read(Heads(OPTIONS), head), line


def test_what_is_remembered_of_one_head_says_nothing_of_another() -> None:
    heads = Heads(OPTIONS)
    for seed in SEEDS * 2:
        head = seed.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        assert read(heads, head) == read(Heads(OPTIONS), head)
    for number in range(1000):
        head = get("/", f"X: {number}")
        assert read(heads, head) == read(heads, head) == read(Heads(OPTIONS), head)
    stranger = get("/", "X-Forwarded-For: 1.2.3.4")
    for proxied in (True, False, True, False):
        environ: dict[str, Any] = {}
        heads.read(stranger, environ, proxied=proxied)
        assert ("HTTP_X_FORWARDED_FOR" in environ) is proxied


def test_nothing_long_is_remembered() -> None:
    """Neither of what clients send nor of what an application answers, so that a worker stays as small as it is."""

    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("X-Long", f"{uuid.uuid4()}" * 2000)])
        return []

    gateway = Gateway(app, OPTIONS, keepalive=75.0)

    def ask(some: range) -> None:
        for number in some:
            long = f"{number:08}" + "n" * 8000
            for lines in ([f"{long}: v"], [f"Host: {long}"], [f"Connection: {long}"]):
                (only,) = answers(gateway, get("/", *lines))
                assert only.startswith(b"HTTP/1.1 200 ")

    ask(range(10))
    gc.collect()
    tracemalloc.start()
    try:
        ask(range(10, 300))
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 1 << 20
    gateway.close()


def test_a_channel_goes_on_as_a_new_one() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        gateway = Gateway(show, OPTIONS, keepalive=75.0)
        channel: Channel | None = None
        for _ in range(2):
            theirs.sendall(FORM)
            channel = gateway.serve_connection(ours, "", keeps=True, before=channel)
            assert channel is not None
            assert (channel.stray, channel.last, channel.gone, channel.rest) == (False, False, False, b"")
        theirs.sendall(get("/", "Connection: close"))
        assert gateway.serve_connection(ours, "", keeps=True, before=channel) is None
        gateway.close()
