"""Whom ``max_memory`` and ``max_fds`` ask to be replaced: workers are looked at from time to time, less while idle."""

from __future__ import annotations

import logging

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member
from prefork.supervisor.memory_guard import MemoryGuard
from prefork.supervisor.roster import Roster
from prefork.supervisor.spawner import Spawner
from prefork.system import usage
from prefork.system.cgroup_memory import CgroupMemory

log = logging.getLogger("prefork")

SAMPLE = 1.0
"""Seconds between two looks at the workers' memory and descriptors while they serve; grows while they don't."""

SAMPLE_MOST = 60.0


def watch(loop: Loop, settings: Settings, goal: Goal, roster: Roster, spawner: Spawner, nofile: int) -> None:
    """Watch what workers hold, as far as the settings ask for it; the arguments are those of the two that do it."""
    if settings.max_memory or settings.max_fds:
        ResourceLimits(loop, settings, roster, spawner, nofile)
    if settings.memory_guard:
        MemoryGuard(loop, settings, goal, roster, spawner, CgroupMemory())


class ResourceLimits:
    """Asks for the replacement of workers that hold more than ``max_memory`` or ``max_fds`` allows.

    Args:
        loop: for deadlines.
        settings: max_memory in bytes, max_fds as a count or as a fraction of ``nofile``.
        roster: who lives.
        spawner: says how much workers have served.
        nofile: the limit of descriptors of a worker (count).
    """

    def __init__(self, loop: Loop, settings: Settings, roster: Roster, spawner: Spawner, nofile: int) -> None:
        self._loop = loop
        self._roster = roster
        self._spawner = spawner
        self._max_memory = settings.max_memory
        fds = settings.max_fds
        self._max_fds = int(fds * nofile) if 0 < fds < 1 else int(fds)
        self._finished = 0
        self._pause = SAMPLE
        self._loop.call_later(self._pause, self._look)

    def _look(self) -> None:
        finished = sum(self._spawner.finished(member) for member in self._roster)
        # What holds nothing new has nothing new to be found: an idle server is looked at less and less.
        self._pause = SAMPLE if finished != self._finished else min(2 * self._pause, SAMPLE_MOST)
        self._finished = finished
        for member in self._roster:
            if member.order is Order.RUN and not member.starting and not member.wanted:
                reason = self._excess(member)
                if reason is not None:
                    log.info("worker %d (pid %d) is to be replaced: %s", member.slot, member.pid, reason)
                    self._roster.wanted(member, reason)
        self._loop.call_later(self._pause, self._look)

    def _excess(self, member: Member) -> Reason | None:
        """What ``member`` has too much of; None for nothing. Its pid is a child's of ours that has not been reaped."""
        try:
            if self._max_memory:
                rss = usage.resident(member.pid)
                if rss > self._max_memory:
                    return Reason(Cause.MAX_MEMORY, f"it holds {rss >> 20} MiB")
            if self._max_fds:
                held = usage.descriptors(member.pid)
                if held > self._max_fds:
                    return Reason(Cause.MAX_FDS, f"it holds {held} descriptors")
        except OSError as error:
            log.debug("can't look at worker %d (pid %d): %s", member.slot, member.pid, error)
        return None
