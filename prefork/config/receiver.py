"""Where a server sends what it says of itself, to syslog or statsd: as text and as a value. Pure.

udp://localhost:514, localhost:8125     datagrams to a host and port
tcp://[::1]:601                         a connection
unix:///dev/log, unix:///run/log#stream a unix socket, of datagrams unless it says stream
"""

from __future__ import annotations

import re
from typing import Final, Literal

from prefork.system.record import Record

_INTERNET: Final = re.compile(
    r"(?:(?P<kind>udp|tcp)://)?(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[A-Za-z0-9._-]{1,253}))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_UNIX: Final = re.compile(r"unix://(?P<path>/[^\0#]+?)(?:#(?P<type>dgram|stream))?")
_HIGHEST_PORT: Final = 65535


class Receiver(Record):
    """Where something is sent. Made by `parse`.

    Args:
        kind: How.
        place: A host's name or address, or a path.
        port: Of a host.
        stream: Whether it is a connection, not datagrams.
    """

    kind: Literal["udp", "tcp", "unix"]
    place: str
    port: int = 0
    stream: bool = False


def parse(text: str, port: int) -> Receiver:
    """Read one.

    Args:
        text: As it was given.
        port: That of the protocol, where none is given.

    Raises:
        ValueError: It is none.
    """
    match = _UNIX.fullmatch(text)
    if match is not None:
        return Receiver("unix", match["path"], stream=match["type"] == "stream")
    match = _INTERNET.fullmatch(text)
    number = int(match["port"] or port) if match is not None else 0
    if match is None or not 0 < number <= _HIGHEST_PORT:
        raise ValueError("is no address to send to")
    tcp = match["kind"] == "tcp"
    return Receiver("tcp" if tcp else "udp", match["ipv6"] or match["host"], number, stream=tcp)
