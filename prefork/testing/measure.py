"""What processes cost: CPU, wake-ups, descriptors. Reads the kernel's accounts, so it works on any server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

from prefork.system.natives import time

_CPUCLOCK_SCHED: Final = 2  # the low bits of a process's CPU clock id (clock_getcpuclockid(3)): time on the CPU


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time, user and system, that these processes and the children they have reaped have used.

    The living are read to the nanosecond (their own CPU clock, with the threads that have ended); the children that
    were waited for only to a tick of 10 ms, for that is how proc(5) keeps them.

    Args:
        pids: Process ids; one that is gone counts nothing.

    Returns:
        Seconds.
    """
    total = 0.0
    for pid in pids:
        try:
            reaped = psutil.Process(pid).cpu_times()
            total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
        except (psutil.NoSuchProcess, OSError):
            continue
        total += reaped.children_user + reaped.children_system
    return total


def voluntary_switches(pids: Iterable[int]) -> int:
    """How often the threads of these processes went to sleep: one for each time something woke them.

    Args:
        pids: Process ids; one that is gone counts nothing.

    Returns:
        The count over all threads that live (``voluntary_ctxt_switches`` of proc(5)).
    """
    total = 0
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            try:
                text = status.read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            total += int(text.rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


def descriptors(pid: int) -> int:
    """How many descriptors a process has open.

    Args:
        pid: Its id.

    Returns:
        The count.

    Raises:
        psutil.NoSuchProcess: When it is gone.
    """
    return psutil.Process(pid).num_fds()
