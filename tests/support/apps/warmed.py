"""A WSGI application that counts requests, and opens at its import what doesn't come through a fork, if it is to."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

requests: list[str] = []
warmed_in = 0


class Pool:
    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.connection = socket.create_connection(self.listener.getsockname())


def beat() -> None:
    while True:
        time.sleep(60)


if os.environ.get("UNSAFE"):
    pool = Pool()
    threading.Thread(target=beat, name="heart", daemon=True).start()
    loop = asyncio.new_event_loop()
    database = sqlite3.connect(":memory:")


def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    requests.append(environ["HTTP_HOST"] + environ["PATH_INFO"])
    start_response("404 Not Found" if environ["PATH_INFO"] == "/missing" else "200 OK", [])
    yield f"{len(requests)} {requests.count('localhost/big')} {requests.count('shop.example/missing')} ".encode()
    yield f"{warmed_in} {os.getpid()}\n".encode()
    if environ["PATH_INFO"] == "/big":
        yield bytes(1 << 20)  # more than a socket holds
