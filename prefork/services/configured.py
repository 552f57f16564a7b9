"""Which services a server has, by its settings and its environment."""

from __future__ import annotations

from prefork.config.settings import Settings
from prefork.services import log as logs
from prefork.services.control.server import Control
from prefork.services.pidfile import Pidfile
from prefork.services.proctitle import Titles
from prefork.services.reloader import Watch
from prefork.services.sd_notify import Notify
from prefork.supervisor.service import Service
from prefork.system.natives import os


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
    if settings.reload:
        found.append(Watch(sources))
    found += logs.services()
    return found
