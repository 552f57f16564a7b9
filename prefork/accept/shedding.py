"""Shedding: refusing clients, with an answer, while no worker has a descriptor to serve them with.

It takes one descriptor, which each worker keeps in reserve: given up, it lets one connection in. That is answered by
the application's ``refuse`` and closed, and the reserve is taken back.
"""

from __future__ import annotations

from collections.abc import Callable

from prefork.accept.raw_socket import Raw, raw_accept
from prefork.config.settings import Settings
from prefork.scoreboard.entry import Entry
from prefork.system.descriptors import SpareDescriptor, readable
from prefork.system.natives import socket, time
from prefork.system.throttle import Log

ANSWER_TIME = 1.0
"""Seconds that the answer to a connection that is shed may take to send."""


class Shedder:
    """Sheds in one worker. The master makes it, and the worker begins it.

    Args:
        entry: where it stands whether all are exhausted, and how many have been refused.
        settings: exhausted, shed_rate (connections a second, of the whole server).
        log: where it is told what an answer fails of.
        workers: how many workers share ``shed_rate`` (count).
        spare: the worker's descriptor in reserve.

    Attributes:
        refuse: answers a connection that is shed; it is closed afterwards. Set by the worker.
    """

    refuse: Callable[[socket.socket], object]
    _next_shed = 0.0

    def __init__(self, entry: Entry, settings: Settings, log: Log, workers: int, spare: SpareDescriptor) -> None:
        self._entry = entry
        self._settings = settings
        self._log = log
        self._workers = workers
        self._spare = spare

    @property
    def sheds(self) -> bool:
        """Whether connections are to be refused now: it is wanted, and every worker is exhausted."""
        return self._settings.exhausted == "shed" and self._entry.board.all_exhausted and self._spare.take()

    @property
    def may_shed(self) -> bool:
        """Whether one is to be refused at this moment."""
        return self.sheds and not self.pause

    @property
    def pause(self) -> float:
        """Seconds until the next may be shed."""
        return max(0.0, self._next_shed - time.monotonic())

    def shed(self, listener: socket.socket) -> Raw | None:
        """Accept one connection with the spare descriptor and refuse it.

        Returns:
            The connection's descriptor and its peer's address if it is to be served after all, because there are
            descriptors again; else None.
        """
        if not readable(listener.fileno()):
            return None
        # While the system is exhausted, one worker probes and all others hold: it has the rate of all.
        sharers = 1 if self._entry.board.hold else self._workers
        self._next_shed = time.monotonic() + sharers / self._settings.shed_rate
        self._spare.give()
        try:
            raw = raw_accept(listener)()
        except OSError:
            self._spare.take()
            return None
        # A sibling may have been faster, and accept has blocked: it is another day then.
        if self._spare.take() or not self._entry.board.all_exhausted:
            return raw
        self._turn_away(socket.socket(listener.family, listener.type, listener.proto, raw[0]))
        self._spare.take()
        return None

    def _turn_away(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(ANSWER_TIME)
                self.refuse(connection)
            except Exception:  # noqa: BLE001  # whatever the application's answer fails of, the connection is closed
                self._log.exception("refuse() failed")
            _read_what_is_there(connection)
        self._entry.count_refused()


def _read_what_is_there(connection: socket.socket) -> None:
    """Closed with data unread, a connection is reset, and its peer may lose the answer (tcp(7))."""
    try:
        connection.setblocking(False)
        connection.recv(1 << 16)
    except OSError:
        pass  # nothing is there, or nobody
