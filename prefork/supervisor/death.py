"""The end of a worker, with what is needed to judge it. A plain fact; whoever asks judges by it."""

from __future__ import annotations

import logging

from prefork.scoreboard.layout import Order
from prefork.scoreboard.recorder import InHand
from prefork.supervisor.cause import Cause
from prefork.supervisor.member import Member
from prefork.system.process import EXHAUSTED, Exit
from prefork.system.record import Record

YOUNG = 1.0
"""Seconds: a worker that dies sooner after its boot, with nothing served, died young."""

_FROM_OUTSIDE = frozenset({9, 15, 2})  # SIGKILL, SIGTERM, SIGINT: sent by somebody, unlike SIGSEGV


class Death(Record):
    """The end of a worker, with what is needed to judge it."""

    member: Member
    exit: Exit
    at: float
    served: int
    successor: bool
    """Whether it was to replace somebody and had not become READY."""
    in_hand: tuple[InHand, ...] = ()
    """What it had in hand, one for each of its threads that accept; of an embedded server's, one for all."""

    @property
    def pid(self) -> int:
        """Whose end it is."""
        return self.member.pid

    @property
    def slot(self) -> int:
        """The slot that it was in."""
        return self.member.slot

    @property
    def generation(self) -> int:
        """The generation that it was of."""
        return self.member.generation

    @property
    def log(self) -> logging.Logger:
        """The server's logger, for hooks."""
        return logging.getLogger("prefork")

    @property
    def age(self) -> float:
        """Seconds since the fork."""
        return self.at - self.member.born

    @property
    def cause(self) -> Cause:
        """Why it ended."""
        member = self.member
        if member.order is not Order.RUN:
            evacuated = member.reason is not None and member.reason.cause is Cause.TIMEOUT
            if member.killed_at is not None and not evacuated:
                return Cause.GRACEFUL_TIMEOUT
            return Cause.OTHER if member.reason is None else member.reason.cause
        if member.starting:
            return Cause.BOOT
        if member.aborted_at is not None or member.killed_at is not None:
            return Cause.TIMEOUT
        return Cause.EXIT if self.exit.signal is None else Cause.CRASH

    @property
    def in_order(self) -> bool:
        """Whether it was told to leave, and did."""
        return self.member.order is not Order.RUN and self.exit.clean

    @property
    def unfinished(self) -> str:
        """What it had in hand when it ended, in words for a log line; "" for nothing."""
        return ", ".join(one.told(self.at) for one in self.in_hand)

    @property
    def unready(self) -> bool:
        """Whether it ended before READY, unasked."""
        return self.member.ready_at is None and self.member.order is Order.RUN

    @property
    def boot_failed(self) -> bool:
        """Whether it ended before READY by its own doing: an exit code, a crash, the boot deadline."""
        return self.unready and (self.exit.signal not in _FROM_OUTSIDE or self.member.aborted_at is not None)

    @property
    def boot_killed(self) -> bool:
        """Whether it ended before READY by a signal from outside: an operator's, or that of a kernel out of memory."""
        return self.unready and not self.boot_failed

    @property
    def exhausted(self) -> bool:
        """Whether its boot failed for want of descriptors or memory, which may be there in a moment."""
        return self.boot_failed and self.exit.code == EXHAUSTED

    @property
    def young(self) -> bool:
        """Whether it died unasked, before READY or so soon after that a replacement would probably do the same."""
        if self.member.order is not Order.RUN:
            return False
        return self.member.ready_at is None or (self.served == 0 and self.at - self.member.ready_at < YOUNG)
