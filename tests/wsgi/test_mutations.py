"""Requests that nobody wrote: mutated at random, against a live server, against h11, and cut into pieces anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.testing.server import Server
from prefork.wsgi.body import open_body
from prefork.wsgi.channel import Channel, Pace
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.parser import check_host, parse_head, read_head, transfer_length
from prefork.wsgi.refusal import ClientGoneError, RequestError
from tests.support.figures import count
from tests.support.wsgi.harness import assert_clean, exchange, get, parse, serving

BROWSER = get(
    "/path/to?a=1&b=%20",
    "Host: example.org:8080",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
    "Accept: text/html,*/*;q=0.8",
    "Cookie: a=b; c=d",
    "Cookie: e=f",
    "X-Forwarded-For: 1.2.3.4",
    "Connection: keep-alive",
)
FORM = get("/form", "Content-Type: text/plain", "Content-Length: 11", method="POST") + b"hello=world"
CHUNKED = (
    get("/chunks", "Transfer-Encoding: chunked", "Trailer: X-A", method="PUT")
    + b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-A: b\r\n\r\n"
)
EXPECTS = get("/expects", "Content-Length: 5", "Expect: 100-continue", method="POST") + b"hello"
ABSOLUTE = get("http://other.org/abs?c=d", "Host: other.org", version="1.0")
OPTIONS = get("*", method="OPTIONS")
PIPELINED = get("/one") + get("/two")
SEEDS = [BROWSER, FORM, CHUNKED, EXPECTS, ABSOLUTE, OPTIONS, PIPELINED]

# What parsers of HTTP have stumbled over, and what the seeds are made of.
PIECES = [
    *(bytes([byte]) for byte in range(256)),
    *(b"\r\n", b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\r\r\n", b"\r\n ", b"\r\n\t", b" \r\n", b": ", b" :", b"  ", b"\0"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"GET", b"HEAD", b"CONNECT", b"PRI", b"*", b"http://", b"//"),
    *(b"\r\nHost: b", b"\r\nContent-Length: 5", b"\r\nContent-Length: 0", b"\r\nContent-Length: -1", b"Content_Length"),
    *(
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nTransfer-Encoding: gzip",
        b"\r\nTransfer-Encoding:\x0bchunked",
        b"chunked",
    ),
    *(b"\r\nExpect: 100-continue", b"\r\nExpect: 200", b"\r\nConnection: upgrade\r\nUpgrade: h2c", b"\r\nProxy: a"),
    *(
        b"0\r\n\r\n",
        b"0",
        b"ffffffffffffffff",
        b"0x5",
        b"+5",
        b"5 ",
        b"1_0",
        b";",
        b"%",
        b"%00",
        b"%zz",
        b"#",
        b"@",
        b"[",
    ),
    *(b"a" * 300, b"a" * 5000, b"A: b\r\n" * 120, b"\xc3\xa9", b"\xff\xfe", b"\x16\x03\x01"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """One of the seeds after a few deletions, insertions, replacements, repetitions and cuts."""
    request = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(request)))
        end = min(len(request), at + draw(st.integers(0, 12)))
        how = draw(st.sampled_from(["insert", "delete", "replace", "repeat", "end"]))
        if how == "insert":
            request[at:at] = draw(st.sampled_from(PIECES))
        elif how == "delete":
            del request[at:end]
        elif how == "replace":
            request[at:end] = draw(st.sampled_from(PIECES))
        elif how == "repeat":
            request[at:at] = request[at : at + draw(st.integers(0, 60))]
        else:
            del request[at:]
    return bytes(request)


class Said(NamedTuple):
    """What a parser makes of a request."""

    method: str
    target: str
    protocol: str
    fields: dict[str, str]
    body: str
    """Its digest."""


def by_h11(raw: bytes) -> Said:
    """h11's reading; RemoteProtocolError when it has none, AssertionError when the request is not whole."""
    raw = raw.removeprefix(b"\r\n")  # which RFC 9112, 2.2 asks servers to ignore, and h11 doesn't
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(raw)
    server.receive_data(b"")
    request = server.next_event()
    assert isinstance(request, h11.Request), request
    body = hashlib.sha256()
    while not isinstance(event := server.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data), event
        body.update(event.data)
    fields: dict[str, str] = {}
    for name, value in request.headers:
        if b"_" in name or name in {b"proxy", b"transfer-encoding", b"content-length"}:
            continue
        key = name.decode().upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        text = value.decode("latin-1")
        sign = "; " if key == "HTTP_COOKIE" else ","
        fields[key] = f"{fields[key]}{sign}{text}" if key in fields else text
    target = request.target.decode()
    if not target.startswith(("/", "*")):
        fields["HTTP_HOST"] = target.partition("://")[2].partition("/")[0].partition("?")[0]
    return Said(
        request.method.decode(),
        target,
        f"HTTP/{request.http_version.decode()}",
        fields,
        body.hexdigest(),
    )


