"""What a process uses, as the kernel says it (proc(5)): each a read of one file.

psutil says the same. Its import takes as long as that of a fifth of this package, in every start of a master.
"""

from __future__ import annotations

from typing import Final

from prefork.system.natives import os

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """The resident memory of a process, bytes.

    Args:
        pid: Its id.

    Raises:
        OSError: It is gone, or keeps that to itself.
    """
    return int(_read(pid, "statm").split()[1]) * _PAGE


def cpu(pid: int) -> float:
    """The CPU time of a process so far, user and system, without its children's, seconds.

    Args:
        pid: Its id.

    Raises:
        OSError: It is gone.
    """
    # The name stands in parentheses, and may have some in it; utime and stime are the fields 14 and 15.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def descriptors(pid: int) -> int:
    """How many descriptors a process has open.

    Args:
        pid: Its id.

    Raises:
        OSError: It is gone, or keeps that to itself, as a process of another user does.
    """
    return len(os.listdir(f"/proc/{pid}/fd"))


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
        text = file.read()
    if not text:
        raise ProcessLookupError(f"process {pid} has ended")
    return text
