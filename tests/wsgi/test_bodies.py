"""``wsgi.input``: whatever way a body comes, the application reads it, and only it."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.testing.client import connect
from prefork.testing.server import Server
from tests.support.wsgi.harness import WITHIN, ask, assert_clean, exchange, get, parse, post, read_all, serving


def chunked(*chunks: bytes, lines: tuple[str, ...] = (), trailer: bytes = b"") -> bytes:
    head = get("/", "Transfer-Encoding: chunked", *lines, method="POST")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"


@pytest.fixture(scope="module", params=["chunked", "all", "none"])
def echo(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving("echo", options={"spool": request.param, "spool_size": 10_000}) as server:
        yield server
        assert_clean(server)


@pytest.mark.parametrize("size", [0, 1, 9_999, 10_001, 65_536, 65_537, 1_000_000])
def test_a_body_of_known_length(echo: Server, size: int) -> None:
    body = os.urandom(size)
    assert ask(echo, post(body)).body == body
    request = post(body)
    cut = len(request) - size // 2
    assert ask(echo, request[:cut], request[cut:]).body == body
    assert ask(echo, request.replace(b"HTTP/1.1", b"HTTP/1.0", 1)).body == body


@pytest.mark.parametrize("size", [1, 4_000, 70_000])
def test_a_chunked_body(echo: Server, size: int) -> None:
    body = os.urandom(size)
    for step in (size, 1 + size // 3, 1 + size // 50):
        chunks = [body[at : at + step] for at in range(0, size, step)]
        request = chunked(*chunks)
        assert ask(echo, request).body == body
        assert ask(echo, request[:-3], request[-3:]).body == body
        assert ask(echo, request[:-6], request[-6:]).body == body


def test_an_empty_chunked_body(echo: Server) -> None:
    assert ask(echo, chunked()).body == b""


def test_chunk_extensions_and_trailers_are_skipped(echo: Server) -> None:
    head = get("/", "Transfer-Encoding: Chunked", method="POST")
    assert ask(echo, head + b'5;a=b;c="d e"\r\nhello\r\n0;last\r\nX-A: b\r\nX-C:\r\n\r\n').body == b"hello"
    assert ask(echo, head + b"00005\r\nhello\r\n000\r\n\r\n").body == b"hello"
    assert ask(echo, head + b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n").body == b"0123456789" * 2


def test_each_byte_apart(echo: Server) -> None:
    for request in (post(b"hello"), chunked(b"hello", b"world", trailer=b"A: b\r\n")):
        with connect(echo.address, timeout=WITHIN) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request:
                client.send(bytes([byte]))
            assert parse(read_all(client)).body in {b"hello", b"helloworld"}


def test_what_follows_the_body_is_not_read(echo: Server) -> None:
    """And the answer arrives though bytes are left that nobody reads."""
    for request in (post(b"hello"), chunked(b"hello"), get()):
        raw = exchange(echo.address, request + get("/second"))
        assert parse(raw).body in {b"hello", b""}


@pytest.mark.parametrize("body", [post(b""), chunked()])
def test_reading_past_the_end_gives_nothing(body: bytes) -> None:
    with serving("lines") as server:
        assert ask(server, body).json() == ["", "", [], ""]


def test_lines() -> None:
    text = b"first\nsecond\n\nfourth"
    with serving("lines") as server:
        for request in (post(text), chunked(text[:3], text[3:8], text[8:])):
            assert ask(server, request).json() == ["first\n", "sec", ["ond\n", "\n", "fourth"], ""]
            assert ask(server, request[:-9], request[-9:]).json() == ["first\n", "sec", ["ond\n", "\n", "fourth"], ""]
        assert_clean(server)


def test_a_chunked_body_has_a_length_when_it_was_received_whole() -> None:
    with serving("show") as server:
        environ = ask(server, chunked(b"hello", b"world")).json()
        assert environ["CONTENT_LENGTH"] == "10"
        assert "HTTP_TRANSFER_ENCODING" not in environ
    with serving("show", options={"spool": "none"}) as server:
        environ = ask(server, chunked(b"hello", b"world")).json()
        assert "CONTENT_LENGTH" not in environ
        assert environ["body.length"] == 10


@pytest.mark.parametrize("spool", ["chunked", "none"])
def test_no_whole_body_in_memory(spool: str) -> None:
    size = 64 << 20
    piece = os.urandom(1 << 20)
    expected = hashlib.sha256(piece * 64).hexdigest()
    with serving("digest", options={"spool": spool}) as server:
        ask(server, post(b"small"))  # what a first request takes is no part of this
        before = ask(server, post(b"small")).json()["peak"]
        for request, framing in (
            (get("/", f"Content-Length: {size}", method="POST"), b""),
            (get("/", "Transfer-Encoding: chunked", method="POST"), b"%x\r\n" % len(piece)),
        ):
            with connect(server.address, timeout=60) as client:
                client.sendall(request)
                for _ in range(64):
                    client.sendall(framing + piece + (b"\r\n" if framing else b""))
                if framing:
                    client.sendall(b"0\r\n\r\n")
                reply = parse(read_all(client)).json()
            assert (reply["length"], reply["sha256"]) == (size, expected)
            assert reply["peak"] - before < 8 << 20
        assert_clean(server)


def test_a_body_that_can_not_be_stored(tmp_path: Path) -> None:
    """A full disk: 503 for who needs it, and nobody else notices."""
    gone = tmp_path / "gone"
    gone.mkdir()
    with serving("echo", options={"spool_size": 1000}, tmpdir=str(gone)) as server:
        gone.rmdir()
        assert ask(server, chunked(b"a" * 2000)).status == 503
        server.wait_for_log("ERROR can't store the body of a request")
        assert ask(server, chunked(b"a" * 900)).body == b"a" * 900
        assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"x\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "the size of a chunk can't be read"),
        (b"9\r\nhello\r\n0\r\n\r\n", "the body is too long"),
        (b"0\r\nA\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "a trailer field can't be read"),
    ],
)
def test_nothing_is_read_behind_a_defect(body: bytes, error: str) -> None:
    """However often an application asks for it."""
    with serving("reads_on", options={"spool": "none", "limit_request_body": 8}) as server:
        head = get("/", "Transfer-Encoding: chunked", method="POST")
        assert ask(server, head + body).json() == [error] * 3
        assert_clean(server)


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECTS = "Expect: 100-continue"


def _converse(server: Server, head: bytes, body: bytes) -> bytes:
    """Send the head, and the body only when told to; all that comes back."""
    with connect(server.address, timeout=WITHIN) as client:
        client.sendall(head)
        raw = client.recv(1 << 16)
        if raw == CONTINUE:
            client.sendall(body)
        return raw + read_all(client)


@pytest.mark.parametrize("spool", ["chunked", "all", "none"])
def test_continue_when_the_body_is_read(spool: str) -> None:
    with serving("echo", options={"spool": spool}) as server:
        for request in (post(b"hello", EXPECTS), chunked(b"hello", lines=("expect: 100-Continue",))):
            head, end, body = request.partition(b"\r\n\r\n")
            reply = parse(_converse(server, head + end, body))
            assert (reply.interim, reply.status, reply.body) == ([100], 200, b"hello")
        assert_clean(server)


def test_continue_comes_once() -> None:
    """However many receives the body takes."""
    with serving("echo") as server:
        head, end, body = post(b"a" * 300_000, EXPECTS).partition(b"\r\n\r\n")
        reply = parse(_converse(server, head + end, body))
        assert (reply.interim, reply.body) == ([100], body)


def test_no_continue_when_the_body_is_not_read() -> None:
    with serving("ignore_body") as server:
        reply = parse(_converse(server, get("/", "Content-Length: 5", EXPECTS, method="POST"), b"hello"))
        assert (reply.interim, reply.body) == ([], b"ignored")
        assert_clean(server)


def test_no_continue_when_the_body_is_there() -> None:
    with serving("echo") as server:
        for request in (post(b"hello", EXPECTS), chunked(b"hello", lines=(EXPECTS,))):
            reply = ask(server, request)
            assert (reply.interim, reply.body) == ([], b"hello")
        empty = ask(server, post(b"", EXPECTS))
        assert (empty.interim, empty.body) == ([], b"")


def test_no_continue_before_a_refusal() -> None:
    with serving("echo", options={"limit_request_body": 4}) as server:
        reply = parse(_converse(server, get("/", "Content-Length: 5", EXPECTS, method="POST"), b"hello"))
        assert (reply.interim, reply.status) == ([], 413)


def test_no_continue_within_a_response() -> None:
    with serving("begin_then_read") as server, connect(server.address, timeout=WITHIN) as client:
        client.sendall(get("/", "Content-Length: 3", EXPECTS, method="POST"))
        raw = b""
        while b"begun," not in raw:
            raw += client.recv(1 << 16)
        client.sendall(b"end")
        reply = parse(raw + read_all(client))
        assert (reply.interim, reply.body) == ([], b"begun,end")


def test_no_continue_for_http_1_0() -> None:
    with serving("echo") as server:
        request = post(b"hello", EXPECTS).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        reply = ask(server, request[:-5], request[-5:])
        assert (reply.interim, reply.body) == ([], b"hello")
