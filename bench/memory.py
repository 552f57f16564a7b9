"""What a worker of a real application holds, and what its first requests cost: loaded by each, preloaded, warmed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from bench import ours, peers
from bench.effort import Effort
from bench.rounds import FAILURES, Table, say, short
from bench.subject import Subject, available, workers_of
from prefork.testing import Load, Server, call_until, request, wait_for
from prefork.testing import measure as account

SUBJECTS = (
    *ours.LOADED,
    peers.gunicorn("gunicorn-each", "gunicorn, sync", "sync", application=ours.DJANGO),
    peers.gunicorn("gunicorn-preload", "gunicorn, sync, preload", "sync", "--preload", application=ours.DJANGO),
    peers.uwsgi("uwsgi-each", "uWSGI, lazy-apps", application=ours.DJANGO),
    peers.granian("granian-each", "granian, WSGI", application=ours.DJANGO),
)
"""A Django application, in as many ways as a server has to load it."""

_OURS = 3  # of which a run without peers makes do

LATER = 8
"""Requests that are seen beside a worker's first two."""


def held(effort: Effort) -> Table:
    """MiB of each server, when each worker has answered requests and collected its garbage."""
    return _each(SUBJECTS, effort, _held)


def first(effort: Effort) -> Table:
    """CPU milliseconds of a new worker's first request, its second, and a later one."""
    return _each(
        [one for one in SUBJECTS if one.name != "granian-each"], effort, _first
    )  # it has a thread that never rests


def _each(subjects: Sequence[Subject], effort: Effort, look: Callable[[Subject, Effort], dict[str, Any]]) -> Table:
    there, missing = available(subjects if effort.peers else subjects[:_OURS])
    rows = {}
    for subject in there:
        say(f"memory: {subject.name}")
        try:
            rows[subject.name] = {**subject.row(), **look(subject, effort)}
        except FAILURES as why:
            missing[subject.title] = f"failed: {short(why)}"
    return Table(rows, missing)


def _held(subject: Subject, effort: Effort) -> dict[str, Any]:
    with subject.serving(effort.memory_workers) as server:
        for path, count in (("/", 40), ("/collect", 10)):
            payload = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            with Load(server.address, clients=4, count=count * effort.memory_workers, payload=payload) as load:
                tally = load.wait()
            if tally.lost:
                raise RuntimeError(f"{subject.name}: {tally}")
        workers = workers_of(server)
        infos = [psutil.Process(pid).memory_full_info() for pid in workers]
        beside = [psutil.Process(pid).memory_full_info() for pid in set(server.tree()) - set(workers)]
        return {
            "workers": len(infos),
            "uss": statistics.median(info.uss for info in infos) / 2**20,
            "pss": sum(info.pss for info in (*infos, *beside)) / 2**20,
            "beside": sum(info.pss for info in beside) / 2**20,
        }


def _first(subject: Subject, effort: Effort) -> dict[str, Any]:
    """Of workers that have taken another's place, and answered nobody; one server has one at a time."""
    with subject.serving(1) as server:
        costs = [_costs(server, _replaced(subject, server)) for _ in range(effort.firsts)]
    middle = [statistics.median(column) * 1e3 for column in zip(*costs, strict=True)]
    return {"first": middle[0], "second": middle[1], "later": statistics.median(middle[-LATER:])}


def _replaced(subject: Subject, server: Server) -> int:
    """The worker that takes the place of the present one, once it has booted."""
    assert subject.reload is not None
    (old,) = call_until(lambda: workers_of(server), lambda found: len(found) == 1)
    subject.reload(server)
    (new,) = call_until(lambda: workers_of(server), lambda found: len(found) == 1 and old not in found)
    wait_for(lambda: _rests(new, 0.3))
    return new


def _rests(worker: int, seconds: float) -> bool:
    """Whether a worker uses no CPU for so long."""
    before = account.cpu_seconds([worker])
    time.sleep(seconds)  # that nothing happens can be seen by waiting alone
    return account.cpu_seconds([worker]) == before


def _costs(server: Server, worker: int) -> list[float]:
    """CPU seconds of the worker in each of its first requests and in some later ones."""
    costs = []
    for _ in range(2 + LATER):
        before = account.cpu_seconds([worker])
        answer = request(server.address)
        if answer.status != 200:
            raise RuntimeError(f"no answer: {answer}")
        wait_for(lambda: _rests(worker, 0.01))
        costs.append(account.cpu_seconds([worker]) - before)
    return costs


TABLES = {"held": held, "first": first}
