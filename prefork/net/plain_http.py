"""Who sends a plain HTTP request to a port that speaks TLS is answered in plain HTTP, as nginx does: 400, and why.

OpenSSL knows the commonest methods by their looks. Of others it has taken the five bytes that would be the head of a
record, and says that their version is wrong; then the rest tells.

Imported where a certificate is in use, for it needs `ssl`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
from typing import Any, Final

from prefork.system.natives import socket
from prefork.system.throttle import Throttle

SAID: Final = "it speaks plain HTTP, and was answered 400"
"""Why there is no TLS with a client, for the log."""

_LOOKS: Final = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})
_REQUEST_LINE: Final = re.compile(rb"(?:[^\r\n]* H|H)?TTP/[0-9]")  # behind the first five bytes
_LINE: Final = 4096  # bytes to look for it in
_TEXT: Final = b"400 Bad Request: this port speaks TLS, and the request came without; use https\n"
_HEAD: Final = (
    "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n"
    "Connection: close\r\n\r\n"
)
ANSWER: Final = _HEAD.format(len(_TEXT)).encode() + _TEXT
"""What such a client is sent, where nobody has an answer of his own."""


def failed_of_it(error: object, rest: bytes) -> bool:
    """Whether a handshake failed because the client has sent a request.

    Args:
        error: What it failed of.
        rest: What has come behind the first five bytes, as far as it is there.
    """
    reason = getattr(error, "reason", None)
    return reason in _LOOKS or (reason is not None and _REQUEST_LINE.match(rest) is not None)


def sent_on(secured: ssl.SSLSocket, error: object) -> bool:
    """The same for a socket, whose rest is looked at and left there. Never blocks."""
    if getattr(error, "reason", None) in _LOOKS:
        return True
    try:
        rest = socket.socket.recv(secured, _LINE, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except OSError:
        return False
    return failed_of_it(error, rest)


def send(secured: ssl.SSLSocket, answer: bytes = ANSWER) -> None:
    """Send something as it is, without TLS, as far as there is room for it. Never blocks."""
    with contextlib.suppress(OSError):
        socket.socket.send(secured, answer, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class LoopContext(ssl.SSLContext):
    """A context that answers on memory buffers (`ssl.SSLObject`) as well, which is what event loops have.

    Attributes:
        made_of: A digest of the files that it was made of; b"" when that is not known.
    """

    made_of = b""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *given: Any, **named: Any) -> ssl.SSLObject:
        """Make the TLS of one connection."""
        made = super().wrap_bio(incoming, outgoing, *given, **named)
        if isinstance(made, _AnsweringTLS):
            made.buffers = incoming, outgoing
        return made


class _AnsweringTLS(ssl.SSLObject):
    """The TLS of one connection of an event loop."""

    buffers: tuple[ssl.MemoryBIO, ssl.MemoryBIO] | None = None

    def do_handshake(self) -> None:
        """Go on with the handshake.

        Raises:
            ssl.SSLWantReadError: Something is still to come; a loop sends what is in the buffer then. That is so behind
                an answer, too: the client closes, or the time for a handshake ends.
            ssl.SSLError: It has failed.
        """
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if self.buffers is None:
                raise
            incoming, outgoing = self.buffers
            if getattr(error, "reason", None) is None or not failed_of_it(error, incoming.read(_LINE)):
                raise
            self.buffers = None
            outgoing.read()  # an alert would be the first line of the answer
            outgoing.write(ANSWER)
            _told.tell(logging.INFO, SAID, "no TLS with a client: %s", SAID)
            raise ssl.SSLWantReadError from error


LoopContext.sslobject_class = _AnsweringTLS

_told: Final = Throttle(logging.getLogger("prefork"))
