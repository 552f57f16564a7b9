import errno
import math
import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.scoreboard import layout
from prefork.scoreboard.entry import Entry, Lane
from prefork.scoreboard.events import Event, EventKind, EventsPipe, Why
from prefork.scoreboard.layout import BUCKET_SHIFT, BUCKETS, Order, Scoreboard, State
from tests.support.programs import facts

ENTRIES = 4
NOBODY = -1  # the pid of no master


class Steps:
    """Stands in for the ``time`` module: a clock that a test moves, in ns."""

    def __init__(self) -> None:
        self.now = 10**9

    def monotonic_ns(self) -> int:
        return self.now


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    made = Scoreboard.create(ENTRIES)
    yield made
    made.close()


@pytest.fixture
def events() -> Iterator[EventsPipe]:
    made = EventsPipe()
    yield made
    made.close()


@pytest.fixture
def entry(board: Scoreboard, events: EventsPipe) -> Entry:
    return Entry(board, 1, events, go=-1, master=os.getppid())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    monkeypatch.setattr("prefork.scoreboard.entry.time.monotonic_ns", steps.monotonic_ns)
    return steps


# What the master wants.


@pytest.mark.parametrize("order", Order)
def test_the_order_is_the_master_s_while_there_is_one(entry: Entry, order: Order) -> None:
    entry.words[layout.ORDER] = order
    assert not entry.orphaned
    assert entry.order is order


@pytest.mark.parametrize(
    ("given_last", "order"), [(Order.RUN, Order.SEAL), *[(order, order) for order in Order if order is not Order.RUN]]
)
def test_an_orphan_leaves(board: Scoreboard, events: EventsPipe, given_last: Order, order: Order) -> None:
    entry = Entry(board, 0, events, go=-1, master=NOBODY)
    entry.words[layout.ORDER] = given_last
    assert entry.orphaned
    assert entry.order is order


def test_one_entry_is_the_prober_s(board: Scoreboard, events: EventsPipe, entry: Entry) -> None:
    other = Entry(board, 2, events, go=-1, master=NOBODY)
    board.prober = 1
    assert (entry.prober, other.prober) == (True, False)
    board.prober = 2
    assert (entry.prober, other.prober) == (False, True)


# What the worker says.


@pytest.mark.parametrize("state", State)
def test_a_state_is_entered_at_a_moment(board: Scoreboard, entry: Entry, state: State) -> None:
    before = time.monotonic_ns()
    entry.say_state(state)
    assert board.view(1).state is state
    assert before <= board.view(1).state_since <= time.monotonic_ns()


def test_failed_accepts_are_counted_by_place(board: Scoreboard, entry: Entry) -> None:
    before = time.monotonic_ns()
    for number, place in ((errno.EINTR, 0), (errno.EMFILE, 3), (errno.ENFILE, 3), (errno.ENFILE, 15)):
        entry.say_accept_failed(number, place)
    view = board.view(1)
    assert view.errors == (1, 0, 0, 2, *[0] * 11, 1, *[0] * 16)
    assert view.last_errno == errno.ENFILE
    assert before <= view.last_errno_at <= time.monotonic_ns()


def test_refused_connections_are_said(board: Scoreboard, entry: Entry) -> None:
    for _ in range(5):
        entry.count_refused()
    assert board.view(1).refused == 5


def test_what_is_refused_while_in_hand_is_not_served(board: Scoreboard, entry: Entry) -> None:
    for refused in (False, True, False):
        began = entry.lane.begin()
        if refused:
            entry.count_refused_in_hand()
        entry.lane.end(began, failed=False)
    (lane,) = board.view(1).lanes
    assert (board.view(1).refused, lane.served) == (1, 2)


def test_a_record_says_who_tells_it(events: EventsPipe, entry: Entry) -> None:
    entry.send_event(EventKind.READY)
    entry.send_event(EventKind.RECYCLE_ME, Why.LEAK)
    pid = os.getpid()
    assert events.read() == ([Event(EventKind.READY, 1, pid), Event(EventKind.RECYCLE_ME, 1, pid, Why.LEAK)], False)


def test_only_the_worker_s_own_words_change(board: Scoreboard, entry: Entry) -> None:
    entry.say_state(State.SERVING)
    entry.say_accept_failed(errno.EMFILE, 1)
    entry.count_refused()
    entry.extend_deadline(1.0)
    entry.lane.end(entry.lane.begin(), failed=False)
    assert not any(entry.words[: layout.MASTER_WORDS])
    for index in (0, 2, 3):
        assert not any(board.entry(index))


# The lane: connections.


def test_a_connection_is_in_hand_from_begin_to_end(board: Scoreboard, entry: Entry) -> None:
    before = time.monotonic_ns()
    began = entry.lane.begin()
    lane = board.view(1).lanes[0]
    assert before <= lane.busy_since == began <= time.monotonic_ns()
    assert (lane.served, lane.failed, lane.accepted) == (0, 0, 1)
    entry.lane.end(began, failed=False)
    lane = board.view(1).lanes[0]
    assert (lane.busy_since, lane.served, lane.failed, lane.accepted) == (0, 1, 0, 1)


