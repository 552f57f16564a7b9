"""What the service manager is told (sd_notify(3)): ready, reloading, stopping, how it goes; and its watchdog is fed.

The variables are taken out of the environment, so that nothing which the application starts can speak for the service.
An idle server sends nothing but the watchdog's keep-alive, if the service manager asks for one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from prefork.scoreboard.layout import Order
from prefork.supervisor import notifications
from prefork.supervisor.event_loop import Timer
from prefork.supervisor.goal import Crashes
from prefork.supervisor.notifications import Notification
from prefork.supervisor.service import ServerView, Service
from prefork.system import systemd
from prefork.system.natives import os, time

log = logging.getLogger("prefork")

EVERY: Final = 5.0
"""Seconds between two requests for more time, while the server starts or stops."""

EXTENSION: Final = 15.0
"""Seconds that each of them asks for."""

_RETRY: Final = 0.1  # seconds, when the manager's queue is full


class Notify(Service):
    """Tells the service manager.

    Args:
        where: what :func:`~prefork.system.systemd.notify_address` gave.
        watchdog: seconds within which it wants a sign of life; 0 = it wants none.
    """

    def __init__(self, where: str, watchdog: float = 0.0) -> None:
        self._where = where
        self._watchdog = watchdog
        self._manager: systemd.NotifySocket | None = None
        self._unsent: list[bytes] = []
        self._taken: dict[str, str] = {}
        self._extension: Timer | None = None
        self._hungry = False
        self._last_status = ""

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> Notify | None:
        """The service that the environment asks for; None when it asks for none.

        Args:
            environ: the environment.
            pid: this process, for which alone the watchdog's interval may be meant.
        """
        where = systemd.notify_address(environ)
        if where is not None:
            return cls(where, systemd.watchdog(environ, pid))
        if environ.get(systemd.NOTIFY):
            log.warning(
                "%s: %r is neither a path nor an abstract name; the service manager is told nothing",
                systemd.NOTIFY,
                environ[systemd.NOTIFY],
            )
        return None

    def attach(self, server: ServerView) -> None:
        """Begin to ask for time, and to feed the watchdog."""
        self._server = server
        self._loop = server.loop
        self._manager = systemd.NotifySocket(self._where)
        self._loop.descriptors.add(self._manager.fileno())
        for name in (systemd.NOTIFY, *systemd.WATCHDOG):
            if name in os.environ:
                self._taken[name] = os.environ.pop(name)
        if server.settings.boot_timeout:  # without one, the manager's own limit is the only one there is
            self._ask_for_time()
        if self._watchdog:
            self._feed()

    def notify(self, notification: Notification) -> None:
        """Pass on what concerns a service manager."""
        match notification:
            case notifications.Serving() | notifications.Reloaded():
                self._stop_asking()
                self._send("READY=1", f"MAINPID={os.getpid()}", self._status())
            case notifications.Reloading(generation):
                now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                self._send("RELOADING=1", f"MONOTONIC_USEC={now}", f"STATUS=reloading: generation {generation}")
            case notifications.ReloadFailed(generation, reason):
                said = reason.splitlines()[-1]
                self._stop_asking()  # it may be the first reload after an upgrade
                self._send("READY=1", f"STATUS=generation {generation} failed to boot, the old one goes on: {said}")
            case notifications.Stopping():
                self._send("STOPPING=1", "STATUS=stopping: who is connected is being served")
                self._ask_for_time()
            case notifications.Died() | notifications.Scaled() | notifications.Exhausted() if self._is_steady():
                before = self._last_status
                if self._status() != before:
                    self._send(self._last_status)
            case _:
                pass

    def after_fork(self, slot: int, generation: int) -> None:  # noqa: ARG002  # others need them
        """WORKER. Close the socket, which the loop's descriptors have done."""
        if self._manager is not None:
            self._manager.detach()

    def detach(self) -> None:
        """Close the socket, and give the host its environment back; that the process ends, the manager sees."""
        if self._manager is not None:
            self._loop.descriptors.discard(self._manager.fileno())
            self._manager.close()
            self._manager = None
            os.environ.update(self._taken)

    def _is_steady(self) -> bool:
        return self._server.goal.ready and not self._server.goal.reloads and not self._server.stopping()

    def _status(self) -> str:
        """One line that a person likes."""
        server = self._server
        names = ", ".join(listener.name for listener in server.listeners)
        workers = f"{server.goal.size} workers" if server.goal.size != 1 else "1 worker"
        said = f"STATUS=serving on {names} with {workers}, generation {server.goal.generation}"
        if server.exits.crashes is not Crashes.NONE:
            said += "; workers die young again and again"
        if server.pressure.exhaustions:
            said += "; descriptors or memory are exhausted"
        self._last_status = said
        return said

    # Time.

    def _ask_for_time(self) -> None:
        """Ask for more time, now and again until it is not needed any more."""
        self._stop_asking()
        self._send(f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1e6)}")
        self._extension = self._loop.call_later(EVERY, self._ask_for_time)

    def _stop_asking(self) -> None:
        if self._extension is not None:
            self._extension.cancel()
            self._extension = None

    # The watchdog.

    def _feed(self) -> None:
        """Give a sign of life, unless there is little life: no worker serves though they have had their chance."""
        if self._fit():
            self._hungry = False
            self._send("WATCHDOG=1")
        elif not self._hungry:
            self._hungry = True
            log.error("no worker serves: the service manager's watchdog gets no sign of life")
        self._loop.call_later(self._watchdog / 2, self._feed)

    def _fit(self) -> bool:
        server = self._server
        if not server.goal.ready or server.stopping():
            return True
        return any(not member.starting and member.order is Order.RUN for member in server.roster)

    # Sending.

    def _send(self, *lines: str) -> None:
        self._unsent.append(systemd.encoded(*lines))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        """Send what is to be sent, in order; what the manager has no room for now, soon."""
        while self._unsent and self._manager is not None:
            try:
                self._manager.send(self._unsent[0])
            except BlockingIOError:
                self._loop.call_later(_RETRY, self._flush)
                return
            except OSError as error:
                log.warning("the service manager can't be told %r: %s", self._unsent[0].decode(), error)
            del self._unsent[0]
