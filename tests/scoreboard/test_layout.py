import array
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.net.accept_errors import COUNTED
from prefork.scoreboard import lanes, layout
from prefork.scoreboard.layout import Fate, Order, Readiness, Scoreboard, State
from tests.support.programs import facts

WORD = 8
CACHE_LINE = 64
FULL = 2**64 - 1


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    made = Scoreboard.create(3)
    yield made
    made.close()


@pytest.fixture(scope="module")
def spoilt() -> Iterator[Scoreboard]:
    """For random words: one board for all examples."""
    made = Scoreboard.create(2, lanes=2)
    yield made
    made.close()


# The layout.


def test_no_two_words_of_a_entry_are_one() -> None:
    words = [layout.PID, layout.SLOT, layout.GENERATION, layout.ORDER, layout.BORN]
    words += [layout.STATE, layout.STATE_SINCE, layout.LAST_ERRNO, layout.LAST_ERRNO_AT]
    words += [layout.REFUSED, *range(layout.ERRORS, layout.ERRORS + layout.ERROR_PLACES)]
    lane = [layout.BUSY_SINCE, layout.DEADLINE, layout.SERVED, layout.FAILED]
    lane += [layout.BUSY_TOTAL, layout.BUSY_LONGEST, layout.IDLE_SINCE]
    lane += range(layout.HISTOGRAM, layout.HISTOGRAM + layout.BUCKETS)
    assert len(set(lane)) == len(lane)
    assert max(lane) < layout.LANE_WORDS
    words += [layout.LANE + word for word in lane]
    assert len(set(words)) == len(words)


def test_master_and_worker_write_to_cache_lines_of_their_own() -> None:
    by_master = [layout.PID, layout.SLOT, layout.GENERATION, layout.ORDER, layout.BORN]
    by_worker = [layout.STATE, layout.STATE_SINCE, layout.LAST_ERRNO, layout.ERRORS, layout.LANE]
    assert max(by_master) < layout.MASTER_WORDS <= min(by_worker)
    assert layout.HEADER_WORDS * WORD % CACHE_LINE == 0
    assert layout.MASTER_WORDS * WORD % CACHE_LINE == 0
    assert (layout.LANE + layout.LANE_WORDS) * WORD % CACHE_LINE == 0


def test_there_is_a_counter_for_every_errno() -> None:
    assert len(COUNTED) <= layout.ERROR_PLACES


