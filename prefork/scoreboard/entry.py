"""A worker's own side of the scoreboard: what it reads of its master there, what it says of itself.

The master makes the :class:`Entry` before the fork; all else here runs in the WORKER. The words' meaning and their
writers stand in :mod:`prefork.scoreboard.layout`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prefork.scoreboard import layout
from prefork.scoreboard.events import EventKind, EventsPipe, Why
from prefork.scoreboard.lanes import busy, full
from prefork.scoreboard.layout import (
    ACCEPTS,
    BUCKET_SHIFT,
    BUCKETS,
    BUSY_LONGEST,
    BUSY_SINCE,
    BUSY_TOTAL,
    DEADLINE,
    FAILED,
    HISTOGRAM,
    IDLE_SINCE,
    ORDER,
    SERVED,
    STATE,
    STATE_SINCE,
    THREAD,
    WAIT_BUCKETS,
    WAIT_SHIFT,
    WAITED,
    WAITED_TOTAL,
    Accepts,
    Order,
    Scoreboard,
    State,
)
from prefork.scoreboard.recorder import FlightRecorder
from prefork.scoreboard.stances import Stances
from prefork.system.natives import os, threading, time

eventfd_write = os.eventfd_write
getpid = os.getpid
getppid = os.getppid

_LANE, _LANE_WORDS = layout.LANE, layout.LANE_WORDS
_ORDERS = tuple(Order)
_RUN, _SEAL = Order.RUN, Order.SEAL
_SERVING = int(State.SERVING)
_LAST_BUCKET = BUCKETS - 1
_LAST_WAIT = WAIT_BUCKETS - 1
_TELL_INTERVAL = 100_000_000  # ns
_EVER = 1e9  # seconds, some thirty years


class Lane:
    """The marks of one accepting thread.

    This is on the path of every connection. Counters live here and are stored, never read back: a word in shared memory
    that is written and never read by its writer costs one store.

    Args:
        words: this lane's words of the scoreboard.
        recorder: where to note what is in hand; None notes nothing.
    """

    __slots__ = (
        *("words", "recorder", "served", "failed", "total", "longest", "histogram", "waited", "waited_total"),
        *("unusual", "asked"),
    )

    def __init__(self, words: memoryview[int], recorder: FlightRecorder | None = None) -> None:
        self.words = words
        self.recorder = recorder
        self.served = 0
        self.failed = 0
        self.total = 0
        self.longest = 0
        self.histogram = [0] * BUCKETS
        self.waited = [0] * WAIT_BUCKETS
        self.waited_total = 0
        self.unusual = False
        """Whether what is in hand has a deadline of its own, or is not to be counted: one look for what is rare."""
        self.asked = True
        """Whether what is in hand is to be counted."""

    def begin(self) -> int:
        """Mark this lane busy from now on; returns the moment (monotonic ns), to be given to :meth:`end`."""
        now = self.words[BUSY_SINCE] = time.monotonic_ns()
        return now

    @property
    def began(self) -> int:
        """When this lane became busy; 0 when it is idle."""
        return self.words[BUSY_SINCE]

    def end(self, began: int, failed: bool) -> int:
        """Mark this lane idle and count what was in hand; returns how long it took (ns)."""
        words = self.words
        now = words[IDLE_SINCE] = time.monotonic_ns()
        took = now - began
        if self.unusual and self._forgets(failed):
            words[BUSY_SINCE] = 0
            return took
        if failed:
            self.failed = words[FAILED] = self.failed + 1
        else:
            self.served = words[SERVED] = self.served + 1
        self.total = words[BUSY_TOTAL] = self.total + took
        if took > self.longest:
            self.longest = words[BUSY_LONGEST] = took
        bucket = (took >> BUCKET_SHIFT).bit_length()
        if bucket > _LAST_BUCKET:  # min() would cost as much as the stores
            bucket = _LAST_BUCKET
        self.histogram[bucket] = words[HISTOGRAM + bucket] = self.histogram[bucket] + 1
        words[BUSY_SINCE] = 0
        return took

    def unasked(self) -> None:
        """Nothing has been asked for by what is in hand: it is not counted when it ends well."""
        self.unusual, self.asked = True, False

    def _forgets(self, failed: bool) -> bool:
        """What is in hand is no more, nor what was unusual about it; whether it is not to be counted."""
        uncounted = not (self.asked or failed)
        self.unusual, self.asked = False, True
        self.words[DEADLINE] = 0
        return uncounted

    def say_waited(self, milliseconds: int) -> None:
        """Count how long what is in hand had waited for this lane."""
        bucket = (milliseconds >> WAIT_SHIFT).bit_length()
        if bucket > _LAST_WAIT:
            bucket = _LAST_WAIT
        self.waited[bucket] = self.words[WAITED + bucket] = self.waited[bucket] + 1
        if milliseconds:
            self.waited_total = self.words[WAITED_TOTAL] = self.waited_total + milliseconds

    def extend_deadline(self, seconds: float) -> None:
        """Ask for a deadline of one's own; see :meth:`Entry.extend_deadline`."""
        self.words[DEADLINE] = time.monotonic_ns() + int(max(0.0, min(seconds, _EVER)) * 1e9)
        self.unusual = True

    @contextlib.contextmanager
    def busy_with(self, label: str) -> Iterator[None]:
        """For what is no connection, and is not counted: mark this lane busy within the block."""
        self.begin()
        if self.recorder is not None:
            self.recorder.label(label)
        try:
            yield
        finally:
            self.words[BUSY_SINCE] = 0

    def count(self) -> None:
        """Count a connection as served of which nobody will tell how long it took."""
        self.served = self.words[SERVED] = self.served + 1


