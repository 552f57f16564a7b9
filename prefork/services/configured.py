"""Which services a server has, and where a command's log goes, by its settings and its environment."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from prefork.config import receiver
from prefork.config.settings import Settings
from prefork.services import log as logs
from prefork.services.control.server import Control
from prefork.services.log import LogTarget
from prefork.services.pidfile import Pidfile
from prefork.services.proctitle import Titles
from prefork.services.reloader import Watch
from prefork.services.sd_notify import Notify
from prefork.supervisor.service import Service
from prefork.system.guarded_path import Owner
from prefork.system.natives import os
from prefork.system.zone import find as find_zone


def configure_log(
    settings: Settings, owner: Owner | None = None, tz: str | None = None, told: Mapping[str, Any] | None = None
) -> None:
    """Send the log where the settings say. For commands only.

    Args:
        settings: the settings.
        owner: whose the files of the log are to be; None leaves them.
        tz: what TZ is in the environment.
        told: what is configured as by the file that ``logconfig`` names, where that names none.

    Raises:
        SettingsError: it can't be sent there.
    """
    zone = find_zone(settings.log_timezone, tz)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    access: LogTarget | None = None
    if source := settings.logconfig or told:
        from prefork.services import logconfig

        found = logconfig.applied(source, owner)
        target, access, level = found.target, found.access, found.level or level
    else:
        target = logs.opened(settings.log_file, settings.log_format, owner, zone)
    beside = list(_beside(settings))
    if beside:
        target = logs.Several([target, *beside])
        access = None if access is None else logs.Several([access, *beside])
    logs.install(level, target, access)


def check_log(
    settings: Settings, owner: Owner | None = None, tz: str | None = None, told: Mapping[str, Any] | None = None
) -> None:
    """Find out whether the log could be sent where the settings say; nothing is opened, made or configured.

    Args:
        settings: the settings.
        owner: as for :func:`configure_log`.
        tz: as for :func:`configure_log`.
        told: as for :func:`configure_log`.

    Raises:
        SettingsError: it can't be sent there.
    """
    find_zone(settings.log_timezone, tz)
    if source := settings.logconfig or told:
        from prefork.services import logconfig

        logconfig.check(source, owner)
    else:
        logs.check(settings.log_file, owner)
    for target in _beside(settings):
        target.end()


def _beside(settings: Settings) -> Iterator[LogTarget]:
    if settings.syslog:
        from prefork.services.syslog import Syslog

        yield Syslog(receiver.parse(settings.syslog_addr, 514), settings.syslog_prefix, settings.syslog_facility)
    if settings.statsd_host:
        from prefork.services.statsd import RecordCounter, Statsd

        yield RecordCounter(Statsd.of(settings))


def services_of(settings: Settings, sources: tuple[str, ...] = ()) -> list[Service]:
    """The services that the settings ask for, not yet attached.

    Args:
        settings: the settings.
        sources: folders that only workers have on their import path.

    Raises:
        SettingsError: what one of them needs is not installed.
    """
    found: list[Service] = []
    if settings.proc_titles != "off":
        found.append(Titles(live=settings.proc_titles == "live"))
    if settings.pidfile:
        found.append(Pidfile(settings.pidfile))
    notify = Notify.of(os.environ, os.getpid())
    if notify is not None:
        found.append(notify)
    if settings.control not in {"", "off"}:
        found.append(Control(settings.control))
    found += _tellers(settings)
    if settings.reload:
        found.append(Watch(sources))
    found += logs.services()
    return found


def _tellers(settings: Settings) -> Iterator[Service]:
    """Those that tell others of the server."""
    if settings.health_bind or settings.agent_bind:
        from prefork.services.probes import AgentService, HealthService

        if settings.health_bind:
            yield HealthService("health_bind", settings.health_bind)
        if settings.agent_bind:
            yield AgentService("agent_bind", settings.agent_bind, settings.agent_request_time)
    if settings.dashboard:
        from prefork.services.dashboard import DashboardService

        yield DashboardService("dashboard", settings.dashboard)
    if settings.app_metrics:
        from prefork.services.app_metrics import AppMetricsService

        yield AppMetricsService()
    if settings.statsd_host:
        from prefork.services.statsd import Statsd, StatsdService

        yield StatsdService(Statsd.of(settings))
