"""An application that forks: as handle(connection, address), as a WSGI application, and its hooks."""

from __future__ import annotations

import json
import multiprocessing
import os
import pty
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

context = multiprocessing.get_context("fork")

HELD = 5.0
"""Seconds that a child lives which nobody waits for."""


def look() -> dict[str, Any]:
    """What this process has that is not a plain process's."""
    accepting, connected = [], []
    for number in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(number))) as found:
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    accepting.append(found.getsockname())
                elif found.family == socket.AF_INET:
                    connected.append(found.getpeername())
        except OSError:
            continue  # it is none, or not connected
    handlers = {signum: signal.getsignal(signum) for signum in signal.valid_signals()}
    ignored = {signal.SIGPIPE, signal.SIGXFSZ}  # by Python itself
    with open("/proc/self/status") as status:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    caught = int(fields["SigCgt"], 16) & ~(1 << 31 | 1 << 32)  # glibc's own two
    return {
        "accepting": accepting,
        "connected": connected,
        "handlers": [
            int(signum)
            for signum, handler in handlers.items()
            if handler not in {signal.SIG_DFL, None, signal.default_int_handler} and signum not in ignored
        ],
        "caught": [signum for signum in range(1, 65) if caught >> (signum - 1) & 1],
        "blocked": int(fields["SigBlk"], 16),
        "wakeup": signal.set_wakeup_fd(-1),
    }


def forked(do: Callable[[], object]) -> int:
    """The exit code of a child that does that and goes on; -99 when it doesn't end."""
    pid = os.fork()
    if not pid:
        do()
        return 0
    for _ in range(500):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -99


def seen_by(fork: Callable[[Callable[[], object]], object]) -> Any:
    reader, writer = os.pipe()

    def tell() -> None:
        os.write(writer, json.dumps(look()).encode() + b"\n")
        os._exit(0)

    fork(tell)
    os.close(writer)  # with gevent in its next turn only: there is no end of the file to be waited for
    with os.fdopen(reader) as told:
        return json.loads(told.readline())


def by_pty(do: Callable[[], object]) -> None:
    pid, terminal = pty.fork()
    if not pid:
        do()
    os.waitpid(pid, 0)
    os.close(terminal)


def in_a_thread(do: Callable[[], object]) -> None:
    thread = threading.Thread(target=forked, args=(do,))
    thread.start()
    thread.join()


def by_multiprocessing(do: Callable[[], object]) -> None:
    process = context.Process(target=do)
    process.start()
    process.join()


def fail() -> None:
    raise RuntimeError("in the child")


def terminated() -> list[int | None]:
    """How children end that are sent SIGTERM at once."""
    codes = []
    for _ in range(10):
        process = context.Process(target=time.sleep, args=(HELD,))
        process.start()
        process.terminate()
        process.join()
        codes.append(process.exitcode)
    return codes


def hold() -> int:
    pid = os.fork()
    if not pid:
        time.sleep(HELD)
        os._exit(0)
    return pid


ANSWERS: dict[str, Callable[[], Any]] = {
    "/pid": os.getpid,
    "/fork": lambda: seen_by(forked),
    "/pty": lambda: seen_by(by_pty),
    "/thread": lambda: seen_by(in_a_thread),
    "/multiprocessing": lambda: seen_by(by_multiprocessing),
    "/return": lambda: forked(lambda: None),
    "/raise": lambda: forked(fail),
    "/exit": lambda: forked(lambda: sys.exit(3)),
    "/terminated": terminated,
    "/hold": hold,
}


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = json.dumps(ANSWERS[environ["PATH_INFO"]]()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def handle(connection: socket.socket, address: Any) -> None:  # as handlers are called
    parent = os.getpid()
    path = connection.recv(65536).split()[1].decode()
    body = json.dumps(ANSWERS[path]()).encode()
    if os.getpid() == parent:  # here the connection is the application's, in its children too
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def worker_exit(server: Any, worker: Any) -> None:  # as hooks are called
    print("worker_exit in", os.getpid(), flush=True)
