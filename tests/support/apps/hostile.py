"""A worker that somebody else has got hold of: for a while it does the worst that its user may do."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import prefork
from prefork.scoreboard import layout
from prefork.scoreboard.events import EventKind
from prefork.scoreboard.layout import MASTER_WORDS, PID, Order
from prefork.system.signals import WAKE_UP

CONTROL = os.environ["HOSTILE_CONTROL"]
FOLDER = Path(os.environ["HOSTILE_FOLDER"])
PIDFILE = FOLDER / "server.pid"
CHILDREN = 8
"""That live at one moment: the machine is others' as well."""


class Chance:
    """As random.Random, which a worker of another user can't import where the interpreter lies in root's own folder."""

    def __init__(self, seed: str) -> None:
        self._state = int.from_bytes(seed.encode(), "big")

    def _next(self, below: int) -> int:
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (self._state >> 33) % below

    def random(self) -> float:
        return self._next(1 << 30) / (1 << 30)

    def randint(self, least: int, most: int) -> int:
        return least + self._next(most - least + 1)

    def randrange(self, least: int, below: int = 0) -> int:
        return self.randint(least, below - 1) if below else self._next(least)

    def getrandbits(self, bits: int) -> int:
        return int.from_bytes(self.randbytes(8), "big") >> (64 - bits)

    def choice(self, of: Sequence[int]) -> int:
        return of[self._next(len(of))]

    def randbytes(self, count: int) -> bytes:
        return bytes(self._next(256) for _ in range(count))


class Hostile(prefork.Worker):
    """``/``: its pid. ``/MODE/SECONDS``: hostile in that way for so long, then an answer."""

    def handle(self, connection: socket.socket, address: object) -> None:  # noqa: ARG002  # the base class's signature
        mode, _, seconds = connection.recv(65536).split()[1].decode().lstrip("/").partition("/")
        if mode:
            self.chance = Chance(mode)
            step, until = getattr(self, f"by_{mode}"), time.monotonic() + float(seconds)
            while time.monotonic() < until:
                step()
        body = b"%d" % os.getpid()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def siblings(self) -> list[tuple[int, int]]:
        """Entry and pid of each worker there is."""
        board = self._entry.board
        found = [(index, board.entry(index)[PID]) for index in range(board.entries)]
        return [(index, pid) for index, pid in found if pid and pid != os.getpid()]

    def by_records(self) -> None:
        for kind in EventKind:
            self._entry.send_event(kind, self.chance.choice((0, 3, 99, 1 << 63)))

    def by_pressure(self) -> None:
        for number in (errno.ENFILE, errno.ENOMEM, errno.EMFILE):
            self._entry.send_event(EventKind.EXHAUSTED, number)
        if self.chance.random() < 0.1:
            self._entry.send_event(EventKind.RELIEVED, errno.ENFILE)

    def by_garbage(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._entry._events.writer, self.chance.randbytes(self.chance.randint(1, 4000)))

    def by_spoofing(self) -> None:
        for index, pid in self.siblings():
            for kind, value in ((EventKind.RECYCLE_ME, 4), (EventKind.EXHAUSTED, errno.ENFILE), (EventKind.READY, 0)):
                self._entry._events.send(kind, entry=index, pid=pid, value=value)

    def by_scribbling(self) -> None:
        for index, _ in self.siblings():
            words = self._entry.board.entry(index)
            words[self.chance.randrange(MASTER_WORDS, len(words))] = self.chance.getrandbits(64)
        time.sleep(0.001)  # the memory is the same however often it is written

    def by_ordering(self) -> None:
        for index, pid in self.siblings():
            order = self.chance.choice((*Order, 4, 1 << 40))
            self._entry.board.entry(index)[layout.ORDER] = order
            with suppress(OSError):
                os.kill(pid, WAKE_UP)
        time.sleep(0.02)  # each costs a worker its place

    def by_holding(self) -> None:
        board = self._entry.board
        board.hold, board.prober, board.all_exhausted = errno.ENFILE, self.chance.randrange(64), True
        with suppress(BlockingIOError):
            os.eventfd_read(self._entry.go)
        time.sleep(0.001)  # as above

    def by_reporting(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._given.offspring._report, b"\x1b[31mFATAL\n" * 1000)

    def by_signals(self) -> None:
        for pid in (os.getppid(), *(pid for _, pid in self.siblings())):
            with suppress(OSError):
                signum = self.chance.choice((WAKE_UP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCONT))
                os.kill(pid, signum)
        time.sleep(0.02)  # each costs a worker its place

    def by_files(self) -> None:
        with suppress(OSError):
            PIDFILE.unlink()
        with suppress(OSError):
            PIDFILE.symlink_to("/dev/null")

    def by_descriptors(self) -> None:
        for listener in self.sockets:
            os.set_blocking(listener.fileno(), bool(self.chance.getrandbits(1)))
        copies: list[int] = []
        with suppress(OSError):
            while len(copies) < 2000:
                copies.append(os.dup(0))
        for fd in copies:
            os.close(fd)
        for listener in self.sockets:
            os.set_blocking(listener.fileno(), True)

    def by_control(self) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(0.1)
            peer.connect(CONTROL)
            peer.sendall(self.chance.randbytes(4000))

    def by_forks(self) -> None:
        children = []
        for _ in range(CHILDREN):
            pid = os.fork()
            if pid == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)  # it is not reached
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)

    def by_exits(self) -> None:
        os._exit(7)
