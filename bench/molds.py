"""What a mold costs and saves, each figure by itself.

    python -m bench.molds boot [WORKERS [ROUNDS]]   boot from a mold, and by the plain way, beside a bare fork loop
    python -m bench.molds replace [TIMES]           a worker that is killed, with a mold and without
    python -m bench.molds reloads [RELOADS]         the master's memory after a tenth of them and after all, under load
    python -m bench.molds memory                    of a preloaded Django site, beside gunicorn's --preload

Memory is told right on a busy machine too; boot and replace want a quiet one. One JSON object is printed.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil

from bench.effort import FULL
from bench.memory import held
from bench.ours import HANDLER, MOLDED
from bench.rounds import Spread, interleaved, say
from bench.scale import crash
from bench.workshop import APPS, PYTHON, environment
from prefork.testing import Load


def boot(workers: int = 500, rounds: int = 5) -> dict[str, Any]:
    """Seconds from the start until all accept, the mold's own time included; and the medians of each round's ratios."""

    def once(way: str) -> float:
        command = [PYTHON, str(APPS / "boot.py"), way, str(workers)]
        env = {**os.environ, **environment()}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        seconds: float = json.loads(done.stdout.splitlines()[-1])["boot"]
        return seconds

    series = interleaved(("fork", "prefork", "mold"), rounds, once)
    found: dict[str, Any] = {way: vars(Spread.of(seconds)) for way, seconds in series.items()}
    for way in ("prefork", "mold"):
        found[f"{way}, x"] = statistics.median(
            ours / bare for ours, bare in zip(series[way], series["fork"], strict=True)
        )
    return {"workers": workers, **found}


def replace(times: int = 30) -> dict[str, Any]:
    """Milliseconds from the kill of the only worker to its successor's first answer."""
    with HANDLER.serving(1) as plain, MOLDED.serving(1) as molded:
        servers = {"plain": plain, "mold": molded}
        series = interleaved(servers, times, lambda name: crash(servers[name]))
    return {name: vars(Spread.of(milliseconds)) for name, milliseconds in series.items()}


def reloads(wanted: int = 100) -> dict[str, Any]:
    """KiB of the master (PSS, and its own) after a tenth of the reloads and after all; what was lost meanwhile."""
    marks = {max(1, wanted // 10), wanted}
    found: dict[str, Any] = {}
    with MOLDED.serving(2) as server, Load(server.address, clients=2, bodies=False) as load:
        for number in range(1, wanted + 1):
            say(f"reload {number} of {wanted}")
            server.signal(signal.SIGHUP)
            server.wait_for_log(f"reload: generation {number} serves")
            server.wait_for(lambda: len(server.molds()) == 1)
            if number in marks:
                info = psutil.Process(server.pid).memory_full_info()
                found[str(number)] = {
                    "pss": info.pss >> 10,
                    "uss": info.uss >> 10,
                    "descriptors": server.descriptors(),
                    "processes": len(server.tree()),
                }
    say("")
    last, first = (found[str(number)] for number in (wanted, min(marks)))
    growth = {name: last[name] / first[name] for name in ("pss", "uss")}
    return {"after": found, "growth": growth, "lost": load.tally.lost, "requests": load.tally.total}


def main() -> int:
    """Measure what the command line names."""
    ways: dict[str, Callable[..., dict[str, Any]]] = {"boot": boot, "replace": replace, "reloads": reloads}
    name, *numbers = sys.argv[1:] or [""]
    if name == "memory":
        found = held(FULL).rows
    elif name in ways:
        found = ways[name](*map(int, numbers))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
