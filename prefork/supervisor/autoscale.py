"""How many workers there should be between ``min_workers`` and ``max_workers``.

Grow while connections wait and nobody is idle, in doubling steps, each when the last step's workers serve. With
``scale_queue_time`` that is not as soon as one waits, but when requests wait for so long: by what the kernel says of
those that were taken lately, on kept connections as well, which are in no accept queue; and where nothing was taken, or
nobody knows, by how long an accept queue has not been empty.

Shrink by as many workers as were idle at every moment of the last ``idle_timeout`` seconds: so a load that comes and
goes within that time changes nothing, and a smaller number would have been enough throughout.

:class:`Sizer` decides that, fed with samples; :class:`Autoscaler` takes them, and sleeps while nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefork.config.settings import Settings
from prefork.net.listener import Listener
from prefork.scoreboard.layout import Order
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Goal
from prefork.supervisor.member import Member
from prefork.supervisor.roster import Roster
from prefork.supervisor.spawner import Spawner
from prefork.system.record import Record

LOOK = 0.1
"""Seconds between two samples while there is something to do."""

HELD_LOOK = 1.0
"""Seconds until the load is looked at again after forks were found to be held."""


class Sample(Record):
    """The load at one moment."""

    size: int
    """How many workers are wanted at present."""
    serving: int
    """How many of them are READY."""
    busy: int
    """How many of them have something in hand."""
    waiting: int
    """Connections in the accept queues."""
    finished: int
    """Connections finished since the start, by all workers; only whether it changes matters."""
    lanes_left: int = 0
    """How many of the busy ones can take more."""
    waited: float | None = None
    """For how long those had waited that were taken since the sample before, on average, seconds; None where nothing
    was taken, or nobody knows."""

    @property
    def full(self) -> int:
        """How many of them can take no more."""
        return self.busy - self.lanes_left


class Sizer:
    """One server's size.

    Args:
        smallest: the fewest workers (count).
        largest: the most workers (count).
        idle_timeout: seconds.
        queue_time: how long requests may wait before it grows, seconds; 0 for not at all.
    """

    def __init__(self, smallest: int, largest: int, idle_timeout: float, queue_time: float = 0.0) -> None:
        self._smallest = smallest
        self._largest = largest
        self._idle_timeout = idle_timeout
        self._queue_time = queue_time
        self._queue_since: float | None = None
        self._step = 1
        self._window: float | None = None
        self._spare = 0
        self._finished = 0
        self._resting = False
        self._watched = False  # whether this window is looked at all the time, though nothing may happen in it

    def observe(self, sample: Sample, now: float) -> tuple[int, float | None]:
        """Take a sample.

        Args:
            sample: the load.
            now: monotonic seconds.

        Returns:
            The wanted size, and when to sample again: None when there is no need until a worker takes the last idle
            place.
        """
        active = bool(sample.busy or sample.waiting or sample.finished != self._finished)
        self._finished = sample.finished
        size = self._grown(sample, now)
        spare = 0 if sample.waiting else sample.size - sample.busy
        if active and self._resting:
            # It may be so again, in every window of a load that comes now and then: the next one is watched.
            self._window, self._watched = None, True
        if size > sample.size or spare == 0:
            self._window = None
        if self._window is None and spare:
            self._window, self._spare = now, spare
        self._spare = min(self._spare, spare)
        if self._window is not None and now - self._window >= self._idle_timeout:
            size = max(self._smallest, sample.size - self._spare)
            self._window, self._spare, self._watched = now, max(size - sample.busy, 0), False
        looks_on = active or self._watched
        self._resting = not looks_on
        if looks_on and (size > self._smallest or sample.full >= sample.size):
            return size, now + LOOK
        if size > self._smallest and self._window is not None:
            # Nothing happens: no need to look before the window closes.
            return size, self._window + self._idle_timeout
        self._window, self._watched = None, False
        return size, None

    def _presses(self, sample: Sample, now: float) -> bool:
        """Whether those who wait do so for too long."""
        if not sample.waiting:
            self._queue_since = None
        elif self._queue_since is None:
            self._queue_since = now
        if not self._queue_time:
            return sample.waiting > 0
        if sample.waited is not None:
            return sample.waited > self._queue_time
        return self._queue_since is not None and now - self._queue_since > self._queue_time

    def _grown(self, sample: Sample, now: float) -> int:
        presses = self._presses(sample, now)
        if not presses or sample.full < sample.serving:
            self._step = 1
            return sample.size
        if sample.serving < sample.size:
            return sample.size  # the last step's workers are still starting
        size = min(self._largest, sample.size + self._step)
        self._step *= 2
        return size


class Waits:
    """How long requests wait, by sums that grow."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[int, int]] = {}

    def mean(self, sums: dict[int, tuple[int, int]]) -> float | None:
        """That of the requests since the last call, seconds; None if there were none.

        Args:
            sums: by pid, how many requests were taken so far, and how many ms they had waited together.
        """
        before, self._before = self._before, sums
        grown = [
            (taken - before[pid][0], waited - before[pid][1]) for pid, (taken, waited) in sums.items() if pid in before
        ]
        taken = sum(one for one, _ in grown)
        return sum(waited for _, waited in grown) / taken / 1000 if taken > 0 else None


