"""Pressure: what the server does while descriptors or memory are exhausted.

EMFILE is one worker's own affair: it backs off, and its siblings serve. ENFILE, ENOBUFS, ENOMEM and ENOSR are the
system's: trying on from every worker would only add to it. So the first worker that reports one becomes the *prober*;
the master takes the ``go`` descriptor back, at which all others that fail wait, and holds its own forks. When the
prober finds what it needs, ``go`` is given again (by the prober itself, in case the master is frozen) and all resume
together. A prober that dies, leaves or falls silent hands its part on to another one that waits.

A worker's word holds nobody, for it may be a lie, and so may that of all others, which any of them can write into the
pipe. So the master tries for itself what accept(2) begins with. If that succeeds, whoever fails backs off alone.

The master may be exhausted itself, when it can't fork: then it holds forks alone (:meth:`Goal.fork_failed`), and says
so here.

When every worker is exhausted, in either way, the scoreboard says so, and workers may shed (``exhausted="shed"``).
"""

from __future__ import annotations

import contextlib
import errno as errnos
import logging
import math
from collections.abc import Callable

from prefork.accept.recovery import EXHAUSTION
from prefork.net.accept_errors import Reaction, lookup
from prefork.scoreboard.events import Event, EventKind
from prefork.scoreboard.layout import LAST_ERRNO_AT, STATE, ExhaustionState, Order, Scoreboard, State
from prefork.supervisor.event_loop import Loop, Timer
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member
from prefork.supervisor.roster import Roster
from prefork.system import limits
from prefork.system.natives import os, socket
from prefork.system.record import Record, changed
from prefork.system.throttle import Throttle, TokenBucket

log = logging.getLogger("prefork")

PROBE = 0.1
"""Seconds between two looks of the master's own."""

WATCH = 1.0
"""Seconds between two looks at the prober."""

SILENCE = 2.0
"""Seconds beyond the longest backoff after which a prober that neither fails nor succeeds is frozen, or blocked."""


class Exhaustion(Record):
    """One exhaustion of descriptors or memory; what the hook ``on_pressure`` is given.

    Attributes:
        errno: what failed for want of something; EMFILE, ENFILE, ENOBUFS, ENOMEM ...
        system: whether the whole system is exhausted, not one process.
        slot: the worker that reported it; None for the master itself.
        since: when it began, monotonic seconds.
        over: whether this tells of its end.
    """

    errno: int
    system: bool
    slot: int | None
    since: float
    over: bool = False


