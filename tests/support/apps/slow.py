"""Workers that take their time to boot, for tests that stop or reload a server meanwhile."""

from __future__ import annotations

import hashlib
import os
import socket
import time

import prefork


class Asleep(prefork.Worker):
    """Boots for ever, in a call that a signal interrupts."""

    def init(self) -> None:
        os.write(1, b"boots\n")
        while True:
            time.sleep(60)  # the boot that the test stops


class Deaf(prefork.Worker):
    """Boots for ever, in C code that no signal interrupts, and that catches whatever it is told before."""

    def init(self) -> None:
        os.write(1, b"boots\n")
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1_000_000_000)


class Stubborn(prefork.Worker):
    """Catches the first request to leave, and goes on with its boot."""

    def init(self) -> None:
        os.write(1, b"boots\n")
        try:
            time.sleep(60)  # the boot that the test stops
        except BaseException:  # noqa: BLE001  # as careless code does
            os.write(1, b"caught\n")

    def handle(self, connection: socket.socket, _: object) -> None:
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


class Finishing(prefork.Worker):
    """Hears the first request to leave where the interpreter lets no exception through, and goes on with its boot."""

    def init(self) -> None:
        class Slow:
            def __del__(self) -> None:
                os.write(1, b"boots\n")
                time.sleep(60)  # the boot that the test stops

        Slow()
        while True:
            time.sleep(60)  # likewise


class Slowly(prefork.Worker):
    """Boots in a third of a second, and says when."""

    def init(self) -> None:
        time.sleep(0.3)  # the boot itself
        os.write(1, b"booted %d\n" % os.getpid())

    def handle(self, connection: socket.socket, _: object) -> None:
        connection.recv(65536)
        body = b"%d" % os.getpid()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
