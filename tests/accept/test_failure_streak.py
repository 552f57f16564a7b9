"""What a worker remembers of its trouble, and forgets."""

from __future__ import annotations

import random
from errno import EMFILE, ENFILE, EPERM

import pytest

from prefork.accept.failure_streak import FailureStreak
from prefork.net.accept_errors import Reaction
from prefork.system.backoff import Backoff

PLAIN = Backoff(initial=0.05, factor=2.0, maximum=0.25, jitter=0.0)


def test_waits_grow() -> None:
    streak = FailureStreak(PLAIN)
    assert (streak.backs_off, streak.errno, streak.failures, streak.fruitless, streak.exhausted) == (
        False,
        0,
        0,
        0,
        False,
    )
    assert [streak.wait(EMFILE, Reaction.BACK_OFF_WORKER) for _ in range(5)] == [0.05, 0.1, 0.2, 0.25, 0.25]
    assert streak.backs_off
    assert (streak.errno, streak.failures) == (EMFILE, 5)


def test_after_a_relief_that_was_none_the_wait_is_no_shorter() -> None:
    streak = FailureStreak(PLAIN)
    streak.wait(EMFILE, Reaction.BACK_OFF_WORKER)
    streak.wait(EMFILE, Reaction.BACK_OFF_WORKER)
    streak.relieved()
    assert (streak.backs_off, streak.errno, streak.waited_for(EMFILE), streak.failures) == (False, 0, 0.0, 2)
    assert streak.wait(EMFILE, Reaction.BACK_OFF_WORKER) == 0.2


def test_time_counts_for_the_present_failure_alone() -> None:
    streak = FailureStreak(PLAIN)
    streak.wait(EPERM, Reaction.BACK_OFF_PERMISSION)
    streak.wait(EPERM, Reaction.BACK_OFF_PERMISSION)
    assert streak.waited_for(EPERM) == pytest.approx(0.15)
    assert streak.waited_for(EMFILE) == 0
    streak.wait(EMFILE, Reaction.BACK_OFF_WORKER)
    assert streak.waited_for(EPERM) == 0
    assert streak.waited_for(EMFILE) == pytest.approx(0.2)  # the waits go on growing


@pytest.mark.parametrize("reaction", Reaction)
def test_exhaustion_is_of_descriptors_and_memory(reaction: Reaction) -> None:
    streak = FailureStreak(PLAIN)
    streak.wait(ENFILE, reaction)
    assert streak.exhausted == (reaction in {Reaction.BACK_OFF_WORKER, Reaction.BACK_OFF_SYSTEM})


def test_workers_whose_application_seeds_the_random_module_do_not_wait_in_step() -> None:
    jittery = Backoff(initial=0.25, factor=1.0, maximum=0.25, jitter=0.5)
    waits = set()
    for _ in range(8):
        random.seed(4)
        waits.add(FailureStreak(jittery).wait(EMFILE, Reaction.BACK_OFF_WORKER))
    assert len(waits) == 8
