"""What a client says to a server, and how it judges what comes back."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""What clients send unless they are told otherwise."""


class Outcome(enum.Enum):
    """How one request ended, as its client saw it. All but ANSWERED are losses."""

    ANSWERED = "answered"
    """The whole answer came."""
    FAILED = "failed"
    """A whole answer, but the wrong one: an HTTP status of 500 or more, or not the bytes that were expected."""
    REFUSED = "refused"
    """Nobody listened: ECONNREFUSED, or no socket at the path."""
    RESET = "reset"
    """The connection was reset (RST, ECONNRESET, EPIPE) before the whole answer had come."""
    EMPTY = "empty"
    """The server closed without a byte of answer."""
    TRUNCATED = "truncated"
    """The server closed in the middle of the answer."""
    TIMED_OUT = "timed out"
    """The client's time was up first."""


Judge = Callable[[bytes, bool], "Outcome | None"]
"""Called with all bytes so far and whether the server has closed; None while the answer is not whole."""

Expect = bytes | Callable[[bytes], object] | None
"""What a whole answer is: these bytes; whatever makes the predicate true; None, an HTTP answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP/1 answer, as far as it has come.

    Args:
        status: The status code.
        headers: Names in lower case; of a name that comes twice, the last.
        body: The body so far; the chunks of a chunked one joined.
        whole: Whether the body has ended by its own account (its length, its last chunk, or a status without a
            body); False as well when only the close of the connection can end it.
        delimited: Whether it can end by its own account at all.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool
    delimited: bool


def parse_http(data: bytes) -> Reply | None:
    """Read an HTTP/1 answer to a GET; lenient, for a test looks at what a server sent, well formed or not.

    Args:
        data: All bytes so far. Interim answers (1xx) are skipped.

    Returns:
        The answer, or None while its head is not whole.

    Raises:
        ValueError: When this can't become an HTTP/1 answer.
    """
    line_end = data.find(b"\r\n")
    if not data.startswith(b"HTTP/1."[: len(data)]) or (line_end == -1 and len(data) > 4096):
        raise ValueError(f"not an HTTP/1 answer: {data[:40]!r}")
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    status_line, *lines = head.split(b"\r\n")
    status = int(status_line.split(None, 2)[1])
    if 100 <= status < 200 and status != 101:
        return parse_http(rest) if rest else None
    headers = {}
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    if status in (204, 304):
        return Reply(status, headers, b"", whole=True, delimited=True)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body, whole = _join_chunks(rest)
        return Reply(status, headers, body, whole=whole, delimited=True)
    if "content-length" in headers:
        length = int(headers["content-length"])
        return Reply(status, headers, rest[:length], whole=len(rest) >= length, delimited=True)
    return Reply(status, headers, rest, whole=False, delimited=False)


def _join_chunks(data: bytes) -> tuple[bytes, bool]:
    """The body in a chunked coding, as far as it has come, and whether its end has."""
    chunks: list[bytes] = []
    at = 0
    while (line_end := data.find(b"\r\n", at)) != -1:
        size = int(data[at:line_end].split(b";")[0], 16)
        if size == 0:  # trailers may follow, and an empty line ends them
            return b"".join(chunks), data.find(b"\r\n\r\n", line_end - 2) != -1
        chunks.append(data[line_end + 2 : line_end + 2 + size])
        at = line_end + 2 + size + 2
    return b"".join(chunks), False


def http(data: bytes, closed: bool) -> Outcome | None:
    """The judge of HTTP answers: whole by length, by last chunk, or by the close when nothing else says."""
    if not data:
        return None
    try:
        reply = parse_http(data)
    except (ValueError, IndexError):
        return Outcome.FAILED
    if reply is None or not (reply.whole or (closed and not reply.delimited)):
        return None
    return Outcome.ANSWERED if reply.status < 500 else Outcome.FAILED


def judge_of(expect: Expect) -> Judge:
    """The judge for what a caller expects.

    Args:
        expect: Bytes (exactly these; the client closes as soon as it has them), a predicate over all bytes so far
            (true as soon as they are a whole answer), or None for `http`.

    Returns:
        The judge.
    """
    if expect is None:
        return http
    if isinstance(expect, bytes):
        wanted = expect

        def exactly(data: bytes, closed: bool) -> Outcome | None:
            if data == wanted and (closed or wanted):
                return Outcome.ANSWERED
            return None if wanted.startswith(data) else Outcome.FAILED

        return exactly
    predicate = expect

    def as_told(data: bytes, closed: bool) -> Outcome | None:  # noqa: ARG001  # a judge's signature
        return Outcome.ANSWERED if predicate(data) else None

    return as_told
