"""From the master's state to a hand-over record, and back: the two ends of an upgrade.

All of it runs in the MASTER.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from prefork.config.settings import Settings
from prefork.scoreboard.layout import LAYOUT, Order
from prefork.supervisor import handover
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.goal import Goal
from prefork.supervisor.handover import Handover, Life
from prefork.supervisor.resources import Holdings
from prefork.supervisor.roster import Member, Roster
from prefork.supervisor.spawner import Spawner


def write(
    settings: Settings, goal: Goal, roster: Roster, spawner: Spawner, held: Holdings, mask: Iterable[int], windows: str
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
        windows=windows,
        workers=tuple(_life(member, roster, spawner) for member in roster),
    )


def _life(member: Member, roster: Roster, spawner: Spawner) -> Life:
    line = spawner.line(member)
    return Life(
        pid=member.pid,
        slot=member.slot,
        entry=member.entry,
        generation=member.generation,
        born=member.born,
        ready_at=member.ready_at,
        deadline=member.deadline,
        order=member.order,
        cause=None if member.reason is None else member.reason.cause.value,
        detail="" if member.reason is None else member.reason.detail,
        wanted=member.wanted,
        role=roster.role(member),
        pidfd=line.pidfd,
        report=line.report,
        board=line.board,
        order_at=line.order_at,
        wake_up=line.wake_up,
    )


def read(record: Handover, goal: Goal, roster: Roster, spawner: Spawner, held: Holdings) -> None:
    """Take over the workers that an earlier image of this process forked."""
    goal.took_over(record.size, record.generation, record.draining)
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
    spawner.adopted()