class LaneOfThread(threading.local):
    """The lane whose thread asks; None in a thread that is nobody's."""

    lane: Lane | None = None


class RecorderOfThread(FlightRecorder):
    """The notes of the lane whose thread asks, for who serves in several.

    Args:
        entry: the worker's entry.
    """

    __slots__ = ("_entry",)

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def request(self, head: bytes, method: str, target: bytes, query: str, peer: str, waited: int) -> None:
        """As `FlightRecorder.request`."""
        lane = self._entry.here
        if lane is not None and lane.recorder is not None:
            lane.recorder.request(head, method, target, query, peer, waited)


class Crowd:
    """A lane that several threads or tasks share: it is busy since the oldest of what they have in hand began.

    Args:
        lane: the lane; nobody else marks it.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._lock = threading.Lock()
        self._begun: dict[object, int] = {}  # in the order in which they began

    def begin(self) -> object:
        """Something more is in hand; returns what :meth:`end` is to be given."""
        token = object()
        with self._lock:
            self._begun[token] = self._lane.begin()
            self._mark()
        return token

    def end(self, token: object, failed: bool) -> None:
        """That is done; count it."""
        lane = self._lane
        with self._lock:
            began = self._begun.pop(token)
            # A deadline that was asked for holds for all, until the last of them is done.
            unusual, lane.unusual = lane.unusual, lane.unusual and not self._begun
            lane.end(began, failed)
            lane.unusual = unusual and bool(self._begun)
            self._mark()

    def _mark(self) -> None:
        for began in self._begun.values():
            self._lane.words[BUSY_SINCE] = began
            break


class Pause:
    """The wait of an event loop: its lane is idle within the block and busy from its end on. To be used many times.

    Args:
        entry: whose lane.
        tell: whether to tell the master when nobody is idle any more.
    """

    def __init__(self, entry: Entry, *, tell: bool) -> None:
        self._entry = entry
        self._tell = tell
        self._lane = entry.lane

    def __enter__(self) -> None:
        lane = self._lane
        if lane.unusual:
            lane.unusual = False
            lane.words[DEADLINE] = 0
        lane.words[BUSY_SINCE] = 0

    def __exit__(self, *_: object) -> None:
        self._lane.begin()
        if self._tell:
            self._entry.tell_when_nobody_is_idle()


class Entry:
    """The entry of one worker, as that worker uses it.

    Args:
        board: the scoreboard; it says how many lanes there may be.
        index: which entry of it.
        events: the pipe to the master.
        go: a descriptor that is readable while workers may accept; the master empties it when the system is out of
            descriptors or memory.
        master: the master's pid.
        records: whether it is noted what is in hand.

    Attributes:
        lane: the first lane, the only one as long as nobody says :meth:`spread`.
        lanes: all of them.
        obeyed: the order that this worker carries out: what a signal handler has made of :attr:`order`.
        stop_fd: a descriptor that becomes readable when there is one to leave; -1 until the worker has made it.
    """

    def __init__(
        self, board: Scoreboard, index: int, events: EventsPipe, go: int, master: int, *, records: bool = False
    ) -> None:
        self.board = board
        self.index = index
        self.words = board.entry(index)
        words = self.words[_LANE:]
        self.lane = Lane(words, FlightRecorder(words) if records else None)
        self.lanes = [self.lane]
        self._of_thread: LaneOfThread | None = None
        self.crowd = Crowd(self.lane)
        self.obeyed = _RUN
        self.stop_fd = -1
        self.go = go
        self._events = events
        self._master = master
        self._errors = [0] * layout.ERROR_PLACES
        self._told_at = 0
        self._refused = 0
        self._counting = threading.Lock()

    def spread(self, count: int, *, shared: bool) -> Stances:
        """Have so many lanes from now on, each to be said in its thread by :meth:`enter`.

        Args:
            count: how many.
            shared: as for `Stances`.
        """
        rest = range(_LANE + _LANE_WORDS, _LANE + count * _LANE_WORDS, _LANE_WORDS)
        for words in (self.words[at : at + _LANE_WORDS] for at in rest):
            self.lanes.append(Lane(words, FlightRecorder(words) if self.lane.recorder is not None else None))
        self._of_thread = LaneOfThread()
        return Stances(self.board, self.words, shared=shared)

    @property
    def here(self) -> Lane | None:
        """The lane of this thread: the only one there is, or None in a thread that is nobody's."""
        return self.lane if self._of_thread is None else self._of_thread.lane

    def unasked(self) -> None:
        """Nothing has been asked for by what this thread has in hand."""
        lane = self.here
        if lane is not None:
            lane.unasked()

    def enter(self, lane: Lane) -> None:
        """This thread is that lane's from now on."""
        assert self._of_thread is not None
        self._of_thread.lane = lane
        lane.words[THREAD] = threading.get_ident()

    @property
    def order(self) -> Order:
        """What this worker is to do: the master's order, or SEAL when there is no master any more."""
        said = self.words[ORDER]
        order = _ORDERS[said] if said < len(_ORDERS) else _RUN  # a sibling may have written it
        return _SEAL if order is _RUN and self.orphaned else order

    @property
    def orphaned(self) -> bool:
        """Whether the master is gone (getppid(2) gives another process)."""
        return getppid() != self._master

    @property
    def prober(self) -> bool:
        """Whether this worker is the one that goes on trying while all others hold."""
        return self.board.prober == self.index

    def part(self) -> None:
        """In a process that the application has forked: have nothing to do with the master any more.

        To whatever loop of ours it comes back, it is a worker that has been told to leave.
        """
        self.obeyed = _SEAL
        self.board.part()
        self._events.part()

    def say_state(self, state: State) -> None:
        """Say where this worker is in its life."""
        self.words[STATE_SINCE] = time.monotonic_ns()
        self.words[STATE] = state

    def say_accept_failed(self, errno: int, place: int) -> None:
        """Count a failed accept(2) in its errno's place."""
        self._errors[place] += 1
        self.words[layout.ERRORS + place] = self._errors[place]
        self.words[layout.LAST_ERRNO] = errno
        self.words[layout.LAST_ERRNO_AT] = time.monotonic_ns()

    def say_accepts(self, how: Accepts) -> None:
        """Say that connections are taken in our way, which knows what an order does to a listener."""
        self.words[ACCEPTS] = how

    def say_relieved(self, errno: int) -> None:
        """Say that the exhaustion is over that ``errno`` told of.

        The prober lets its siblings go on by itself as well: the master may be frozen.
        """
        if self.board.hold and self.prober:
            eventfd_write(self.go, 1)
        self.send_event(EventKind.RELIEVED, errno)

    def beckon(self) -> None:
        """Have a sibling look whether somebody waits, for this worker has been woken and can't accept.

        Nothing is added, so ``go`` stays as readable as it is; but every write is an edge (epoll(7)), and wakes one of
        those who wait for it. While the system is exhausted nobody is woken; whoever lets go then wakes one.
        """
        eventfd_write(self.go, 0)

    def count_refused(self) -> None:
        """Count a connection, or a request on one, as shed."""
        with self._counting:
            self._refused = self.words[layout.REFUSED] = self._refused + 1

    def count_refused_in_hand(self) -> None:
        """Count what is in hand as shed, and not as served."""
        self.count_refused()
        own = self.here
        if own is not None:
            own.served -= 1  # which its end will make good

    def tell_when_nobody_is_idle(self) -> None:
        """Tell the master when this worker has taken the last idle place; at most every 100 ms."""
        now = time.monotonic_ns()
        if now - self._told_at < _TELL_INTERVAL:
            return
        for index in range(self.board.entries):
            words = self.board.entry(index)
            if words[layout.PID] and words[STATE] == State.SERVING and not full(words):
                return
        self._told_at = now
        self.send_event(EventKind.LAST_IDLE)

    @property
    def busy_beside(self) -> bool:
        """Whether another worker has something in hand, and keeps connections."""
        return any(words[layout.PID] and words[layout.PARKED] and busy(words) for words in self._beside())

    @property
    def serves_alone(self) -> bool:
        """Whether no other worker serves."""
        return not self._serving_beside()

    @property
    def idle_beside(self) -> int:
        """How many other workers that serve have a lane with nothing in hand."""
        return sum(not full(self.board.entry(index)) for _, index in self._serving_beside())

    @property
    def fewest_parked_beside(self) -> int | None:
        """The fewest connections that one of those keeps (count); None when nobody has nothing in hand."""
        for kept, index in sorted(self._serving_beside()):
            if not full(self.board.entry(index)):
                return kept
        return None

    def room_beside(self, most: int) -> int:
        """How many connections siblings that serve can take, if each keeps ``most``: half of it, to be sure."""
        return sum(max(0, most - kept) for kept, _ in self._serving_beside()) // 2

    def _serving_beside(self) -> list[tuple[int, int]]:
        """Of each other worker that serves, how many connections it keeps, and its entry.

        Most entries are free, so that new workers have one beside the old: columns tell which are not, all at once.
        """
        state, parked = self.board.column(STATE), self.board.column(layout.PARKED)
        pids = enumerate(self.board.column(layout.PID).tolist())
        taken = (index for index, pid in pids if pid and index != self.index)
        return [(parked[index], index) for index in taken if state[index] == _SERVING]

    def _beside(self) -> Iterator[memoryview[int]]:
        """The entries of all others."""
        return (self.board.entry(index) for index in range(self.board.entries) if index != self.index)

    def begin_collecting(self, most: int) -> bool:
        """Say that this worker collects garbage, unless ``most`` of them do so already; whether it may.

        Two that begin at the same moment may both leave it for now.
        """
        self.words[layout.COLLECTING] = 1
        entries = (self.board.entry(index) for index in range(self.board.entries))
        if sum(words[layout.PID] > 0 and words[layout.COLLECTING] == 1 for words in entries) > most:
            self.words[layout.COLLECTING] = 0
            return False
        return True

    def end_collecting(self) -> None:
        """Say that the collection is over."""
        self.words[layout.COLLECTING] = 0

    def ask_to_be_recycled(self, why: Why) -> None:
        """Ask the master for a replacement. It stands here too, for a master whose pipe is full."""
        self.words[layout.RECYCLE_WHY] = why
        self.send_event(EventKind.RECYCLE_ME, why)

    def send_event(self, kind: EventKind, value: int = 0) -> None:
        """Write a record to the events pipe; never blocks."""
        self._events.send(kind, entry=self.index, pid=getpid(), value=value)

    def extend_deadline(self, seconds: float) -> None:
        """Ask not to be taken for hung before ``seconds`` from now, infinity included.

        With several lanes it is that of this thread which asks; in a thread that is nobody's, all that are busy.
        """
        own = self.here
        if own is not None:
            own.extend_deadline(seconds)
            return
        for lane in self.lanes:
            if lane.began:
                lane.extend_deadline(seconds)

    def say_waited(self, milliseconds: int) -> None:
        """Count how long what this thread has in hand had waited."""
        own = self.here
        if own is not None:
            own.say_waited(milliseconds)
