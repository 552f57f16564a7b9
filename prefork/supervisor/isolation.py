"""Isolation: the loop as those see it whose failures are to harm nobody but themselves.

A control socket, a pidfile, autoscaling, an upgrade: none of it is supervision, and a defect there, or an errno that
nobody thought of, must not end a server whose workers serve. What a callback raises is told in the log, with its
traceback, once in a while; and it goes on:

* a descriptor rests for a growing pause, since it would still be readable and the loop would never sleep;
* a deadline comes again after such a pause, until its callback returns once: most are one link of a chain (a sign of
  life every few seconds), which would otherwise be broken. Not when the callback has set itself a deadline already;
* a signal's callback is called again with the next signal.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from prefork.supervisor.event_loop import Loop, Timer
from prefork.system.backoff import Backoff
from prefork.system.natives import select
from prefork.system.throttle import Throttle

log = logging.getLogger("prefork")

REST = Backoff(initial=1.0, factor=2.0, maximum=60.0, jitter=0.0)
"""How long what has failed rests: longer each time in a row."""


class Isolated(Loop):
    """A face of a loop: registers with that, and lets nothing that a callback raises through.

    Args:
        loop: the loop itself.
        name: whose callbacks these are, for the log.
    """

    def __init__(self, loop: Loop, name: str) -> None:
        # Nothing of a loop's own is made here: all that there is, is the other's.
        self._loop = loop
        self._name = name
        self.clock = loop.clock
        self.descriptors = loop.descriptors
        self._throttle = Throttle(log, loop.clock)
        self._watched: set[int] = set()
        self._resting: dict[int, Timer] = {}
        self._failures: dict[object, int] = {}  # in a row, by descriptor or callback
        self._running: Callable[[], object] | None = None
        self._again = False

    def register(self, fd: int, callback: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """As :meth:`Loop.register`; it rests for a while whenever the callback fails."""
        self._loop.register(fd, lambda: self._readable(fd, callback, events), events)
        self._watched.add(fd)

    def unregister(self, fd: int) -> None:
        """As :meth:`Loop.unregister`."""
        self._watched.discard(fd)
        self._failures.pop(fd, None)
        resting = self._resting.pop(fd, None)
        if resting is not None:
            resting.cancel()
            self.descriptors.discard(fd)
        self._loop.unregister(fd)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """As :meth:`Loop.call_at`; it comes again when the callback fails."""
        self._again = self._again or callback == self._running
        timer = self._loop.call_at(when, lambda: self._due_now(timer, callback))
        return timer

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """As :meth:`Loop.call_later`; it comes again when the callback fails."""
        return self.call_at(self._loop.clock.monotonic() + seconds, callback)

    def on_signal(self, signum: int, callback: Callable[[], object]) -> None:
        """As :meth:`Loop.on_signal`."""
        self._loop.on_signal(signum, lambda: self._hear(callback))

    @property
    def noted(self) -> bool:
        """As :attr:`Loop.noted`."""
        return self._loop.noted

    def on_thaw(self, callback: Callable[[float], None]) -> None:
        """As :meth:`Loop.on_thaw`."""

        def told(seconds: float) -> None:
            self._hear(lambda: callback(seconds))

        self._loop.on_thaw(told)

    def thawed(self, seconds: float | None = None) -> None:
        """As :meth:`Loop.thawed`."""
        self._loop.thawed(seconds)

    def _hear(self, callback: Callable[[], object]) -> bool:
        """Run a callback; whether it returned."""
        try:
            callback()
        except BaseException as error:  # noqa: BLE001  # sys.exit() in a service must not end the server either
            self._throttle.tell(
                logging.ERROR,
                (type(error), _place(error)),
                "%s failed, and goes on:\n%s",
                self._name,
                "".join(traceback.format_exception(error)).rstrip(),
            )
            return False
        return True

    def _due_now(self, timer: Timer, callback: Callable[[], None]) -> None:
        self._running, self._again = callback, False
        fine = self._hear(callback)
        self._running = None
        if fine:
            self._failures.pop(callback, None)
        elif not self._again:
            self._loop.again(timer, self._rest(callback))

    def _readable(self, fd: int, callback: Callable[[], None], events: int) -> None:
        if self._hear(callback):
            self._failures.pop(fd, None)
        elif fd in self._watched:
            # Somebody else's by now when the owner has closed it; he has unregistered it before, then.
            self._loop.unregister(fd)
            self.descriptors.add(fd)
            self._resting[fd] = self._loop.call_later(self._rest(fd), lambda: self._wake(fd, callback, events))

    def _wake(self, fd: int, callback: Callable[[], None], events: int) -> None:
        self._resting.pop(fd, None)
        try:
            self._loop.register(fd, lambda: self._readable(fd, callback, events), events)
        except OSError:  # no memory, or the limit of watches is reached (epoll_ctl(2))
            self._resting[fd] = self._loop.call_later(self._rest(fd), lambda: self._wake(fd, callback, events))

    def _rest(self, what: object) -> float:
        """How long what has failed rests."""
        times = self._failures.get(what, 0)
        self._failures[what] = times + 1
        return REST.delay(times, 0.0)


def _place(error: BaseException) -> tuple[str, int] | None:
    """Where an exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else None
