"""A stand-in for the service manager: hears what it is told, keeps descriptors, starts a service again with them."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from prefork.testing import Server
from prefork.testing.plugin import ServerFactory
from tests.support.probing import PATIENCE

_LAUNCH = """
import os, sys
# As systemd does: descriptors from 3 on, and the pid of the very process that is to take them.
if sys.argv[1] != "0":
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = sys.argv[1]
    for number, fd in enumerate(map(int, sys.argv[2].split(",")), 100):
        os.dup2(fd, number)
    for number in range(int(sys.argv[1])):
        os.dup2(100 + number, 3 + number)
    os.closerange(3 + int(sys.argv[1]), 300)
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


class Manager:
    """The stand-in. Its messages and its store; close it with ``with``."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._messages: list[str] = []
        self._store: dict[str, int] = {}
        self._settled = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    @property
    def messages(self) -> list[str]:
        """What it has been told."""
        self._settle()
        return self._messages

    @property
    def store(self) -> dict[str, int]:
        """The descriptors that it keeps."""
        self._settle()
        return self._store

    def _settle(self) -> None:
        """Have it take in all that it has been sent."""
        self._send(b"what was before?")
        assert self._settled.acquire(timeout=PATIENCE)

    def _send(self, word: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(word, self.path)

    def _listen(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 16)
            if data == b"the test is over":
                return
            if data == b"what was before?":
                self._settled.release()
                continue
            lines = dict(line.split("=", 1) for line in data.decode().splitlines())
            self._messages.append(data.decode())
            if lines.get("FDSTORE") == "1":
                [descriptor] = descriptors
                previous = self._store.pop(lines["FDNAME"], None)
                self._store[lines["FDNAME"]] = descriptor
                if previous is not None:
                    os.close(previous)
            elif lines.get("FDSTOREREMOVE") == "1":
                os.close(self._store.pop(lines["FDNAME"]))

    def start(self, factory: ServerFactory, arguments: Sequence[str], **options: Any) -> Server:
        """Run ``python -m prefork`` with these arguments as the service, with what the store holds."""
        environ = {
            "NOTIFY_SOCKET": self.path,
            "FDSTORE": "64",
            "LISTEN_FDNAMES": ":".join(store) if (store := self.store) else None,
        }
        descriptors = list(store.values())
        command = [sys.executable, "-c", _LAUNCH, str(len(descriptors)), ",".join(map(str, descriptors))]
        command += ["-m", "prefork", *arguments]
        return factory.command(command, env=environ, pass_fds=descriptors, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._send(b"the test is over")
        self._thread.join()
        self._socket.close()
        for descriptor in self._store.values():
            os.close(descriptor)
