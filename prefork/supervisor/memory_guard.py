"""Memory treated as descriptors are: before the kernel kills a worker for want of it, the largest one is replaced.

Where the server's cgroup has a limit, what is used of it is looked at. Beyond a part of it nobody is forked, so that
growth, reloads and replacements wait, and the largest of the workers that have grown is told to leave: it finishes what
it has, its kept connections pass to siblings, and its memory is free. A worker in its place is forked when there is
room: to fork first, as for every other reason, would ask for memory that is not there.

The kernel has events of its own for that (memory.events, memory.pressure), but they tell of trouble that is there, and
of reclaim that a server without files to reclaim never sees before it is killed. So this one looks: seldom at rest,
ten times a second when it is near.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member
from prefork.supervisor.roster import Roster
from prefork.supervisor.spawner import Spawner
from prefork.system import usage
from prefork.system.cgroup_memory import CgroupMemory, MemoryUse
from prefork.system.record import Record
from prefork.system.throttle import Throttle

log = logging.getLogger("prefork")

SAMPLE = 1.0
"""Seconds between two looks while workers serve; fewer near the limit, more at rest."""

SAMPLE_NEAR = 0.1
SAMPLE_MOST = 30.0

NEAR = 0.8
"""The part of what may be used from which on it is looked at often."""

RELIEF = 0.95
"""The part of what may be used below which forks go on."""

GROWN = 1.1
"""A worker is replaced only if it holds so many times what it held when it was READY: another would hold as much."""


class Holding(Record):
    """What one worker holds, in bytes: now, and when it was READY."""

    member: Member
    now: int
    then: int

    @property
    def grown(self) -> bool:
        """Whether there is something to be had by its end."""
        return self.now > self.then * GROWN


def largest(holdings: Sequence[Holding], size: int) -> Holding | None:
    """Whom to replace for want of memory; None for nobody. Pure.

    Args:
        holdings: of those that serve.
        size: how many are wanted: never the last of several leaves.
    """
    if len(holdings) < min(2, size):
        return None
    return max((one for one in holdings if one.grown), key=lambda one: one.now, default=None)


class MemoryGuard:
    """Watches the memory of the server's cgroup.

    Args:
        loop: for deadlines.
        settings: memory_guard, a part of the limit; graceful_timeout in seconds.
        goal: whose forks are held.
        roster: who lives.
        spawner: says how much workers have served, and tells them to leave.
        memory: of the cgroup.
    """

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        goal: Goal,
        roster: Roster,
        spawner: Spawner,
        memory: CgroupMemory,
    ) -> None:
        self._loop = loop
        self._part = settings.memory_guard
        self._patience = settings.graceful_timeout
        self._goal = goal
        self._roster = roster
        self._spawner = spawner
        self._memory = memory
        self._then: dict[int, int] = {}
        self._finished = 0
        self._pause = SAMPLE
        self._throttle = Throttle(log)
        if memory.limited:
            loop.call_later(SAMPLE, self._look)

    def _look(self) -> None:
        use = self._memory.use()
        if use is not None and self._goal.stop.order is Order.RUN:
            self._judge(use)
        self._loop.call_later(self._pace(use), self._look)

    def _pace(self, use: MemoryUse | None) -> float:
        """Seconds to the next look. What serves nothing grows seldom: an idle server is looked at less and less."""
        finished = sum(self._spawner.finished(member) for member in self._roster)
        rests = finished == self._finished and not any(self._spawner.vital(m).busy_since for m in self._roster)
        self._finished = finished
        if use is not None and use.share >= self._part * NEAR:
            self._pause = SAMPLE_NEAR if not rests else min(2 * self._pause, SAMPLE)
        else:
            self._pause = SAMPLE if not rests else min(2 * self._pause, SAMPLE_MOST)
        return self._pause

    def _judge(self, use: MemoryUse) -> None:
        forks = self._goal.forks
        serving = [member for member in self._roster if member.order is Order.RUN and not member.starting]
        then = self._then
        self._then = {one.pid: then[one.pid] if one.pid in then else _resident(one.pid) for one in serving}
        if use.share < self._part * RELIEF:
            if forks.short_of_memory:
                log.info("memory: there is room again")
            forks.has_memory()
            return
        if use.share < self._part:
            return
        if any(member.reason is not None and member.reason.cause is Cause.MEMORY for member in self._roster):
            return  # one at a time
        holdings = [Holding(member, _resident(member.pid), self._then[member.pid]) for member in serving]
        found = largest(holdings, self._goal.size)
        used = f"{use.used >> 20} of {use.limit >> 20} MiB of the cgroup are in use"
        if found is None:
            forks.has_memory()  # what is short is somebody else's, and to wait for it helps nobody
            self._throttle.tell(logging.WARNING, "nobody", "memory: %s, and no worker has grown that could leave", used)
            return
        forks.lacks_memory()
        reason = Reason(Cause.MEMORY, f"it holds {found.now >> 20} MiB")
        told = "memory: %s; worker %d (pid %d), which holds %d MiB, leaves, and nobody is forked until there is room"
        log.warning(told, used, found.member.slot, found.member.pid, found.now >> 20)
        now = self._loop.clock.monotonic()
        self._roster.retired(found.member, Order.SEAL, now + self._patience, reason, now)
        self._spawner.order(found.member, Order.SEAL)


def _resident(pid: int) -> int:
    """Bytes; 0 when nobody says. The pid is a child's of ours that has not been reaped."""
    try:
        return usage.resident(pid)
    except OSError:
        return 0
