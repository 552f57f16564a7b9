"""The plan: what a master is to supervise, settled before anything is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prefork.config.launch import Footing, Launch
from prefork.config.settings import Settings
from prefork.hooks import Hooks
from prefork.supervisor.hook_children import HookChildren
from prefork.supervisor.service import Service
from prefork.system.identity import Identity

if TYPE_CHECKING:
    import ssl
from prefork.system.record import Record
from prefork.worker import Worker


class Plan(Record):
    """What is to be supervised.

    Attributes:
        server: what hooks are given as the server.
        build: makes a worker, in its process.
        load: loads the application in a mold, and returns what makes a worker; None when there is to be none.
        settings: the settings.
        hooks: the hooks.
        services: what attaches to the server.
        folder: where relative paths of the settings begin.
        footing: finds the working directory anew.
        identity: who workers become; None changes nothing.
        launch: how this process was started.
        tls: what connections are secured with; None leaves them plain.
        hook_children: what becomes of processes that hooks fork in the master.
    """

    server: object
    build: Callable[[], Worker]
    load: Callable[[], Callable[[], Worker]] | None
    settings: Settings
    hooks: Hooks
    services: Sequence[Service]
    folder: str
    footing: Footing
    identity: Identity | None
    launch: Launch
    tls: ssl.SSLContext | None
    hook_children: HookChildren
