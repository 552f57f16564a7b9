"""The processes of a server under test: find them, freeze them, kill them, take their descriptors away."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from signal import SIGCONT, SIGKILL, SIGSTOP

import psutil

from prefork.testing.waiting import TIMEOUT, wait_for


def family(leader: int) -> list[int]:
    """A session's processes and all descendants of its leader.

    Orphans stay in the session when init has adopted them, so they are found; one that has made a session of its
    own is found as long as its ancestors live.

    Args:
        leader: The session's id, which is its leader's process id.

    Returns:
        Process ids, the leader first if it lives; zombies are left out.
    """
    found = _descendants(leader)
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.getsid(int(name)) == leader:
                found.add(int(name))
        except (ProcessLookupError, PermissionError):
            continue
    return sorted((pid for pid in found if not is_gone(pid)), key=lambda pid: (pid != leader, pid))


def children(parent: int) -> list[int]:
    """A process's children, zombies included.

    Who waits for a fact asks this two hundred times a second: where the kernel lists them (proc_pid_children(5)), no
    other process is looked at.

    Args:
        parent: A process id.

    Returns:
        Process ids, ascending; none when the parent is gone.
    """
    found = []
    try:
        for thread in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as listed:
                found += [int(pid) for pid in listed.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        try:
            return sorted(child.pid for child in psutil.Process(parent).children())
        except psutil.NoSuchProcess:
            return []
    return sorted(found)


def _descendants(ancestor: int) -> set[int]:
    found: set[int] = set()
    unseen = [ancestor]
    while unseen:
        unseen += (below := set(children(unseen.pop())) - found)
        found |= below
    return found


def name_of_living(pid: int) -> str | None:
    """What a process is called, by one look: it may end between two.

    Args:
        pid: Its id.

    Returns:
        Its name (proc_pid_comm(5)); None when it has ended, reaped or not. One whose first thread has ended before
        another has not: it still has all its descriptors open.
    """
    try:
        # proc_pid_stat(5): the state follows the name in parentheses, the number of threads seventeen fields behind.
        with open(f"/proc/{pid}/stat", "rb") as stat:
            begin, _, rest = stat.read().rpartition(b")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = rest.split()
    if fields[0] in (b"Z", b"X", b"x") and int(fields[17]) <= 1:
        return None
    return begin.partition(b"(")[2].decode(errors="replace")


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not; see `name_of_living`.

    Args:
        pid: Its id.
    """
    return name_of_living(pid) is None


def kill(*pids: int, timeout: float = TIMEOUT) -> None:
    """Kill processes (SIGKILL) and wait until they have ended; reaping them is left to their parents.

    Args:
        *pids: Process ids; those that are gone are passed over.
        timeout: Seconds, for each.

    Raises:
        NotInTimeError: When one has not ended in time.
    """
    for pid in _signal_all(pids, SIGKILL):
        wait_for(partial(is_gone, pid), timeout, f"the end of process {pid}, which was killed")


def freeze(pids: Iterable[int], timeout: float = TIMEOUT) -> None:
    """Stop processes where they are (SIGSTOP), in this order, and wait until all have stopped.

    Args:
        pids: Process ids; those that are gone are passed over.
        timeout: Seconds, for each.

    Raises:
        NotInTimeError: When one has not stopped in time; the others stay stopped.
    """
    chosen = _signal_all(pids, SIGSTOP)
    for pid in chosen:
        wait_for(partial(_has_stopped, pid), timeout, f"process {pid} to stop")


def thaw(pids: Iterable[int]) -> None:
    """Let frozen processes go on (SIGCONT), in this order.

    Args:
        pids: Process ids; those that are gone are passed over.
    """
    _signal_all(pids, SIGCONT)


@contextmanager
def frozen(pids: Iterable[int], timeout: float = TIMEOUT) -> Iterator[None]:
    """Keep processes frozen for the block: a worker that hangs, or a whole tree on a host that was suspended.

    Args:
        pids: Process ids. Of a whole tree, the master first: it must not see its workers stop.
        timeout: Seconds to wait for each to stop.

    Yields:
        None, once all have stopped.

    Raises:
        NotInTimeError: When one has not stopped in time; all go on then.
    """
    chosen = list(pids)
    try:
        freeze(chosen, timeout)
        yield
    finally:
        thaw(chosen)


@contextmanager
def limited_descriptors(pids: Iterable[int] | Callable[[], Iterable[int]], soft: int | None = None) -> Iterator[None]:
    """Lower the limit of descriptors (soft RLIMIT_NOFILE) of running processes for the block.

    The limit is one on numbers: no descriptor is given out that is not below it (getrlimit(2)), while those that are
    open stay. A process that waits in accept(2) holds its next descriptor already, and meets the limit one later.

    Args:
        pids: Process ids, or what gives them: ``server.tree`` is asked again at the end, so that processes which were
            forked meanwhile, and inherited the limit, are given the old one too.
        soft: The limit; None is, for each process, the lowest number that is free: its next open(2) fails.

    Yields:
        None, once all are limited.
    """
    look = pids if callable(pids) else partial(list, list(pids))
    before: dict[int, tuple[int, int]] = {}
    try:
        for pid in look():
            limits = _limits(pid)
            if limits is not None:
                before[pid] = limits
                _set_soft(pid, _lowest_free(pid) if soft is None else soft)
        yield
    finally:
        usual = max((limits[0] for limits in before.values()), default=0)
        freed: set[int] = set()
        # Again until nobody new is found: while some are looked for, others are forked by those who are not free yet.
        while left := [pid for pid in look() if pid not in freed]:
            for pid in left:
                _set_soft(pid, before[pid][0] if pid in before else usual)
            freed.update(left)


def _signal_all(pids: Iterable[int], signum: int) -> list[int]:
    reached = []
    for pid in pids:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue
        reached.append(pid)
    return reached


def _has_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED or is_gone(pid)
    except psutil.NoSuchProcess:
        return True


def _limits(pid: int) -> tuple[int, int] | None:
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except ProcessLookupError:
        return None


def _set_soft(pid: int, soft: int) -> None:
    limits = _limits(pid)
    if limits is None:
        return
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, limits[1]))
    except ProcessLookupError:
        pass


def _lowest_free(pid: int) -> int:
    try:
        taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended meanwhile
    return next(number for number in range(len(taken) + 1) if number not in taken)
