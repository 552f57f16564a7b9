"""The squall: several things in a row, none of which is waited for."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Sequence

from prefork.testing.faults import first
from tests.storm.site import Site


class Squall:
    """What can be done to a server quickly; each thing is given a child of the master, or 0 when it has none.

    Args:
        site: Where the server is.
        resizes: Whether the size may be changed by signals.

    Attributes:
        things: What can be done, by name.
        victims: Whom it has killed.
    """

    def __init__(self, site: Site, *, resizes: bool) -> None:
        self._site = site
        self._frozen: list[int] = []
        self.victims: set[int] = set()
        self.things: dict[str, Callable[[int], object]] = {
            "reload": lambda _: site.server.signal(signal.SIGHUP),
            "upgrade": lambda _: site.server.signal(signal.SIGUSR2),
            "kill": self._kill,
            "terminate": lambda pid: kill([pid], signal.SIGTERM),
            "freeze": self._freeze,
            "freeze the master": lambda _: self._freeze(site.server.pid),
            "thaw": lambda _: self._thaw(),
            "nothing": lambda _: None,
        }
        if resizes:
            self.things["grow"] = lambda _: site.server.signal(signal.SIGTTIN)
            self.things["shrink"] = lambda _: site.server.signal(signal.SIGTTOU)
        if site.arrangement.preload:
            self.things["kill the molds"] = lambda _: kill(site.server.molds(), signal.SIGKILL)
        if site.faults is not None:
            for name in ("accept", "fork", "pidfd_open"):
                self.things[f"fail {name}"] = lambda _, name=name: self._fail(name)  # type: ignore[misc]  # mypy can't infer a lambda with a default

    def _kill(self, pid: int) -> None:
        if pid:
            self.victims.add(pid)
            kill([pid], signal.SIGKILL)

    def _freeze(self, pid: int) -> None:
        self._frozen.append(pid)
        kill([pid], signal.SIGSTOP)

    def _thaw(self) -> None:
        kill(self._frozen, signal.SIGCONT)
        self._frozen.clear()

    def _fail(self, name: str) -> None:
        assert self._site.faults is not None
        self._site.faults.fail(name, first(3, errno.ENOMEM))

    def over(self) -> None:
        """Nobody is frozen and nothing fails any more."""
        self._thaw()
        if self._site.faults is not None:
            self._site.faults.release()


def kill(pids: Sequence[int], signum: int) -> None:
    """Send a signal to those who are still there; 0 is nobody, and not our own process group."""
    for pid in filter(None, pids):
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue
