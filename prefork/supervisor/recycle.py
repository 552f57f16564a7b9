"""Observers: what looks at the workers from time to time and changes what is wanted of them.

They register deadlines with the master's loop and know the goal, the roster and the spawner; the master knows of them
only that they exist. Both sleep while nothing happens, so that an idle server stays asleep. Everything runs in the
MASTER.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import psutil

from prefork.config.settings import Settings
from prefork.net.listener import Listener
from prefork.scoreboard.layout import Order
from prefork.supervisor.autoscale import Sample, Sizer
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Goal
from prefork.supervisor.roster import Member, Roster
from prefork.supervisor.spawner import Spawner

log = logging.getLogger("prefork")

SAMPLE = 1.0
"""Seconds between two looks at the workers' memory and descriptors while they serve; grows while they don't."""

SAMPLE_MOST = 60.0

HELD_LOOK = 1.0
"""Seconds until the load is looked at again after forks were found to be held."""


class Growth:
    """MASTER. Keeps the size between ``min_workers`` and ``max_workers``, by the load.

    A worker that takes the last idle place says so; samples are taken from then on until nothing is to be decided.

    Args:
        loop: for deadlines.
        settings: idle_timeout in seconds.
        goal: whose size is kept.
        roster: who lives.
        spawner: says what workers say of themselves.
        listeners: whose accept queues are looked at.
        scale: called with another size.
    """

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        goal: Goal,
        roster: Roster,
        spawner: Spawner,
        listeners: Sequence[Listener],
        scale: Callable[[int], object],
    ) -> None:
        self._loop = loop
        self._goal = goal
        self._roster = roster
        self._spawner = spawner
        self._listeners = listeners
        self._scale = scale
        self._sizer = Sizer(goal.smallest, goal.largest, settings.idle_timeout)
        self._timer = loop.call_later(settings.idle_timeout, self.look)

    def look(self) -> None:
        """Take a sample, now."""
        self._timer.cancel()
        if self._goal.stop.order is not Order.RUN:
            return
        if self._goal.forks.held:
            self._timer = self._loop.call_later(HELD_LOOK, self.look)
            return
        now = self._loop.clock.monotonic()
        incumbents = [slot.incumbent for slot in self._roster.slots.values() if slot.incumbent is not None]
        serving = [member for member in incumbents if not member.starting and member.order is Order.RUN]
        sample = Sample(
            size=self._goal.size,
            serving=len(serving),
            busy=sum(self._spawner.vital(member).busy_since is not None for member in serving),
            waiting=sum(listener.waiting() for listener in self._listeners),
            finished=sum(self._spawner.finished(member) for member in serving),
        )
        size, again = self._sizer.observe(sample, now)
        if size != self._goal.size:
            self._scale(size)
        if again is not None:
            self._timer = self._loop.call_at(again, self.look)


class Appetite:
    """MASTER. Asks for the replacement of workers that hold more than ``max_memory`` or ``max_fds`` allows.

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
            worker = psutil.Process(member.pid)
            if self._max_memory:
                rss = worker.memory_info().rss
                if rss > self._max_memory:
                    return Reason(Cause.MAX_MEMORY, f"it holds {rss >> 20} MiB")
            if self._max_fds:
                held = worker.num_fds()
                if held > self._max_fds:
                    return Reason(Cause.MAX_FDS, f"it holds {held} descriptors")
        except (psutil.Error, OSError) as error:
            log.debug("can't look at worker %d (pid %d): %s", member.slot, member.pid, error)
        return None
