"""The parking thread: who speaks on a parked connection does not wait for his worker's slow request.

While the main thread is with one connection it looks after no other. A thread does then, and only then: it passes those
who speak to whoever has nothing in hand, through the return queue. It exists from the first parked one on, sleeps
while nothing is in hand, looks every `STUCK` seconds while something is, and touches parked connections only while the
main thread stays with one for longer than that. At forks it is not there (`prefork.system.fork_safe_thread`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prefork.accept.parked_connections import AT_ONCE, ParkedConnection, ParkedConnections
from prefork.system.descriptors import readable
from prefork.system.fork_safe_thread import ForkSafeThread
from prefork.system.natives import time

STUCK: Final = 0.003
"""Seconds that one request may take before those who wait behind it are passed on."""

_LONG: Final = 0.008  # seconds after which they are passed on though nobody is idle: somebody will be sooner
_PAUSE: Final = 0.002  # seconds until another try when nobody can be passed on


class ParkingThread:
    """That of one worker.

    Args:
        parking: the parked connections.
        pass_on: puts some into the return queue; returns how many it has taken off our hands.
        idle: how many siblings have nothing in hand.

    Attributes:
        began: since when the main thread is with the connection in hand (monotonic ns); 0 = with none.
        awake: whether the thread looks at that.
        active: whether it looks after the parked connections. The main thread calls `stand_down` then, before it does.
    """

    def __init__(
        self,
        parking: ParkedConnections,
        pass_on: Callable[[list[ParkedConnection]], int],
        idle: Callable[[], int],
    ) -> None:
        self.began = 0
        self.awake = self.active = False
        self._parking = parking
        self._pass_on = pass_on
        self._idle = idle
        self._over = False
        self._aside: list[ParkedConnection] = []
        self._thread = ForkSafeThread(lambda: True, self._turn, resume=self._resume, drop=self._drop)

    def rouse(self) -> None:
        """MAIN THREAD. Something is in hand, and the thread sleeps, or is not there yet."""
        if self._over or not self._parking.members:
            return
        try:
            self._thread.prepare()
            self._thread.start()
        except (OSError, RuntimeError):  # no descriptor, no thread to be had now
            return
        self.awake = True
        self._thread.wake()

    def stand_down(self) -> None:
        """MAIN THREAD. It is back, and looks after its connections itself."""
        with self._thread.lock:
            self.active = False
            aside, self._aside = self._aside, []
        self._thread.wake()  # not before: it would sleep again, on what it has nothing to do with any more
        for one in aside:
            if one is not self._parking.in_hand and not self._parking.admit(one):
                self._parking.close(one)

    def end(self) -> None:
        """MAIN THREAD. There will be no more."""
        self._over = True
        self._thread.end()

    # Around a fork.

    def _resume(self) -> None:
        self.awake = False  # the next request rouses it; and so does the one in hand, if there is more to come
        if self.began:
            self.rouse()

    def _drop(self) -> None:
        self._over, self.awake, self.active = True, True, False

    # The thread.

    def _turn(self) -> None:
        began = self.began
        if not began:
            self.awake = False
            if self.began:  # in just this moment
                self.awake = True
            else:
                self._sleep()
            return
        self._sleep(seconds=STUCK)
        if began == self.began and time.monotonic_ns() - began >= STUCK * 1e9:
            self._look_after(began)

    def _sleep(self, *descriptors: int, seconds: float | None = None) -> None:
        """Wait, until the main thread or a fork ends it, too."""
        readable(self._thread.wake_fd, *descriptors, seconds=seconds)
        self._thread.heard()

    def _look_after(self, began: int) -> None:
        if not self._thread.enter():
            return
        before, self.active = self.active, True  # it has stayed so where a fork has ended the thread
        if self.began != began:
            self.active = before
        self._thread.lock.release()
        done = False  # those who are ready say nothing that could be waited for
        while self._looks():
            if done:
                self._sleep(self._parking.fileno())
            if not self._thread.enter():
                return
            try:
                if not self._looks():
                    return
                done = self._pass_some()
            finally:
                self._thread.lock.release()
            if not done:
                self._sleep(seconds=_PAUSE)

    def _looks(self) -> bool:
        return self.active and not self._thread.leaving

    def _pass_some(self) -> bool:
        """Pass on who speaks, and who is ready by himself; whether all that can be done is done."""
        parking = self._parking
        some = [one for one in parking.turn.values() if not one.bound and one is not parking.in_hand]
        for fd, _ in parking.look(0, AT_ONCE):
            one = parking.members.get(fd)
            if one is None:
                return False  # the main thread's affair
            if one is parking.in_hand:
                parking.look_away(one)
            elif one.bound:
                parking.look_away(one)
                self._aside.append(one)
            elif fd not in parking.turn:
                some.append(one)
        long = time.monotonic_ns() - self.began >= _LONG * 1e9
        return not some or self._pass_on(some if long else some[: self._idle()]) == len(some)
