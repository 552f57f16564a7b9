"""What tests of whole servers share: requests to `apps/probe.py`, connections in hand, who serves."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil

from prefork.testing import Server, call_until, connect, request, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import children, is_gone

APPS: Final = Path(__file__).resolve().parent / "apps"
PATIENCE: Final = 30.0
"""Seconds that a test waits for a fact before it fails."""

LOGGING: Final = """
import logging
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(process)d %(message)s")
"""
"""For scripts: the log on standard error, where `Server` finds it."""


def get(path: str) -> bytes:
    """A request for ``path``."""
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode()


def probe(factory: ServerFactory, **settings: Any) -> Server:
    """The probe, served. Without a control socket: other servers of the machine knock there, to see who lives."""
    return factory("probe:Probe", app_dir=APPS, **{"control": "off", **settings})


def ask(server: Server, path: str = "/") -> str:
    """The body that the server answers; losing the request is a failure."""
    answer = request(server.address, get(path), timeout=PATIENCE)
    assert answer.status == 200, answer
    return answer.body.decode()


def wait_for_rest(server: Server) -> None:
    """Wait until each worker waits in the kernel for a connection: READY is said just before the first accept."""
    waits = {"inet_csk_accept", "do_epoll_wait", "ep_poll"}

    def waits_in_kernel(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/wchan").read_text() in waits
        except (FileNotFoundError, ProcessLookupError):
            return False  # it has just ended: its replacement is to wait, too

    server.wait_for(
        lambda: all(map(waits_in_kernel, server.workers())), message="every worker to wait for a connection"
    )


def talk(server: Server, path: str, *, timeout: float = PATIENCE) -> socket.socket:
    """A connection whose request has been sent."""
    client = connect(server.address, timeout=timeout)
    client.sendall(get(path))
    return client


def line(client: socket.socket) -> str:
    """The next line that the server sends; "" at the end of the stream."""
    text = b""
    while not text.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            break
        text += byte
    return text.decode().rstrip()


class Held:
    """A connection that a worker has in hand, for as long as the test likes."""

    def __init__(self, server: Server, path: str = "/hold") -> None:
        self.client = talk(server, path)
        word, pid = line(self.client).split()
        assert word == "held"
        self.pid = int(pid)
        """Of the worker that has it."""

    def finish(self) -> None:
        """Have the worker finish it; fails unless the answer is whole."""
        with self.client:
            self.client.sendall(b"go\n")
            assert line(self.client) == f"done {self.pid}"
            assert self.client.recv(1) == b""

    def lost(self) -> bool:
        """Whether the server ends it without an answer."""
        with self.client:
            try:
                return self.client.recv(1) == b""
            except ConnectionResetError:
                return True


@contextmanager
def held(server: Server, count: int = 1, path: str = "/hold") -> Iterator[list[Held]]:
    """Connections in hand, closed in the end whatever became of them."""
    connections: list[Held] = []
    try:
        for _ in range(count):
            connections.append(Held(server, path))  # noqa: PERF401  # those made so far are to be closed when one fails
        yield connections
    finally:
        for connection in connections:
            connection.client.close()


def replaced(server: Server, before: list[int], timeout: float = PATIENCE) -> list[int]:
    """The workers, once none of ``before`` lives and as many others serve."""
    return call_until(
        server.workers,
        lambda now: len(now) == len(before) and not set(now) & set(before),
        timeout=timeout,
        message=f"other workers than {before}",
    )


def steady(server: Server, count: int, timeout: float = PATIENCE) -> list[int]:
    """The workers, once there are ``count``."""
    return call_until(server.workers, lambda now: len(now) == count, timeout=timeout, message=f"{count} workers")


def zombies(parent: int) -> list[int]:
    """A process's children that have ended, and nobody has waited for yet."""
    found = []
    for pid in children(parent):
        with suppress(psutil.NoSuchProcess):  # somebody has just waited for it
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def importing(folder: Path) -> dict[str, str]:
    """The environment of a script that imports from ``folder``."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def told(server: Server, pattern: str) -> list[str]:
    """Every match of ``pattern`` in the lines of the log that are whole."""
    log = server.log()
    return [match.group() for match in re.compile(pattern, re.MULTILINE).finditer(log, 0, log.rfind("\n") + 1)]


def complaints(server: Server) -> list[str]:
    """What it has warned of, but for what a busy machine does to any master."""
    found = told(server, r"^.*\b(WARNING|ERROR|CRITICAL)\b.*$")
    return [text for text in found if "frozen, or held up" not in text]


def opened(pid: int) -> dict[int, str]:
    """What a process has open, by its number: what it closes meanwhile is left out."""
    found = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found[int(entry.name)] = os.readlink(entry.path)
    return found


def wait_gone(*pids: int) -> None:
    """Wait until none of these processes is there any more, not even as a zombie."""
    for pid in pids:
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), message=f"the end of {pid}")  # type: ignore[misc]  # mypy can't infer a lambda with a default


def wait_ended(*pids: int) -> None:
    """Wait until these orphans have ended: whoever has adopted them may be seconds late to reap them."""
    for pid in pids:
        wait_for(lambda pid=pid: is_gone(pid), message=f"the end of {pid}")  # type: ignore[misc]  # mypy can't infer a lambda with a default
