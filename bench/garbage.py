"""What Python's garbage collector does to requests on a big heap, by default and with ``gc = idle``.

    .venv/bin/python -m bench.garbage [--heap MEBIBYTES] [--seconds SECONDS] [--threads THREADS]

Two servers of two workers, one after the other, each worker with a heap of lists and dictionaries of its own; each
request makes some garbage that only the collector finds. Told are the share of requests inside of which all objects
were looked through, latencies under an open-loop load of three fifths of what the server can do, and that capacity.
It wants twice the heap as memory, and a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from prefork.testing import Load, Server, request, running_target, wait_for

WORKERS = 2
GOALS = "goals: a collection of all in no more than 1 of 1000 requests, p99 <= 0.5 x, capacity >= 98 %"

APPLICATION = '''\
"""A heap, garbage, and counts of collections of all objects inside of requests."""

import gc
import json
import os
import threading

ONE = 1 << 10  # bytes of an object of the heap, about
HEAP = [{"number": n, "parts": [[n], [n], [n], [n]]} for n in range(int(os.environ["HEAP"]) * (1 << 20) // ONE)]
inside = threading.local()
counts = {"requests": 0, "within": 0, "between": 0}


def collected(phase, info):
    if phase == "start" and info["generation"] == 2:
        counts["within" if getattr(inside, "request", False) else "between"] += 1


gc.callbacks.append(collected)


def application(environ, start_response):
    inside.request = True
    for _ in range(400):
        circle = []
        circle.append(circle)
    HEAP[counts["requests"] % len(HEAP)]["parts"] = [[n] for n in range(64)]  # what is new, and stays
    counts["requests"] += 1
    body = json.dumps({"pid": os.getpid(), **counts}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    inside.request = False
    return [body]
'''


def main() -> int:
    """Measure both and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench.garbage", description=__doc__)
    parser.add_argument("--heap", type=int, default=500, help="mebibytes in each worker (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each worker (default: %(default)s)")
    arguments = parser.parse_args()
    found = {}
    for mode in ("default", "idle"):
        print(f"gc = {mode}: the heap is made", file=sys.stderr)
        found[mode] = measured(mode, arguments.heap, arguments.seconds, arguments.threads)
        print(json.dumps({"gc": mode} | found[mode]))
    before, after = found["default"], found["idle"]
    print(
        f"p99 {after['p99_ms'] / before['p99_ms']:.2f} x, p99.9 {after['p99.9_ms'] / before['p99.9_ms']:.2f} x, "
        f"capacity {after['capacity'] / before['capacity']:.1%}, inside of {after['within_of_1000']:.2f} instead of "
        f"{before['within_of_1000']:.2f} in 1000 requests; {GOALS}"
    )
    return 0


def measured(mode: str, heap: int, seconds: float, threads: int) -> dict[str, float]:
    """One server."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "hoard.py").write_text(APPLICATION, encoding="utf-8")
        with running_target(
            "hoard:application",
            app_dir=folder,
            subcommand="wsgi",
            workers=WORKERS,
            threads=threads,
            gc=mode,
            options={"env": {"HEAP": str(heap)}, "within": 300.0},
        ) as server:
            with Load(server.address, clients=WORKERS * threads, bodies=False) as load:
                time.sleep(seconds / 3)  # that long
            capacity = load.tally.answered / (seconds / 3)
            before = counted(server)
            rate = 0.6 * capacity
            with Load(server.address, interval=1 / rate, count=int(rate * seconds), bodies=False) as load:
                tally = load.wait(seconds + 60)
            after = counted(server)
            memory = sum(_resident(pid) for pid in server.workers()) / WORKERS
    requests = after["requests"] - before["requests"]
    return {
        "capacity": round(capacity, 1),
        "requests": requests,
        "lost": tally.lost,
        "within_of_1000": 1000 * (after["within"] - before["within"]) / requests,
        "between": after["between"] - before["between"],
        "p50_ms": round(tally.percentile(0.5) * 1e3, 3),
        "p99_ms": round(tally.percentile(0.99) * 1e3, 3),
        "p99.9_ms": round(tally.percentile(0.999) * 1e3, 3),
        "worker_mib": round(memory / (1 << 20)),
    }


def counted(server: Server) -> dict[str, int]:
    """What all workers have counted."""
    found: dict[int, dict[str, int]] = {}

    def ask() -> bool:
        answer = json.loads(request(server.address).body)
        found[answer.pop("pid")] = answer
        return len(found) == WORKERS

    wait_for(ask)
    return {name: sum(one[name] for one in found.values()) for name in ("requests", "within", "between")}


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    sys.exit(main())
