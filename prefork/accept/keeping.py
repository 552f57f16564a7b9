"""What a `prefork.Worker` has for connections that are kept. WORKER."""

from __future__ import annotations

from typing import Any, ClassVar

from prefork.accept.parked_connections import ParkedConnection, ParkedConnections
from prefork.accept.worker_context import WorkerContext
from prefork.system.forks import HERE
from prefork.system.natives import socket


class Keeping:
    """Keeping a connection after its handler has returned. Only for the usual loop, with the setting ``keepalive``."""

    handshakes: ClassVar[bool]

    _given: WorkerContext
    _parking: ParkedConnections | None = None

    def park(
        self,
        connection: socket.socket,
        address: Any,
        state: bytes | bytearray | memoryview = b"",
        *,
        ready: bool = False,
    ) -> bool:
        """Keep the connection in hand after :meth:`handle` has returned, instead of closing it.

        It belongs to the server then. When its client speaks, :meth:`handle` is called with it again, in this worker or
        in another, and :attr:`parked` says what is known of it. A worker that leaves passes its parked connections on;
        one that is killed loses them. Only for the usual loop, with the setting ``keepalive``.

        Args:
            connection: the one that :meth:`handle` was given, with nothing of it buffered in Python.
            address: its peer's address, likewise.
            state: what :meth:`handle` wants to know when it has it again; at most 64 KiB.
            ready: whether it wants it again, in its turn, though nothing more may come: ``state`` has what did.

        Returns:
            Whether it is kept. If not, it is closed as always: ``keepalive`` is 0, the server stops, the connection has
            brought ``keepalive_requests``, or TLS is spoken on it, which knows one process alone.

        Raises:
            TypeError: ``state`` is nothing of the kind, and could not be passed on.
        """
        told = state if type(state) is bytes else bytes(memoryview(state))
        if self._parking is None or (self.handshakes and self._given.tls is not None):
            return False
        if HERE.copied and self._given.offspring.keeps:
            return False  # a process that the handler has forked has it, too
        return not self._parking.last() and self._parking.park(connection, address, told, ready=ready)

    @property
    def parked(self) -> ParkedConnection | None:
        """While :meth:`handle` has one that was parked: its ``state``, ``requests`` and ``since``; else None."""
        one = None if self._parking is None else self._parking.in_hand
        return one if one is not None and one.requests else None
