"""What a connection costs: CPU time of the whole server, and connections a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench import client, wrk
from bench.effort import Effort
from bench.ours import (
    ASGI,
    BARE,
    ECHO_BARE,
    ECHO_FLOOR,
    ECHO_HANDLER,
    FLOOR,
    HANDLER,
    REUSE_PORT,
    TWO_LISTENERS,
    WSGI,
    WSGI_CLOSING,
)
from bench.peers import (
    APACHE,
    APACHE_EVENT,
    BJOERN,
    CHEROOT,
    FASTWSGI,
    GRANIAN,
    GTHREAD,
    GUNICORN,
    GUNICORN_ASGI,
    NET_SERVER,
    NET_SERVER_ECHO,
    PUMA,
    UVICORN,
    UWSGI,
    UWSGI_KEPT,
    WAITRESS,
)
from bench.rounds import Spread, Table, interleaved, ratios, say
from bench.subject import Subject, all_serving, available, by_title
from prefork.testing import Server

OURS = (FLOOR, BARE, HANDLER, REUSE_PORT, TWO_LISTENERS, WSGI, WSGI_CLOSING)

HELLO = (
    *OURS,
    NET_SERVER,
    BJOERN,
    FASTWSGI,
    GUNICORN,
    GTHREAD,
    UWSGI,
    WAITRESS,
    CHEROOT,
    GRANIAN,
    UVICORN,
    APACHE,
    PUMA,
)
"""Everything that answers a request."""

KEPT = (
    WSGI,
    ASGI,
    BJOERN,
    FASTWSGI,
    GTHREAD,
    GUNICORN_ASGI,
    WAITRESS,
    CHEROOT,
    GRANIAN,
    UVICORN,
    UWSGI_KEPT,
    PUMA,
    APACHE_EVENT,
)
"""What keeps connections for the next request."""

ECHO = (ECHO_FLOOR, ECHO_BARE, ECHO_HANDLER, NET_SERVER_ECHO)
"""Everything that gives back what it gets."""

WARM = 1000.0
"""Connections a second for half a second before the first round, for caches and interpreters that specialize."""

Drive = Callable[[Server, float], wrk.Run]
"""Loads a server for so many seconds."""


def hello(effort: Effort) -> Table:
    """Short connections: for each server CPU a connection, that as a multiple of the floor's, connections a second."""
    return sums(HELLO if effort.peers else OURS, effort, wrk.run, base=FLOOR, rounds=effort.rounds, warm=True)


def kept(effort: Effort) -> Table:
    """Requests on connections that are kept, as multiples of prefork's."""
    drive = partial(wrk.run, kept=True)
    return sums(KEPT if effort.peers else KEPT[:2], effort, drive, base=WSGI, rounds=effort.rounds)


def echo(effort: Effort) -> Table:
    """Connections that send messages and read them back: for each number of messages the same."""
    rows: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for messages in effort.messages:
        drive = partial(_echo, messages)
        table = sums(ECHO if effort.peers else ECHO[:3], effort, drive, base=ECHO_FLOOR, rounds=effort.feature_rounds)
        rows[str(messages)] = table.rows
        missing |= table.missing
    return Table(rows, missing)


def _echo(messages: int, server: Server, seconds: float) -> wrk.Run:
    return client.echo(server, messages, seconds)


def sums(
    subjects: Sequence[Subject],
    effort: Effort,
    drive: Drive,
    *,
    base: Subject,
    rounds: int,
    workers: int = 2,
    warm: bool = False,
) -> Table:
    """Run all servers, load each in turn, and sum up what it cost.

    Args:
        subjects: the servers.
        effort: how much is done.
        drive: loads one of them.
        base: whose multiples the figures are told as.
        rounds: how often each is loaded (count).
        workers: processes that accept (count).
        warm: whether each has some load before the first round.
    """
    there, missing = available(subjects)
    failed: dict[str, str] = {}
    with all_serving(there, missing, workers) as servers:
        for name in servers if warm else ():
            say(f"warming {name}")
            client.open_loop(servers[name], WARM, 0.5, seed=1)

        def measure(name: str) -> wrk.Run:
            return drive(servers[name], effort.seconds)

        runs = interleaved(servers, rounds, measure, patience=effort.patience, failed=failed)
    missing |= by_title(there, failed)
    return Table(summed(there, runs, base), missing)


def summed(subjects: Sequence[Subject], runs: Mapping[str, Sequence[wrk.Run]], base: Subject) -> dict[str, Any]:
    """A row for each subject that has runs."""
    if base.name not in runs:
        raise RuntimeError(f"{base.title} could not be measured, and without it nothing can be compared")
    costs = {name: [run.cost for run in series] for name, series in runs.items()}
    multiples = ratios(costs, base.name)
    return {
        subject.name: {
            **subject.row(),
            "cost": vars(Spread.of(costs[subject.name])),
            "ratio": vars(multiples[subject.name]),
            "rate": vars(Spread.of([run.rate for run in runs[subject.name]])),
            "errors": sum(run.errors for run in runs[subject.name]),
            "costs": costs[subject.name],
        }
        for subject in subjects
        if subject.name in runs
    }


TABLES = {"hello": hello, "kept": kept, "echo": echo}
