"""What a worker puts off until nobody waits for it: collections of garbage, and the hook `on_idle`.

Python looks through its oldest objects, and so through all there are, whenever enough has been allocated: in the midst
of a request, for a second or more where an application holds much. `IdleWork` has it done between two connections
instead, when nobody waits for this worker and not too many of its siblings do the same; connections that it keeps are
passed to them before. A worker that is never idle does it all the same, seldom enough that it takes a fiftieth of its
time. The younger generations, which are small, are collected as always.

All of it in the WORKER, between two connections of the usual loop, in the thread that is about to wait. Where a process
has several lanes, one that has something in hand is somebody who waits.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final, Protocol

from prefork.scoreboard.entry import Entry, Lane
from prefork.system.natives import time

EVERY: Final = 1.0
"""Seconds between two calls of the hook, at the least."""

_USUAL: Final = 10  # collections of the middle generation before one of the oldest
_NEVER: Final = 2**31 - 1  # a threshold that is not reached
_OLDEST: Final = 2
_MIDDLE: Final = 1
_SHARE_IDLE: Final = 10  # of the time, one part may go into collections while nobody waits,
_SHARE_BUSY: Final = 50  # and one part while somebody does
_PATIENCE: Final = 5.0  # seconds to wait for a moment at which no lane has anything in hand
_SHORT: Final = 0.005  # seconds of a collection for which no connection is passed on


class Waiting(Protocol):
    """Where a worker's connections come from (`prefork.accept.acceptor.Acceptor`)."""

    def somebody_waits(self) -> bool:
        """Whether there is something to do at once."""

    def withdraw(self) -> None:
        """Give what is kept here to siblings, as far as they take it."""


class IdleWork:
    """One worker's.

    Args:
        entry: its entry.
        most: how many workers of the server may collect at one moment (count).
        collects: whether the oldest generation is collected here, and nowhere else.
        hook: what else is to be called; None is nothing.

    Attributes:
        due: whether there may be something to do.
    """

    def __init__(self, entry: Entry, most: int, *, collects: bool, hook: Callable[[], object] | None) -> None:
        self._entry = entry
        self._most = most
        self._hook = hook
        self._call_at = 0.0
        self._collections = 0  # of the middle generation, since the last of the oldest
        self._wanted = _NEVER
        self._idle_at = self._busy_at = 0.0  # when the next may be
        self._due_since = 0.0
        self._took = _SHORT
        self.due = hook is not None
        if collects:
            young, middle, oldest = gc.get_threshold()
            self._wanted = oldest or _USUAL  # from Python 3.14 on it is 0
            gc.set_threshold(young, middle, _NEVER)
            gc.callbacks.append(self._collected)

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        """Python has collected some generation, or is about to."""
        if phase != "stop":
            return
        if info["generation"] == _MIDDLE:
            self._collections += 1
            if self._collections > self._wanted:
                self.due = True
        elif info["generation"] == _OLDEST:
            self._collections = 0
            self._due_since = 0.0
            self.due = self._hook is not None

    def between(self, connections: Waiting, *, beside: bool = False) -> None:
        """Two connections: what was in hand is done, and nothing else is yet.

        Args:
            connections: where the next one comes from.
            beside: whether another lane of this process has something in hand: nothing is done that can be put off.
        """
        now = time.monotonic()
        collects = self._collections > self._wanted and now >= self._idle_at
        calls = self._hook is not None and now >= self._call_at
        if not (collects or calls):
            return
        waits = beside or connections.somebody_waits()
        if collects:
            self._due_since = self._due_since or now
            at_last = now >= self._busy_at and (not beside or now - self._due_since >= _PATIENCE)
            if at_last or not waits:
                self._collect(connections)
        if calls and not waits and self._hook is not None:
            with self._lane.busy_with("on_idle"):
                self._hook()
            self._call_at = time.monotonic() + EVERY

    @property
    def _lane(self) -> Lane:
        """The lane that does it; it has nothing in hand."""
        return self._entry.here or self._entry.lane

    def _collect(self, connections: Waiting) -> None:
        entry = self._entry
        if not entry.begin_collecting(self._most):
            return
        try:
            if self._took >= _SHORT and entry.idle_beside:
                connections.withdraw()
            began = time.monotonic()
            with self._lane.busy_with("a collection of garbage"):
                gc.collect()
            ended = time.monotonic()
        finally:
            entry.end_collecting()
        self._took = ended - began
        self._idle_at = ended + self._took * _SHARE_IDLE
        self._busy_at = ended + self._took * _SHARE_BUSY