@pytest.mark.parametrize("lanes", [1, 3])
def test_entries_lie_side_by_side_and_none_outside(lanes: int) -> None:
    board = Scoreboard.create(4, lanes=lanes)
    try:
        for index in range(4):
            words = board.entry(index)
            assert len(words) == layout.LANE + lanes * layout.LANE_WORDS
            words[:] = memoryview(struct.pack(f"{len(words)}Q", *[index + 1] * len(words))).cast("Q")
            words.release()
        stored = list(board.words[layout.HEADER_WORDS :])
        assert stored == [index + 1 for index in range(4) for _ in range(len(stored) // 4)]
        assert os.fstat(board.fd).st_size == len(board.words) * WORD
    finally:
        board.close()


@pytest.mark.parametrize("index", [-1, 3, 2**40])
def test_there_is_no_other_entry(board: Scoreboard, index: int) -> None:
    with pytest.raises(IndexError, match=f"entry {index} of 3"):
        board.entry(index)
    with pytest.raises(IndexError):
        board.view(index)


# The seal.


@pytest.mark.parametrize("change", [-8, 8], ids=["shrink", "grow"])
def test_nobody_changes_the_size(board: Scoreboard, change: int) -> None:
    size = os.fstat(board.fd).st_size
    with pytest.raises(PermissionError) as raised:
        os.ftruncate(board.fd, size + change)
    assert raised.value.errno == errno.EPERM
    assert os.fstat(board.fd).st_size == size


def test_the_seal_can_not_be_added_to(board: Scoreboard) -> None:
    with pytest.raises(PermissionError):
        fcntl.fcntl(board.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_the_descriptor_does_not_survive_an_exec_by_itself(board: Scoreboard) -> None:
    assert not os.get_inheritable(board.fd)


@pytest.mark.parametrize("entries", [2**44, 2**60], ids=["no memory", "no such size"])
def test_a_board_that_can_not_be_had_leaves_no_descriptor(entries: int) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises((OSError, OverflowError, ValueError)):
        Scoreboard.create(entries)
    assert os.listdir("/proc/self/fd") == before


# What is stored is seen.


def test_a_new_board_is_all_zero_but_for_its_header(board: Scoreboard) -> None:
    assert (board.hold, board.prober, board.all_exhausted) == (0, 0, False)
    for index in range(board.entries):
        view = board.view(index)
        assert (view.pid, view.order, view.state, view.born) == (0, Order.RUN, State.EMPTY, 0)
        assert not any(board.entry(index))


def test_the_header_s_words_are_words_of_their_own(board: Scoreboard) -> None:
    before = list(board.words)
    board.hold, board.prober, board.all_exhausted = errno.ENFILE, 2, True
    assert (board.hold, board.prober, board.all_exhausted) == (errno.ENFILE, 2, True)
    changed = [index for index, word in enumerate(board.words) if word != before[index]]
    assert len(changed) == 3
    assert max(changed) < layout.HEADER_WORDS


def test_every_word_is_viewed_under_its_name(board: Scoreboard) -> None:
    now = time.monotonic_ns()
    words = board.entry(1)
    words[layout.PID], words[layout.SLOT], words[layout.GENERATION] = 77, 5, 9
    words[layout.ORDER], words[layout.BORN] = Order.DRAIN, now - 4
    words[layout.STATE], words[layout.STATE_SINCE] = State.STOPPING, now - 3
    words[layout.LAST_ERRNO], words[layout.LAST_ERRNO_AT] = errno.EMFILE, now - 2
    words[layout.REFUSED] = 6
    words[layout.PARKED : layout.LEFT + 1] = memoryview(array.array("Q", [3, 30, 4, 2, 1, 5]))
    for place in range(layout.ERROR_PLACES):
        words[layout.ERRORS + place] = 100 + place
    words[layout.ACCEPTS] = layout.Accepts.USUAL
    lane = layout.LANE
    words[lane + layout.BUSY_SINCE], words[lane + layout.DEADLINE] = now - 1, now + 10**12
    words[lane + layout.SERVED], words[lane + layout.FAILED] = 40, 2
    words[lane + layout.BUSY_TOTAL], words[lane + layout.BUSY_LONGEST] = 5000, 3000
    words[lane + layout.IDLE_SINCE] = now - 7
    for bucket in range(layout.BUCKETS):
        words[lane + layout.HISTOGRAM + bucket] = 200 + bucket
    assert board.view(1) == layout.EntryView(
        pid=77,
        slot=5,
        generation=9,
        order=Order.DRAIN,
        born=now - 4,
        state=State.STOPPING,
        state_since=now - 3,
        last_errno=errno.EMFILE,
        last_errno_at=now - 2,
        refused=6,
        parked=3,
        reused=30,
        handed_over=4,
        expired=2,
        evicted=1,
        left=5,
        accepts=layout.Accepts.USUAL,
        errors=tuple(range(100, 100 + layout.ERROR_PLACES)),
        lanes=(
            layout.LaneView(
                busy_since=now - 1,
                deadline=now + 10**12,
                served=40,
                failed=2,
                busy_total=5000,
                busy_longest=3000,
                idle_since=now - 7,
                histogram=tuple(range(200, 200 + layout.BUCKETS)),
            ),
        ),
    )
    assert board.view(1).lanes[0].accepted == 43
    assert board.view(0) == board.view(2)


def test_the_connection_in_hand_counts_as_accepted_while_it_is_there(board: Scoreboard) -> None:
    words = board.entry(0)
    words[layout.LANE + layout.SERVED] = 3
    assert board.view(0).lanes[0].accepted == 3
    words[layout.LANE + layout.BUSY_SINCE] = 1
    assert board.view(0).lanes[0].accepted == 4


def test_a_new_life_finds_nothing_of_the_one_before(board: Scoreboard) -> None:
    for index in range(3):
        words = board.entry(index)
        for word in range(len(words)):
            words[word] = FULL
    board.assign(1, slot=4, generation=2, born=12.5)
    given = {layout.SLOT: 4, layout.GENERATION: 2, layout.BORN: 12_500_000_000}
    assert list(board.entry(1)) == [given.get(word, 0) for word in range(len(board.entry(1)))]
    for index in (0, 2):
        assert set(board.entry(index)) == {FULL}
    assert board.entries == 3


# Nothing is taken on trust.


def test_what_can_not_be_true_is_replaced(board: Scoreboard) -> None:
    words = board.entry(0)
    for word in range(len(words)):
        words[word] = FULL
    before = time.monotonic_ns()
    view = board.view(0)
    after = time.monotonic_ns()
    assert (view.order, view.state, view.last_errno) == (Order.RUN, State.EMPTY, 0)
    for moment in (view.state_since, view.last_errno_at, view.lanes[0].busy_since):
        assert before <= moment <= after


def test_a_lie_is_no_number_of_twenty_digits(board: Scoreboard) -> None:
    words = board.entry(0)
    age = 3600 * 10**9
    born = time.monotonic_ns() - age
    for lie in (FULL, 2**63, age):  # an hour can't hold so many of anything; as a moment it is long before the fork
        for word in range(len(words)):
            words[word] = lie
        view, finished = board.read(words, born), lanes.finished(words, born)
        now = time.monotonic_ns()
        (lane,) = view.lanes
        assert (lane.served, lane.failed, view.refused, finished) == (0, 0, 0, 0)
        assert set(view.errors) == {0}
        assert set(lane.histogram) == {0}
        assert lane.busy_longest <= now - born
        assert lane.busy_total <= (now - born) * layout.AT_ONCE
        for moment in (view.state_since, view.last_errno_at, lane.busy_since, lane.idle_since):
            assert born <= moment <= now
        assert (view.pid, view.slot, view.generation) == (0, 0, 0)


def test_what_a_worker_reads_of_the_header_is_one_of_its_kind(board: Scoreboard) -> None:
    """Its siblings could write there, too."""
    board.words[layout.FATE] = board.words[layout.READINESS] = FULL
    assert board.fate is Fate.SIBLINGS
    assert board.readiness is Readiness.READY


@pytest.mark.parametrize(("word", "errno_seen"), [(0, 0), (1, 1), (4095, 4095), (4096, 0)])
def test_an_errno_is_one_that_the_kernel_can_return(board: Scoreboard, word: int, errno_seen: int) -> None:
    board.entry(0)[layout.LAST_ERRNO] = word
    assert board.view(0).last_errno == errno_seen


@settings(suppress_health_check=[*settings().suppress_health_check, HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_words_are_viewed_without_an_error(spoilt: Scoreboard, data: st.DataObject) -> None:
    words = spoilt.entry(1)
    size = len(words) * WORD
    junk = data.draw(st.binary(min_size=size, max_size=size))
    spoilt.entry(0)[:] = memoryview(bytes(size)).cast("Q")
    words[:] = memoryview(junk).cast("Q")
    view = spoilt.view(1)
    now = time.monotonic_ns()
    assert view.order in Order
    assert view.state in State
    assert 0 <= view.last_errno <= 4095
    assert view.state_since <= now
    assert len(view.lanes) == 2
    assert all(lane.busy_since <= now for lane in view.lanes)
    assert not any(spoilt.entry(0))


# From one image to the next.


def test_a_board_is_attached_by_its_number(board: Scoreboard) -> None:
    board.assign(2, slot=1, generation=7, born=1.0)
    board.hold = errno.ENOBUFS
    again = Scoreboard.attach(os.dup(board.fd))
    try:
        assert (again.entries, again.lanes, again.hold) == (3, 1, errno.ENOBUFS)
        assert again.view(2) == board.view(2)
        again.entry(0)[layout.ORDER] = Order.QUIT
        assert board.view(0).order is Order.QUIT
    finally:
        again.close()


def memory_of(*words: int) -> int:
    fd = os.memfd_create("spoilt")
    os.write(fd, struct.pack(f"{len(words)}Q", *words))
    return fd


STRIDE = layout.LANE + layout.LANE_WORDS
GOOD = (layout.MAGIC, layout.LAYOUT, 2, 1, STRIDE)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        pytest.param((layout.MAGIC + 1, *GOOD[1:]), 16 + 2 * STRIDE, id="magic"),
        pytest.param((GOOD[0], layout.LAYOUT + 1, *GOOD[2:]), 16 + 2 * STRIDE, id="layout"),
        pytest.param((*GOOD[:2], 3, *GOOD[3:]), 16 + 2 * STRIDE, id="more entries than memory"),
        pytest.param((*GOOD[:2], 1, *GOOD[3:]), 16 + 2 * STRIDE, id="more memory than entries"),
        pytest.param((*GOOD[:3], 2, STRIDE), 16 + 2 * STRIDE, id="more lanes than the stride has"),
        pytest.param((*GOOD[:3], 0, layout.LANE), 16 + 2 * layout.LANE, id="no lanes"),
        pytest.param((*GOOD[:4], 0), 16, id="entries that overlap"),
        pytest.param(GOOD, 5, id="a part of the header"),
        pytest.param((), 0, id="empty"),
        pytest.param((), 16 + 2 * STRIDE, id="zeros"),
    ],
)
def test_other_memory_is_no_board(header: tuple[int, ...], words: int) -> None:
    fd = memory_of(*header, *[0] * (words - len(header)))
    try:
        with pytest.raises(ValueError, match="scoreboard"):
            Scoreboard.attach(fd)
        os.fstat(fd)  # it is still the caller's
    finally:
        os.close(fd)


def test_what_is_no_whole_number_of_words_is_no_board() -> None:
    fd = memory_of(*GOOD, *[0] * (11 + 2 * STRIDE))
    try:
        os.ftruncate(fd, (16 + 2 * STRIDE) * WORD + 3)
        with pytest.raises(ValueError, match="scoreboard"):
            Scoreboard.attach(fd)
        os.ftruncate(fd, (16 + 2 * STRIDE) * WORD)
        Scoreboard.attach(os.dup(fd)).close()
    finally:
        os.close(fd)


@given(st.lists(st.one_of(st.integers(0, 200), st.integers(0, FULL)), min_size=3, max_size=3))
def test_a_header_that_lies_is_refused_or_true(geometry: list[int]) -> None:
    fd = memory_of(layout.MAGIC, layout.LAYOUT, *geometry, *[0] * (11 + 2 * STRIDE))
    try:
        board = Scoreboard.attach(os.dup(fd))
    except ValueError:
        return
    finally:
        os.close(fd)
    for index in range(board.entries):
        board.view(index)
    board.close()


def test_another_program_attaches_and_is_seen(board: Scoreboard) -> None:
    board.assign(1, slot=3, generation=0, born=0.0)
    program = """
        import json, sys
        from prefork.scoreboard import layout
        board = layout.Scoreboard.attach(int(sys.argv[1]))
        board.entry(1)[layout.STATE] = layout.State.SERVING
        print(json.dumps([board.entries, board.view(1).slot]))
    """
    assert facts(program, str(board.fd), fds=[board.fd]) == [3, 3]
    assert board.view(1).state is State.SERVING


def test_a_forked_process_is_seen_and_never_half_seen() -> None:
    """A store of one word does not tear: the reader sees the one value or the other."""
    program = """
        import json, os, signal
        from prefork.scoreboard import layout
        from prefork.system import process
        board = layout.Scoreboard.create(1)
        words, at = board.entry(0), layout.LANE + layout.BUSY_SINCE
        one, other = 0x00FF00FF00FF00FF, 0xFF00FF00FF00FF00

        def child():
            while True:
                words[at] = one
                words[at] = other

        pid = process.fork(child)
        while not words[at]:
            pass
        seen = {words[at] for _ in range(200_000)}
        while len(seen) < 2:
            seen.add(words[at])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(json.dumps(sorted(seen)))
    """
    assert facts(program) == [0x00FF00FF00FF00FF, 0xFF00FF00FF00FF00]


# The end.


def test_close_gives_everything_back_and_may_be_called_again() -> None:
    before = os.listdir("/proc/self/fd")
    board = Scoreboard.create(1)
    board.close()
    board.close()
    assert os.listdir("/proc/self/fd") == before


def test_close_while_somebody_holds_a_entry() -> None:
    before = os.listdir("/proc/self/fd")
    board = Scoreboard.create(1)
    words = board.entry(0)
    board.close()
    words[layout.PID] = 1
    assert words[layout.PID] == 1
    words.release()
    del board
    assert os.listdir("/proc/self/fd") == before
