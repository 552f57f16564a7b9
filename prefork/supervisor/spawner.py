"""The spawner: everything that one worker's life costs the master, taken at the fork and given back at the exit.

That is an entry of the scoreboard, and a child with a report pipe (`prefork.system.child`), through which a failed boot
and tracebacks arrive.
"""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prefork.accept.worker_context import WorkerContext
from prefork.scoreboard.layout import (
    ORDER,
    PID,
    STANCE,
    EntryView,
    Order,
)
from prefork.scoreboard.recorder import InHand, Noted, last_noted
from prefork.supervisor import tracebacks
from prefork.supervisor.blueprint import Blueprint, Newborn, start_of
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.forked import live
from prefork.supervisor.handover import Life
from prefork.supervisor.member import Member, Role
from prefork.supervisor.policy import Spawn, Vital
from prefork.supervisor.resources import Resources
from prefork.supervisor.views import MemberView
from prefork.supervisor.worker_line import Birth, End, WorkerLine
from prefork.system import process, signals
from prefork.system.backoff import chance
from prefork.system.child import Children, ReportPipe
from prefork.system.natives import os, signal

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("prefork")

REPORT_BYTES = 64 * 1024
"""What is kept of a worker's reports: the latest bytes."""


class Spawner:
    """Forks workers, keeps the line to each, takes their exits.

    Args:
        loop: where report pipes are registered.
        children: tells of deaths.
        held: what workers share: listeners, scoreboard, events pipe ...
        helpers: tells which descriptors are the master's alone, beside the loop's.
        on_exit: called once with the pid of a worker that has ended, and what is left of it.
    """

    def __init__(
        self,
        loop: Loop,
        children: Children,
        held: Resources,
        helpers: Callable[[], Iterable[int]],
        on_exit: Callable[[int, End], None],
    ) -> None:
        self._loop = loop
        self._children = children
        self._held = held
        self._board = held.board
        self._helpers = helpers
        self._on_exit = on_exit
        self._lines: dict[int, WorkerLine] = {}
        self._free = list(range(held.board.entries - 1, -1, -1))
        self._count = itertools.count(1)

    @property
    def most(self) -> int:
        """How many slots can be served: each may have an incumbent and a successor at one moment."""
        return self._board.entries // 2

    def prepare(
        self,
        spawn: Spawn,
        blueprint: Blueprint,
        *,
        after_fork: tuple[Callable[[int, int], object], ...],
        announce: Callable[[WorkerContext], object] | None,
        workers: int,
        tls: ssl.SSLContext | None,
        waits: bool,
        molded: bool,
    ) -> Birth:
        """Take all that a worker's life costs, but the process.

        Args:
            spawn: its slot and generation.
            blueprint: what it has in common with all others.
            after_fork: what the child is to call, with slot and generation.
            announce: called right before the fork with what the worker is given, with signals let in; None when there
                is nothing to call.
            workers: how many workers there are to be in all.
            tls: what connections are secured with; None leaves them plain.
            waits: whether it is to accept only when the word is given.
            molded: whether it is a mold that is asked for it.

        Raises:
            OSError: there was no pipe to be had, or no watch; nothing is left of the attempt.
        """
        if not self._free:
            raise OSError(errno.EAGAIN, "every entry of the scoreboard is taken")
        held = self._held
        report, writer = ReportPipe.made(self._loop, REPORT_BYTES)
        number = self._free[-1]
        born = self._loop.clock.monotonic()
        line = self._line(number, born, held.board.entry(number), report)
        self._free.pop()
        held.board.assign(number, slot=spawn.slot, generation=spawn.generation, born=born)
        one = Newborn(
            entry=number,
            slot=spawn.slot,
            generation=spawn.generation,
            limit=blueprint.settings.requests(chance()),
            age=next(self._count),
            workers=workers,
            waits=waits,
        )
        start = None
        if not molded or announce is not None:
            start = start_of(
                one,
                blueprint,
                held,
                sockets=[listener.socket_for(spawn.slot) for listener in held.listeners],
                report=writer,
                tls=tls,
                after_fork=after_fork,
                grouped=[listener for listener in held.listeners if listener.reuse_port],
            )
        return Birth(line, one, writer, start, announce)

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
        reports = [birth.report for birth in births]
        private = process.runs({*self._loop.descriptors, *self._helpers(), *reports})
        with signals.blocked() as mask:
            process.flush()
            for birth in births:
                assert birth.start is not None  # of one that the master forks
                if birth.announce is not None:
                    with signals.blocked(mask, only=True):
                        birth.announced()
                    process.flush()
                try:
                    pids.append(process.fork_flushed(live, birth.start, private))
                except OSError as error:
                    failed = error
                    break
        for report in reports:
            os.close(report)
        for birth in births[len(pids) :]:
            self._release(birth.line)
        for birth, pid in zip(births, pids, strict=False):
            self.born(pid, birth)
        return pids, failed

    def born(self, pid: int, birth: Birth) -> None:
        """A worker has been forked, by us or for us: keep the line to it, and have its death told."""
        self._board.entry(birth.line.entry)[PID] = pid
        self._keep(pid, birth.line)

    def unborn(self, birth: Birth) -> None:
        """One that was prepared will not be."""
        self._release(birth.line)

    def _line(self, entry: int, born: float, words: memoryview[int], report: ReportPipe) -> WorkerLine:
        order_at = self._board.index(entry, ORDER)
        return WorkerLine(
            entry,
            int(born * 1e9),
            self._board.fd,
            words,
            words[ORDER : ORDER + 1],
            order_at,
            signals.WAKE_UP,
            report,
        )

    def adopt(self, life: Life, old: memoryview[int] | None) -> None:
        """Take over a worker that an earlier image of this process forked.

        Args:
            life: what that image wrote down of it.
            old: the words of its scoreboard when that is not ours: then nothing of it is read but what the record
                says, and nothing written but its order.
        """
        report = ReportPipe(self._loop, -1 if life.report is None else life.report, REPORT_BYTES)
        if old is None:
            line = self._line(life.entry, 0.0, self._board.entry(life.entry), report)
            line.wake_up = life.wake_up
            self._free.remove(life.entry)
        else:
            order = old[life.order_at : life.order_at + 1]
            line = WorkerLine(-1, 0, life.board, self._board.blank(), order, life.order_at, life.wake_up, report)
        if life.pidfd is not None:
            os.close(life.pidfd)
        self._keep(life.pid, line)

    def adopted(self) -> None:
        """Every worker that an earlier image of this process forked has been taken over: no other child is known."""
        self._children.inherit()

    def life(self, member: Member, role: Role) -> Life:
        """What the next image of this process has to know of a worker, whose place in its slot is ``role``."""
        line, reason = self._lines[member.pid], member.reason
        assert line.child is not None  # of a member
        return Life(
            pid=member.pid,
            slot=member.slot,
            entry=member.entry,
            generation=member.generation,
            born=member.born,
            ready_at=member.ready_at,
            deadline=member.deadline,
            order=member.order,
            cause=None if reason is None else reason.cause.value,
            detail="" if reason is None else reason.detail,
            wanted=member.wanted,
            role=role,
            pidfd=line.child.pidfd,
            report=line.report.reader if line.report.reader >= 0 else None,
            board=line.board,
            order_at=line.order_at,
            wake_up=line.wake_up,
        )

    def _keep(self, pid: int, line: WorkerLine) -> None:
        """A worker has been forked, by us or by an earlier image: keep the line to it, and have its death told."""
        self._lines[pid] = line
        line.child = self._children.watch(pid, "worker process", line.report, lambda ended: self._ended(pid, ended))

    def _ended(self, pid: int, ended: process.Exit) -> None:
        """Give back what a worker's life has cost, and tell what is left of it."""
        line = self._lines.pop(pid)
        served = line.finished
        last, left = self._board.read(line.words, line.born), line.in_hand
        self._release(line)
        self._on_exit(pid, End(ended, served, line.reported, last, left))

    def _release(self, line: WorkerLine) -> None:
        """Give back all that a worker's life has cost, or would have if it had been forked."""
        line.report.close()
        if line.entry >= 0:
            line.words[PID] = line.words[STANCE] = 0  # else its siblings would wait for it to take what comes
            self._free.append(line.entry)

    def close(self) -> None:
        """Kill whoever still lives, take the exits and give everything back; for the end of a run that failed."""
        for pid in self._lines:
            process.kill(pid, signal.SIGKILL)
        for line in self._lines.values():
            if line.child is not None:
                line.child.put_down()
            self._release(line)
        self._lines.clear()

    def order(self, member: Member, order: Order) -> None:
        """Write ``order`` into the worker's entry, then wake it up."""
        self._lines[member.pid].order[0] = order
        self.wake_up(member)

    def wake_up(self, member: Member) -> None:
        """Have the worker look at its order."""
        process.kill_main_thread(member.pid, self._lines[member.pid].wake_up)

    def deaf(self, member: Member) -> str:
        """Why a worker can't hear what it is woken by; empty when it could, or when nobody knows."""
        return process.deaf(member.pid, self._lines[member.pid].wake_up)

    def vital(self, member: Member) -> Vital:
        """What a worker says of itself now, in seconds; a time that can't be true counts as now."""
        return self._lines[member.pid].vital(self._loop.clock.monotonic())

    def view(self, member: MemberView) -> EntryView:
        """All that a worker says of itself."""
        line = self._lines[member.pid]
        return self._board.read(line.words, line.born)

    def in_hand(self, member: MemberView) -> tuple[InHand, ...]:
        """What a worker has in hand now, by its lanes."""
        return self._lines[member.pid].in_hand

    def last_noted(self, member: Member) -> Iterator[Noted]:
        """What each lane of a worker has in hand, or had last, where that is noted."""
        return last_noted(self._lines[member.pid].words)

    def accepts(self, member: Member) -> bool:
        """Whether a worker takes connections by Worker.accept(), not in a loop of its own."""
        return self._lines[member.pid].accepts

    def state(self, member: Member) -> int:
        """The state that a worker gives, as a number."""
        return self._lines[member.pid].state

    def recycle_request(self, member: Member) -> int:
        """Why a worker wants to be replaced, as a number; 0 when it does not."""
        return self._lines[member.pid].recycle_request

    def finished(self, member: Member) -> int:
        """How many connections a worker has finished so far."""
        return self._lines[member.pid].finished

    def ask_for_tracebacks(self, pid: int) -> None:
        """Have a worker report the tracebacks of its threads."""
        line = self._lines[pid]
        tracebacks.ask(self._loop, pid, line.report, lambda: self._lines.get(pid) is line)

    def report(self, pid: int, lanes: Collection[int] = ()) -> str:
        """What a worker has reported and nobody has taken yet; of threads, those of some lanes first, which hang."""
        return self._lines[pid].tracebacks(lanes)

    def take_report(self, pid: int, lanes: Collection[int] = ()) -> str:
        """What a worker has reported since the last call; as :meth:`report`."""
        text = self.report(pid, lanes)
        self._lines[pid].report.text.clear()
        return text
