"""The mold: a process that loads the application once, and of which workers are made. It never serves anybody.

    forked -> identity -> drill -> application loaded, and compared -> warmed -> looked at -> collected, frozen -> READY
    READY -> (asked -> midwife)* -> its ending

It is a child of the master, which itself never loads what it serves. Workers that are forked from it share its memory
and have the application already (:mod:`prefork.supervisor.midwife`). All of this module runs in the MOLD.

It waits in poll(2) for what the master asks, and has a child do it: a mold that makes nothing itself stays as it was
frozen. It ends when the master closes its line, and dies with the master.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
from collections.abc import Callable, Collection
from faulthandler import dump_traceback, register
from types import FrameType
from typing import TYPE_CHECKING, Final, NamedTuple

from prefork.accept.offspring import BlockedAcrossForks, code_of, guarded, reset_signals
from prefork.accept.worker_context import MoldContext, MoldLog
from prefork.errors import BootError
from prefork.supervisor import fork_safety, loaded_code
from prefork.supervisor.blueprint import Blueprint
from prefork.supervisor.drill import drill
from prefork.supervisor.forked import tell_failure
from prefork.supervisor.midwife import Family, deliver, refuse
from prefork.supervisor.resources import Resources
from prefork.system import ending, identity, process, signals
from prefork.system.forks import HERE
from prefork.system.limits import lower_nofile
from prefork.system.natives import os, select, signal, socket
from prefork.system.orphans import leave_orphans_to_others

if TYPE_CHECKING:
    import ssl
from prefork.system.record import changed
from prefork.worker import Worker

log = logging.getLogger("prefork")

NO_SLOT: Final = -1
"""What services are given as the slot, where they are told of the fork of a mold."""

READY: Final = b"READY"

_TRIES: Final = 3  # midwives in a row that end before they have taken what is asked for


class Repeat(NamedTuple):
    """What a mold is to have in common with another.

    Attributes:
        paths: what has been asked for most of its workers, and is asked for in the mold as well.
        code: what that has loaded (`prefork.supervisor.loaded_code`); b"" for whatever there is now, None when nobody
            is going to ask.
    """

    paths: tuple[str, ...] = ()
    code: bytes | None = None


class MoldStart(NamedTuple):
    """What a mold begins with.

    Attributes:
        load: loads the application; returns what makes a worker.
        common: what workers have in common.
        held: what they share.
        tls: what their connections are secured with; None leaves them plain.
        control: the line from the master.
        report: where a failed load and tracebacks go: the writing end of a pipe of its own.
        generation: of the workers to come.
        repeat: what it is to have in common with one before it.
        after_fork: what is to be called here, with slot and generation.
        begin_life: that part of it which is to be called in each worker.
        name: what a worker's process is called.
    """

    load: Callable[[], Callable[[], Worker]]
    common: Blueprint
    held: Resources
    tls: ssl.SSLContext | None
    control: socket.socket
    report: int
    generation: int
    repeat: Repeat
    after_fork: tuple[Callable[[int, int], object], ...]
    begin_life: tuple[Callable[[int, int], object], ...]
    name: str


class MoldSignals:
    """What signals mean to a mold: an order to leave ends a load, and nothing else does anything.

    One that comes before the load ends it as it begins: what is the server's own until then is not broken off, for some
    of it outlives whatever is raised there.
    """

    def __init__(self, report: int) -> None:
        self.loading = self._ordered_before = False
        self.pid = os.getpid()
        self._report = report

    def begin_loading(self) -> None:
        """The application's code is next.

        Raises:
            OrderedEndError: there is an order to leave.
        """
        self.loading = True
        if self._ordered_before:
            ending.break_off()

    @property
    def dispositions(self) -> signals.Dispositions:
        """What each signal means."""
        return signals.of_worker({signals.WAKE_UP: self._ordered, signals.DUMP: self.asked})

    def asked(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        """Tell the tracebacks of all threads, with the interpreter's lock."""
        if os.getpid() == self.pid:
            dump_traceback(self._report)

    def _ordered(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a handler is given both
        if os.getpid() != self.pid:
            return
        if self.loading:
            ending.break_off()
        self._ordered_before = True


class _MoldChildren:
    """What becomes of the processes that the application forks in the mold: plain ones, as a worker's are.

    It does so while it is loaded, and where a thread of its own goes on after that, for as long as there is the mold.
    """

    def __init__(self, start: MoldStart, dispositions: signals.Dispositions) -> None:
        self._start = start
        self._dispositions = dispositions
        self._blocked = BlockedAcrossForks(dispositions)
        self._mold = os.getpid()

    def watch(self) -> None:
        """Be there at each fork from now on; for good, since Python has no way to take it back."""
        os.register_at_fork(before=self._before, after_in_child=self._in_the_child, after_in_parent=self._in_the_parent)

    def _before(self) -> None:
        if self._forks(os.getpid()):
            self._blocked.block()

    def _in_the_parent(self) -> None:
        if self._forks(os.getpid()):
            self._blocked.unblock()

    def _in_the_child(self) -> None:
        if self._forks(os.getppid()):
            try:
                self._part()
            finally:
                self._blocked.unblock_child()

    def _forks(self, pid: int) -> bool:
        """Whether the application does, in the mold: not we, nor a worker's, nor a child's."""
        return not HERE.forks_ours and not HERE.foreign and pid == self._mold

    def _part(self) -> None:
        HERE.foreign = True
        reset_signals(self._dispositions)
        start = self._start
        start.control.close()
        os.close(start.report)
        start.held.board.part()
        start.held.events.part()
        if start.held.queue is not None:
            start.held.queue.close()
        ending.forget()


def live_as_mold(start: MoldStart, private: process.Runs) -> int:
    """The whole life of the process, called right after the fork with the master's signals blocked.

    Args:
        start: what the master gives the process.
        private: the descriptors that are the master's alone.

    Returns:
        The exit code: 0 after the end of the line; that of the error after a failed load.
    """
    process.call_itself(process.MOLD.encode())
    gc.freeze()
    common, control = start.common, start.control
    for listener in start.held.listeners:
        listener.close()  # a copy kept here would hold a port, or a member of a group, beyond its end
    process.close(private, start.report)
    for call in start.after_fork:
        call(NO_SLOT, start.generation)
    lower_nofile(common.nofile)
    register(signals.DUMP_ANYHOW, start.report, all_threads=False)
    ending.forget()
    HERE.foreign = HERE.copied = False
    before = fork_safety.open_before()
    meanings = MoldSignals(start.report)
    _MoldChildren(start, meanings.dispositions).watch()
    exit_code, code = 0, b""
    try:
        identity.assume(common.identity)
        process.die_with_parent(signal.SIGKILL, common.master)  # a change of identity would have cleared it
        signals.become_worker(meanings.dispositions)
        gc.enable()
        drill(common.settings, start.held)
        meanings.begin_loading()
        build = start.load()
        if not HERE.foreign:
            code = _census(start.repeat.code)
            _warm(build, common, start.repeat.paths)
        if not HERE.foreign:
            _look(common, before)
            meanings.loading = False
            _settle(common)
            control.send(READY + code)
            _stand_by(start, build)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the load has failed and the master is told why
        meanings.loading = False
        if HERE.foreign:
            exit_code = code_of(error)
        elif not isinstance(error, ending.OrderedEndError):
            exit_code = tell_failure(error, start.report)
    ending.end()
    return exit_code


def _census(before: bytes | None) -> bytes:
    """What has been loaded, if that is of interest.

    Args:
        before: what it is to be; b"" for anything, None when nobody asks.

    Raises:
        BootError: it is something else.
    """
    if before is None:
        return b""
    if module := loaded_code.changed(before):
        raise BootError(
            f"refork_after: the module {module} is another one now than the one that serves; a reload takes new code"
        )
    return loaded_code.census()


def _warm(build: Callable[[], Worker], common: Blueprint, paths: tuple[str, ...]) -> None:
    """Do what workers are not to do for the first time, if there is something; ``paths`` were asked for most."""
    hook = None if common.hooks is None else common.hooks.warm
    if hook is None and isinstance(build, type) and getattr(build, "warm", None) is Worker.warm:
        return
    with guarded():
        worker = build()
        worker.__prefork_mold__(MoldContext(common.settings, common.hooks, MoldLog(log), common.server, paths))
        if common.hooks is not None:
            common.hooks.call("warm", worker)


def _look(common: Blueprint, before: Collection[int] | None) -> None:
    """Tell of what doesn't come through a fork.

    Raises:
        BootError: there is something, and it is to be refused.
    """
    for line in fork_safety.judged(common.settings, before):
        log.warning("mold: not as good in workers, to be opened in the hook post_fork: %s", line)


def _settle(common: Blueprint) -> None:
    """What is there now stays where it is, in the memory of every worker: no collection there copies it."""
    gc.disable()
    if common.settings.immortal:
        from prefork.system.immortal import immortalize

        log.info("mold: %d objects live for ever", immortalize())
    else:
        gc.collect()
    gc.freeze()


def _stand_by(start: MoldStart, build: Callable[[], Worker]) -> None:
    """Have children forked whenever the master asks, until it closes the line."""
    control = start.control
    common = changed(start.common, build=build, identity=None)  # that has been assumed
    family = Family(common, start.held, start.tls, start.begin_life, start.name, (start.report,))
    poller = select.poll()
    poller.register(control, select.POLLIN)
    failed = 0
    while True:
        ((_, events),) = poller.poll()
        if events & (select.POLLERR | select.POLLNVAL) or (events & select.POLLHUP and _is_over(control)):
            return
        number = _have_delivered(control, family)
        failed = failed + 1 if number else 0
        if number and (number != errno.ECHILD or failed >= _TRIES):
            refuse(control, errno.EAGAIN if number == errno.ECHILD else number)
            failed = 0


def _is_over(control: socket.socket) -> bool:
    """Whether nothing more was asked before the master has closed the line."""
    try:
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return True


def _have_delivered(control: socket.socket, family: Family) -> int:
    """Have a midwife do what is asked for, and wait for its end.

    Returns:
        0; the errno of a fork that failed; ECHILD when it was killed, and has perhaps done nothing.
    """
    leave_orphans_to_others()
    with signals.blocked():
        try:
            pid = process.fork(deliver, control, family, os.getpid())
        except OSError as error:
            return error.errno or errno.EAGAIN
    with contextlib.suppress(ChildProcessError):  # a handler of the application's was faster
        _, status = os.waitpid(pid, 0)
        return errno.ECHILD if os.WIFSIGNALED(status) else 0
    return 0
