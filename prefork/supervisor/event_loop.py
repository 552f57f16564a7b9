"""The master's event loop: descriptors, deadlines and signals that others register; it knows none of them.

One thread, level-triggered epoll(7). It sleeps until something happens or the next deadline comes; an idle server's
master makes no system call at all. Callbacks are short and never block.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
from collections.abc import Callable, Collection

from prefork.system import terminal
from prefork.system.backoff import Backoff
from prefork.system.clock import SYSTEM, Clock
from prefork.system.natives import select
from prefork.system.signals import Recorder
from prefork.system.throttle import Throttle

log = logging.getLogger("prefork")

FROZEN = 1.0
"""Seconds that may pass unexplained; more, and the process was frozen (SIGSTOP, a cgroup's freezer, the host)."""

WATCHFUL = 1.0
"""Seconds that a sleep lasts at the most while somebody has a deadline. Only what exceeds a sleep can be told for a
freeze when nobody says so (SIGCONT does; a cgroup's freezer does not), so long sleeps hide long freezes."""

CREDENCE = Backoff(initial=1.0, factor=2.0, maximum=3600.0, jitter=0.0)
"""Seconds after which SIGCONT is believed once more: longer each time, so that who sends it puts off no deadline for
ever. A freeze that the clock shows needs nobody's word."""

LONGEST_SLEEP = 1_000_000.0
"""Seconds; epoll_wait(2) takes a C int of milliseconds."""


class Timer:
    """A deadline; ``cancel()`` it when it is no longer wanted."""

    __slots__ = ("_callback", "cancelled", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self._callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Forget the callback. Idempotent."""
        self.cancelled = True

    def run(self) -> None:
        """Its moment has come: call back, once."""
        if not self.cancelled:
            self.cancelled = True
            self._callback()


class Loop:
    """Everything here is called by the master, in its main thread.

    Args:
        clock: where the time comes from (seconds, monotonic).

    Attributes:
        descriptors: every descriptor that is the loop's or registered with it: what a child has to close.

    Raises:
        OSError: no descriptor for epoll or the wake-up pipe.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self.clock = clock
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._readers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._chosen: list[Timer] = []
        self._order = itertools.count()
        self._signals: dict[int, Callable[[], object]] = {}
        self._recorder = Recorder()
        self._stops: terminal.Stops | None = None
        self._thaw: list[Callable[[float], None]] = []
        self._looked: float | None = None
        self._slept = 0.0
        self._words = 0
        self._word_at = self._believed_at = 0.0
        self._unbelieved = Throttle(log, clock)
        self.descriptors = {self._epoll.fileno(), *self._recorder.descriptors}
        self.register(self._recorder.fileno(), self._dispatch_signals)

    def register(self, fd: int, callback: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """Call ``callback`` whenever ``fd`` is readable, or what else ``events`` says (epoll_ctl(2)).

        Raises:
            OSError: no memory, or the limit of watches is reached (epoll_ctl(2)).
        """
        self._epoll.register(fd, events)
        self._readers[fd] = callback
        self.descriptors.add(fd)

    def unregister(self, fd: int) -> None:
        """Forget ``fd``; to be called before it is closed, since workers hold copies of it. Idempotent."""
        if self._readers.pop(fd, None) is not None:
            self.descriptors.discard(fd)
            try:
                self._epoll.unregister(fd)
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.EBADF}:
                    raise

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once, at the monotonic second ``when`` or as soon after as the loop comes to it."""
        timer = Timer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once, ``seconds`` from now."""
        return self.call_at(self.clock.monotonic() + seconds, callback)

    def again(self, timer: Timer, seconds: float) -> None:
        """Have a timer that has run come once more, ``seconds`` from now; it can be cancelled as before."""
        timer.cancelled = False
        timer.when = self.clock.monotonic() + seconds
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))

    def on_signal(self, signum: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` for each ``signum`` that comes; takes the signal's handler until :meth:`close`."""
        self._signals[signum] = callback
        self._recorder.install([signum])
        if signum in terminal.SIGNALS and self._stops is None and terminal.controlling():
            self._stops = terminal.Stops()
            self.register(self._stops.fileno(), self._note_stops)

    def reclaim_signals(self) -> list[str]:
        """Take the signals again, after code that is not ours has run; returns what that had changed, in words."""
        return self._recorder.reclaim()

    @property
    def noted(self) -> bool:
        """Whether a signal has been noted whose callback has not been called."""
        return self._recorder.pending

    def heard(self, signals: Collection[int]) -> bool:
        """Whether one of ``signals`` has been noted whose callback has not been called."""
        return self._recorder.has(signals)

    @property
    def now(self) -> float:
        """When the clock was last looked at. What is due by this is not due because of a freeze since then."""
        return self.clock.monotonic() if self._looked is None else self._looked

    def on_thaw(self, callback: Callable[[float], None]) -> None:
        """Call ``callback`` with the seconds for which this process was frozen, at the most, before anything is due."""
        self._thaw.append(callback)

    def thawed(self, seconds: float | None = None) -> None:
        """Say that the process was frozen: timers start that much later, and whoever asked is told.

        Args:
            seconds: for how long at the most; None = somewhere within the last sleep (for a handler of SIGCONT, which
                says that it happened but not when it began).
        """
        if seconds is None:
            seconds, self._slept = self._slept, 0.0
            if not seconds or not self._believes():
                return
        self._timers = [(when + seconds, order, timer) for when, order, timer in self._timers]
        for _, _, timer in self._timers:
            timer.when += seconds
        for timer in self._chosen:  # this turn's, which came due while nobody could have done anything
            timer.when += seconds
            heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        self._chosen.clear()
        for callback in self._thaw:
            callback(seconds)

    def _believes(self) -> bool:
        """Whether to take somebody's word for a freeze that the clock does not show."""
        now = self.clock.monotonic()
        if now - self._word_at > CREDENCE.maximum:
            self._words = 0
        self._word_at = now
        if self._words and now < self._believed_at + CREDENCE.delay(self._words - 1, 0.0):
            self._unbelieved.tell(
                logging.WARNING, "word", "SIGCONT comes too often to be taken for the end of a freeze"
            )
            return False
        self._words, self._believed_at = self._words + 1, now
        return True

    def _look_at_clock(self, expected: float | None) -> float:
        """Find out whether more time has passed since the last look than can be.

        When a freeze began is unknown: all of the time that passed may have been frozen. Taking it for frozen starts
        each deadline anew; counting only the excess would leave those that came due meanwhile due at once.

        Args:
            expected: seconds that were to be slept; None = any number of them.

        Returns:
            The seconds since the last look for which no thaw was told.
        """
        now = self.clock.monotonic()
        passed = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        if expected is None or passed <= expected + FROZEN:
            return passed
        log.warning("the master was frozen, or held up, for %.1f s: every deadline starts anew", passed - expected)
        self.thawed(passed)
        return 0.0

    def poll(self, wake_at: float | None, *, watchful: bool = False) -> None:
        """Sleep until something happens, the next timer, or ``wake_at``; then call whoever is concerned.

        Args:
            wake_at: monotonic seconds; None = no deadline of the caller's own.
            watchful: whether to sleep no longer than :data:`WATCHFUL`, so that a freeze is noticed.
        """
        self._look_at_clock(expected=0.0)
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        deadlines = [when for when in (wake_at, self._timers[0][0] if self._timers else None) if when is not None]
        seconds = None
        if deadlines:
            seconds = min(max(0.0, min(deadlines) - self.clock.monotonic()), WATCHFUL if watchful else LONGEST_SLEEP)
        ready = self._epoll.poll(0 if self._recorder.pending else seconds)
        self._slept = self._look_at_clock(expected=seconds)
        # Chosen before any callback runs: what one asks for "at once" comes at the next turn, when what this turn has
        # decided is done.
        self._chosen = self._due()
        for fd, _ in ready:
            callback = self._readers.get(fd)
            if callback is not None:
                callback()
        chosen, self._chosen = self._chosen, []
        for timer in chosen:
            timer.run()
        if self._recorder.pending:  # and the descriptor has not told: somebody had taken its place meanwhile
            self._dispatch_signals()
        self._look_at_clock(expected=0.0)

    def _due(self) -> list[Timer]:
        """Take the timers whose moment has come, the earliest first."""
        now = self.clock.monotonic()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        return due

    def _note_stops(self) -> None:
        if self._stops is not None:
            for signum in self._stops.take_signals():
                self._recorder.note(signum)
            self._dispatch_signals()

    def _dispatch_signals(self) -> None:
        for signum in self._recorder.take_signals():
            callback = self._signals.get(signum)
            if callback is not None:
                callback()

    def close(self) -> None:
        """Give every signal handler back and close what is the loop's own. Idempotent."""
        if self._stops is not None:
            self._stops.close()
        self._recorder.restore()
        self._epoll.close()
        self._readers.clear()
        self._timers.clear()
