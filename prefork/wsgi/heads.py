"""Heads of requests, each read once: who asks again sends the same fields again, and most of a head is fields.

What stands below the request line says the same whatever that line asks for, so what was understood of it is remembered
by its bytes. A client that keeps its connection, a health check and a proxy's requests without cookies cost a look into
a dictionary each; everybody else costs what parsing costs. Only a request line of the plainest kind, about which
no two servers differ, is put before remembered fields; with any other the head is parsed anew, as a whole.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from prefork.wsgi.forwarded import READ
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.parser import check_host, expects_continue, parse_head, persists, transfer_length
from prefork.wsgi.refusal import RequestError

_PLAIN: Final = re.compile(rb'(GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS) (/[!"$-~]*) (?=HTTP/1\.[01]\r\n)')
_REMEMBERED: Final = 128  # heads
_LONGEST: Final = 2048  # bytes of a head that is remembered


class HeadFields(NamedTuple):
    """What a head says below its first line.

    Attributes:
        environ: SERVER_PROTOCOL and the header fields, as the environ has them; not to be changed.
        http11: Whether the request is of HTTP/1.1.
        length: Of the body in bytes, or `prefork.wsgi.parser.CHUNKED`.
        expected: Whether the client waits for 100 (Continue).
        persists: Whether the client wants the connection to be kept.
        last: Whether it has announced in so many words to send no more.
        forwarded: Whether it has fields that `prefork.wsgi.forwarded.apply` reads.
    """

    environ: dict[str, Any]
    http11: bool
    length: int
    expected: bool
    persists: bool
    last: bool
    forwarded: bool


class Heads:
    """Reads heads. One for each worker.

    Args:
        options: The limits.
    """

    def __init__(self, options: WSGIOptions) -> None:
        self._options = options
        self._known: dict[bytes, HeadFields] = {}
        self._known_of_strangers: dict[bytes, HeadFields] = {}

    def read(self, head: bytes, environ: dict[str, Any], *, proxied: bool) -> tuple[bytes, HeadFields]:
        """Put the request line and the header fields into the environ.

        Args:
            head: From the request line to the empty line.
            environ: Gets the entries; has none of the kind yet.
            proxied: As for `prefork.wsgi.parser.parse_head`.

        Returns:
            The request target as it came, and what else the head says.

        Raises:
            RequestError: Why this is no request that can be served.
        """
        known = self._known if proxied else self._known_of_strangers
        plain = _PLAIN.match(head)
        if plain is None:
            return self._parsed(head, environ, proxied=proxied)
        rest = head[plain.end() :]
        fields = known.get(rest)
        if fields is not None and len(head) - len(rest) + len("HTTP/1.1") <= self._options.limit_request_line:
            environ.update(fields.environ)
            environ["REQUEST_METHOD"] = plain[1].decode("ascii")
            return plain[2], fields
        target, fields = self._parsed(head, environ, proxied=proxied)
        if len(rest) <= _LONGEST:
            if len(known) >= _REMEMBERED:
                known.clear()
            known[rest] = fields
        return target, fields

    def _parsed(self, head: bytes, environ: dict[str, Any], *, proxied: bool) -> tuple[bytes, HeadFields]:
        parsed: dict[str, Any] = {}
        try:
            target = parse_head(head, parsed, self._options, proxied=proxied)
            check_host(parsed)
            length = transfer_length(parsed)
            expected = expects_continue(parsed)
        except RequestError:
            environ.update(parsed)  # what was understood of a request that is refused is for the access log
            environ.update(_request_line(head, self._options.limit_request_line))
            raise
        environ.update(parsed)
        del parsed["REQUEST_METHOD"]
        wish = parsed.get("HTTP_CONNECTION", "")
        http11 = parsed["SERVER_PROTOCOL"] == "HTTP/1.1"
        kept, forwarded = persists(wish, http11=http11), not READ.isdisjoint(parsed)
        return target, HeadFields(parsed, http11, length, expected, kept, wish == "close", forwarded)


def _request_line(head: bytes, longest: int) -> dict[str, str]:
    """The words of the request line as they came, if there are three, for the environ of a request that is refused."""
    line = head.partition(b"\r\n")[0]
    words = line.decode("latin-1").split(" ") if len(line) <= longest else []
    names = "REQUEST_METHOD", "REQUEST_URI", "SERVER_PROTOCOL"
    return dict(zip(names, words, strict=True)) if len(words) == len(names) and all(words) else {}
