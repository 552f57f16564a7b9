"""What the application answers: from ``start_response`` and an iterable to the bytes of one HTTP/1.1 response.

The head leaves with the first bytes of the body, in one send. The body's length is the application's Content-Length,
or that of the only piece, or else each piece is a chunk (RFC 9112, 7.1); to a client of HTTP/1.0 the end of the
connection ends it.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final

from prefork.wsgi.channel import Channel
from prefork.wsgi.files import FileWrapper
from prefork.wsgi.refusal import answer, date_line

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_STATUS: Final = re.compile(r"[2-9][0-9]{2}(?: [\t -~\x80-\xff]*)?")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH_DIGITS: Final = 18
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)
_BODILESS: Final = frozenset({"204", "205", "304"})  # 1xx is no answer, and nothing that an application may say
# What these say of their length, whatever the application does: 204 nothing (RFC 9110, 8.6); 205 that there is nothing,
# for unlike the others it does not end with its head (RFC 9110, 15.3.6; RFC 9112, 6.3).
_LENGTHS: Final[dict[str, int | None]] = {"204": None, "205": 0}
_REMEMBERED: Final = 256  # heads
_LONGEST: Final = 2048  # bytes of one that is remembered
_COPIED: Final = 1 << 16  # bytes; a body piece up to this size is joined to what goes before it
_CLOSE: Final = b"Connection: close\r\n\r\n"

log = logging.getLogger("prefork")


class Response:
    """One response. The application is given `start` as ``start_response``.

    Args:
        channel: Where it goes.
        persists: The end of a head that says that the connection is kept.

    Attributes:
        http11: Whether the client speaks HTTP/1.1 and so knows chunks.
        head_only: Whether the request is HEAD.
        before: Called once, just before the first byte leaves.
        status: The status line without the version; "" until there is one.
        begun: Whether the head has been sent, so that nothing can be taken back.
        whole: Whether all of it has been sent, as its client sees it: what the application does afterwards changes
            nothing of that.
        sent: How many bytes of the body were sent, framing not counted.
    """

    __slots__ = (
        "_bodiless",
        "_channel",
        "_chunked",
        "_dated",
        "_left",
        "_length",
        "_lines",
        "_mute",
        "_persists",
        "before",
        "begun",
        "head_only",
        "http11",
        "sent",
        "status",
        "whole",
    )

    def __init__(self, channel: Channel, persists: bytes = b"") -> None:
        self._channel = channel
        self._persists = persists
        self._lines = b""  # of status and header fields, as far as the application says
        self._dated = False
        self._bodiless = False  # by its status
        self._length: int | None = None  # as the application says, or as can be known
        self._left: int | None = None  # of that, still to send
        self._chunked = False
        self._mute = False  # nothing follows the head
        self.http11 = True
        self.head_only = False
        self.before: Callable[[], None] | None = None
        self.status = ""
        self.begun = self.whole = False
        self.sent = 0

    @property
    def cut(self) -> bool:
        """Whether it has begun and not ended, and the end of the connection is what ends it: it would look whole."""
        return self.begun and not self.whole and not self._mute and not self._chunked and self._length is None

    def field(self, name: str) -> str | None:
        """The value of a header field of the application's, or None; for the access log.

        Args:
            name: In lower case.
        """
        if name == "content-length":
            return None if self._length is None else str(self._length)
        for line in self._lines.decode("latin-1").split("\r\n")[1:]:
            key, separator, value = line.partition(": ")
            if separator and key.lower() == name:
                return value
        return None

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """``start_response``, as PEP 3333 defines it.

        Hop-by-hop fields are the server's to say: they are left out, and the log says so, but that what asks to close
        the connection closes it.

        Args:
            status: Such as "200 OK".
            headers: Names and values.
            exc_info: The exception that makes this replace what was started before.

        Returns:
            ``write(data)``.

        Raises:
            ValueError: Something would not be one status line and one line for each field.
            TypeError: Something is not a str.
            RuntimeError: It was called before, and there is no ``exc_info``.
            BaseException: That of ``exc_info``, when the head has been sent already.
        """
        if exc_info is not None:
            try:
                if self.begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # it refers to the frame that refers to it
        elif self.status:
            raise RuntimeError("start_response() was called again without exc_info")
        self._lines, self._length, self._dated, self._bodiless, closes = _known_lines(status, tuple(headers))
        if closes:
            self._channel.keep = False
        self.status = status
        return self.write

    def write(self, data: bytes) -> None:
        """``write()`` of PEP 3333: send ``data`` now, after the head if that is still to go.

        Raises:
            TypeError: ``data`` is not bytes.
            ValueError: It is more than the Content-Length.
            RuntimeError: ``start_response`` was not called, or the response has ended.
            RequestError: The client was too slow.
            ClientGoneError: The connection is lost.
        """
        if self.whole and self._left is None and not self._mute:
            raise RuntimeError("write() was called after the end of the response")  # it would begin the next one
        self._write(data, None)

    def send(self, result: Iterable[bytes]) -> None:
        """Send what the application returned. Closing it is left to who called.

        Raises:
            Exception: As `write`; ValueError also when there is less than the Content-Length. Whatever iterating
                raises.
        """
        kind = type(result)
        if kind is FileWrapper and self._send_file(result):  # type: ignore[arg-type]  # its type has just been looked at
            self.whole = True
            return
        if (kind is list or kind is tuple) and len(result) == 1:  # type: ignore[arg-type]  # as above
            piece = result[0]  # type: ignore[index]  # as above
            if type(piece) is bytes and self._send_whole(piece):
                return
            self._write(piece, len(piece))
        elif kind is FileWrapper:
            self._send_blocks(result)
        else:
            for piece in result:
                self._write(piece, None)
                if self._mute:
                    break
        self._end()
        self.whole = True

    def refuse(self, status: int, why: str, fields: str = "") -> None:
        """Send a response of the server's own in place of the application's, unless that has begun.

        Args:
            status: The status code.
            why: One clause in ASCII.
            fields: Further header lines, each with its CRLF.
        """
        self._channel.keep = False
        if self.begun:
            return
        head, body = answer(status, why, fields)
        self.status = str(status)
        self.begun = True
        self._length = len(body)
        self._left = 0  # of what the application may still write
        if not self.head_only:
            head += body
            self.sent = len(body)
        self._channel.send(head)

    def _send_whole(self, body: bytes) -> bool:
        """Send all there is at once, as nearly every response is sent; False when it isn't of that kind."""
        size, length = len(body), self._length
        if not 0 < size <= _COPIED or (length is not None and length != size):
            return False
        if self.begun or self.head_only or self._bodiless or not self.status:
            return False
        if self.before is not None:
            self.before()
        self.begun = True
        channel = self._channel
        keep = channel.keep
        framing = b"Content-Length: %d\r\n" % size if length is None else b""
        date, end = b"" if self._dated else date_line(), self._persists if keep else _CLOSE
        self._length, self._left, self.sent = size, 0, size
        # What is held back leaves in one packet with the FIN of the close that follows at once, if one does.
        channel.send(b"%b%b%b%b%b" % (self._lines, framing, date, end, body), more=not keep)
        self.whole = True
        return True

    def _write(self, data: bytes, known: int | None) -> None:
        """Send ``data``; ``known`` is the whole body's length when this is all of it."""
        if not isinstance(data, bytes):
            raise TypeError(f"the body of a response is bytes, not {type(data).__name__}")
        if not data:
            return
        head = b"" if self.begun else self._head(known)
        if not self._mute:
            self._send_piece(head, data, more=known is not None and not self._channel.keep)
        elif head:
            self._channel.send(head)
            self.whole = True

    def _send_piece(self, head: bytes, data: bytes, *, more: bool) -> None:
        piece = data
        if self._left is not None:
            piece = data[: self._left]
            self._left -= len(piece)
        self.sent += len(piece)
        if self._chunked:
            self._send_chunk(head, piece)
        elif len(piece) > _COPIED:
            if head:
                self._channel.send(head, more=True)
            self._channel.send(piece)
        elif head or piece:
            # What is held back leaves in one packet with the FIN of the close that follows at once, if one does.
            self._channel.send(head + piece, more=more)
        if self._left == 0:
            self.whole = True
        if len(piece) < len(data):
            raise ValueError("the response is longer than its Content-Length; the rest was not sent")

    def _send_chunk(self, head: bytes, piece: bytes) -> None:
        head = b"%b%x\r\n" % (head, len(piece))
        if len(piece) <= _COPIED:
            self._channel.send(b"%b%b\r\n" % (head, piece))
        else:
            self._channel.send(head, more=True)
            self._channel.send(piece, more=True)
            self._channel.send(b"\r\n")

    def _end(self) -> None:
        if not self.begun:
            self._channel.send(self._head(0))
        elif self._chunked:
            self._channel.send(b"0\r\n\r\n")
        elif self.cut:
            self._channel.reset_on_close(False)  # now its end says that it is whole
        if self._left and not self._mute:
            raise ValueError(f"the response is shorter than its Content-Length, by {self._left} bytes")

    def _head(self, known: int | None) -> bytes:
        """The head, as it has to be for a body whose length is ``known``, or not (None)."""
        if not self.status:
            raise RuntimeError("start_response() was not called before the first bytes of the body")
        self._mute = mute = self.head_only or self._bodiless
        length = self._length
        framing = b""
        if length is None:
            if known is not None and (known or not mute) and not self._bodiless:
                length = self._length = known  # of a HEAD's body, too, when the application made one nevertheless
                framing = b"Content-Length: %d\r\n" % length
            elif self.http11 and not mute:
                self._chunked = True
                framing = b"Transfer-Encoding: chunked\r\n"
        self._left = length
        if self.before is not None:
            self.before()
        self.begun = True
        channel = self._channel
        if channel.keep and (mute or self._chunked or length is not None):
            end = self._persists
        else:  # among others where the end of the connection is what ends the body
            channel.keep = False
            end = _CLOSE
            if self.cut:
                channel.reset_on_close(True)  # whatever it is that comes between, this process's death too
        return b"%b%b%b%b" % (self._lines, framing, b"" if self._dated else date_line(), end)

    def _send_blocks(self, wrapper: Iterable[bytes]) -> None:
        """Send a file by reading it: up to the Content-Length, for it may have grown since, as the kernel does it."""
        for block in wrapper:
            left = self._left if self.begun else self._length
            piece = block if left is None else block[:left]
            self._write(piece, None)
            if self._mute or len(piece) == left:
                break
            self._channel.progress()  # a file goes by itself, as fast as its reader is

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Send a file by the kernel; False when it has to be read instead."""
        if self.begun or not self._channel.can_sendfile:
            return False
        span = wrapper.span()
        if span is None:
            return False
        count = span.length if self._length is None else min(span.length, self._length)
        head = self._head(span.length)
        if self._mute or not count:
            self._channel.send(head)
            return True
        self._channel.send(head, more=True)
        sent = self._channel.sendfile(span.fd, span.offset, count)
        self.sent += sent
        if self._left is not None:
            self._left -= sent
        self._end()
        return True


_HeadLines = tuple[bytes, int | None, bool, bool, bool]


def _lines(status: str, headers: tuple[tuple[str, str], ...]) -> _HeadLines:
    """What is sent of a status and header fields, and what they say.

    Returns:
        Their lines, with Content-Length once and as the last; that length, or None; whether Date is among them; whether
        such a status allows no body; whether the connection is to be closed.

    Raises:
        ValueError: As `Response.start`.
        TypeError: As `Response.start`.
    """
    line = _status_line(status)
    lines = []
    length = None
    dated = closes = False
    for name, value in headers:
        special = _special(name)
        if special == "content-length":
            length = _parse_length(value, length)
            continue
        field = name + ": " + value + "\r\n"  # a value that is no str raises TypeError here
        if not value.isprintable() and _CONTROL.search(value):
            raise ValueError(f"the value of {name} holds a control character: {value!r}")
        if special in _HOP_BY_HOP:
            closes |= special == "connection" and "close" in value.lower()
            _say_left_out(special)
            continue
        dated |= special == "date"
        lines.append(field)
    code = status[:3]
    if code in _LENGTHS:
        length = _LENGTHS[code]
    if length is not None:
        lines.append(f"Content-Length: {length}\r\n")
    return line + "".join(lines).encode("latin-1"), length, dated, code in _BODILESS, closes


_remembered: dict[tuple[str, tuple[tuple[str, str], ...]], _HeadLines] = {}


def _known_lines(status: str, headers: tuple[tuple[str, str], ...]) -> _HeadLines:
    """As `_lines`, worked out once for what an application answers again and again. Long ones rarely are the same."""
    try:
        found = _remembered.get((status, headers))
    except TypeError:  # something is not a str, or a pair is a list
        return _lines(status, headers)
    if found is None:
        found = _lines(status, headers)
        if len(found[0]) <= _LONGEST:
            if len(_remembered) >= _REMEMBERED:
                _remembered.clear()
            _remembered[status, headers] = found
    return found


@functools.lru_cache(maxsize=256)
def _status_line(status: str) -> bytes:
    if not isinstance(status, str):
        raise TypeError(f"the status is a str, not {type(status).__name__}")
    if not _STATUS.fullmatch(status):
        raise ValueError(f'the status is not of the form "200 OK": {status!r}')
    # PEP 3333 wants a reason, and other servers do without; the blank before it has to be there (RFC 9112, 4).
    return f"HTTP/1.1 {status[:3]} {status[4:]}\r\n".encode("latin-1")


@functools.lru_cache(maxsize=512)
def _special(name: str) -> str:
    """The lower-case name of a header field that the server looks at itself; "" for any other that may be sent."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a header field is a str, not {type(name).__name__}")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"the name of a header field is not a token: {name!r}")
    lowered = name.lower()
    return lowered if lowered in _HOP_BY_HOP or lowered in {"content-length", "date"} else ""


@functools.cache
def _say_left_out(name: str) -> None:
    """Once for each name in a process."""
    told = "the application answers with %s, which is left out: hop-by-hop fields are the server's (PEP 3333)"
    log.warning(told, name)


def _parse_length(value: str, before: int | None) -> int:
    if not isinstance(value, str):
        raise TypeError(f"the value of a header field is a str, not {type(value).__name__}")
    if not (value.isascii() and value.isdecimal() and len(value) <= _LENGTH_DIGITS):
        raise ValueError(f"the Content-Length is not a number: {value!r}")
    length = int(value)
    if before not in (None, length):
        raise ValueError("there are two Content-Lengths")
    return length
