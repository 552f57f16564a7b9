"""Windows: what looks into the master from outside, and how it is told what happens.

A control socket, the service manager's notifications, a pidfile: each is a :class:`Window`. Windows register with the
master, which knows none of them. It attaches them when it has all that it needs to fork, tells them the news, and
detaches them at the end. A window registers descriptors and deadlines with the loop and asks for things through
:class:`Inside`; like everything in the master it never blocks. What it raises is logged and harms nobody, except at
the start: there a window that can't do its work ends the run.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prefork.config.settings import Settings
from prefork.errors import PreforkError
from prefork.net.listener import Listener
from prefork.scoreboard.layout import View
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.exits import Deaths
from prefork.supervisor.policy import Goal
from prefork.supervisor.pressure import Pressure, Shortage
from prefork.supervisor.roster import Death, Member, Roster
from prefork.supervisor.spawner import Spawner
from prefork.system.throttle import Notice

log = logging.getLogger("prefork")


@dataclass(frozen=True, slots=True)
class Serving:
    """The first generation of workers is complete."""


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker accepts."""

    member: Member


@dataclass(frozen=True, slots=True)
class Reloading:
    """A reload has begun, to this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Every worker is of this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReloadFailed:
    """A worker of this generation failed to boot; the old generation goes on."""

    generation: int
    reason: str
    """What the worker reported, or how it ended: one line or a traceback."""


@dataclass(frozen=True, slots=True)
class UpgradeFailed:
    """The new code was not executed; the old code goes on. Of one that succeeds nobody here can be told."""

    reason: str


@dataclass(frozen=True, slots=True)
class Scaled:
    """Another number of workers is wanted."""

    size: int


@dataclass(frozen=True, slots=True)
class Stopping:
    """The server is going to end. Told once."""


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone; ``last`` is its entry as it left it."""

    death: Death
    last: View


@dataclass(frozen=True, slots=True)
class Short:
    """Descriptors or memory have run out, or that is over."""

    shortage: Shortage


News = Serving | WorkerReady | Reloading | Reloaded | ReloadFailed | UpgradeFailed | Scaled | Stopping | Died | Short


@dataclass(frozen=True, slots=True)
class Inside:
    """What a window sees of the master and may ask of it. What it asks for takes effect at the loop's next turn.

    Attributes:
        settings: the settings.
        loop: for descriptors and deadlines; what a callback raises is logged, and it is called again after a while.
        goal: what is wanted of the workers; not for a window to change.
        roster: who lives; a window may have somebody replaced (``wanted``).
        listeners: the listening sockets.
        spawner: what workers say of themselves.
        pressure: what is short.
        deaths: the last ones, and whether there is a crash loop.
        stopping: whether the server is going to end.
        reload: replace every worker by one of the next generation. False when the server stops.
        upgrade: execute the new code in this process, and then replace every worker. False when it starts or stops.
        scale: run another number of workers; returns the number that is wanted now.
        stop: end the server, losing nobody.
        quit: end it soon; the second time, at once.
    """

    settings: Settings
    loop: Loop
    goal: Goal
    roster: Roster
    listeners: Sequence[Listener]
    spawner: Spawner
    pressure: Pressure
    deaths: Deaths
    stopping: Callable[[], bool]
    reload: Callable[[], bool]
    upgrade: Callable[[], bool]
    scale: Callable[[int], int]
    stop: Callable[[], None]
    quit: Callable[[], None]


class Window:
    """Something that looks into the master. Override what is needed; by itself it does nothing."""

    def attach(self, inside: Inside) -> None:
        """MASTER. The listeners are open and nobody has been forked yet.

        Raises:
            PreforkError: it can't do its work; the server does not start.
        """

    def told(self, news: News) -> None:
        """MASTER. Something has happened."""

    def after_fork(self, slot: int, generation: int) -> None:
        """WORKER, before anything of the application's runs: close what is the master's alone."""

    def save(self) -> object:
        """MASTER. What the same window is to know in the image after an upgrade, as JSON has it; None = nothing."""
        return None

    def restore(self, saved: object) -> None:
        """MASTER, after :meth:`attach`. What the window of the image before has saved; of another release, perhaps."""

    def detach(self) -> None:
        """MASTER. The workers are gone; give everything back. Called once for each that attached."""


class Windows:
    """MASTER. All windows of one server.

    Args:
        windows: those that are to be attached, in order.
    """

    def __init__(self, windows: Iterable[Window]) -> None:
        self._windows = list(windows)
        self._attached: list[Window] = []
        self._notice = Notice(log)

    def attach(self, inside: Inside, saved: str | None) -> None:
        """Attach all of them; :meth:`detach` gives back what was attached when one fails.

        Args:
            inside: the master.
            saved: what :meth:`save` gave in the image before an upgrade; None without one. After an upgrade a window
                that can't do its work is done without: the server serves already.
        """
        for window in self._windows:
            try:
                window.attach(inside)
            except (PreforkError, OSError) as error:
                if saved is None:
                    raise
                log.error("after the upgrade: %s does without: %s", type(window).__name__, error)
            else:
                self._attached.append(window)
        if saved is not None:
            self._restore(saved)

    def _restore(self, saved: str) -> None:
        try:
            data = json.loads(saved)
            for window in self._attached:
                name = type(window).__name__
                if name in data:
                    window.restore(data[name])
        except Exception as error:  # noqa: BLE001  # of another release it may be anything, and the server serves already
            log.warning("what the code before the upgrade has counted can't be read: %s", error)

    def save(self) -> str:
        """What all of them pass on to the next image."""
        found = {type(window).__name__: self._saved(window) for window in self._attached}
        return json.dumps({name: data for name, data in found.items() if data is not None})

    @staticmethod
    def _saved(window: Window) -> object:
        try:
            data = window.save()
            json.dumps(data)
        except Exception:  # the next image begins anew with it, and that is all
            log.exception("%s failed to pass on what it knows", type(window).__name__)
            return None
        return data

    def tell(self, news: News) -> None:
        """Tell all of them."""
        for window in self._attached:
            try:
                window.told(news)
            except BaseException as error:  # noqa: BLE001  # a broken window must not end the server, with sys.exit() neither
                name = type(window).__name__
                self._notice.tell(
                    logging.ERROR,
                    (name, type(news), type(error)),
                    "%s failed to take note of %s:\n%s",
                    name,
                    news,
                    "".join(traceback.format_exception(error)).rstrip(),
                )

    @property
    def after_fork(self) -> tuple[Callable[[int, int], object], ...]:
        """What a WORKER has to call, with its slot and generation: :meth:`Window.after_fork` of those that have one."""
        return tuple(window.after_fork for window in self._attached if type(window).after_fork is not Window.after_fork)

    def detach(self) -> None:
        """Detach those that attached, the last one first. Idempotent."""
        while self._attached:
            window = self._attached.pop()
            try:
                window.detach()
            except Exception:  # the others have something to give back as well
                log.exception("%s failed to end", type(window).__name__)
