"""The head of a request: from the bytes of a stranger to names and values that can be relied on.

httptools (llhttp) does the parsing. Two readings of one request are how requests are smuggled, so nothing is let pass
that another server on the way may read otherwise: a CR or LF that is not part of a CRLF, control characters, folded
lines, spaces around names, more than single spaces in the request line, both of Content-Length and Transfer-Encoding,
any doubt about either, and a Host that can't be one. Most of that is llhttp's own strictness, which older versions
lack; `check_strictness` finds out once what the installed one does, and what it can't be trusted with is checked here.

Where it is stricter than the RFCs (a list of methods, a tab behind "chunked", minor versions to come), the head is put
in other words that mean the same, and parsed once more. That costs those requests alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Final

from prefork.errors import PreforkError
from prefork.system.remembered import Remembered
from prefork.wsgi.channel import RECEIVE, Channel
from prefork.wsgi.forwarded import proxys_own
from prefork.wsgi.host import valid_host
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.refusal import ClientGoneError, NothingYetError, RequestError

try:
    import httptools
except ImportError as error:
    raise PreforkError("the WSGI server needs httptools; install it with: pip install 'prefork[wsgi]'") from error

LEFT_OUT: Final = "prefork.left_out"
"""What the environ has in place of all fields that only a proxy has a use for, where they are left out."""

CHUNKED: Final = -1
"""The length of a body that says itself where it ends."""

_FIRST_RECEIVE: Final = 1 << 14  # bytes; more than a head needs, and little enough that malloc(3) keeps it at hand
_END: Final = b"\r\n\r\n"
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
# RFC 9110, 2.5: a minor version to come is served as the latest that is known.
_PROTOCOLS: Final = {b"HTTP/1.0": "HTTP/1.0"} | {b"HTTP/1.%d" % minor: "HTTP/1.1" for minor in range(1, 10)}
_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
# Tunnels, which nobody digs here; RTSP's methods (RFC 2326, 10), which llhttp keeps for it; the preface of HTTP/2.
_NOT_OURS: Final = frozenset(
    b"CONNECT DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH PRI".split()
)
_CHUNKED_AND_BLANKS: Final = re.compile(rb"(\r\nTransfer-Encoding:[ \t]*chunked)[ \t]+(?=\r\n)", re.IGNORECASE)
_LENGTH: Final = re.compile(r"[0-9]+")
_DIGITS: Final = 18  # of a Content-Length, leading zeros aside: more bytes than anybody stores
_SINGLE: Final = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"})
_UNPREFIXED: Final = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})


_LAX: Final = {
    "a bare LF": (
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nB:\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n\r\n",
        b"GET /\n HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    "a bare CR": (
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\rB: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    "folded lines": (
        b"GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n d\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\td\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nB:\r\n d\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\tHost: a\r\n\r\n",
    ),
    "control characters": (
        b"GET / HTTP/1.1\r\nHost: a\r\nB: c\0d\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nB: c\x7fd\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    "bytes in targets that must be escaped": (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",),
    "bad names of header fields": (
        b"GET / HTTP/1.1\r\nHost: a\r\nB : c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nB\t: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nB\0: c\r\n\r\n",
    ),
}
"""Heads that must not be accepted, by what accepting them would be."""


@functools.cache
def check_strictness() -> None:
    """Refuse to serve on an httptools that is too lenient to be safe.

    Raises:
        PreforkError: Which leniency it has.
    """
    for leniency, heads in _LAX.items():
        for head in heads:
            try:
                httptools.HttpRequestParser(_Fields({}, _key)).feed_data(head)
            except httptools.HttpParserError:
                continue
            raise PreforkError(
                f"httptools {httptools.__version__} accepts {leniency} in requests, which is not safe; "
                "install another: pip install --upgrade httptools"
            )


def without_empty_lines(rest: bytes) -> bytes:
    """What has come behind a request, or nothing when it is but CRLF and again CRLF: those begin no other request."""
    return b"" if rest == b"\r\n" * (len(rest) // 2) else rest


def read_head(
    channel: Channel, options: WSGIOptions, received: bytes = b"", *, keeps: bool = False
) -> tuple[bytes, bytes]:
    """Receive until the empty line that ends the head. Empty lines before it are passed over.

    Args:
        channel: The connection.
        options: The limits.
        received: What came behind the request before.
        keeps: Whether a client who has sent nothing, or nothing but empty lines, can be waited for elsewhere.

    Returns:
        The head, the empty line included, and what came behind it.

    Raises:
        RequestError: It is too long, too slow, or can't become a request any more.
        ClientGoneError: The client closed the connection before it sent anything.
        NothingYetError: ``keeps``, and nothing else is there.
    """
    try:
        data = received or channel.receive(_FIRST_RECEIVE, elsewhere=keeps)
    except RequestError as refusal:
        # Browsers connect ahead of need; an answer here would be taken for that to their next request.
        raise ClientGoneError("no request came") from refusal
    end = data.find(_END)
    if end < 0 or data[0] < 0x21:
        data = _gather(channel, bytearray(data), options, keeps=keeps)
        end = data.find(_END)
    end += len(_END)
    return data[:end], data[end:]


def _gather(channel: Channel, buffer: bytearray, options: WSGIOptions, *, keeps: bool) -> bytes:
    """The way of a head that takes several receives, or that begins oddly."""
    if not buffer:
        raise ClientGoneError("no request came")
    seen = blank = 0
    while True:
        # RFC 9112, 2.2: some clients end the body of one request with an empty line too many. As many as there may be
        # fields are passed over, as Apache httpd does; nginx and llhttp know no limit.
        while buffer.startswith(b"\r\n"):
            del buffer[:2]
            seen = 0
            blank += 1
            if blank > options.limit_request_fields:
                raise RequestError(400, "there are too many empty lines before the request")
        if buffer and buffer != bytearray(b"\r") and not 0x21 <= buffer[0] <= 0x7E:
            raise RequestError(400, "this is not HTTP")
        if buffer.find(_END, max(0, seen - 3)) >= 0:
            return bytes(buffer)
        if keeps and not buffer:
            raise NothingYetError
        _refuse_early(buffer, seen, options)
        seen = len(buffer)
        buffer += _more(channel, begun=bool(buffer))


def _more(channel: Channel, *, begun: bool) -> bytes:
    """More of a head of which something, or nothing, has come."""
    try:
        piece = channel.receive(RECEIVE)
    except RequestError as refusal:
        if begun:
            raise
        raise ClientGoneError("no request came") from refusal
    if not piece:
        raise RequestError(400, "the request ended within its head") if begun else ClientGoneError("no request came")
    return piece


def _refuse_early(buffer: bytearray, seen: int, options: WSGIOptions) -> None:
    """Refuse what can't become a good head whatever follows, so that nobody waits for the rest of it."""
    at = buffer.find(b"\n", seen)
    while at >= 0:
        if buffer[at - 1] != 0x0D:
            raise RequestError(400, "a line does not end with CR LF")
        at = buffer.find(b"\n", at + 1)
    longest = options.limit_request_line
    if len(buffer) > longest + 2 and buffer.find(b"\r\n", 0, longest + 2) < 0:
        raise RequestError(414, "the request line is too long")
    if len(buffer) > options.limit_head:
        raise RequestError(431, "the header fields are too long")


