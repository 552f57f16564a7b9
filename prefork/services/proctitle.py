"""What ps(1) and top(1) call the processes: ``prefork: master [shop:app]``, ``prefork: worker 3 [busy 1.2s]``.

Needs ``prefork[proctitle]``. A process writes its own title once; that costs connections nothing. With ``proc_titles``
= "live" the master also writes into the workers' titles what they do, once a second: a title is memory of the process
that has it (proc(5), ``/proc/PID/cmdline``), and a parent may write into that of its children (``/proc/PID/mem``). So
a worker in a C function that never ends is seen as well, and no worker spends a moment on it.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from prefork.errors import SettingsError
from prefork.status import text as report
from prefork.status.collector import doing
from prefork.supervisor.mold import NO_SLOT
from prefork.supervisor.service import ServerView, Service
from prefork.supervisor.views import MemberView
from prefork.system import process
from prefork.system.natives import os

log = logging.getLogger("prefork")

EVERY: Final = 1.0
"""Seconds between two looks at what workers do."""

_ARG_START: Final = 47  # places in /proc/PID/stat (proc(5)), counted from 0
_ARG_END: Final = 48
_MOST: Final = 4096  # bytes; no title of ours is nearly as long


class Titles(Service):
    """The titles of one server's processes.

    Args:
        live: whether workers' titles say what they do.

    Raises:
        SettingsError: ``live`` was asked for, and setproctitle is not installed.
    """

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._module = _setproctitle()
        self._before = ""
        self._shown: dict[int, str] = {}
        if live and self._module is None:
            raise SettingsError("proc_titles: live needs setproctitle; pip install 'prefork[proctitle]'")

    def attach(self, server: ServerView) -> None:
        """MASTER. Say who it is."""
        self._server = server
        if self._module is not None:
            self._before = self._module.getproctitle()
            name = server.settings.name
            self._module.setproctitle(f"prefork: master [{name}]" if name else "prefork: master")
            if self._live:
                server.loop.call_later(EVERY, self._look)

    def begin_life(self, slot: int, generation: int) -> None:  # noqa: ARG002  # titles have no place for it
        """WORKER and MOLD. Say who it is."""
        if self._module is not None:
            self._module.setproctitle(process.MOLD if slot == NO_SLOT else _base(slot))

    def detach(self) -> None:
        """MASTER. Give a host program its own title back."""
        if self._module is not None:
            self._module.setproctitle(self._before)

    def _look(self) -> None:
        """Write what each worker does, as far as it has changed."""
        now = self._server.loop.clock.monotonic()
        shown: dict[int, str] = {}
        for member in self._server.roster:
            shown[member.pid] = title = self._title(member, now)
            if self._shown.get(member.pid) == title:
                continue
            try:
                write(member.pid, title)
            except ProcessLookupError:
                continue  # it has just ended
            except OSError as error:
                log.warning("proc_titles: can't write into a worker's title: %s; titles stay as they are", error)
                return
        self._shown = shown
        self._server.loop.call_later(EVERY, self._look)

    def _title(self, member: MemberView, now: float) -> str:
        state, seconds = doing(member, self._server.spawner.view(member), now)
        what = f"{state} {report.duration(seconds)}" if state == "busy" else state
        return f"{_base(member.slot)} [{what}]"


def _base(slot: int) -> str:
    return f"prefork: worker {slot}"


def write(pid: int, title: str) -> None:
    """MASTER. Write the title of a child that has set one of its own before.

    Args:
        pid: the child.
        title: what it is to be.

    Raises:
        OSError: we may not (ptrace(2)), or it has ended.
    """
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        # The second field is the program's name, in brackets, and may hold anything.
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START - 2]), int(fields[_ARG_END - 2])
    # Up to the end of what were the arguments, so that nothing of the title before is left. A longer title goes on
    # into what was the environment, which the process has moved away when it set its first title.
    # Where its arguments lie a process may say of itself (prctl(2), PR_SET_MM_MAP): as long as it likes.
    data = title.encode().ljust(min(end - start, _MOST), b"\0") + b"\0"
    memory = os.open(f"/proc/{pid}/mem", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(memory, data, start)
    finally:
        os.close(memory)


def _setproctitle() -> Any:
    """The module; None when it is not installed."""
    try:
        import setproctitle
    except ImportError:
        return None
    return setproctitle
