"""What the tests of the WSGI server share: a server around one of the applications, a client that counts bytes.

Answers are read by h11, which refuses what is not HTTP/1.1 to the letter.
"""

from __future__ import annotations

import json
import math
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h11

from prefork.testing.client import connect
from prefork.testing.exchange import http
from prefork.testing.server import Server, running

ROOT = Path(__file__).resolve().parents[3]
_KEPT = re.compile(rb"\A(?:HTTP/1\.1 1[^\n]*\n\r\n)*[^\n]*\n(?:[^\r\n]+\r\n)*Connection: keep-alive\r\n")
WITHIN = 30.0  # seconds; for what takes milliseconds on an idle machine


class Reply(NamedTuple):
    """A whole response."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    interim: list[int]
    """The 1xx statuses before it."""

    def __getitem__(self, name: Any) -> Any:
        """The value of the only header field of that name."""
        (value,) = [value for key, value in self.headers if key == name.lower()]
        return value

    def has(self, name: str) -> bool:
        return any(key == name.lower() for key, _ in self.headers)

    def json(self) -> Any:
        return json.loads(self.body)


class Steadiness:
    """How steady a client was that is to be slow and steady: a machine that holds it up makes it another one.

    It is judged as `prefork.wsgi.channel` has it, by half the patience that its server has.

    Args:
        patience: The server's io_timeout, in seconds.
        each: Seconds that a move gives back: its bytes, by min_rate. Without one any move gives back all.
    """

    def __init__(self, patience: float = 0.5, each: float = math.inf) -> None:
        self._full = self._left = patience / 2
        self._each = each
        self._last = time.monotonic()
        self.steady = True
        """Whether a server has no reason to lose patience."""

    def moved(self) -> None:
        """The client moves."""
        now = time.monotonic()
        self._left -= now - self._last
        self.steady &= self._left > 0
        self._left = min(self._full, self._left + self._each)
        self._last = now


@contextmanager
def serving(
    app: str, *, options: dict[str, Any] | None = None, warnings: str = "error", **given: Any
) -> Iterator[Server]:
    """A server of one process around ``app``; see `tests.support.wsgi.accept_loop`. Any warning there is an error."""
    text = json.dumps({"options": options or {}, **given})
    command = [sys.executable, "-W", warnings, "-m", "tests.support.wsgi.accept_loop", app, text]
    with running(command, cwd=ROOT, within=WITHIN) as server:
        yield server


def get(target: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request without a body. A line of ``lines`` that begins with "Host" replaces the usual one."""
    host = [] if any(line.lower().startswith("host") for line in lines) else ["Host: test"]
    return "\r\n".join([f"{method} {target} HTTP/{version}", *host, *lines, "", ""]).encode("latin-1")


def post(body: bytes, *lines: str, target: str = "/") -> bytes:
    """A request with a body and its Content-Length."""
    return get(target, f"Content-Length: {len(body)}", *lines, method="POST") + body


def read_all(connection: socket.socket, *, method: str = "GET") -> bytes:
    """All that comes until the server closes, or until the answer is whole that says that it does not.

    A reset raises ConnectionResetError.
    """
    data = bytearray()
    while piece := connection.recv(1 << 16):
        data += piece
        if _KEPT.search(data) and (http(data, False) or (method == "HEAD" and data.endswith(b"\r\n\r\n"))):
            break
    return bytes(data)


def exchange(address: str, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send, and give all that comes back.

    Args:
        address: The server's.
        *pieces: Sent one by one; between two of them the server gets the time to receive the first.
        half_close: End the sending side afterwards.
    """
    with connect(address, timeout=WITHIN) as connection:
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.02)  # so that the pieces are received apart; if not, the test merely proves less
            connection.sendall(piece)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection, method="HEAD" if pieces[0].startswith(b"HEAD ") else "GET")


def parse(raw: bytes, method: str = "GET") -> Reply:
    """Read one response, which must be all there is."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "test"), ("Connection", "close")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    client.receive_data(b"")
    interim: list[int] = []
    body = b""
    head: h11.Response | None = None
    while True:
        event = client.next_event()
        if isinstance(event, h11.InformationalResponse):
            interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage), event
            break
    assert head is not None
    left, _ = client.trailing_data
    assert left == b"", left
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
    return Reply(head.status_code, head.reason.decode("latin-1"), headers, body, interim)


def ask(server: Server, *pieces: bytes, half_close: bool = False) -> Reply:
    """Send a request, and give the response to it."""
    method = "HEAD" if pieces[0].startswith(b"HEAD ") else "GET"
    return parse(exchange(server.address, *pieces, half_close=half_close), method)


def release(fifo: str) -> None:
    """Let the application go on that waits for the FIFO."""
    with open(fifo, "wb") as writing:
        writing.write(b"go")


def assert_clean(server: Server) -> None:
    """Nothing has failed in the server, nor has the validator found anything."""
    log = server.log()
    assert "Traceback" not in log, log
    assert "ERROR" not in log, log
