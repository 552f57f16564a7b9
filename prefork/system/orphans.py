"""Orphans: who is given the children of a process that ends, and how those learn of it.

A process whose parent ends is given to the nearest ancestor that has asked for that (prctl(2), PR_SET_CHILD_SUBREAPER),
else to init. So a child can have been forked by somebody else, a process between, who ends: *adopted* here. The master
asks only while it expects some. For what its workers' applications leave behind at any other time is none of its
affair, and nobody else could wait for it.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Final

from prefork.system import process
from prefork.system.child import Children, pids_of_children
from prefork.system.natives import os, signal
from prefork.system.process import die_with_parent

log = logging.getLogger("prefork")

_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37

_OURS: Final = frozenset({process.MOLD, process.BIRTH})
"""What who forks workers is called, and who is not a worker yet."""

_PATIENCE: Final = 1.0  # seconds for which a signal is waited for before the parent is looked at again

_prctl: Final = ctypes.CDLL(None, use_errno=True).prctl

getppid = os.getppid
sigtimedwait = signal.sigtimedwait


def _is_subreaper() -> bool:
    found = ctypes.c_int()
    _checked(_prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0))
    return bool(found.value)


def _set_subreaper(on: bool) -> None:
    _checked(_prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Adoption:
    """MASTER. A time in which this process is given the orphans among its descendants.

    Among them may be some that nobody here knows: a child that was killed before it could say whose it is, what an
    application has left behind just then. They are nobody else's any more, so their exits are taken when they end.

    Args:
        children: tells of ends, and knows whose are told already.
    """

    def __init__(self, children: Children) -> None:
        self._children = children
        self._before = False
        self._known: set[int] = set()
        self._depth = 0

    @property
    def under_way(self) -> bool:
        """Whether it is such a time."""
        return self._depth > 0

    def open(self) -> None:
        """Have orphans given to this process from now on, until `close` has been called as often.

        Raises:
            OSError: the system refuses it (prctl(2)).
        """
        if not self._depth:
            self._known = set(pids_of_children())
            self._before = _is_subreaper()
            _set_subreaper(True)
        self._depth += 1

    def close(self) -> None:
        """Have no more of them; those that were given and that nobody knows are looked after."""
        self._depth -= 1
        if not self._depth:
            _set_subreaper(self._before)
            for pid in set(pids_of_children()) - self._known:
                self._children.look_after(pid)
            self._known.clear()

    def passing(self, hook: Callable[[], object]) -> None:
        """Call what may have children of its own, which are its affair; orphans of ours that come meanwhile are not."""
        before = set(pids_of_children()) if self._depth else set()
        try:
            hook()
        finally:
            if self._depth:
                came = set(pids_of_children()) - before
                self._known |= {pid for pid in came if process.name_of(pid) not in _OURS}


def await_adoption(between: int, signum: int) -> int:
    """CHILD of a process between. Wait until that has ended, so that this one is somebody else's child.

    Args:
        between: the pid of who has forked us.
        signum: is sent to us at that moment, and whenever a parent of ours ends from then on; it is blocked.

    Returns:
        The pid of the new parent.
    """
    die_with_parent(signum, between)
    while (parent := getppid()) == between:
        sigtimedwait((signum,), _PATIENCE)
    return parent


def leave_orphans_to_others() -> None:
    """MOLD, before each birth: be given none, whatever the application has asked for. They are to be the master's."""
    try:
        _set_subreaper(False)
    except OSError:
        pass  # who may not be asked has not been


def acquaint() -> None:
    """PROCESS BETWEEN, once for all its children: have the linker look up what they wait by (ld.so(8), LD_BIND_NOW).

    It does that at the first call of a function, and writes to the pages of a dozen tables.
    """
    sigtimedwait((), 0)
