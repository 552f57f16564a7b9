"""How it grows: boot and stop of many workers, what they cost while idle, the memory of a preloaded application."""

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

import psutil

from bench.effort import Effort
from bench.rounds import Spread, interleaved, say
from bench.subjects import HANDLER, PRELOADED, Subject, available
from bench.workshop import APPS, PYTHON, environment
from prefork.testing import READY, Load, Server, call_until, request, wait_for
from prefork.testing import measure as account

WAYS = ("fork", "prefork")


def boot(effort: Effort) -> dict[str, Any]:
    """Boot and stop many workers beside a bare fork loop, and replace one that was killed.

    Returns:
        ``workers``: for each number of them, seconds to boot and to stop either way, and the ratio of the rounds.
        ``crash``: milliseconds from the kill of a worker to its replacement's first answer, and from a bare fork to
        the child's.
    """
    results: dict[str, Any] = {"workers": {}}
    for workers in effort.workers:
        rounds = effort.boot_rounds
        series = interleaved(WAYS, rounds, partial(_boot, workers))
        row: dict[str, Any] = {}
        for step in ("boot", "stop", "both", "cpu"):
            figures = {way: [once[step] for once in series[way]] for way in WAYS}
            row[step] = {way: vars(Spread.of(figures[way])) for way in WAYS}
            row[step]["ratio"] = statistics.median(
                ours / bare for ours, bare in zip(figures["prefork"], figures["fork"], strict=True)
            )
        results["workers"][str(workers)] = row
    results["crash"] = _crashes(effort)
    return results


def _boot(workers: int, way: str) -> dict[str, float]:
    command = [PYTHON, str(APPS / "boot.py"), way, str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment()})
    once: dict[str, float] = json.loads(done.stdout)
    return {**once, "both": once["boot"] + once["stop"]}


def _crashes(effort: Effort) -> dict[str, Any]:
    """One worker, killed again and again: how long nobody answers."""
    bare = Subject("fork", "fork, wait", "handler", lambda *_: [PYTHON, str(APPS / "boot.py"), "respawn"], ready=READY)
    with bare.serving(1) as least, HANDLER.serving(1) as server:
        servers = {"fork": least, "prefork": server}
        series = interleaved(servers, effort.crashes, lambda name: crash(servers[name]))
    return {name: vars(Spread.of(milliseconds)) for name, milliseconds in series.items()}


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


def measure(effort: Effort) -> dict[str, Any]:
    """Idle servers of growing size, and memory.

    Returns:
        ``idle``: for each number of workers wake-ups and CPU seconds a second of master and of all workers.
        ``memory``: for each server MiB of a preloaded Django application in its workers.
    """
    idle = {str(workers): _idle(workers, effort.idle_seconds) for workers in effort.idle_workers}
    return {"idle": idle, "memory": memory(effort)}


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


def memory(effort: Effort) -> dict[str, Any]:
    """A Django application, preloaded; each worker has answered requests and collected its garbage."""
    rows = {}
    subjects, missing = available(PRELOADED if effort.peers else PRELOADED[:2])
    for subject in subjects:
        say(f"scale: memory of {subject.name}")
        with subject.serving(effort.memory_workers) as server:
            for path, count in (("/", 40), ("/collect", 10)):
                payload = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
                load = Load(server.address, clients=4, count=count * effort.memory_workers, payload=payload)
                with load:
                    tally = load.wait()
                if tally.lost:
                    raise RuntimeError(f"{subject.name}: {tally}")
            infos = [psutil.Process(pid).memory_full_info() for pid in server.workers()]
            beside = [psutil.Process(pid).memory_full_info() for pid in (server.pid, *server.molds())]
            rows[subject.name] = {
                "title": subject.title,
                "workers": len(infos),
                "uss": statistics.median(info.uss for info in infos) / 2**20,
                "pss": sum(info.pss for info in (*infos, *beside)) / 2**20,
            }
    return {"rows": rows, "missing": missing}
