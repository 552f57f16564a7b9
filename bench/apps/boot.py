"""Boot and stop many workers once, in this process; prints seconds as JSON.

``python boot.py prefork WORKERS`` does it with prefork, ``python boot.py mold WORKERS`` with prefork and a mold, which
is made in that time. ``python boot.py fork WORKERS`` does it as a server can at the least:
fork in a loop, with signals blocked and streams flushed around each fork, install the same handlers, say so through a
pipe, block in accept; then a signal to each, and a wait for each. ``python boot.py respawn`` is the least that a
supervisor can do: fork one worker, wait for its end, fork the next.
"""

import faulthandler
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import handlers

from prefork.config.settings import Settings
from prefork.hooks import Hooks
from prefork.server import run, serve  # either way: a process is forked the dearer the more it has imported
from prefork.system import process, signals


def leave(_signum: int, _frame: FrameType | None) -> None:
    """End a bare worker: what its handlers do."""
    os._exit(0)


def install() -> None:
    """Install the handlers of a worker, as every program does it; let signals come."""
    signal.set_wakeup_fd(-1)
    for signum in (*signals.MASTER, signal.SIGABRT):
        signal.signal(signum, signal.SIG_DFL if signum in (signal.SIGCHLD, signal.SIGCONT) else leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.MASTER)


def spawn(listener: socket.socket, told: int) -> int:
    """Fork one bare worker; it writes a byte to ``told`` and accepts."""
    master = os.getpid()

    def child() -> int:
        faulthandler.register(signal.SIGRTMIN + 1, all_threads=True)
        process.die_with_parent(signal.SIGTERM, master)
        install()
        gc.enable()
        os.write(told, b"x")
        while True:
            connection, address = listener.accept()
            handlers.hello(connection, address)
            connection.close()

    with signals.blocked():
        return process.fork(child)


def bare(workers: int) -> tuple[float, float, float]:
    """Fork, wait until all accept, stop; returns the moments."""
    began = time.monotonic()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pids = [spawn(listener, writer) for _ in range(workers)]
    told = 0
    while told < workers:
        told += len(os.read(reader, 4096))
    ready = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    for pid in pids:
        os.waitpid(pid, 0)
    return began, ready, time.monotonic()


def respawn() -> None:
    """Keep one bare worker alive."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    _, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    host, port = listener.getsockname()
    print(f"serving on {host}:{port} with 1 workers, pid {os.getpid()}", flush=True)
    while True:
        os.waitpid(spawn(listener, writer), 0)


def serving(**given: Any) -> None:
    """Serve, by the plain way."""
    serve(handlers.hello, **given)


def served(workers: int, serving: Callable[..., object] = serving) -> tuple[float, float, float]:
    """The same with prefork."""
    moments = []

    def when_ready(_server: object) -> None:
        moments.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    began = time.monotonic()
    serving(bind="127.0.0.1:0", workers=workers, hooks=Hooks(when_ready=when_ready))
    return began, moments[0], time.monotonic()


def molded(workers: int) -> tuple[float, float, float]:
    """The same with prefork and a mold."""

    def molding(hooks: Hooks, **given: object) -> None:
        run("handlers:hello", Settings.of({"preload": True, "control": "off", **given}), hooks=hooks)

    return served(workers, molding)


def main() -> None:
    """Do what the command line says."""
    if sys.argv[1] == "respawn":
        respawn()
    began, ready, ended = {"fork": bare, "prefork": served, "mold": molded}[sys.argv[1]](int(sys.argv[2]))
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        json.dumps(
            {
                "boot": ready - began,
                "stop": ended - ready,
                "cpu": sum(each.ru_utime + each.ru_stime for each in usage),
                "faults": sum(each.ru_minflt for each in usage),
            }
        )
    )


if __name__ == "__main__":
    main()
