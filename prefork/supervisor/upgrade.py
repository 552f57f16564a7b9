"""Upgrade in place: new code in the same master process, and nobody lost.

    rehearse   a child executes the same command with the same interpreter, environment and folder. It loads the new
               code, decodes the real hand-over record and exits. Whatever goes wrong there has cost nothing
    exec       every signal that the master handles is blocked, the record is written, the descriptors in it lose their
               close-on-exec flag, and the process executes itself. Children stay children, the pid stays
    adopt      the new image finds the record, takes listeners, scoreboard and workers over, puts its handlers in place,
               unblocks the signals, and rolls the workers to the next generation as a reload does

What can still go wrong is an image that rehearsed well and dies after the exec: then the listeners are closed and the
workers, orphaned, finish what they have in hand and leave.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Callable, Iterable

from prefork.config.launch import HANDOVER, REHEARSAL, Launch
from prefork.config.settings import Settings
from prefork.errors import PreforkError, SettingsError
from prefork.scoreboard.layout import LAYOUT, Order
from prefork.supervisor import handover, resources
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.event_loop import Loop, Timer
from prefork.supervisor.goal import Goal
from prefork.supervisor.handover import Handover, HandoverError, locate
from prefork.supervisor.member import Member
from prefork.supervisor.molds import Molds
from prefork.supervisor.resources import Resources
from prefork.supervisor.roster import Roster
from prefork.supervisor.spawner import Spawner
from prefork.system import identity, process, signals, systemd
from prefork.system.child import Child, Children, ReportPipe
from prefork.system.identity import Identity
from prefork.system.natives import os, signal

log = logging.getLogger("prefork")

_SAID_BYTES = 16 * 1024
_LOOK = 0.01  # seconds between two looks at whether the exec may be
_PLAYED = 113
"""Exit code of a rehearsal that was played to its end. 0 is what any program says, such as one that never serves."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Upgrade:
    """The upgrade of one server.

    Args:
        loop: for the rehearsal and its deadline.
        children: tells of the rehearsal's end.
        launch: how the process was started.
        record: makes the hand-over record.
        kept: tells what services keep open over the exec.
        stopping: whether the server is going to end, so that there is nothing to upgrade any more.
        failed: called with the reason when the old code goes on.
        settled: called right before the exec: whether nothing is under way that the next image would know nothing of.
        seconds: how long a rehearsal may take.
    """

    def __init__(
        self,
        loop: Loop,
        children: Children,
        launch: Launch,
        record: Callable[[], Handover],
        kept: Callable[[], Iterable[int]],
        stopping: Callable[[], bool],
        failed: Callable[[str], None],
        settled: Callable[[], bool],
        seconds: float,
    ) -> None:
        self._loop = loop
        self._children = children
        self._launch = launch
        self._stopping = stopping
        self._failed = failed
        self._settled = settled
        self._record = record
        self._kept = kept
        self._seconds = seconds
        self._rehearsal: Child | None = None
        self._deadline: Timer | None = None
        self._turn: Timer | None = None

    def rehearse(self) -> None:
        """Rehearse, and then execute the new code. Asked for again meanwhile, it changes nothing."""
        if self._rehearsal is not None or (self._turn is not None and not self._turn.cancelled):
            log.info("upgrade: the last one is still under way")
            return
        try:
            self._rehearsal = self._rehearse()
        except OSError as error:
            self._give_up(f"can't rehearse: {error}")

    def _give_up(self, reason: str) -> None:
        log.error("upgrade: %s; the old code goes on", reason)
        self._failed(reason)

    def cancel(self) -> None:
        """Give the upgrade up: the server stops. Idempotent."""
        if self._rehearsal is not None:
            self._rehearsal.put_down()
            self._rehearsal = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self._turn is not None:
            self._turn.cancel()

    def _rehearse(self) -> Child:
        log.info("upgrade: rehearsing %s", " ".join(self._launch.arguments))
        with contextlib.ExitStack() as stack:
            record = _write(self._record().encode())
            stack.callback(os.close, record)
            said, writer = ReportPipe.made(self._loop, _SAID_BYTES)
            stack.callback(os.close, writer)
            try:
                pid = self._fork(record, writer)
            except OSError:
                said.close()
                raise
        if self._seconds:
            self._deadline = self._loop.call_later(self._seconds, self._too_long)
        return self._children.watch(pid, "the rehearsal, process", said, self._rehearsed, self._loop)

    def _fork(self, record: int, writer: int) -> int:
        """The child that executes the new code, with what it says going to ``writer``."""
        parent = os.getpid()

        def play() -> int:
            process.die_with_parent(signal.SIGKILL, parent)
            signals.give_up()
            os.set_inheritable(record, True)
            os.set_blocking(writer, True)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            self._launch.execute(REHEARSAL, f"{record}:{parent}")
            return process.SOFTWARE

        with signals.blocked():
            return process.fork(play)

    def _too_long(self) -> None:
        if self._rehearsal is not None and self._rehearsal.pipe is not None:
            self._rehearsal.pipe.text += b"\nit took longer than boot_timeout"
            process.kill(self._rehearsal.pid, signal.SIGKILL)

    def _rehearsed(self, ended: process.Exit) -> None:
        assert self._rehearsal is not None
        assert self._rehearsal.pipe is not None
        said = self._rehearsal.pipe.text.decode(errors="replace")
        self._rehearsal = None
        if self._deadline is not None:
            self._deadline.cancel()
        if ended.code != _PLAYED:
            lines = [line for line in said.splitlines() if line.strip()]
            log.debug("upgrade: the rehearsal said: %s", said)
            last = lines[-1].strip().removeprefix("prefork: error: ") if lines else "it said nothing"
            self._give_up(f"the new code {ended}: {last}")
            return
        log.info("upgrade: executing the new code")
        self._turn = self._loop.call_later(0, self._execute)

    def _execute(self) -> None:
        if self._stopping():
            return
        if not self._settled():
            self._turn = self._loop.call_later(_LOOK, self._execute)
            return
        try:
            with signals.blocked():
                if self._loop.noted:
                    # A signal that has been noted and not acted on would be forgotten by the next image; one that
                    # comes from here on waits in the mask. Act on it first, it may be the end.
                    self._turn = self._loop.call_later(0, self._execute)
                    return
                self._become()
        except OSError as error:
            self._give_up(f"can't execute the new code: {error}")

    def _become(self) -> None:
        record = self._record()
        memory = _write(record.encode())
        try:
            folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # it may have no name any more
        except OSError:
            os.close(memory)
            raise
        passed = [*record.descriptors, *self._kept(), memory]
        try:
            for fd in passed:
                os.set_inheritable(fd, True)
            self._launch.execute(HANDOVER, f"{memory}:{os.getpid()}")
        finally:
            for fd in passed:
                os.set_inheritable(fd, False)
            os.close(memory)
            os.fchdir(folder)
            os.close(folder)


