"""What a worker says of itself to whoever looks after it, beyond what the loops mark by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from prefork.accept.idle_work import IdleWork
from prefork.accept.worker_context import WorkerContext
from prefork.scoreboard.entry import Entry, Lane, Pause


class WorkerMarks:
    """What a `prefork.Worker` can say, from its :meth:`init` on."""

    labels: ClassVar[bool] = False
    """Whether handle() says of each connection what it is about; else the usual loop notes its peer."""

    _given: WorkerContext
    _entry: Entry

    def label(self, text: str) -> None:
        """Say what the connection in hand is about, in a few words: a command, the number of a job. No secrets.

        It is noted where it outlives this process: the log names it when this worker is killed, and ``prefork status
        --requests`` and ``top`` show it meanwhile. For :meth:`handle`, and for loops with one connection at a time.

        Args:
            text: 188 bytes of it, in UTF-8, are noted. With ``record_requests`` off nothing is.
        """
        lane = self._entry.here
        if lane is not None and lane.recorder is not None:
            lane.recorder.label(text)

    def extend_deadline(self, seconds: float) -> None:
        """Ask for ``seconds`` more, from now, before ``timeout`` takes the connection in hand for a hang."""
        self._entry.extend_deadline(seconds)

    def idle(self) -> Pause:
        """For an event loop: a context manager for its wait. All that it does outside of it counts as busy.

        So a call that blocks the loop for longer than ``timeout`` is taken for a hang. To be used by one thread, again
        and again, and not along with :meth:`busy`.
        """
        return Pause(self._entry, tell=self._given.elastic)

    def _told_of_connections(self, lane: Lane) -> Callable[[Any], object] | None:
        """Who is told of each connection that a lane has in hand, by its peer's address; None for nobody."""
        recorder = None if self.labels else lane.recorder
        note = None if recorder is None else recorder.connection
        if not self._given.elastic:
            return note
        tell = self._entry.tell_when_nobody_is_idle

        def told(address: Any) -> None:
            tell()
            if note is not None:
                note(address)

        return told

    def _idle_work(self) -> IdleWork | None:
        """What is done between two connections; None for nothing."""
        given = self._given
        hooks = given.hooks
        hook = None if hooks is None or hooks.on_idle is None else lambda: hooks.call("on_idle", self)
        collects = given.settings.gc == "idle"
        if hook is None and not collects:
            return None
        return IdleWork(given.entry, max(1, given.workers // 4), collects=collects, hook=hook)
