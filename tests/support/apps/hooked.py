"""Workers and hooks that say which process runs them."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import Any

import prefork


def say(text: str) -> None:
    """A line in the log, in one piece, whoever else writes."""
    os.write(1, f"{text}\n".encode())


def _hello(connection: socket.socket) -> None:
    body = b"%d" % os.getpid()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


class Hooked(prefork.Worker):
    """Answers, or hangs when the path says so."""

    def handle(self, connection: socket.socket, _: object) -> None:
        if b"/hang" in connection.recv(65536):
            time.sleep(60)  # the hang
        _hello(connection)


class OwnLoop(prefork.Worker):
    """A loop of its own that reports when it is busy."""

    def run(self) -> None:
        for connection, _ in iter(self.accept, None):
            with connection, self.busy():
                if b"/hang" in connection.recv(65536):
                    time.sleep(60)  # the hang
                _hello(connection)


class Threaded(prefork.Worker):
    """Has a thread in the background, and hangs."""

    def init(self) -> None:
        threading.Thread(target=in_the_background, daemon=True).start()

    def handle(self, connection: socket.socket, _: object) -> None:
        connection.recv(65536)
        time.sleep(60)  # the hang


class Surrounded(prefork.Worker):
    """Has many threads that sleep."""

    def init(self) -> None:
        for _ in range(30):
            threading.Thread(target=in_the_background, daemon=True).start()

    def handle(self, connection: socket.socket, _: object) -> None:
        _hello(connection)


def in_the_background() -> None:
    """What the thread does."""
    time.sleep(600)  # longer than any test


def on_starting(server: Any) -> None:
    say(f"on_starting in {os.getpid()} with {len(server.listeners)} listeners")


def when_ready(server: Any) -> None:
    say(f"when_ready in {os.getpid()} with {len(server.roster)} workers")


def pre_fork(server: Any, worker: Any) -> None:  # as hooks are called
    # What a hook executes would inherit a mask.
    blocked = " with signals blocked" if signal.pthread_sigmask(signal.SIG_BLOCK, []) else ""
    say(f"pre_fork in {os.getpid()} of slot {worker.slot} generation {worker.generation}{blocked}")
    worker.log.info("number %d is to come, pid %s, of %d", worker.age, worker.pid, server.pid)


def post_fork(server: Any, worker: Any) -> None:  # as hooks are called
    say(f"post_fork in {os.getpid()} of slot {worker.slot}")
    worker.log.info("number %d is there, pid %d, of %d", worker.age, worker.pid, worker.ppid)


def post_worker_init(worker: Any) -> None:
    say(f"post_worker_init in {os.getpid()} of slot {worker.slot}")
    worker.log.info("number %d is ready, pid %d, of %d", worker.age, worker.pid, worker.ppid)


def worker_abort(worker: Any) -> None:
    say(f"worker_abort in {os.getpid()} of slot {worker.slot}")


def worker_exit(server: Any, worker: Any) -> None:  # as hooks are called
    say(f"worker_exit in {os.getpid()} of slot {worker.slot}")


def child_exit(server: Any, exit: Any) -> None:  # noqa: A002  # as hooks are called
    say(f"child_exit in {os.getpid()} of {exit.member.pid}: {exit.exit}")
    server.log.info("pid %d is gone from slot %d", exit.pid, exit.slot)


def on_reload(server: Any) -> None:
    say(f"on_reload in {os.getpid()} of {server.settings.workers} workers")


def on_exit(server: Any) -> None:
    say(f"on_exit in {os.getpid()} with {len(server.listeners)} listeners and {len(server.roster)} workers")
