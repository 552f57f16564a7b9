"""What services are told of a server's life: one class for each thing that happens."""

from __future__ import annotations

from dataclasses import dataclass

from prefork.scoreboard.layout import EntryView
from prefork.supervisor.pressure import Exhaustion
from prefork.supervisor.roster import Death, Member


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
    last: EntryView


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Descriptors or memory have run out, or that is over."""

    exhaustion: Exhaustion


Notification = (
    Serving | WorkerReady | Reloading | Reloaded | ReloadFailed | UpgradeFailed | Scaled | Stopping | Died | Exhausted
)
