"""What the deaths of workers mean for the server: the log line, a failed boot, a crash loop."""

from __future__ import annotations

import collections
import logging

from prefork.config.settings import Settings
from prefork.errors import BootError, ListenError, PreforkError, TargetError
from prefork.scoreboard.layout import Order
from prefork.supervisor import policy
from prefork.supervisor.cause import Reason
from prefork.supervisor.death import Death
from prefork.supervisor.goal import Crashes, Goal
from prefork.supervisor.member import Member
from prefork.supervisor.notifications import Notifier, not_renewed
from prefork.supervisor.roster import Roster
from prefork.system import ending, limits
from prefork.system.natives import signal
from prefork.system.throttle import Excerpts, Throttle, TokenBucket

log = logging.getLogger("prefork")

_ERRORS: dict[int, type[PreforkError]] = {error.exit_code: error for error in (TargetError, ListenError, BootError)}


def boot_error(code: int, report: str, ended: str) -> PreforkError:
    """Why a server ends of which a process has failed to boot the application at the start. Pure.

    Args:
        code: the process's exit code; it tells the kind of error only together with a report, for an application may
            exit with any.
        report: what it reported: one line or a traceback; "" when there is nothing.
        ended: which process it was, and how it ended.
    """
    if not report:
        return BootError(f"the application failed to boot: {ended}")
    error = _ERRORS.get(code, BootError)
    if error is BootError and "\n" in report:
        return BootError("the application failed to boot; its traceback is in the log")
    return error(report)


