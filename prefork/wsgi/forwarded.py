"""What a proxy in front says of its client, and whose word is taken for it.

Anybody can write ``X-Forwarded-For``. So these fields change the environ only when the connection comes from a peer
that the user trusts, and are taken out of it otherwise, where an application could believe them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

Network = IPv4Network | IPv6Network

NAMES: Final = frozenset(
    {
        "HTTP_FORWARDED",
        "HTTP_X_FORWARDED_BY",
        "HTTP_X_FORWARDED_FOR",
        "HTTP_X_FORWARDED_HOST",
        "HTTP_X_FORWARDED_PORT",
        "HTTP_X_FORWARDED_PREFIX",
        "HTTP_X_FORWARDED_PROTO",
        "HTTP_X_FORWARDED_PROTOCOL",
        "HTTP_X_FORWARDED_SCHEME",
        "HTTP_X_FORWARDED_SERVER",
        "HTTP_X_FORWARDED_SSL",
        "HTTP_X_REAL_IP",
    }
)
"""The environ's names of the fields by which proxies speak of their client."""


def parse_networks(text: str) -> tuple[Network, ...] | None:
    """Read ``forwarded_allow_ips``. Pure.

    Returns:
        The networks that are trusted; None when everybody is ("*").

    Raises:
        ValueError: A part is neither address nor network; the message is a noun phrase that shows it.
    """
    networks: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part == "*":
            return None
        try:
            networks.append(ip_network(part))
        except ValueError:
            raise ValueError(f"{part!r}, which is no address and no network") from None
    return tuple(networks)


def truster(text: str) -> Callable[[str], bool]:
    """The question whether an address is that of a trusted proxy, from ``forwarded_allow_ips``."""
    networks = parse_networks(text)

    @functools.lru_cache(maxsize=1024)
    def trusts(host: str) -> bool:
        if networks is None:
            return True
        address = _address(host)
        return address is not None and any(address in network for network in networks)

    return trusts


def apply(environ: dict[str, Any], trusts: Callable[[str], bool]) -> None:
    """Let the environ say what a trusted proxy says, or nothing of it.

    From a trusted peer, ``X-Forwarded-Proto`` becomes ``wsgi.url_scheme``, and the last address in
    ``X-Forwarded-For`` that is not itself a trusted proxy's becomes ``REMOTE_ADDR``; each proxy appends the address
    it was called from, so whatever stands before that one may be the client's invention. The fields stay where
    they are, for an application that reads them itself. From any other peer they are removed.

    Args:
        environ: A request's; ``REMOTE_ADDR`` is the peer, "" for a unix socket, whose permissions say who may connect.
        trusts: From `truster`.
    """
    peer = environ["REMOTE_ADDR"]
    if peer and not trusts(peer):
        for name in NAMES:
            environ.pop(name, None)
        return
    proto = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
    if proto in {"http", "https"}:
        environ["wsgi.url_scheme"] = proto
    client = None
    for hop in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
        address = _address(_without_port(hop.strip()))
        if address is None:
            break
        client = str(address)
        if not trusts(client):
            break
    if client is not None:
        environ["REMOTE_ADDR"] = client
        environ.pop("REMOTE_PORT", None)  # it is the proxy's, and nobody tells the client's


def _address(text: str) -> IPv4Address | IPv6Address | None:
    if "%" in text:
        return None  # a zone says something to one machine alone (RFC 4007, 11.2), and may be any text
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A socket that takes IPv6 and IPv4 shows an IPv4 peer as ::ffff:a.b.c.d (ipv6(7)).
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
