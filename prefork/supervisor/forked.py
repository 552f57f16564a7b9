"""The life of a worker's process, from the fork to the exit.

:func:`live` is the only thing that the master's fork calls:

    forked -> handlers, parent-death signal -> application built -> init() -> READY -> run() -> exit() -> its ending

What comes back from the application may be a process that it has forked (:mod:`prefork.accept.offspring`). Then that
one ends, and none of the rest is done.

All of it runs in the WORKER, on pages that it shares with its master and copies as soon as it writes to an object
there, to its reference count for one (fork(2)). A name that is looked up in a module costs three pages, some ten
microseconds, and hundreds of workers may boot at once. So what the way to READY needs is bound at import, here and in
the modules below, or made by the master; and what only a failure needs is made when there is one.
"""

from __future__ import annotations

import struct
import tokenize  # noqa: F401  # a traceback asks for it: since 3.13 at the first one, and there may be no descriptor then
import traceback
from _signal import getsignal, pthread_sigmask  # type: ignore[import-not-found]  # typeshed has no CPython internals
from _signal import signal as install
from collections.abc import Callable
from faulthandler import dump_traceback, register, unregister
from gc import enable, freeze
from types import FrameType
from typing import Final, NamedTuple

from prefork.accept.acceptor import Blocking
from prefork.accept.offspring import code_of, leave
from prefork.accept.recovery import EXHAUSTION
from prefork.accept.worker_context import WorkerContext, WorkerControls
from prefork.errors import BootError, PreforkError
from prefork.net import accept_errors as table
from prefork.net.lingering import SECONDS, ours
from prefork.net.listener import Listener
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.layout import ACCEPTS, Accepts, Order, State
from prefork.system import ending, process, signals
from prefork.system.ending import forget
from prefork.system.forks import HERE
from prefork.system.identity import Identity, assume
from prefork.system.limits import lower_nofile
from prefork.system.natives import os, signal, time
from prefork.system.orphans import await_adoption
from prefork.system.process import announce_hangup, call_itself, close, die_with_parent
from prefork.system.signals import DUMP, DUMP_ANYHOW, WAKE_UP, become_worker
from prefork.system.throttle import Log
from prefork.worker import Worker

close_one = os.close
getpid = os.getpid
write = os.write

_USUAL = Accepts.USUAL
_RUN, _STARTING, _LEAVING = Order.RUN, State.STARTING, State.LEAVING
_BLOCK, _UNBLOCK = int(signal.SIG_BLOCK), int(signal.SIG_UNBLOCK)


