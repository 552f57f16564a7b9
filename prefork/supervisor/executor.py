"""The executor: carries out what policy decides, and feeds it back as a fact.

Forks come last and in a row; see :meth:`prefork.supervisor.spawner.Spawner.fork`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence

from prefork.scoreboard.layout import Order
from prefork.supervisor import policy
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member
from prefork.supervisor.pressure import Pressure
from prefork.supervisor.roster import Roster
from prefork.supervisor.spawner import Spawner
from prefork.supervisor.worker_line import Birth
from prefork.system import process
from prefork.system.natives import signal
from prefork.system.throttle import Excerpts, TokenBucket

SLOW_BURST = 10
"""Of so many that are slow at once, each is shown."""

SLOW_PACE = 0.1
"""How many of them a second in the long run: they are many when there is one cause."""

log = logging.getLogger("prefork")


class Executor:
    """Carries out actions.

    Args:
        loop: for the time.
        goal: is told of forks that failed.
        roster: is fed the facts.
        spawner: has the line to each worker.
        pressure: is told whether forks succeed.
        excerpts: cuts what workers report.
        prepare: prepares a worker for a slot, of a generation.
        ask: asks the mold for workers; None when the master forks them.
    """

    def __init__(
        self,
        loop: Loop,
        goal: Goal,
        roster: Roster,
        spawner: Spawner,
        pressure: Pressure,
        prepare: Callable[[policy.Spawn], Birth],
        excerpts: Excerpts,
        ask: Callable[[Sequence[Birth]], None] | None = None,
    ) -> None:
        self._loop = loop
        self._goal = goal
        self._roster = roster
        self._spawner = spawner
        self._pressure = pressure
        self._prepare = prepare
        self._excerpts = excerpts
        self._slow = TokenBucket(loop.clock, burst=SLOW_BURST, pace=SLOW_PACE)
        self._slow_excerpts = Excerpts(loop.clock)  # so that a site where all is slow leaves room for one that hangs
        self._ask = ask

    def apply(self, actions: Iterable[policy.Action]) -> None:
        """Do all of it, as far as it can be done; what failed is decided again."""
        spawns: list[policy.Spawn] = []
        for action in actions:
            if isinstance(action, policy.Spawn):
                spawns.append(action)
            else:
                self._apply(action)
        if spawns:
            self._spawn(spawns)
        elif self._pressure.forks_fail and self._every_slot_is_lived_in():
            self._pressure.nobody_to_fork()

    def _every_slot_is_lived_in(self) -> bool:
        """Whether nobody is to be forked now, though one may: where forks hold, it is not known who is wanted."""
        goal = self._goal
        if goal.forks.waits(self._loop.clock.monotonic()):
            return False
        return all(self._roster.slot(index).incumbent is not None for index in goal.slots)

    def _apply(self, action: policy.Action) -> None:  # noqa: C901  # a case for each kind of action
        now = self._loop.clock.monotonic()
        match action:
            case policy.Retire(member, order, deadline, reason):
                self._roster.retired(member, order, deadline, reason, now)
                self._spawner.order(member, order)
                log.debug("worker %d (pid %d) is told to leave: %s", member.slot, member.pid, reason)
            case policy.WakeUp(member):
                self._roster.woken(member, now)
                self._spawner.wake_up(member)
            case policy.AskWhy(member, since):
                self._roster.slowed(member, since, now)
                if self._slow.lets_through():
                    told = ", ".join(one.told(now) for one in self._spawner.in_hand(member))
                    log.warning("worker %d (pid %d) is slow: %s", member.slot, member.pid, told)
                    if more := self._slow.passed_over():
                        log.warning("%d more were slow since the one before, of which nothing was said", more)
                    self._spawner.ask_for_tracebacks(member.pid)
                else:
                    self._roster.slowness_told(member)
            case policy.TellWhy(member):
                self._roster.slowness_told(member)
                said = self._slow_excerpts.of_frames(self._spawner.take_report(member.pid).rstrip())
                told = said or "it gave no traceback"
                log.warning("worker %d (pid %d), which goes on: %s", member.slot, member.pid, told)
            case policy.Dump(member, seconds, lane):
                what = "starting" if member.starting else "busy with one connection"
                what += f" in lane {lane}" if lane is not None and not member.starting else ""
                told = ", ".join(one.told(now) for one in self._spawner.in_hand(member) if lane in {None, one.lane})
                text = f": {told}" if told and not member.starting else ""
                log.error("worker %d (pid %d) has been %s for %.1f s%s", member.slot, member.pid, what, seconds, text)
                self._roster.dumped(member, now)
                self._spawner.ask_for_tracebacks(member.pid)
            case policy.Spare(member):
                log.info("worker %d (pid %d) has finished after all", member.slot, member.pid)
                self._log_report(member)
                self._roster.spared(member)
            case policy.Evacuate(member, deadline, hung):
                lanes = f" hangs in lane{'s' * (len(hung) > 1)} {', '.join(map(str, hung))}"
                self._log_report(member, f"{lanes}; the others have {deadline - now:.3g} s to finish", lanes=hung)
                self._roster.retired(member, Order.SEAL, deadline, Reason(Cause.TIMEOUT), now)
                self._spawner.order(member, Order.SEAL)
            case policy.Abort(member):
                if not self._evacuated(member):
                    self._log_report(member)
                self._roster.aborted(member, now)
                process.kill_main_thread(member.pid, signal.SIGABRT)
            case policy.AbortAgain(member):
                self._roster.aborted(member, now)
                process.kill_main_thread(member.pid, signal.SIGABRT)
            case policy.Kill(member):
                why = str(member.reason or Reason(Cause.TIMEOUT))
                if member.order is not Order.RUN and not self._spawner.vital(member).obeying:
                    why += self._spawner.deaf(member)
                log.warning("worker %d (pid %d) is killed: %s", member.slot, member.pid, why)
                self._roster.killed(member, now)
                if member.questioned:
                    self._log_report(member, " is past its loop and doesn't end")
                if not process.kill(member.pid, signal.SIGKILL):
                    log.error("worker %d (pid %d) can't be killed: it is another user's now", member.slot, member.pid)
            case policy.Question(member):
                self._roster.questioned(member)
                self._spawner.ask_for_tracebacks(member.pid)
            case policy.Replace(member, reason):
                self._roster.wanted(member, reason)

    def _spawn(self, spawns: list[policy.Spawn]) -> None:
        births, failed = [], None
        for spawn in spawns:
            try:
                births.append(self._prepare(spawn))
            except OSError as error:
                failed = error
                break
        if self._ask is None:
            pids, refused = self._spawner.fork(births)
            for pid, birth in zip(pids, births, strict=False):
                self._forked(pid, birth)
            failed = refused or failed
            slot = spawns[min(len(pids), len(spawns) - 1)].slot
        else:
            for birth in births:
                self._roster.expect(birth.one.slot)
            if births:
                self._ask(births)
            slot = spawns[min(len(births), len(spawns) - 1)].slot
        if failed is not None:
            self._fork_failed(slot, failed)

    def _forked(self, pid: int, birth: Birth) -> None:
        """A worker lives."""
        one, born = birth.one, self._loop.clock.monotonic()
        self._roster.forked(slot=one.slot, entry=one.entry, pid=pid, generation=one.generation, now=born)
        log.debug("worker %d (pid %d, generation %d) forked", one.slot, pid, one.generation)
        self._goal.forks.forked()
        self._pressure.forked()

    def _fork_failed(self, slot: int, error: OSError) -> None:
        self._goal.forks.fork_failed(self._loop.clock.monotonic())
        self._pressure.fork_failed(slot, error)

    def born(self, pid: int, birth: Birth) -> None:
        """A worker that the mold was asked for lives, and is a child of ours."""
        self._roster.expect_no_more(birth.one.slot)
        self._spawner.born(pid, birth)
        self._forked(pid, birth)

    def unborn(self, births: Sequence[Birth], error: OSError | None) -> None:
        """Workers that the mold was asked for will not be; ``error`` is what the system had not enough of, if so."""
        for birth in births:
            self._roster.expect_no_more(birth.one.slot)
            self._spawner.unborn(birth)
        if error is not None:
            self._fork_failed(births[0].one.slot, error)
        elif not self._goal.forks.without_mold:
            self._goal.forks.fork_failed(self._loop.clock.monotonic())
            log.warning("worker %d was killed before it began; trying again", births[0].one.slot)

    @staticmethod
    def _evacuated(member: Member) -> bool:
        """Whether the lanes beside one that hangs have had time to finish, and its tracebacks have been told."""
        return member.reason is not None and member.reason.cause is Cause.TIMEOUT

    def _log_report(self, member: Member, what: str = "", lanes: Collection[int] = ()) -> None:
        """Write a hung worker's tracebacks to the log, those of some lanes before all others."""
        text = self._excerpts.of_frames(self._spawner.take_report(member.pid, lanes).rstrip())
        log.error("worker %d (pid %d)%s: %s", member.slot, member.pid, what, text or "it gave no traceback")
