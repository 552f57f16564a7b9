"""Whether the server is fit for new clients: decided by the master alone, told through the scoreboard's header."""

from __future__ import annotations

from collections.abc import Callable

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Fate, Readiness, Scoreboard
from prefork.supervisor.drain import Drain, Phase
from prefork.supervisor.goal import Goal
from prefork.supervisor.notifications import Notifier, Reloaded, ReloadFailed, Serving, Stopping, UpgradeFailed


class ReadinessJudge:
    """MASTER. Looks at each turn of the loop.

    Args:
        board: where workers read it.
        goal: whether the first generation is complete.
        drain: how far the stop has come.
        settings: which checks count.
        notifier: tells what becomes of reloads.
        fate: what would become of kept connections if the workers left now.
    """

    def __init__(
        self,
        board: Scoreboard,
        goal: Goal,
        drain: Drain,
        settings: Settings,
        notifier: Notifier,
        fate: Callable[[], Fate],
    ) -> None:
        self._board = board
        self._goal = goal
        self._drain = drain
        self._checks = settings.checks
        self._fate = fate
        self._reload_failed = False
        notifier.subscribe(Reloaded, lambda _: self._reloaded(failed=False))
        notifier.subscribe(ReloadFailed, lambda _: self._reloaded(failed=True))
        notifier.subscribe(UpgradeFailed, lambda _: self._reloaded(failed=True))
        # Before all others hear of it: a hook or a service manager may have somebody ask at once, and a hook may last.
        for kind in (Serving, Stopping, Reloaded, ReloadFailed, UpgradeFailed):
            notifier.subscribe(kind, lambda _: self.tell())

    @property
    def readiness(self) -> Readiness:
        """What is true now."""
        if self._drain.begun:
            delayed = self._drain.phase is Phase.DELAY and self._fate() is Fate.CLOSED
            return Readiness.DELAYED if delayed else Readiness.STOPPING
        if not self._goal.ready:
            return Readiness.STARTING
        if "exhausted" in self._checks and self._board.all_exhausted:
            return Readiness.EXHAUSTED
        if "reload" in self._checks and self._reload_failed:
            return Readiness.RELOAD_FAILED
        return Readiness.READY

    def tell(self) -> None:
        """Let workers know."""
        self._board.readiness = self.readiness

    def _reloaded(self, *, failed: bool) -> None:
        self._reload_failed = failed
