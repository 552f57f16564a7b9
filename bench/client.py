"""client.c from here: open-loop load with latencies, closed-loop load, and echoes."""

from __future__ import annotations

import re
import resource
import subprocess
import time
from array import array
from dataclasses import dataclass

from bench.workshop import compiled
from bench.wrk import CLIENTS, Run
from prefork.testing import Server


@dataclass(frozen=True)
class Latencies:
    """How long answers took, from the moment that their request was due; microseconds."""

    quick: array[int]
    slow: array[int]
    """Of requests for /slow."""
    outcomes: dict[str, int]
    busy: float
    """Which part of the time the client itself was on a CPU; near 1 the figures are its own."""

    @property
    def lost(self) -> int:
        """Requests that were neither answered nor refused by a 503."""
        return sum(self.outcomes.values()) - self.outcomes["answered"] - self.outcomes["shed"]


def open_loop(
    server: Server, rate: float, seconds: float, *, seed: int, slow_every: int = 0, kept: bool = False
) -> Latencies:
    """Send requests at random moments, ``rate`` a second on the average, whatever the server does.

    Args:
        server: what is measured.
        rate: requests a second.
        seconds: how long.
        seed: of the random moments; the same for servers that are compared.
        slow_every: one request in so many asks for /slow; 0 for none.
        kept: whether connections are kept for the next request.
    """
    began, before = time.monotonic(), _spent()
    how = "kept" if kept else "open"
    out = _run(server, how, f"{rate:.1f}", f"{seconds:g}", str(seed), str(slow_every)).split("\n")
    busy = (_spent() - before) / (time.monotonic() - began)
    counts = dict(zip(*[iter(out[0].split())] * 2, strict=True))
    quick, slow = array("l"), array("l")
    for line in out[1:]:
        if line.endswith("s"):
            slow.append(int(line[:-1]))
        elif line:
            quick.append(int(line))
    return Latencies(quick, slow, {name: int(count) for name, count in counts.items()}, busy)


def _spent() -> float:
    """Seconds of CPU of the processes that we have waited for: servers are not among them while they serve."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def echo(server: Server, messages: int, seconds: float) -> Run:
    """Let clients send ``messages`` a connection and read each back, connection after connection.

    Raises:
        RuntimeError: the server answers no more.
    """
    before = server.cpu_seconds()
    out = _run(server, "echo", str(messages), str(CLIENTS), f"{seconds:g}")
    cpu = server.cpu_seconds() - before
    found = re.match(r"connections (\d+) messages \d+ errors (\d+) seconds ([\d.]+)", out)
    if found is None or int(found[1]) == 0:
        raise RuntimeError(f"echo from {server.address}: {out}")
    return Run(int(found[1]), int(found[2]), float(found[3]), cpu)


def load(
    server: Server, seconds: float, *, clients: int = CLIENTS, kept: bool = False, path: str = "/", head: str = ""
) -> Run:
    """Let so many clients make request after request; it is measured once all have been answered.

    Args:
        server: what is measured.
        seconds: how long.
        clients: how many requests are under way at any time (count).
        kept: whether clients keep their connection, as far as the server does.
        path: what they ask for.
        head: what they send before the first request of a connection.

    Raises:
        RuntimeError: the server doesn't answer all of them.
    """
    how = ["load", str(clients), f"{seconds:g}", "kept" if kept else "closing", path, head]
    command = [compiled("client.c"), _at(server), *how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        all_answered = process.stdout.readline()
        before = server.cpu_seconds()
        out, complaint = process.stdout.read(), process.stderr.read()
        cpu = server.cpu_seconds() - before
    counts = re.match(r"requests (\d+) errors (\d+) seconds ([\d.]+)", out)
    if not all_answered or counts is None or int(counts[1]) == 0:
        raise RuntimeError(f"load on {server.address}: {complaint or out}")
    return Run(int(counts[1]), int(counts[2]), float(counts[3]), cpu)


def _at(server: Server) -> str:
    """The port, or the path of a unix socket."""
    return server.address.rpartition(":")[2]


def _run(server: Server, *arguments: str) -> str:
    command = [compiled("client.c"), _at(server), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout
