"""Services: what attaches to a running server, and how it is notified of what happens.

A control socket, the service manager's notifications, a pidfile: each is a :class:`Service`. The supervisor is given
them and knows none. It attaches them when it has all that it needs to fork, notifies them of what happens, and detaches
them at the end. A service registers descriptors and deadlines with the loop and asks for things through
:class:`ServerView`; like everything in the master it never blocks. What it raises is logged and harms nobody, except at
the start: there a service that can't do its work ends the run.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prefork.config.settings import Settings
from prefork.errors import PreforkError
from prefork.scoreboard.layout import Readiness
from prefork.supervisor.cause import Reason
from prefork.supervisor.death import Death
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.notifications import Notification
from prefork.supervisor.views import ExitsView, GoalView, ListenerView, MoldsView, PressureView, RosterView, SpawnerView
from prefork.system import codec
from prefork.system.child import Children
from prefork.system.natives import os
from prefork.system.record import Record
from prefork.system.throttle import Throttle

log = logging.getLogger("prefork")

_KEPT = "descriptors"
"""Where the saved data has them; no service has such a name."""


class ServerView(Record):
    """What a service sees of the server, to read, and may ask of it. That takes effect at the loop's next turn.

    Attributes:
        settings: the settings.
        loop: for descriptors and deadlines; what a callback raises is logged, and it is called again after a while.
        goal: what is wanted of the workers.
        roster: who lives.
        listeners: the listening sockets.
        spawner: what workers say of themselves.
        molds: of what workers are made, with ``preload``.
        children: tells of the end of a process that a service has forked.
        pressure: what is short.
        exits: the last ones, and whether there is a crash loop.
        stopping: whether the server is going to end.
        readiness: whether the server is fit for new clients.
        boot_failed: whether a death is a failed boot.
        recycle: have a worker, by its pid, replaced for a reason; one that has ended meanwhile needs none.
        reload: replace every worker by one of the next generation. False when the server stops.
        upgrades: whether a reload is an upgrade, because the program has loaded by itself what it serves (``preload``).
        upgrade: execute the new code in this process, and then replace every worker. False when it starts or stops.
        scale: run another number of workers; returns the number that is wanted now.
        stop: end the server, losing nobody.
        quit: end it soon; the second time, at once.
    """

    settings: Settings
    loop: Loop
    goal: GoalView
    roster: RosterView
    listeners: Sequence[ListenerView]
    spawner: SpawnerView
    molds: MoldsView
    children: Children
    pressure: PressureView
    exits: ExitsView
    stopping: Callable[[], bool]
    readiness: Callable[[], Readiness]
    boot_failed: Callable[[Death], bool]
    recycle: Callable[[int, Reason], None]
    reload: Callable[[], bool]
    upgrades: Callable[[], bool]
    upgrade: Callable[[], bool]
    scale: Callable[[int], int]
    stop: Callable[[], None]
    quit: Callable[[], None]


class Service:
    """Something that attaches to a server. Override what is needed; by itself it does nothing."""

    def check(self, settings: Settings) -> None:
        """Any process, in which there is no server. Find out whether :meth:`attach` could do its work; make nothing.

        Who has an address or a file now is no matter: a server that is to be replaced by this one, perhaps.

        Args:
            settings: of the server that would be started.

        Raises:
            PreforkError: it couldn't.
        """

    def attach(self, server: ServerView) -> None:
        """The listeners are open and nobody has been forked yet.

        Raises:
            PreforkError: it can't do its work; the server does not start.
        """

    def notify(self, notification: Notification) -> None:
        """Something has happened."""

    def after_fork(self, slot: int, generation: int) -> None:
        """WORKER or MOLD, before anything of the application's runs: close what is the master's alone.

        Arguments as for :meth:`begin_life`. A mold's workers have what the mold has, so it is not called there.
        """

    def begin_life(self, slot: int, generation: int) -> None:
        """WORKER or MOLD, right after :meth:`after_fork` or in its place: be who this process is.

        Args:
            slot: the worker's; `prefork.supervisor.mold.NO_SLOT` in a mold.
            generation: of the worker, or of those to come.
        """

    def save(self) -> object:
        """What the same service is to know in the image after an upgrade, as JSON has it; None = nothing."""
        return None

    def restore(self, saved: object) -> None:
        """Called after :meth:`attach`. What the service of the image before has saved; of another release, perhaps."""

    def keep(self) -> Sequence[int]:
        """Descriptors that are to stay open over the exec of an upgrade, for the same service in the next image."""
        return ()

    def receive(self, kept: Sequence[int]) -> None:
        """Called before :meth:`attach`. What :meth:`keep` gave in the image before; they are this service's now."""
        for fd in kept:
            os.close(fd)

    def detach(self) -> None:
        """The workers are gone; give everything back. Called once for each that attached."""


