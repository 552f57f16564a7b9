import errno
import fcntl
import os
import select
import signal
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.scoreboard.events import Event, EventKind, EventsPipe, Why
from prefork.system import natives
from tests.support.programs import facts

RECORD = 16
U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1

events = st.builds(Event, st.sampled_from(EventKind), st.integers(0, U16), st.integers(0, U32), st.integers(0, U64))


@pytest.fixture
def pipe() -> Iterator[EventsPipe]:
    made = EventsPipe()
    yield made
    made.close()


def tell(pipe: EventsPipe, event: Event) -> bool:
    return pipe.send(event.kind, entry=event.entry, pid=event.pid, value=event.value)


def fill(pipe: EventsPipe) -> int:
    """Tell until there is no room; returns how many records went in."""
    count = 0
    while pipe.send(EventKind.READY, entry=1, pid=count):
        count += 1
    return count


@given(st.lists(events, max_size=50))
def test_what_is_told_is_read_once_and_in_order(told: list[Event]) -> None:
    pipe = EventsPipe()
    try:
        assert all(tell(pipe, event) for event in told)
        assert pipe.read() == (told, False)
        assert pipe.read() == ([], False)
    finally:
        pipe.close()


def test_a_record_without_a_value_has_0(pipe: EventsPipe) -> None:
    pipe.send(EventKind.LAST_IDLE, entry=3, pid=4)
    assert pipe.read() == ([Event(EventKind.LAST_IDLE, 3, 4, 0)], False)


def test_the_reader_is_readable_while_something_waits(pipe: EventsPipe) -> None:
    poller = select.poll()
    poller.register(pipe.reader, select.POLLIN)
    assert not poller.poll(0)
    pipe.send(EventKind.RECYCLE_ME, entry=0, pid=1, value=Why.ASKED)
    assert poller.poll(0)
    pipe.read()
    assert not poller.poll(0)


def test_neither_end_blocks_or_survives_an_exec(pipe: EventsPipe) -> None:
    for fd in (pipe.reader, pipe.writer):
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)


# A pipe that is full.


def test_a_full_pipe_takes_no_more_and_says_so_at_both_ends(pipe: EventsPipe) -> None:
    count = fill(pipe)
    assert count * RECORD == fcntl.fcntl(pipe.reader, fcntl.F_GETPIPE_SZ)
    told, lost = pipe.read()
    assert [event.pid for event in told] == list(range(count))
    assert lost
    assert pipe.send(EventKind.READY, entry=2, pid=9)
    assert pipe.read() == ([Event(EventKind.READY, 2, 9)], False)


def test_a_pipe_with_room_for_one_more_has_lost_nothing(pipe: EventsPipe) -> None:
    count = fill(pipe)
    pipe.read()
    for pid in range(count - 1):
        assert pipe.send(EventKind.READY, entry=1, pid=pid)
    told, lost = pipe.read()
    assert (len(told), lost) == (count - 1, False)


def test_a_small_pipe_overflows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has many pipes is given one page for each (pipe(7), pipe-user-pages-soft)."""
    given_pipe = os.pipe2

    def small(flags: int) -> tuple[int, int]:
        ends = given_pipe(flags)
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, 4096)
        return ends

    monkeypatch.setattr(natives.os, "pipe2", small)
    pipe = EventsPipe()
    try:
        assert fill(pipe) == 4096 // RECORD
        told, lost = pipe.read()
        assert (len(told), lost) == (4096 // RECORD, True)
    finally:
        pipe.close()


# What a worker may write there instead.


def test_a_kind_that_is_none_is_dropped_and_the_rest_is_read(pipe: EventsPipe) -> None:
    pipe.send(EventKind.READY, entry=0, pid=1)
    os.write(pipe.writer, struct.pack("<HHIQ", max(EventKind) + 1, 0, 2, 0))
    pipe.send(EventKind.READY, entry=0, pid=3)
    told, lost = pipe.read()
    assert [event.pid for event in told] == [1, 3]
    assert lost


@pytest.mark.parametrize("size", [1, RECORD - 1, RECORD + 1])
def test_what_is_no_whole_record_is_not_carried_into_the_next_read(pipe: EventsPipe, size: int) -> None:
    os.write(pipe.writer, b"\0" * size)
    assert pipe.read() == ([], True)
    pipe.send(EventKind.READY, entry=5, pid=6)
    assert pipe.read() == ([Event(EventKind.READY, 5, 6)], False)


@given(st.lists(st.one_of(events, st.binary(min_size=1, max_size=40)), max_size=30))
def test_garbage_raises_nothing_and_is_never_taken_for_nothing_lost(written: list[Event | bytes]) -> None:
    pipe = EventsPipe()
    try:
        for item in written:
            if isinstance(item, Event):
                assert tell(pipe, item)
            else:
                os.write(pipe.writer, item)
        told, lost = pipe.read()
        assert all(event.kind in EventKind for event in told)
        if not lost:
            assert len(told) * RECORD == sum(RECORD if isinstance(item, Event) else len(item) for item in written)
        pipe.send(EventKind.RELIEVED, entry=1, pid=2)
        assert pipe.read() == ([Event(EventKind.RELIEVED, 1, 2)], False)
    finally:
        pipe.close()


# Nobody at the other end.


def test_a_worker_without_a_master_tells_nobody_and_goes_on(pipe: EventsPipe) -> None:
    os.close(pipe.reader)
    try:
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN  # Python's own default; else write(2) would kill
        assert not pipe.send(EventKind.READY, entry=0, pid=1)
    finally:
        pipe.reader = -1


def test_no_workers_is_no_end_of_file(pipe: EventsPipe) -> None:
    program = "import os, sys; os.write(int(sys.argv[1]), bytes.fromhex(sys.argv[2])); print(0)"
    record = struct.pack("<HHIQ", EventKind.EXHAUSTED, 1, 2, errno.EMFILE)
    assert facts(program, str(pipe.writer), record.hex(), fds=[pipe.writer]) == 0
    assert pipe.read() == ([Event(EventKind.EXHAUSTED, 1, 2, errno.EMFILE)], False)
    assert pipe.read() == ([], False)


def test_close_gives_both_ends_back_and_may_be_called_again() -> None:
    before = os.listdir("/proc/self/fd")
    pipe = EventsPipe()
    pipe.close()
    pipe.close()
    assert os.listdir("/proc/self/fd") == before


def test_records_of_many_workers_do_not_mix() -> None:
    program = """
        import collections, json, os, select
        from prefork.scoreboard.events import EventsPipe, EventKind
        from prefork.system import process
        pipe = EventsPipe()

        def child():
            pid, count = os.getpid(), 0
            while count < 2000:
                if pipe.send(EventKind.READY, entry=pid % 65536, pid=pid, value=count):
                    count += 1
                else:
                    select.select([], [pipe.writer], [])
            return 0

        pids = [process.fork(child) for _ in range(4)]
        seen = collections.defaultdict(list)
        while sum(map(len, seen.values())) < 8000:
            select.select([pipe.reader], [], [])
            for event in pipe.read()[0]:
                assert event.kind is EventKind.READY and event.entry == event.pid % 65536
                seen[event.pid].append(event.value)
        ends = [os.waitpid(pid, 0)[1] for pid in pids]
        print(json.dumps([ends, sorted(seen) == sorted(pids), all(v == list(range(2000)) for v in seen.values())]))
    """
    assert facts(program) == [[0, 0, 0, 0], True, True]
