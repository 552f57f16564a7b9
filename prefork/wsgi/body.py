"""``wsgi.input``: the body of a request, received as the application reads it, or whole before.

A body is a raw stream (`io.RawIOBase`) below `io.BufferedReader`, which has all that PEP 3333 asks of an input, in C.
A read that meets a defect, a client that is too slow or one that is gone raises; a body that was cut never looks
whole.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from typing import IO, Any, Final

from prefork.wsgi.channel import RECEIVE, Channel
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.parser import CHUNKED
from prefork.wsgi.refusal import ClientGoneError, NothingYetError, RequestError

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]++)(.*+)", re.DOTALL)
_AT_ONCE: Final = 1 << 18  # bytes; memory for all that is asked for is taken at each receive, however little comes
_DIGITS: Final = 15  # of a chunk's size, leading zeros aside: more bytes than anybody stores
# RFC 9112, 7.1.1, with RFC 9110, 5.6.2 to 5.6.4; each part takes what it can and gives nothing back.
_EXTENSIONS: Final = re.compile(
    rb"""(?:
    [\t ]*+;[\t ]*+[!#$%&'*+.^_`|~0-9A-Za-z-]++
    (?:[\t ]*+=[\t ]*+(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"))?
    )*+""",
    re.VERBOSE,
)
_PLAIN: Final = 32  # bytes; what a line says beyond them is counted
_BEGUN_SIZE: Final = re.compile(rb"(?:[0-9A-Fa-f]++(?:\r|[\t ;].*+)?)?", re.DOTALL)
_BEGUN_END: Final = re.compile(rb"\r?")
_BEGUN_TRAILER: Final = re.compile(rb".*+", re.DOTALL)
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class Body(io.RawIOBase):
    """What `LengthBody` and `ChunkedBody` share: where the bytes come from.

    Args:
        channel: The connection.
        received: What came behind the head already.
        expected: Whether the client waits for 100 (Continue) before it sends.
    """

    def __init__(self, channel: Channel, received: bytes, *, expected: bool) -> None:
        super().__init__()
        self._channel = channel
        self._received = received
        self._expected = expected
        self.ended = False

    @property
    def surplus(self) -> bytes:
        """What was received and the body has not used; once it has ended, what belongs to the next request."""
        return self._received

    @property
    def left(self) -> int | None:
        """How many bytes of it are still to be read; None when that can't be told, or should not be tried."""
        return 0 if self.ended else None

    def arrived(self) -> bool:
        """Whether all of it that is still to be read has come; what has is kept for who reads on. Never waits."""
        return self.ended

    def discard(self) -> None:
        """End it, all of which has arrived: whoever reads on finds its end."""

    def readable(self) -> bool:
        """Always."""
        return True

    def readall(self) -> bytes:
        """The rest of the body."""
        return b"".join(iter(lambda: self.read(RECEIVE), b""))

    def forgo_continue(self) -> None:
        """Don't send 100 (Continue) any more: a response has begun, and nothing may come in between."""
        self._expected = False

    def _fetch(self, size: int) -> bytes:
        if self._received:
            data, self._received = self._received[:size], self._received[size:]
            return data
        if self._expected:
            self._expected = False
            self._channel.send(_CONTINUE)
        data = self._channel.receive(min(size, _AT_ONCE))
        self._channel.progress()
        if not data:
            raise RequestError(400, "the request ended within its body")
        return data


class LengthBody(Body):
    """A body of known length.

    Args:
        channel: The connection.
        received: What came behind the head already; no more than ``length`` bytes.
        length: How many bytes the whole body has.
        expected: Whether the client waits for 100 (Continue) before it sends.
    """

    def __init__(self, channel: Channel, received: bytes, length: int, *, expected: bool) -> None:
        super().__init__(channel, received, expected=expected)
        self._left = length

    @property
    def left(self) -> int | None:
        """How many bytes of it are still to be read; None while the client waits to be asked for them."""
        return None if self._expected else self._left

    def arrived(self) -> bool:
        """As `Body.arrived`."""
        try:
            while len(self._received) < self._left:
                data = self._channel.receive(self._left - len(self._received), elsewhere=True)
                if not data:
                    return False
                self._received += data
        except (NothingYetError, RequestError, ClientGoneError):
            return False
        return True

    def discard(self) -> None:
        """As `Body.discard`."""
        self._received, self._left, self.ended = b"", 0, True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as one receive does."""
        size = min(len(buffer), self._left)
        if not size:
            return 0
        data = self._fetch(size)
        buffer[: len(data)] = data
        self._left -= len(data)
        self.ended = not self._left
        return len(data)


class ChunkedBody(Body):
    """A body in chunks (RFC 9112, 7.1). Extensions and trailer fields are checked and dropped.

    Args:
        channel: The connection.
        received: What came behind the head already.
        options: The limits.
        stored: Whether it is the server that stores it.
        expected: Whether the client waits for 100 (Continue) before it sends.
    """

    def __init__(
        self, channel: Channel, received: bytes, options: WSGIOptions, *, stored: bool, expected: bool
    ) -> None:
        super().__init__(channel, received, expected=expected)
        self._options = options
        self._stored = stored
        self._buffer = bytearray()
        self._left = 0  # bytes of the chunk in hand
        self._total = 0
        self._lengths = 0  # bytes of long lines before chunks
        self._begun = False
        self._defect: tuple[int, str] | None = None

    @property
    def surplus(self) -> bytes:
        """What was received and the body has not used; once it has ended, what belongs to the next request."""
        return bytes(self._buffer) + self._received

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from the chunk in hand, or from the next."""
        if self._defect is not None:
            raise RequestError(*self._defect)
        if self.ended or not len(buffer):
            return 0
        if not self._left:
            try:
                self._left = self._next_chunk()
            except RequestError as error:
                self._defect = error.status, error.why  # what follows is no body, however often it is asked for
                raise
        if not self._left:
            return 0
        size = min(len(buffer), self._left)
        if not self._buffer:
            self._buffer += self._fetch(RECEIVE)
        with memoryview(self._buffer) as view:
            size = min(size, len(view))
            buffer[:size] = view[:size]
        del self._buffer[:size]
        self._left -= size
        return size

    def _next_chunk(self) -> int:
        """How long the next chunk is; 0 when there is none."""
        if self._begun:
            self._line(0, _BEGUN_END)  # what ends the chunk before
        self._begun = True
        size = self._read_size(self._line(self._options.limit_request_field_size, _BEGUN_SIZE))
        self._total += size
        _check_length(self._total, self._options, stored=self._stored)
        if not size:
            self._trailer()
            self.ended = True
        return size

    def _read_size(self, line: bytes) -> int:
        if _SIZE.fullmatch(line):
            return int(line, 16)
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise RequestError(400, "the size of a chunk can't be read")
        digits, extensions = match.groups()
        if extensions and not _EXTENSIONS.fullmatch(extensions):
            raise RequestError(400, "the extension of a chunk can't be read")
        if len(line) > _PLAIN:
            self._lengths += len(line)
            if self._lengths > self._options.limit_head:
                raise RequestError(431, "the extensions of the chunks are too long")
        if len(digits) > _DIGITS and len(digits.lstrip(b"0")) > _DIGITS:
            raise RequestError(400, "the size of a chunk is beyond all measure")
        return int(digits, 16)

    def _trailer(self) -> None:
        for _ in range(self._options.limit_request_fields + 1):
            line = self._line(self._options.limit_request_field_size, _BEGUN_TRAILER)
            if not line:
                return
            if not _TRAILER.fullmatch(line):
                raise RequestError(400, "a trailer field can't be read")
        raise RequestError(431, "there are too many trailer fields")

    def _line(self, longest: int, begun: re.Pattern[bytes]) -> bytes:
        """The next line, without its CRLF. What can't become one is refused before its end."""
        while (end := self._buffer.find(b"\r\n", 0, longest + 2)) < 0:
            line = self._buffer[: longest + 2]
            if b"\n" in line or not begun.fullmatch(line):
                raise RequestError(400, "a chunk, or a line around it, can't be read or does not end with CR LF")
            if len(line) > longest + 1:
                raise RequestError(431, "a line before a chunk, or a trailer field, is too long")
            self._buffer += self._fetch(RECEIVE)
        whole = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return whole


def open_body(
    channel: Channel, received: bytes, length: int, options: WSGIOptions, *, expected: bool, stored: bool = False
) -> io.BytesIO | LengthBody | ChunkedBody:
    """The body of a request.

    Args:
        channel: The connection.
        received: What came behind the head already.
        length: Bytes, or `CHUNKED`.
        options: The limits.
        expected: Whether the client waits for 100 (Continue) before it sends.
        stored: Whether it is to be spooled.

    Returns:
        The bytes themselves when they are all there, else a raw stream.

    Raises:
        RequestError: 413, the body is too long.
    """
    if length == CHUNKED:
        return ChunkedBody(channel, received, options, stored=stored, expected=expected)
    _check_length(length, options, stored=stored and length > len(received))
    if length <= len(received):
        return io.BytesIO(received[:length])
    return LengthBody(channel, received, length, expected=expected)


def _check_length(length: int, options: WSGIOptions, *, stored: bool) -> None:
    if options.limit_request_body and length > options.limit_request_body:
        raise RequestError(413, "the body is too long")
    if stored and options.spool_limit and length > options.spool_limit:
        raise RequestError(413, "the body is longer than what this server stores for one request")


def spool(body: Body, memory: int) -> tuple[IO[bytes], int]:
    """Receive a whole body.

    Args:
        body: Not read from yet.
        memory: How many bytes to keep in memory before a temporary file takes over; 0 for all.

    Returns:
        The body, at its beginning, and its length. Who calls closes it.

    Raises:
        RequestError: As reading does.
        OSError: The temporary file can't be written.
    """
    spooled = tempfile.SpooledTemporaryFile(max_size=memory)  # noqa: SIM115  # it outlives this function
    try:
        shutil.copyfileobj(body, spooled, RECEIVE)
        length = spooled.tell()
        spooled.seek(0)
    except BaseException:
        spooled.close()
        raise
    return spooled, length
