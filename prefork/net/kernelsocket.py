"""KernelSocket: a socket that is its descriptor, with the calls of section 2 of the manual that every family has.

No more Python is around a call than that takes: where C returns -1 and sets errno, here an `OSError` with that errno is
raised. Nothing is resolved, buffered or timed, and whether a call blocks is the descriptor's affair (O_NONBLOCK), not
the object's. Addresses are the families' own: `prefork.net.ipsocket`, `prefork.net.unixsocket`.

**Who owns the descriptor.** This object, which closes it. A listening one is given to code that knows nothing but the
standard library, embedders and their event loops: `standard_socket` makes a standard socket on the same descriptor,
once, and that owns it from then on. Closing either closes both, and closes once: a number that was closed may be
somebody else's by the next moment. `to_socket` and `detach` give the descriptor away for good.
"""

from __future__ import annotations

import ctypes
import errno
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self, overload

from prefork.system import natives
from prefork.system.natives import os
from prefork.system.natives import socket as std

libc: Final = ctypes.CDLL(None, use_errno=True)
"""The C library; what the families call beside this."""
libc.send.restype = libc.recv.restype = ctypes.c_ssize_t


class Selectable(Protocol):
    """Anything that select(2) could be asked about."""

    def fileno(self) -> int:
        """The descriptor."""


class Socket(Selectable, Protocol):
    """A socket as far as its options go: a `KernelSocket`, or a standard one."""

    @overload
    def getsockopt(self, level: int, option: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...
    def getsockopt(self, level: int, option: int, size: int = 0, /) -> int | bytes:
        """Ask for an option (getsockopt(2))."""

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        """Set an option (setsockopt(2))."""


class KernelSocket:
    """A socket of any family, held by its descriptor.

    Each method is the system call of its name (section 2 of the manual) and raises OSError with its errno. A call
    that a signal interrupted is made again after Python's handlers have run, as everywhere in Python (PEP 475).

    Args:
        family: AF_INET or another: what `socket` makes.
        fd: A descriptor to take over; -1 for none.

    Attributes:
        fd: The descriptor, -1 while there is none.
        family: What `socket` makes.
    """

    __slots__ = ("_made", "_standard", "family", "fd")

    def __init__(self, family: int, fd: int = -1) -> None:
        self.fd = fd
        self.family = family
        self._made = (-1, -1)  # type and protocol, where `socket` was told
        self._standard: std.socket | None = None

    def fileno(self) -> int:
        """The descriptor, -1 while there is none."""
        return self.fd if self._standard is None else self._standard.fileno()

    def socket(self, type: int = std.SOCK_STREAM, protocol: int = 0) -> int:  # noqa: A002  # the contract's name
        """Make a socket of this object's family and hold it (socket(2)); close-on-exec.

        A descriptor held before is closed once the new one is there.

        Args:
            type: SOCK_STREAM or another; SOCK_NONBLOCK may be added.
            protocol: 0 for the usual one of that type.

        Returns:
            The descriptor.
        """
        fd = call(libc.socket, self.family, type | std.SOCK_CLOEXEC, protocol)
        self.close()
        self.fd, self._made = fd, (type, protocol)
        return fd

    def listen(self, backlog: int = std.SOMAXCONN) -> None:
        """Let connections wait here to be accepted (listen(2)).

        Args:
            backlog: How many; the kernel cuts it to net.core.somaxconn.
        """
        call(libc.listen, self.fd, backlog)

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
        call(libc.getsockopt, self.fd, level, option, value, ctypes.byref(length))
        return value.raw[: length.value] if size else ctypes.c_int.from_buffer(value).value

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set a socket option (setsockopt(2)).

        Args:
            level: SOL_SOCKET, IPPROTO_TCP ...
            option: Its number.
            value: A number, or the bytes of a structure.
        """
        raw = bytes(ctypes.c_int(value)) if isinstance(value, int) else value
        call(libc.setsockopt, self.fd, level, option, raw, len(raw))

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
        return call(libc.send, self.fd, raw, ctypes.c_size_t(len(raw)), flags | std.MSG_NOSIGNAL)

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
        received = call(libc.recv, self.fd, buffer, ctypes.c_size_t(size), flags)
        return buffer.raw[:received]

    def shutdown(self, how: int = std.SHUT_RDWR) -> None:
        """End the connection in one direction or both (shutdown(2)).

        Args:
            how: SHUT_RD, SHUT_WR or SHUT_RDWR.
        """
        call(libc.shutdown, self.fd, how)

    def standard_socket(self) -> std.socket:
        """A standard socket on the same descriptor, made at the first call; closing either closes both.

        It blocks as the descriptor does, whatever ``socket.setdefaulttimeout`` says; O_NONBLOCK, which others may
        share, stays as it is. Its class is the interpreter's own, whoever has patched the module since.

        Raises:
            OSError: EBADF when there is no descriptor.
        """
        if self._standard is None:
            blocking = os.get_blocking(self.fd)
            made = natives.socket.socket(self.family, *self._made, fileno=self.fd)
            if made.gettimeout() is not None:
                made.settimeout(None)
                os.set_blocking(self.fd, blocking)
            self._standard = made
        return self._standard

    def detach(self) -> int:
        """Give the descriptor away: whoever takes it closes it.

        Returns:
            It, or -1 when there was none.
        """
        fd, self.fd = self.fileno(), -1
        if self._standard is not None:
            self._standard.detach()
            self._standard = None
        return fd

    def to_socket(self) -> std.socket:
        """Turn into a standard socket, which holds the descriptor from now on and blocks as the descriptor does.

        Raises:
            OSError: EBADF when there is no descriptor.
        """
        fd = self.fileno()
        if fd < 0:
            raise os_error(errno.EBADF)
        blocking = os.get_blocking(fd)
        made = std.socket(fileno=fd)
        if self._standard is not None:
            self._standard.detach()
            self._standard = None
        self.fd = -1
        made.setblocking(blocking)
        return made

    def close(self) -> None:
        """Close the descriptor, if there is one. Idempotent."""
        fd = self.fd
        if fd < 0:
            return
        self.fd = -1
        if self._standard is None:
            os.close(fd)
        else:
            self._standard.close()
            self._standard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self.fd >= 0 and self._standard is None:  # else that one tells
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self.fd}>"


def os_error(number: int) -> OSError:
    """The exception for an errno."""
    return OSError(number, os.strerror(number))


def call(function: Callable[..., int], *arguments: Any, interruptible: bool = False) -> int:
    """Make a system call, again if a signal interrupted it; what it returns, or OSError with its errno."""
    while (result := function(*arguments)) < 0:
        number = ctypes.get_errno()
        if number != errno.EINTR or interruptible:
            raise os_error(number)
    return result
