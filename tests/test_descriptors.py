"""The descriptors that a child closes, by way of the real close_range(2)."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from prefork.system.process import Descriptors


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=80))
def test_those_held_are_closed_and_no_others(steps: list[tuple[bool, int]]) -> None:
    base = 200
    source = os.open("/dev/null", os.O_RDONLY)
    descriptors, held = Descriptors(), set()
    for add, offset in steps:
        if add:
            held.add(base + offset)
            descriptors.add(base + offset)
        else:
            held.discard(base + offset)
            descriptors.discard(base + offset)
    numbers = range(base, base + 41)
    try:
        for number in numbers:
            os.dup2(source, number, inheritable=False)
        descriptors.close()
        assert {number for number in numbers if not is_open(number)} == held
        assert is_open(source)
    finally:
        os.close(source)
        os.closerange(numbers.start, numbers.stop)


def test_none_held_closes_nothing() -> None:
    source = os.open("/dev/null", os.O_RDONLY)
    Descriptors().close()
    assert is_open(source)
    os.close(source)


def test_a_high_number_that_is_closed_already_does_not_matter() -> None:
    descriptors = Descriptors()
    descriptors.add(100_000)
    descriptors.discard(200_000)
    descriptors.close()
