"""A thread beside an application that forks: it is there at no fork, and goes on after it.

A child has the thread that forked and none else: a lock that another one held is held there for ever, and what it was
in the midst of stays so (fork(2)); Python 3.12 warns of each fork beside a thread. So this one ends before a fork
(os.register_at_fork), which costs the fork some microseconds, and is started anew behind it where it is wanted.

It takes no signals, which are the main thread's, and gevent's patches don't reach it. Forks may come from several
threads at once, and from a handler of a signal that has interrupted anything here or under the lock.
"""

from __future__ import annotations

from _thread import (  # bound now: gevent's patches put theirs in place
    RLock,
    allocate_lock,
    get_native_id,
    start_new_thread,
)
from collections.abc import Callable
from typing import Final

from prefork.system.natives import os, signal, time
from prefork.system.signals import blocked

eventfd = os.eventfd
eventfd_read = os.eventfd_read
eventfd_write = os.eventfd_write

_LOOK: Final = 0.01  # seconds between two looks at whether who waits for the lock has to end instead
_LEFT: Final = 0.0001  # seconds between two looks at whether the kernel has done with a thread that has ended
_LOOKS: Final = 200


class ForkSafeThread:
    """One thread, as long as it is wanted; started again and again.

    Args:
        wanted: under the lock, before each turn: whether there is more to do. When not, the thread ends.
        turn: what it does; it returns soon after :attr:`wake_fd` has become readable.
        resume: in the parent after each fork, under the lock: calls :meth:`start` where the thread is wanted.
        drop: in each child, which has no thread and nobody else's lock: gives back what is the parent's.

    Attributes:
        lock: for what the thread shares with others. A child finds nothing half done under it, unless it was forked
            there by a handler of a signal.
        wake_fd: readable when the thread is to leave what it waits for, or was woken; -1 until it is prepared for.
        leaving: whether it is to end, for a fork or for good.
    """

    def __init__(
        self,
        wanted: Callable[[], bool],
        turn: Callable[[], object],
        *,
        resume: Callable[[], object],
        drop: Callable[[], object],
    ) -> None:
        self._wanted, self._turn, self._resume, self._drop = wanted, turn, resume, drop
        self._hooked = False
        self._begin()

    def _begin(self) -> None:
        self.lock = RLock()
        self.wake_fd = -1
        self.leaving = self._over = self._runs = False
        self._id = 0  # the kernel's
        self._alive = allocate_lock()  # held while there is the thread, and while there must be none
        self._turning = RLock()  # held while that changes, by whoever forks or starts it
        self._depth = 0  # how often the holder has come to that: once more when a handler of a signal forks

    def prepare(self) -> None:
        """Take what it is woken by, and be there at forks from now on. Idempotent.

        Raises:
            OSError: no descriptor for the wake-up.
        """
        with self.lock:
            if self.wake_fd < 0:
                self.wake_fd = eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            if not self._hooked:
                self._hooked = True
                os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._in_child)

    def start(self) -> None:
        """Start it, unless it runs or is to end; it is prepared for. Where a fork is under way, ``resume`` does it.

        Raises:
            RuntimeError: no thread to be had.
        """
        turning = self._turning
        if not turning.acquire(blocking=False):
            return
        self._depth += 1
        try:
            if not self._runs and not self.leaving:
                self._start()
        finally:
            if turning is self._turning:  # else this is a child, forked meanwhile by a handler of a signal
                self._depth -= 1
                turning.release()

    def _start(self) -> None:
        self._alive.acquire()
        started = False
        try:
            with blocked(signal.valid_signals()):  # the thread inherits it
                self._runs = True
                start_new_thread(self._run, ())
                started = True
        except BaseException:
            if not started:
                self._runs = False
                self._alive.release()
            raise

    def wake(self) -> None:
        """Have it look up from what it waits for."""
        if self.wake_fd >= 0:
            eventfd_write(self.wake_fd, 1)

    def heard(self) -> None:
        """IN THE THREAD. It has been woken: let the descriptor be silent again."""
        try:
            eventfd_read(self.wake_fd)
        except BlockingIOError:
            pass

    def enter(self) -> bool:
        """IN THE THREAD. Take the lock, which is to be released then; False when it has to end instead.

        Whoever waits for that end may hold the lock: a handler of a signal that forks.
        """
        while not self.lock.acquire(timeout=_LOOK):
            if self.leaving:
                return False
        return True

    def end(self) -> None:
        """End it for good, and wait until it has ended."""
        self._over = self.leaving = True
        self.wake()
        with self._alive:
            self._await_its_exit()

    def _run(self) -> None:
        try:
            self._id = get_native_id()
            while self._goes_on():
                self._turn()
        finally:
            self._runs = False
            self._alive.release()

    def _goes_on(self) -> bool:
        if not self.enter():
            return False
        try:
            # With the lock still held: whoever wants it from now on starts another.
            self._runs = not self.leaving and self._wanted()
            return self._runs
        finally:
            self.lock.release()

    # Around a fork.

    def _before(self) -> None:
        self._turning.acquire()
        self._depth += 1
        if self._depth > 1:
            return
        self.leaving = True
        self.wake()
        self._alive.acquire()
        self._await_its_exit()
        self.lock.acquire()

    def _await_its_exit(self) -> None:
        """Its last instruction of Python's is not its last: the interpreter and the kernel still count it."""
        if self._id:
            for _ in range(_LOOKS):
                try:
                    os.stat(f"/proc/self/task/{self._id}")
                except OSError:
                    break
                time.sleep(_LEFT)
            self._id = 0

    def _after(self) -> None:
        if not self._depth:
            return  # this is a child by now: one that was forked within the fork
        self._depth -= 1
        try:
            if not self._depth:
                self._alive.release()
                self.leaving = self._over
                try:
                    self.heard()
                    self._resume()
                finally:
                    self.lock.release()
        finally:
            self._turning.release()

    def _in_child(self) -> None:
        if self.wake_fd >= 0:
            os.close(self.wake_fd)
        self._begin()
        self._drop()
