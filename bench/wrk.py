"""wrk, a closed-loop load, and what a server's processes spend under it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from bench.workshop import found
from prefork.testing import Server

CLIENTS = 16


@dataclass(frozen=True)
class Run:
    """One run of wrk against one server."""

    requests: int
    errors: int
    """Connections that failed, and answers that were no 2xx."""
    seconds: float
    cpu: float
    """Seconds of CPU time, user and system, of the server's whole tree, reaped children included."""

    @property
    def cost(self) -> float:
        """Microseconds of CPU a request."""
        return self.cpu / self.requests * 1e6

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def run(server: Server, seconds: float, *, kept: bool = False, tls: bool = False) -> Run:
    """Load ``server`` with one connection a request, or with one for each of 16 clients.

    Args:
        server: what is measured.
        seconds: how long; wrk knows whole seconds only, and no less than one.
        kept: whether clients keep their connection, as far as the server does.
        tls: whether they speak TLS.

    Raises:
        RuntimeError: wrk failed, or got no answer at all.
    """
    seconds = max(1.0, seconds)
    closes = [] if kept else ["-H", "Connection: close"]
    before = server.cpu_seconds()
    done = subprocess.run(
        [
            found("wrk", "wrk"),
            "-t1",
            f"-c{CLIENTS}",
            f"-d{seconds:.0f}s",
            *closes,
            f"http{'s' * tls}://{server.address}/",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    cpu = server.cpu_seconds() - before
    counts = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", done.stdout)
    if done.returncode or counts is None or int(counts[1]) == 0:
        raise RuntimeError(f"wrk against {server.address}: {done.stdout}{done.stderr}\n{server.log()[-2000:]}")
    took = float(counts[2]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[counts[3]]
    errors = sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", done.stdout))
    errors += sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", done.stdout))
    return Run(int(counts[1]), errors, took, cpu)
