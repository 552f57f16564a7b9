"""What a connection costs: CPU time of the whole server, and connections a second."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import client, wrk
from bench.effort import Effort
from bench.rounds import Spread, interleaved, ratios, say
from bench.subjects import (
    BARE,
    ECHO,
    FLOOR,
    HANDLER,
    HELLO,
    KEPT,
    REUSE_PORT,
    TWO_LISTENERS,
    WSGI,
    WSGI_CLOSING,
    Subject,
    available,
)
from prefork.testing import Server

OURS = (FLOOR, BARE, HANDLER, REUSE_PORT, TWO_LISTENERS, WSGI, WSGI_CLOSING)

WARM = 1000.0
"""Connections a second for half a second before the first round, for caches and interpreters that specialize."""


def measure(effort: Effort) -> dict[str, Any]:
    """Load every server with short connections, and those that echo with longer ones.

    Returns:
        ``hello``: for each server microseconds of CPU a connection, that as a multiple of the floor's, connections a
        second. ``kept``: the same for requests on connections that are kept, as a multiple of prefork's.
        ``echo``: the same for each number of messages. ``missing``: why a server is not there.
    """
    hello, missing = available(HELLO if effort.peers else OURS)
    echo, _ = available(ECHO if effort.peers else ECHO[:3])
    results: dict[str, Any] = {"missing": missing}
    with _all_serving(hello) as servers:
        for name in servers:
            say(f"cost: {name}")
            client.open_loop(servers[name], WARM, 0.5, seed=1)
        runs = interleaved(servers, effort.rounds, lambda name: wrk.run(servers[name], effort.seconds))
        results["hello"] = _sums(hello, runs, FLOOR)
    keeping, _ = available(KEPT if effort.peers else KEPT[:1])
    if WSGI in keeping:
        with _all_serving(keeping) as servers:
            runs = interleaved(servers, effort.rounds, lambda name: wrk.run(servers[name], effort.seconds, kept=True))
            results["kept"] = _sums(keeping, runs, WSGI)
    with _all_serving(echo) as servers:
        results["echo"] = {}
        for messages in effort.messages:
            runs = interleaved(servers, effort.message_rounds, _echoing(servers, messages, effort.seconds))
            results["echo"][str(messages)] = _sums(echo, runs, FLOOR)
    return results


@contextlib.contextmanager
def _all_serving(subjects: Sequence[Subject]) -> Any:
    with contextlib.ExitStack() as stack:
        yield {subject.name: stack.enter_context(subject.serving()) for subject in subjects}


def _echoing(servers: Mapping[str, Server], messages: int, seconds: float) -> Callable[[str], wrk.Run]:
    return lambda name: client.echo(servers[name], messages, seconds)


def _sums(subjects: Sequence[Subject], runs: Mapping[str, Sequence[wrk.Run]], base: Subject) -> dict[str, Any]:
    costs = {name: [run.cost for run in series] for name, series in runs.items()}
    multiples = ratios(costs, base.name)
    return {
        subject.name: {
            "title": subject.title,
            "kind": subject.kind,
            "cost": vars(Spread.of(costs[subject.name])),
            "ratio": vars(multiples[subject.name]),
            "rate": vars(Spread.of([run.rate for run in runs[subject.name]])),
            "errors": sum(run.errors for run in runs[subject.name]),
            "costs": costs[subject.name],
        }
        for subject in subjects
    }
