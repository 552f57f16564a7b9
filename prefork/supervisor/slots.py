"""SO_REUSEPORT groups and the slots that come and go.

The kernel picks a member of the group when the SYN comes, whether or not anybody serves it, and resets its queue when
it is closed. So the master keeps every member; a worker accepts on its slot's, and a replacement finds what waits
there.

* While a slot has nobody who serves, new connections are steered to the others (in a group that is ours alone).
* A slot that goes is steered away from, gated, and served by its worker until its member is proven empty. Then the
  worker leaves, and then the member is closed.

Without a group nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prefork.errors import ListenError
from prefork.net.listener import Listener
from prefork.scoreboard.layout import Order
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Goal
from prefork.supervisor.roster import Roster

LOOK = 0.02
"""Seconds between two looks at the queue of a slot that goes."""


class SlotSockets:
    """The groups among a server's listeners.

    Args:
        loop: for deadlines.
        goal: whose ``draining`` slots are kept.
        roster: who lives.
        listeners: the server's listeners.
    """

    def __init__(self, loop: Loop, goal: Goal, roster: Roster, listeners: Sequence[Listener]) -> None:
        self._loop = loop
        self._goal = goal
        self._roster = roster
        self._listeners = listeners
        self._serving: frozenset[int] | None = None
        self._looking = False

    @property
    def _grouped(self) -> list[Listener]:
        return [listener for listener in self._listeners if listener.reuse_port]

    def resize(self, size: int) -> None:
        """Make members for the slots that come, and begin to empty those of the slots that go; before the size is set.

        Raises:
            ListenError: a new member can't be made; then none is.
        """
        if not self._grouped:
            return
        coming = range(self._goal.size, size)
        before = [(listener, set(listener.slots)) for listener in self._grouped]
        try:
            for listener, _ in before:
                listener.grow(size)
        except ListenError:
            for listener, slots in before:
                for slot in sorted(set(listener.slots) - slots, reverse=True):
                    listener.gate(slot)
                    listener.close_member(slot)
            raise
        for listener, _ in before:
            for slot in coming:
                listener.ungate(slot)  # it may have been told to go just now, and its member is not closed yet
        self._goal.let_go(coming)
        going = set(range(size, self._goal.size)) - self._goal.draining
        if going:
            self._goal.keep(going)
            self._empty(going)

    def _empty(self, going: Iterable[int]) -> None:
        """Begin to empty the members of these slots."""
        self._steer()
        for listener in self._grouped:
            for slot in going:
                listener.gate(slot)
        self._look()

    def changed(self) -> None:
        """Who serves has changed: a worker became READY, or is gone."""
        if not self._grouped or self._goal.stop.order is not Order.RUN:
            return
        self._close_empty()
        if self._goal.draining and not self._looking:
            self._empty(self._goal.draining)  # it was begun by the image before an upgrade; the exec has opened gates
        else:
            self._steer()

    def _steer(self) -> None:
        """Give new connections to slots that somebody serves and that stay."""
        members = {slot for listener in self._grouped for slot in listener.slots}
        serving = frozenset(
            slot.index
            for slot in self._roster.slots.values()
            if slot.incumbent is not None and not slot.incumbent.starting and slot.index not in self._goal.draining
        )
        serving &= members
        wanted = None if serving == members or not serving or not self._goal.ready else serving
        if wanted != self._serving:
            self._serving = wanted
            for listener in self._grouped:
                if wanted is None:
                    listener.unsteer()
                else:
                    listener.steer(wanted)

    def _look(self) -> None:
        """Let those slots go whose members are proven empty."""
        if self._looking or self._goal.stop.order is not Order.RUN:
            return
        empty = {slot for slot in self._goal.draining if all(listener.empty(slot) for listener in self._grouped)}
        self._goal.let_go(empty)
        if self._goal.draining:
            self._looking = True
            self._loop.call_later(LOOK, self._look_again)

    def _look_again(self) -> None:
        self._looking = False
        self._look()

    def _close_empty(self) -> None:
        """Close the members of slots that are gone."""
        for listener in self._grouped:
            for slot in sorted(listener.slots, reverse=True):
                left = self._roster.slots.get(slot)
                gone = slot >= self._goal.size and slot not in self._goal.draining
                if gone and (left is None or not any(left.members())):
                    listener.close_member(slot)
