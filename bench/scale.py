"""Many workers: how long they take to boot and to stop, and what they cost while idle."""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import time
from functools import partial
from typing import Any

from bench.effort import Effort
from bench.ours import HANDLER
from bench.rounds import Spread, Table, interleaved, say
from bench.subject import Subject
from bench.workshop import APPS, PYTHON, environment
from prefork.testing import READY, Server, call_until, request, wait_for
from prefork.testing import measure as account

WAYS = ("fork", "prefork")


def workers(effort: Effort) -> Table:
    """Boot and stop many workers beside a bare fork loop: seconds either way, and the ratio of the rounds."""
    rows = {}
    for count in effort.workers:
        series = interleaved(WAYS, effort.boot_rounds, partial(_boot, count), patience=effort.patience)
        row: dict[str, Any] = {}
        for step in ("boot", "stop", "both", "cpu"):
            figures = {way: [once[step] for once in series[way]] for way in WAYS}
            row[step] = {way: vars(Spread.of(figures[way])) for way in WAYS}
            row[step]["ratio"] = statistics.median(
                ours / bare for ours, bare in zip(figures["prefork"], figures["fork"], strict=True)
            )
        rows[str(count)] = row
    return Table(rows, {})


def _boot(workers: int, way: str) -> dict[str, float]:
    command = [PYTHON, str(APPS / "boot.py"), way, str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment()})
    once: dict[str, float] = json.loads(done.stdout)
    return {**once, "both": once["boot"] + once["stop"]}


def crashes(effort: Effort) -> Table:
    """One worker, killed again and again: milliseconds from the kill to the first answer of the next."""
    bare = Subject("fork", "fork, wait", "handler", lambda *_: [PYTHON, str(APPS / "boot.py"), "respawn"], ready=READY)
    with bare.serving(1) as least, HANDLER.serving(1) as server:
        servers = {"fork": least, "prefork": server}
        look = partial(_crash_of, servers)
        series = interleaved(servers, effort.crashes, look, patience=effort.patience)
    return Table({name: vars(Spread.of(milliseconds)) for name, milliseconds in series.items()}, {})


def _crash_of(servers: dict[str, Server], name: str) -> float:
    return crash(servers[name])


def crash(server: Server) -> float:
    """Milliseconds from the kill of the only worker to the first answer of the next."""
    (worker,) = call_until(server.workers, lambda workers: len(workers) == 1)
    pidfd = os.pidfd_open(worker)
    try:
        began = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        # Not before it is dead: a worker that is being killed may still accept, and take the client with it.
        select.select([pidfd], [], [])
        answer = request(server.address)
        milliseconds = (time.monotonic() - began) * 1e3
    finally:
        os.close(pidfd)
    if answer.status != 200:
        raise RuntimeError(f"no answer after a crash: {answer}")
    wait_for(lambda: server.workers() not in ([], [worker]))
    return milliseconds


def idle(effort: Effort) -> Table:
    """Idle servers of growing size: wake-ups and CPU seconds a second of master and of all workers."""
    return Table({str(workers): _idle(workers, effort.idle_seconds) for workers in effort.idle_workers}, {})


def _idle(workers: int, seconds: float) -> dict[str, Any]:
    say(f"scale: {workers} idle workers")
    with HANDLER.serving(workers) as server:
        wait_for(lambda: _asleep(server), 30.0, "the server to rest")
        before = _account(server)
        time.sleep(seconds)  # being idle is what is measured
        after = _account(server)
    return {name: (after[name] - before[name]) / seconds for name in before}


def _asleep(server: Server) -> bool:
    before = server.voluntary_switches()
    time.sleep(0.3)  # a server that boots has more to do within that time
    return server.voluntary_switches() == before


def _account(server: Server) -> dict[str, float]:
    workers = [pid for pid in server.tree() if pid != server.pid]
    return {
        "wakeups": server.voluntary_switches(),
        "master": account.cpu_seconds([server.pid]),
        "workers": account.cpu_seconds(workers),
    }


BOOT = {"workers": workers, "crash": crashes}
IDLE = {"idle": idle}
