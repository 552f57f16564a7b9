"""SIGIO on a listener, as accept(2) and socket(7) describe it, and why no worker uses it.

With O_ASYNC and an owner (fcntl(2), F_SETOWN) a listening socket sends SIGIO when a connection arrives. It goes to the
owner: one process, or a whole process group. Owner and flag belong to the open file description, which all workers
share, so it is one worker that is told every time, or all of them. And as with select(2) and poll(2), the connection
may be gone by the time of the accept: taken by a sibling, or hung up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import threading

import pytest

from prefork.net.ipsocket import IPSocket
from tests.support import sockets


@pytest.fixture
def listener() -> IPSocket:
    listening = IPSocket()
    listening.tcp_socket(nonblocking=True)
    listening.bind("127.0.0.1", 0)
    listening.listen()
    return listening


def _name(listener: IPSocket) -> tuple[str, int]:
    name = listener.getsockname()
    return name.host, name.port


def test_sigio_says_that_a_connection_came_and_it_may_be_gone(listener: IPSocket) -> None:
    arrived = threading.Event()
    before = signal.signal(signal.SIGIO, lambda *_: arrived.set())
    try:
        fcntl.fcntl(listener.fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(listener.fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        with listener, IPSocket() as accepted, socket.create_connection(_name(listener)) as client:
            sockets.until(arrived.is_set, "SIGIO")
            assert accepted.accept(listener) == accepted.fd
            client.sendall(b"x")
            assert os.read(accepted.fd, 1) == b"x"
            # The new socket inherits neither flag (accept(2), on Linux): nobody is signalled for its data.
            assert fcntl.fcntl(accepted.fd, fcntl.F_GETFL) & (os.O_ASYNC | os.O_NONBLOCK) == 0
            # Told once more, and somebody else is faster: EAGAIN, as the listener does not block.
            arrived.clear()
            with socket.create_connection(_name(listener)), IPSocket() as faster:
                sockets.until(arrived.is_set, "a second SIGIO")
                faster.accept(listener)
                with IPSocket() as late, pytest.raises(OSError) as failure:  # noqa: PT011  # the errno is looked at below
                    late.accept(listener)
                assert failure.value.errno == errno.EAGAIN
    finally:
        signal.signal(signal.SIGIO, before)


def test_the_owner_is_one_for_all_who_share_the_listener(listener: IPSocket) -> None:
    with listener:
        copy = os.dup(listener.fd)
        try:
            fcntl.fcntl(copy, fcntl.F_SETOWN, os.getpid())
            assert fcntl.fcntl(listener.fd, fcntl.F_GETOWN) == os.getpid()
            fcntl.fcntl(copy, fcntl.F_SETOWN, 0)
            assert fcntl.fcntl(listener.fd, fcntl.F_GETOWN) == 0
        finally:
            os.close(copy)
