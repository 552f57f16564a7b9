"""How long an answer takes under an open-loop load, and what a slow neighbour does to it.

Capacity is what wrk gets out of a server with 16 clients at that moment; loads are a half and four fifths of that. All
requests count from the moment at which they were due, so that a server that stalls is not spared those that it kept
from being sent.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench import client, wrk
from bench.cost import KEPT
from bench.effort import Effort
from bench.ours import BARE, FLOOR, HANDLER, REUSE_PORT, WSGI
from bench.peers import APACHE, BJOERN, GRANIAN, GUNICORN, UVICORN, UWSGI
from bench.rounds import FAILURES, Spread, Table, interleaved, say, short
from bench.subject import Subject, all_serving, available, by_title
from prefork.testing import Server

SUBJECTS = (FLOOR, HANDLER, REUSE_PORT, WSGI, BJOERN, GRANIAN, GUNICORN, UWSGI, UVICORN, APACHE)

LOADS = (0.5, 0.8)

SLOW_EVERY = 100

SLOW_WORKERS = 8
"""So many that the slow requests alone never have them all."""

SLOW_RATE = 2000.0
"""Requests a second: 20 slow ones, which keep 0.4 of the 8 workers."""

_ABOUT = 0.9
"""Of the floor's capacity: with less a server is slower."""

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def plain(effort: Effort) -> Table:
    """For each server and load the quantiles in microseconds, and what was lost."""
    return _under_loads([one for one in _chosen(effort) if one is not REUSE_PORT], effort, kept=False)


def tail(effort: Effort) -> Table:
    """The same of a handler beside what it is judged by, in many short rounds, with as many requests of each."""
    many = replace(effort, latency_rounds=effort.tail_rounds, latency_seconds=effort.tail_seconds)
    return _under_loads((FLOOR, BARE, HANDLER), many, kept=False, even=True)


def kept(effort: Effort) -> Table:
    """The same on connections that are kept."""
    return _under_loads([subject for subject in _chosen(effort) if subject in KEPT], effort, kept=True)


def slow(effort: Effort) -> Table:
    """The quantiles of quick requests where one in a hundred is slow."""
    there, missing = available(subject for subject in _chosen(effort) if subject is not FLOOR)
    failed: dict[str, str] = {}
    with all_serving(there, missing, SLOW_WORKERS) as servers:
        rates = dict.fromkeys(servers, SLOW_RATE)
        look = partial(_open_loop, servers, rates, effort, slow_every=SLOW_EVERY)
        series = interleaved(servers, effort.latency_rounds, look, patience=effort.patience, failed=failed)
    rows = {subject.name: _row(subject, series[subject.name], SLOW_RATE) for subject in there if subject.name in series}
    return Table(rows, missing | by_title(there, failed))


def _chosen(effort: Effort) -> Sequence[Subject]:
    return SUBJECTS if effort.peers else SUBJECTS[:4]


def _under_loads(subjects: Sequence[Subject], effort: Effort, *, kept: bool, even: bool = False) -> Table:
    """The quantiles of each at each load."""
    there, missing = available(subjects)
    rows: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with all_serving(there, missing) as servers:
        capacity = {}
        for name, server in servers.items():
            say(f"latency: capacity of {name}")
            try:
                capacity[name] = wrk.run(server, 1.0, kept=kept).rate
            except FAILURES as why:
                failed[name] = short(why)
        if even:
            _even(capacity)
        for load in LOADS:
            rates = {name: load * rate for name, rate in capacity.items() if name not in failed}
            look = partial(_open_loop, servers, rates, effort, kept=kept)
            series = interleaved(rates, effort.latency_rounds, look, patience=effort.patience, failed=failed)
            for subject in there:
                if subject.name in series:
                    row = _row(subject, series[subject.name], rates[subject.name])
                    rows.setdefault(subject.name, {})[str(load)] = row
    return Table(rows, missing | by_title(there, failed))


def _even(capacity: dict[str, float]) -> None:
    """Give whoever is about as fast as the floor its load exactly.

    What differs by less is chance, and with two processors of which the client wants one, a p99 at four fifths of the
    load doubles by one part in twenty more.
    """
    floor = capacity.get(FLOOR.name)
    if floor is not None:
        capacity |= {name: floor for name, rate in capacity.items() if rate > _ABOUT * floor}


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
        **subject.row(),
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


TABLES = {"plain": plain, "tail": tail, "kept": kept, "slow": slow}
