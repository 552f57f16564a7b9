"""A worker that fills the events pipe, and one that asks for its replacement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefork.scoreboard.events import EventKind

if TYPE_CHECKING:
    from tests.support.apps.probe import Probe
else:
    from probe import Probe  # beside this file, which is first on the import path where it is served


class Chatty(Probe):
    """Two ways to speak with the master, beside those of the probe."""

    def do_fill(self, *_: Any) -> int:
        for _record in range(100_000):
            self._entry.send_event(EventKind.LAST_IDLE)  # which means nothing to a server of fixed size
        return self.do_pid()

    def do_recycle(self, *_: Any) -> int:
        self.recycle()
        return self.do_pid()
