"""What must hold of a server whenever it has had time to settle."""

from __future__ import annotations

import re
import time
from typing import Final

import psutil

from prefork.status.model import Status
from tests.storm.site import PATIENCE, Facts, Site

LOG_BYTES: Final = 64 * 1024
"""The most that one step may write to the log; a hundred rude clients and a dozen deaths are less."""

RSS_BYTES: Final = 16 << 20
"""How much the master's memory may grow in an episode; what a first reload or status imports is less."""

_TRACEBACK: Final = re.compile(r"^Traceback \(most recent call last\):\n(?:^[ \t].*\n)*^(.*)$", re.MULTILINE)
_ASKED_FOR: Final = (
    "RuntimeError: broken as asked",
    "ModuleNotFoundError: No module named 'nothing_of_that_name'",
    "SystemExit: 3",
    "SystemExit",
)
_WANT: Final = "OSError: [Errno 24] Too many open files"
_APPLICATION: Final = "storm/application.py"

_NEVER: Final = re.compile(r"^.*(?:CRITICAL|a defect of the server|was taken by somebody else).*$", re.MULTILINE)


class BrokenTruthError(AssertionError):
    """A server does not do as it promises."""


class Truths:
    """The truths about one server after the other at one site.

    Args:
        site: Where they are.

    Attributes:
        size: How many workers there are to be; None while the server chooses.
        growth: The most by which a master's memory has grown, in bytes.
        logged: What all servers have logged, in bytes.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self.size: int | None = None
        self.growth = 0
        self.logged = 0
        self._base: int | None = None
        self._rss: int | None = None
        self._log_at = 0
        self._before = 0

    def begin(self, sent: int) -> None:
        """A server has started.

        Args:
            sent: How many requests had been sent before; the server answers for those that came after.
        """
        arrangement = self._site.arrangement
        self.size = None if arrangement.elastic else arrangement.workers
        self._log_at = 0
        self._before = sent
        self._rss = None

    def hold(self, answered: int) -> None:
        """Wait until all of them hold at once.

        Args:
            answered: How many requests have been answered by now.

        Raises:
            BrokenTruthError: They don't, for longer than anything takes; or one is broken for good.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            late = time.monotonic() > deadline
            try:
                broken = self._broken(answered)
            except psutil.NoSuchProcess:
                raise self._error(["the master has ended"]) from None
            if not broken:
                break
            if late:
                raise self._error(broken)
            time.sleep(0.005)  # the facts lie in other processes
        self.look_at_log()

    def _broken(self, answered: int) -> list[str]:
        status = self._site.status()
        facts = self._site.facts()
        # What it costs is known of a server that is at rest: while a worker is missing, its descriptors are, too.
        return [*self._about_workers(status), *self._about_processes(status, facts)] or [
            *self._about_costs(status, facts),
            *self._about_sums(status, answered),
        ]

    def _about_workers(self, status: Status) -> list[str]:
        broken = []
        if status.state != "serving":
            broken.append(f"it is {status.state}")
        size = len(status.workers)
        if self.size is not None and status.size != self.size:
            broken.append(f"it wants {status.size} workers, not {self.size}")
        if self.size is None and not status.smallest <= status.size <= status.largest:
            broken.append(f"it wants {status.size} workers, out of {status.smallest} to {status.largest}")
        if size != status.size:
            broken.append(f"it has {size} workers, not {status.size}")
        if len({worker.slot for worker in status.workers}) != size:
            broken.append("two workers in a slot")
        broken += [
            f"worker {worker.slot} is {worker.state} {worker.reason}"
            for worker in status.workers
            if worker.state not in {"idle", "busy"}
        ]
        if status.exhaustions:
            broken.append(f"short of {status.exhaustions}")
        return broken

    def _about_processes(self, status: Status, facts: Facts) -> list[str]:
        broken = []
        known = sorted(worker.pid for worker in status.workers)
        if known != facts.children:
            broken.append(f"its roster has {known}, its children are {facts.children}")
        if facts.zombies:
            broken.append(f"zombies {facts.zombies}")
        if len(facts.molds) != self._site.arrangement.preload:
            broken.append(f"its molds are {facts.molds}")
        if facts.tree != sorted(
            [status.pid, *facts.molds, *known], key=lambda pid: (pid != self._site.server.process.pid, pid)
        ):
            broken.append(f"its session has {facts.tree}")
        return broken

    def _about_costs(self, status: Status, facts: Facts) -> list[str]:
        beside = status.size * self._site.arrangement.per_worker
        base = facts.descriptors - beside
        if self._base is None:
            # What asked for the status may not be closed there yet.
            looks = [self._site.facts() for _ in range(5)]
            self._base = min([base, *(look.descriptors - beside for look in looks if look.children == facts.children)])
        if base != self._base:
            return [f"the master has {base} descriptors beside its workers', not {self._base}"]
        if self._rss is None:
            self._rss = facts.rss
        self.growth = max(self.growth, facts.rss - self._rss)
        if facts.rss - self._rss > RSS_BYTES:
            return [f"the master's memory has grown from {self._rss >> 10} to {facts.rss >> 10} KiB"]
        return []

    def _about_sums(self, status: Status, answered: int) -> list[str]:
        """Whoever got an answer was counted by a worker, if only as one that it had in hand at its death."""
        totals = status.totals
        counted = totals.served + totals.failed + totals.interrupted
        if counted < answered - self._before:
            return [f"{counted} connections counted, {answered - self._before} answered"]
        return []

    def look_at_log(self) -> None:
        """See that the log is short and has no surprises.

        Raises:
            BrokenTruthError: It is not so.
        """
        log = self._site.server.log()
        new, self._log_at = log[self._log_at :], len(log)
        self.logged += len(new)
        broken = []
        if len(new) > LOG_BYTES:
            broken.append(f"{len(new)} characters logged in one step")
        broken += [f"logged: {match[1]}" for match in _TRACEBACK.finditer(new) if not _is_asked_for(match)]
        broken += [f"logged: {line}" for line in _NEVER.findall(new)]
        if broken:
            raise self._error(broken)

    def _error(self, broken: list[str]) -> BrokenTruthError:
        return BrokenTruthError("\n  ".join(["not true of the server:", *broken]))


def _is_asked_for(traceback: re.Match[str]) -> bool:
    """Whether a step has asked for it: by broken code, or by a limit of descriptors where the application is loaded."""
    return traceback[1] in _ASKED_FOR or (traceback[1].startswith(_WANT) and _APPLICATION in traceback[0])
