"""A worker that has lost its mind: it writes at random into the memory that it shares with its master."""

from __future__ import annotations

import os
import random
import socket

import prefork
from prefork.scoreboard import layout

ODD = (0, 1, 2, 255, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class Spoiler(prefork.Worker):
    """``/own/SEED``: its own words; ``/all/SEED``: all words of all entries; ``/pipe/SEED``: the events pipe."""

    def handle(self, connection: socket.socket, address: object) -> None:  # noqa: ARG002  # the base class's signature
        what, _, seed = connection.recv(65536).split()[1].decode().lstrip("/").partition("/")
        chance = random.Random(seed)
        body = b"%d" % os.getpid()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        if what:
            getattr(self, f"spoil_{what}")(chance)

    def spoil_own(self, chance: random.Random) -> None:
        words = self._entry.words
        for word in chance.sample(range(layout.MASTER_WORDS, len(words)), chance.randint(1, 40)):
            words[word] = _any(chance)

    def spoil_all(self, chance: random.Random) -> None:
        words = self._entry.board.words
        for _ in range(200):
            words[chance.randrange(layout.HEADER_WORDS, len(words))] = _any(chance)

    def spoil_pipe(self, chance: random.Random) -> None:
        try:
            os.write(self._entry._events.writer, chance.randbytes(chance.randint(1, 4000)))
        except BlockingIOError:
            pass


def _any(chance: random.Random) -> int:
    pids = (1, os.getpid(), os.getppid(), int(os.environ["BYSTANDER"]))
    return chance.choice((*ODD, *pids, chance.getrandbits(64)))
