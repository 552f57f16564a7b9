"""wrk, a closed-loop load, and what a server's processes spend under it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

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


def run(server: Server, seconds: float, clients: int = CLIENTS, *, kept: bool = False) -> Run:
    """Load ``server`` with one connection a request, or with one for each client.

    Args:
        server: what is measured.
        seconds: how long; wrk knows whole seconds only, and no less than one.
        clients: how many requests are under way at any time (count).
        kept: whether clients keep their connection, as far as the server does.

    Raises:
        RuntimeError: wrk failed, or got no answer at all.
    """
    seconds = max(1.0, seconds)
    closes = [] if kept else ["-H", "Connection: close"]
    before = server.cpu_seconds()
    done = subprocess.run(
        ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", *closes, f"http://{server.address}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    cpu = server.cpu_seconds() - before
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", done.stdout)
    if done.returncode or found is None or int(found[1]) == 0:
        raise RuntimeError(f"wrk against {server.address}: {done.stdout}{done.stderr}\n{server.log()[-2000:]}")
    took = float(found[2]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[found[3]]
    errors = sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", done.stdout))
    errors += sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", done.stdout))
    return Run(int(found[1]), errors, took, cpu)
