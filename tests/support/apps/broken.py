"""Applications that don't boot."""

from __future__ import annotations

import os
import signal

import prefork


class Init(prefork.Worker):
    """Raises."""

    def init(self) -> None:
        raise RuntimeError("no database, as asked")


class Leaves(prefork.Worker):
    """Exits, with a code that is prefork's own for a mistake in the command."""

    def init(self) -> None:
        os._exit(2)


class Crashes(prefork.Worker):
    """Crashes."""

    def init(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Killed(prefork.Worker):
    """Is killed, as by a kernel that has no memory for it."""

    def init(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class SaysExit(prefork.Worker):
    """Leaves as a script would."""

    def init(self) -> None:
        raise SystemExit("configuration missing, as asked")