class Pressure:
    """The exhaustions of one server.

    Args:
        loop: for the time.
        board: where the hold is said.
        go: the eventfd at which workers wait.
        inert: a socket that does not listen.
        goal: whose forks are held.
        roster: who lives.
        tell: called when an exhaustion begins, and when it is over.
        longest: the longest backoff of a worker, in seconds.
    """

    def __init__(
        self,
        loop: Loop,
        board: Scoreboard,
        go: int,
        inert: socket.socket,
        goal: Goal,
        roster: Roster,
        tell: Callable[[Exhaustion], None],
        longest: float,
    ) -> None:
        self.loop = loop
        self.board = board
        self.go = go
        self.inert = inert
        self.goal = goal
        self.roster = roster
        self.tell = tell
        self.longest = longest
        self.exhaustions: dict[int, Exhaustion] = {}
        """By the pid of the worker that is exhausted, or of the master."""
        self.episodes = 0
        """How many exhaustions there have been since the start."""
        self._holding: Exhaustion | None = None  # for which the workers hold
        self._prober = 0  # its pid
        self._prober_since = 0.0
        self._next_look: Timer | None = None  # at the prober, while there is one
        self._buckets: dict[int, TokenBucket] = {}  # by the pid of a worker: how often what it says is listened to
        self._probed_at = -math.inf
        self._found_exhausted = False  # what the master's own look has found, at that moment
        self._workers: Exhaustion | None = None  # the first of those that are one worker's own, while there are any
        self._exhausted = False
        self._throttles: dict[str, Throttle] = {}
        if self.board.hold:
            self._let_go()  # an earlier image of this process held them; whoever is still short will say so again

    # Facts.

    def told(self, member: Member, event: Event) -> None:
        """A worker has met an exhaustion, or is over it."""
        if event.kind is EventKind.EXHAUSTED:
            if not self._buckets.setdefault(member.pid, TokenBucket(self.loop.clock)).lets_through():
                return
            self._begins(member, event.value)
        else:
            self._ends(member.pid, relieved=True)
        self.judge()

    def exited(self, pid: int) -> None:
        """A worker is gone, and its exhaustion with it."""
        self._buckets.pop(pid, None)
        self._ends(pid, relieved=False)
        self.judge()

    def reread(self) -> None:
        """Records may have been lost: take what workers say in their entries for what they would have told."""
        for member in self.roster:
            if member.pid in self.exhaustions and self._word(member, STATE) == State.SERVING:
                self._ends(member.pid, relieved=True)
                self.judge()

    def fork_failed(self, slot: int, error: OSError) -> None:
        """The master could not fork into ``slot``; it holds forks for a while and tries again."""
        pid, number = os.getpid(), error.errno or 0
        self._throttle("fork").tell(logging.ERROR, number, "can't fork worker %d: %s; trying again", slot, error)
        if pid not in self.exhaustions:
            self._note(pid, Exhaustion(number, number != errnos.EMFILE, None, self._now()))
            self.tell(self.exhaustions[pid])

    def forked(self) -> None:
        """The master could fork."""
        self._forks_end("workers are forked again after %.1f s")

    def nobody_to_fork(self) -> None:
        """The master need not fork any more: those that it could not fork are not wanted now."""
        self._forks_end("no worker is to be forked any more, after %.1f s")

    @property
    def forks_fail(self) -> bool:
        """Whether the last attempt to fork has failed."""
        return os.getpid() in self.exhaustions

    def _forks_end(self, message: str) -> None:
        exhaustion = self.exhaustions.pop(os.getpid(), None)
        if exhaustion is not None:
            self._throttle("fork").end(message, self._now() - exhaustion.since)
            self.tell(changed(exhaustion, over=True))
            self._publish()

    # The workers' exhaustions.

    def _begins(self, member: Member, number: int) -> None:
        reaction = lookup(number).reaction
        if reaction not in EXHAUSTION or member.order is not Order.RUN:
            return
        known = self.exhaustions.get(member.pid)
        if known is None or known.errno != number:
            since = self._now() if known is None else known.since
            self._note(member.pid, Exhaustion(number, reaction is Reaction.BACK_OFF_SYSTEM, member.slot, since))
        exhaustion = self.exhaustions[member.pid]
        if exhaustion.system:
            if self._holding is None and member.entry >= 0 and self._is_exhausted():
                self._hold(member, exhaustion)
        else:
            self._pass_on(member.pid)
            if self._workers is None:
                self._workers = exhaustion
                self._say(
                    "worker", "a worker is out of descriptors (%s): it waits, the others serve", _name(exhaustion)
                )
                self.tell(exhaustion)

    def _ends(self, pid: int, *, relieved: bool) -> None:
        exhaustion = self.exhaustions.pop(pid, None)
        if exhaustion is None:
            return
        if relieved and exhaustion.system:
            self._release()
        else:
            self._pass_on(pid)
        if self._workers is not None and not any(self._own(one) for one in self.exhaustions.values()):
            over, self._workers = self._workers, None
            self._throttle("worker").end("workers have descriptors again after %.1f s", self._now() - over.since)
            self.tell(changed(over, over=True))
        self._publish()

    @staticmethod
    def _own(exhaustion: Exhaustion) -> bool:
        return exhaustion.slot is not None and not exhaustion.system

    # The hold.

    def _is_exhausted(self) -> bool:
        """Whether the master can't have what accept(2) takes first, a descriptor and a file, or only as root can."""
        now = self._now()
        if now - self._probed_at >= PROBE:
            self._probed_at = now
            self._found_exhausted = limits.files_exhausted()
            try:
                self.inert.accept()
            except OSError as error:  # EINVAL when there are some
                self._found_exhausted |= lookup(error.errno or 0).reaction is Reaction.BACK_OFF_SYSTEM
        return self._found_exhausted

    def _hold(self, prober: Member, exhaustion: Exhaustion) -> None:
        self._holding = exhaustion
        self._appoint(prober)
        self.board.hold = exhaustion.errno
        self.goal.forks.hold()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.go)
        self._say("system", "the system is exhausted (%s): workers and forks hold", _name(exhaustion))
        self._next_look = self.loop.call_later(WATCH, self._watch)
        self.tell(exhaustion)

    def _pass_on(self, pid: int) -> None:
        """If ``pid`` is the prober and can't be it any more, make another one that waits the prober."""
        if self._holding is None or pid != self._prober:
            return
        waiting = (self.roster.get(other) for other, exhaustion in self.exhaustions.items() if exhaustion.system)
        others = [one for one in waiting if one and one.pid != pid and one.order is Order.RUN and one.entry >= 0]
        exhaustion = self.exhaustions.pop(pid, None)
        if exhaustion is not None:
            self.exhaustions[pid] = exhaustion  # behind all others: next time it is somebody else's turn
        if others:
            self._appoint(others[0])
        elif exhaustion is None or not exhaustion.system:
            self._release()

    def _appoint(self, prober: Member) -> None:
        self._prober, self._prober_since = prober.pid, self._now()
        self.board.prober = prober.entry

    def _watch(self) -> None:
        """Look after the prober: one that is silent may be frozen, and all others wait for its word."""
        member = self.roster.get(self._prober)
        heard = 0.0 if member is None else self._word(member, LAST_ERRNO_AT) / 1e9
        leaves = member is None or member.order is not Order.RUN
        if leaves or self._now() - max(heard, self._prober_since) > self.longest + SILENCE:
            self._pass_on(self._prober)
        if self._holding is not None:
            self._next_look = self.loop.call_later(WATCH, self._watch)

    def _release(self) -> None:
        """The system has what it was short of, or nobody is left who could find out: all go on."""
        if self._holding is None:
            return
        over, self._holding = self._holding, None
        if self._next_look is not None:
            self._next_look.cancel()
        self._let_go()
        self._throttle("system").end("workers and forks go on after %.1f s", self._now() - over.since)
        self.tell(changed(over, over=True))

    def _let_go(self) -> None:
        self.board.hold = 0
        self.goal.forks.release()
        os.eventfd_write(self.go, 1)

    # What the scoreboard and the log say.

    def judge(self) -> None:
        """Say in the scoreboard whether every worker that serves is exhausted."""
        everybody = bool(self.exhaustions) and self._all_are_exhausted()
        if everybody != self._exhausted:
            self._exhausted = self.board.all_exhausted = everybody
            if everybody:
                self._say("all", "every worker is out of descriptors or memory")
            else:
                self._throttle("all").end("not every worker is out of descriptors or memory any more")

    def _all_are_exhausted(self) -> bool:
        serving = [member.pid for member in self.roster if not member.starting and member.order is Order.RUN]
        return bool(serving) and all(pid in self.exhaustions for pid in serving)

    def _note(self, pid: int, exhaustion: Exhaustion) -> None:
        self.episodes += pid not in self.exhaustions
        self.exhaustions[pid] = exhaustion
        self._publish()

    def _publish(self) -> None:
        """Put the pressure into the scoreboard: the gravest exhaustion there is, since when there has been one."""
        found = self.exhaustions.values()
        gravest = max(found, key=lambda exhaustion: exhaustion.system, default=None)
        since = min((exhaustion.since for exhaustion in found), default=0.0)
        self.board.exhaustion = ExhaustionState(
            0 if gravest is None else gravest.errno, int(since * 1e9), self.episodes
        )

    def _word(self, member: Member, word: int) -> int:
        return self.board.entry(member.entry)[word] if member.entry >= 0 else 0

    def _now(self) -> float:
        return self.loop.clock.monotonic()

    def _throttle(self, of: str) -> Throttle:
        return self._throttles.setdefault(of, Throttle(log, self.loop.clock))

    def _say(self, of: str, message: str, *arguments: object) -> None:
        self._throttle(of).tell(logging.WARNING, of, message, *arguments)


def _name(exhaustion: Exhaustion) -> str:
    number = exhaustion.errno
    return f"{errnos.errorcode.get(number, number)}, {lookup(number).reason}"
