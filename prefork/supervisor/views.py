"""What services see of the supervisor's parts: to read, and not to change. The type checker holds them to it.

Each names what services need of a class beside it, attributes as properties without a setter and no method that tells
a fact. They show what is true now, at no cost; what a service wants to happen it asks `ServerView` for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from prefork.scoreboard.layout import EntryView, Order
from prefork.scoreboard.recorder import InHand
from prefork.supervisor.cause import Reason
from prefork.supervisor.death import Death
from prefork.supervisor.goal import Crashes
from prefork.supervisor.pressure import Exhaustion


class ListenerView(Protocol):
    """A listening socket (`prefork.net.listener.Listener`)."""

    @property
    def name(self) -> str:
        """Its address, as the log has it."""

    @property
    def limit(self) -> int:
        """How many may wait (count)."""

    def waiting(self) -> int:
        """How many wait (count)."""


class GoalView(Protocol):
    """What is wanted of the workers (`prefork.supervisor.goal.Goal`)."""

    @property
    def size(self) -> int:
        """How many are wanted."""

    @property
    def smallest(self) -> int:
        """The fewest that the settings allow."""

    @property
    def largest(self) -> int:
        """The most that the settings ask for."""

    @property
    def generation(self) -> int:
        """Of which generation."""

    @property
    def next(self) -> int:
        """The number of the generation after all that have had workers."""

    @property
    def coming(self) -> int:
        """The generation that there is to be, by all that has been asked for."""

    @property
    def reloads(self) -> bool:
        """Whether a reload is under way."""

    @property
    def ready(self) -> bool:
        """Whether the first generation has been complete once."""


class MemberView(Protocol):
    """A worker as the master knows it (`prefork.supervisor.member.Member`); times are monotonic seconds."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def slot(self) -> int:
        """Its slot."""

    @property
    def generation(self) -> int:
        """Its generation."""

    @property
    def born(self) -> float:
        """When it was forked."""

    @property
    def starting(self) -> bool:
        """Whether it has not said READY yet."""

    @property
    def order(self) -> Order:
        """What it was told last."""

    @property
    def reason(self) -> Reason | None:
        """Why it was told to leave, or is to be replaced."""

    @property
    def slow_at(self) -> float | None:
        """When it was asked what it does so slowly; None = nobody waits for that."""

    @property
    def dumped_at(self) -> float | None:
        """When it was asked for its tracebacks, since it seems to hang."""


class RosterView(Protocol):
    """Who lives (`prefork.supervisor.roster.Roster`)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[MemberView]: ...

    def get(self, pid: int) -> MemberView | None:
        """The worker with that pid."""

    def incumbent(self, index: int) -> MemberView | None:
        """Who serves in that slot, or starts to."""


class SpawnerView(Protocol):
    """What workers say of themselves (`prefork.supervisor.spawner.Spawner`)."""

    @property
    def most(self) -> int:
        """How many slots can be served."""

    def view(self, member: MemberView) -> EntryView:
        """All that a worker says of itself."""

    def in_hand(self, member: MemberView) -> tuple[InHand, ...]:
        """What a worker has in hand now."""

    def ask_for_tracebacks(self, pid: int) -> None:
        """Have a worker report the tracebacks of its threads."""

    def report(self, pid: int) -> str:
        """What it has reported and nobody has taken yet."""

    def take_report(self, pid: int) -> str:
        """What it has reported since the last call."""


class MoldView(Protocol):
    """One mold (`prefork.supervisor.molds.Mold`); times are monotonic seconds."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def generation(self) -> int:
        """Of its workers."""

    @property
    def born(self) -> float:
        """When it was forked."""

    @property
    def ready_at(self) -> float | None:
        """When it was READY; None before."""


class MoldsView(Protocol):
    """The molds (`prefork.supervisor.molds.Molds`)."""

    @property
    def current(self) -> MoldView | None:
        """The one of which workers are made."""

    @property
    def coming(self) -> MoldView | None:
        """One that loads."""

    @property
    def former(self) -> Sequence[MoldView]:
        """Those whose last workers live."""

    def report(self, pid: int) -> str | None:
        """What one has reported and nobody has taken yet; None when there is no such one."""

    def ask_for_tracebacks(self, pid: int) -> None:
        """Have one report the tracebacks of its threads."""

    def take_report(self, pid: int) -> None:
        """Forget it."""


class PressureView(Protocol):
    """What is short (`prefork.supervisor.pressure.Pressure`)."""

    @property
    def exhaustions(self) -> Mapping[int, Exhaustion]:
        """By the pid of who reported it."""


class ExitsView(Protocol):
    """How workers ended (`prefork.supervisor.exits.Exits`)."""

    @property
    def crashes(self) -> Crashes:
        """Whether there is a crash loop."""

    @property
    def recent(self) -> Sequence[Death]:
        """The last deaths, the latest behind."""
