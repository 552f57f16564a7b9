"""What the storm serves, as a worker and as a WSGI application: an answer with the number that the client asked for.

At its import it runs the file that ``STORM_CODE`` names, if it is there: that is how a reload brings broken code.
"""

from __future__ import annotations

import contextlib
import os
import socket
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


def answer(path: str) -> str:
    """The body for a path: ``/17`` is 17. ``/eat/MEBIBYTES`` and ``/leak/COUNT`` do so, and give the process id."""
    name, _, argument = path.lstrip("/").partition("/")
    if name == "eat":
        _kept.append(b"x" * (int(argument) << 20))
    elif name == "leak":
        with contextlib.suppress(OSError):  # EMFILE
            _kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(int(argument)))
    elif name == "hang":
        time.sleep(600)  # until it is ended
    else:
        return name
    return str(os.getpid())


class Sturdy(prefork.Worker):
    """Answers whoever is polite, and is never surprised."""

    def handle(self, connection: socket.socket, address: object) -> None:  # noqa: ARG002  # the base class's signature
        head = b""
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
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        except OSError:
            pass  # rude clients: a reset, or silence beyond io_timeout


def application(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    """The same on WSGI."""
    body = answer(str(environ["PATH_INFO"])).encode("latin-1")
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
