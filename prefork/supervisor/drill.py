"""The drill: a worker's way from its making to its first accept, gone some times where workers are forked from.

Code that has run a few times is rewritten by the interpreter for what it has met (PEP 659). Until then each attribute
is looked up by its name, which counts references to the name, to what it finds and to the classes on the way, and takes
the place of another in the cache of such lookups. A process that has just been forked copies the page of each. What is
rewritten before the fork is shared by all who are forked.

What is drilled is ours alone: a plain worker, with nothing of the application's, on sockets and a scoreboard that
nobody else has. It leaves as soon as it is READY. In the MOLD, before the application is loaded.
"""

from __future__ import annotations

import contextlib
import gc
from typing import Any, Final

from prefork.accept.return_queue import ReturnQueue
from prefork.config.settings import Settings
from prefork.errors import RefusedError
from prefork.scoreboard.events import EventsPipe
from prefork.scoreboard.layout import Order, Scoreboard
from prefork.supervisor.blueprint import Blueprint, Newborn, start_of
from prefork.supervisor.forked import serve
from prefork.supervisor.resources import Resources
from prefork.system.descriptors import descriptors
from prefork.system.natives import os, socket
from prefork.system.record import changed
from prefork.worker import Worker

ROUNDS: Final = 12
"""How often: CPython 3.11 rewrites a function when it has been called eight times, later versions sooner."""

_NEWBORN: Final = Newborn(entry=0, slot=0, generation=0, limit=0, age=0, workers=1, waits=False)


def drill(settings: Settings, held: Resources) -> None:
    """Go that way, as workers with these settings will; without the descriptors for it do nothing.

    Args:
        settings: the server's.
        held: what workers share. None of it is used but to see of what kind it is.
    """
    if settings.threads > 1:
        return  # their lanes are threads, and a mold has none
    try:
        before = set(descriptors())
    except OSError:
        return  # nobody could tell what it has opened
    collects = gc.isenabled()
    gc.disable()  # what is made here stays among the young, where it is soon found
    try:
        _play(settings, held)
    except (OSError, RefusedError):
        pass  # workers will tell of it, if it is for long
    finally:
        made = set(descriptors()) - before
        gc.collect(0)  # some of it refers to itself, and closes what it has open when it goes
        for number in made.intersection(descriptors()):
            os.close(number)
        if collects:
            gc.enable()


def _play(settings: Settings, held: Resources) -> None:
    common = Blueprint(
        build=Worker,
        settings=changed(settings, gc="default"),
        hooks=None,
        server=None,
        identity=None,
        nofile=0,
        elastic=False,
        master=os.getppid(),  # a worker without its parent leaves at once
    )
    board = Scoreboard.create(1)
    events, go = EventsPipe(), os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    kind = held.inert.family, held.inert.type
    with contextlib.ExitStack() as stack:
        stack.callback(board.close)
        inert = stack.enter_context(socket.socket(*kind))
        queue = None
        if held.queue is not None:
            queue = ReturnQueue()
            stack.callback(queue.close)
        stage = changed(held, listeners=[], board=board, events=events, go=go, inert=inert, queue=queue)
        for _ in range(ROUNDS):
            with contextlib.ExitStack() as sockets:
                made = [sockets.enter_context(socket.socket(*kind)) for _ in held.listeners]
                for one in made:
                    one.setblocking(len(made) == 1 and queue is None)
                _live(common, stage, made)


def _live(common: Blueprint, held: Resources, sockets: list[socket.socket]) -> None:
    """One life, which ends when it has begun."""
    start = start_of(_NEWBORN, common, held, sockets=sockets, report=-1, tls=None, after_fork=())
    worker = Worker()
    worker.handle = _nobody  # type: ignore[method-assign]  # as of a worker that is made of a function
    controls = worker.__prefork__(start.context, start.acceptor)
    worker.init()
    controls.prepare()

    def ready() -> None:
        Worker.ready(worker)
        controls.obey(Order.QUIT)

    worker.ready = ready  # type: ignore[method-assign]  # this one's alone
    serve(worker, controls, start.entry, start.context, None)


def _nobody(connection: socket.socket, address: Any) -> None:
    """Serve nobody: none connects to a socket that does not listen."""
