"""How the server stops without losing anybody who has reached it.

Closing a listener resets every connection that waits in its accept queue. So the queues are emptied first, through the
workers, while no new connection can get in:

    delay     drain_delay seconds of business as usual, but that probes are told (`prefork.supervisor.readiness`) and
              kept connections end after their next answer, for load balancers to notice; a second order ends it
    gated     each listener of ours drops SYNs: new clients retry by themselves, handshakes under way complete. The
              workers go on as before, dead ones are replaced, until TCP_INFO shows an empty queue and sock_diag no
              handshake
    leaving   O_NONBLOCK on the listeners of ours, DRAIN to every worker: each accepts until there is nothing,
              finishes what it has, exits. The emptied listeners are shut down, so that a successor can have the port;
              not under a loop that is not ours, where the port is free when the last worker has left

``graceful_timeout`` bounds all of it; what was left then is counted in the log. A listener that outlives us (inherited)
is never gated, shut down or drained: its queue is the next one's. One that was given to us by somebody who has closed
it does not outlive us, and its queue is ours.

The policy carries out the order that is set here.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence

from prefork.config.settings import Settings
from prefork.net.listener import Listener
from prefork.scoreboard.layout import Order
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member
from prefork.supervisor.roster import Roster

log = logging.getLogger("prefork")

LOOK = 0.005
"""Seconds between two looks at a gated queue, at first; they grow to LOOK_MOST."""

LOOK_MOST = 0.05


class Phase(enum.Enum):
    """How far the stop has come."""

    NONE = "none"
    DELAY = "delay"
    GATED = "gated"
    LEAVING = "leaving"


class Drain:
    """The stop of one server.

    Args:
        loop: for deadlines.
        goal: whose order and deadline are set.
        roster: who lives.
        settings: graceful_timeout, quick_timeout, drain_delay in seconds, stop.
        listeners: the server's listeners.
        accepts: whether a worker takes connections by Worker.accept(), not in a loop of its own.
    """

    def __init__(
        self,
        loop: Loop,
        goal: Goal,
        roster: Roster,
        settings: Settings,
        listeners: Sequence[Listener],
        accepts: Callable[[Member], bool],
    ) -> None:
        self._loop = loop
        self._goal = goal
        self._roster = roster
        self._settings = settings
        self._listeners = listeners
        self._accepts = accepts
        self.phase = Phase.NONE
        self._deadline = 0.0
        self._look = LOOK

    @property
    def begun(self) -> bool:
        """Whether the server is going to end, whoever has ordered it."""
        return self.phase is not Phase.NONE or self._goal.stop.begun

    @property
    def _ours(self) -> list[Listener]:
        return [listener for listener in self._listeners if listener.owned]

    def gracefully(self) -> None:
        """Begin, or go on with, a stop that loses nobody; asked again, without what is left of drain_delay."""
        if self.phase is Phase.DELAY:
            log.info("stopping: asked again, so no more delay")
            self._begin()
        if self.phase is not Phase.NONE:
            return
        self._goal.rolled()
        if self._settings.drain_delay:
            log.info("stopping in %g s", self._settings.drain_delay)
            self.phase = Phase.DELAY
            self._loop.call_later(self._settings.drain_delay, self._begin)
        else:
            self._begin()

    def quickly(self) -> None:
        """Finish only what is in hand, and soon; the second time, not even that."""
        now = self._loop.clock.monotonic()
        if self._goal.stop.order is Order.QUIT:
            log.info("stopping at once")
            self._goal.stop.hasten(now)
        else:
            log.info("stopping: the connections in hand have %g s", self._settings.quick_timeout)
            self._goal.rolled()
            self._leave(Order.QUIT, now + self._settings.quick_timeout)

    def thawed(self, seconds: float) -> None:
        """The master was frozen, for ``seconds`` at the most: the queues have that much longer to be emptied."""
        self._deadline += seconds

    def _begin(self) -> None:
        """Begin with what the setting ``stop`` says, unless another order has come meanwhile."""
        if self.phase not in {Phase.NONE, Phase.DELAY}:
            return
        if self._settings.stop == "close":
            log.info("stopping: new connections are refused, those accepted are finished")
            self._leave(Order.SEAL, self._loop.clock.monotonic() + self._settings.graceful_timeout)
            self._loop.call_later(0, self._close_ours)
        else:
            self._gate()

    def _gate(self) -> None:
        self.phase = Phase.GATED
        self._deadline = self._loop.clock.monotonic() + self._settings.graceful_timeout
        for listener in self._listeners:
            listener.inherit()
        ours = self._ours
        log.info("stopping: %s", "emptying the accept queues" if ours else "the listeners stay")
        for listener in ours:
            listener.gate()
        self._look_at_queues()

    def _look_at_queues(self) -> None:
        """Leave when every queue of ours is proven empty, or when time is up."""
        if self.phase is not Phase.GATED:
            return
        now = self._loop.now
        if all(listener.empty() for listener in self._ours):
            for listener in self._ours:
                listener.nonblocking()
            self._leave(Order.DRAIN if self._ours else Order.SEAL, self._deadline)
            # At the next turn, when every worker has its order: accept fails with EINVAL after this.
            self._loop.call_later(0, self._shut_down_ours)
        elif now >= self._deadline:
            waiting = sum(listener.waiting() for listener in self._ours)
            log.warning("graceful_timeout: %d connections were still waiting to be accepted and are lost", waiting)
            self._leave(Order.SEAL, now)
        else:
            self._refill()
            self._loop.call_at(min(now + self._look, self._deadline), self._look_at_queues)
            self._look = min(self._look * 1.5, LOOK_MOST)

    def _refill(self) -> None:
        """A queue that is not empty needs somebody who serves it, also where workers have died young of late."""
        for slot in map(self._roster.slot, self._goal.slots):  # others have no queue any more
            if slot.incumbent is None and any(listener.waiting(slot.index) for listener in self._ours):
                self._roster.hurried(slot)

    def _leave(self, order: Order, deadline: float) -> None:
        self.phase = Phase.LEAVING
        self._goal.stop.begin(order, deadline)

    def _shut_down_ours(self) -> None:
        """Free the addresses, unless that would get in the way of another server's loop, which is still closing.

        To it, a listener that was shut down is ready all the time, and accept fails with an error that it doesn't know.
        """
        if not all(self._accepts(member) for member in self._roster if not member.starting):
            return
        for listener in self._ours:
            listener.shutdown()

    def _close_ours(self) -> None:
        for listener in self._ours:
            listener.close()
