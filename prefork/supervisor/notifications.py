"""What happens in a server's life, one class for each, and the one way to be told of it: :class:`Notifier`.

The supervisor's parts subscribe to what concerns them; services are told all that :data:`Notification` lists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar, get_args

from prefork.scoreboard.events import Event
from prefork.scoreboard.layout import EntryView
from prefork.supervisor.cause import Reason
from prefork.supervisor.death import Death
from prefork.supervisor.goal import Renewal
from prefork.supervisor.member import Member
from prefork.supervisor.pressure import Exhaustion
from prefork.system.record import Record

_N = TypeVar("_N")


class Serving(Record):
    """The first generation of workers is complete."""


class WorkerReady(Record):
    """A worker accepts."""

    member: Member


class Reloading(Record):
    """A reload has begun, to this generation."""

    generation: int


class Reloaded(Record):
    """Every worker is of this generation."""

    generation: int


class ReloadFailed(Record):
    """A worker of this generation failed to boot; the old generation goes on."""

    generation: int
    reason: str
    """What the worker reported, or how it ended: one line or a traceback."""


class Reforked(Record):
    """Every worker is of this generation, which is of the same code as the one before (``refork_after``)."""

    generation: int


class ReforkFailed(Record):
    """There is no such generation; the one before it goes on."""

    generation: int
    reason: str
    """One line or a traceback."""


class UpgradeFailed(Record):
    """The new code was not executed; the old code goes on. Of one that succeeds nobody here can be told."""

    reason: str


class Scaled(Record):
    """Another number of workers is wanted."""

    size: int


class Stopping(Record):
    """The server is going to end. Told once."""


class Died(Record):
    """A worker is gone."""

    death: Death
    last: EntryView
    """Its entry, as it left it."""
    report: str = ""
    """What it reported of its boot."""


class Exhausted(Record):
    """Descriptors or memory have run out, or that is over."""

    exhaustion: Exhaustion


Notification = (
    Serving
    | WorkerReady
    | Reloading
    | Reloaded
    | ReloadFailed
    | Reforked
    | ReforkFailed
    | UpgradeFailed
    | Scaled
    | Stopping
    | Died
    | Exhausted
)
"""What services are told."""


def not_renewed(why: Renewal, generation: int, reason: str) -> ReloadFailed | ReforkFailed:
    """There is no generation that was to replace all workers.

    Args:
        why: it was to.
        generation: which.
        reason: one line or a traceback.
    """
    return (ReloadFailed if why is Renewal.RELOAD else ReforkFailed)(generation, reason)


class RecycleRequested(Record):
    """A worker wants to be replaced."""

    member: Member
    reason: Reason


class PressureTold(Record):
    """A worker says that it is exhausted, or is no more."""

    member: Member
    event: Event


class LastIdleTaken(Record):
    """The last idle worker has taken a connection."""


class EventsLost(Record):
    """Workers may have told something that did not arrive: it stands in the scoreboard."""


class Notifier:
    """Tells whoever has subscribed, in the order of subscriptions; one notification after the other."""

    def __init__(self) -> None:
        self._subscribers: dict[type, list[Callable[..., object]]] = {}
        self._waiting: deque[object] = deque()
        self._telling = False

    def subscribe(self, kind: type[_N], callback: Callable[[_N], object]) -> None:
        """Have ``callback`` called with each notification of that kind."""
        self._subscribers.setdefault(kind, []).append(callback)

    def subscribe_to_all(self, callback: Callable[[Notification], object]) -> None:
        """Have ``callback`` called with whatever services are told."""
        for kind in get_args(Notification):
            self.subscribe(kind, callback)

    def notify(self, notification: object) -> None:
        """Tell of what has happened; what happens because of it is told when everybody knows of this."""
        self._waiting.append(notification)
        if self._telling:
            return
        self._telling = True
        try:
            while self._waiting:
                told = self._waiting.popleft()
                for callback in self._subscribers.get(type(told), ()):
                    callback(told)
        finally:
            self._telling = False
