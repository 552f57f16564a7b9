"""What the master gives a worker on its way, made before the fork; and what the worker's process is given in return."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from prefork.accept.fd_leak import LeakFinder
from prefork.accept.offspring import Offspring
from prefork.accept.return_queue import ReturnQueue
from prefork.accept.shedding import Shedder
from prefork.config.settings import Settings
from prefork.hooks import Hooks
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.layout import Order
from prefork.system.natives import os, socket
from prefork.system.record import Record

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger("prefork")


class WorkerLog(logging.LoggerAdapter[logging.Logger]):
    """Says which worker speaks.

    Args:
        slot: its slot.
        generation: its generation.
    """

    def __init__(self, slot: int, generation: int) -> None:
        super().__init__(logger, {"slot": slot, "generation": generation})

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """The message with its speaker before it."""
        extra = self.extra or {}
        return f"worker {extra['slot']}: {msg}", {**kwargs, "extra": extra}


class WorkerContext(Record):
    """What the master gives a worker on its way."""

    slot: int
    generation: int
    settings: Settings
    hooks: Hooks | None
    """None when there is none for a worker to call."""
    sockets: tuple[socket.socket, ...]
    """What it accepts on."""
    entry: Entry
    leaks: LeakFinder
    """Looks for a leak of descriptors."""
    shedder: Shedder
    """Refuses clients while all workers are exhausted."""
    log: logging.LoggerAdapter[logging.Logger]
    queue: ReturnQueue | None
    """Through which workers pass connections on; None when none are kept."""
    bell: int
    """The descriptor that is rung when no worker is idle any more; -1 where workers have one lane."""
    limit: int
    """After how many connections it asks for a replacement; 0 = never."""
    workers: int
    """How many workers there are to be in all."""
    elastic: bool
    """Whether the server grows and shrinks with the load, so that the last idle worker has to say so."""
    tls: ssl.SSLContext | None
    """What connections are secured with; None leaves them plain."""
    server: object
    """What hooks are given as the server."""
    waits: bool
    """Whether it accepts only when the master gives the word: in a takeover, when all are READY."""
    offspring: Offspring
    """What becomes of processes that the application forks."""
    ppid: int
    """The master's pid."""
    age: int
    """How many workers the master had forked when it came to this one, itself included."""

    @property
    def pid(self) -> int | None:
        """Its pid; None in the master, where it has not been forked yet."""
        here = os.getpid()
        return None if here == self.ppid else here


class MoldLog(logging.LoggerAdapter[logging.Logger]):
    """Says that a mold speaks."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """The message with its speaker before it."""
        return f"mold: {msg}", kwargs


class MoldContext(Record):
    """What a worker is given in a mold, where it never serves."""

    settings: Settings
    hooks: Hooks | None
    log: logging.LoggerAdapter[logging.Logger]
    server: object
    """What hooks are given as the server."""
    asked: tuple[str, ...] = ()
    """The paths that workers before were asked for most."""
    tls: None = None


class WorkerControls(NamedTuple):
    """What the process of a worker asks of it, and nobody else: a subclass has neither these names nor their meaning.

    What the master wants stands in the entry; a signal only points to it. So a SIGTERM from anybody else, or a Ctrl-C
    to the whole process group, finds the order RUN and ends nothing: the worker asks its master for a replacement
    (SIGTERM, SIGQUIT) or ignores it (SIGINT: the master got it too, and decides). Without a master there is nobody to
    give orders, and the worker leaves when it has finished what it has in hand.

    Attributes:
        prepare: take what the usual loop needs; raises what fails the boot.
        obey: carry an order to leave out. It and all below run in signal handlers, between any two instructions.
        woken: a signal has come, by its number: there may be an order.
        orphaned: the master is gone.
        aborted: the master ends this process, after this.
    """

    prepare: Callable[[], None]
    obey: Callable[[Order], None]
    woken: Callable[[int], None]
    orphaned: Callable[[], None]
    aborted: Callable[[], None]
