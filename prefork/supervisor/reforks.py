"""Reforks: when a worker has served ``refork_after`` requests, another mold of the same code replaces all of them.

The pages that a worker shares with its mold become its own as it writes to them, most of them in its first requests.
And what the application does for the first time in a worker, each does. So after some requests a mold is made that has
answered what is asked for most, and workers are made of that. With every further time there is less to be gained, so
there may be a longer count for each.

It is a reload of the same code in all but its reason (:mod:`prefork.supervisor.generations`). Not two of them at once,
none while a reload is under way or nobody may be forked, and one that has failed is tried again after a pause that
grows: nothing needs it. All of it runs in the MASTER.
"""

from __future__ import annotations

import logging
from typing import Final

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.supervisor.asked_paths import AskedPaths
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member
from prefork.supervisor.notifications import Notifier, Reforked, ReforkFailed, Reloaded
from prefork.supervisor.nursery import Nursery
from prefork.supervisor.roster import Roster
from prefork.supervisor.spawner import Spawner
from prefork.system.backoff import Backoff

log = logging.getLogger("prefork")

LOOK: Final = 0.25
"""Seconds between two looks at what workers serve; grows while they don't."""

LOOK_MOST: Final = 4.0

AGAIN: Final = Backoff(initial=30.0, factor=2.0, maximum=3600.0, jitter=0.0)
"""How long nothing is tried after a refork that has failed."""

PATHS: Final = 16
"""So many are warmed at the most."""

ENOUGH: Final = 24
"""Samples after which it is known what is asked for; or no more come for `PATIENCE` seconds."""

PATIENCE: Final = 4.0

SLOW: Final = 1.0
"""Seconds: what takes longer is not asked for in a mold."""

_AT_ONCE: Final = 32  # workers whose notes are looked at each time


def watch(
    loop: Loop,
    settings: Settings,
    goal: Goal,
    roster: Roster,
    spawner: Spawner,
    notifier: Notifier,
    nursery: Nursery,
) -> None:
    """Look at what workers serve from now on, if the settings ask for it; the arguments are those of `Reforks`."""
    if settings.refork_after and nursery.molded:
        Reforks(loop, settings.refork_after, goal, roster, spawner, notifier, nursery)


class Schedule:
    """When the next one comes. Pure.

    Args:
        counts: after how many requests of a worker each of them comes, the last for all further ones; 0 = no more.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        self._counts = counts
        self._done = 0
        self._failures = 0
        self._not_before = 0.0
        self._due_since: float | None = None

    @property
    def wanted(self) -> int:
        """After how many requests of a worker the next one comes; 0 = there is none."""
        return self._counts[min(self._done, len(self._counts) - 1)]

    def waits(self) -> bool:
        """Whether it would come, were it known what is asked for."""
        return self._due_since is not None

    def is_due(self, served: int, samples: int, now: float, *, free: bool) -> bool:
        """Whether one is to be begun.

        Args:
            served: the most requests that a worker has served.
            samples: what has been seen of what is asked for.
            now: monotonic seconds.
            free: whether nothing else speaks against it.
        """
        if not free or not self.wanted or served < self.wanted or now < self._not_before:
            self._due_since = None
            return False
        if self._due_since is None:
            self._due_since = now
        if samples < ENOUGH and now - self._due_since < PATIENCE:
            return False
        self._due_since = None
        return True

    def succeeded(self) -> None:
        """It is done."""
        self._done += 1
        self._failures, self._not_before = 0, 0.0

    def begin_anew(self) -> None:
        """What serves is other code."""
        self._done, self._failures, self._not_before = 0, 0, 0.0

    def failed(self, now: float) -> float:
        """It will not be; returns for how many seconds no other one is begun."""
        pause = AGAIN.delay(self._failures, 0.0)
        self._failures += 1
        self._not_before = now + pause
        return pause


class Reforks:
    """The reforks of one server.

    Args:
        loop: for deadlines.
        counts: as `Schedule` has them.
        goal: what else is under way.
        roster: who lives.
        spawner: says what workers have served, and what they were asked for.
        notifier: tells what becomes of reforks and reloads.
        nursery: makes the mold.
    """

    def __init__(
        self,
        loop: Loop,
        counts: tuple[int, ...],
        goal: Goal,
        roster: Roster,
        spawner: Spawner,
        notifier: Notifier,
        nursery: Nursery,
    ) -> None:
        self._loop = loop
        self._schedule = schedule = Schedule(counts)
        self._goal = goal
        self._roster = roster
        self._spawner = spawner
        self._nursery = nursery
        self._asked = AskedPaths()
        self._seen: dict[tuple[int, int], int] = {}  # the stamp of what was seen last, by pid and lane
        self._turn = 0
        self._finished = 0
        self._pause = LOOK
        notifier.subscribe(Reforked, lambda _: schedule.succeeded())
        notifier.subscribe(Reloaded, lambda _: schedule.begin_anew())
        notifier.subscribe(ReforkFailed, lambda _: self._has_failed())
        loop.call_later(LOOK, self._look)

    def _has_failed(self) -> None:
        log.info("refork: the next one is not tried for %.0f s", self._schedule.failed(self._loop.clock.monotonic()))

    def _look(self) -> None:
        members = [one for one in self._roster if one.order is Order.RUN and not one.starting]
        served = {one: self._spawner.finished(one) for one in members}
        self._sample(members)
        self._refork(served)
        finished = sum(served.values())
        rests = finished == self._finished and not self._schedule.waits()
        self._pause = min(2 * self._pause, LOOK_MOST) if rests else LOOK
        self._finished = finished
        self._loop.call_later(self._pause, self._look)

    def _sample(self, members: list[Member]) -> None:
        """See what some of them were asked for last."""
        now = self._loop.clock.monotonic()
        self._turn = (self._turn + _AT_ONCE) % max(1, len(members))
        seen = {}
        for member in (members[self._turn :] + members[: self._turn])[:_AT_ONCE]:
            for noted in self._spawner.last_noted(member):
                place = member.pid, noted.lane
                seen[place] = noted.stamp
                if noted.in_hand and now - noted.stamp / 1e9 > SLOW:
                    self._asked.avoid(noted.label)
                elif noted.stamp != self._seen.get(place):
                    self._asked.see(noted.label)
        alive = {member.pid for member in members}
        self._seen = {place: stamp for place, stamp in self._seen.items() if place[0] in alive} | seen

    def _refork(self, served: dict[Member, int]) -> None:
        """Begin one, if it is time."""
        most = max(served, key=lambda one: served[one], default=None)
        now = self._loop.clock.monotonic()
        if most is not None and self._schedule.is_due(served[most], self._asked.samples, now, free=self._may(now)):
            what = f"refork, for worker {most.slot} has served {served[most]} requests"
            self._nursery.refork(what, self._asked.most_asked(PATHS))

    def _may(self, now: float) -> bool:
        """Whether nothing is under way that it would be in the way of."""
        goal, molds = self._goal, self._nursery.molds
        busy = goal.stop.begun or goal.renews or molds.coming is not None or goal.forks.waits(now)
        return goal.ready and molds.current is not None and not busy
