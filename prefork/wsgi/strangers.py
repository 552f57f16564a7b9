"""Peers that speak as proxies do and are not known as such: told of, for nothing else shows why clients can't be told.

Who runs a server behind a proxy that he has not named finds every client at the proxy's address and without TLS. One
line an hour and server says which peer it is and what to set. Clients from the internet who try their luck have a line
of their own, so that they don't use up the one for a proxy.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from prefork.config.networks import PRIVATE, truster
from prefork.errors import printable
from prefork.system.throttle import SharedThrottle
from prefork.wsgi.forwarded import KEPT, proxys_own
from prefork.wsgi.parser import LEFT_OUT

_NAMED: Final = 4  # fields that a line names at the most
_TELLING: Final = frozenset(
    f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "PROTO", "HOST", "PORT", "SSL", "SCHEME", "PREFIX", "SERVER")
) | {"HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_X_CLIENT_IP", "HTTP_X_SCHEME", "HTTP_TRUE_CLIENT_IP"}
"""What every proxy sends some of: to look for these alone is cheap, where the fields are kept."""


log = logging.getLogger("prefork")


class Strangers:
    """WORKER. Looks at the requests of those who are no trusted proxies.

    Args:
        throttle: From `prefork.wsgi.common.Common`; None where nobody is to be told.
    """

    def __init__(self, throttle: SharedThrottle | None) -> None:
        self._throttle = throttle
        self._private = truster(PRIVATE)

    def look(self, environ: dict[str, Any], head: bytes, standing: int) -> None:
        """Tell, now and then, that a peer who is not trusted has sent what proxies send.

        Args:
            environ: The request's, as `prefork.wsgi.parser.parse_head` has filled it; `LEFT_OUT` goes.
            head: The request's.
            standing: The peer's.
        """
        if LEFT_OUT in environ:
            del environ[LEFT_OUT]
        elif standing != KEPT or _TELLING.isdisjoint(environ):
            return
        if self._throttle is None:
            return
        peer = environ["REMOTE_ADDR"]
        private = self._private(peer)
        if self._throttle.lets_through(private):
            log.warning("%s", _line(peer, _sent(head), kept=standing == KEPT, private=private))


def _line(peer: str, fields: str, *, kept: bool, private: bool) -> str:
    fate = "the application sees them, prefork does not believe them" if kept else "they were left out"
    told = f"{peer} is not in forwarded_allow_ips and sends {fields}: {fate}"
    if private:
        return f"{told}; if it is your proxy, give --forwarded-allow-ips {peer}, its network, or {PRIVATE}"
    return f"{told}; if it is your proxy and no client, give --forwarded-allow-ips {peer}, or its network"


def _sent(head: bytes) -> str:
    """The names of the fields in a head that only a proxy has a use for, as they were written."""
    names = [line.partition(b":")[0].decode("latin-1") for line in head.split(b"\r\n")[1:]]
    found = list(dict.fromkeys(name for name in names if proxys_own(f"HTTP_{name.upper().replace('-', '_')}")))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return printable(", ".join(found[:_NAMED]) + more)
