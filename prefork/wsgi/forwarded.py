"""What a proxy in front says of its client, and whose word is taken for it.

Anybody can write ``X-Forwarded-For``. So these fields change what the server says of a request only when the connection
comes from a peer that the user trusts. Whether an application sees those of anybody else is `STANDINGS`' affair: a
proxy on another machine that nobody has named yet has a private address, and its word reaches the application, as
with other servers; a stranger's is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from prefork.config.networks import DEFAULT_ALLOWED, PRIVATE, address_of, truster

_CLIENT: Final = """
    Ali-CDN-Real-IP CDN-Real-IP CDN-Src-IP CF-Connecting-IP CF-Connecting-IPv6 CF-Pseudo-IPv4 Client-Cert
    Client-Cert-Chain Client-IP CloudFront-Viewer-Address Cluster-Client-IP DO-Connecting-IP Fastly-Client-IP
    Fly-Client-IP Incap-Client-IP Proxy-Client-IP Real-IP Remote-Addr Remote-IP True-Client-IP WL-Proxy-Client-IP
    X-Appengine-User-IP X-ARR-ClientCert X-Client-Cert X-Client-IP X-Client-Port X-Cluster-Client-IP X-From-IP
    X-NF-Client-Connection-IP X-Originating-IP X-ProxyUser-IP X-Real-IP X-Real-Port X-Remote-Addr X-Remote-IP
    X-Remote-Port X-SSL-Cert X-Sucuri-ClientIP X-True-Client-IP X-Vercel-Forwarded-For X-Vercel-Proxied-For
"""
_SCHEME: Final = """
    CF-Visitor CloudFront-Forwarded-Proto Fastly-SSL Fly-Forwarded-Port Fly-Forwarded-Proto Fly-Forwarded-SSL
    Front-End-Https WL-Proxy-SSL X-AppService-Proto X-ARR-SSL X-HTTPS X-Proto X-Scheme X-SSL X-Url-Scheme
"""
_TARGET: Final = """
    X-Host X-HTTP-DestinationURL X-HTTP-Host-Override X-Proxy-URL X-Rewrite-URI X-Rewrite-URL X-Script-Name
"""
_FAMILIES: Final = """
    Forwarded X-Forwarded X-Original- X-Azure-ClientIP X-Azure-SocketIP X-Envoy-External-Address SSL-Client-
    X-SSL-Client-
"""


def _keys(names: str) -> list[str]:
    return ["HTTP_" + name.upper().replace("-", "_") for name in names.split()]


LEFT_OUT: Final = 0
"""The standing of a peer whose fields of the kind the application doesn't see."""

KEPT: Final = 1
"""Of one whose fields the application sees, and the server doesn't believe."""

BELIEVED: Final = 2
"""Of a trusted proxy."""

ELSEWHERE: Final = "a unix socket elsewhere"
"""What stands for a peer that came to its proxy through a unix socket, whose permissions are none of ours."""

NAMES: Final = frozenset(_keys(_CLIENT + _SCHEME + _TARGET))
"""The environ's names of fields by which proxies speak of their client, how it came and what it asked for."""

BEGINNINGS: Final = tuple(_keys(_FAMILIES))
"""How the names of all others begin."""


READ: Final = frozenset(f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "PROTO", "SSL", "PROTOCOL"))
"""The environ's names of those that `apply` reads."""


def proxys_own(name: str) -> bool:
    """Whether only a proxy has a use for a header field: to say who its client is, how it came and what it asked for.

    Args:
        name: The environ's name of it.
    """
    return name in NAMES or name.startswith(BEGINNINGS)


@functools.lru_cache(maxsize=16)
def standings(mode: str, allowed: str) -> Callable[[str], int]:
    """The question what becomes of a peer's fields, from the settings ``forwarded`` and ``forwarded_allow_ips``.

    Args:
        mode: auto, trusted, keep or drop.
        allowed: Who is trusted.

    Returns:
        What gives the standing of a peer - `LEFT_OUT`, `KEPT` or `BELIEVED` - for its address as the kernel writes it;
        for "", a unix socket, whose permissions say who may connect, that of a trusted proxy.
    """
    if mode == "drop":
        return lambda _: LEFT_OUT
    trusts = truster(allowed)
    # Whoever has named his proxies has said that there are no others.
    keeps_private = mode == "auto" and allowed == DEFAULT_ALLOWED
    private = truster(PRIVATE) if keeps_private else None

    @functools.lru_cache(maxsize=1024)
    def standing(peer: str) -> int:
        if not peer or trusts(peer):
            return BELIEVED
        return KEPT if mode == "keep" or (private is not None and private(peer)) else LEFT_OUT

    return standing


def apply(environ: dict[str, Any], trusts: Callable[[str], bool]) -> None:
    """Let the environ say what a trusted proxy says.

    ``X-Forwarded-Proto`` becomes ``wsgi.url_scheme``; where it is missing, ``X-Forwarded-Ssl: on`` and
    ``X-Forwarded-Protocol: ssl`` do, as with gunicorn. The last address in ``X-Forwarded-For`` that is not itself a
    trusted proxy's becomes ``REMOTE_ADDR``; each proxy appends the address it was called from, so whatever stands
    before that one may be the client's invention. The fields stay where they are, for an application that reads them
    itself. From any other peer they are not even read: see `prefork.wsgi.parser.parse_head`.

    Args:
        environ: A request's, which came from a trusted proxy.
        trusts: From `prefork.config.networks.truster`.
    """
    proto = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
    if proto in {"http", "https"}:
        environ["wsgi.url_scheme"] = proto
    elif "HTTP_X_FORWARDED_PROTO" not in environ and (
        environ.get("HTTP_X_FORWARDED_SSL") == "on" or environ.get("HTTP_X_FORWARDED_PROTOCOL") in {"ssl", "https"}
    ):
        environ["wsgi.url_scheme"] = "https"
    client = None
    for hop in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
        address = address_of(_without_port(hop.strip()))
        if address is None:
            break
        client = str(address)
        if not trusts(client):
            break
    if client is not None:
        environ["REMOTE_ADDR"] = client
        environ.pop("REMOTE_PORT", None)  # it is the proxy's, and nobody tells the client's


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
