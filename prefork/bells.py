"""What signals mean to a worker's process: to a boot, to a worker that serves, and to what the application forks.

A signal only rings; the order stands in the seat. While the application boots there is nothing in hand, so an order to
leave simply ends the boot. A process that the application forks inherits the handlers, and there each signal does what
it does by default: the orders are not for it.

Everything here runs in the WORKER, inside signal handlers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from prefork.scoreboard import Order
from prefork.seat import Seat
from prefork.system import process, signals


@dataclass(frozen=True, slots=True)
class Heard:
    """What a worker does about a bell, once it has booted."""

    ordered: Callable[[int], None]
    """Somebody rang with that signal: look at the order."""
    orphaned: Callable[[], None]
    """The master is gone."""
    aborted: Callable[[], None]
    """The master ends this process, after this."""


class Bells:
    """WORKER. The handlers of one worker's process.

    Args:
        seat: where the order stands.
        report: the writing end of the pipe to the master.
    """

    def __init__(self, seat: Seat, report: int) -> None:
        self.heard: Heard | None = None
        """Set in one store, when the boot is done."""
        self._seat = seat
        self._report = report
        self._pid = os.getpid()

    def handlers(self) -> dict[int, signals.Handler]:
        """The handlers, by signal."""
        return {
            signal.SIGTERM: self._ordered,
            signal.SIGINT: self._ordered,
            signal.SIGQUIT: self._ordered,
            signal.SIGABRT: self._aborted,
            signal.SIGIO: self._hung_up,
        }

    def _ordered(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        if os.getpid() != self._pid:
            signals.act_by_default(signum)
        elif self.heard is not None:
            self.heard.ordered(signum)
        elif self._seat.order is not Order.RUN:
            raise SystemExit(0)

    def _aborted(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        if self.heard is not None and os.getpid() == self._pid:
            self.heard.aborted()
        signals.act_by_default(signum)

    def _hung_up(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        # A dying master closes its files before its children are sent the parent-death signal. One of the two may come
        # just before accept(2) is entered and go unheard, and a dead master doesn't ring again; hardly both.
        if self.heard is not None and os.getpid() == self._pid and process.hung_up(self._report):
            self.heard.orphaned()
