"""The servers under measurement: how each is started, and how it says that it is ready.

Each serves one answer of six bytes to whoever asks, logs no requests, and closes after the answer. Options are those
that its own documentation recommends for production, and two workers where it knows workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.workshop import APPS, PYTHON, compiled
from prefork.testing import READY, Server, running

WORKERS = 2


@dataclass(frozen=True)
class Subject:
    """One server.

    Attributes:
        name: short, for the command line and for plots.
        title: what it is, for tables.
        kind: what it is to be compared with: "handler" (bare connections), "wsgi" or "other".
        command: the program and its arguments, given the number of workers.
        ready: the line that says it serves, a regular expression; see `prefork.testing.running`.
    """

    name: str
    title: str
    kind: str
    command: Callable[[int], list[str]]
    ready: str = READY

    @contextlib.contextmanager
    def serving(self, workers: int = WORKERS) -> Iterator[Server]:
        """Run it for the block."""
        with running(self.command(workers), ready=self.ready) as server:
            yield server


def _prefork(handler: str, *flags: str) -> Callable[[int], list[str]]:
    def command(workers: int) -> list[str]:
        bind = [] if any(flag.startswith("--bind") for flag in flags) else ["--bind=127.0.0.1:0"]
        serve = [PYTHON, "-m", "prefork", "serve", f"handlers:{handler}", f"--app-dir={APPS}"]
        return [*serve, f"--workers={workers}", *bind, *flags]

    return command


def _floor(*flags: str) -> Callable[[int], list[str]]:
    return lambda workers: [str(compiled("floor.c")), *flags, str(workers)]


def _bare(handler: str) -> Callable[[int], list[str]]:
    return lambda workers: [PYTHON, str(APPS / "bare.py"), handler, str(workers)]


FLOOR = Subject("floor", "C, fork and accept (the floor)", "handler", _floor())

HELLO = (
    FLOOR,
    Subject("bare", "Python, fork and accept", "handler", _bare("hello")),
    Subject("prefork", "prefork, handler", "handler", _prefork("hello")),
)