class Services:
    """All services of one server.

    Args:
        services: those that are to be attached, in order.
    """

    def __init__(self, services: Iterable[Service]) -> None:
        self._services = list(services)
        self._attached: list[Service] = []
        self._throttle = Throttle(log)

    def attach(self, server: ServerView, saved: str | None) -> None:
        """Attach all of them; :meth:`detach` gives back what was attached when one fails.

        Args:
            server: what each is given.
            saved: what :meth:`save` gave in the image before an upgrade; None without one. After an upgrade a service
                that can't do its work is done without: the server serves already.
        """
        if saved is not None:
            self._receive(saved)
        for service in self._services:
            try:
                service.attach(server)
            except (PreforkError, OSError) as error:
                if saved is None:
                    raise
                log.error("after the upgrade: %s does without: %s", type(service).__name__, error)
            else:
                self._attached.append(service)
        if saved is not None:
            self._restore(saved)

    def _restore(self, saved: str) -> None:
        try:
            data: Any = codec.parsed(saved)
            for service in self._attached:
                name = type(service).__name__
                if name in data:
                    service.restore(data[name])
        except Exception as error:  # noqa: BLE001  # of another release it may be anything, and the server serves already
            log.warning("what the code before the upgrade has counted can't be read: %s", error)

    def _receive(self, saved: str) -> None:
        """Give each its descriptors; those that nobody wants any more are closed."""
        try:
            kept = codec.parsed_object(saved)[_KEPT]
        except (ValueError, KeyError, TypeError):
            return  # of a release that passed on none
        services = {type(service).__name__: service for service in self._services}
        for name, descriptors in kept.items():
            for fd in descriptors:
                os.set_inheritable(fd, False)
            services.get(name, Service()).receive(descriptors)

    @property
    def kept(self) -> list[int]:
        """The descriptors that stay open over the exec of an upgrade."""
        return [fd for service in self._attached for fd in service.keep()]

    def save(self) -> str:
        """What all of them pass on to the next image."""
        found = {type(service).__name__: self._saved(service) for service in self._attached}
        found[_KEPT] = {type(service).__name__: list(service.keep()) for service in self._attached if service.keep()}
        return codec.encoded({name: data for name, data in found.items() if data is not None})

    @staticmethod
    def _saved(service: Service) -> object:
        try:
            data = service.save()
            codec.encoded(data)
        except Exception:  # the next image begins anew with it, and that is all
            log.exception("%s failed to pass on what it knows", type(service).__name__)
            return None
        return data

    def notify(self, notification: Notification) -> None:
        """Notify all of them, in the order in which they attached."""
        for service in self._attached:
            try:
                service.notify(notification)
            except BaseException as error:  # noqa: BLE001  # a broken service must not end the server, with sys.exit() neither
                name = type(service).__name__
                self._throttle.tell(
                    logging.ERROR,
                    (name, type(notification), type(error)),
                    "%s failed to take note of %s:\n%s",
                    name,
                    notification,
                    "".join(traceback.format_exception(error)).rstrip(),
                )

    @property
    def after_fork(self) -> tuple[Callable[[int, int], object], ...]:
        """What has to be called, with slot and generation, by who was forked by the master."""
        closing = [one.after_fork for one in self._attached if type(one).after_fork is not Service.after_fork]
        return (*closing, *self.begin_life)

    @property
    def begin_life(self) -> tuple[Callable[[int, int], object], ...]:
        """That part of it which a WORKER has to call that was forked of a mold."""
        return tuple(one.begin_life for one in self._attached if type(one).begin_life is not Service.begin_life)

    def detach(self) -> None:
        """Detach those that attached, the last one first. Idempotent."""
        while self._attached:
            service = self._attached.pop()
            try:
                service.detach()
            except Exception:  # the others have something to give back as well
                log.exception("%s failed to end", type(service).__name__)
