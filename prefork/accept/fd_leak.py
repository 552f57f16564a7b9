"""Finding a leak of descriptors in one's own process, before the limit is met.

The kernel gives the lowest free number (open(2)), so once the descriptor with a high number is open, nearly all below
it are, or were. Every few connections the worker looks whether the one at the *watermark* is open, for one system call.
If it is, the worker asks for its replacement and accepts nothing for a while: what is left below the limit is for its
handler and for the log, not for more connections, and its siblings serve. (The number of an accepted descriptor says
nothing: it is the lowest free one again and again, and what the handler leaks lies above it.) When accept or a handler
meets the limit all the same, the worker looks at once; it takes itself for leaking only if it holds more than it did
after its boot.

A loop of the application's own may have many connections in hand, and so may a worker with several lanes, each with
descriptors of its own, and that is no leak: such a worker takes itself for leaking only while it has no more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized

from prefork.net.lingering import ours
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import Why
from prefork.system.descriptors import SpareDescriptor, accepted, census, descriptors, held
from prefork.system.limits import nofile
from prefork.system.natives import os, socket, time
from prefork.system.throttle import Log

_NEVER = -1

HEADROOM = 24
"""Descriptors below the limit that a leaking worker leaves untouched, so far as the limit has room for so many."""

ROUND = 16
"""Connections between two looks for a leak, at the most; less where there is not room for so many leaked ones."""

QUARANTINE = 5.0
"""Seconds for which a leaking worker waits for its replacement before it goes on."""

LOOK_AGAIN = 5.0
"""Seconds between two looks for a leak at the limit of descriptors; a look costs some system calls a descriptor."""


class LeakFinder:
    """Looks for a leak in one worker. The master makes it, and the worker begins it.

    Args:
        entry: where a replacement is asked for.
        log: where a leak is told.
        spare: the worker's descriptor in reserve.

    Attributes:
        round: connections between two looks for a leak (count).
        parked: the connections that are kept: no leak.
        lanes_busy: with several lanes, how many of them have something in hand.
    """

    parked: Sized = ()
    lanes_busy: Callable[[], int] | None = None
    _confessed = False
    _next_look = 0.0

    def __init__(self, entry: Entry, log: Log, spare: SpareDescriptor) -> None:
        self._entry = entry
        self._log = log
        self._spare = spare

    def learn_what_is_usual(self, listeners: Sequence[socket.socket] = ()) -> None:
        """See how many descriptors are usual; once the application has what it needs.

        Args:
            listeners: what this worker listens on, if it may have several connections in hand; else nothing.
        """
        self._listeners = listeners
        self._spare.take()
        usual, limit = _count(), nofile()
        headroom = min(HEADROOM, max(0, limit - usual) // 2)
        self._usual = usual + headroom // 2
        self.round = max(1, min(ROUND, headroom * 2 // 3))
        self._watermark = limit - headroom

    def leaks(self) -> bool:
        """Look, for one system call, whether this worker leaks; to be called every few connections.

        Returns:
            Whether to accept nothing for up to :data:`QUARANTINE` seconds, until the replacement is there. True once:
            without a replacement there is nothing better to do than to go on.
        """
        try:
            os.fstat(self._watermark)
        except OSError:
            return False
        ours.dismiss()  # these are no leak, and would be taken for one
        if self._several() or (self._listeners and not self._may_look()):
            return False
        held = self._held()
        if self._confess(held):
            self._watermark = _NEVER
            return True
        if not self._listeners:
            # The application uses a number up there on purpose (dup2): look at one that it doesn't.
            self._watermark = next(number for number in range(self._watermark, _NEVER - 1, -1) if number not in held)
        return False

    def leaks_at_the_limit(self) -> bool:
        """This process has met its limit, in accept or in a handler: see whether it is by a leak.

        Returns:
            As :meth:`leaks`.
        """
        ours.dismiss()
        return not self._several() and self._may_look() and self._confess(self._held())

    def _several(self) -> bool:
        """Whether several lanes have something in hand."""
        return self.lanes_busy is not None and self.lanes_busy() > 1

    def _may_look(self) -> bool:
        """Whether it is time to look at all descriptors again."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_AGAIN
        return True

    def _held(self) -> set[int]:
        """The descriptors that are open; nothing when that can't be told."""
        with self._spare:
            try:
                return set(descriptors())
            except OSError:
                return set()

    def _confess(self, held: set[int]) -> bool:
        """If this worker holds more than is usual, say what, and ask for a replacement; once."""
        if self._confessed or len(held) - len(self.parked) <= self._usual:
            return False
        if accepted(held, self._listeners) > 1:
            return False
        kinds = census(held)
        self._confessed = True
        self._log.error("this worker leaks descriptors and is to be replaced; it holds %s", "; ".join(kinds))
        self._entry.ask_to_be_recycled(Why.LEAK)
        return True


def _count() -> int:
    """How many descriptors this process holds; 0 when that can't be told."""
    try:
        return held()
    except OSError:
        return 0
