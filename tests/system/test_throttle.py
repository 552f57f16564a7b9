"""A condition is told when it begins, now and then, and when it ends."""

from __future__ import annotations

import logging
from errno import EMFILE, ENFILE

import pytest

from prefork.system.throttle import (
    BURST,
    EXCERPTS,
    EXCERPTS_PACE,
    INTERVAL,
    LONGEST,
    PACE,
    SHORTEST,
    Excerpts,
    Throttle,
    TokenBucket,
)
from prefork.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def throttle(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> Throttle:
    caplog.set_level(logging.DEBUG)
    return Throttle(logging.getLogger("prefork.test"), clock)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_thousand_retries_are_two_lines(
    throttle: Throttle, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for attempt in range(1000):
        assert throttle.tell(logging.ERROR, EMFILE, "no descriptors: %d", 7) == (attempt == 0)
        clock.advance(INTERVAL / 1001)
    throttle.end("over")
    throttle.end("over")
    assert said(caplog) == [("ERROR", "no descriptors: 7"), ("WARNING", "over")]


def test_what_lasts_is_told_again_with_a_count(
    throttle: Throttle, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(9):
        throttle.tell(logging.WARNING, EMFILE, "none")
        clock.advance(INTERVAL / 4)
    assert [text for _, text in said(caplog)] == ["none", *["none (and 3 times more since this was last said)"] * 2]


def test_what_comes_and_goes_is_no_more_than_what_lasts(
    throttle: Throttle, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(512):
        throttle.tell(logging.WARNING, EMFILE, "none")
        throttle.end("again")
        clock.advance(INTERVAL / 256)
    again = "none (and 255 times more since this was last said)"
    assert [text for _, text in said(caplog)] == ["none", "again", again, "again"]


def test_each_cause_is_told_by_itself(throttle: Throttle, caplog: pytest.LogCaptureFixture) -> None:
    for number in (EMFILE, ENFILE, EMFILE, ENFILE):
        throttle.tell(logging.DEBUG, number, "errno %d", number)
    throttle.end("over")
    assert said(caplog) == [("DEBUG", f"errno {EMFILE}"), ("DEBUG", f"errno {ENFILE}"), ("DEBUG", "over")]


def test_the_end_of_what_was_never_told_is_not_told(throttle: Throttle, caplog: pytest.LogCaptureFixture) -> None:
    throttle.end("over")
    assert said(caplog) == []


def test_a_bucket_lets_a_burst_through_and_then_its_pace(clock: FakeClock) -> None:
    bucket = TokenBucket(clock)
    assert sum(bucket.lets_through() for _ in range(10 * BURST)) == BURST
    assert bucket.passed_over() == 9 * BURST
    assert bucket.passed_over() == 0
    clock.advance(5.5 / PACE)
    assert sum(bucket.lets_through() for _ in range(10)) == 5
    clock.advance(10 * BURST / PACE)
    assert sum(bucket.lets_through() for _ in range(2 * BURST)) == BURST


def test_a_bucket_of_another_size(clock: FakeClock) -> None:
    bucket = TokenBucket(clock, burst=3, pace=0.1)
    assert sum(bucket.lets_through() for _ in range(10)) == 3
    clock.advance(19.0)
    assert sum(bucket.lets_through() for _ in range(10)) == 1
    assert bucket.passed_over() == 16


def test_of_frames_the_innermost_are_kept(clock: FakeClock) -> None:
    frames = "Current thread:\n" + "".join(f'  File "a.py", line {n} in f\n' for n in range(1000))
    cut = Excerpts(clock).of_frames(frames)
    assert cut.startswith(frames[: LONGEST * 3 // 4])
    assert cut.endswith(frames[-LONGEST // 4 :])
    assert len(cut) < LONGEST + 100
    assert Excerpts(clock).of_frames(frames[:100]) == frames[:100]


def test_after_a_long_flood_of_texts_the_next_one_is_whole_soon(clock: FakeClock) -> None:
    excerpts = Excerpts(clock)
    for _ in range(10_000):
        excerpts.of("x" * 100_000)
    clock.advance(2 * LONGEST / EXCERPTS_PACE)
    assert len(excerpts.of("y" * LONGEST)) == LONGEST


def test_a_flood_of_texts_is_told_in_part(clock: FakeClock) -> None:
    excerpts = Excerpts(clock)
    traceback = "Traceback\n" + "  frame\n" * 500 + "ValueError: why"
    assert excerpts.of(traceback) == traceback
    cut = excerpts.of("first " + "x" * 100_000 + " last")
    assert cut.startswith("first ")
    assert cut.endswith(" last")
    assert LONGEST <= len(cut) < LONGEST + 100
    told = sum(len(excerpts.of("x" * 100_000)) for _ in range(100))
    assert told < EXCERPTS + 100 * (SHORTEST + 100)
    assert len(excerpts.of("a line")) == 6
    clock.advance(100 * EXCERPTS / EXCERPTS_PACE)
    assert excerpts.of(traceback) == traceback
