"""What outlives every worker: listeners, scoreboard, events pipe, the ``go`` descriptor.

They are made, or taken over from the image of this process that was here before an exec. And whether the limit of
descriptors suffices for what is configured.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
from collections.abc import Callable, Mapping, Sequence, Sized

from prefork.accept.fd_leak import HEADROOM
from prefork.accept.return_queue import ReturnQueue
from prefork.config.settings import Settings
from prefork.errors import OrphansError
from prefork.net import reach
from prefork.net.listener import Listener
from prefork.net.listeners import check_all, listen
from prefork.net.options import ListenOptions, SocketOptions
from prefork.scoreboard.events import EventsPipe
from prefork.scoreboard.layout import LAYOUT, Scoreboard
from prefork.supervisor import fdstore, policy
from prefork.supervisor.goal import Goal
from prefork.supervisor.handover import Handover
from prefork.supervisor.roster import Roster
from prefork.system import identity, limits, systemd
from prefork.system.descriptors import descriptors
from prefork.system.natives import os, socket
from prefork.system.need import needed
from prefork.system.record import Record, changed, fresh

log = logging.getLogger("prefork")

ENTRIES_BEYOND = 64
"""Entries beyond twice the workers that the settings ask for: room for SIGTTIN, and for those who retire."""

BESIDE_WORKERS = 4
"""Descriptors that the master needs for a moment: the other end of a pipe, a file of /proc, a client of a service."""

WORKER_DESCRIPTORS = 11
"""Descriptors of a worker beside its listeners and what the application opens: standard streams, scoreboard, events
pipe, ``go``, report pipe, the end of its waiting, the inert socket or epoll, the spare, a connection."""


class Resources(Record):
    """What a server's processes share.

    Attributes:
        listeners: what listens.
        board: the scoreboard of the workers to come.
        events: the pipe that they write to.
        go: readable while workers may accept.
        inert: a socket that does not listen; it takes the listener's place in a worker that is to accept no more.
        queue: the return queue; None when no connections are kept.
        bell: an eventfd that is rung when no worker is idle any more; -1 where workers have one lane.
        others: the words of earlier images' scoreboards on which workers still live, by their descriptors.
    """

    listeners: list[Listener]
    board: Scoreboard
    events: EventsPipe
    go: int
    inert: socket.socket
    queue: ReturnQueue | None = None
    bell: int = -1
    others: Mapping[int, memoryview[int]] = fresh(factory=dict)

    @property
    def descriptors(self) -> list[int]:
        """All of them, but the scoreboards of earlier images."""
        sockets = [sock.fileno() for listener in self.listeners for sock in listener.sockets]
        bell = [self.bell] if self.bell >= 0 else []
        ends = [] if self.queue is None else self.queue.ends
        lines = [self.events.reader, self.events.writer, *ends]
        return [*sockets, self.board.fd, *lines, self.go, self.inert.fileno(), *bell]


def socket_options(settings: Settings) -> SocketOptions:
    """What the settings ask of a listening socket. A unix path is the workers' unless told otherwise."""
    who = identity.resolve(settings.user, settings.group, "no")
    uid, gid = (who.uid, who.gid) if who else (None, None)
    return SocketOptions(
        v6only=settings.v6only,
        defer_accept=settings.defer_accept,
        nodelay=settings.nodelay,
        keepalive=settings.tcp_keepalive,
        fast_open=settings.fast_open,
        mode=settings.socket_mode,
        user=settings.socket_user or ("" if uid is None else str(uid)),
        group=settings.socket_group or ("" if gid is None else str(gid)),
    )


def tell_who_can_not_connect(settings: Settings, folder: str) -> None:
    """Say of each unix socket that is a file what keeps a proxy out that is another user.

    Args:
        settings: where it listens.
        folder: where relative paths begin.
    """
    chosen = settings.socket_mode is not None or bool(settings.socket_group or settings.socket_user)
    for address in settings.addresses:
        if address.kind == "unix" and (why := reach.closed(os.path.join(folder, address.path), chosen=chosen)):
            log.info("%s: %s", address, why)


