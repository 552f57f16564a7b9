"""Signals: handlers that record, masks across fork, everything given back.

A handler of the master's does one thing: it notes the signal. The wake-up descriptor (signal.set_wakeup_fd) ends the
loop's sleep, and the loop acts. What the host had installed - handlers, mask, wake-up descriptor - is back
after the run.
"""

from __future__ import annotations

import collections
import contextlib
from _signal import pthread_sigmask, set_wakeup_fd  # type: ignore[import-not-found]  # typeshed has no CPython internals
from _signal import signal as install
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from prefork.system import terminal
from prefork.system.descriptors import readable
from prefork.system.natives import os, signal, threading

Handler = Callable[[int, FrameType | None], Any] | int | None

WAKE_UP = int(signal.SIGRTMIN) + 2
"""By which a master tells a worker to look at its order. A real-time signal (signal(7)), because applications and the
servers that they embed take SIGTERM for themselves, and some give it back its default action."""

DUMP = int(signal.SIGRTMIN) + 1
"""By which a worker or mold is asked for the tracebacks of its threads, for Python to answer."""

DUMP_ANYHOW = int(signal.SIGRTMIN) + 3
"""By which one is asked that has not answered, for it runs no Python (`prefork.supervisor.tracebacks`)."""

MASTER = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGCHLD,
)
"""What the master may handle."""

ACROSS_FORKS = (WAKE_UP, *MASTER)
"""What is blocked across fork: none is lost between two sets of handlers, and one that comes early ends nobody."""

EARLY = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What the command blocks from its first line on (`prefork.__main__`): an order to a server that is about to be, with
clients perhaps in the queue of a socket that it was given. It is heard when the handlers stand."""

Dispositions = tuple[tuple[int, Handler], ...]
"""Numbers of signals, each with its handler."""

_SETMASK = int(signal.SIG_SETMASK)

_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)
"""What the interpreter itself ignores, and the subprocess module gives back to what it executes."""


def begin(*, masked: bool) -> None:
    """The process of a command that serves, before anything else: what whoever started us has left is not ours.

    Signals that are blocked or ignored stay so over an exec (execve(2)): with SIGTERM blocked a server could not be
    stopped, with SIGCHLD ignored nobody would learn how a worker ended (wait(2)), and the application and what it
    executes would have them so as well. So the mask is emptied and what is ignored is given its default action, as if
    a login had started us. nohup's SIGHUP too: to a master that is a reload, which it survives in any case.

    What stays blocked: of :data:`EARLY` what is so already, by the command's first line; in a program that calls the
    command as a function nothing is. At a terminal :data:`terminal.SIGNALS` besides.

    Args:
        masked: leave the mask: it is that of an image before this one, which has blocked it for us.
    """
    for signum in signal.valid_signals():
        if signum not in _PYTHONS_OWN and signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    if not masked:
        early = signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(EARLY)
        signal.pthread_sigmask(signal.SIG_SETMASK, (*stops(), *early))


def let_in() -> None:
    """Let :data:`EARLY` come: there will be no server, or code that is not ours runs first and may take for ever."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY)


def stops() -> tuple[int, ...]:
    """What a master keeps blocked: :data:`terminal.SIGNALS` at a terminal, else nothing."""
    return terminal.SIGNALS if terminal.controlling() else ()


@contextlib.contextmanager
def blocked(signals: Iterable[int] = ACROSS_FORKS, *, only: bool = False) -> Iterator[set[signal.Signals]]:
    """Block ``signals`` for the ``with`` block; yields the mask that was there and puts it back after.

    Args:
        signals: which.
        only: whether all others are let in.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # It runs the handlers of what has come, and one of an application's may raise: the mask is known by then.
        signal.pthread_sigmask(signal.SIG_SETMASK if only else signal.SIG_BLOCK, signals)
        yield before  # type: ignore[misc]  # typeshed allows numbers that are no Signals (real-time signals); ours are
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def act_by_default(signum: int) -> None:
    """Give ``signum`` its default action (signal(7)) and have it come once more. For a handler to call."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


@contextlib.contextmanager
def wakeup() -> Iterator[int]:
    """A block in which a descriptor is readable once a signal has come that Python handles. MAIN THREAD of a command.

    Yields:
        The descriptor; it does not block.

    Raises:
        OSError: no descriptors for it.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(before)
    finally:
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def alert() -> Iterator[Callable[[int], object]]:
    """A block in which waits hear of signals that come just before them.

    The interpreter looks for signals before a system call and not within it: one that comes in between interrupts
    nothing (signal(7)), and is heard when the call returns by itself, which may be never. Python has written to the
    wake-up descriptor by then. For the main thread, of a program that has no loop yet; elsewhere there are no handlers
    to hear of.

    Yields:
        What waits until a descriptor is readable, unless a handler raises.

    Raises:
        OSError: no descriptors for it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda descriptor: readable(descriptor, seconds=None)
        return
    with wakeup() as awakened:

        def wait(descriptor: int) -> None:
            while not readable(descriptor):
                readable(descriptor, awakened, seconds=None)
                with contextlib.suppress(BlockingIOError):
                    os.read(awakened, 4096)

        yield wait


