"""The recovery: what a worker does when accept(2) fails, until an accept succeeds or it is time to leave.

The reaction to an errno stands in :mod:`prefork.net.accept_errors`. :meth:`Recovery.decide` makes a :class:`Finding` of
it, with the facts beside it, and :data:`TABLE` says what that leads to: which stage comes next, and what is done. All
of it is done here but the waiting: the acceptors sleep, an event loop sets a timer. A success ends the streak of
failures, with every count and delay.

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
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from prefork.accept.fd_leak import LeakFinder
from prefork.config.settings import Settings
from prefork.net import accept_errors as table
from prefork.net.accept_errors import Reaction, lookup, place, resolve
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import EventKind, Why
from prefork.scoreboard.layout import Order, State
from prefork.system.backoff import Backoff, Retry
from prefork.system.descriptors import readable
from prefork.system.natives import socket
from prefork.system.record import Record
from prefork.system.throttle import Log, Throttle

_RUN = Order.RUN
_SEALED = frozenset({Order.SEAL, Order.QUIT})

PATIENCE = 10.0
"""Seconds to be waited for one failure that only the listener's end explains, before the listener counts as lost."""

EXHAUSTION = frozenset({Reaction.BACK_OFF_WORKER, Reaction.BACK_OFF_SYSTEM})
"""Reactions that say that descriptors or memory are exhausted, in this worker or in the system."""


class Do(enum.Enum):
    """What to do next."""

    AGAIN = "again"
    """Accept again, at once."""
    NOTHING = "nothing"
    """Nothing waits: accept again when something does."""
    REST = "rest"
    """Accept nothing for a while; for how long is in a :class:`Rest`."""
    LEAVE = "leave"
    """Accept no more from this listener: there is an order to leave."""
    LOST = "lost"
    """Accept no more from this listener: it is lost. The master knows, and will send an order to leave."""


class Rest(Record):
    """Accept nothing for ``seconds``, and then not while :attr:`Recovery.held`, if the ``system`` is exhausted."""

    seconds: float
    system: bool


class Stage(enum.Enum):
    """Where a recovery is."""

    CLEAR = "clear"
    """Nothing has failed since the last success."""
    RETRYING = "retrying"
    """Something has failed, and accept can be expected to succeed."""
    WAITING = "waiting"
    """Something has to be waited for that only time can mend."""
    EXHAUSTED = "exhausted"
    """Descriptors or memory have to be waited for."""


class Finding(enum.Enum):
    """What has happened: an errno with the facts beside it, or a success."""

    ACCEPTED = "accepted"
    """An accept has succeeded."""
    RELIEVED = "relieved"
    """There are descriptors and memory for a connection again."""
    NOTHING_WAITS = "nothing waits"
    """Accept has found the queue empty, and had what it needs for a connection."""
    PASSING = "passing"
    """It is one connection's trouble, or a signal: over already."""
    HINDERED = "hindered"
    """Something else forbids it, that nobody foresaw or that is not over after many tries."""
    EXHAUSTED = "exhausted"
    """No descriptor, or no memory."""
    GONE = "gone"
    """The listener listens no more, or nothing has come of it for so long; or the program is wrong."""
    ENDED = "ended"
    """An order to leave has come, and nobody is to be accepted any more, or nobody waits."""


class Step(NamedTuple):
    """What a finding leads to.

    Attributes:
        stage: what comes next.
        do: what the acceptor is to do; None after a success, which it knows of.
        relief: whether it is told that the waiting has come to its end.
    """

    stage: Stage
    do: Do | None = None
    relief: bool = False