class Exits:
    """The deaths of one server's workers.

    Args:
        goal: what is wanted; a fatal death changes it.
        roster: where a slot whose workers die young is held back.
        settings: crash_limit, crash_window, on_crash_loop, quick_timeout.
        notifier: tells of a reload or refork that has failed.

    Attributes:
        failure: why the server ends, if a death is the reason.
        crashes: whether there is a crash loop now.
        recent: the last deaths, oldest first.
        excerpts: cuts what workers report to what the log has room for.
    """

    def __init__(self, goal: Goal, roster: Roster, settings: Settings, notifier: Notifier) -> None:
        self.failure: PreforkError | None = None
        self.crashes = Crashes.NONE
        self.recent: list[Death] = []
        self._goal = goal
        self._roster = roster
        self._settings = settings
        self._notifier = notifier
        self._told: collections.deque[str] = collections.deque(maxlen=_REMEMBERED)
        self._exhausted = Throttle(log)
        self._bucket = TokenBucket()
        self.excerpts = Excerpts()
        self._oom_kills = limits.oom_kills()

    def judge(self, death: Death, report: str) -> None:
        """Judge a death.

        Args:
            death: the death.
            report: what the worker reported of its boot.
        """
        self.recent = [*self.recent[-_RECENT:], death]
        policy.judge(self._goal, self._roster, death)
        if death.exhausted and self._goal.ready:
            why = self.excerpts.of(report.strip().rpartition("\n")[2]) or str(death.exit)
            self._exhausted.tell(logging.WARNING, "boot", "worker %d can't boot for now: %s", death.member.slot, why)
            return
        self._log(death)
        _, bounded, frames = report.strip().rpartition(ending.BOUNDED)  # else it is what somebody has asked for
        if death.member.ready_at is not None and bounded:
            said = self.excerpts.of(bounded + frames)
            self._tell(logging.ERROR, "worker %d (pid %d) did not end: %s", death.member.slot, death.member.pid, said)
        if self._goal.failures.boot_failed(self._settings, death):
            self._boot_failed(death, report)
        self._look_for_crash_loop(death.at)

    def asked(self, member: Member, reason: Reason) -> None:
        """A worker wants to be replaced; its end, which it wanted, is told if this is."""
        text = "worker %d (pid %d) wants to be replaced: %s"
        if not self._tell(logging.INFO, text, member.slot, member.pid, reason):
            self._roster.unsaid(member)

    def _tell(self, level: int, message: str, *arguments: object) -> bool:
        """Log what workers can bring about as often as they like; whether there was room for it."""
        if not self._bucket.lets_through():
            return False
        log.log(level, message, *arguments)
        if more := self._bucket.passed_over():
            log.warning("%d lines about workers that ended, or wanted to, were left out: too many a second", more)
        return True

    def booted(self) -> None:
        """A worker is READY."""
        self._goal.booted()
        self._told.clear()  # should a boot fail after this, that is news, whatever it fails of
        self._exhausted.end("workers boot again")

    def recheck_crash_loop(self, now: float) -> None:
        """See whether a crash loop has come to its end."""
        if self.crashes is not Crashes.NONE:
            self._look_for_crash_loop(now)

    def end_server(self, failure: PreforkError, now: float, *, order: Order = Order.QUIT) -> None:
        """End the server for a reason that is an error.

        Args:
            failure: the reason, which the run will raise.
            now: monotonic seconds.
            order: what the workers are told: QUIT, or SEAL to leave them ``graceful_timeout`` for what they have.
        """
        if self.failure is None:
            seconds = self._settings.quick_timeout if order is Order.QUIT else self._settings.graceful_timeout
            self.failure = failure
            self._goal.stop.begin(order, now + seconds)

    def _log(self, death: Death) -> None:
        member = death.member
        expected = death.in_order
        level = logging.INFO if expected else logging.WARNING
        if not self._goal.ready and (death.boot_failed or self.failure is not None):
            level = logging.DEBUG  # the server ends before it began, with an error that says why
        if expected and member.unsaid:
            return
        tell = self._tell if member.wanted or not expected else log.log  # what the master wants has an end
        tell(
            level,
            "worker %d (pid %d, generation %d) %s after %.1f s, %d connections served%s%s",
            member.slot,
            member.pid,
            member.generation,
            death.exit,
            death.age,
            death.served,
            f" ({member.reason})" if member.reason else "",
            "" if expected or not death.in_hand else f"; in hand: {death.unfinished}",
        )
        if death.exit.signal == signal.SIGKILL and member.killed_at is None:
            kills = limits.oom_kills()
            if kills is not None and self._oom_kills is not None and kills > self._oom_kills:
                log.error("the kernel says that it killed a process of this cgroup for want of memory")
            self._oom_kills = kills if kills is not None else self._oom_kills

    def _boot_failed(self, death: Death, report: str) -> None:
        """A worker ended before it was READY: fatal at the start, the end of a reload later."""
        goal, report = self._goal, report.strip()
        said = report or f"{death.exit} before it was ready"
        error = boot_error(death.exit.code or 0, report, f"a worker was {said}")
        plain = not report or str(error) == report  # the command ends with it, in one line
        if said not in self._told and not (plain and not goal.ready):
            self._told.append(said)
            log.error("worker %d failed to boot: %s", death.member.slot, self.excerpts.of(said))
        if not goal.ready:
            self.end_server(error, death.at)
        elif goal.rolling and death.member.generation == goal.generation:
            goal.rolled()
            self._told.clear()
            log.error("%s: generation %d failed to boot; the old one goes on", goal.rolls.value, goal.generation)
            self._notifier.notify(not_renewed(goal.rolls, goal.generation, report or str(death.exit)))

    def _look_for_crash_loop(self, now: float) -> None:
        crashes = self._goal.failures.crashes(self._settings, now)
        if crashes is self.crashes or self._goal.stop.order is not Order.RUN:
            return
        self.crashes = crashes
        if crashes is Crashes.NONE:
            log.warning("the crash loop is over")
            return
        count, window = len(self._goal.failures.young_deaths), self._settings.crash_window
        log.critical("crash loop: %d workers died young within %g s; the server is degraded", count, window)
        if self._settings.on_crash_loop == "exit":
            self.end_server(BootError(f"crash loop: {count} workers died young within {window:g} s"), now)


_RECENT = 15

_REMEMBERED = 16
"""Reasons of failed boots that are told once: workers fail alike, but a reason may have a time or a name in it."""
