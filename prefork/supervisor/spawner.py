"""The spawner: everything that one worker's life costs the master, taken at the fork and given back at the exit.

That is an entry of the scoreboard, a pidfd to learn of the death by, and the reading end of the report pipe, through
which a failed boot and tracebacks arrive. When the system has no pidfd to give (EMFILE), the death is polled for until
one can be had: a server at its limit of descriptors loses no worker from sight.

All of it runs in the MASTER.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prefork.accept.acceptor import Blocking
from prefork.accept.distress import Distress
from prefork.accept.offspring import Offspring
from prefork.net.listener import Listener
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import EventsPipe
from prefork.scoreboard.layout import (
    ACCEPTS,
    DEADLINE,
    LANE,
    ORDER,
    PID,
    STATE,
    WISH,
    Order,
    Scoreboard,
    State,
    View,
    busy_since,
    finished,
)
from prefork.supervisor.bells import Bells
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.forked import DUMP_SIGNAL, Start, live
from prefork.supervisor.handover import Life
from prefork.supervisor.policy import Vital
from prefork.supervisor.remains import Remains
from prefork.supervisor.roster import Member
from prefork.system import process, signals
from prefork.system.identity import Identity
from prefork.system.natives import socket
from prefork.worker import Assignment, Worker

log = logging.getLogger("prefork")

POLL_WITHOUT_PIDFD = 0.1
"""Seconds between two looks at a worker for which there was no pidfd."""

REPORT_BYTES = 64 * 1024
"""What is kept of a worker's reports: the latest bytes."""


@dataclass(slots=True)
class _Line:
    """What ties the master to one worker.

    Attributes:
        entry: its entry; -1 when it lives on a scoreboard of another layout.
        born: monotonic ns of the fork, or a little before.
        board: the descriptor of its scoreboard.
        words: what it says of itself; nothing but zeros when that can't be read.
        order: the one word that it reads.
        order_at: that word's index in its scoreboard.
        bell: the signal that makes it look there.
        pidfd: tells of its death; None while there is none to be had.
        report: the reading end of its report pipe; -1 when it has closed its end.
        text: what came through that.
    """

    entry: int
    born: int
    board: int
    words: memoryview[int]
    order: memoryview[int]
    order_at: int
    bell: int
    pidfd: int | None
    report: int
    text: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class Birth:
    """A worker to come: all that its life costs, but the process."""

    line: _Line
    announce: Callable[[], object] | None
    build: Callable[[], Worker]
    given: Assignment
    start: Start


class Line(NamedTuple):
    """What ties the master to a worker, as descriptors; None where there is none."""

    pidfd: int | None
    report: int | None
    board: int
    order_at: int
    bell: int


@dataclass(frozen=True, slots=True)
class End:
    """What is left of a worker."""

    exit: process.Exit
    finished: int
    """Connections."""
    report: str
    last: View
    """Its entry, as it left it."""