def parse_head(head: bytes, environ: dict[str, Any], options: WSGIOptions, *, proxied: bool = True) -> bytes:
    """Put the request line and the header fields into the environ.

    Sets REQUEST_METHOD, SERVER_PROTOCOL, CONTENT_TYPE, CONTENT_LENGTH and HTTP_*. Fields of one name are joined. Names
    with an underscore are left out, since in the environ they would pass for others; so is Proxy, which programs
    started by the application would take for the variable HTTP_PROXY.

    Args:
        head: From the request line to the empty line.
        environ: Gets the entries; has none of the kind yet.
        options: The limits.
        proxied: Whether `prefork.wsgi.forwarded.proxys_own` fields are kept. Else they are left out, and the environ
            has `LEFT_OUT` if there were any.

    Returns:
        The request target as it came.

    Raises:
        RequestError: Why this is no request that can be served.
    """
    _check_sizes(head, options)
    end = head.find(b"\r\n")
    method, target, protocol = _split_request_line(head[:end])
    key = _key if proxied else _key_of_a_stranger
    try:
        _feed(head, environ, key)
    except httptools.HttpParserError as error:
        if not _TOKEN.fullmatch(method.encode("latin-1")):
            raise RequestError(400, "the method is not a token") from None
        # Method and version have been looked at, and llhttp makes no difference between those that are left.
        plain = b"GET %b %b%b" % (target, protocol.encode("ascii"), _CHUNKED_AND_BLANKS.sub(rb"\1", head[end:]))
        if plain == head:
            raise _refusal(error, environ) from None
        again: dict[str, Any] = {}
        try:
            _feed(plain, again, key)
        except httptools.HttpParserError as worse:
            raise _refusal(worse, again) from None
        environ.update(again)
    environ["REQUEST_METHOD"] = method
    environ["SERVER_PROTOCOL"] = protocol
    return target


