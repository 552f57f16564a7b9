"""Generations: the next one is wanted; the first, or the next, is complete."""

from __future__ import annotations

import logging

from prefork.supervisor import policy
from prefork.supervisor.goal import Goal, Renewal
from prefork.supervisor.notifications import (
    Notifier,
    Reforked,
    Reloaded,
    Reloading,
    Scaled,
    Serving,
    WorkerReady,
    not_renewed,
)
from prefork.supervisor.roster import Roster

log = logging.getLogger("prefork")


class Generations:
    """The generations of one server's workers.

    Args:
        goal: which one is wanted, and whether one has been complete.
        roster: who lives.
        notifier: tells of it.
    """

    def __init__(self, goal: Goal, roster: Roster, notifier: Notifier) -> None:
        self._goal = goal
        self._roster = roster
        self._notifier = notifier

    def watch(self) -> None:
        """Look at what happens from now on, after those who have subscribed before."""
        self._notifier.subscribe(WorkerReady, self._look)
        self._notifier.subscribe(Scaled, self._look)  # those who were waited for may be among those who leave
        self._notifier.subscribe(Serving, self._look)  # a reload may have begun before

    def announce(self, what: str, why: Renewal = Renewal.RELOAD) -> int:
        """A mold of the next generation is made; ``what`` is why, for the log. Returns which that is."""
        generation = self._goal.load(why)
        log.info("%s: generation %d", what, generation)
        if why is Renewal.RELOAD:
            self._notifier.notify(Reloading(generation))
        return generation

    def renew(self) -> None:
        """It is made: replace every worker by one of that generation."""
        self._goal.loaded()
        policy.roll(self._goal, self._roster)

    def fail(self, generation: int, reason: str) -> None:
        """It can't be made, or no workers of it can: the generation before it goes on."""
        if generation == self._goal.generation:
            why = self._goal.rolls
            self._goal.rolled()
        else:
            why = self._goal.loads
            self._goal.loaded()
        log.error("%s: generation %d failed to boot; the old one goes on", why.value, generation)
        self._notifier.notify(not_renewed(why, generation, reason))

    def roll(self, what: str) -> None:
        """Replace every worker by one of the next generation; ``what`` is why, for the log."""
        policy.roll(self._goal, self._roster)
        log.info("%s: generation %d", what, self._goal.generation)
        self._notifier.notify(Reloading(self._goal.generation))

    def _look(self, _: WorkerReady | Scaled | Serving) -> None:
        """See whether the first generation, or one that is being reloaded, has all of its workers READY."""
        goal, slots = self._goal, range(self._goal.size)
        if not self._roster.complete(slots):
            return
        if not goal.ready:
            goal.completed()
            self._notifier.notify(Serving())
        elif goal.rolling and not any(map(self._is_old, reversed(slots))):  # the last is the last to be replaced
            goal.rolled()
            log.info("%s: generation %d serves", goal.rolls.value, goal.generation)
            self._notifier.notify((Reloaded if goal.rolls is Renewal.RELOAD else Reforked)(goal.generation))

    def _is_old(self, index: int) -> bool:
        incumbent = self._roster.incumbent(index)
        return incumbent is None or incumbent.generation != self._goal.generation
