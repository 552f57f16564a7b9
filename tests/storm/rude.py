"""Rude clients: what the internet sends to a server that is open to it. None of them is counted."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from prefork.testing.client import connect

_RESETS: Final = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


def silent(client: socket.socket, _: random.Random) -> None:
    """Say nothing."""


def half_open(client: socket.socket, _: random.Random) -> None:
    """Begin a request, and say no more."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: ")


def half_closed(client: socket.socket, _: random.Random) -> None:
    """Ask, and close one direction."""
    client.sendall(b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n")
    client.shutdown(socket.SHUT_WR)


def resets(client: socket.socket, _: random.Random) -> None:
    """Ask, and reset the connection before the answer."""
    client.sendall(b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
    client.close()


def resets_at_once(client: socket.socket, _: random.Random) -> None:
    """Reset the connection while it still waits in the accept queue."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
    client.close()


def leaves(client: socket.socket, _: random.Random) -> None:
    """Connect and close."""
    client.close()


def slow(client: socket.socket, chance: random.Random) -> None:
    """One byte at a time, and not to the end."""
    for byte in b"GET /0 HTTP/1.1\r\n"[: chance.randint(2, 16)]:
        client.send(bytes([byte]))
        time.sleep(0.01)  # how slow it is


def huge(client: socket.socket, __: random.Random) -> None:
    """A head that does not end, as far as the server lets it come."""
    client.settimeout(0.2)
    client.sendall(b"GET /0 HTTP/1.1\r\n")
    for _ in range(64):
        client.sendall(b"X: " + b"x" * 8000 + b"\r\n")


def huge_body(client: socket.socket, __: random.Random) -> None:
    """A body that nobody asked for."""
    client.settimeout(0.2)
    client.sendall(b"POST /0 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(64):
        client.sendall(b"x" * 8000)


def garbage(client: socket.socket, chance: random.Random) -> None:
    """Anything."""
    client.sendall(chance.randbytes(chance.randint(1, 2000)))


def other_protocol(client: socket.socket, _: random.Random) -> None:
    """The beginning of TLS."""
    client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))


def deaf(client: socket.socket, _: random.Random) -> None:
    """Many requests, and no answer is read."""
    client.sendall(b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n" * 200)


MANNERS: Final[tuple[Callable[[socket.socket, random.Random], None], ...]] = (
    silent,
    half_open,
    half_closed,
    resets,
    resets_at_once,
    leaves,
    slow,
    huge,
    huge_body,
    garbage,
    other_protocol,
    deaf,
)


def visit(addresses: list[str], count: int, chance: random.Random) -> list[socket.socket]:
    """Have ``count`` of them come.

    Args:
        addresses: Where to.
        count: How many.
        chance: Chooses.

    Returns:
        Those that are still there; to be closed.
    """
    there = []
    for _ in range(count):
        address, manners, own = chance.choice(addresses), chance.choice(MANNERS), random.Random(chance.random())
        client = connect(address)
        there.append(client)
        try:
            manners(client, own)
        except OSError:
            pass  # the server has had enough of it
    return there
