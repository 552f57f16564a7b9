"""What tests of sockets share: handshakes held half-way, patient clients, scripts in a process of their own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE: Final = 20.0
"""Seconds that a test waits for a fact before it fails; SYNs are repeated after 1, 3 and 7 s."""

SYN_SENT: Final = 2
ESTABLISHED: Final = 1


def until(fact: Callable[[], Any], what: str) -> Any:
    """Wait for ``fact()`` to be true, and return what it gave."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = fact()
        if found:
            return found
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.005)  # between two looks at a fact


def connect(address: Any, *, blocking: bool = True) -> socket.socket:
    """A TCP client; without ``blocking`` the handshake may still be under way."""
    client = socket.socket(socket.AF_INET6 if len(address) == 4 else socket.AF_INET)
    client.settimeout(PATIENCE)
    if blocking:
        try:
            client.connect(address)
        except OSError:
            client.close()
            raise
    else:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(address)
        client.settimeout(PATIENCE)
    return client


def deaf_client(address: Any) -> socket.socket:
    """A client that sends its SYN and drops every answer: its handshake stays half-way until `hear`."""
    client = socket.socket(socket.AF_INET6 if len(address) == 4 else socket.AF_INET)
    _drop_below(client, 255)
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        client.connect(address)
    client.settimeout(PATIENCE)
    return client


def hear(client: socket.socket) -> None:
    """Let a deaf client hear; the server's next SYN-ACK (within seconds) completes its handshake."""
    _drop_below(client, 0)


def _drop_below(client: socket.socket, ttl: int) -> None:
    """Drop what has a lower TTL (ip(7), IP_MINTTL); over loopback that is 64."""
    client.setsockopt(socket.IPPROTO_IP, 21, ttl)
    if client.family == socket.AF_INET6:
        client.setsockopt(socket.IPPROTO_IPV6, 73, ttl)


def state(client: socket.socket) -> int:
    """The TCP state of a client, as TCP_INFO numbers it."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def retries(client: socket.socket) -> int:
    """How often a client has repeated its SYN without an answer (tcpi_retransmits)."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 3)[2]


@contextlib.contextmanager
def closing(*things: Any) -> Iterator[None]:
    """Close everything given at the end, in order; a list is closed item by item."""
    try:
        yield
    finally:
        for thing in things:
            for one in thing if isinstance(thing, list) else [thing]:
                one.close()


def linger_reset(client: socket.socket) -> None:
    """Make close() reset the connection (socket(7), SO_LINGER with 0 s)."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def script(code: str, *arguments: str) -> Any:
    """Run a program of its own on prefork and the tests' helpers; what it prints as JSON comes back."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # also after the script has gone to another folder
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)
