"""The memory in which the application's metrics stand (`prefork.prometheus`): made, passed on, and the dead buried."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from prefork.errors import SettingsError
from prefork.scoreboard.app_metrics import AppMetrics
from prefork.scoreboard.value_name import ValueName
from prefork.supervisor import notifications
from prefork.supervisor.mold import NO_SLOT
from prefork.supervisor.notifications import Notification
from prefork.supervisor.service import ServerView, Service
from prefork.system.natives import os

_BESIDE = 8
"""Regions beyond those of all workers that can live at one moment: an application's own processes claim none."""


def prepare() -> None:
    """Any process, before the application is imported. Have its metrics be such as can be shared.

    Raises:
        SettingsError: prometheus_client is not installed.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise SettingsError("app_metrics: needs prometheus_client; pip install 'prefork[prometheus]', or leave it out")
    import prefork.prometheus  # noqa: F401  # its import does it


class AppMetricsService(Service):
    """MASTER. Keeps the memory, and what the dead have counted."""

    def __init__(self) -> None:
        self._memory: AppMetrics | None = None

    def attach(self, server: ServerView) -> None:
        """Make the memory, unless the image before this one has passed on its own."""
        prepare()
        if self._memory is None:
            self._memory = AppMetrics.create(2 * server.spawner.most + _BESIDE)

    def notify(self, notification: Notification) -> None:
        """Keep what a worker had counted."""
        if isinstance(notification, notifications.Died) and self._memory is not None:
            self._memory.bury(notification.death.pid, _kept)

    def begin_life(self, slot: int, generation: int) -> None:  # noqa: ARG002  # others need it
        """WORKER. Count where all can see it. A mold counts for itself: it never serves."""
        from prefork import prometheus

        if self._memory is not None and slot != NO_SLOT:
            prometheus.share(self._memory)

    def keep(self) -> Sequence[int]:
        """The memory, which workers of both images write to."""
        return () if self._memory is None else (self._memory.fd,)

    def receive(self, kept: Sequence[int]) -> None:
        """Go on with it."""
        for fd in kept:
            try:
                self._memory = AppMetrics(fd)
            except (ValueError, OSError):
                os.close(fd)  # of another release

    def detach(self) -> None:
        """Close it."""
        if self._memory is not None:
            self._memory.close()


def _kept(name: str, pid: int) -> tuple[str, str] | None:
    read = ValueName.read(name)
    return None if read is None else read.kept(pid)
