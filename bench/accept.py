"""What accept and close cost: IPSocket beside socket.accept(), in one process, on connections that already wait.

python bench/accept.py [ROUNDS]

A second process connects 200 clients over loopback; then this one accepts and closes them all by one way, and so on
with the next way, in turn and in changing order. What is printed is the median over all rounds, in microseconds a
connection, and its ratio to socket.accept(). The promise is a ratio of at most 0.92.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from prefork.net.inetaddress import InetAddress
from prefork.net.ipsocket import IPSocket

CLIENTS = 200


def standard(listener: socket.socket) -> None:
    """The yardstick."""
    for _ in range(CLIENTS):
        connection, _ = listener.accept()
        connection.close()


def ipsocket(listener: socket.socket) -> None:
    """The hot path: nobody asks who the peer is."""
    accepted = IPSocket()
    for _ in range(CLIENTS):
        accepted.accept(listener)
        accepted.close()


def ipsocket_with_address(listener: socket.socket) -> None:
    """The kernel fills in the peer's address."""
    accepted, address = IPSocket(), InetAddress()
    for _ in range(CLIENTS):
        accepted.accept(listener, address)
        accepted.close()


def ipsocket_with_address_read(listener: socket.socket) -> None:
    """And it is read as the tuple that socket.accept() gives."""
    accepted, address = IPSocket(), InetAddress()
    for _ in range(CLIENTS):
        accepted.accept(listener, address)
        address.as_tuple()
        accepted.close()


WAYS: list[Callable[[socket.socket], None]] = [standard, ipsocket, ipsocket_with_address, ipsocket_with_address_read]


def clients(address: tuple[str, int], orders: int, done: int) -> None:
    """The second process: at each byte, connect all; at the next, close all."""
    while os.read(orders, 1):
        connected = [socket.create_connection(address) for _ in range(CLIENTS)]
        os.write(done, b".")
        os.read(orders, 1)
        for client in connected:
            client.close()
        os.write(done, b".")


def main() -> None:
    """Measure, and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    listener = socket.create_server(("127.0.0.1", 0), backlog=2 * CLIENTS)
    orders, ordering = os.pipe()
    waiting, done = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ordering)
        clients(listener.getsockname(), orders, done)
        os._exit(0)
    cost: dict[str, list[float]] = {way.__name__: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 else WAYS[::-1]:
            os.write(ordering, b".")
            os.read(waiting, 1)
            start = time.perf_counter()
            way(listener)
            cost[way.__name__].append((time.perf_counter() - start) / CLIENTS * 1e6)
            os.write(ordering, b".")
            os.read(waiting, 1)
    os.close(ordering)
    os.waitpid(child, 0)
    yardstick = statistics.median(cost["standard"])
    for name, values in cost.items():
        print(f"{name:28}{statistics.median(values):8.2f} us {statistics.median(values) / yardstick:6.3f}")


if __name__ == "__main__":
    main()
