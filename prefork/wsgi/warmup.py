"""The warm-up: requests that the application answers in the mold, before workers are forked of it.

The first requests of a process cost many times what all others do: modules that are imported when they are needed,
templates, regular expressions, code that the interpreter has not seen run (PEP 659). In a mold that is paid for once,
and what comes of it is shared.

It is the usual gateway that serves them, so that ours is warm as well, each on a socket pair. At the other end is a
process that reads the answers: a thread would not be good where others are forked, and an answer may have more bytes
than a socket holds. MOLD.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from prefork.system import process, signals
from prefork.system.natives import os, signal, socket, time
from prefork.system.throttle import Log

ROUNDS: Final = 20
"""How often each path is asked for: the interpreter makes more of what has run some times."""

SECONDS: Final = 2.0
"""After so long with one path it has been asked for often enough."""

REPEATING: Final = 8.0
"""After so long no further path is asked for of those that workers were asked for."""

_STATUS: Final = slice(9, 12)  # of HTTP/1.1 200
_RECEIVE: Final = 1 << 16


def play(paths: Sequence[str], serve: Callable[[socket.socket], object], log: Log) -> None:
    """Have the application answer.

    Args:
        paths: What is asked for: ``/path``, or ``//host/path``.
        serve: Serves one connection.
        log: Where answers are told that are none.

    Raises:
        OSError: There is no process or no descriptor to be had.
    """
    for path in paths:
        for status, count in Counter(_answers(path, serve)).items():
            level = logging.DEBUG if "100" <= status < "400" else logging.WARNING
            log.log(level, "warmup: %s was answered %s, %d times", path, status or "by nothing", count)


def repeat(paths: Sequence[str], given: Sequence[str], serve: Callable[[socket.socket], object], log: Log) -> None:
    """Have the application answer what workers before were asked for most, as long as it does and time is left.

    Args:
        paths: What they were asked for, without a host.
        given: What ``play`` has asked for: its first host is asked for these as well, and none of its paths again.
        serve: Serves one connection.
        log: Where it is told.

    Raises:
        OSError: There is no process or no descriptor to be had.
    """
    host = next((path.split("/")[2] for path in given if path.startswith("//")), "")
    known = {path.partition("?")[0] for path in given}
    began = time.monotonic()
    warmed = 0
    for path in paths:
        asked = f"//{host}{path}" if host else path
        if asked in known or path in known:
            continue
        if time.monotonic() - began > REPEATING:
            break
        (first,) = _answers(asked, serve, 1)  # nobody has said that it may be asked for
        if "100" <= first < "400":
            _answers(asked, serve, ROUNDS - 1)
            warmed += 1
        else:
            log.debug("warmup: %s was answered %s", asked, first or "by nothing")
    log.info("warmup: %d of the %d paths most asked for were warmed", warmed, len(paths))


def request(path: str) -> bytes:
    """What is sent. Pure.

    Args:
        path: As in `play`.
    """
    host = "localhost"
    if path.startswith("//"):
        host, _, path = path[2:].partition("/")
        path = f"/{path}"
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: prefork-warmup\r\nConnection: close\r\n\r\n".encode()


def _answers(path: str, serve: Callable[[socket.socket], object], rounds: int = ROUNDS) -> list[str]:
    """The status of each answer; "" for one that is none."""
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(rounds)]
        for ours, theirs in pairs:
            stack.enter_context(ours)
            stack.enter_context(theirs)
            theirs.sendall(request(path))
        reader, writer = os.pipe2(os.O_CLOEXEC)
        mold = os.getpid()

        def read() -> int:
            process.die_with_parent(signal.SIGKILL, mold)
            signals.give_up()
            os.close(reader)
            for ours, _ in pairs:
                ours.close()
            os.write(writer, b"".join(b"%-3b" % _status(theirs) for _, theirs in pairs))
            return 0

        try:
            with signals.blocked():
                pid = process.fork(read)
        finally:
            os.close(writer)
        with os.fdopen(reader, "rb") as told:
            for _, theirs in pairs:
                theirs.close()
            served = 0
            began = time.monotonic()
            for ours, _ in pairs:
                if time.monotonic() - began < SECONDS:
                    serve(ours)
                    served += 1
                ours.close()
            said = told.read().decode("ascii", "replace")
        with contextlib.suppress(ChildProcessError):  # a handler of the application's was faster
            os.waitpid(pid, 0)
    return [said[3 * n : 3 * n + 3].strip() for n in range(served)]


def _status(connection: socket.socket) -> bytes:
    """Read an answer to its end."""
    head = b""
    with contextlib.suppress(OSError):
        while data := connection.recv(_RECEIVE):
            if len(head) < _STATUS.stop:
                head += data
    return head[_STATUS]