class Autoscaler:
    """Keeps the size between ``min_workers`` and ``max_workers``, by the load.

    A worker that takes the last idle place says so; samples are taken from then on until nothing is to be decided.

    Args:
        loop: for deadlines.
        settings: idle_timeout and scale_queue_time in seconds.
        goal: whose size is kept.
        roster: who lives.
        spawner: says what workers say of themselves.
        listeners: whose accept queues are looked at.
        scale: called with another size.
    """

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        goal: Goal,
        roster: Roster,
        spawner: Spawner,
        listeners: Sequence[Listener],
        scale: Callable[[int], object],
    ) -> None:
        self._loop = loop
        self._goal = goal
        self._roster = roster
        self._spawner = spawner
        self._listeners = listeners
        self._scale = scale
        self._lanes = settings.threads
        self._waits: Waits | None = Waits() if settings.scale_queue_time else None
        self._sizer = Sizer(goal.smallest, goal.largest, settings.idle_timeout, settings.scale_queue_time)
        self._timer = loop.call_later(settings.idle_timeout, self.look_at_load)

    def _waited(self, member: Member) -> tuple[int, int]:
        lanes = self._spawner.view(member).lanes
        return sum(sum(lane.waited) for lane in lanes), sum(lane.waited_total for lane in lanes)

    def look_at_load(self) -> None:
        """Take a sample, now."""
        self._timer.cancel()
        if self._goal.stop.order is not Order.RUN:
            return
        if self._goal.forks.shut or not self._goal.ready:  # who is idle before all serve is so for want of clients
            self._timer = self._loop.call_later(HELD_LOOK, self.look_at_load)
            return
        now = self._loop.clock.monotonic()
        incumbents = [slot.incumbent for slot in self._roster.slots.values() if slot.incumbent is not None]
        serving = [member for member in incumbents if not member.starting and member.order is Order.RUN]
        in_hand = [len(self._spawner.vital(member).in_hand) for member in serving]
        sample = Sample(
            size=self._goal.size,
            serving=len(serving),
            busy=sum(count > 0 for count in in_hand),
            waiting=sum(listener.waiting() for listener in self._listeners),
            finished=sum(self._spawner.finished(member) for member in serving),
            lanes_left=sum(0 < count < self._lanes for count in in_hand),
            waited=None if self._waits is None else self._waits.mean({m.pid: self._waited(m) for m in serving}),
        )
        size, again = self._sizer.observe(sample, now)
        if size != self._goal.size:
            self._scale(size)
        if again is not None:
            self._timer = self._loop.call_at(again, self.look_at_load)
