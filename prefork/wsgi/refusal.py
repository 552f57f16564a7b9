"""Why a request gets no answer of the application's, and what it gets in its place."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

from prefork.system.natives import time


class RequestError(OSError):
    """A request, or the way in which it comes, can't be served.

    It is an OSError because an application may meet it: reading ``wsgi.input`` is where a body shows its defects.

    Args:
        status: The status code that says so to the client.
        why: One clause for the client and the log.
        fields: Further header lines of the answer, each with its CRLF.
    """

    def __init__(self, status: int, why: str, fields: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.fields = fields


class ClientGoneError(ConnectionError):
    """The client can't be answered any more: it has closed the connection, or it was lost."""


class NothingYetError(Exception):
    """Nothing of a request has come, and who may send one can be waited for elsewhere, with others.

    Args:
        channel: What he would send it through, as far as that is known.
    """

    def __init__(self, channel: Any = None) -> None:
        super().__init__("no request has come yet")
        self.channel = channel


_date: tuple[int, bytes] = (0, b"")  # a pure cache: any thread may replace it by one that is as right


def date_line() -> bytes:
    """The line ``Date: ...`` of this second, its CRLF included (RFC 9110, 6.6.1)."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode("ascii"))
    return _date[1]


_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def answer(status: int, why: str, fields: str = "") -> tuple[bytes, bytes]:
    """A whole response of the server's own.

    Args:
        status: A status code that `http.HTTPStatus` knows.
        why: One clause in ASCII, which becomes the body.
        fields: Further header lines, each with its CRLF.

    Returns:
        Its head, and its body.
    """
    body = f"{status} {_PHRASES[status]}: {why}\n".encode("ascii", "backslashreplace")
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n{fields}Connection: close\r\n"
    )
    return head.encode("ascii") + date_line() + b"\r\n", body