def test_a_failed_connection_is_counted_apart(board: Scoreboard, entry: Entry) -> None:
    entry.lane.end(entry.lane.begin(), failed=True)
    lane = board.view(1).lanes[0]
    assert (lane.busy_since, lane.served, lane.failed, lane.accepted) == (0, 0, 1, 1)


def test_times_add_up_and_the_longest_stays(board: Scoreboard, entry: Entry, clock: Steps) -> None:
    for took in (100, 7000, 300):
        began = entry.lane.begin()
        clock.now += took
        entry.lane.end(began, failed=False)
        clock.now += 10**6  # idle
    lane = board.view(1).lanes[0]
    assert (lane.busy_total, lane.busy_longest) == (7400, 7000)


LAST = BUCKETS - 1


@pytest.mark.parametrize(
    ("took", "bucket"),
    [
        (0, 0),
        ((1 << BUCKET_SHIFT) - 1, 0),
        (1 << BUCKET_SHIFT, 1),
        ((2 << BUCKET_SHIFT) - 1, 1),
        (2 << BUCKET_SHIFT, 2),
        ((1 << (BUCKET_SHIFT + LAST - 1)) - 1, LAST - 1),
        (1 << (BUCKET_SHIFT + LAST - 1), LAST),
        (1 << 62, LAST),
    ],
)
def test_a_bucket_ends_at_a_power_of_two(board: Scoreboard, entry: Entry, clock: Steps, took: int, bucket: int) -> None:
    began = entry.lane.begin()
    clock.now += took
    entry.lane.end(began, failed=False)
    words = [0] * BUCKETS
    words[bucket] = 1
    assert board.entry(1)[layout.LANE + layout.HISTOGRAM + bucket] == 1
    assert board.view(1).lanes[0].histogram == tuple(words)


@pytest.mark.parametrize(
    ("milliseconds", "bucket"),
    [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (65_535, 14), (65_536, 15), (2**31, 15)],
)
def test_a_wait_is_counted_where_it_belongs(board: Scoreboard, entry: Entry, milliseconds: int, bucket: int) -> None:
    entry.lane.say_waited(milliseconds)
    entry.lane.say_waited(0)
    (lane,) = board.view(1).lanes
    expected = [0] * layout.WAIT_BUCKETS
    expected[0] += 1
    expected[bucket] += 1
    assert lane.waited == tuple(expected)
    assert board.entry(1)[layout.LANE + layout.WAITED_TOTAL] == milliseconds


