"""How long an answer takes under an open-loop load, and what a slow neighbour does to it.

Capacity is what wrk gets out of a server with 16 clients at that moment; loads are a half and four fifths of that. All
requests count from the moment at which they were due, so that a server that stalls is not spared those that it kept
from being sent.
"""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench import client, wrk
from bench.effort import Effort
from bench.rounds import Spread, interleaved, say
from bench.subjects import (
    APACHE,
    BJOERN,
    FLOOR,
    GRANIAN,
    GTHREAD,
    GUNICORN,
    HANDLER,
    KEPT,
    REUSE_PORT,
    UVICORN,
    UWSGI,
    WSGI,
    Subject,
    available,
)
from prefork.testing import Server

LOADS = (0.5, 0.8)

SLOW_EVERY = 100

SLOW_WORKERS = 8
"""So many that the slow requests alone never have them all."""

SLOW_RATE = 2000.0
"""Requests a second: 20 slow ones, which keep 0.4 of the 8 workers."""

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def measure(effort: Effort) -> dict[str, Any]:
    """Measure latencies.

    Returns:
        ``plain``: for each server and load the quantiles in microseconds, and what was lost. ``kept``: the same on
        connections that are kept. ``slow``: the same for the quick requests among which one in a hundred is slow.
    """
    peers = (WSGI, BJOERN, GRANIAN, GUNICORN, GTHREAD, UWSGI, UVICORN, APACHE) if effort.peers else (WSGI,)
    plain, missing = available((FLOOR, HANDLER, REUSE_PORT, *peers))
    keeping = [subject for subject in plain if subject in KEPT]
    slow = [subject for subject in plain if subject is not FLOOR]
    return {
        "missing": missing,
        "plain": _under_loads(plain, effort, kept=False),
        "kept": _under_loads(keeping, effort, kept=True),
        "slow": _beside_slow_ones(slow, effort),
    }


def _under_loads(subjects: Sequence[Subject], effort: Effort, *, kept: bool) -> dict[str, Any]:
    """The quantiles of each server at each load."""
    found: dict[str, Any] = {}
    capacity = {}
    with contextlib.ExitStack() as stack:
        servers = {subject.name: stack.enter_context(subject.serving()) for subject in subjects}
        for name, server in servers.items():
            say(f"latency: capacity of {name}")
            capacity[name] = wrk.run(server, 1.0, kept=kept).rate
        for load in LOADS:
            rates = {name: load * rate for name, rate in capacity.items()}
            look = partial(_open_loop, servers, rates, effort, kept=kept)
            series = interleaved(servers, effort.latency_rounds, look)
            for subject in subjects:
                row = _row(subject, series[subject.name], rates[subject.name])
                found.setdefault(subject.name, {})[str(load)] = row
    return found


def _beside_slow_ones(subjects: Sequence[Subject], effort: Effort) -> dict[str, Any]:
    """The quantiles of quick requests where one in a hundred is slow."""
    with contextlib.ExitStack() as stack:
        servers = {subject.name: stack.enter_context(subject.serving(SLOW_WORKERS)) for subject in subjects}
        rates = dict.fromkeys(servers, SLOW_RATE)
        look = partial(_open_loop, servers, rates, effort, slow_every=SLOW_EVERY)
        series = interleaved(servers, effort.latency_rounds, look)
        return {subject.name: _row(subject, series[subject.name], SLOW_RATE) for subject in subjects}


def _open_loop(
    servers: Mapping[str, Server],
    rates: Mapping[str, float],
    effort: Effort,
    name: str,
    *,
    slow_every: int = 0,
    kept: bool = False,
) -> client.Latencies:
    seed, seconds = random.randrange(1 << 30), effort.latency_seconds
    return client.open_loop(servers[name], rates[name], seconds, seed=seed, slow_every=slow_every, kept=kept)


def _row(subject: Subject, series: Sequence[client.Latencies], rate: float) -> dict[str, Any]:
    """Medians over the rounds, so that one round in which the machine had other work decides nothing."""
    rounds = [sorted(latencies.quick) for latencies in series]
    quick = sorted(value for one in rounds for value in one)
    spread = Spread.of([_quantile(one, QUANTILES["p99"]) for one in rounds])
    return {
        "title": subject.title,
        "rate": rate,
        "answered": len(quick),
        "lost": sum(latencies.lost for latencies in series),
        "busy": max(latencies.busy for latencies in series),
        **{name: statistics.median(_quantile(one, fraction) for one in rounds) for name, fraction in QUANTILES.items()},
        "p99s": [_quantile(one, QUANTILES["p99"]) for one in rounds],
        "p99 low": spread.low,
        "p99 high": spread.high,
        "curve": [_quantile(quick, 1 - 10 ** (-step / 10)) for step in range(41)],
    }


def _quantile(ordered: Sequence[int], fraction: float) -> int:
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0
