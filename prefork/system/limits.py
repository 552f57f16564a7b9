"""What the system allows: descriptors, CPUs. Everything here only reads or raises a limit of this process."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

from prefork.system.natives import os

log = logging.getLogger("prefork")

UNKNOWN_NOFILE = 1024
"""The limit that is assumed where a sandbox forbids to ask (prlimit(2)): the one that processes begin with."""

_CGROUP = Path("/sys/fs/cgroup")


def raise_nofile(*, quietly: bool = False) -> tuple[int, int]:
    """MASTER, MIDWIFE. Raise the soft limit of descriptors to the hard one (getrlimit(2), RLIMIT_NOFILE).

    Args:
        quietly: whether somebody has told in the log already that it can't be done, if so.

    Returns:
        The soft limit before and after.
    """
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError as error:
        if not quietly:
            log.warning("can't see the limit of descriptors: %s", error)
        return UNKNOWN_NOFILE, UNKNOWN_NOFILE
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            if not quietly:
                log.warning("can't raise the limit of descriptors from %d to %d: %s", soft, hard, error)
            return soft, soft
    return soft, hard


def lower_nofile(soft: int) -> None:
    """Any process. Give the soft limit of descriptors back that :func:`raise_nofile` has raised.

    Programs that a process executes inherit it (execve(2)), and those that call select(2) write beyond their set for a
    descriptor of 1024 or more; that is why the usual soft limit is 1024.

    Args:
        soft: as :func:`raise_nofile` found it.
    """
    try:
        now, hard = getrlimit(RLIMIT_NOFILE)
        if soft < now:  # it may have been lowered from outside meanwhile
            setrlimit(RLIMIT_NOFILE, (soft, hard))
    except OSError:
        pass  # forbidden by a sandbox, where it could not be raised either: the master has told of it


@contextlib.contextmanager
def lowered_nofile(soft: int) -> Iterator[None]:
    """As :func:`lower_nofile`, for a block."""
    before = nofile_limits()
    lower_nofile(soft)
    try:
        yield
    finally:
        if nofile_limits() != before:
            setrlimit(RLIMIT_NOFILE, before)


def nofile() -> int:
    """How many descriptors this process may have open (the soft limit); `UNKNOWN_NOFILE` where nobody says."""
    return nofile_limits()[0]


def nofile_limits() -> tuple[int, int]:
    """That and how far it may be raised (the hard limit), likewise."""
    try:
        return getrlimit(RLIMIT_NOFILE)
    except OSError:
        return UNKNOWN_NOFILE, UNKNOWN_NOFILE


@contextlib.contextmanager
def room_for(fd: int) -> Iterator[None]:
    """Let the descriptor number ``fd`` be given out within the ``with`` block, whatever the soft limit.

    Raises:
        ValueError: the hard limit is too low as well.
    """
    soft, hard = nofile_limits()
    if fd >= soft:
        setrlimit(RLIMIT_NOFILE, (fd + 1, hard))
    try:
        yield
    finally:
        if fd >= soft:
            setrlimit(RLIMIT_NOFILE, (soft, hard))


def shortfall(limit: int, *, master: int, worker: int) -> str:
    """Why a limit of descriptors is too small, in one line; "" when it is not. Pure.

    Args:
        limit: how many a process may have open (count).
        master: how many the master will need.
        worker: how many a worker will need beside the application's own.
    """
    needs = [
        f"{who} needs about {count}" for who, count in (("the master", master), ("a worker", worker)) if count > limit
    ]
    if not needs:
        return ""
    return (
        f"the limit of open descriptors is {limit}, and {' and '.join(needs)}; raise it (ulimit -n, LimitNOFILE=) "
        "or run fewer workers"
    )


def oom_kills(root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """How many processes of this cgroup the kernel has killed for want of memory so far; None when it doesn't say.

    Args:
        root: where the cgroup file systems are mounted.
        membership: the file that names this process's cgroups (cgroups(7)).
    """
    for controllers, path in _memberships(membership):
        if not controllers:
            files = [root / path.lstrip("/") / "memory.events"]
        elif "memory" in controllers.split(","):
            mount = root / "memory"
            files = [mount / path.lstrip("/") / "memory.oom_control", mount / "memory.oom_control"]
        else:
            continue
        for file in files:
            words = _words(file)
            if "oom_kill" in words[:-1]:
                return int(words[words.index("oom_kill") + 1])
    return None


def cpus() -> int:
    """How many CPUs this process may use: its affinity, cut by the quota of its cgroup (version 1 or 2); 1 or more."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except OSError:
        allowed = os.cpu_count() or 1  # a sandbox forbids to ask
    quota = cgroup_cpus()
    return allowed if quota is None else min(allowed, math.ceil(quota))


def cgroup_cpus(root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """The CPUs' worth of time that the cgroup's quota gives, the least of its own and its ancestors' quotas.

    Args:
        root: where the cgroup file systems are mounted.
        membership: the file that names this process's cgroups (cgroups(7)).

    Returns:
        The quota in CPUs; None where there is none.
    """
    quotas = []
    for controllers, path in _memberships(membership):
        if not controllers:
            quotas += _climb(root, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            for mount in (root / controllers, root / "cpu"):
                quotas += _climb(mount, path, _quota_v1)
    return min(quotas, default=None)


def _memberships(file: Path) -> list[tuple[str, str]]:
    """Controllers and path of each cgroup that ``file`` names; version 2 has no controllers there."""
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    found = [line.split(":", 2) for line in lines]
    return [(parts[1], parts[2]) for parts in found if len(parts) == 3]


def _climb(mount: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    """Quotas from the group ``path`` up to ``mount``. In a container the path may lie outside of what is mounted."""
    here = mount / path.lstrip("/")
    found = []
    while True:
        quota = read(here)
        if quota is not None:
            found.append(quota)
        if here == mount:
            return found
        here = here.parent


def _quota_v2(group: Path) -> float | None:
    words = _words(group / "cpu.max")
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(group: Path) -> float | None:
    quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
    if not quota or not period or int(quota[0]) <= 0:
        return None
    return int(quota[0]) / int(period[0])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.EACCES}:
            log.debug("can't read %s: %s", path, error)
        return []


def files_exhausted() -> bool:
    """Whether the system is at its limit of open files, which root alone may exceed (proc(5), file-nr)."""
    try:
        allocated, _, most = Path("/proc/sys/fs/file-nr").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return False
    return int(allocated) >= int(most)
