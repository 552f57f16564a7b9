"""How long an answer takes under an open-loop load, and what a slow neighbour does to it.

Capacity is what wrk gets out of a server with 16 clients at that moment; loads are a half and four fifths of that. All
requests count from the moment at which they were due, so that a server that stalls is not spared those that it kept
from being sent.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench import client, wrk
from bench.effort import Effort
from bench.rounds import interleaved, say
from bench.subjects import (
    APACHE,
    BJOERN,
    FLOOR,
    GUNICORN,
    HANDLER,
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
        ``plain``: for each server and load the quantiles in microseconds, and what was lost. ``slow``: the same for
        the quick requests among which one in a hundred is slow.
    """
    peers = (WSGI, BJOERN, GUNICORN, UWSGI, UVICORN, APACHE) if effort.peers else ()
    plain, missing = available((FLOOR, HANDLER, REUSE_PORT, *peers))
    results: dict[str, Any] = {"missing": missing, "plain": {}, "slow": {}}
    capacity = {}
    with contextlib.ExitStack() as stack:
        servers = {subject.name: stack.enter_context(subject.serving()) for subject in plain}
        for name, server in servers.items():
            say(f"latency: capacity of {name}")
            capacity[name] = wrk.run(server, 1.0).rate
        for load in LOADS:
            series = interleaved(
                servers,
                effort.latency_rounds,
                partial(_open_loop, servers, {name: load * rate for name, rate in capacity.items()}, effort),
            )
            for subject in plain:
                row = _row(subject, series[subject.name], load * capacity[subject.name])
                results["plain"].setdefault(subject.name, {})[str(load)] = row
    slow = (HANDLER, REUSE_PORT)
    with contextlib.ExitStack() as stack:
        servers = {subject.name: stack.enter_context(subject.serving(SLOW_WORKERS)) for subject in slow}
        series = interleaved(
            servers,
            effort.latency_rounds,
            partial(_open_loop, servers, dict.fromkeys(servers, SLOW_RATE), effort, slow_every=SLOW_EVERY),
        )
        results["slow"] = {subject.name: _row(subject, series[subject.name], SLOW_RATE) for subject in slow}
    return results


def _open_loop(
    servers: Mapping[str, Server], rates: Mapping[str, float], effort: Effort, name: str, *, slow_every: int = 0
) -> client.Latencies:
    seed = random.randrange(1 << 30)
    return client.open_loop(servers[name], rates[name], effort.latency_seconds, seed=seed, slow_every=slow_every)


def _row(subject: Subject, series: Sequence[client.Latencies], rate: float) -> dict[str, Any]:
    quick = sorted(value for latencies in series for value in latencies.quick)
    return {
        "title": subject.title,
        "rate": rate,
        "answered": len(quick),
        "lost": sum(latencies.lost for latencies in series),
        **{name: _quantile(quick, fraction) for name, fraction in QUANTILES.items()},
        "curve": [_quantile(quick, 1 - 10 ** (-step / 10)) for step in range(41)],
    }


def _quantile(ordered: Sequence[int], fraction: float) -> int:
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0
