"""A worker that does what the path of a request says, for tests of the server around it."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import IO, Any

import prefork


def terminated() -> int | None:
    """The exit code of a process that was forked, and terminated when it ran.

    Not sooner: the interpreter forgets signals that come to a child while it forks, if there is a handler for them.
    """
    runs, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_run, args=(child,))
    process.start()
    runs.recv()
    process.terminate()
    process.join(30)
    return process.exitcode


def _run(parent: Connection) -> None:
    parent.send("running")
    parent.recv()


class OfItsOwn(BaseException):
    """An application's own, which is no Exception."""


def late(how: str) -> None:
    """In a moment raise something in the main thread: from another one, or in a signal's handler."""

    def rise(*_: object) -> None:
        os.write(1, b"an alarm\n")
        raise TimeoutError("too late")

    def throw(thread: int) -> None:
        time.sleep(0.05)  # by then it waits for the next connection, or is close to it: both have to do
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OfItsOwn))
        os.write(1, b"an alarm\n")

    if how == "signal":
        signal.signal(signal.SIGALRM, rise)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        threading.Thread(target=throw, args=(threading.get_ident(),)).start()


_kept: list[object] = []
"""What a handler holds on to for good."""


class Probe(prefork.Worker):
    """Answers by path: ``/hold`` is ``do_hold``; what stands behind a second slash is its argument."""

    def init(self) -> None:
        os.write(1, b"init %d %d\n" % (self.slot, os.getpid()))  # in one piece, whoever else writes

    def exit(self) -> None:
        os.write(1, b"exit %d %d\n" % (self.slot, os.getpid()))

    def handle(self, connection: socket.socket, address: object) -> None:  # noqa: ARG002  # as Worker has it
        with connection.makefile("rb") as request:
            line = request.readline().decode()
            while request.readline() not in {b"\r\n", b""}:
                pass
            name, _, argument = line.split()[1].lstrip("/").partition("/")
            method: Callable[[socket.socket, IO[bytes], str], object] = getattr(self, f"do_{name or 'pid'}")
            answer = method(connection, request, argument)
        if answer is not None:
            body = str(answer).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    # Who answers.

    def do_pid(self, *_: Any) -> int:
        return os.getpid()

    def do_slot(self, *_: Any) -> int:
        return self.slot

    def do_generation(self, *_: Any) -> int:
        return self.generation

    # A connection in hand for as long as the client likes.

    def do_hold(self, connection: socket.socket, request: IO[bytes], _: str) -> None:
        connection.sendall(b"held %d\n" % os.getpid())
        if request.readline():
            connection.sendall(b"done %d\n" % os.getpid())

    def do_sleep(self, _: socket.socket, __: IO[bytes], seconds: str) -> int:
        time.sleep(float(seconds))  # the handler's work, which the test asked for
        return os.getpid()

    def do_deaf(self, connection: socket.socket, request: IO[bytes], argument: str) -> None:
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        self.do_hold(connection, request, argument)
        signal.signal(signal.SIGTERM, before)

    # Ways to end.

    def do_fail(self, *_: Any) -> None:
        raise RuntimeError("failed as asked")

    def do_raise(self, _: socket.socket, __: IO[bytes], name: str) -> None:
        module, _dot, kind = name.rpartition(".")
        raise getattr(importlib.import_module(module), kind)("as asked")

    def do_late(self, _: socket.socket, __: IO[bytes], how: str) -> int:
        """Have something raised in this thread when the answer has been given and nothing is in hand."""
        late(how)
        return os.getpid()

    def do_exit(self, _: socket.socket, __: IO[bytes], code: str) -> None:
        os._exit(int(code))

    def do_die(self, _: socket.socket, __: IO[bytes], number: str) -> None:
        os.kill(os.getpid(), int(number))
        time.sleep(60)  # until the signal is there

    # What a handler does with its connection.

    def do_nothing(self, *_: Any) -> None:
        pass

    def do_close(self, connection: socket.socket, request: IO[bytes], _: str) -> None:
        request.close()
        connection.close()

    def do_keep(self, connection: socket.socket, *_: Any) -> None:
        _kept.append(connection.makefile("rb"))

    def do_detach(self, connection: socket.socket, request: IO[bytes], _: str) -> None:
        mine = socket.socket(fileno=os.dup(connection.fileno()))
        request.close()
        os.close(connection.detach())
        _kept.append(mine)
        mine.sendall(b"mine\n")

    def do_body(self, _: socket.socket, request: IO[bytes], __: str) -> int:
        return len(request.read())

    # Ways to hang.

    def do_spin(self, connection: socket.socket, *_: Any) -> None:
        connection.sendall(b"spinning\n")
        while True:
            pass

    def do_recv(self, connection: socket.socket, *_: Any) -> None:
        connection.sendall(b"receiving\n")
        connection.recv(1)

    def do_hash(self, connection: socket.socket, *_: Any) -> None:
        connection.sendall(b"hashing\n")
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1_000_000_000)

    def do_match(self, connection: socket.socket, *_: Any) -> None:
        connection.sendall(b"matching\n")
        re.match(r"(a+)+$", "a" * 64 + "b")  # exponential

    def do_extend(self, _: socket.socket, __: IO[bytes], argument: str) -> int:
        more, work = argument.split("/")
        self.extend_deadline(float(more))
        time.sleep(float(work))  # the handler's work, which the test asked for
        return os.getpid()

    # What a worker may hold too much of.

    def do_memory(self, _: socket.socket, __: IO[bytes], mebibytes: str) -> int:
        _kept.append(b"x" * (int(mebibytes) << 20))
        return os.getpid()

    def do_descriptors(self, _: socket.socket, __: IO[bytes], count: str) -> int:
        _kept.extend([os.open(os.devnull, os.O_RDONLY) for _ in range(int(count))])
        return os.getpid()

    # Processes of the application's own.

    def do_subprocess(self, *_: Any) -> int:
        return subprocess.run([sys.executable, "-c", "import sys; sys.exit(7)"], check=False).returncode

    def do_multiprocessing(self, *_: Any) -> int | None:
        process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(9,))
        process.start()
        process.join(30)
        return process.exitcode

    def do_terminated(self, *_: Any) -> int | None:
        return terminated()

    def do_orphan(self, *_: Any) -> str:
        """Leave a process behind that process 1 adopts, and that ends soon after."""
        if not os.fork():
            if not os.fork():
                while os.getppid() != 1:
                    time.sleep(0.001)  # until it is adopted
                os.write(1, b"orphan of %d ends\n" % os.getppid())
            os._exit(0)
        os.wait()
        return "left"

    def do_signal(self, *_: Any) -> str:
        return str(signal.getsignal(signal.SIGHUP))


class Taking(Probe):
    """The same in a loop of its own."""

    def run(self) -> None:
        while not self.stopping:
            try:
                accepted = self.accept()
            except (OfItsOwn, TimeoutError) as error:
                os.write(1, b"caught %b\n" % type(error).__name__.encode())
                continue
            if accepted is not None:
                with accepted[0]:
                    self.handle(*accepted)