@given(st.lists(st.tuples(st.integers(0, 2**40), st.booleans()), max_size=40))
def test_every_connection_is_in_the_histogram_once(connections: list[tuple[int, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Steps()
        patch.setattr("prefork.scoreboard.entry.time.monotonic_ns", clock.monotonic_ns)
        words = memoryview(bytearray(8 * (layout.LANE + layout.LANE_WORDS))).cast("Q")
        lane = Lane(words[layout.LANE :])
        for took, failed in connections:
            began = lane.begin()
            clock.now += took
            lane.end(began, failed)
    base = layout.LANE
    histogram = words[base + layout.HISTOGRAM : base + layout.HISTOGRAM + BUCKETS]
    assert sum(histogram) == len(connections)
    assert words[base + layout.SERVED] == sum(not failed for _, failed in connections)
    assert words[base + layout.FAILED] == sum(failed for _, failed in connections)
    assert words[base + layout.BUSY_TOTAL] == sum(took for took, _ in connections)
    assert words[base + layout.BUSY_LONGEST] == max((took for took, _ in connections), default=0)


def test_what_has_asked_for_nothing_is_counted_only_when_it_fails(board: Scoreboard, entry: Entry) -> None:
    for failed, counted in ((False, (0, 0)), (True, (0, 1)), (False, (0, 1))):
        began = entry.lane.begin()
        entry.lane.unasked()
        entry.lane.end(began, failed)
        (lane,) = board.view(1).lanes
        assert (lane.served, lane.failed) == counted
        assert sum(lane.histogram) == sum(counted)
        assert lane.busy_since == 0
    entry.lane.end(entry.lane.begin(), failed=False)
    assert board.view(1).lanes[0].served == 1


def test_counters_are_stored_and_never_read_back(board: Scoreboard, entry: Entry) -> None:
    entry.lane.end(entry.lane.begin(), failed=False)
    for word in range(layout.LANE, layout.LANE + layout.LANE_WORDS):
        board.entry(1)[word] = 2**64 - 1
    entry.lane.end(entry.lane.begin(), failed=False)
    assert board.view(1).lanes[0].served == 2
    assert board.view(1).lanes[0].busy_total < 10**12


# More time.


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"),
    [(2.5, 2_500_000_000), (0, 0), (-3.0, 0), (math.nan, 0), (math.inf, 10**18), (1e300, 10**18)],
)
def test_a_deadline_is_asked_for_from_now_on(
    board: Scoreboard, entry: Entry, clock: Steps, seconds: float, nanoseconds: int
) -> None:
    entry.extend_deadline(seconds)
    assert board.view(1).lanes[0].deadline == clock.now + nanoseconds


def test_more_time_is_for_one_connection(board: Scoreboard, entry: Entry) -> None:
    began = entry.lane.begin()
    entry.extend_deadline(5.0)
    assert board.view(1).lanes[0].deadline
    entry.lane.end(began, failed=False)
    assert board.view(1).lanes[0].deadline == 0


# Nobody idle.


def occupy(board: Scoreboard, index: int, *, state: State = State.SERVING, busy: bool = True) -> None:
    words = board.entry(index)
    words[layout.PID], words[layout.STATE] = 100 + index, state
    words[layout.LANE + layout.BUSY_SINCE] = int(busy)


def test_who_takes_the_last_idle_place_says_so(board: Scoreboard, events: EventsPipe, entry: Entry) -> None:
    for index in range(3):
        occupy(board, index)
    entry.tell_when_nobody_is_idle()
    assert events.read() == ([Event(EventKind.LAST_IDLE, 1, os.getpid())], False)


@pytest.mark.parametrize("index", [0, 2, 3])
def test_nobody_says_so_while_somebody_is_idle(board: Scoreboard, events: EventsPipe, entry: Entry, index: int) -> None:
    for other in range(ENTRIES):
        occupy(board, other, busy=other != index)
    entry.tell_when_nobody_is_idle()
    assert events.read() == ([], False)


@pytest.mark.parametrize("state", [state for state in State if state is not State.SERVING])
def test_who_does_not_serve_is_not_idle(board: Scoreboard, events: EventsPipe, entry: Entry, state: State) -> None:
    occupy(board, 1)
    occupy(board, 2, state=state, busy=False)
    entry.tell_when_nobody_is_idle()
    assert len(events.read()[0]) == 1


def test_it_says_so_at_most_every_100_ms(board: Scoreboard, events: EventsPipe, entry: Entry, clock: Steps) -> None:
    occupy(board, 1)
    for step, told in ((0, 1), (99_999_999, 0), (1, 1), (50_000_000, 0), (50_000_000, 1)):
        clock.now += step
        entry.tell_when_nobody_is_idle()
        assert len(events.read()[0]) == told, step


def test_a_place_that_was_idle_is_looked_at_again_at_once(
    board: Scoreboard, events: EventsPipe, entry: Entry, clock: Steps
) -> None:
    occupy(board, 1)
    occupy(board, 2, busy=False)
    entry.tell_when_nobody_is_idle()
    assert events.read()[0] == []
    occupy(board, 2)
    entry.tell_when_nobody_is_idle()
    assert len(events.read()[0]) == 1


# In a process of its own.


def test_what_a_worker_says_reaches_its_master() -> None:
    program = """
        import json, os
        from prefork.scoreboard import layout
        from prefork.scoreboard.events import EventsPipe, EventKind
        from prefork.scoreboard.layout import Order, Scoreboard, State
        from prefork.scoreboard.entry import Entry
        from prefork.system import process
        board, events, master = Scoreboard.create(2), EventsPipe(), os.getpid()
        board.assign(1, slot=0, generation=0, born=0.0)
        board.entry(1)[layout.ORDER] = Order.DRAIN

        def child():
            entry = Entry(board, 1, events, -1, master)
            entry.say_state(State.SERVING)
            entry.lane.end(entry.lane.begin(), failed=False)
            entry.lane.begin()
            entry.send_event(EventKind.READY)
            return entry.order

        pid = process.fork(child)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        (event,), _ = events.read()
        view = board.view(1)
        lane = view.lanes[0]
        print(json.dumps([code, event.pid == pid, event.entry, view.state.name, lane.served, lane.busy_since > 0]))
    """
    assert facts(program) == [Order.DRAIN, True, 1, "SERVING", 1, True]


def test_a_worker_whose_master_dies_is_an_orphan() -> None:
    program = """
        import json, os
        from prefork.scoreboard.events import EventsPipe
        from prefork.scoreboard.layout import Scoreboard
        from prefork.scoreboard.entry import Entry
        from prefork.system import process
        board, events = Scoreboard.create(1), EventsPipe()
        told, tell = os.pipe()

        def worker(master):
            entry = Entry(board, 0, events, -1, master)
            before = entry.orphaned
            os.write(ready, b".")
            while not entry.orphaned:
                pass
            os.write(tell, json.dumps([before, entry.orphaned, entry.order.name]).encode())
            return 0

        def master():
            process.fork(lambda: worker(os.getppid()))
            os.read(waiting, 1)
            return 0

        waiting, ready = os.pipe()
        os.waitpid(process.fork(master), 0)
        os.close(tell)
        print(os.read(told, 100).decode())
    """
    assert facts(program) == [False, True, "SEAL"]


def test_who_is_idle_beside_is_counted(board: Scoreboard, entry: Entry) -> None:
    assert entry.idle_beside == 0
    occupy(board, 1, busy=False)  # itself
    occupy(board, 0, busy=False)
    occupy(board, 2, busy=True)
    assert entry.idle_beside == 1
    occupy(board, 3, state=State.STARTING, busy=False)
    assert entry.idle_beside == 1
    occupy(board, 3, busy=False)
    assert entry.idle_beside == 2
