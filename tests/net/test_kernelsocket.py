"""Who owns the descriptor of a socket that others are given as a standard one."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.net.ipsocket import IPSocket
from prefork.net.kernelsocket import KernelSocket
from prefork.net.unixsocket import PATH_BYTES, UnixSocket
from tests.support.sockets import connect, script


@pytest.fixture
def listener() -> Iterator[IPSocket]:
    with IPSocket() as made:
        made.tcp_socket()
        made.bind("127.0.0.1", 0)
        made.listen()
        yield made


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_the_standard_socket_is_one_on_the_same_descriptor_and_accepts(listener: IPSocket) -> None:
    standard = listener.standard_socket()
    assert standard is listener.standard_socket()
    assert standard.fileno() == listener.fd == listener.fileno()
    assert standard.getsockname() == listener.getsockname().as_tuple()
    assert (standard.family, standard.type, standard.gettimeout()) == (socket.AF_INET, socket.SOCK_STREAM, None)
    with connect(standard.getsockname()), standard.accept()[0]:
        pass
    with connect(standard.getsockname()), IPSocket() as accepted:
        accepted.accept(listener)


@pytest.mark.parametrize("first", ["the kernel's", "the standard"])
def test_closing_either_closes_once(listener: IPSocket, first: str) -> None:
    """The number may be somebody else's by the time that the other one is closed."""
    standard, fd = listener.standard_socket(), listener.fd
    one, other = (listener, standard) if first == "the kernel's" else (standard, listener)
    one.close()
    assert not is_open(fd)
    assert listener.fileno() == standard.fileno() == -1
    os.dup2(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), fd)
    other.close()
    assert is_open(fd)
    os.close(fd)


def test_accept_into_one_that_has_a_standard_socket_leaves_that_closed(listener: IPSocket) -> None:
    with IPSocket() as accepted, connect(listener.getsockname().as_tuple()), connect(listener.getsockname().as_tuple()):
        accepted.accept(listener)
        before = accepted.standard_socket()
        fd = accepted.accept(listener)
        assert (before.fileno(), accepted.fileno()) == (-1, fd)
        assert accepted.standard_socket().fileno() == fd


def test_detached_or_turned_into_another_the_standard_socket_has_nothing(listener: IPSocket) -> None:
    before, fd = listener.standard_socket(), listener.fd
    assert listener.detach() == fd
    assert (before.fileno(), listener.fileno()) == (-1, -1)
    again = KernelSocket(socket.AF_INET, fd)
    middle = again.standard_socket()
    with again.to_socket() as turned:
        assert (middle.fileno(), again.fileno(), turned.fileno()) == (-1, -1, fd)
    assert not is_open(fd)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_default_timeout_reaches_neither_it_nor_the_descriptor(listener: IPSocket, blocking: bool) -> None:
    os.set_blocking(listener.fd, blocking)
    socket.setdefaulttimeout(5)
    try:
        assert listener.standard_socket().gettimeout() is None
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(listener.fd) is blocking


def test_without_a_descriptor_there_is_no_standard_socket() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        IPSocket().standard_socket()


def test_what_was_forgotten_is_complained_of_once() -> None:
    answer = script(
        """
import json, socket, warnings
from prefork.net.ipsocket import IPSocket
def made():
    sock = IPSocket()
    sock.tcp_socket()
    return sock
told = []
for with_standard in (False, True):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        one = made()
        if with_standard:
            one.standard_socket()
        del one
    told.append([str(warning.message).split()[1].strip("<") for warning in seen])
print(json.dumps(told))
"""
    )
    assert answer == [["IPSocket"], ["socket.socket"]]


# Names of unix sockets.


@pytest.mark.parametrize("name", ["path", "\0abstract", "\0a\0b", "ü"])
def test_a_name_is_what_the_standard_library_says_it_is(name: str, tmp_path: Path) -> None:
    chosen = f"{name}{tmp_path}" if name.startswith("\0") else f"{tmp_path}/{name}"
    with UnixSocket() as sock, socket.socket(socket.AF_UNIX) as client:
        sock.socket()
        sock.bind(chosen)
        sock.listen()
        assert sock.getsockname() == sock.standard_socket().getsockname()
        client.connect(sock.getsockname())


def test_one_without_a_name() -> None:
    with UnixSocket() as sock:
        sock.socket(socket.SOCK_SEQPACKET)
        assert sock.getsockname() == sock.standard_socket().getsockname() == ""
        assert sock.standard_socket().type == socket.SOCK_SEQPACKET


@pytest.mark.parametrize(("first", "room"), [("/", PATH_BYTES), ("\0", PATH_BYTES + 1)])
def test_a_name_that_has_no_room_is_refused(first: str, room: int) -> None:
    with UnixSocket() as sock:
        sock.socket()
        with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
            sock.bind(first + "x" * room)
        if first == "\0":
            name = first + f"{os.getpid()}".rjust(room - 1, "x")
            sock.bind(name)
            assert sock.getsockname() == os.fsencode(name)
