"""The PROXY protocol on a connection: the header is taken off before anybody else reads, and the true peer is known.

No byte behind the header is taken: it is first looked at (MSG_PEEK, recv(2)), and where it has not all come, all that
has is a part of it. So whoever reads next, TLS included, finds the connection as if there had been no proxy.

Only peers that are named may send one. From anybody else it would be a lie that is believed, so his connection ends;
one from a unix socket is named by the socket's permissions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Final

from prefork.config.networks import truster
from prefork.net.proxy_protocol import ProxyGoneError, ProxyHeader, ProxyProtocolError, read_header
from prefork.system.natives import select, socket, time
from prefork.system.peer import format_peer
from prefork.system.throttle import Log, Throttle

PATIENCE: Final = 10.0
"""Seconds that a header may take where no setting says so: a proxy sends it as soon as it connects."""

_LOOK: Final = 256  # bytes looked at: of nearly all headers all, and little enough for Python's own allocator
_TAKE: Final = 1 << 14  # bytes taken, as for a request
_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_PEEK: Final = int(socket.MSG_PEEK) | _DONTWAIT


class ProxySilentError(Exception):
    """Nothing of a header has come yet, and who may send one can be waited for elsewhere, with others."""


class ProxyReader:
    """WORKER. Reads the headers of one worker's connections.

    Args:
        versions: The setting ``proxy_protocol``: "v1", "v2" or "any".
        allowed: The setting ``proxy_allow_ips``.
        log: Where it is told that a connection was ended.
        patience: Seconds that a header may take; infinity for no limit.

    Attributes:
        headers: The headers of connections, by their descriptors. One that has none was not accepted by this worker.
        ahead: What came behind a header and was taken along, likewise, until somebody takes it out; see
            `EagerProxyReader`.
    """

    def __init__(self, versions: str, allowed: str, log: Log, patience: float = PATIENCE) -> None:
        self.headers: dict[int, ProxyHeader] = {}
        self.ahead: dict[int, bytes] = {}
        self.patience = patience
        self._v1, self._v2 = versions != "v2", versions != "v1"
        self._trusts = truster(allowed)
        self._half: tuple[int, bytes] | None = None
        self._throttle = Throttle(log)
        self._log = log

    def admits(self, address: Any) -> bool:
        """Whether a peer may send a header; if not, that has been told, and its connection is to be closed."""
        if not isinstance(address, tuple) or self._trusts(address[0]):
            return True
        told = "%s is not in proxy_allow_ips: its connection was closed; if it is your proxy, give --proxy-allow-ips"
        self._throttle.tell(logging.WARNING, "unnamed", told, format_peer(address))
        return False

    def read(
        self,
        connection: socket.socket,
        address: Any,
        waiting: Callable[[float], None] | None = None,
        *,
        elsewhere: bool = False,
    ) -> Any:
        """Read the header of a connection that was just accepted.

        Args:
            connection: As accept(2) gave it, or with a timeout, which it has again afterwards.
            address: Its peer's.
            waiting: Told before a wait how many seconds that may last at most, and 0 when it is over, so that a limit
                of the handler's time can be put off.
            elsewhere: Whether one on which nothing has come can be waited for elsewhere.

        Returns:
            The true peer's address: ``address`` itself where the proxy tells none.

        Raises:
            ProxySilentError: ``elsewhere``, and nothing has come.
            ProxyProtocolError: The connection is to be closed; it has been told why.
            BaseException: What the application has had raised here; asked again, it goes on where it was.
        """
        if isinstance(address, tuple) and not self._trusts(address[0]) and not self.admits(address):
            raise ProxyProtocolError("a peer that may send none")
        fd = connection.fileno()
        try:
            if self._half is None and not connection.gettimeout():
                found = self.attempt(connection)
                if isinstance(found, bytes):
                    found = self._wait_for(connection, found, waiting, elsewhere=elsewhere)
            else:
                found = self._read_on(connection, waiting, elsewhere=elsewhere)
        except ProxyProtocolError as error:
            self._half = None
            self.tell(error, address)
            raise
        self.headers[fd] = found
        source = found.source
        return address if source is None else source

    def _read_on(
        self, connection: socket.socket, waiting: Callable[[float], None] | None, *, elsewhere: bool
    ) -> ProxyHeader:
        """The header of a connection that has a timeout, or in which an exception has come between."""
        timeout = connection.gettimeout()
        if timeout:
            connection.setblocking(True)  # else each call would wait for so long before it tries
        begun, received = self._half or (-1, b"")
        try:
            found = self.attempt(connection, received if begun == connection.fileno() else b"")
            if isinstance(found, bytes):
                return self._wait_for(connection, found, waiting, elsewhere=elsewhere)
            self._half = None
            return found
        finally:
            if timeout:
                connection.settimeout(timeout)

    def _wait_for(
        self,
        connection: socket.socket,
        received: bytes,
        waiting: Callable[[float], None] | None,
        *,
        elsewhere: bool,
    ) -> ProxyHeader:
        """The header of a connection on which it has not all come."""
        if elsewhere and not received:
            self._half = None
            self.headers.pop(connection.fileno(), None)  # of one that had the same number, and is gone
            raise ProxySilentError
        deadline = time.monotonic() + self.patience
        found: ProxyHeader | bytes = received
        while not isinstance(found, ProxyHeader):
            self._half = connection.fileno(), found
            _wait(connection, deadline, waiting)
            found = self.attempt(connection, found)
        self._half = None
        return found

    def attempt(self, connection: socket.socket, received: bytes = b"") -> ProxyHeader | bytes:
        """Take what has come of a header, without waiting.

        Args:
            connection: A connection without a timeout.
            received: What has been taken before.

        Returns:
            The header when it is whole, else what has been taken by now.

        Raises:
            ProxyProtocolError: It is none.
        """
        try:
            while True:
                data = connection.recv(_LOOK, _PEEK)
                if not data:
                    raise ProxyGoneError("the end of the connection within the header" if received else "nothing")
                before = len(received)
                if before:
                    data = received + data
                header = read_header(data, self._v1, self._v2)
                length = len(data) if header is None else len(header.raw)
                taken = connection.recv(length - before, _DONTWAIT)
                received = received + taken if before else taken
                if header is not None and len(received) == length:
                    return header
        except BlockingIOError:
            return received
        except ProxyProtocolError:
            raise
        except OSError as error:
            raise ProxyGoneError(str(error)) from error

    def found(self, fd: int, header: ProxyHeader, address: Any) -> Any:
        """Keep the header of a connection.

        Returns:
            The true peer's address.
        """
        self.headers[fd] = header
        source = header.source
        return address if source is None else source

    def tell(self, error: ProxyProtocolError, address: Any) -> None:
        """Say in the log why a connection is closed."""
        if isinstance(error, ProxyGoneError):
            self._log.debug("no PROXY header from %s: %s", format_peer(address), error)
            return
        told = "no PROXY header from %s but %s: its connection was closed"
        self._throttle.tell(logging.WARNING, str(error), told, format_peer(address), error)


class EagerProxyReader(ProxyReader):
    """WORKER. For a worker that reads what follows by itself: that is taken along, with one call in place of two."""

    def attempt(self, connection: socket.socket, received: bytes = b"") -> ProxyHeader | bytes:
        """Take what has come of a header, and what has come behind it; else as `ProxyReader.attempt`."""
        try:
            while True:
                data = connection.recv(_TAKE, _DONTWAIT)
                if not data:
                    raise ProxyGoneError("the end of the connection within the header" if received else "nothing")
                if received:
                    data = received + data
                header = read_header(data, self._v1, self._v2)
                if header is not None:
                    self.ahead[connection.fileno()] = data[len(header.raw) :]
                    return header
                received = data
        except BlockingIOError:
            return received
        except ProxyProtocolError:
            raise
        except OSError as error:
            raise ProxyGoneError(str(error)) from error


class Proxied:
    """WORKER. A handle() whose connections begin with a header, which it doesn't see.

    Args:
        handle: Called with the connection and its true peer's address.
        reader: Reads the header.
        waiting: As `ProxyReader.read` has it.
        timeout: Of each connection when the header is read, in seconds; 0 sets none.
    """

    def __init__(
        self,
        handle: Callable[[socket.socket, Any], object],
        reader: ProxyReader,
        waiting: Callable[[float], None] | None,
        timeout: float = 0.0,
    ) -> None:
        self._handle = handle
        self._read = reader.read
        self._waiting = waiting
        self._timeout = timeout

    def __call__(self, connection: socket.socket, address: Any) -> None:
        """Serve one connection.

        Raises:
            ProxyProtocolError: There is no header; it has been told in the log.
            BaseException: What the handler raises.
        """
        peer = self._read(connection, address, self._waiting)
        if self._timeout:
            connection.settimeout(self._timeout)
        self._handle(connection, peer)


def _wait(connection: socket.socket, deadline: float, waiting: Callable[[float], None] | None) -> None:
    left = deadline - time.monotonic()
    if left > 0:
        waits = select.poll()
        waits.register(connection, select.POLLIN)
        if waiting is not None:
            waiting(left)
        try:
            if waits.poll(None if left == math.inf else left * 1000):
                return
        finally:
            if waiting is not None:
                waiting(0.0)
    raise ProxyProtocolError("nothing for too long")


class ProxiedSocket(socket.socket):
    """An accepted connection that names its true peer, for servers that ask it rather than accept()."""

    _peer: Any

    @classmethod
    def of(cls, listener: socket.socket, fd: int, peer: Any) -> ProxiedSocket:
        """One of ``listener``'s on a descriptor, which it takes over."""
        made = cls(listener.family, listener.type, listener.proto, fd)
        made._peer = peer
        return made

    def getpeername(self) -> Any:
        """The true peer's address; OSError when the connection is none any more."""
        super().getpeername()
        return self._peer
