"""The parking thread: who speaks on a parked connection does not wait for his worker's slow request. WORKER.

While the main thread is with one connection it looks after no other. A thread does then, and only then: it passes those
who speak to whoever has nothing in hand, through the return queue. It exists from the first parked one on, sleeps
while nothing is in hand, looks every `STUCK` seconds while something is, and touches parked connections only while the
main thread stays with one for longer than that. It takes no signals, and is put to sleep around a fork.
"""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread  # bound now: gevent's patches put theirs in place
from collections.abc import Callable
from typing import Final

from prefork.accept.parked_connections import AT_ONCE, ParkedConnection, ParkedConnections
from prefork.system.natives import os, select, signal, time

eventfd = os.eventfd
eventfd_read = os.eventfd_read
eventfd_write = os.eventfd_write
POLLIN = select.POLLIN
poll = select.poll

STUCK: Final = 0.003
"""Seconds that one request may take before those who wait behind it are passed on."""

_PAUSE: Final = 0.005  # seconds until another try when nobody can be passed on


class ParkingThread:
    """That of one worker.

    Args:
        parking: the parked connections.
        pass_on: puts some into the return queue; returns how many it has taken off our hands.

    Attributes:
        began: since when the main thread is with the connection in hand (monotonic ns); 0 = with none.
        awake: whether the thread looks at that.
        active: whether it looks after the parked connections. The main thread calls `stand_down` then, before it does.
    """

    def __init__(self, parking: ParkedConnections, pass_on: Callable[[list[ParkedConnection]], int]) -> None:
        self.began = 0
        self.awake = self.active = False
        self._parking = parking
        self._pass_on = pass_on
        self._lock = allocate_lock()
        self._alive = allocate_lock()  # held while there is the thread
        self._runs = self._forking = self._hooked = self._over = False
        self._wake = -1
        self._aside: list[ParkedConnection] = []

    def rouse(self) -> None:
        """MAIN THREAD. Something is in hand, and the thread sleeps, or is not there yet."""
        if self._over or not self._parking.members:
            return
        try:
            self._begin()
        except (OSError, RuntimeError):  # no descriptor, no thread to be had now
            return
        self.awake = True
        eventfd_write(self._wake, 1)

    def stand_down(self) -> None:
        """MAIN THREAD. It is back, and looks after its connections itself."""
        eventfd_write(self._wake, 1)
        with self._lock:
            self.active = False
            aside, self._aside = self._aside, []
        for one in aside:
            if one is not self._parking.in_hand and not self._parking.admit(one):
                self._parking.close(one)

    def end(self) -> None:
        """MAIN THREAD. There will be no more."""
        self._over = True
        self._stop()

    # The thread's life.

    def _begin(self) -> None:
        if self._wake < 0:
            self._wake = eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(before=self._stop, after_in_parent=self._go_on, after_in_child=self._in_child)
        if self._runs or self._forking:
            return
        self._alive.acquire()
        before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())  # the thread inherits it
        try:
            start_new_thread(self._run, ())
            self._runs = True
        except BaseException:
            self._alive.release()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _stop(self) -> None:
        """End the thread, and wait until it has ended."""
        self._forking = True
        if self._wake >= 0:
            eventfd_write(self._wake, 1)
        self._alive.acquire()
        self._runs = self.active = False
        self._alive.release()

    def _go_on(self) -> None:
        self._forking = False
        self.awake = False  # the next request rouses it; and so does the one in hand, if there is more to come
        if not self._over and self.began:
            self.rouse()

    def _in_child(self) -> None:
        self._over, self.awake, self.active = True, True, False
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    # The thread.

    def _run(self) -> None:
        try:
            sleeping, watching = poll(), poll()
            sleeping.register(self._wake, POLLIN)
            watching.register(self._wake, POLLIN)
            watching.register(self._parking.fileno(), POLLIN)
            while not self._forking:
                began = self.began
                if not began:
                    self.awake = False
                    if self.began:  # in just this moment
                        self.awake = True
                        continue
                    self._sleep(sleeping, None)
                    continue
                self._sleep(sleeping, STUCK * 1000)
                if began == self.began and time.monotonic_ns() - began >= STUCK * 1e9:
                    self._look_after(began, sleeping, watching)
        finally:
            self.active = False
            self._alive.release()

    def _sleep(self, waits: poll, milliseconds: float | None) -> bool:
        """Wait; whether it is because of the main thread, or of a fork."""
        fds = [fd for fd, _ in waits.poll(milliseconds)]
        if self._wake not in fds:
            return False
        try:
            eventfd_read(self._wake)
        except BlockingIOError:
            pass
        return True

    def _look_after(self, began: int, sleeping: poll, watching: poll) -> None:
        with self._lock:
            self.active = True
            if self.began != began:
                self.active = False
        while self._looks():
            self._sleep(watching, None)
            with self._lock:
                if not self._looks():
                    return
                done = self._pass_some()
            if not done:
                self._sleep(sleeping, _PAUSE * 1000)

    def _looks(self) -> bool:
        return self.active and not self._forking

    def _pass_some(self) -> bool:
        """Pass on who speaks; whether all that can be done is done."""
        parking = self._parking
        some = []
        for fd, _ in parking.look(0, AT_ONCE):
            one = parking.members.get(fd)
            if one is None:
                return False  # the main thread's affair
            if one is parking.in_hand:
                parking.look_away(one)
            elif one.local is not None:
                parking.look_away(one)
                self._aside.append(one)
            else:
                some.append(one)
        return not some or self._pass_on(some) > 0