class SignalHandlers:
    """What signals mean to a worker's process: to a boot, to a worker that serves, and to what the application forks.

    A signal only wakes; the order stands in the entry. While the application boots there is nothing in hand, so an
    order to leave simply ends the boot. A process that the application forks inherits the handlers, and there each
    signal does what it does by default: the orders are not for it.

    Made by the master before the fork; all else runs in signal handlers.

    Args:
        entry: where the order stands.
        report: the writing end of the pipe to the master.

    Attributes:
        pid: the worker's process, to be set before a signal may come.
        controls: the worker's, once it has booted.
        over: whether a boot has come to its end, which no signal ends any more.
    """

    def __init__(self, entry: Entry, report: int) -> None:
        self.pid = 0
        self.controls: WorkerControls | None = None
        self.over = False
        self._entry = entry
        self._report = report

    @property
    def dispositions(self) -> signals.Dispositions:
        """What each signal means to the worker."""
        return signals.of_worker(
            {
                signals.WAKE_UP: self._ordered,
                DUMP: self.asked,
                signal.SIGTERM: self._ordered,
                signal.SIGINT: self._ordered,
                signal.SIGQUIT: self._ordered,
                signal.SIGABRT: self._aborted,
                signal.SIGIO: self._hung_up,
            }
        )

    def check(self, log: Log) -> None:
        """See whether the application has taken in its boot what this process needs, say so, and take back the wake-up.

        Args:
            log: where it is told.
        """
        if getsignal(WAKE_UP) != self._ordered:
            log.warning(
                "the application has taken signal %d, by which workers are told to leave; it is taken back", WAKE_UP
            )
            install(WAKE_UP, self._ordered)
        if WAKE_UP in pthread_sigmask(_BLOCK, ()):
            log.warning(
                "the application has blocked signal %d, by which workers are told to leave; it is let in", WAKE_UP
            )
            pthread_sigmask(_UNBLOCK, (WAKE_UP,))
        if getsignal(DUMP) != self.asked:
            log.warning("the application has taken signal %d; tracebacks of a hang will be missing", DUMP)
            unregister(DUMP_ANYHOW)  # who is asked by that is not to run
        elif self._entry.words[ACCEPTS] != _USUAL or len(self._entry.lanes) > 1:
            # Others serve, and while this thread is silent one may hold the interpreter's lock, in a call into C.
            register(DUMP_ANYHOW, self._report)

    def asked(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        """Tell the tracebacks of all threads, none of which runs meanwhile: this one has the interpreter's lock."""
        if getpid() == self.pid:
            dump_traceback(self._report)

    def _ordered(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        if getpid() != self.pid:
            signals.act_by_default(signum)
        elif self.controls is not None:
            self.controls.woken(signum)
        elif self._entry.order is not Order.RUN and not self.over:
            ending.break_off()

    def _aborted(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        if self.controls is not None and getpid() == self.pid:
            signal.signal(signum, signal.SIG_IGN)  # the master says it again until this is over
            self.controls.aborted()
        signals.act_by_default(signum)

    def _hung_up(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        # A dying master closes its files before its children are sent the parent-death signal. One of the two may come
        # just before accept(2) is entered and go unheard, and a dead master wakes nobody again; hardly both.
        if self.controls is not None and getpid() == self.pid and process.hung_up(self._report):
            self.controls.orphaned()


class Adopted(NamedTuple):
    """How a worker that a midwife has forked becomes the master's child, and says so.

    Attributes:
        midwife: the midwife's pid.
        line: the descriptor where it says so: whose process it is, the kernel tells beside it (unix(7), SO_PASSCRED).
        name: what it is called from then on.
        word: what it says, a `BORN`.
    """

    midwife: int
    line: int
    name: bytes
    word: bytes


BORN: Final = struct.Struct("<II")
"""What is said there: entry and 0, or `NOBODY` and the errno for which no more workers were forked."""

NOBODY: Final = 2**32 - 1


class Start(NamedTuple):
    """What a child begins with; it is unpacked at once.

    Attributes:
        build: makes the worker; with the application not preloaded, this is where it is imported.
        own: its slot and generation.
        context: what the worker is given.
        acceptor: how it accepts in the usual way; None with several listeners, for which each worker needs descriptors
            first.
        entry: its entry.
        handlers: of its signals.
        dispositions: these handlers, and what the master's other signals mean.
        report: where a failed boot and tracebacks go: the writing end of a pipe of its own.
        master: the master's pid.
        identity: who to become before the application is loaded; None changes nothing.
        nofile: the soft limit of descriptors that it is to have.
        grouped: the listeners in which each slot has a socket of its own.
        after_fork: what else is to be called, with slot and generation.
        watch_forks: is called to be there at each fork of the application's.
        adopted: how it becomes the master's child; None when the master has forked it.
    """

    build: Callable[[], Worker]
    own: tuple[int, int]
    context: WorkerContext
    acceptor: Blocking | None
    entry: Entry
    handlers: SignalHandlers
    dispositions: signals.Dispositions
    report: int
    master: int
    identity: Identity | None
    nofile: int
    grouped: tuple[Listener, ...]
    after_fork: tuple[Callable[[int, int], object], ...]
    watch_forks: Callable[[], None]
    adopted: Adopted | None


def live(start: Start, private: process.Runs) -> int:
    """WORKER. The whole life of the process, called right after the fork with the master's signals blocked.

    Args:
        start: what the master gives the process.
        private: the descriptors that are the master's alone.

    Returns:
        The exit code: 0 after an order to leave; that of the error after a failed boot; 1 when the loop failed.
    """
    (
        build,
        own,
        given,
        acceptor,
        entry,
        handlers,
        dispositions,
        report,
        master,
        identity,
        nofile,
        grouped,
        after_fork,
        watch_forks,
        adopted,
    ) = start
    if not _begins(adopted, master):
        return 0
    close(private, report)
    slot, generation = own
    for listener in grouped:
        listener.keep(slot)
    for call in after_fork:
        call(slot, generation)
    lower_nofile(nofile)
    entry.say_state(_STARTING)
    handlers.pid = getpid()
    install(DUMP, handlers.asked)
    register(DUMP_ANYHOW, report, all_threads=False)
    watch_forks()
    try:
        if identity is not None:
            assume(identity)
        die_with_parent(WAKE_UP, master)  # a change of identity would have cleared it
        become_worker(dispositions)
        announce_hangup(report)
        if given.hooks is not None:
            given.hooks.call("post_fork", given.server, given)
            leave()  # whatever is the application's may have forked: its process does not boot as well
        enable()
        booting = build()
        leave()
        controls = booting.__prefork__(given, acceptor)
        booting.init()
        leave()
        if given.hooks is not None:
            given.hooks.call("post_worker_init", booting)
            leave()
        controls.prepare()
        handlers.check(given.log)
        handlers.controls = controls
    except BaseException as error:  # noqa: BLE001  # whatever it is, the boot has failed and the master is told why
        if HERE.foreign:
            code = code_of(error)
        else:
            code = _boot_ended(error, entry, report)
            _bound(entry, given, report)
    else:
        code = 0 if HERE.foreign else serve(booting, controls, entry, given, report)
    handlers.over = True
    ending.end()
    return code


def _bound(entry: Entry, given: WorkerContext, report: int) -> None:
    """Where no deadline of a master's bounds the end, since nobody has ordered it or the master is gone, do it here.

    What is still to come is the application's: exit(), hooks, threads, atexit. What of it lasts so long is told.
    """
    if entry.order is _RUN or entry.orphaned:
        ending.bound(max(given.settings.graceful_timeout, 1.0), report)


def _begins(adopted: Adopted | None, master: int) -> bool:
    """Be a child of the master's, and say so where it has not forked us.

    Returns:
        False when the master is gone, or expects nobody any more.
    """
    if adopted is None:
        # What is inherited stays where it is: a collection here would write to each object's header, and copy its page.
        freeze()
        forget()
        return True
    # The midwife has done as much, once for all of them.
    midwife, line, name, word = adopted
    if await_adoption(midwife, WAKE_UP) != master:
        return False
    call_itself(name)
    try:
        write(line, word)
    except OSError:
        return False
    close_one(line)
    return True


def serve(worker: Worker, controls: WorkerControls, entry: Entry, given: WorkerContext, report: int | None) -> int:
    """WORKER. From READY to the exit code.

    Args:
        worker: it has booted.
        controls: what its process asks of it.
        entry: its entry.
        given: what it was given.
        report: where what lasts too long in the end is told; None lets it last.
    """
    failure: BaseException | None = None
    try:
        order = entry.order
        if order is not _RUN:  # it has come at the last moment of the boot
            controls.obey(order)
        if not worker.stopping:
            worker.ready()
            worker.run()
    except BaseException as error:  # noqa: BLE001  # whatever it is, it ends this process
        failure = error
    if HERE.foreign:
        return code_of(failure)
    code = 0 if failure is None else _failed(failure, worker)
    entry.say_state(_LEAVING)
    if report is not None:
        _bound(entry, given, report)
    try:
        worker.exit()
    except BaseException as error:  # logged, whatever it is; the exit code stays that of the loop
        leave(error)
        worker.log.exception("exit() failed")
    leave()
    if given.hooks is not None:
        given.hooks.call("worker_exit", given.server, worker)
        leave()
    if len(ours):
        # Not for so long that the master ends it.
        ours.settle(min(SECONDS, given.settings.graceful_timeout / 2))
    return code


def _failed(error: BaseException, worker: Worker) -> int:
    """What came out of the loop: the exit code that it asks for, or that tells the master."""
    if isinstance(error, SystemExit):
        return process.exit_code(error)
    if isinstance(error, KeyboardInterrupt):
        # The application has a SIGINT handler of its own that raises this, as Python's default one does.
        return 0 if worker.stopping else 130
    if isinstance(error, PreforkError):
        worker.log.critical("%s", error)
        return error.exit_code
    worker.log.error("the worker's loop failed", exc_info=error)
    return 1


def _boot_ended(error: BaseException, entry: Entry, report: int) -> int:
    """Unless it was to end, tell the master why: through the report pipe, so that it is logged once for all workers."""
    if entry.order is not _RUN:
        return 0
    entry.say_state(State.FAILED_TO_BOOT)
    return tell_failure(error, report)


def tell_failure(error: BaseException, report: int) -> int:
    """Tell the master why there is no more of this process, which it logs.

    Args:
        error: why.
        report: the writing end of the report pipe.

    Returns:
        The exit code.
    """
    if isinstance(error, PreforkError):
        text, code = str(error), error.exit_code
    else:
        text, code = "".join(traceback.format_exception(error)), BootError.exit_code
    if _exhausted(error):
        code = process.EXHAUSTED
    deadline = time.monotonic() + 1.0
    data = text.encode(errors="backslashreplace")[-_REPORT_BYTES:]
    while data and time.monotonic() < deadline:
        try:
            data = data[os.write(report, data) :]
        except BlockingIOError:
            time.sleep(0.005)  # the pipe is full; the master is reading it
        except OSError:
            break
    return code


_REPORT_BYTES = 32 * 1024


def _exhausted(error: BaseException) -> bool:
    """Whether want of descriptors or memory is behind ``error``: it may be there in a moment."""
    return any(table.reaction(number) in EXHAUSTION for number in table.errnos(error))