def h11_takes(raw: bytes) -> bool:
    """Whether h11 has a reading of a request, and of no more than that."""
    try:
        by_h11(raw)
    except (h11.RemoteProtocolError, AssertionError):
        return False
    return True


def by_us(shown: dict[str, Any]) -> Said:
    """Our reading, as the application `tests.support.wsgi.apps.show` saw it."""
    fields = {key: value for key, value in shown.items() if key.startswith("HTTP_") or key == "CONTENT_TYPE"}
    return Said(shown["REQUEST_METHOD"], shown["REQUEST_URI"], shown["SERVER_PROTOCOL"], fields, shown["body.sha256"])


def assert_target_is_right(shown: dict[str, Any]) -> None:
    target = shown["REQUEST_URI"]
    if target.startswith("/"):
        path, _, query = target.partition("?")
        assert shown["PATH_INFO"] == unquote_to_bytes(path).decode("latin-1")
        assert shown["QUERY_STRING"] == query


@pytest.fixture(scope="module")
def show() -> Iterator[Server]:
    with serving("show", warnings="ignore") as server:
        yield server


def test_the_seeds_are_good(show: Server) -> None:
    for seed in SEEDS:
        shown = parse(exchange(show.address, seed)).json()
        assert by_us(shown) == by_h11(seed)
        assert_target_is_right(shown)


def test_mutated_requests(show: Server) -> None:
    """Each ends in a valid response or a close; what is accepted means to us what it means to h11."""
    accepted = refused = 0

    @settings(max_examples=count("mutated-requests", part=25))
    @given(mutated())
    def send(request: bytes) -> None:
        nonlocal accepted, refused
        raw = exchange(show.address, request, half_close=True)
        if not raw:
            assert not request, "only silence may be answered with silence"
            return
        bodiless = request.removeprefix(b"\r\n").startswith(b"HEAD ") and raw.find(b"\r\n\r\n") == len(raw) - 4
        reply = parse(raw, "HEAD" if bodiless else "GET")
        assert reply.status in {200, 400, 413, 414, 417, 431, 501, 505}, reply
        if reply.status != 200:
            refused += 1
            return
        accepted += 1
        said = by_h11(request)
        if said.method != "HEAD":
            assert by_us(reply.json()) == said
            assert_target_is_right(reply.json())
        head = request.removeprefix(b"\r\n").partition(b"\r\n\r\n")[0]
        assert not set(head.replace(b"\r\n", b"")) & {*range(0x20), 0x7F} - {0x09}
        assert b"\r\n " not in head
        assert b"\r\n\t" not in head

    send()
    assert_clean(show)
    assert accepted > count("mutated-requests", part=25) // 20  # it is no test of refusals alone
    assert refused > 50


class Pieces(Channel):
    """A connection on which the request comes in pieces that the test has chosen; then its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.deadline = 0.0
        self._pace = Pace()

    def receive(self, size: int, *, elsewhere: bool = False) -> bytes:  # noqa: ARG002  # nothing is waited for
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]

    def send(self, data: bytes | memoryview, *, more: bool = False) -> None:  # noqa: ARG002  # as it is called
        assert data == b"HTTP/1.1 100 Continue\r\n\r\n"


def outcome(pieces: list[bytes]) -> object:
    """What is read from ``pieces``; "refused" whatever the reason is."""
    options = WSGIOptions(limit_request_line=500, limit_request_field_size=500, limit_request_body=1000)
    channel = Pieces(pieces)
    environ: dict[str, Any] = {}
    try:
        head, rest = read_head(channel, options)
        target = parse_head(head, environ, options)
        check_host(environ)
        body = open_body(channel, rest, transfer_length(environ), options, expected=True)
        return environ, target, body.read()
    except RequestError:
        return "refused"
    except ClientGoneError:
        return "gone"


@settings(max_examples=count("mutated-requests", part=25))
@given(st.one_of(st.sampled_from(SEEDS), mutated()), st.data())
def test_cuts_change_nothing(request: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(request)), max_size=8)))
    pieces = [request[at:end] for at, end in zip([0, *cuts], [*cuts, len(request)], strict=True)]
    assert outcome(pieces) == outcome([request])


def test_cuts_at_every_place() -> None:
    for seed in SEEDS:
        whole = outcome([seed])
        assert isinstance(whole, tuple)
        for at in range(len(seed)):
            assert outcome([seed[:at], seed[at:]]) == whole
        assert outcome([bytes([byte]) for byte in seed]) == whole
