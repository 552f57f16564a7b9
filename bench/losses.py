"""What is lost: requests that had reached a server and were not answered, when it stops, reloads, crashes, runs dry.

The clients are prefork.testing's. They never repeat a request, so each that is refused, reset, cut or kept waiting for
ten seconds counts. Every scenario is the same for all servers that can play it, each told in its own way.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench.cost import KEPT
from bench.effort import Effort
from bench.kept import PATIENCE, KeptClients
from bench.ours import HANDLER, WSGI
from bench.peers import (
    APACHE,
    BJOERN,
    CHEROOT,
    GRANIAN,
    GTHREAD,
    GUNICORN,
    NET_SERVER,
    PUMA,
    UVICORN,
    UWSGI,
    WAITRESS,
)
from bench.rounds import Table, say, short
from bench.subject import Action, Subject, available, by_signal, workers_of
from prefork.testing import Load, NotInTimeError, Outcome, Server, Tally, burst, hold_port, request, wait_for
from prefork.testing.processes import is_gone, limited_descriptors

SLOW = b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

CLIENTS = 8

KEPT_CLIENTS = 24
THINK = 0.04
"""Seconds that one who keeps his connection thinks, at the most."""

OUTLIVED = 5.0
"""Seconds after which workers have outlived their master for good."""

PAUSE = 0.5
"""Seconds between two reloads or restarts, as an operator may well leave: some servers lose an order that comes while
they are still carrying out the last."""


SUBJECTS = (
    HANDLER,
    WSGI,
    GUNICORN,
    GTHREAD,
    UWSGI,
    UVICORN,
    GRANIAN,
    BJOERN,
    WAITRESS,
    CHEROOT,
    APACHE,
    PUMA,
    NET_SERVER,
)


def _scenario(name: str) -> Callable[[Effort], Table]:
    """A table: the scenario, played with every server that can."""
    play, can = SCENARIOS[name]

    def measure(effort: Effort) -> Table:
        there, missing = available(SUBJECTS if effort.peers else SUBJECTS[:2])
        rows = {}
        for subject in there:
            if can(subject):
                say(f"losses: {name}, {subject.name}")
                rows[subject.name] = {**subject.row(), **_played(play, subject, effort)}
        return Table(rows, missing)

    return measure


def _played(play: Callable[[Subject, Effort], dict[str, Any]], subject: Subject, effort: Effort) -> dict[str, Any]:
    try:
        return play(subject, effort)
    except (AssertionError, OSError, RuntimeError) as error:
        return {"error": short(error)}


class _Times:
    """Counts how often something is done: so often, or until its time is over."""

    def __init__(self, times: int, seconds: float) -> None:
        self._times, self._until = times, time.monotonic() + seconds
        self.done = 0

    def go_on(self) -> bool:
        """Whether it is to be done once more."""
        return self.done < self._times and (not self.done or time.monotonic() < self._until)


def _counts(tally: Tally) -> dict[str, Any]:
    outcomes = {outcome.value: count for outcome, count in tally.counts.items() if outcome.value != "answered"}
    return {"requests": tally.total, "answered": tally.answered, "lost": tally.lost, "outcomes": outcomes}


def stop(subject: Subject, effort: Effort) -> dict[str, Any]:
    """A graceful stop while clients wait for a slow answer."""
    with subject.serving() as server:
        waiting = burst(server.address, effort.waiting, payload=SLOW, timeout=PATIENCE)
        began = time.monotonic()
        subject.stop(server)
        tally = waiting.wait()
        try:
            server.wait(PATIENCE)
            seconds: float | None = time.monotonic() - began
        except NotInTimeError:
            seconds = None
        return {**_counts(tally), "seconds": seconds}


def reload(subject: Subject, effort: Effort) -> dict[str, Any]:
    """Reloads, one after the other, under a closed loop of clients; each is over when no old worker is left."""
    assert subject.reload is not None
    with subject.serving() as server, Load(server.address, clients=CLIENTS, timeout=PATIENCE) as load:
        began = time.monotonic()
        times = _again(effort.reloads, effort, server, subject.reload)
        seconds = (time.monotonic() - began) / times - PAUSE if times else None
        load.stop()
    return {**_counts(load.tally), "reloads": times, "seconds": seconds}


def kept_stop(subject: Subject, effort: Effort) -> dict[str, Any]:
    """Graceful stops under clients that keep their connections, and leave when those are closed."""
    total: Counter[str] = Counter()
    times = _Times(effort.restarts, effort.scenario_seconds)
    while times.go_on():
        with subject.serving() as server, _kept(server, returns=False) as clients:
            subject.stop(server)
            with contextlib.suppress(NotInTimeError):
                server.wait(PATIENCE)
        total += clients.counts
        times.done += 1
    return _kept_counts(total) | {"times": times.done}


def kept_reload(subject: Subject, effort: Effort) -> dict[str, Any]:
    """Reloads under clients that keep their connections."""
    assert subject.reload is not None
    with subject.serving() as server, _kept(server) as clients:
        done = _again(effort.reloads, effort, server, subject.reload)
    return _kept_counts(clients.counts) | {"times": done}


def _again(count: int, effort: Effort, server: Server, tell: Action) -> int:
    """Have a server renew its workers so often; how often it did in time."""
    times = _Times(count, effort.scenario_seconds)
    while times.go_on() and _renewed(server, tell):
        times.done += 1
        time.sleep(PAUSE)  # see there
    return times.done


@contextlib.contextmanager
def _kept(server: Server, *, returns: bool = True) -> Iterator[KeptClients]:
    """The clients, once they have been answered thrice each on the average."""
    with KeptClients(server.address, KEPT_CLIENTS, THINK, returns=returns) as clients:
        wait_for(lambda: clients.counts["answered"] >= 3 * KEPT_CLIENTS, PATIENCE)
        yield clients


def _kept_counts(counts: Counter[str]) -> dict[str, Any]:
    return {"requests": counts["answered"] + counts["lost"], "lost": counts["lost"], "closed": counts["closed"]}


def crash(subject: Subject, effort: Effort) -> dict[str, Any]:
    """A worker killed every 100 ms; a connection in its hand is lost with it, and no other need be."""
    kills = 0
    with subject.serving() as server, Load(server.address, clients=CLIENTS, timeout=PATIENCE) as load:
        strength = len(workers_of(server))
        until = time.monotonic() + effort.kill_seconds
        while time.monotonic() < until:
            workers = workers_of(server)
            if workers:
                kills += _kill(random.choice(workers))
            time.sleep(0.1)  # the interval between kills is what the scenario is about
        load.stop()
        try:
            wait_for(lambda: len(workers_of(server)) >= strength, PATIENCE)
            whole = True
        except NotInTimeError:
            whole = False
        return {**_counts(load.tally), "kills": kills, "whole": whole}


def orphans(subject: Subject, effort: Effort) -> dict[str, Any]:  # noqa: ARG001  # all scenarios are called alike
    """The master killed while its workers are idle: how long they outlive it."""
    with subject.serving() as server:
        workers = workers_of(server)
        began = time.monotonic()
        os.kill(server.pid, signal.SIGKILL)
        try:
            wait_for(lambda: all(is_gone(pid) for pid in workers), OUTLIVED)
            seconds: float | None = time.monotonic() - began
        except NotInTimeError:
            seconds = None
        left = sum(not is_gone(pid) for pid in workers)
        return {"workers": len(workers), "left": left, "seconds": seconds}


def limit(subject: Subject, effort: Effort) -> dict[str, Any]:
    """No descriptors for some seconds, while clients arrive; then there are again."""
    with subject.serving() as server:
        before = set(server.tree())
        with Load(server.address, interval=0.05, timeout=effort.limit_seconds + PATIENCE) as load:
            with limited_descriptors(server.tree):
                cpu, log = server.cpu_seconds(), server.log_size()
                time.sleep(effort.limit_seconds)  # how long it lasts is what the scenario is about
                deaths = sum(is_gone(pid) for pid in before)
                ended = is_gone(server.process.pid)
                # What a tree that has ended had used can't be asked for.
                cpus = None if ended else max(0.0, server.cpu_seconds() - cpu) / effort.limit_seconds
                log = server.log_size() - log
            recovered = not ended and request(server.address, timeout=PATIENCE).status == 200
            load.stop()
        counts = _counts(load.tally)
        return {**counts, "cpus": cpus, "log": log, "deaths": deaths, "recovered": recovered}


def restart(subject: Subject, effort: Effort) -> dict[str, Any]:
    """Stop and start again on the same port, while clients arrive every 4 ms whatever happens."""
    with hold_port() as address, Load(address, interval=0.004, timeout=PATIENCE) as load:
        tally = load.tally
        # Arrivals before the first server was there, and after the last was told to stop, are nobody's.
        marks: list[Counter[str]] = []
        times = _Times(effort.restarts + 1, effort.scenario_seconds)
        while len(marks) < 2 or times.go_on():
            with subject.serving(address=address) as server:
                first = tally.answered
                load.wait_for(partial(_has_answered, first + 100))
                time.sleep(PAUSE)  # see there
                marks.append(Counter({outcome.value: count for outcome, count in tally.counts.items()}))
                subject.stop(server)
                server.wait(PATIENCE)
            times.done += 1
    between = marks[-1] - marks[0]
    answered = between.pop(Outcome.ANSWERED.value, 0)
    return {
        "requests": between.total() + answered,
        "lost": between.total(),
        "outcomes": between,
        "restarts": len(marks) - 1,
    }


def renew(subject: Subject, effort: Effort) -> dict[str, Any]:
    """The same without a gap, where a server knows how: an upgrade in place."""
    with subject.serving() as server, Load(server.address, interval=0.004, timeout=PATIENCE) as load:
        done = _again(effort.restarts, effort, server, _RENEWALS[subject.name])
        load.stop()
    return {**_counts(load.tally), "restarts": done}


_RENEWALS: dict[str, Action] = {
    HANDLER.name: by_signal(signal.SIGUSR2),
    WSGI.name: by_signal(signal.SIGUSR2),
}

SCENARIOS: dict[str, tuple[Callable[[Subject, Effort], dict[str, Any]], Callable[[Subject], object]]] = {
    "stop": (stop, lambda _: True),
    "reload": (reload, lambda subject: subject.reload),
    "kept_stop": (kept_stop, lambda subject: subject in KEPT),
    "kept_reload": (kept_reload, lambda subject: subject in KEPT and subject.reload),
    "crash": (crash, lambda subject: subject.supervises),
    "orphans": (orphans, lambda subject: subject.supervises),
    "limit": (limit, lambda _: True),
    "restart": (restart, lambda _: True),
    "renew": (renew, lambda subject: subject.name in _RENEWALS),
}


TABLES = {name: _scenario(name) for name in SCENARIOS}


def _renewed(server: Server, tell: Action) -> bool:
    """Tell a server to replace its workers; whether there were others, and none of the old, in time."""
    old = set(workers_of(server))

    def replaced() -> bool:
        now = set(workers_of(server))
        return bool(now) and not now & old

    tell(server)
    try:
        wait_for(replaced, PATIENCE)
    except NotInTimeError:
        return False
    return True


def _has_answered(goal: int, tally: Tally) -> bool:
    return tally.answered >= goal


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
