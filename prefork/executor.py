"""The executor: carries out what policy decides, one action at a time, and feeds it back as a fact.

All of it runs in the MASTER.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from prefork import policy
from prefork.loop import Loop
from prefork.policy import Goal
from prefork.pressure import Pressure
from prefork.roster import Member, Roster
from prefork.spawner import Spawner
from prefork.system import process
from prefork.worker import DUMP_SIGNAL

log = logging.getLogger("prefork")


class Executor:
    """MASTER. Carries out actions.

    Args:
        loop: for the time.
        goal: is told of forks that failed.
        roster: is fed the facts.
        spawner: has the line to each worker.
        pressure: is told whether forks succeed.
        spawn: forks a worker into a slot, of a generation; gives its pid and its seat.
    """

    def __init__(
        self,
        loop: Loop,
        goal: Goal,
        roster: Roster,
        spawner: Spawner,
        pressure: Pressure,
        spawn: Callable[[int, int], tuple[int, int]],
    ) -> None:
        self._loop = loop
        self._goal = goal
        self._roster = roster
        self._spawner = spawner
        self._pressure = pressure
        self._fork = spawn

    def apply(self, action: policy.Action) -> None:
        """Do it, as far as it can be done; what failed is decided again."""
        now = self._loop.clock.monotonic()
        match action:
            case policy.Spawn(slot, generation):
                self._spawn(slot, generation, now)
            case policy.Retire(member, order, deadline, reason):
                self._roster.retired(member, order, deadline, reason, now)
                self._spawner.order(member, order)
                log.debug("worker %d (pid %d) is told to leave: %s", member.slot, member.pid, reason)
            case policy.Ring(member):
                self._roster.rung(member, now)
                process.kill(member.pid, signal.SIGTERM)
            case policy.Dump(member, seconds):
                what = "starting" if member.starting else "busy with one connection"
                log.error("worker %d (pid %d) has been %s for %.1f s", member.slot, member.pid, what, seconds)
                member.dumped_at = now
                process.kill(member.pid, DUMP_SIGNAL)
            case policy.Pardon(member):
                log.info("worker %d (pid %d) has finished after all", member.slot, member.pid)
                self._log_report(member)
                self._roster.pardoned(member)
            case policy.Abort(member):
                self._log_report(member)
                member.aborted_at = now
                process.kill(member.pid, signal.SIGABRT)
            case policy.Kill(member):
                log.warning("worker %d (pid %d) is killed: %s", member.slot, member.pid, member.reason or "it hangs")
                member.killed_at = now
                process.kill(member.pid, signal.SIGKILL)
            case policy.Replace(member, reason):
                self._roster.wanted(member, reason)

    def _spawn(self, slot: int, generation: int, now: float) -> None:
        if self._goal.held_until is not None and now < self._goal.held_until:
            return  # an earlier fork of this decision failed
        try:
            pid, seat = self._fork(slot, generation)
        except OSError as error:
            self._goal.fork_failed(self._loop.clock.monotonic())
            self._pressure.fork_failed(slot, error)
            return
        self._goal.forked()
        self._pressure.forked()
        born = self._loop.clock.monotonic()
        self._roster.forked(slot=slot, seat=seat, pid=pid, generation=generation, now=born)
        log.debug("worker %d (pid %d, generation %d) forked", slot, pid, generation)

    def _log_report(self, member: Member) -> None:
        """Write a hung worker's tracebacks to the log."""
        text = self._spawner.take_report(member.pid).rstrip()
        log.error("worker %d (pid %d): %s", member.slot, member.pid, text or "it gave no traceback")