def _feed(head: bytes, environ: dict[str, Any], key: Callable[[bytes], str]) -> None:
    fields = _Fields(environ, key)
    try:
        httptools.HttpRequestParser(fields).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade is an offer; a server that does not take it answers as usual
    except httptools.HttpParserCallbackError as error:
        raise error.__context__ or error from None
    if fields.repeated:
        fields.join()


def _refusal(error: Exception, environ: dict[str, Any]) -> RequestError:
    if "HTTP_TRANSFER_ENCODING" in environ:
        try:
            transfer_length(environ)  # it may have a better name for what llhttp objects to
        except RequestError as better:
            return better
    return RequestError(400, f"{error}")


def _check_sizes(head: bytes, options: WSGIOptions) -> None:
    if head.count(b"\n") - 2 > options.limit_request_fields:
        raise RequestError(431, "there are too many header fields")
    if len(head) <= options.limit_request_line and len(head) <= options.limit_request_field_size:
        return
    line, *fields = head.split(b"\r\n")
    if len(line) > options.limit_request_line:
        raise RequestError(414, "the request line is too long")
    if max(map(len, fields)) > options.limit_request_field_size:
        raise RequestError(431, "a header field is too long")


def _split_request_line(line: bytes) -> tuple[str, bytes, str]:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise RequestError(400, "the request line is not: method, target, version")
    method, target, version = parts
    protocol = _PROTOCOLS.get(version)
    if protocol is None:
        if _VERSION.fullmatch(version):
            raise RequestError(505, "give HTTP/1.1 or HTTP/1.0")
        raise RequestError(400, "the version of HTTP can't be read")
    if b"#" in target:
        raise RequestError(400, "the target holds a fragment")
    if method in _NOT_OURS:
        raise RequestError(501, "the method is another protocol's")
    return method.decode("latin-1"), target, protocol


class _Fields:
    """What httptools calls with each header field.

    Attributes:
        repeated: The values, in their order, of those that are there several times. They are joined at the end: to join
            each to all before it would take as long as the square of how many there are.
    """

    __slots__ = ("_environ", "_key", "repeated")

    # httptools looks for these; finding None is cheaper than finding nothing.
    on_message_begin = on_url = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = on_status = None

    def __init__(self, environ: dict[str, Any], key: Callable[[bytes], str]) -> None:
        self._environ = environ
        self._key = key
        self.repeated: dict[str, list[str]] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        key = self._key(name)
        if not key:
            return
        text = value.decode("latin-1").strip(" \t")
        environ = self._environ
        if key in environ:
            if key in _SINGLE:
                raise RequestError(400, f"{name.decode('ascii')} is there twice")
            self.repeated.setdefault(key, [environ[key]]).append(text)
        else:
            environ[key] = text

    def join(self) -> None:
        """Make one of those that are there several times."""
        for key, values in self.repeated.items():
            # RFC 9110, 5.3; cookies are told apart by another sign (RFC 6265, 5.4).
            self._environ[key] = ("; " if key == "HTTP_COOKIE" else ",").join(values)


