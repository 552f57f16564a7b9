import itertools
import json
import logging
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from prefork.supervisor.event_loop import CREDENCE, FROZEN, LONGEST_SLEEP, Loop, Timer
from prefork.system.throttle import INTERVAL
from prefork.testing.clock import FakeClock
from prefork.testing.waiting import wait_for
from tests.support.programs import ROOT, command, facts


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def loop(clock: FakeClock) -> Iterator[Loop]:
    made = Loop(clock)
    yield made
    made.close()


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has


def note(seen: list[str], word: str) -> Callable[[], None]:
    return lambda: seen.append(word)


# Descriptors.


def test_a_readable_descriptor_is_told_until_it_is_read(loop: Loop, ends: tuple[int, int]) -> None:
    seen: list[str] = []
    loop.register(ends[0], note(seen, "readable"))
    os.write(ends[1], b"x")
    for _ in range(3):
        loop.poll(None)
    assert seen == ["readable"] * 3
    os.read(ends[0], 10)
    loop.poll(0.0)
    assert seen == ["readable"] * 3


def test_the_end_of_file_is_told(loop: Loop, ends: tuple[int, int]) -> None:
    seen: list[bytes] = []
    loop.register(ends[0], lambda: seen.append(os.read(ends[0], 10)))
    os.close(ends[1])
    loop.poll(None)
    assert seen == [b""]


def test_all_that_are_readable_are_told_in_one_turn(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(5)]
    seen: list[str] = []
    for number, (reader, writer) in enumerate(pipes):
        loop.register(reader, note(seen, str(number)))
        os.write(writer, b"x")
    loop.poll(None)
    assert sorted(seen) == ["0", "1", "2", "3", "4"]
    for pipe in pipes:
        loop.unregister(pipe[0])
        for fd in pipe:
            os.close(fd)


def test_a_descriptor_that_was_forgotten_is_told_no_more(loop: Loop, ends: tuple[int, int]) -> None:
    seen: list[str] = []
    loop.register(ends[0], note(seen, "readable"))
    os.write(ends[1], b"x")
    loop.unregister(ends[0])
    loop.poll(0.0)
    assert seen == []
    loop.unregister(ends[0])  # idempotent
    loop.register(ends[0], note(seen, "again"))
    loop.poll(None)
    assert seen == ["again"]


