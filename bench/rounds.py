"""Short rounds, interleaved: on a machine that is never quite idle, ratios within one round are what can be believed.

Every subject is measured once in each round, in an order that is shuffled anew; a figure is the median over the rounds,
and a ratio the median of the ratios within each.
"""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bench.workshop import HERE

T = TypeVar("T")

LEAST = 3
"""Rounds that a table has, however long they take."""

FAILURES = (AssertionError, OSError, RuntimeError, subprocess.SubprocessError)
"""What a server that doesn't serve, or stops to, ends in; it is left out then, and its table says so."""


@dataclass(frozen=True)
class Spread:
    """What a series of figures comes to."""

    median: float
    low: float
    """A quarter of the series lies below."""
    high: float
    """A quarter lies above."""

    @classmethod
    def of(cls, series: Sequence[float]) -> Spread:
        """Sum a series up; at least one figure."""
        if len(series) == 1:
            return cls(series[0], series[0], series[0])
        low, median, high = statistics.quantiles(series, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Table:
    """What a table is made of."""

    rows: dict[str, Any]
    missing: dict[str, str]
    """Why a server is not in it, by its title."""


def interleaved(
    names: Iterable[str],
    rounds: int,
    measure: Callable[[str], T],
    *,
    patience: float = math.inf,
    failed: dict[str, str] | None = None,
) -> dict[str, list[T]]:
    """Measure every subject ``rounds`` times.

    Args:
        names: the subjects.
        rounds: how often (count).
        measure: measures one subject once.
        patience: seconds after which no further round is begun, once there are three.
        failed: given the names of those that could not be measured, and why; they have no series. Without it the first
            failure is raised.

    Returns:
        The series of each; the n-th entries of all were measured in the same round.
    """
    series: dict[str, list[T]] = {name: [] for name in names}
    began = time.monotonic()
    for number in range(rounds):
        if number >= LEAST and time.monotonic() - began > patience:
            break
        order = list(series)
        random.shuffle(order)
        for name in order:
            say(f"round {number + 1} of {rounds}: {name}")
            try:
                series[name].append(measure(name))
            except FAILURES as why:
                if failed is None:
                    raise
                failed[name] = short(why)
                del series[name]
    say("")
    return series


def short(why: BaseException) -> str:
    """An error as a cell of a table; where this clone lies is nobody's business."""
    told = str(why).replace(f"{HERE.parent}/", "").strip()
    return (told.split("\n")[0] or type(why).__name__)[:200].replace("|", "/")


def say(what: str) -> None:
    """Show on a terminal what is under way, in place of what was."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def ratios(series: Mapping[str, Sequence[float]], base: str) -> dict[str, Spread]:
    """Each subject's figure as a multiple of ``base``'s in the same round."""
    return {
        name: Spread.of([one / other for one, other in zip(figures, series[base], strict=True)])
        for name, figures in series.items()
    }