def _named(name: bytes) -> str:
    """The environ's name of a header field; "" for one that is left out."""
    if not _TOKEN.fullmatch(name):
        raise RequestError(400, "the name of a header field is not a token")
    key = name.decode("ascii").upper().replace("-", "_")
    if b"_" in name or key == "PROXY":
        return ""
    return key if key in _UNPREFIXED else f"HTTP_{key}"


def _named_by_a_stranger(name: bytes) -> str:
    """The same for a peer who is no trusted proxy."""
    key = _named(name)
    return LEFT_OUT if proxys_own(key) else key


_key: Final = Remembered(_named).__getitem__
_key_of_a_stranger: Final = Remembered(_named_by_a_stranger).__getitem__


def check_host(environ: dict[str, Any]) -> None:
    """Refuse a Host that is missing from HTTP/1.1, or that can't name a host (RFC 9112, 3.2)."""
    host = environ.get("HTTP_HOST")
    if host is None:
        if environ["SERVER_PROTOCOL"] == "HTTP/1.1":
            raise RequestError(400, "there is no Host")
    elif not valid_host(host):
        raise RequestError(400, "the Host can't be one")


def persists(connection: str, *, http11: bool) -> bool:
    """Whether the client wants the connection to be kept (RFC 9112, 9.3). Pure.

    Args:
        connection: The field Connection; "" when there is none.
        http11: Whether the request is of HTTP/1.1.
    """
    options = _OPTIONS[connection]
    return "close" not in options and (http11 or "keep-alive" in options)


def _options(connection: str) -> frozenset[str]:
    return frozenset(option.strip(" \t").lower() for option in connection.split(","))


_OPTIONS: Final = Remembered(_options, most=64)


def transfer_length(environ: dict[str, Any]) -> int:
    """How long the body is (RFC 9112, 6.3).

    Args:
        environ: As `parse_head` fills it; Transfer-Encoding goes, since the application is given the decoded body, and
            a Content-Length loses its leading zeros.

    Returns:
        Bytes, or `CHUNKED`.

    Raises:
        RequestError: Its length can't be known, or not without doubt.
    """
    length = environ.get("CONTENT_LENGTH")
    coding = environ.pop("HTTP_TRANSFER_ENCODING", None)
    if coding is not None:
        if length is not None:
            raise RequestError(400, "there are both Content-Length and Transfer-Encoding")
        if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
            raise RequestError(400, "HTTP/1.0 has no Transfer-Encoding")
        if not coding:
            raise RequestError(400, "the Transfer-Encoding is empty")
        if coding.lower() != "chunked":
            raise RequestError(501, "the Transfer-Encoding is not known")
        return CHUNKED
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise RequestError(400, "the Content-Length is not a number")
    if length[0] == "0":
        length = environ["CONTENT_LENGTH"] = length.lstrip("0") or "0"
    if len(length) > _DIGITS:
        raise RequestError(400, "the Content-Length is beyond all measure")
    return int(length)


def expects_continue(environ: dict[str, Any]) -> bool:
    """Whether the client waits for 100 (Continue) before it sends the body (RFC 9110, 10.1.1).

    Raises:
        RequestError: It expects something else.
    """
    expectation = environ.get("HTTP_EXPECT")
    if expectation is None or environ["SERVER_PROTOCOL"] == "HTTP/1.0":
        return False
    if expectation.lower() == "100-continue":
        return True
    members = {member.strip(" \t").lower() for member in expectation.split(",")} - {""}  # RFC 9110, 5.6.1
    if members - {"100-continue"}:
        raise RequestError(417, "give 100-continue or nothing")
    return bool(members)
