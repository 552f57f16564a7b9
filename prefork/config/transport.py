"""The settings of what carries connections: socket options, the path of a unix socket, TLS.

The first part of the table of `prefork.config.settings.Settings`; see there.
"""

from __future__ import annotations

from typing import Final, Literal

from prefork.config import kinds
from prefork.config.fields import SOCKETS, TLS, SettingsTable, setting

_C_INT: Final = 2**31 - 1


class Transport(SettingsTable, kw_only=True):
    """What carries connections. Not used by itself: `Settings` checks it."""

    nodelay: bool = setting(
        True,
        SOCKETS,
        kinds.switch(),
        "Send small writes at once (TCP_NODELAY, tcp(7)).",
    )
    tcp_keepalive: bool = setting(
        False,
        SOCKETS,
        kinds.switch(),
        "Let the kernel probe idle connections (SO_KEEPALIVE, socket(7)).",
    )
    v6only: bool = setting(
        False,
        SOCKETS,
        kinds.switch(),
        "Take IPv6 connections alone on an IPv6 address (IPV6_V6ONLY, ipv6(7)).",
    )
    defer_accept: int = setting(
        0,
        SOCKETS,
        kinds.whole("a whole number of seconds", most=_C_INT, metavar="SECONDS"),
        "Hand a connection to a worker only when its first data is there, or after about so long (TCP_DEFER_ACCEPT, "
        "tcp(7)). 0 means at once.",
    )
    fast_open: int = setting(
        0,
        SOCKETS,
        kinds.whole("a length of the queue", most=_C_INT),
        "Accept data in the first packet (TCP_FASTOPEN, tcp(7)), for up to this many connections under way. 0 means "
        "off.",
    )
    socket_mode: int | None = setting(
        None,
        SOCKETS,
        kinds.mode(),
        "The permissions of a unix socket's path, in octal; without it the umask decides.",
    )
    socket_user: str = setting(
        "",
        SOCKETS,
        kinds.account("user"),
        "The owner of a unix socket's path, by name or number; without it the workers' user.",
    )
    socket_group: str = setting(
        "",
        SOCKETS,
        kinds.account("group"),
        "The group of a unix socket's path, by name or number; without it the workers' group.",
    )

    certfile: str = setting(
        "",
        TLS,
        kinds.path("file"),
        "Speak TLS, with this certificate (PEM), followed by those between it and a root. The master reads it, as the "
        "user who started it, and reads it anew at each reload.",
    )
    keyfile: str = setting(
        "",
        TLS,
        kinds.path("file"),
        "The private key of the certificate (PEM), when it is not in certfile as well.",
    )
    ca_certs: str = setting(
        "",
        TLS,
        kinds.path("file"),
        "Ask each client for a certificate that one of these authorities (PEM) has signed, and refuse those without.",
    )
    ssl_minimum_version: Literal["tlsv1.2", "tlsv1.3"] = setting(
        "tlsv1.2",
        TLS,
        kinds.choice("tlsv1.2", "tlsv1.3"),
        "The oldest version of TLS that is spoken.",
    )
