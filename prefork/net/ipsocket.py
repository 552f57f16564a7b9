"""IPSocket: a descriptor that accepts into itself.

This is the contract of accept4(2) in Python's conventions. A listening socket is one, too: the master makes it, binds
it and listens through it, and what a worker's accept calls is the standard socket that it hands out
(`prefork.net.kernelsocket`). A standard socket with a timeout counts as non-blocking here.

The calls go through ctypes, because the standard library can't do this one: ``socket.accept`` always asks the kernel
for the peer's address, knows no flag but SOCK_CLOEXEC, and never hands EINTR to its caller. It costs less, too: no
second object, no getsockname(2), no address written as text that nobody reads.

One gap remains that no Python code can close: a signal handler that *raises* may do so after accept4 has returned and
before its result is stored, and that connection is lost. Handlers that only take notes don't open it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
from collections.abc import Callable
from typing import Final, overload

from prefork.net.inetaddress import ROOM, InetAddress
from prefork.net.kernelsocket import KernelSocket, Selectable, call, libc, os_error
from prefork.system.natives import os, select
from prefork.system.natives import socket as std

# Without argtypes: ctypes converts plain ints and None faster so, and accept is the hot path.
_accept4: Final = libc.accept4

_FOREIGN_FLAGS: Final = ~(std.SOCK_NONBLOCK | std.SOCK_CLOEXEC)
_ANY: Final[dict[int, str]] = {std.AF_INET: "0.0.0.0", std.AF_INET6: "::"}


class IPSocket(KernelSocket):
    """A socket for IPv4 or IPv6, held by its descriptor.

    Args:
        family: AF_INET or AF_INET6: what `socket` makes.
        fd: A descriptor to take over; -1 for none.
    """

    __slots__ = ()

    def __init__(self, family: int = std.AF_INET, fd: int = -1) -> None:
        super().__init__(family, fd)

    def accept(
        self,
        listening_socket: Selectable,
        remote_address: InetAddress | None = None,
        flags: int = std.SOCK_CLOEXEC,
        *,
        interruptible: bool = False,
    ) -> int:
        """Take the first connection that waits on a listening socket (accept4(2)), and hold it.

        Blocks while nothing waits, unless the listening socket is non-blocking. A descriptor held before is closed once
        the new one is there. When it fails, everything is as it was.

        Args:
            listening_socket: Where connections wait; it is not changed.
            remote_address: Filled in with the peer's address. With None the kernel is not asked for it.
            flags: SOCK_CLOEXEC and SOCK_NONBLOCK, or 0, for the new descriptor; they act in the same step, and nothing
                is inherited from the listening socket.
            interruptible: Whether a signal ends the call with InterruptedError, after Python's handlers have run.

        Returns:
            The new descriptor, which is `fd` from now on.

        Raises:
            OSError: With the errno of accept4(2): BlockingIOError (EAGAIN) when nothing waits on a non-blocking socket,
                EINVAL when it does not listen or ``flags`` holds a bit that is neither of the two, EMFILE at the limit
                of descriptors ... `prefork.net.accept_errors` lists all of them and what to do.
            InterruptedError: A signal came, and ``interruptible`` is true.
        """
        if flags & _FOREIGN_FLAGS:
            raise os_error(errno.EINVAL)  # ctypes would cut off high bits that the kernel has to refuse
        raw = length = None
        if remote_address is not None:
            raw, length = remote_address.raw, remote_address.length_pointer
            remote_address.length.value = ROOM
        while (fd := _accept4(listening_socket.fileno(), raw, length, flags)) < 0:
            number = ctypes.get_errno()
            if number != errno.EINTR or interruptible:
                raise os_error(number)
            # Going round the loop is where Python runs its signal handlers.
        before = self.fd
        self.fd = fd
        if before >= 0:
            self._let_go(before)
        return fd  # type: ignore[no-any-return]  # ctypes gives an int, and int() would cost

    def tcp_socket(self, nonblocking: bool = False) -> int:
        """Make a TCP socket and hold it (tcp(7)).

        Args:
            nonblocking: Whether it has O_NONBLOCK from the start.

        Returns:
            The descriptor.
        """
        flags = std.SOCK_NONBLOCK if nonblocking else 0
        return self.socket(std.SOCK_STREAM | flags, std.IPPROTO_TCP)

    @overload
    def bind(self, address: InetAddress, /) -> None: ...
    @overload
    def bind(self, host: str, port: int, /) -> None: ...
    @overload
    def bind(self, port: int, /) -> None: ...
    def bind(self, where: InetAddress | str | int, port: int = 0, /) -> None:
        """Give the socket a local address (bind(2)).

        Args:
            where: The address; or a host in numbers; or a port alone, at any address of the socket's family.
            port: The port that goes with a host.

        Raises:
            ValueError: The host is no address in numbers.
        """
        address = InetAddress(_ANY[self.family], where) if isinstance(where, int) else _address(where, port)
        call(libc.bind, self.fd, address.raw, address.length)

    @overload
    def connect(self, address: InetAddress, /) -> None: ...
    @overload
    def connect(self, host: str, port: int, /) -> None: ...
    def connect(self, where: InetAddress | str, port: int = 0, /) -> None:
        """Connect to a listening socket (connect(2)).

        Args:
            where: The address, or a host in numbers.
            port: The port that goes with a host.

        Raises:
            BlockingIOError: The socket is non-blocking and the handshake has begun (EINPROGRESS): poll for writing,
                then ask `error`.
            ValueError: The host is no address in numbers.
        """
        address = _address(where, port)
        try:
            call(libc.connect, self.fd, address.raw, address.length, interruptible=True)
        except InterruptedError:
            # The handshake goes on by itself, and a second call would fail (connect(2), EINTR).
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            poll.poll()
            if number := self.error():
                raise os_error(number) from None

    def getsockname(self) -> InetAddress:
        """The local address (getsockname(2))."""
        return _filled(libc.getsockname, self.fd)

    def getpeername(self) -> InetAddress:
        """The peer's address (getpeername(2)).

        Raises:
            OSError: ENOTCONN when there is no connection.
        """
        return _filled(libc.getpeername, self.fd)

    def __repr__(self) -> str:
        remote = ""
        with contextlib.suppress(OSError):
            remote = f" remote={self.getpeername()}"
        return f"<{type(self).__name__} fd={self.fd}{remote}>"

    def _let_go(self, before: int) -> None:
        """Close what was held before."""
        with contextlib.suppress(OSError):  # the accept succeeded, and close(2) has freed the number anyway
            if self._standard is None:
                os.close(before)
            else:
                standard, self._standard = self._standard, None
                standard.close()


def _address(where: InetAddress | str, port: int) -> InetAddress:
    return where if isinstance(where, InetAddress) else InetAddress(where, port)


def local_address(sock: Selectable) -> InetAddress:
    """The address that an IP socket of any class is bound to (getsockname(2))."""
    return _filled(libc.getsockname, sock.fileno())


def _filled(function: Callable[..., int], fd: int) -> InetAddress:
    address = InetAddress()
    call(function, fd, address.raw, address.length_pointer)
    return address
