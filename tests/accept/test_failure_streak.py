"""What a worker remembers of its trouble, and forgets."""

from __future__ import annotations

import random
from errno import EMFILE, ENFILE, EPERM

import pytest

from prefork.accept.failure_streak import Spell
from prefork.net.accept_errors import Verdict
from prefork.system.backoff import Backoff

PLAIN = Backoff(initial=0.05, factor=2.0, maximum=0.25, jitter=0.0)


def test_waits_grow() -> None:
    spell = Spell(PLAIN)
    assert (spell.backs_off, spell.errno, spell.failures, spell.fruitless, spell.scarce) == (False, 0, 0, 0, False)
    assert [spell.wait(EMFILE, Verdict.BACK_OFF_WORKER) for _ in range(5)] == [0.05, 0.1, 0.2, 0.25, 0.25]
    assert spell.backs_off
    assert (spell.errno, spell.failures) == (EMFILE, 5)


def test_after_a_relief_that_was_none_the_wait_is_no_shorter() -> None:
    spell = Spell(PLAIN)
    spell.wait(EMFILE, Verdict.BACK_OFF_WORKER)
    spell.wait(EMFILE, Verdict.BACK_OFF_WORKER)
    spell.relieved()
    assert (spell.backs_off, spell.errno, spell.waited_for(EMFILE), spell.failures) == (False, 0, 0.0, 2)
    assert spell.wait(EMFILE, Verdict.BACK_OFF_WORKER) == 0.2


def test_time_counts_for_the_present_failure_alone() -> None:
    spell = Spell(PLAIN)
    spell.wait(EPERM, Verdict.BACK_OFF_PERMISSION)
    spell.wait(EPERM, Verdict.BACK_OFF_PERMISSION)
    assert spell.waited_for(EPERM) == pytest.approx(0.15)
    assert spell.waited_for(EMFILE) == 0
    spell.wait(EMFILE, Verdict.BACK_OFF_WORKER)
    assert spell.waited_for(EPERM) == 0
    assert spell.waited_for(EMFILE) == pytest.approx(0.2)  # the waits go on growing


@pytest.mark.parametrize("verdict", Verdict)
def test_scarcity_is_of_descriptors_and_memory(verdict: Verdict) -> None:
    spell = Spell(PLAIN)
    spell.wait(ENFILE, verdict)
    assert spell.scarce == (verdict in {Verdict.BACK_OFF_WORKER, Verdict.BACK_OFF_SYSTEM})


def test_workers_whose_application_seeds_the_random_module_do_not_wait_in_step() -> None:
    jittery = Backoff(initial=0.25, factor=1.0, maximum=0.25, jitter=0.5)
    waits = set()
    for _ in range(8):
        random.seed(4)
        waits.add(Spell(jittery).wait(EMFILE, Verdict.BACK_OFF_WORKER))
    assert len(waits) == 8
