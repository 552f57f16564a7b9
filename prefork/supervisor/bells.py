"""What signals mean to a worker's process: to a boot, to a worker that serves, and to what the application forks.

A signal only rings; the order stands in the entry. While the application boots there is nothing in hand, so an order to
leave simply ends the boot. A process that the application forks inherits the handlers, and there each signal does what
it does by default: the orders are not for it.

The master makes the :class:`Bells` before the fork; all else here runs in the WORKER, inside signal handlers.
"""

from __future__ import annotations

import signal
import sys
from _signal import getsignal, pthread_sigmask  # type: ignore[import-not-found]  # typeshed has no CPython internals
from _signal import signal as install
from os import getpid
from types import FrameType
from typing import Protocol

from prefork.scoreboard.entry import Entry
from prefork.scoreboard.layout import Order
from prefork.system import process, signals
from prefork.system.signals import BELL
from prefork.system.throttle import Log

_BLOCK, _UNBLOCK = int(signal.SIG_BLOCK), int(signal.SIG_UNBLOCK)


class Hearer(Protocol):
    """What a worker does about a bell, once it has booted."""

    def _rung(self, signum: int) -> None:
        """Somebody rang with that signal: look at the order."""

    def _orphaned(self) -> None:
        """The master is gone."""

    def _aborted(self) -> None:
        """The master ends this process, after this."""


class _EndOfBootError(SystemExit):
    """Raised wherever the application is in its boot."""


class Bells:
    """WORKER. The handlers of one worker's process.

    Args:
        entry: where the order stands.
        report: the writing end of the pipe to the master.

    Attributes:
        pid: the worker's process, to be set before a signal may come.
        hearer: the worker, once it has booted.
        over: whether a boot has come to its end, which no bell ends any more.
    """

    def __init__(self, entry: Entry, report: int) -> None:
        self.pid = 0
        self.hearer: Hearer | None = None
        self.over = False
        self._entry = entry
        self._report = report

    @property
    def dispositions(self) -> signals.Dispositions:
        """What each signal means to the worker."""
        return signals.of_worker(
            {
                signals.BELL: self._ordered,
                signal.SIGTERM: self._ordered,
                signal.SIGINT: self._ordered,
                signal.SIGQUIT: self._ordered,
                signal.SIGABRT: self._aborted,
                signal.SIGIO: self._hung_up,
            }
        )

    def look(self, dump: int, log: Log) -> None:
        """See whether the application has taken in its boot what this process needs, say so, and take back the bell.

        Args:
            dump: the signal that tracebacks are asked for with.
            log: where it is told.
        """
        if getsignal(BELL) != self._ordered:
            log.warning(
                "the application has taken signal %d, by which workers are told to leave; it is taken back", BELL
            )
            install(BELL, self._ordered)
        if BELL in pthread_sigmask(_BLOCK, ()):
            log.warning("the application has blocked signal %d, by which workers are told to leave; it is let in", BELL)
            pthread_sigmask(_UNBLOCK, (BELL,))
        if callable(getsignal(dump)):
            log.warning("the application has taken signal %d; tracebacks of a hang will be missing", dump)

    def _ordered(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        if getpid() != self.pid:
            signals.act_by_default(signum)
        elif self.hearer is not None:
            self.hearer._rung(signum)
        elif self._entry.order is not Order.RUN and not self.over:
            _hush()
            raise _EndOfBootError(0)

    def _aborted(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        if self.hearer is not None and getpid() == self.pid:
            self.hearer._aborted()
        signals.act_by_default(signum)

    def _hung_up(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        # A dying master closes its files before its children are sent the parent-death signal. One of the two may come
        # just before accept(2) is entered and go unheard, and a dead master doesn't ring again; hardly both.
        if self.hearer is not None and getpid() == self.pid and process.hung_up(self._report):
            self.hearer._orphaned()


def _hush() -> None:
    """Have no traceback shown of an end of the boot that comes where the interpreter lets no exception through.

    A destructor is such a place, and so is a callback within an import. The boot goes on, and the master rings again.
    """
    show = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is not _EndOfBootError:
            show(unraisable)

    sys.unraisablehook = hook
