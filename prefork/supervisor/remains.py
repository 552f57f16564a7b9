"""Remains: children that are dead and whose exit can't be taken yet.

While a tracer is attached (ptrace(2): gdb at its prompt, a strace that is stopped) a dead child is the tracer's first:
its pidfd is readable, and wait4(2) gives its parent nothing before the tracer has waited for it, or ends. The death is
a fact all the same; what stays is a process id that must not be forgotten, or it is a zombie for ever. So it is looked
at again from time to time, by a timer: whatever told of the death goes on telling, and would keep the loop awake.

All of it runs in the MASTER.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from prefork.supervisor.event_loop import Loop
from prefork.system import process

log = logging.getLogger("prefork")

LOOK = 0.1
"""Seconds until the first look after the last that was left; they double up to LOOK_MOST."""

LOOK_MOST = 5.0


class Remains:
    """MASTER. The dead of one parent who are still to be reaped.

    Args:
        loop: for the looks.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._pids: set[int] = set()
        self._pause = LOOK
        self._looking = False

    def leave(self, pid: int) -> None:
        """``pid``, a child of ours, is dead, and its exit can't be taken now."""
        self._pids.add(pid)
        self._pause = LOOK
        if not self._looking:
            self._look_later()

    def inherit(self) -> None:
        """After an exec: whoever was left by the image before, which nobody here has heard of."""
        for pid in _children():
            if process.remains(pid) is not None:
                self.leave(pid)

    def _look_later(self) -> None:
        self._looking = True
        self._loop.call_later(self._pause, self._look)
        self._pause = min(2 * self._pause, LOOK_MOST)

    def _look(self) -> None:
        self._looking = False
        for pid in list(self._pids):
            try:
                ended = process.reap(pid)
            except ChildProcessError:
                ended = process.Exit(None)  # somebody else's wait() was faster, or SIGCHLD is ignored (wait(2))
            if ended is not None:
                self._pids.discard(pid)
                log.debug("the exit of process %d can be taken now: it %s", pid, ended)
        if self._pids:
            self._look_later()


def _children() -> list[int]:
    """Our children (proc_pid_task(5), children); none where the kernel does not tell."""
    try:
        return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()]
    except OSError:
        return []
