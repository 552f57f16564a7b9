"""What a connection costs: CPU time of the whole server, and connections a second."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from bench import wrk
from bench.rounds import Spread, interleaved, ratios
from bench.subjects import FLOOR, HELLO, Subject


def measure(subjects: Sequence[Subject] = HELLO, rounds: int = 9, seconds: float = 1.0) -> dict[str, Any]:
    """Load all subjects in turn with short connections.

    Args:
        subjects: whom.
        rounds: how often each (count).
        seconds: how long each time.

    Returns:
        For each subject microseconds of CPU a connection, that as a multiple of the floor's, connections a second.
    """
    with contextlib.ExitStack() as stack:
        servers = {subject.name: stack.enter_context(subject.serving()) for subject in subjects}
        series = interleaved(servers, rounds, lambda name: wrk.run(servers[name], seconds))
    costs = {name: [run.cost for run in runs] for name, runs in series.items()}
    multiples = ratios(costs, FLOOR.name)
    return {
        subject.name: {
            "title": subject.title,
            "cost": Spread.of(costs[subject.name]).__dict__,
            "ratio": multiples[subject.name].__dict__,
            "rate": Spread.of([run.rate for run in series[subject.name]]).__dict__,
            "errors": sum(run.errors for run in series[subject.name]),
        }
        for subject in subjects
    }
