"""The recovery: what a worker does when accept(2) fails, until an accept succeeds or it is time to leave.

The reaction to an errno stands in :mod:`prefork.net.accept_errors`. :meth:`Recovery.decide` makes of it what is to be
done next, and does all of it but the waiting: the acceptors sleep, an event loop sets a timer. A success ends the
:mod:`streak <prefork.accept.failure_streak>`, with every count and delay.

Want of descriptors or memory shows before the kernel looks at the queue. So it can be known to be over before somebody
connects: by an accept that finds a descriptor and a file and then has nothing to accept. From a non-blocking listener
that is EAGAIN; beside a blocking one, EINVAL from a socket that does not listen. It matters because the whole server
may be waiting for the word (:mod:`prefork.supervisor.pressure`), and the connection that would bring it may come to a
sibling, or in an hour.
"""

from __future__ import annotations

import enum
import errno
import functools
import logging
from dataclasses import dataclass

from prefork.accept.failure_streak import EXHAUSTION, FailureStreak
from prefork.accept.fd_leak import LeakFinder
from prefork.config.settings import Settings
from prefork.net import accept_errors as table
from prefork.net.accept_errors import Reaction, lookup, place, resolve
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import Kind, Why
from prefork.scoreboard.layout import Order, State
from prefork.system.descriptors import readable
from prefork.system.natives import socket
from prefork.system.throttle import Log, Throttle

_RUN = Order.RUN
_SEALED = frozenset({Order.SEAL, Order.QUIT})

PATIENCE = 10.0
"""Seconds to be waited for one failure that only the listener's end explains, before the listener counts as lost."""


class Do(enum.Enum):
    """What to do next."""

    AGAIN = "again"
    """Accept again, at once."""
    NOTHING = "nothing"
    """Nothing waits: accept again when something does."""
    LEAVE = "leave"
    """Accept no more from this listener: there is an order to leave."""
    LOST = "lost"
    """Accept no more from this listener: it is lost. The master knows, and will send an order to leave."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Accept nothing for ``seconds``, and then not while :attr:`Recovery.held`, if the ``system`` is short."""

    seconds: float
    system: bool


