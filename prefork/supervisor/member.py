"""A worker as the master knows it, and the slot that it lives in. Plain facts; only the roster writes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from prefork.scoreboard.layout import Order
from prefork.supervisor.cause import Reason
from prefork.system.record import MutableRecord, fresh

_RUN = Order.RUN


class Member(MutableRecord):
    """One worker as the master knows it."""

    pid: int
    slot: int
    entry: int
    generation: int
    born: float
    ready_at: float | None = None
    order: Order = Order.RUN
    deadline: float | None = None
    """When a retiring worker is killed; None = it may take its time."""
    reason: Reason | None = None
    """Why it was told to leave, or is to be replaced."""
    wanted: bool = False
    """Whether a replacement has been asked for."""
    unsaid: bool = False
    """Whether the log has no room for what it asks, and so none for the end that comes of it."""
    turn: int = 0
    """Among those who have been asked for, whose replacement comes first: the lowest."""
    wake_ups: int = 0
    woken_at: float = 0.0
    slow_since: float | None = None
    """Since when it was busy with what was slow the last time; None = nothing was yet."""
    slow_at: float | None = None
    """When it was asked what it does so slowly; None = nobody waits for that."""
    dumped_at: float | None = None
    aborted_at: float | None = None
    aborts: int = 0
    abort_sent_at: float = 0.0
    questioned: bool = False
    """Whether it was asked what keeps it from its end."""
    killed_at: float | None = None

    @property
    def calm(self) -> bool:
        """Whether it serves, and nothing that it was asked for or told has a moment of its own."""
        return self.order is _RUN and self.dumped_at is None and self.slow_at is None and self.ready_at is not None

    @property
    def starting(self) -> bool:
        """Whether it has not said READY yet."""
        return self.ready_at is None


class Slot(MutableRecord):
    """A worker's stable place."""

    index: int
    incumbent: Member | None = None
    successor: Member | None = None
    retiring: list[Member] = fresh(factory=list)
    expected: bool = False
    """Whether somebody has been asked for a worker who is to live here, and has not been born."""
    young_deaths: int = 0
    """In a row; the respawn delay grows with it."""
    not_before: float = 0.0
    """No fork into this slot before that moment."""

    def members(self) -> Iterator[Member]:
        """Everybody who lives in this slot."""
        if self.incumbent is not None:
            yield self.incumbent
        if self.successor is not None:
            yield self.successor
        yield from self.retiring


Role = Literal["incumbent", "successor", "retiring"]
"""A worker's place in its slot."""
