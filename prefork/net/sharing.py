"""Who else has a listening socket open: whether it outlives us, or our end is its end.

A socket that we inherited may be the service manager's, which keeps it, or that of a program that became us by exec
(systemd-socket-activate, s6) and is gone. The kernel tells nobody how many have a socket open; /proc shows it of each
process that we may look at. The one that gave it to us is an ancestor of ours, if it lives. So an ancestor that we may
not look at counts as a holder, and so does whoever may have given it from outside of our pid namespace; of other
processes that we may not look at we take it that they have no part in it. The first process of all is an ancestor of
everybody: it counts if it is one that passes sockets to services.
"""

from __future__ import annotations

from typing import Final

from prefork.net.kernelsocket import Selectable
from prefork.system.natives import os

_SYSTEMD: Final = "/run/systemd/system"  # sd_booted(3)
_KEEPERS: Final = {"systemd", "dinit"}
_INITIAL_NAMESPACE: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO, linux/proc_ns.h


def held_elsewhere(listener: Selectable) -> bool:
    """Whether a process that is neither this one nor a descendant of it has the socket open, or may have.

    It costs a look at every descriptor of every process: milliseconds, or some hundred on a crowded host.
    """
    name = f"socket:[{os.fstat(listener.fileno()).st_ino}]"
    me = os.getpid()
    try:
        ancestors = _ancestors(me)
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    except OSError:
        return True  # no /proc: nobody knows
    if ancestors is None:
        return True
    suspects = [pid for pid in ancestors if pid > 1 or _init_passes_sockets()]
    for pid in (*ancestors, *(pid for pid in pids if pid != me and pid not in ancestors)):
        try:
            held = _has_open(pid, name)
        except PermissionError:
            held = pid in suspects
        except OSError:
            continue  # it is gone
        if held and not _descends(pid, me):
            return True
    return False


def _init_passes_sockets() -> bool:
    if os.path.isdir(_SYSTEMD):
        return True
    try:
        with open("/proc/1/comm", "rb") as file:
            return file.read().strip().decode("ascii", "replace") in _KEEPERS
    except OSError:
        return True


def _has_open(pid: int, name: str) -> bool:
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{fd}") == name:
                return True
        except FileNotFoundError:
            continue  # closed meanwhile
    return False


def _ancestors(pid: int) -> list[int] | None:
    """All of a process's ancestors that can be seen; None when there are some that can't: outside of the namespace."""
    found: list[int] = []
    while pid > 1:
        pid = _parent(pid)
        if pid == 0:
            return None  # it was put into this namespace (setns(2))
        found.append(pid)
    if not found and os.readlink("/proc/self/ns/pid") != _INITIAL_NAMESPACE:
        return None  # we are the first process of a container
    return found


def _descends(pid: int, ancestor: int) -> bool:
    try:
        while pid > 1:
            pid = _parent(pid)
            if pid == ancestor:
                return True
    except OSError:
        return True  # it is gone
    return False


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])