class Spawner:
    """MASTER. Forks workers, keeps the line to each, takes their exits.

    Args:
        loop: where pidfds and report pipes are registered.
        board: the scoreboard.
        events: the events pipe.
        go: readable while workers may accept.
        helpers: tells which descriptors are the master's alone, beside the loop's.
        on_exit: called with the pid when a worker has ended and its exit can be taken.
    """

    def __init__(
        self,
        loop: Loop,
        board: Scoreboard,
        events: EventsPipe,
        go: int,
        helpers: Callable[[], Iterable[int]],
        on_exit: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._board = board
        self._events = events
        self._go = go
        self._helpers = helpers
        self._on_exit = on_exit
        self._lines: dict[int, _Line] = {}
        self._free = list(range(board.entries - 1, -1, -1))
        self._remains = Remains(loop)

    @property
    def most(self) -> int:
        """How many slots can be served: each may have an incumbent and a successor at one moment."""
        return self._board.entries // 2

    def prepare(
        self,
        build: Callable[[], Worker],
        announce: Callable[[], object] | None,
        identity: Identity | None,
        after_fork: tuple[Callable[[int, int], object], ...],
        grouped: tuple[Listener, ...],
        inert: socket.socket,
        nofile: int,
        **given: Any,
    ) -> Birth:
        """Take all that a worker's life costs, but the process.

        Args:
            build: makes the worker, in the child.
            announce: called right before the fork, with signals let in; None when there is nothing to call.
            identity: who the child is to become.
            after_fork: what the child is to call, with slot and generation.
            grouped: the listeners in which each slot has a socket of its own.
            inert: a socket that does not listen.
            nofile: the soft limit of descriptors that the child is to have.
            given: the rest of its :class:`~prefork.worker.Assignment`.

        Raises:
            OSError: there was no pipe to be had, or no watch; nothing is left of the attempt.
        """
        if not self._free:
            raise OSError(errno.EAGAIN, "every entry of the scoreboard is taken")
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        number = self._free[-1]
        entry = Entry(self._board, number, self._events, self._go, os.getpid())
        born = self._loop.clock.monotonic()
        line = self._line(number, born, entry.words, reader)
        try:
            # Before the fork, because it may fail, and a child that was forked must not be lost sight of; and because
            # what is registered is closed in the child, the master's side of its own line included.
            self._loop.register(reader, lambda: self._read_report(line))
        except BaseException:
            os.close(reader)
            os.close(writer)
            raise
        self._free.pop()
        self._board.assign(number, slot=given["slot"], generation=given["generation"], born=born)
        bells = Bells(entry, writer)
        dispositions = bells.dispositions
        start = Start(entry, bells, dispositions, writer, os.getpid(), identity, nofile, grouped, after_fork)
        offspring = Offspring(entry, dispositions, DUMP_SIGNAL, writer, given["sockets"])
        sockets, settings, say = given["sockets"], given["settings"], given["log"]
        distress = Distress(entry, settings, say, given["workers"])
        acceptor = Blocking(sockets, entry, settings, say, distress, inert) if len(sockets) == 1 else None
        assignment = Assignment(entry=entry, distress=distress, acceptor=acceptor, offspring=offspring, **given)
        return Birth(line, announce, build, assignment, start)

    def fork(self, births: Sequence[Birth]) -> tuple[list[int], OSError | None]:
        """Fork workers, one right after the other.

        After a fork, each page that the master writes to is copied first (fork(2)), because the child shares it. So
        what can be done for all of them before or after is not done in between.

        Args:
            births: from :meth:`prepare`.

        Returns:
            The pids, in the order of ``births``; and why there are fewer of them, if there are. Nothing is left of
            those that were not forked.
        """
        pids: list[int] = []
        failed = None
        reports = [birth.start.report for birth in births]
        private = process.runs({*self._loop.descriptors, *self._helpers(), *reports})
        with signals.blocked() as mask:
            process.flush()
            for birth in births:
                if birth.announce is not None:
                    with signals.blocked(mask, only=True):
                        birth.announce()
                    process.flush()
                try:
                    pids.append(process.fork_flushed(live, birth.build, birth.given, birth.start, private))
                except OSError as error:
                    failed = error
                    break
        for report in reports:
            os.close(report)
        for birth in births[len(pids) :]:
            self._release(birth.line)
        for birth, pid in zip(births, pids, strict=False):
            self._board.entry(birth.line.entry)[PID] = pid
            self._lines[pid] = birth.line
            self._watch(pid, birth.line)
        return pids, failed

    def _line(self, entry: int, born: float, words: memoryview[int], report: int) -> _Line:
        order_at = self._board.index(entry, ORDER)
        return _Line(
            entry,
            int(born * 1e9),
            self._board.fd,
            words,
            words[ORDER : ORDER + 1],
            order_at,
            signals.BELL,
            None,
            report,
        )

    def adopt(self, life: Life, old: memoryview[int] | None) -> None:
        """Take over a worker that an earlier image of this process forked.

        Args:
            life: what that image wrote down of it.
            old: the words of its scoreboard when that is not ours: then nothing of it is read but what the record
                says, and nothing written but its order.
        """
        report = -1 if life.report is None else life.report
        if old is None:
            line = self._line(life.entry, 0.0, self._board.entry(life.entry), report)
            line.bell = life.bell
            self._free.remove(life.entry)
        else:
            order = old[life.order_at : life.order_at + 1]
            line = _Line(-1, 0, life.board, self._board.blank(), order, life.order_at, life.bell, None, report)
        self._lines[life.pid] = line
        if report >= 0:
            self._loop.register(report, lambda: self._read_report(line))
        if life.pidfd is not None:
            os.close(life.pidfd)
        self._watch(life.pid, line)

    def adopted(self) -> None:
        """Every worker that an earlier image of this process forked has been taken over: no other child is known."""
        self._remains.inherit()

    def line(self, member: Member) -> Line:
        """What ties us to a worker, for the next image of this process."""
        line = self._lines[member.pid]
        return Line(line.pidfd, line.report if line.report >= 0 else None, line.board, line.order_at, line.bell)

    def _watch(self, pid: int, line: _Line) -> None:
        """Have the worker's death told: by a pidfd, or by looking until there is one. Never told by this call."""
        line.pidfd = process.open_pidfd(pid)
        if line.pidfd is not None and not self._registered(line.pidfd, pid):
            os.close(line.pidfd)
            line.pidfd = None
        if line.pidfd is None:
            self._loop.call_later(POLL_WITHOUT_PIDFD, lambda: self._look(pid, line))

    def _look(self, pid: int, line: _Line) -> None:
        """Tell the worker's death if it has ended, else try to have it watched."""
        if self._lines.get(pid) is not line:
            return
        try:
            ended = process.ended(pid)
        except ChildProcessError:
            ended = True  # and somebody else has taken its exit
        if ended:
            self._on_exit(pid)
        else:
            self._watch(pid, line)

    def _registered(self, pidfd: int, pid: int) -> bool:
        try:
            self._loop.register(pidfd, lambda: self._on_exit(pid))
        except OSError as error:
            log.debug("can't watch worker process %d: %s", pid, error)
            return False
        return True

    def take_exit(self, pid: int) -> End | None:
        """Take the exit of a worker that has ended, and give back what its life has cost; None when it lives."""
        line = self._lines[pid]
        try:
            ended = process.reap(pid)
        except ChildProcessError:
            log.error("the exit of worker process %d was taken by somebody else's wait()", pid)
            ended = process.Exit(None)
        if ended is None:
            ended = process.gone(pid, line.pidfd)
            if ended is None:
                return None
            log.warning("worker process %d is dead, and a tracer (ptrace) holds back its exit", pid)
            self._remains.leave(pid)
        self._read_report(line)
        served = finished(line.words, line.born)
        last = self._board.read(line.words, line.born)
        self._release(self._lines.pop(pid))
        return End(ended, served, line.text.decode(errors="replace"), last)

    def _release(self, line: _Line) -> None:
        """Give back all that a worker's life has cost, or would have if it had been forked."""
        for fd in (line.pidfd, line.report):
            if fd is not None and fd >= 0:
                self._loop.unregister(fd)
                os.close(fd)
        if line.entry >= 0:
            line.words[PID] = 0
            self._free.append(line.entry)

    def reap_strangers(self, known: Callable[[int], bool]) -> None:
        """As pid 1: take the exits of processes that were left to us when their parents died, or they stay zombies.

        Args:
            known: called with the pid of one that is not a worker; whether it was a child of ours all the same, whose
                exit has been taken now.
        """
        while (pid := process.any_ended()) is not None:
            if pid in self._lines:
                self._on_exit(pid)
            elif not known(pid):
                log.debug("process %d, which was left to pid 1, %s", pid, process.reap(pid))

    def close(self) -> None:
        """Kill whoever still lives, take the exits and give everything back; for the end of a run that failed."""
        for pid in self._lines:
            process.kill(pid, signal.SIGKILL)
        for pid in list(self._lines):
            process.put_down(pid)
            self._release(self._lines.pop(pid))

    def order(self, member: Member, order: Order) -> None:
        """Write ``order`` into the worker's entry, then ring."""
        self._lines[member.pid].order[0] = order
        self.ring(member)

    def ring(self, member: Member) -> None:
        """Have the worker look at its order."""
        process.kill(member.pid, self._lines[member.pid].bell)

    def deaf(self, member: Member) -> str:
        """Why a worker can't hear what it is rung by; empty when it could, or when nobody knows."""
        return process.deaf(member.pid, self._lines[member.pid].bell)

    def vital(self, member: Member) -> Vital:
        """What a worker says of itself now, in seconds; a time that can't be true counts as now."""
        line = self._lines[member.pid]
        words = line.words
        busy, deadline = busy_since(words, line.born), words[LANE + DEADLINE]
        return Vital(
            busy_since=min(busy / 1e9, self._loop.clock.monotonic()) if busy else None,
            deadline=deadline / 1e9 if deadline else None,
            obeying=words[STATE] >= State.STOPPING,
            ending=words[STATE] == State.LEAVING,
        )

    def view(self, member: Member) -> View:
        """All that a worker says of itself."""
        line = self._lines[member.pid]
        return self._board.read(line.words, line.born)

    def accepts(self, member: Member) -> bool:
        """Whether a worker takes connections by Worker.accept(), not in a loop of its own."""
        return self._lines[member.pid].words[ACCEPTS] == 1

    def state(self, member: Member) -> int:
        """The state that a worker gives, as a number."""
        return self._lines[member.pid].words[STATE]

    def wish(self, member: Member) -> int:
        """Why a worker wants to be replaced, as a number; 0 when it does not."""
        return self._lines[member.pid].words[WISH]

    def finished(self, member: Member) -> int:
        """How many connections a worker has finished so far."""
        line = self._lines[member.pid]
        return finished(line.words, line.born)

    def report(self, pid: int) -> str:
        """What a worker has reported and nobody has taken yet."""
        line = self._lines[pid]
        self._read_report(line)
        return _own_frames(line.text.decode(errors="replace"))

    def take_report(self, pid: int) -> str:
        """What a worker has reported since the last call."""
        text = self.report(pid)
        self._lines[pid].text.clear()
        return text

    def _read_report(self, line: _Line) -> None:
        if line.report < 0:
            return
        try:
            data = os.read(line.report, REPORT_BYTES)
        except BlockingIOError:
            return
        if data:
            line.text += data
            del line.text[:-REPORT_BYTES]
        else:
            # The worker has closed its end, with or without dying: there is nothing more to come.
            self._loop.unregister(line.report)
            os.close(line.report)
            line.report = -1


def _own_frames(text: str) -> str:
    """Tracebacks without what lies below :func:`~prefork.supervisor.forked.live`: how we came to fork is no news."""
    lines, ours = [], True
    for line in text.splitlines(keepends=True):
        ours = ours or not line.startswith("  File ")
        if ours:
            lines.append(line)
        ours = ours and not _LAST_FRAME.search(line)
    return "".join(lines)


_LAST_FRAME = re.compile(rf'^  File "{re.escape(live.__code__.co_filename)}", line \d+ in live$')