class Recorder:
    """MASTER. Notes signals in the order they came and wakes the loop.

    A process that the host program forks meanwhile (multiprocessing in a hook) inherits the handlers. What comes to it
    is not the master's affair, and takes its default action there.

    ``fileno()`` becomes readable when something was noted. To be used from the main thread only (signal.signal).
    """

    def __init__(self) -> None:
        self._noted: collections.deque[int] = collections.deque()
        self._before: dict[int, Handler] = {}
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup_before: int | None = None
        self._pid = os.getpid()

    def fileno(self) -> int:
        """The descriptor that a signal makes readable."""
        return self._reader

    @property
    def descriptors(self) -> tuple[int, int]:
        """Both ends of the wake-up pipe, which a child has to close."""
        return self._reader, self._writer

    def install(self, signals: Iterable[int]) -> None:
        """Note ``signals`` from now on; what was installed for them is remembered for :meth:`restore`."""
        if self._wakeup_before is None:
            self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for signum in signals:
            before = signal.signal(signum, self._note)
            self._before.setdefault(signum, before)

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        if os.getpid() == self._pid:
            self._noted.append(signum)
        else:
            act_by_default(signum)

    def note(self, signum: int) -> None:
        """Note one that has come in another way than by its handler."""
        self._noted.append(signum)

    def reclaim(self) -> list[str]:
        """Take handlers and wake-up descriptor again, for code that is not ours has run in this process.

        An event loop takes the descriptor and leaves none behind (asyncio, where it has handled a signal): signals
        would be noted, and nobody would wake. The handlers are put in place whatever Python knows of them, since code
        in C may have changed them behind its back.

        Returns:
            The names of what had been changed.
        """
        if self._wakeup_before is None:
            return []
        changed = [signal.Signals(signum).name for signum in self._before if install(signum, self._note) != self._note]
        if set_wakeup_fd(self._writer, warn_on_full_buffer=False) != self._writer:
            changed.append("wake-up descriptor")
        return changed

    @property
    def pending(self) -> bool:
        """Whether signals were noted since :meth:`take` was last called."""
        return bool(self._noted)

    def has(self, signals: Collection[int]) -> bool:
        """Whether one of ``signals`` was noted since :meth:`take` was last called."""
        return any(signum in signals for signum in self._noted.copy())

    def take_signals(self) -> list[int]:
        """The signals noted since the last call, oldest first."""
        try:
            while os.read(self._reader, 4096):
                pass
        except BlockingIOError:
            pass
        taken = []
        while self._noted:
            taken.append(self._noted.popleft())
        return taken

    def restore(self) -> None:
        """Give handlers and wake-up descriptor back and close the pipe. Idempotent."""
        for signum, handler in self._before.items():
            # None: a handler that C code installed; Python can neither call it nor put it back.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
        if self._wakeup_before is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            self._wakeup_before = None
        for fd in (self._reader, self._writer):
            if fd >= 0:
                os.close(fd)
        self._reader = self._writer = -1


def of_worker(handlers: Mapping[int, Handler]) -> Dispositions:
    """MASTER. What :func:`become_worker` is to be given: what each signal means to a worker.

    What the worker doesn't handle of the master's signals is given a handler that does nothing: a SIGHUP to the whole
    process group must not end a worker, and SIG_IGN would be inherited by the programs that the application executes.
    SIGCHLD and SIGCONT go back to their default. At a terminal, what would stop the worker is ignored (and so it is by
    the programs: one of them that is stopped would hold up the worker that waits for it).

    Args:
        handlers: the worker's own.
    """
    ignored = dict.fromkeys(stops(), int(signal.SIG_IGN))
    table = {**_OTHERWISE, **ignored, **handlers, **_BY_DEFAULT}
    return tuple((int(signum), handler) for signum, handler in table.items())


def become_worker(dispositions: Dispositions) -> None:
    """WORKER, first thing after fork, with :data:`ACROSS_FORKS` blocked. Replace the handlers and let all signals in.

    What a host has blocked was meant for itself, and what the application executes would inherit it.

    It calls what the signal module builds upon: the module's own functions make an enum's member of each number, and in
    a process that has just been forked that costs as many copied pages as all the rest.
    """
    set_wakeup_fd(-1)
    for signum, handler in dispositions:
        install(signum, handler)
    pthread_sigmask(_SETMASK, ())


def give_up() -> None:
    """In a child that will execute another program, with all of :data:`ACROSS_FORKS` blocked: defaults, and unblock."""
    signal.set_wakeup_fd(-1)
    for signum in MASTER:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ACROSS_FORKS)


def _nothing(signum: int, frame: FrameType | None) -> None:
    """Nothing: see :func:`of_worker`."""


_OTHERWISE: dict[int, Handler] = dict.fromkeys(MASTER, _nothing)
_BY_DEFAULT: dict[int, Handler] = dict.fromkeys((signal.SIGCHLD, signal.SIGCONT), int(signal.SIG_DFL))
