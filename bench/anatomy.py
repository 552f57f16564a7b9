"""Where the microseconds of a connection go: kernel, interpreter, libraries, and what prefork's own steps cost.

perf says which program text the CPU was in while a server was under load; strace counts its system calls; and
prefork's steps are timed alone, in a loop, in one process. The three don't add up to the last digit: a step timed alone
finds everything in the caches.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import wrk
from bench.effort import Effort
from bench.ours import BARE, FLOOR, HANDLER, WSGI
from bench.rounds import FAILURES, Table, say, short
from bench.subject import available
from bench.workshop import APPS, PYTHON, MissingError, found
from prefork.testing import Server, wait_for

_GROUPS = (
    (r"kernel|\[k\]|vdso", "kernel"),
    (r"libpython|python3", "interpreter"),
    (r"_socket|\bsocket", "socket module"),
    (r"libc\.|libpthread|ld-", "C library"),
)


def shares(effort: Effort) -> Table:
    """For each server microseconds a connection by where the CPU was."""
    return _look(_shares, effort)


def calls(effort: Effort) -> Table:
    """System calls a connection."""
    return _look(_calls, effort)


def steps(_effort: Effort) -> Table:
    """Microseconds of prefork's own steps, each alone."""
    done = subprocess.run([PYTHON, str(APPS / "steps.py")], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return Table(found, {})


def _look(look: Callable[[Server, Effort], dict[str, Any]], effort: Effort) -> Table:
    there, missing = available((FLOOR, BARE, HANDLER, WSGI) if effort.peers else (HANDLER,))
    rows: dict[str, Any] = {}
    for subject in there:
        say(f"profile: {subject.name}")
        try:
            with subject.serving() as server:
                rows[subject.name] = {**subject.row(), **look(server, effort)}
        except MissingError as why:
            missing[f"{look.__name__.lstrip('_')} of a connection"] = str(why)
        except FAILURES as why:
            missing[subject.title] = f"failed: {short(why)}"
    return Table(rows, missing)


def _workers(server: Server) -> str:
    return ",".join(map(str, server.workers()))


def _shares(server: Server, effort: Effort) -> dict[str, Any]:
    """Microseconds a connection in each kind of program text, by perf."""
    with TemporaryDirectory(prefix="bench-") as folder:
        data = str(Path(folder, "perf.data"))
        command = [found("perf"), "record", "--event=cpu-clock", "--freq=4000", f"--pid={_workers(server)}"]
        recorder = subprocess.Popen([*command, f"--output={data}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: Path(data).exists() or recorder.poll() is not None, message="perf to record")
            run = wrk.run(server, effort.profile_seconds)
        finally:
            recorder.send_signal(2)
            said = recorder.communicate()[0].decode()
        report = subprocess.run(
            [found("perf"), "report", f"--input={data}", "--sort=dso", "--stdio"],
            capture_output=True,
            text=True,
            check=False,
        )
    shares: dict[str, float] = {}
    for percent, place in re.findall(r"^\s+([\d.]+)%\s+(\S+)", report.stdout, re.MULTILINE):
        group = next((name for pattern, name in _GROUPS if re.search(pattern, place)), "other")
        shares[group] = shares.get(group, 0.0) + float(percent) / 100 * run.cost
    if not shares:
        raise RuntimeError(f"perf recorded nothing: {said.strip()[-200:]}")
    return {"cost": run.cost, "places": shares}


def _calls(server: Server, effort: Effort) -> dict[str, Any]:  # noqa: ARG001  # both ways to look are called alike
    """System calls a connection, by strace."""
    with TemporaryDirectory(prefix="bench-") as folder:
        table = Path(folder, "calls")
        command = [found("strace"), "--summary-only", "--follow-forks", f"--output={table}", "-p", _workers(server)]
        tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        try:
            tracer.stderr.readline()  # "Process ... attached"
            run = wrk.run(server, 1.0)
        finally:
            tracer.send_signal(2)
            tracer.wait()
            tracer.stderr.close()
        rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", table.read_text(), re.MULTILINE)
    counts = {call: int(count) / run.requests for count, call in rows if call != "total"}
    if not counts:
        raise RuntimeError("strace counted nothing")
    return {"calls": {call: count for call, count in counts.items() if count > 0.05}}


TABLES = {"shares": shares, "calls": calls, "steps": steps}