def test_a_callback_may_forget_another_that_is_due_in_the_same_turn(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    seen: list[str] = []

    def only_one(number: int) -> Callable[[], None]:
        def callback() -> None:
            seen.append(str(number))
            loop.unregister(pipes[1 - number][0])

        return callback

    for number, (reader, writer) in enumerate(pipes):
        loop.register(reader, only_one(number))
        os.write(writer, b"x")
    loop.poll(None)
    assert len(seen) == 1
    for pipe in pipes:
        loop.unregister(pipe[0])
        for fd in pipe:
            os.close(fd)


def test_forgetting_what_is_closed_already_is_no_error(loop: Loop, ends: tuple[int, int]) -> None:
    loop.register(ends[0], lambda: None)
    os.close(ends[0])
    loop.unregister(ends[0])
    loop.poll(0.0)


def test_a_copy_that_a_worker_holds_does_not_keep_the_registration(loop: Loop) -> None:
    """The registration belongs to the open file description; deleted before the close, it is gone for good."""
    reader, writer = os.pipe()
    copy = os.dup(reader)
    seen: list[str] = []
    loop.register(reader, note(seen, "readable"))
    loop.unregister(reader)
    os.close(reader)
    os.write(writer, b"x")
    loop.poll(0.0)
    assert seen == []
    assert select.select([copy], [], [], 0)[0]
    os.close(copy)
    os.close(writer)


def test_what_a_callback_raises_comes_out(loop: Loop, ends: tuple[int, int]) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    loop.register(ends[0], fail)
    os.write(ends[1], b"x")
    with pytest.raises(ZeroDivisionError):
        loop.poll(None)


def test_what_a_child_has_to_close_is_known(ends: tuple[int, int]) -> None:
    """In a child of a program's own: everything of the loop's goes, and nothing else."""
    program = """
        import json, os
        from prefork.supervisor.event_loop import Loop
        from prefork.system import process
        def listing():
            return set(map(int, os.listdir("/proc/self/fd")))
        before = listing()
        loop = Loop()
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        for reader, _ in pipes:
            loop.register(reader, lambda: None)
        loop.unregister(pipes[2][0])
        told, tell = os.pipe()

        def child():
            process.close(process.runs(loop.descriptors))
            left = listing() - before
            os.write(tell, json.dumps(sorted(left)).encode())
            return 0

        os.waitpid(process.fork(child), 0)
        expected = {writer for _, writer in pipes} | {pipes[2][0], told, tell}
        print(json.dumps(set(json.loads(os.read(told, 1000))) == expected))
    """
    assert facts(program) is True


# Timers.


def test_timers_run_once_at_their_moment_the_earliest_first(loop: Loop, clock: FakeClock) -> None:
    seen: list[str] = []
    for eighths in (3, 1, 2):
        loop.call_later(eighths / 8, note(seen, f"{eighths}"))
    loop.call_at(clock.monotonic() + 2 / 8, note(seen, "2, asked for later"))
    for step, expected in (
        (0.0, []),
        (0.124, []),
        (0.001, ["1"]),
        (0.1, []),
        (0.1, ["2", "2, asked for later"]),
        (0.9, ["3"]),
        (0.9, []),
    ):
        clock.advance(step)
        loop.poll(clock.monotonic())
        assert seen == expected, step
        seen.clear()


def test_timers_that_are_due_together_run_the_earliest_first(loop: Loop, clock: FakeClock) -> None:
    seen: list[str] = []
    for eighths in (3, 1, 2):
        loop.call_later(eighths / 8, note(seen, f"{eighths}"))
    clock.advance(0.5)
    loop.poll(None)
    assert seen == ["1", "2", "3"]


def test_a_timer_that_was_cancelled_does_not_run_nor_wake(loop: Loop, clock: FakeClock, ends: tuple[int, int]) -> None:
    seen: list[str] = []
    timer = loop.call_later(0.0, note(seen, "timer"))
    timer.cancel()
    timer.cancel()
    loop.register(ends[0], note(seen, "readable"))
    threading.Timer(0.05, os.write, (ends[1], b"x")).start()
    loop.poll(None)  # were it woken by the timer, nothing would be readable yet
    assert seen == ["readable"]


def test_a_timer_may_be_cancelled_by_another_that_is_due_with_it(loop: Loop) -> None:
    seen: list[str] = []
    timers: list[Timer] = []
    loop.call_later(0.0, lambda: timers[-1].cancel())  # noqa: PLW0108  # it is not there yet
    timers.append(loop.call_later(0.0, note(seen, "second")))
    loop.poll(None)
    assert seen == []


def test_what_a_timer_asks_for_at_once_comes_at_the_next_turn(loop: Loop) -> None:
    seen: list[str] = []

    def again() -> None:
        seen.append("turn")
        loop.call_later(0.0, again)

    loop.call_later(0.0, again)
    loop.poll(None)
    assert seen == ["turn"]
    loop.poll(None)
    assert seen == ["turn", "turn"]


def test_what_a_descriptor_s_callback_asks_for_at_once_comes_at_the_next_turn(
    loop: Loop, ends: tuple[int, int]
) -> None:
    seen: list[str] = []

    def readable() -> None:
        seen.append("readable")
        loop.call_later(0.0, note(seen, "timer"))

    loop.register(ends[0], readable)
    os.write(ends[1], b"x")
    loop.poll(None)
    assert seen == ["readable"]
    loop.unregister(ends[0])
    loop.poll(None)
    assert seen == ["readable", "timer"]


def test_the_sleep_ends_at_the_sooner_of_the_caller_s_moment_and_the_next_timer() -> None:
    loop = Loop()
    try:
        seen: list[str] = []
        loop.call_later(0.02, note(seen, "timer"))
        for _ in range(3):  # a machine that stands still in one of them makes it a freeze, which moves the timer
            if not seen:
                loop.poll(loop.clock.monotonic() + 3600)
        assert seen == ["timer"]
        loop.call_later(3600, note(seen, "an hour"))
        before = loop.clock.monotonic()
        loop.poll(before + 0.02)
        assert loop.clock.monotonic() >= before + 0.02
        assert seen == ["timer"]
    finally:
        loop.close()


def test_a_moment_that_has_passed_is_no_sleep(loop: Loop, clock: FakeClock) -> None:
    loop.poll(clock.monotonic() - 5.0)


@pytest.mark.parametrize("seconds", [LONGEST_SLEEP * 2, 315_360_000.0, 1e18])
def test_a_deadline_years_away_is_slept_for_in_parts(
    loop: Loop, clock: FakeClock, ends: tuple[int, int], seconds: float
) -> None:
    seen: list[str] = []
    loop.register(ends[0], note(seen, "readable"))
    os.write(ends[1], b"x")
    loop.poll(clock.monotonic() + seconds)
    loop.call_later(seconds, note(seen, "timer"))
    loop.poll(None)
    assert seen == ["readable", "readable"]


# Freezes.


@pytest.fixture
def thaws(loop: Loop, caplog: pytest.LogCaptureFixture) -> list[float]:
    caplog.set_level(logging.WARNING, "prefork")
    seen: list[float] = []
    loop.on_thaw(seen.append)
    return seen


def passing(clock: FakeClock, seconds: float) -> Callable[[], None]:
    """A callback in which that much time passes."""

    def callback() -> None:
        clock.advance(seconds)

    return callback


def test_time_that_passes_in_a_callback_is_not_a_freeze_if_it_is_short(
    loop: Loop, clock: FakeClock, thaws: list[float], ends: tuple[int, int]
) -> None:
    loop.register(ends[0], passing(clock, FROZEN * 0.9))
    os.write(ends[1], b"x")
    for _ in range(3):
        loop.poll(None)
        clock.advance(FROZEN * 0.9)
    assert thaws == []


@pytest.mark.parametrize("where", ["in a callback", "between two turns"])
def test_a_freeze_outside_of_the_sleep_is_noticed_before_the_next_decision_or_sleep(
    loop: Loop,
    clock: FakeClock,
    thaws: list[float],
    ends: tuple[int, int],
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    loop.poll(0.0)
    if where == "in a callback":
        loop.register(ends[0], passing(clock, 50.0))
        os.write(ends[1], b"x")
    else:
        clock.advance(50.0)
    loop.poll(0.0)
    assert thaws == [50.0]
    assert [record.message for record in caplog.records] == [
        "the master was frozen, or held up, for 50.0 s: every deadline starts anew"
    ]
    loop.unregister(ends[0])
    loop.poll(0.0)
    assert thaws == [50.0]


def test_what_passes_before_the_first_turn_is_no_freeze(loop: Loop, clock: FakeClock, thaws: list[float]) -> None:
    clock.advance(50.0)
    loop.poll(0.0)
    assert thaws == []


def test_timers_move_with_a_freeze_and_keep_their_order(loop: Loop, clock: FakeClock, thaws: list[float]) -> None:
    seen: list[str] = []
    loop.poll(0.0)
    loop.call_later(1.0, note(seen, "first"))
    loop.call_later(2.0, note(seen, "second"))
    clock.advance(50.0)
    loop.poll(0.0)
    assert (thaws, seen) == ([50.0], [])
    clock.advance(0.999)
    loop.poll(0.0)
    assert seen == []
    clock.advance(0.001)
    loop.poll(0.0)
    assert seen == ["first"]
    clock.advance(1.0)
    loop.poll(0.0)
    assert seen == ["first", "second"]


def test_a_thaw_that_is_told_in_a_turn_moves_the_timers_of_that_turn_too(
    loop: Loop, clock: FakeClock, ends: tuple[int, int]
) -> None:
    seen: list[str] = []
    loop.call_later(0.0, note(seen, "timer"))
    loop.register(ends[0], lambda: loop.thawed(3.0) if os.read(ends[0], 1) else None)
    os.write(ends[1], b"x")
    loop.poll(0.0)
    assert seen == []
    for _ in range(4):
        clock.advance(FROZEN)
        loop.poll(0.0)
    assert seen == ["timer"]


def test_who_says_it_again_and_again_is_believed_less_and_less(
    loop: Loop, clock: FakeClock, thaws: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Deadlines of the kind that each thaw starts anew (Goal.epoch) come all the same."""
    believed = []
    for _ in range(400):
        told = len(thaws)
        loop._slept = 0.5  # what a poll that a signal ends leaves
        loop.thawed()
        if len(thaws) > told:
            believed.append(clock.monotonic())
        clock.advance(0.5)
    gaps = [later - sooner for sooner, later in itertools.pairwise(believed)]
    assert gaps == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    assert thaws == [0.5] * len(believed)
    said = [record for record in caplog.records if "SIGCONT comes too often" in record.message]
    assert 0 < len(said) <= 200 / INTERVAL + 1
    loop.thawed(3.0)  # the clock's word counts in any case
    assert thaws[-1] == 3.0
    clock.advance(CREDENCE.maximum + 1)
    loop._slept = 0.5
    loop.thawed()  # and after a long peace anybody's
    assert thaws[-1] == 0.5


def test_somebody_may_say_how_long_it_was(loop: Loop, clock: FakeClock, thaws: list[float]) -> None:
    seen: list[str] = []
    loop.call_later(0.0, note(seen, "timer"))
    loop.thawed(3.0)
    assert thaws == [3.0]
    loop.poll(clock.monotonic())
    for _ in range(3):
        assert seen == []
        clock.advance(FROZEN)
        loop.poll(clock.monotonic())
    assert seen == ["timer"]


SLEEPER = """
    import json, linecache, logging, os, signal, sys
    from prefork.supervisor.event_loop import Loop
    logging.disable()
    loop, thaws, seen, stops, seconds = Loop(), [], [], sys.argv[1] == "stops", float(sys.argv[3] or "inf")
    loop.on_thaw(thaws.append)
    if sys.argv[2] == "listens":
        loop.on_signal(signal.SIGCONT, loop.thawed)
    loop.on_signal(signal.SIGTERM, lambda: seen.append("term"))

    def stop(signum, frame):
        # Only in the sleep itself: it goes on when we do.
        if "_epoll.poll(" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.kill(os.getpid(), signal.SIGSTOP)

    print("asleep", flush=True)  # nearly: whoever hears it may have the processor first
    loop.poll(0.0)
    before = loop.clock.monotonic()
    if stops:
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    while not thaws and not seen and loop.clock.monotonic() < before + seconds:
        loop.poll(None if seconds == float("inf") else before + seconds)
    print(json.dumps([loop.clock.monotonic() - before, thaws]), flush=True)
"""


def asleep(seconds: float | None, *, stops: bool = False, listens: bool = False) -> subprocess.Popen[str]:
    """A program that sleeps in the loop: for so many seconds, or without a deadline.

    Args:
        stops: in its sleep it stops (SIGSTOP); somebody has to continue it.
        listens: it tells the loop of SIGCONT.
    """
    arguments = ("stops" if stops else "", "listens" if listens else "", str(seconds or ""))
    program = subprocess.Popen(command(SLEEPER, *arguments), cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert program.stdout is not None
    assert program.stdout.readline() == "asleep\n"
    return program


def result(program: subprocess.Popen[str]) -> tuple[float, list[float]]:
    output, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    passed, thaws = json.loads(output)
    return passed, thaws


def stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


def continue_after(program: subprocess.Popen[str], seconds: float) -> None:
    wait_for(lambda: stopped(program.pid), message="the program to stop")
    threading.Event().wait(seconds)  # how long it is frozen is the fact that is tested
    program.send_signal(signal.SIGCONT)


def test_a_process_that_was_frozen_in_its_sleep_finds_out() -> None:
    """All of the sleep counts as frozen, since nobody knows when the freeze began."""
    program = asleep(0.5, stops=True)
    continue_after(program, 0.5 + FROZEN + 0.3)
    passed, thaws = result(program)
    assert len(thaws) == 1
    assert 0.5 + FROZEN + 0.3 <= thaws[0] <= passed


def test_a_sleep_without_a_deadline_may_last_for_ever() -> None:
    program = asleep(None, stops=True)
    continue_after(program, FROZEN + 0.3)
    program.send_signal(signal.SIGTERM)
    passed, thaws = result(program)
    assert passed > FROZEN
    assert thaws == []


@pytest.mark.parametrize("seconds", [3600.0, None])
def test_a_short_freeze_is_told_by_the_handler_of_sigcont(seconds: float | None) -> None:
    program = asleep(seconds, stops=True, listens=True)
    continue_after(program, 0.3)
    passed, thaws = result(program)
    assert len(thaws) == 1
    assert 0.3 <= thaws[0] <= passed


# Signals.


def test_a_signal_wakes_the_loop_and_is_told_there() -> None:
    program = asleep(3600.0)
    program.send_signal(signal.SIGTERM)
    _, thaws = result(program)
    assert thaws == []


def test_signals_are_told_outside_of_their_handlers_in_their_order_and_by_name() -> None:
    program = """
        import json, os, signal
        from prefork.supervisor.event_loop import Loop
        loop, seen = Loop(), []
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
            loop.on_signal(signum, lambda signum=signum: seen.append(signum.name))
        quiet = loop.noted
        for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), signum)
        before = list(seen)
        noted = loop.noted
        loop.poll(None)
        loop.poll(0.0)
        print(json.dumps([quiet, before, noted, seen, loop.noted]))
    """
    assert facts(program) == [False, [], True, ["SIGUSR1", "SIGTERM", "SIGUSR1"], False]


def test_a_callback_is_for_the_signal_that_was_asked_for_last() -> None:
    program = """
        import json, os, signal
        from prefork.supervisor.event_loop import Loop
        loop, seen = Loop(), []
        loop.on_signal(signal.SIGHUP, lambda: seen.append("first"))
        loop.on_signal(signal.SIGHUP, lambda: seen.append("second"))
        os.kill(os.getpid(), signal.SIGHUP)
        loop.poll(None)
        loop.close()
        print(json.dumps([seen, signal.getsignal(signal.SIGHUP) is signal.SIG_DFL]))
    """
    assert facts(program) == [["second"], True]


def test_close_gives_everything_back_and_may_be_called_again() -> None:
    program = """
        import json, os, signal
        from prefork.supervisor.event_loop import Loop
        def mine(signum, frame): pass
        signal.signal(signal.SIGTERM, mine)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        reader, writer = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(writer)
        before = sorted(os.listdir("/proc/self/fd"))
        loop = Loop()
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            loop.on_signal(signum, print)
        loop.call_later(5, print)
        loop.register(reader, print)
        loop.close()
        loop.close()
        print(json.dumps([
            signal.getsignal(signal.SIGTERM) is mine,
            signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
            signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL,
            signal.set_wakeup_fd(-1) == writer,
            sorted(os.listdir("/proc/self/fd")) == before,
        ]))
    """
    assert facts(program) == [True] * 5


def test_an_idle_loop_is_not_woken() -> None:
    program = asleep(None)

    def switches() -> int:
        with open(f"/proc/{program.pid}/status", encoding="ascii") as status:
            return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)

    def rests() -> bool:
        before = switches()
        threading.Event().wait(0.5)  # a time in which nothing is to happen
        return switches() == before

    wait_for(rests, message="half a second in which the program is not run")
    program.send_signal(signal.SIGTERM)
    result(program)
