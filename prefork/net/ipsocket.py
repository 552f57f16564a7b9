"""IPSocket: a descriptor that accepts into itself.

This is the contract of accept4(2) in Python's conventions, and no more Python around it than that takes: where C
returns -1 and sets errno, here an `OSError` with that errno is raised. Nothing is resolved, buffered or timed, and
whether a call blocks is the descriptor's affair (O_NONBLOCK), not this object's; so a standard socket with a timeout
counts as non-blocking here. `to_socket` makes a standard `socket.socket` of it for whoever wants that comfort.

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
import os
import socket as std  # a method has its name
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self, overload

from prefork.net.inetaddress import ROOM, InetAddress
from prefork.system.natives import select

_libc: Final = ctypes.CDLL(None, use_errno=True)
# Without argtypes: ctypes converts plain ints and None faster so, and accept is the hot path.
_accept4: Final = _libc.accept4
_libc.send.restype = _libc.recv.restype = ctypes.c_ssize_t

_FOREIGN_FLAGS: Final = ~(std.SOCK_NONBLOCK | std.SOCK_CLOEXEC)
_ANY: Final[dict[int, str]] = {std.AF_INET: "0.0.0.0", std.AF_INET6: "::"}


class Selectable(Protocol):
    """Anything that select(2) could be asked about."""

    def fileno(self) -> int:
        """The descriptor."""


class IPSocket:
    """A socket for IPv4 or IPv6, held by its descriptor.

    Each method is the system call of its name (section 2 of the manual) and raises OSError with its errno. A call
    that a signal interrupted is made again after Python's handlers have run, as everywhere in Python (PEP 475).

    Args:
        family: AF_INET or AF_INET6: what `socket` makes.
        fd: A descriptor to take over; -1 for none.

    Attributes:
        fd: The descriptor, -1 while there is none.
        family: What `socket` makes.
    """

    __slots__ = ("family", "fd")

    def __init__(self, family: int = std.AF_INET, fd: int = -1) -> None:
        self.fd = fd
        self.family = family

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
            raise _error(errno.EINVAL)  # ctypes would cut off high bits that the kernel has to refuse
        raw = length = None
        if remote_address is not None:
            raw, length = remote_address.raw, remote_address.length_pointer
            remote_address.length.value = ROOM
        while (fd := _accept4(listening_socket.fileno(), raw, length, flags)) < 0:
            number = ctypes.get_errno()
            if number != errno.EINTR or interruptible:
                raise _error(number)
            # Going round the loop is where Python runs its signal handlers.
        before = self.fd
        self.fd = fd
        if before >= 0:
            with contextlib.suppress(OSError):  # the accept succeeded, and close(2) has freed the number anyway
                os.close(before)
        return fd  # type: ignore[no-any-return]  # ctypes gives an int, and int() would cost

    def fileno(self) -> int:
        """The descriptor, -1 while there is none."""
        return self.fd

    def socket(self, type: int = std.SOCK_STREAM, protocol: int = 0) -> int:  # noqa: A002  # the contract's name
        """Make a socket of this object's family and hold it (socket(2)); close-on-exec.

        A descriptor held before is closed once the new one is there.

        Args:
            type: SOCK_STREAM or another; SOCK_NONBLOCK may be added.
            protocol: 0 for the usual one of that type.

        Returns:
            The descriptor.
        """
        before, self.fd = self.fd, _call(_libc.socket, self.family, type | std.SOCK_CLOEXEC, protocol)
        if before >= 0:
            os.close(before)
        return self.fd

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
        _call(_libc.bind, self.fd, address.raw, address.length)

    def listen(self, backlog: int = std.SOMAXCONN) -> None:
        """Let connections wait here to be accepted (listen(2)).

        Args:
            backlog: How many; the kernel cuts it to net.core.somaxconn.
        """
        _call(_libc.listen, self.fd, backlog)

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
            _call(_libc.connect, self.fd, address.raw, address.length, interruptible=True)
        except InterruptedError:
            # The handshake goes on by itself, and a second call would fail (connect(2), EINTR).
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            poll.poll()
            if number := self.error():
                raise _error(number) from None

    def getsockname(self) -> InetAddress:
        """The local address (getsockname(2))."""
        return _filled(_libc.getsockname, self.fd)

    def getpeername(self) -> InetAddress:
        """The peer's address (getpeername(2)).

        Raises:
            OSError: ENOTCONN when there is no connection.
        """
        return _filled(_libc.getpeername, self.fd)

    @overload
    def getsockopt(self, level: int, option: int) -> int: ...
    @overload
    def getsockopt(self, level: int, option: int, size: int) -> bytes: ...
    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:
        """Ask for a socket option (getsockopt(2)).

        Args:
            level: SOL_SOCKET, IPPROTO_TCP ...
            option: Its number.
            size: How many bytes to ask for; 0 for an int.

        Returns:
            A number, or as many of the bytes as the kernel gave.
        """
        length = ctypes.c_uint32(size or 4)
        value = ctypes.create_string_buffer(length.value)
        _call(_libc.getsockopt, self.fd, level, option, value, ctypes.byref(length))
        return value.raw[: length.value] if size else ctypes.c_int.from_buffer(value).value

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set a socket option (setsockopt(2)).

        Args:
            level: SOL_SOCKET, IPPROTO_TCP ...
            option: Its number.
            value: A number, or the bytes of a structure.
        """
        raw = bytes(ctypes.c_int(value)) if isinstance(value, int) else value
        _call(_libc.setsockopt, self.fd, level, option, raw, len(raw))

    def error(self) -> int:
        """The error that is pending on the socket, as an errno, 0 for none; asking clears it (socket(7), SO_ERROR)."""
        return self.getsockopt(std.SOL_SOCKET, std.SO_ERROR)

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Send what the kernel takes (send(2)); never SIGPIPE.

        Args:
            data: Anything but bytes is copied.
            flags: MSG_DONTWAIT and its like.

        Returns:
            How many bytes were taken.
        """
        raw = bytes(data)
        return _call(_libc.send, self.fd, raw, ctypes.c_size_t(len(raw)), flags | std.MSG_NOSIGNAL)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive what is there (recv(2)).

        Args:
            size: At most so many bytes.
            flags: MSG_PEEK and its like.

        Returns:
            The bytes; none at the end of the stream.

        Raises:
            ValueError: ``size`` is negative.
        """
        if size < 0:
            raise ValueError(f"{size} bytes can't be received")
        buffer = ctypes.create_string_buffer(size)
        received = _call(_libc.recv, self.fd, buffer, ctypes.c_size_t(size), flags)
        return buffer.raw[:received]

    def shutdown(self, how: int = std.SHUT_RDWR) -> None:
        """End the connection in one direction or both (shutdown(2)).

        Args:
            how: SHUT_RD, SHUT_WR or SHUT_RDWR.
        """
        _call(_libc.shutdown, self.fd, how)

    def detach(self) -> int:
        """Give the descriptor away: whoever takes it closes it.

        Returns:
            It, or -1 when there was none.
        """
        fd, self.fd = self.fd, -1
        return fd

    def to_socket(self) -> std.socket:
        """Turn into a standard socket, which holds the descriptor from now on and blocks as the descriptor does.

        Raises:
            OSError: EBADF when there is no descriptor.
        """
        if self.fd < 0:
            raise _error(errno.EBADF)
        blocking = os.get_blocking(self.fd)
        made = std.socket(fileno=self.fd)
        self.fd = -1
        made.setblocking(blocking)
        return made

    def close(self) -> None:
        """Close the descriptor, if there is one. Idempotent."""
        fd = self.fd
        if fd >= 0:
            self.fd = -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self.fd >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        remote = ""
        with contextlib.suppress(OSError):
            remote = f" remote={self.getpeername()}"
        return f"<{type(self).__name__} fd={self.fd}{remote}>"


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _call(function: Callable[..., int], *arguments: Any, interruptible: bool = False) -> int:
    """Make a system call, again if a signal interrupted it; what it returns, or OSError with its errno."""
    while (result := function(*arguments)) < 0:
        number = ctypes.get_errno()
        if number != errno.EINTR or interruptible:
            raise _error(number)
    return result


def _address(where: InetAddress | str, port: int) -> InetAddress:
    return where if isinstance(where, InetAddress) else InetAddress(where, port)


def _filled(function: Callable[..., int], fd: int) -> InetAddress:
    address = InetAddress()
    _call(function, fd, address.raw, address.length_pointer)
    return address
