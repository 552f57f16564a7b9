"""Asking a child for the tracebacks of its threads, which it writes to its report pipe. MASTER.

It is asked twice. The first time Python has to run there: what is read then stands still, for whoever reads has the
interpreter's lock. Who has not answered `INSIST` seconds later runs no Python, or waits for the lock that a call into C
holds; and faulthandler, which takes no lock, reads frames that stand still all the same. Frames that run it must not
read: it follows what is being written, and the process ends by SIGSEGV with what it has in hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prefork.supervisor.event_loop import Loop
from prefork.system import process
from prefork.system.child import ReportPipe
from prefork.system.signals import DUMP, DUMP_ANYHOW

INSIST: Final = 0.25
"""Seconds in which a process that runs Python has told its tracebacks."""

_LOOKS: Final = 12


def ask(loop: Loop, pid: int, pipe: ReportPipe, lives: Callable[[], object]) -> None:
    """Have a child of ours report the tracebacks of its threads.

    Args:
        loop: for the second question.
        pid: the child, which has not been reaped.
        pipe: by which it reports.
        lives: whether that is still so.
    """
    pipe.read()
    heard = pipe.heard
    if not process.would_end(pid, DUMP):  # the application has given it its default action, or the boot has just begun
        process.kill_main_thread(pid, DUMP)
    looks = _LOOKS

    def insist() -> None:
        nonlocal looks
        if not lives():
            return
        pipe.read()
        looks -= 1
        if pipe.heard != heard:
            return
        if process.has_taken(pid, DUMP, and_catches=DUMP_ANYHOW):
            process.kill_main_thread(pid, DUMP_ANYHOW)
        elif looks:  # it is stopped, and will hear both questions at once
            loop.call_later(INSIST, insist)

    loop.call_later(INSIST, insist)
