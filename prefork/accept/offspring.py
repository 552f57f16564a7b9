"""What becomes of the processes that an application forks in a worker: plain ones, in which nothing of ours goes on.

Such a process (os.fork, multiprocessing, a library's) is a copy of the worker: it has the listeners, the connections in
hand, the lines to the master and the handlers of its signals. Python calls us within each of its forks
(os.register_at_fork), and costs nobody anything who doesn't fork. In the child, before the application goes on there:

* signals have their defaults again, unless the application has set others; they are blocked across the fork, because
  CPython forgets what comes to a child before its first instruction,
* listeners, connections and the lines to the master are closed: their numbers are taken by a socket whose peer is gone,
  so that nobody closes what the child has opened meanwhile in place of what he believes to own,
* the scoreboard is memory of the child's own, in which it may write what it likes,
* the worker is as one that has been told to leave, so that each loop of ours ends when control comes back to it; and
  then the process ends as any program does, with the code that it asks for, and without the worker's exit() and hooks.

In the parent it is noted that somebody may hold a copy of what is in hand, so that its end takes a shutdown(2).

A program that is executed is concerned by none of it: descriptors are closed and handlers reset by the exec.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from faulthandler import unregister

from prefork.net import accepted
from prefork.scoreboard.entry import Entry
from prefork.system import ending, process
from prefork.system.forks import HERE
from prefork.system.natives import os, signal, socket, threading
from prefork.system.signals import DUMP_ANYHOW, Dispositions

register_at_fork = os.register_at_fork
get_ident = threading.get_ident


class Offspring:
    """What happens at each fork of a worker's application. Made by the master.

    Args:
        entry: the worker's entry.
        dispositions: the handlers that the worker installs, by signal.
        report: the writing end of the pipe to the master.
        sockets: what the worker accepts on.

    Attributes:
        keeps: whether a child keeps the connections in hand, because it is what serves them, or may be.
        silent: whether :attr:`~prefork.scoreboard.entry.Entry.stop_fd` stays silent in a child, because the
        application's part of it
            goes on in a loop that waits for that. Else it is readable, as after an order to leave.
        parted: called in each child, at the end.
    """

    def __init__(
        self, entry: Entry, dispositions: Dispositions, report: int, sockets: tuple[socket.socket, ...]
    ) -> None:
        self.keeps = True
        self.silent = False
        self.parted: list[Callable[[], object]] = []
        self._entry = entry
        self._dispositions = dispositions
        self._report = report
        self._sockets = sockets
        # Taken now: a listener that is sealed has another socket in its place.
        self._listeners = frozenset(os.fstat(listener.fileno()).st_ino for listener in sockets)
        self._names = frozenset(map(accepted.name_of, sockets))
        self._blocked = BlockedAcrossForks(dispositions)
        self._over = False

    def watch_forks(self) -> None:
        """Be there at each fork from now on; for good, since Python has no way to take it back."""
        HERE.foreign = HERE.copied = False
        register_at_fork(before=self._before, after_in_child=self._in_the_child, after_in_parent=self._in_the_parent)

    def _before(self) -> None:
        if not self._over:
            self._blocked.block()

    def _in_the_parent(self) -> None:
        if not self._over:
            HERE.copied = True
            self._blocked.unblock()

    def _in_the_child(self) -> None:
        if self._over:
            return  # a child of a child
        self._over = HERE.foreign = True
        HERE.copied = False
        try:
            reset_signals(self._dispositions)
            self._entry.part()
            os.close(self._report)
            self._close()
            ending.forget()
            for call in self.parted:
                call()
        finally:
            self._blocked.unblock_child()

    def _close(self) -> None:
        """Take away what the worker accepts on and, unless they are kept, what it has accepted."""
        dead, peer = socket.socketpair()
        peer.close()
        with dead:
            for number in (self._entry.stop_fd, self._entry.go, *(listener.fileno() for listener in self._sockets)):
                replace_descriptor(dead.fileno(), number)
            if self.silent:
                quiet = os.eventfd(0)
                replace_descriptor(quiet, self._entry.stop_fd)
                os.close(quiet)
            for number, found in accepted.sockets(self._names):
                if os.fstat(number).st_ino in self._listeners or (not self.keeps and _has_peer(found)):
                    replace_descriptor(dead.fileno(), number)


class BlockedAcrossForks:
    """What a process of ours handles, blocked while the application forks, in the thread that does.

    The child would forget what comes to it at first, or take it as one of ours does.

    Args:
        dispositions: what is handled.
    """

    def __init__(self, dispositions: Dispositions) -> None:
        self._signals = [signum for signum, _ in dispositions]
        self._masks: dict[int, list[Iterable[int] | None]] = {}  # of each thread; several where a handler forks

    def block(self) -> None:
        """Before a fork.

        Each call that changes a mask runs handlers of the application's, which may raise, or fork themselves. So what
        is to be put back is noted before anything is changed.
        """
        masks = self._masks.setdefault(get_ident(), [])
        masks.append(None)
        masks[-1] = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)

    def unblock(self) -> None:
        """In the parent, after it: put back what was there before."""
        masks = self._masks.get(get_ident())
        _put_back(masks.pop() if masks else None)

    def unblock_child(self) -> None:
        """In a child; one that was forked by a handler in the midst of another fork has what was before that."""
        masks = self._masks.get(get_ident())
        _put_back(masks[0] if masks else None)


def _put_back(mask: Iterable[int] | None) -> None:
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def reset_signals(dispositions: Dispositions) -> None:
    """In a child of the application's: give what is handled its default again, unless the application handles it."""
    for signum, handler in dispositions:
        if signal.getsignal(signum) == handler:
            signal.signal(signum, _DEFAULTS.get(signum, signal.SIG_DFL))
    unregister(DUMP_ANYHOW)


def replace_descriptor(other: int, number: int) -> None:
    """Put another descriptor in the place of ``number``; where there is no room for that, close it."""
    if number < 0:
        return
    try:
        os.dup2(other, number, inheritable=False)
    except OSError:  # beyond RLIMIT_NOFILE, which may have been lowered (dup2(2))
        with suppress(OSError):
            os.close(number)


def _has_peer(found: socket.socket) -> bool:
    try:
        found.getpeername()
    except OSError:
        return False
    return True


_DEFAULTS = {int(signal.SIGINT): signal.default_int_handler}
"""What Python itself gives a program."""


def code_of(error: BaseException | None) -> int:
    """How a program ends that lets ``error`` out, which is shown as the interpreter does: its exit code."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)  # noqa: T201  # as the interpreter would
        return process.exit_code(error)
    traceback.print_exception(error)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def leave(error: BaseException | None = None) -> None:
    """In a process of the application's own, when control comes back to us there: end it. Elsewhere, do nothing.

    Args:
        error: What came back with it.
    """
    if HERE.foreign:
        code = code_of(error)
        ending.end()
        process.leave(code)


@contextmanager
def guarded() -> Iterator[None]:
    """A block of the application's, out of which a process of its own doesn't come."""
    try:
        yield
    except BaseException as error:
        leave(error)
        raise
    leave()
