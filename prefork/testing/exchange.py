"""What a client says to a server, and how it judges what comes back."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
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


Judge = Callable[[bytearray, bool], Outcome | None]
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
    """

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _ReplyHead:
    """What stands before the body.

    Args:
        status: The status code.
        headers: As in `Reply`.
        end: Where the body begins in the data.
    """

    status: int
    headers: dict[str, str]
    end: int

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def length(self) -> int | None:
        """The body's length in bytes; None when it ends with a last chunk or the connection."""
        if self.status in (204, 304):
            return 0
        text = self.headers.get("content-length")
        return None if text is None or self.chunked else int(text)


def parse_http(data: bytes | bytearray) -> Reply | None:
    """Read an HTTP/1 answer to a GET; lenient, for a test looks at what a server sent, well formed or not.

    Args:
        data: All bytes so far. Interim answers (1xx) are skipped.

    Returns:
        The answer, or None while its head is not whole.

    Raises:
        ValueError: When this can't become an HTTP/1 answer.
    """
    head = _parse_head(data, 0)
    if head is None:
        return None
    if head.chunked:
        body = b"".join(data[start:end] for start, end in _chunks(data, head.end))
    else:
        body = bytes(data[head.end : None if head.length is None else head.end + head.length])
    return Reply(head.status, head.headers, body)


def _parse_head(data: bytes | bytearray, start: int) -> _ReplyHead | None:
    if not b"HTTP/1.".startswith(data[start : start + 7]):
        raise ValueError(f"not an HTTP/1 answer: {bytes(data[start : start + 40])!r}")
    end = data.find(b"\r\n\r\n", start)
    if end == -1:
        return None
    status_line, *lines = data[start:end].decode("latin-1").split("\r\n")
    status = int(status_line[8:].split()[0]) if status_line[8:].strip() else 0
    if 100 <= status < 200 and status != 101:
        return _parse_head(data, end + 4)
    pairs = (line.partition(":") for line in lines)
    return _ReplyHead(status, {name.lower(): value.strip() for name, _, value in pairs}, end + 4)


def _chunks(data: bytes | bytearray, at: int) -> Iterator[tuple[int, int]]:
    """Where each chunk begins and ends, as far as they have come; the last is an empty one past its size."""
    while (line_end := data.find(b"\r\n", at)) != -1:
        size = int(data[at:line_end].split(b";")[0], 16)
        if size < 0:  # as int() reads it; such a chunk would end where it begins, again and again
            raise ValueError(f"not the size of a chunk: {size}")
        start = line_end + 2
        yield start, start + size
        if size == 0:
            return
        at = start + size + 2


def _is_whole(data: bytearray, head: _ReplyHead, closed: bool) -> bool:
    if head.chunked:
        *_, (start, end) = [(0, 1), *_chunks(data, head.end)]
        # Trailers may follow the last chunk, and an empty line ends them.
        return start == end and data.find(b"\r\n\r\n", start - 2) != -1
    return closed if head.length is None else len(data) >= head.end + head.length


def http(data: bytearray, closed: bool) -> Outcome | None:
    """The judge of HTTP answers: whole by length, by last chunk, or by the close when nothing else says.

    Args:
        data: All bytes so far; none of the body is copied.
        closed: Whether the server has closed.

    Returns:
        The outcome, None while the answer is not whole.
    """
    try:
        head = _parse_head(data, 0)
        if head is None or not _is_whole(data, head, closed):
            return None
    except ValueError:
        return Outcome.FAILED
    return Outcome.ANSWERED if head.status < 500 else Outcome.FAILED


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
        wanted = memoryview(expect)

        def exactly(data: bytearray, closed: bool) -> Outcome | None:
            if wanted[: len(data)] != data:
                return Outcome.FAILED
            return Outcome.ANSWERED if len(data) == len(wanted) and (wanted or closed) else None

        return exactly
    predicate = expect

    def as_told(data: bytearray, _closed: bool) -> Outcome | None:
        return Outcome.ANSWERED if predicate(bytes(data)) else None

    return as_told
