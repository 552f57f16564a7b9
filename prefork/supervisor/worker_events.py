"""What workers tell through the events pipe, made into facts of the roster and notifications."""

from __future__ import annotations

from collections.abc import Callable

from prefork.scoreboard.events import Event, EventKind, EventsPipe, Why
from prefork.scoreboard.layout import Order, State
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.member import Member
from prefork.supervisor.notifications import (
    EventsLost,
    LastIdleTaken,
    Notifier,
    PressureTold,
    RecycleRequested,
    WorkerReady,
)
from prefork.supervisor.roster import Roster
from prefork.supervisor.spawner import Spawner


class WorkerEvents:
    """The records of one server's workers.

    Args:
        loop: tells that there are some.
        pipe: where they come from.
        roster: is fed the facts.
        spawner: reads what workers say of themselves, where a record may have been lost.
        notifier: tells of them.
        settle: called before records are looked at: it takes note of workers who have been born meanwhile.
        listener_lost: called when a worker can't accept any more; whether the server ends for it.
    """

    def __init__(
        self,
        loop: Loop,
        pipe: EventsPipe,
        roster: Roster,
        spawner: Spawner,
        notifier: Notifier,
        settle: Callable[[], object],
        listener_lost: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._pipe = pipe
        self._roster = roster
        self._spawner = spawner
        self._notifier = notifier
        self._settle = settle
        self._listener_lost = listener_lost
        loop.register(pipe.reader, self._read)

    def _read(self) -> None:
        events, overflowed = self._pipe.read()
        self._settle()  # after the read: who tells something was born before
        for event in events:
            member = self._roster.get(event.pid)
            if member is not None and member.entry == event.entry:
                self._take(member, event)
        if overflowed:
            self._notifier.notify(EventsLost())
            for member in self._roster:
                if member.starting and self._spawner.state(member) == State.SERVING:
                    self._ready(member)
                self._recycle(member, self._spawner.recycle_request(member))

    def _take(self, member: Member, event: Event) -> None:
        match event.kind:
            case EventKind.READY if member.starting:
                self._ready(member)
            case EventKind.RECYCLE_ME:
                self._recycle(member, event.value)
            case EventKind.EXHAUSTED | EventKind.RELIEVED:
                self._notifier.notify(PressureTold(member, event))
            case EventKind.LAST_IDLE:
                self._notifier.notify(LastIdleTaken())
            case _:
                pass

    def _ready(self, member: Member) -> None:
        self._roster.ready(member, self._loop.clock.monotonic())
        self._notifier.notify(WorkerReady(member))

    def _recycle(self, member: Member, request: int) -> None:
        """A worker wants to be replaced, for the reason of that number; 0 = it does not."""
        if not request or member.order is not Order.RUN or member.wanted:
            return
        why = Why(request) if request in list(Why) else Why.ASKED
        if why is Why.LISTENER_LOST and self._listener_lost():
            return
        reason = Reason(Cause.of_request(why))
        self._notifier.notify(RecycleRequested(member, reason))
        self._roster.wanted(member, reason)