def _table() -> Mapping[Stage, Mapping[Finding, Step]]:
    clear, retrying, waiting, exhausted = Stage
    return MappingProxyType(
        {
            clear: {
                Finding.ACCEPTED: Step(clear),
                Finding.RELIEVED: Step(clear),
                Finding.NOTHING_WAITS: Step(clear, Do.NOTHING),
                Finding.PASSING: Step(retrying, Do.AGAIN),
                Finding.HINDERED: Step(waiting, Do.REST),
                Finding.EXHAUSTED: Step(exhausted, Do.REST),
                Finding.GONE: Step(retrying, Do.LOST),
                Finding.ENDED: Step(clear, Do.LEAVE),
            },
            retrying: {
                Finding.ACCEPTED: Step(clear),
                Finding.RELIEVED: Step(retrying),
                Finding.NOTHING_WAITS: Step(clear, Do.NOTHING),
                Finding.PASSING: Step(retrying, Do.AGAIN),
                Finding.HINDERED: Step(waiting, Do.REST),
                Finding.EXHAUSTED: Step(exhausted, Do.REST),
                Finding.GONE: Step(retrying, Do.LOST),
                Finding.ENDED: Step(retrying, Do.LEAVE),
            },
            waiting: {
                Finding.ACCEPTED: Step(clear, relief=True),
                Finding.RELIEVED: Step(retrying, relief=True),
                Finding.NOTHING_WAITS: Step(clear, Do.NOTHING, relief=True),
                Finding.PASSING: Step(waiting, Do.AGAIN),
                Finding.HINDERED: Step(waiting, Do.REST),
                Finding.EXHAUSTED: Step(exhausted, Do.REST),
                Finding.GONE: Step(waiting, Do.LOST),
                Finding.ENDED: Step(waiting, Do.LEAVE),
            },
            # Whatever else accept fails of: a want of descriptors or memory would have shown before it.
            exhausted: {
                Finding.ACCEPTED: Step(clear, relief=True),
                Finding.RELIEVED: Step(retrying, relief=True),
                Finding.NOTHING_WAITS: Step(clear, Do.NOTHING, relief=True),
                Finding.PASSING: Step(retrying, Do.AGAIN, relief=True),
                Finding.HINDERED: Step(waiting, Do.REST, relief=True),
                Finding.EXHAUSTED: Step(exhausted, Do.REST),
                Finding.GONE: Step(retrying, Do.LOST, relief=True),
                Finding.ENDED: Step(exhausted, Do.LEAVE),
            },
        }
    )


TABLE: Final = _table()
"""The recovery: for each stage, what each finding leads to. docs/recovery.svg is drawn from it (scripts/states.py)."""


