import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.system.backoff import Backoff, Retry
from prefork.system.clock import SYSTEM

backoffs = st.builds(
    lambda initial, factor, more, jitter: Backoff(initial, factor, initial + more, jitter),
    st.floats(0, 1e6),
    st.floats(1, 1e6),
    st.floats(0, 1e6),
    st.floats(0, 1),
)
fractions = st.floats(0, 1, exclude_max=True)


def test_delays_grow_by_the_factor_up_to_the_cap() -> None:
    backoff = Backoff(initial=0.05, factor=2.0, maximum=0.25, jitter=0.0)
    assert [backoff.delay(n, 0.0) for n in range(5)] == [0.05, 0.1, 0.2, 0.25, 0.25]


def test_jitter_takes_its_part_away() -> None:
    backoff = Backoff(initial=1.0, factor=2.0, maximum=8.0, jitter=0.25)
    assert backoff.delay(1, 0.0) == 2.0
    assert backoff.delay(1, 0.5) == 1.75


@given(backoffs, st.integers(0, 10**9), fractions)
def test_a_delay_stays_between_its_bounds(backoff: Backoff, attempt: int, random: float) -> None:
    delay = backoff.delay(attempt, random)
    assert 0.0 <= delay <= backoff.maximum
    assert delay >= backoff.initial * (1.0 - backoff.jitter) * (1 - 1e-12)


@given(backoffs, st.integers(0, 2000), fractions)
def test_delays_never_shrink_between_resets(backoff: Backoff, attempt: int, random: float) -> None:
    assert backoff.delay(attempt, random) <= backoff.delay(attempt + 1, random)


@pytest.mark.parametrize("initial", [0.0, 5e-324, 1.0])
def test_an_attempt_count_beyond_any_float_is_capped(initial: float) -> None:
    backoff = Backoff(initial=initial, factor=1e300, maximum=3.0, jitter=0.0)
    assert backoff.delay(10**30, 0.0) == (3.0 if initial else 0.0)


@pytest.mark.parametrize(
    ("initial", "factor", "maximum", "jitter"),
    [
        (-0.1, 2, 1, 0),
        (2, 2, 1, 0),
        (math.nan, 2, 1, 0),
        (0, 2, math.nan, 0),
        (0, 2, math.inf, 0),
        (0, 0.9, 1, 0),
        (0, math.nan, 1, 0),
        (0, math.inf, 1, 0),
        (0, 2, 1, -0.1),
        (0, 2, 1, 1.1),
        (0, 2, 1, math.nan),
    ],
)
def test_parameters_out_of_range_are_refused(initial: float, factor: float, maximum: float, jitter: float) -> None:
    with pytest.raises(ValueError, match=r"give|finite cap"):
        Backoff(initial, factor, maximum, jitter)


def test_retry_counts() -> None:
    retry = Retry(Backoff(1.0, 2.0, 4.0, 0.0))
    assert [retry.next() for _ in range(4)] == [1.0, 2.0, 4.0, 4.0]
    assert retry.attempts == 4


def test_retry_draws_its_jitter_from_the_given_source() -> None:
    draws = iter([0.0, 0.5])
    retry = Retry(Backoff(1.0, 1.0, 1.0, 0.5), rng=lambda: next(draws))
    assert [retry.next(), retry.next()] == [1.0, 0.75]


def test_forked_processes_draw_different_jitter() -> None:
    # Workers inherit the Retry of their master; if they drew the same numbers they would all probe at once.
    program = """if True:
        import os
        from prefork.system.backoff import Backoff, Retry
        retry = Retry(Backoff(1.0, 1.0, 1.0, 1.0))
        retry.next()
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                os.write(1, f"{retry.next()}\\n".encode())
                os._exit(0)
            os.waitpid(pid, 0)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=30)
    assert len(set(done.stdout.split())) == 4


def test_the_system_clock_is_the_kernels_monotonic_clock() -> None:
    before = SYSTEM.monotonic()
    assert before <= SYSTEM.monotonic()
    assert before >= 0
