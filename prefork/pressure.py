"""Pressure: what the server does while descriptors or memory are short.

EMFILE is one worker's own affair: it backs off, and its siblings serve. ENFILE, ENOBUFS, ENOMEM and ENOSR are the
system's: trying on from every worker would only add to it. So the first worker that reports one becomes the *prober*;
the master takes the ``go`` descriptor back, at which all others that fail wait, and holds its own forks. When the
prober's accept succeeds, ``go`` is given again and all resume together.

When every worker is exhausted, in either way, the scoreboard says so, and workers may shed (``exhausted="shed"``).

All of it runs in the MASTER.
"""

from __future__ import annotations

import errno as errnos
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from prefork.events import Event, Kind
from prefork.loop import Loop
from prefork.net.verdict import Verdict, row
from prefork.policy import Goal
from prefork.roster import Member, Roster
from prefork.scoreboard import Order, Scoreboard

log = logging.getLogger("prefork")


@dataclass(frozen=True, slots=True)
class Shortage:
    """One want of descriptors or memory; what the hook ``on_pressure`` is given.

    Attributes:
        errno: what failed for want of something; EMFILE, ENFILE, ENOBUFS, ENOMEM ...
        system: whether the whole system is short, not one worker.
        slot: the worker that reported it.
        since: when it began, monotonic seconds.
        over: whether this tells of its end.
    """

    errno: int
    system: bool
    slot: int
    since: float
    over: bool = False


@dataclass(slots=True)
class Pressure:
    """MASTER. The shortages of one server.

    Args:
        loop: for the time.
        board: where the hold is said.
        go: the eventfd at which workers wait.
        goal: whose forks are held.
        roster: who lives.
        tell: called when a shortage begins, and when it is over.
    """

    loop: Loop
    board: Scoreboard
    go: int
    goal: Goal
    roster: Roster
    tell: Callable[[Shortage], None]
    shortages: dict[int, Shortage] = field(default_factory=dict)
    """By the pid of the worker that is exhausted."""
    episodes: int = 0
    """How many shortages there have been since the start."""

    def told(self, member: Member, event: Event) -> None:
        """A worker has met a shortage, or is over it."""
        if event.kind is Kind.PRESSURE:
            self._begins(member, event.value)
        elif event.kind is Kind.RELIEF:
            self._ends(member.pid)
        self._judge()

    def exited(self, pid: int) -> None:
        """A worker is gone, and its shortage with it."""
        self._ends(pid)
        self._judge()

    def _begins(self, member: Member, number: int) -> None:
        if member.pid in self.shortages:
            return
        system = row(number).verdict is Verdict.BACK_OFF_SYSTEM
        shortage = Shortage(number, system, member.slot, self.loop.clock.monotonic())
        self.shortages[member.pid] = shortage
        self.episodes += 1
        if system and not self.board.hold:
            self.board.prober = member.seat
            self.board.hold = number
            self.goal.held = True
            os.eventfd_read(self.go)
            name = errnos.errorcode.get(number, str(number))
            log.warning("the system is short (%s, %s): workers and forks hold", name, row(number).reason)
            self.tell(shortage)
        elif not system and len(self.shortages) == 1:
            self.tell(shortage)

    def _ends(self, pid: int) -> None:
        shortage = self.shortages.pop(pid, None)
        if shortage is None:
            return
        over = Shortage(shortage.errno, shortage.system, shortage.slot, shortage.since, over=True)
        if shortage.system and self.board.hold:
            # Whoever it was, prober or not: an accept has succeeded, or the prober is dead and another must be found
            # by all of them trying once.
            self.board.hold = 0
            self.goal.held = False
            os.eventfd_write(self.go, 1)
            seconds = self.loop.clock.monotonic() - shortage.since
            log.warning("workers and forks go on after %.1f s", seconds)
            self.tell(over)
        elif not shortage.system and not self.shortages:
            self.tell(over)

    def _judge(self) -> None:
        """Say in the scoreboard whether every worker that serves is exhausted."""
        serving = [member for member in self.roster if not member.starting and member.order is Order.RUN]
        self.board.exhausted = bool(serving) and all(member.pid in self.shortages for member in serving)
