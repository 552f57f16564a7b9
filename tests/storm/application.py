"""What the storm serves, as a worker and as a WSGI application: an answer with the number that the client asked for.

At its import it runs the file that ``STORM_CODE`` names, if it is there: that is how a reload brings broken code.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import prefork

_code = Path(os.environ["STORM_CODE"])
if _code.exists():
    exec(compile(_code.read_text(), _code, "exec"))

_kept: list[object] = []
"""What is never given back."""

_LONGEST_HEAD = 1 << 16

_LATE = 0.3
"""Seconds that a child lives which nobody waits for."""

_children: list[int] = []
"""Those of them that have not been reaped."""

_TAKEN = tuple(
    getattr(signal, f"SIG{name}") for name in ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "CHLD", "ALRM", "WINCH")
)


def fork(how: str) -> None:
    """Make a process of the application's own, which ends in that way, or comes back from the handler."""
    _children[:] = [child for child in _children if not os.waitpid(child, os.WNOHANG)[0]]
    if how == "terminate":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        process.terminate()
        process.join()
        if process.exitcode != -signal.SIGTERM:
            raise RuntimeError(f"a child that was sent SIGTERM has ended with {process.exitcode}")
        return
    child = os.fork()
    if child and how == "late":
        _children.append(child)
    elif child:
        os.waitpid(child, 0)
    elif how == "raise":
        raise RuntimeError("broken as asked")
    elif how == "exit":
        sys.exit(3)
    elif how == "execute":
        try:
            os.execv("/nothing/of/that/name", ["nothing"])
        finally:
            os._exit(127)
    elif how == "late":
        time.sleep(_LATE)  # how long it lives
        os._exit(0)


def take(how: str) -> None:
    """Use signals as an application does that believes them to be its own; where handlers have threads it can't."""
    if threading.current_thread() is not threading.main_thread():
        return
    if how == "asyncio":
        loop = asyncio.new_event_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, loop.stop)
            loop.remove_signal_handler(signum)
        loop.close()
        return
    for signum in _TAKEN:
        signal.signal(signum, signal.SIG_IGN if how == "ignore" else lambda *_: None)


def answer(path: str) -> str:
    """The body for a path: ``/17`` is 17.

    ``/eat/MEBIBYTES``, ``/leak/COUNT``, ``/fork/HOW`` and ``/take/HOW`` do so, and give the process id.
    """
    name, _, argument = path.lstrip("/").partition("/")
    if name == "eat":
        _kept.append(b"x" * (int(argument) << 20))
    elif name == "leak":
        with contextlib.suppress(OSError):  # EMFILE
            _kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(int(argument)))
    elif name == "fork":
        fork(argument)
    elif name == "take":
        take(argument)
    elif name == "hang":
        time.sleep(600)  # until it is ended
    else:
        return name
    return str(os.getpid())


class Sturdy(prefork.Worker):
    """Answers whoever is polite, and is never surprised."""

    def handle(self, connection: socket.socket, address: object) -> None:  # noqa: ARG002  # the base class's signature
        head, worker = b"", os.getpid()
        try:
            while b"\r\n\r\n" not in head:
                data = connection.recv(1 << 16)
                head += data
                if not data or len(head) > _LONGEST_HEAD:
                    return
            words = head.split(None, 2)
            if len(words) < 3 or words[0] != b"GET":
                return
            body = answer(words[1].decode("latin-1")).encode("latin-1")
            if os.getpid() != worker:
                return  # to answer is the parent's
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        except OSError:
            pass  # rude clients: a reset, or silence beyond io_timeout


def application(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    """The same on WSGI."""
    path = str(environ["PATH_INFO"])
    warmed = environ.get("HTTP_USER_AGENT") == "prefork-warmup"  # what is asked for in a mold changes nothing there
    body = (path if warmed else answer(path)).encode("latin-1")
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
