"""What a worker knows of itself: its place in the server, and what it was given on its way."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

from prefork.accept.worker_context import WorkerContext
from prefork.config.settings import Settings
from prefork.scoreboard.layout import Readiness
from prefork.system.natives import os, socket

if TYPE_CHECKING:
    import ssl


class WorkerFacts:
    """What a `prefork.Worker` can be asked, from its :meth:`init` on."""

    _given: WorkerContext

    @property
    def slot(self) -> int:
        """This worker's stable index, 0 to workers - 1; a replacement has the same."""
        return self._given.slot

    # A subclass may have attributes of its own by these names, so they are none that can't be set.

    @functools.cached_property
    def pid(self) -> int:
        """The pid of this process."""
        return os.getpid()

    @functools.cached_property
    def ppid(self) -> int:
        """The master's pid."""
        return self._given.ppid

    @functools.cached_property
    def age(self) -> int:
        """How many workers this image of the master had forked when it came to this one, itself included."""
        return self._given.age

    @property
    def generation(self) -> int:
        """Grows with every reload."""
        return self._given.generation

    @property
    def settings(self) -> Settings:
        """The server's settings."""
        return self._given.settings

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets, shared with the other workers. Don't shut one down: that ends it for all."""
        return self._given.sockets

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger ("prefork") whose messages begin with the slot."""
        return self._given.log

    def _readiness(self) -> Readiness:
        """Whether the server is fit for new clients; without a master it is at its end."""
        entry = self._given.entry
        return Readiness.STOPPING if entry.orphaned else entry.board.readiness

    @property
    def tls(self) -> ssl.SSLContext | None:
        """With ``certfile``, what connections are secured with, the same for all workers; else None."""
        return self._given.tls
