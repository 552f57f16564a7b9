"""The descriptors that a child closes, by way of the real close_range(2)."""

from __future__ import annotations

import itertools
import os

from hypothesis import given
from hypothesis import strategies as st

from prefork.system import process

BASE = 200
NUMBERS = range(BASE, BASE + 41)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@given(st.sets(st.sampled_from(NUMBERS)), st.sampled_from((-1, *NUMBERS)))
def test_those_named_are_closed_and_no_others(private: set[int], but: int) -> None:
    source = os.open("/dev/null", os.O_RDONLY)
    try:
        for number in NUMBERS:
            os.dup2(source, number, inheritable=False)
        process.close(process.runs(private), but)
        assert {number for number in NUMBERS if not is_open(number)} == private - {but}
        assert is_open(source)
    finally:
        os.close(source)
        os.closerange(NUMBERS.start, NUMBERS.stop)


@given(st.lists(st.integers(0, 40)))
def test_runs_are_apart_and_in_order(descriptors: list[int]) -> None:
    runs = process.runs(descriptors)
    assert [fd for first, end in runs for fd in range(first, end)] == sorted(set(descriptors))
    assert all(end < first for (_, end), (first, _) in itertools.pairwise(runs))


def test_a_number_that_is_closed_already_does_not_matter() -> None:
    process.close(process.runs([100_000, 200_000]))
