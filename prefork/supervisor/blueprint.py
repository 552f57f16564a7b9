"""The blueprint of a server's workers: what all have in common, what is one's own, and what its process begins with.

A worker is forked by the master, or by a midwife of the mold's (:mod:`prefork.supervisor.midwife`). What can be made
for it before the fork is made where it is forked, by :func:`start_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prefork.accept.acceptor import Blocking
from prefork.accept.fd_leak import LeakFinder
from prefork.accept.offspring import Offspring
from prefork.accept.shedding import Shedder
from prefork.accept.worker_context import WorkerContext, WorkerLog
from prefork.config.settings import Settings
from prefork.hooks import Hooks
from prefork.scoreboard.entry import Entry
from prefork.supervisor.forked import Adopted, SignalHandlers, Start
from prefork.supervisor.resources import Resources
from prefork.system.descriptors import SpareDescriptor
from prefork.system.identity import Identity
from prefork.system.natives import os, socket

if TYPE_CHECKING:
    import ssl

    from prefork.net.listener import Listener
from prefork.system.record import Record
from prefork.worker import Worker


class Blueprint(Record):
    """What all workers of a server have in common.

    Attributes:
        build: makes the worker, in its process.
        settings: the settings.
        hooks: the hooks; None when there is none for a worker to call.
        server: what hooks are given as the server.
        identity: who they become; None changes nothing.
        nofile: the soft limit of descriptors that each is to have (count).
        elastic: whether the server grows and shrinks with the load.
        master: the master's pid.
    """

    build: Callable[[], Worker]
    settings: Settings
    hooks: Hooks | None
    server: object
    identity: Identity | None
    nofile: int
    elastic: bool
    master: int


class Newborn(Record):
    """What is one worker's own: plain data, which may be told to another process.

    Attributes:
        entry: its entry of the scoreboard.
        slot: its slot.
        generation: its generation.
        limit: after how many connections it asks for a replacement; 0 = never.
        age: how many workers the master had forked when it came to this one, itself included.
        workers: how many workers there are to be in all.
        waits: whether it is to accept only when the word is given.
    """

    entry: int
    slot: int
    generation: int
    limit: int
    age: int
    workers: int
    waits: bool


def start_of(
    one: Newborn,
    common: Blueprint,
    held: Resources,
    *,
    sockets: Sequence[socket.socket],
    report: int,
    tls: ssl.SSLContext | None,
    after_fork: tuple[Callable[[int, int], object], ...],
    grouped: Sequence[Listener] = (),
    adopted: Adopted | None = None,
) -> Start:
    """What a worker's process begins with. To be made where it is forked, right before.

    Args:
        one: what is its own.
        common: what it has in common with all others.
        held: what workers share.
        sockets: what it accepts on.
        report: the writing end of its report pipe.
        tls: what connections are secured with; None leaves them plain.
        after_fork: what it is to call, with slot and generation.
        grouped: the listeners in which each slot has a socket of its own, and of which it closes the others'.
        adopted: how it becomes the master's child; None when the master forks it.
    """
    settings = common.settings
    entry = Entry(held.board, one.entry, held.events, held.go, common.master, records=settings.record_requests)
    handlers = SignalHandlers(entry, report)
    dispositions = handlers.dispositions
    say = WorkerLog(one.slot, one.generation)
    spare = SpareDescriptor()
    sockets = tuple(sockets)
    context = WorkerContext(
        slot=one.slot,
        generation=one.generation,
        settings=settings,
        hooks=common.hooks,
        sockets=sockets,
        entry=entry,
        leaks=LeakFinder(entry, say, spare),
        shedder=Shedder(entry, settings, say, one.workers, spare),
        log=say,
        queue=held.queue,
        bell=held.bell,
        limit=one.limit,
        workers=one.workers,
        elastic=common.elastic,
        tls=tls,
        server=common.server,
        waits=one.waits,
        offspring=Offspring(entry, dispositions, report, sockets),
        ppid=common.master,
        age=one.age,
    )
    return Start(
        build=common.build,
        own=(one.slot, one.generation),
        context=context,
        acceptor=Blocking(context, held.inert) if _blocks(sockets) else None,
        entry=entry,
        handlers=handlers,
        dispositions=dispositions,
        report=report,
        master=common.master,
        identity=common.identity,
        nofile=common.nofile,
        grouped=tuple(grouped),
        after_fork=after_fork,
        watch_forks=context.offspring.watch_forks,
        adopted=adopted,
    )


def _blocks(sockets: Sequence[socket.socket]) -> bool:
    """Whether a worker may wait in accept(2): an image before this one may have made the listener non-blocking."""
    return len(sockets) == 1 and os.get_blocking(sockets[0].fileno())