def inherits() -> bool:
    """Whether an earlier image of this process has left a record, which :func:`received` has still to take."""
    value = os.environ.get(HANDOVER)
    try:
        return value is not None and locate(value)[1] == os.getpid()
    except HandoverError:
        return True  # who takes it says what is wrong with it


def received() -> Handover | None:
    """The record that an earlier image of this process left, if there is one; taken from the environment.

    Raises:
        PreforkError: it can't be read.
    """
    value = os.environ.pop(HANDOVER, None)
    if value is None:
        return None
    try:
        memory, pid = locate(value)
        if pid != os.getpid():
            return None  # of a process whose environment we have inherited
        try:
            record = _decode(memory, pid)
        finally:
            os.close(memory)
    except HandoverError as error:
        raise PreforkError(str(error)) from None
    for fd in record.descriptors:
        os.set_inheritable(fd, False)
    return record


def rehearse(settings: Settings, load: Callable[[], object] | None, who: Identity | None) -> None:
    """If this process is a rehearsal, play it and end: the code is loaded, the record can be read; else do nothing.

    Args:
        settings: as this process, with the new code, has settled them.
        load: loads what workers would load, if anything.
        who: what workers become before they do so, and this process too.

    Raises:
        HandoverError: the record can't be read.
        SettingsError: something can't be changed in place.
        BootError: privileges can't be given up.
    """
    record = _rehearsed()
    if record is None:
        return
    difference = resources.differs(settings, record)
    if difference:
        raise SettingsError(difference)
    if load is not None:
        identity.assume(who)
        process.die_with_parent(signal.SIGKILL, record.pid)  # which a change of user has cleared
        systemd.be_silent(os.environ)
        load()
    process.flush()
    # Not sys.exit(): threads that the application has started must not keep the rehearsal alive.
    process.exit_now(_PLAYED)