def make(
    settings: Settings,
    folder: str,
    size: int,
    entries: int,
    stack: contextlib.ExitStack,
    patience: Callable[[OrphansError], bool] | None = None,
) -> Resources:
    """Listen, and make what the processes share.

    Args:
        settings: where to listen, and how.
        folder: where relative paths begin.
        size: how many workers there are at first (count).
        entries: how many may live at one moment (count).
        stack: closes everything at the end.
        patience: as for :func:`prefork.net.listeners.listen`.

    Raises:
        ListenError: an address can't be listened on.
        OSError: no descriptors, no memory.
    """
    how = ListenOptions(
        backlog=settings.backlog,
        options=socket_options(settings),
        reuse_port=settings.reuse_port,
        members=size,
        mode=settings.reuse_port_mode,
        listen=not settings.takeover,
    )
    stored, passed = fdstore.split(systemd.listen_fds(os.environ))
    addresses = tuple(changed(address, folder=folder) for address in settings.addresses)
    kept = fdstore.records(addresses, stored, reuse_port=settings.reuse_port, mode=settings.reuse_port_mode)
    listeners = listen(addresses, passed=passed, kept=kept, patience=patience, **how)
    _close_at_the_end(listeners, stack)
    fdstore.keep(listeners)
    _have_waited_for(listeners, settings)
    with needed("the scoreboard's shared memory", "memfd_create(2), ftruncate(2), fcntl(2), mmap(2)"):
        board = Scoreboard.create(entries, settings.threads)
    stack.callback(board.close)
    with needed("the workers' pipe", "pipe2(2), fcntl(2)"):
        events = EventsPipe()
    stack.callback(events.close)
    # After a takeover has come so far, workers wait for it before their first accept.
    with needed("the word by which workers go on", "eventfd2(2)"):
        go = os.eventfd(0 if settings.takeover else 1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    stack.callback(os.close, go)
    queue = _queue(settings, None, stack)
    return Resources(listeners, board, events, go, _inert(listeners[0], stack), queue, _bell(settings, stack))


def check(settings: Settings, folder: str) -> None:
    """Find out whether :func:`make` could listen, but for who has the addresses now.

    Args:
        settings: where to listen, and how.
        folder: where relative paths begin.

    Raises:
        ListenError: an address can't be listened on.
    """
    check_all(
        (changed(address, folder=folder) for address in settings.addresses),
        passed=fdstore.split(systemd.listen_fds(os.environ))[1],
        options=socket_options(settings),
        reuse_port=settings.reuse_port,
    )


def adopt(settings: Settings, folder: str, record: Handover, entries: int, stack: contextlib.ExitStack) -> Resources:
    """Take over what an earlier image of this process held.

    A scoreboard of another layout, or one that is too small or has another count of lanes, stays with the workers who
    live on it; those to come get a new one.

    Args:
        settings: options for sockets that are added later.
        folder: where relative paths begin.
        record: what that image wrote down.
        entries: how many workers may live at one moment (count).
        stack: closes everything at the end.

    Raises:
        ListenError: a descriptor of the record does not listen.
        OSError: no descriptors, no memory.
    """
    options = socket_options(settings)
    listeners = [
        Listener.restore(one, folder=folder, backlog=settings.backlog, options=options) for one in record.listeners
    ]
    _close_at_the_end(listeners, stack)
    stack.callback(os.close, record.go)
    board = _known(record, entries, settings.threads)
    if board is not None:
        events = EventsPipe(record.events)
    else:
        log.info("upgrade: the running workers keep their own scoreboard")
        board, events = Scoreboard.create(entries, settings.threads), EventsPipe()
        for fd in record.events:
            os.close(fd)
    stack.callback(board.close)
    stack.callback(events.close)
    others = {life.board: _words(life.board) for life in record.workers if life.board != board.fd}
    _have_waited_for(listeners, settings)
    queue, bell = _queue(settings, record.queue, stack), _bell(settings, stack)
    return Resources(listeners, board, events, record.go, _inert(listeners[0], stack), queue, bell, others)


def _have_waited_for(listeners: Sequence[Listener], settings: Settings) -> None:
    """Make them non-blocking where workers wait in an epoll: none may stand still in an accept."""
    if len(listeners) > 1 or _in_epoll(settings):
        for listener in listeners:
            listener.nonblocking()


def _in_epoll(settings: Settings) -> bool:
    """Whether workers wait for more than their listeners, whose accept then doesn't block."""
    return bool(settings.keepalive) or settings.threads > 1


def _bell(settings: Settings, stack: contextlib.ExitStack) -> int:
    """What is rung when no worker is idle any more. Workers of an earlier image have one of their own."""
    if settings.threads == 1:
        return -1
    with needed("the word that no worker is idle", "eventfd2(2)"):
        bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    stack.callback(os.close, bell)
    return bell


def _queue(settings: Settings, ends: tuple[int, int] | None, stack: contextlib.ExitStack) -> ReturnQueue | None:
    """The return queue, a new one or that of an earlier image."""
    if not settings.keepalive:
        for fd in ends or ():  # its workers have it open, until the last of them leaves
            os.close(fd)
        return None
    with needed("the queue of kept connections", "socketpair(2)"):
        queue = ReturnQueue(ends)
    stack.callback(queue.close)
    return queue


def _inert(listener: Listener, stack: contextlib.ExitStack) -> socket.socket:
    """A socket of the kind that ``listener`` has, since others may be forbidden here."""
    kind = listener.sockets[0]
    return stack.enter_context(socket.socket(kind.family, kind.type))


def _words(fd: int) -> memoryview[int]:
    """The words of a scoreboard of which no more is known than where an order stands in it."""
    return memoryview(mmap.mmap(fd, os.fstat(fd).st_size)).cast("Q")


def differs(settings: Settings, record: Handover) -> str:
    """What an upgrade can't bring, in one line; "" when it brings all."""
    wanted = tuple(str(address) for address in settings.addresses)
    if wanted != record.bind:
        return (
            f"bind: {', '.join(wanted)} instead of {', '.join(record.bind)} takes a restart or a takeover, "
            "not an upgrade"
        )
    grouped = [listener for listener in record.listeners if listener.reuse_port]
    if settings.reuse_port != bool(grouped) and any(one.kind in {"inet", "inet6"} for one in settings.addresses):
        return f"reuse_port: {settings.reuse_port} takes a restart or a takeover, not an upgrade"
    return ""


def _known(record: Handover, entries: int, lanes: int) -> Scoreboard | None:
    if record.layout != LAYOUT:
        return None
    try:
        board = Scoreboard.attach(record.board)
    except ValueError:
        return None
    if board.entries >= entries and board.lanes == lanes:
        return board
    board.detach()
    return None


def _close_at_the_end(listeners: list[Listener], stack: contextlib.ExitStack) -> None:
    for listener in listeners:
        stack.callback(listener.close)


def claim_descriptors(settings: Settings) -> int:
    """Raise this process's limit as far as it may be.

    Args:
        settings: whether to, and how much a worker needs.

    Returns:
        The soft limit for workers (count): the one that was given, or what one needs, if that is more.
    """
    given = limits.nofile()
    raised = limits.raise_nofile()[1] if settings.raise_nofile else given
    return min(max(given, needed_by_worker(len(settings.addresses), settings.threads)), raised)


def needed_by_worker(listeners: int, lanes: int) -> int:
    """How many descriptors a worker needs beside the application's own, with some to spare.

    Args:
        listeners: how many it listens on.
        lanes: how many connections it may have in hand.
    """
    return listeners + WORKER_DESCRIPTORS + lanes - 1 + HEADROOM


def check_descriptors(settings: Settings, goal: Goal, roster: Roster, listeners: Sized) -> None:
    """Warn when the limit is too small.

    Args:
        settings: what is configured.
        goal: how many workers there are to be.
        roster: who lives already.
        listeners: the listeners.
    """
    try:
        held = len(descriptors())
    except OSError:
        return  # no /proc
    tight = limits.shortfall(
        limits.nofile(),
        master=held + 2 * policy.limit(settings, goal, roster) + BESIDE_WORKERS,
        worker=needed_by_worker(len(listeners), settings.threads),
    )
    if tight:
        log.warning("%s", tight)


def lack_of_descriptors(more: int) -> str:
    """Why the master's limit is too small for so many workers more, in one line; "" when it is not, or nobody knows."""
    try:
        held = len(descriptors())
    except OSError:
        return ""  # no /proc
    return limits.shortfall(limits.nofile(), master=held + 2 * more + BESIDE_WORKERS, worker=0)
