"""What is to be done at the end of a process, of every kind that Python knows; each says in the log who did it."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
import multiprocessing
import multiprocessing.pool
import os
import socket
import tempfile
import threading
import time
import weakref

context = multiprocessing.get_context("fork")
made: list[object] = []


def say(what: str) -> None:
    print("SAID", what, "in", os.getpid(), flush=True)


class Closing(logging.Handler):
    def close(self) -> None:
        say(f"{self.name} closed")
        super().close()


def register(when: str) -> None:
    """Have all of it done at the end, by whoever is this process."""
    atexit.register(say, f"{when} atexit")
    thing = type("Thing", (), {})()
    weakref.finalize(thing, say, f"{when} finalize")
    made.extend((thing, tempfile.TemporaryDirectory(prefix=f"prefork-test-{when}-")))


def late(what: str) -> None:
    time.sleep(0.3)  # so that the end comes meanwhile
    say(what)


def begin() -> int:
    """Begin what outlasts the request; the pid of a child that is a daemon."""
    threading.Thread(target=late, args=("thread",)).start()
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.submit(late, "executor")
    processes = multiprocessing.pool.Pool(1, context=context)
    daemon = context.Process(target=time.sleep, args=(600,), daemon=True)
    daemon.start()
    made.extend((pool, processes, daemon))
    assert daemon.pid is not None
    return daemon.pid


def hang() -> None:
    """Not end, at the end."""
    atexit.register(time.sleep, 600)


def handle(connection: socket.socket, address: object) -> None:  # as handlers are called
    path = connection.recv(65536).split()[1].decode()
    if path == "/register":
        register("worker's")
        handler = Closing()
        handler.name = "worker's log"
        made.append(handler)
    if path == "/hang":
        hang()
    body = b"%d" % (begin() if path == "/begin" else os.getpid())
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


register("loaded")