def _rehearsed() -> Handover | None:
    """The record that this process is to rehearse with, if it is a rehearsal; taken from the environment."""
    value = os.environ.pop(REHEARSAL, None)
    if value is None:
        return None
    memory, pid = locate(value)
    return _decode(memory, pid) if pid == os.getppid() else None


def _write(data: bytes) -> int:
    """A sealed memfd with ``data``: nobody can change it any more."""
    memory = os.memfd_create("prefork-handover", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        written = os.pwrite(memory, data, 0)
        if written != len(data):
            raise OSError(f"the hand-over record has {len(data)} bytes, of which {written} could be written")
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(memory)
        raise
    return memory


def _decode(memory: int, pid: int) -> Handover:
    try:
        data = os.pread(memory, os.fstat(memory).st_size, 0)
    except OSError as error:
        raise HandoverError(f"the hand-over record can't be read: {error}") from None
    record = Handover.decode(data)
    if record.pid != pid:
        raise HandoverError(f"the hand-over record is of process {record.pid}, not of {pid}")
    return record


# The two ends: from what the master knows to the record, and back.


def record_of(
    settings: Settings,
    goal: Goal,
    roster: Roster,
    spawner: Spawner,
    held: Resources,
    molds: Molds,
    mask: Iterable[int],
    services: str,
) -> Handover:
    """What the next image of this process needs to go on."""
    return Handover(
        format=handover.FORMAT,
        pid=os.getpid(),
        bind=tuple(str(address) for address in settings.addresses),
        listeners=tuple(listener.snapshot() for listener in held.listeners),
        layout=LAYOUT,
        board=held.board.fd,
        events=(held.events.reader, held.events.writer),
        go=held.go,
        queue=held.queue.ends if held.queue is not None else None,
        generation=goal.generation,
        size=goal.size,
        draining=tuple(goal.draining),
        mask=tuple(int(signum) for signum in mask),
        services=services,
        workers=tuple(spawner.life(member, roster.role(member)) for member in roster),
        molds=molds.lives(),
    )


def take_over(record: Handover, goal: Goal, roster: Roster, spawner: Spawner, held: Resources, molds: Molds) -> None:
    """Take over the workers that an earlier image of this process forked, and their molds."""
    lived = (life.generation for life in record.workers)
    goal.took_over(record.size, record.generation, record.draining, lived)
    for life in record.workers:
        native = life.board == held.board.fd
        member = Member(
            pid=life.pid,
            slot=life.slot,
            entry=life.entry if native else -1,
            generation=life.generation,
            born=life.born,
            ready_at=life.ready_at,
            order=Order(life.order),
            deadline=life.deadline,
            reason=None if life.cause is None else Reason(Cause.of_record(life.cause), life.detail),
            wanted=life.wanted,
        )
        roster.restored(member, life.role)
        spawner.adopt(life, None if native else held.others[life.board])
    molds.adopt(record.molds)
    spawner.adopted()