class Recovery:
    """The recovery of one acceptor.

    Args:
        entry: this worker's entry.
        settings: for the backoff.
        log: where trouble is told.
        leaks: looks for a leak when the limit of descriptors is met.

    Attributes:
        given_up: whether nothing more can be accepted, and no order to leave is why.
    """

    def __init__(self, entry: Entry, settings: Settings, log: Log, leaks: LeakFinder) -> None:
        self.given_up = False
        self._entry = entry
        self._settings = settings
        self._log = log
        self._streak: FailureStreak | None = None
        self._leaks = leaks

    @property
    def leaving(self) -> bool:
        """Whether there is an order to leave."""
        return self._entry.obeyed is not _RUN

    @property
    def sealed(self) -> bool:
        """Whether nothing more is to be accepted."""
        return self._entry.obeyed in _SEALED

    @property
    def exhausted(self) -> bool:
        """Whether it is descriptors or memory that is waited for."""
        return self._streak is not None and self._streak.exhausted

    @property
    def held(self) -> bool:
        """Whether it is for another worker to find out that the system's exhaustion is over."""
        return not self.leaving and not self._entry.prober and not readable(self._entry.go)

    def decide(self, error: OSError, listener: socket.socket) -> Do | Rest:
        """What to do about ``error``, a failure of accept on ``listener``.

        Raises:
            OSError: ``error`` itself, a programming error (EBADF, ENOTSOCK, EFAULT, bad flags).
        """
        number = error.errno or 0
        listening = _listens(listener) if lookup(number).deaf is not None else None
        # The order itself, not only what a handler has made of it: accept may fail because of the order, before the
        # interpreter comes to run the handler of the signal that points to it.
        stopping = self.leaving or self._entry.order is not _RUN
        reaction = resolve(number, stopping=stopping, listening=listening)
        if reaction is _STOP or self.sealed:
            return _LEAVE
        self._entry.accept_failed(number, place(number))
        if stopping and not (readable(listener.fileno()) and _listens(listener)):
            return _LEAVE  # for want of a descriptor accept fails whether somebody waits or not
        if self.exhausted and reaction not in EXHAUSTION:
            self.relieved()  # whatever it is, a want of descriptors would have shown before it
        if reaction is Reaction.POLL and not readable(listener.fileno()):
            self.over()
            return Do.NOTHING
        streak = self._streak = self._streak or FailureStreak(self._settings.backoff)
        if reaction in _AT_ONCE:
            streak.fruitless += 1
            if streak.fruitless <= table.DEAD_IN_A_ROW:
                self._throttle.tell(logging.DEBUG, number, "accept fails: %s; trying again at once", _describe(error))
                return Do.AGAIN
        if reaction in _FOR_GOOD:
            listens = bool(_listens(listener))
            if not listens or streak.waited_for(number) >= PATIENCE:
                return self._give_up(reaction, error, listens=listens)
        return self._back_off(reaction, error, streak)

    @functools.cached_property
    def _throttle(self) -> Throttle:
        """Where trouble is told; made when there is some."""
        return Throttle(self._log)

    def _back_off(self, reaction: Reaction, error: OSError, streak: FailureStreak) -> Rest:
        """Out of the kernel's wait queue for a growing time, so that siblings get the connections; also this one."""
        number, entry = error.errno or 0, self._entry
        exhausted, system = reaction in EXHAUSTION, reaction is Reaction.BACK_OFF_SYSTEM
        news = number != streak.errno
        seconds = streak.wait(number, reaction)
        level = _LEVELS.get(reaction, logging.WARNING)
        self._throttle.tell(level, (number, "waits"), "accept fails: %s; backing off", _describe(error))
        if not self.leaving:
            entry.enter(State.BACKING_OFF)
        # Again when nobody holds for it: then the master has taken it for over, and it is not.
        if exhausted and (news or (system and not entry.board.hold)):
            entry.tell(Kind.PRESSURE, number)
        if news and not system:
            entry.beckon()
        if news and reaction is Reaction.BACK_OFF_WORKER:
            self._leaks.leaks_at_the_limit()
        return Rest(seconds, system)

    def _give_up(self, reaction: Reaction, error: OSError, *, listens: bool) -> Do:
        """Out of it for good."""
        self.given_up = True
        self._entry.beckon()
        if reaction is Reaction.FATAL:
            raise error
        level = logging.CRITICAL if listens else logging.DEBUG  # of a listener that is gone the master tells, once
        self._log.log(level, "accept fails for good: %s; this worker is to be replaced", _describe(error))
        self._entry.wish(Why.LISTENER_LOST)
        return Do.LOST

    def rested(self) -> None:
        """The rest is over, and accept is next."""
        if not self.exhausted and not self.leaving:
            self._entry.enter(State.SERVING)  # it may well block

    def relieved(self) -> None:
        """What accept was short of is there again. Idempotent."""
        streak, entry = self._streak, self._entry
        if streak is not None and streak.backs_off:
            if streak.exhausted:
                entry.relieved(streak.errno)
            if not self.leaving:
                entry.enter(State.SERVING)
            self._throttle.end("accept goes on; it had failed %d times", streak.failures)
            streak.relieved()

    def over(self) -> None:
        """An accept has succeeded, or found that nothing waits: the trouble is over. Idempotent."""
        self.relieved()
        self._streak = None


_STOP, _LEAVE = Reaction.STOP, Do.LEAVE

_AT_ONCE = {Reaction.RETRY, Reaction.POLL, Reaction.DEAD_CONNECTION}

_FOR_GOOD = {Reaction.LISTENER_LOST, Reaction.FATAL, Reaction.BACK_OFF_PERMISSION}
"""Reactions that end the worker: at once when the listener does not listen, else when nothing else comes for PATIENCE.

An errno that says the listener is lost while SO_ACCEPTCONN says that it listens is waited out: a worker's end would
cost more than a wait, and would not mend it.
"""

_LEVELS = {
    Reaction.BACK_OFF_WORKER: logging.DEBUG,  # these two are told by the master, once for all workers
    Reaction.BACK_OFF_SYSTEM: logging.DEBUG,
    Reaction.LISTENER_LOST: logging.CRITICAL,
    Reaction.FATAL: logging.CRITICAL,
    Reaction.BACK_OFF_PERMISSION: logging.ERROR,
}


def _listens(listener: socket.socket) -> bool | None:
    """SO_ACCEPTCONN of ``listener`` (socket(7)); None when it can't be asked."""
    try:
        return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return None


def _describe(error: OSError) -> str:
    number = error.errno or 0
    known = lookup(number)
    name = errno.errorcode.get(number, f"errno {number}") if known is table.OTHER else known.name
    return f"{name}, {known.reason}"
