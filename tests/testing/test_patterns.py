from __future__ import annotations

from errno import EAGAIN, EMFILE, ENFILE
from itertools import repeat

import pytest

from prefork.testing.faults import Injector, always, every, first, lasting, once, per_process
from prefork.testing.waiting import wait_for


def answers(pattern: object, calls: int, pid: int = 1) -> list[int]:
    assert callable(pattern)
    return [pattern(one) for one in repeat(pid, calls)]


def test_once_fails_one_call() -> None:
    assert answers(once(EMFILE), 4) == [EMFILE, 0, 0, 0]


def test_first_fails_so_many() -> None:
    assert answers(first(2, ENFILE), 4) == [ENFILE, ENFILE, 0, 0]


def test_every_third_lets_two_through_first() -> None:
    assert answers(every(3, EAGAIN), 7) == [0, 0, EAGAIN, 0, 0, EAGAIN, 0]


def test_always_fails_all() -> None:
    assert answers(always(EMFILE), 3) == [EMFILE] * 3


def test_lasting_begins_with_the_first_call_and_ends() -> None:
    pattern = lasting(0.05, EMFILE)
    assert pattern(1) == EMFILE
    wait_for(lambda: pattern(1) == 0)
    assert answers(pattern, 3) == [0] * 3


def test_per_process_gives_each_its_own() -> None:
    pattern = per_process(lambda: once(EMFILE))
    assert [pattern(1), pattern(2), pattern(1), pattern(2)] == [EMFILE, EMFILE, 0, 0]


@pytest.mark.parametrize("names", [(), ("accept", "nothing")])
def test_an_injector_is_made_for_calls_that_it_knows(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="accept, dup"):
        Injector(*names)
