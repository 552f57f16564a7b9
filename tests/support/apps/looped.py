"""A server with a loop of its own on inlets: selectors, one answer a connection, the worker's pid as its body."""

from __future__ import annotations

import os
import selectors
import socket
import time

import prefork
from prefork.accept.loop_listener import Inlet

READY_IN = float(os.environ.get("LOOPED_BOOT", "0"))  # seconds that a boot takes
GREEDY = os.environ.get("LOOPED_GREEDY") == "1"  # accept until nothing waits
CONFUSED = os.environ.get("LOOPED_CONFUSED") == "1"  # do to the listener what servers do


class Looped(prefork.Worker):
    """Answers from a selectors loop."""

    inlets_: tuple[Inlet, ...]

    def init(self) -> None:
        self.inlets_ = self.inlets(one_at_a_time=GREEDY)
        self.selector = selectors.DefaultSelector()
        for inlet in self.inlets_:
            self.selector.register(inlet, selectors.EVENT_READ)
            if CONFUSED:
                inlet.listen(1)
                inlet.setblocking(True)
                inlet.settimeout(3.0)
        self.selector.register(self.stop_fd, selectors.EVENT_READ, data="stop")
        if READY_IN and self.selector.select(READY_IN):
            raise AssertionError("an inlet gives something before its worker is READY")

    def run(self) -> None:
        turn = 0
        while not self.stopping:
            with self.idle():
                keys = [key for key, _ in self.selector.select() if key.data != "stop"]
            for key in keys:
                turn += 1
                inlet = key.fileobj
                assert isinstance(inlet, Inlet)
                self.take(inlet, turn)
        for inlet in self.inlets_:  # an order to drain: what has reached us is served
            while self.take(inlet, turn):
                pass
            if CONFUSED:
                inlet.shutdown(socket.SHUT_RDWR)
            inlet.close()

    def take(self, inlet: Inlet, turn: int) -> int:
        """Serve what one look gives; returns how many."""
        for count in range(1_000_000):
            try:
                connection, _ = inlet.accept()
            except BlockingIOError:
                return count
            self.answer(connection, turn)
            if not GREEDY:
                return 1
        return 0

    def answer(self, connection: socket.socket, turn: int) -> None:
        """One answer, and the end."""
        body = b"%d" % os.getpid()
        with connection:
            if connection.recv(65536):
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Turn: %d\r\nContent-Length: %d\r\n\r\n" % (turn, len(body)))
                connection.sendall(body)


class Hanging(Looped):
    """Its loop hangs when it is asked to."""

    def answer(self, connection: socket.socket, turn: int) -> None:  # noqa: ARG002  # the one that it overrides
        with connection:
            if b"hang" in connection.recv(65536):
                time.sleep(600)  # the hang that is to be found
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