class FailureStreak:
    """What is remembered of failures in a row: made at the first, forgotten at the next success.

    Pure but for the random numbers of its jitter.

    Args:
        backoff: how long is waited.

    Attributes:
        fruitless: attempts in a row that were to be repeated at once (count).
        errno: the failure last waited for; 0 when nothing has been waited for.
        failures: how many have been waited for since the last success (count).
        waited: seconds given to waiting for ``errno`` alone. Time in a blocked accept is none: an accept that blocks
            does not fail.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._retry = Retry(backoff)
        self.fruitless = 0
        self.failures = 0
        self.relieved()

    def relieved(self) -> None:
        """An accept can be expected to succeed: nothing is waited for. Should it fail again, the wait is no shorter."""
        self.errno = 0
        self.waited = 0.0

    def waited_for(self, number: int) -> float:
        """How long that failure, and no other, has been waited for, in seconds."""
        return self.waited if number == self.errno else 0.0

    def wait(self, number: int) -> float:
        """Count a failure that has to be waited out; ``number`` is its errno. Returns the seconds to wait."""
        if number != self.errno:
            self.errno, self.waited = number, 0.0
        self.failures += 1
        seconds = self._retry.next()
        self.waited += seconds
        return seconds


class Recovery:
    """The recovery of one acceptor.

    Args:
        entry: this worker's entry.
        settings: for the backoff.
        log: where trouble is told.
        leaks: looks for a leak when the limit of descriptors is met.

    Attributes:
        stage: where it is.
        given_up: whether nothing more can be accepted, and no order to leave is why.
    """

    stage = Stage.CLEAR
    given_up = False
    _streak: FailureStreak | None = None

    def __init__(self, entry: Entry, settings: Settings, log: Log, leaks: LeakFinder) -> None:
        self._entry = entry
        self._settings = settings
        self._log = log
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
        return self.stage is Stage.EXHAUSTED

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
        do = self._step(self._find(number, reaction, listener, stopping=stopping)).do
        assert do is not None  # only a success asks for nothing
        match do:
            case Do.AGAIN:
                self._tries.fruitless += 1
                self._throttle.tell(logging.DEBUG, number, "accept fails: %s; trying again at once", _describe(error))
            case Do.REST:
                return self._back_off(reaction, error, self._tries)
            case Do.LOST:
                self._give_up(reaction, error, listens=bool(_listens(listener)))
        return do

    def _find(self, number: int, reaction: Reaction, listener: socket.socket, *, stopping: bool) -> Finding:
        """What the errno means, with the facts beside it; counts it, unless an order is why, or nobody waited."""
        finding = _FINDINGS[reaction]
        if finding is Finding.ENDED or self.sealed:
            return Finding.ENDED
        streak = self._streak
        if stopping and not (readable(listener.fileno()) and _listens(listener)):
            finding = Finding.ENDED  # for want of a descriptor accept fails whether somebody waits or not
        elif reaction is Reaction.POLL and not readable(listener.fileno()):
            finding = Finding.NOTHING_WAITS
        elif finding is Finding.PASSING and streak is not None and streak.fruitless >= table.DEAD_IN_A_ROW:
            finding = Finding.HINDERED
        elif reaction in _FOR_GOOD:
            patient = streak is None or streak.waited_for(number) < PATIENCE
            finding = Finding.HINDERED if patient and _listens(listener) else Finding.GONE
        if reaction is not Reaction.POLL or finding is Finding.HINDERED:  # a poll that finds nothing is no failure
            self._entry.say_accept_failed(number, place(number))
        return finding

    def _step(self, finding: Finding) -> Step:
        """Go to the stage that the table says."""
        step = TABLE[self.stage][finding]
        if step.relief:
            self._relieve()
        self.stage = step.stage
        self._streak = None if step.stage is Stage.CLEAR else self._tries
        return step

    @property
    def _tries(self) -> FailureStreak:
        """The present streak, or one that begins now."""
        return self._streak or FailureStreak(self._settings.backoff)

    @functools.cached_property
    def _throttle(self) -> Throttle:
        """Where trouble is told; made when there is some."""
        return Throttle(self._log)

    def _back_off(self, reaction: Reaction, error: OSError, streak: FailureStreak) -> Rest:
        """Out of the kernel's wait queue for a growing time, so that siblings get the connections; also this one."""
        number, entry = error.errno or 0, self._entry
        exhausted, system = reaction in EXHAUSTION, reaction is Reaction.BACK_OFF_SYSTEM
        unlike_the_last = number != streak.errno
        seconds = streak.wait(number)
        level = _LEVELS.get(reaction, logging.WARNING)
        self._throttle.tell(level, (number, "waits"), "accept fails: %s; backing off", _describe(error))
        if not self.leaving:
            entry.say_state(State.BACKING_OFF)
        # Again when nobody holds for it: then the master has taken it for over, and it is not.
        if exhausted and (unlike_the_last or (system and not entry.board.hold)):
            entry.send_event(EventKind.EXHAUSTED, number)
        if unlike_the_last and not system:
            entry.beckon()
        if unlike_the_last and reaction is Reaction.BACK_OFF_WORKER:
            self._leaks.leaks_at_the_limit()
        return Rest(seconds, system)

    def _give_up(self, reaction: Reaction, error: OSError, *, listens: bool) -> None:
        """Out of it for good."""
        self.given_up = True
        self._entry.beckon()
        if reaction is Reaction.FATAL:
            raise error
        level = logging.CRITICAL if listens else logging.DEBUG  # of a listener that is gone the master tells, once
        self._log.log(level, "accept fails for good: %s; this worker is to be replaced", _describe(error))
        self._entry.ask_to_be_recycled(Why.LISTENER_LOST)

    def rested(self) -> None:
        """The rest is over, and accept is next."""
        if not self.exhausted and not self.leaving:
            self._entry.say_state(State.SERVING)  # it may well block

    def relieved(self) -> None:
        """What accept was short of is there again. Idempotent."""
        self._step(Finding.RELIEVED)

    def over(self) -> None:
        """An accept has succeeded, or found that nothing waits: the trouble is over. Idempotent."""
        if self._streak is not None:  # where connections come in by the thousand, nothing has failed
            self._step(Finding.ACCEPTED)

    def _relieve(self) -> None:
        """Say that the waiting has come to its end."""
        streak, entry = self._tries, self._entry
        if self.exhausted:
            entry.say_relieved(streak.errno)
        if not self.leaving:
            entry.say_state(State.SERVING)
        self._throttle.end("accept goes on; it had failed %d times", streak.failures)
        streak.relieved()


_FINDINGS: Final = {
    Reaction.RETRY: Finding.PASSING,
    Reaction.POLL: Finding.PASSING,
    Reaction.STOP: Finding.ENDED,
    Reaction.DEAD_CONNECTION: Finding.PASSING,
    Reaction.BACK_OFF_WORKER: Finding.EXHAUSTED,
    Reaction.BACK_OFF_SYSTEM: Finding.EXHAUSTED,
    Reaction.BACK_OFF_PERMISSION: Finding.HINDERED,
    Reaction.BACK_OFF: Finding.HINDERED,
    Reaction.LISTENER_LOST: Finding.GONE,
    Reaction.FATAL: Finding.GONE,
}
"""What a reaction is found to be, unless the facts beside it say otherwise."""

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
