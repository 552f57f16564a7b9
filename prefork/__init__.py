"""Servers made of many processes on one listening socket, that lose nothing.

Three ways in::

    prefork.serve(handle, bind="127.0.0.1:8000", workers=4)  # handle(connection, address)

    class MyWorker(prefork.Worker): ...
    prefork.Master(MyWorker, prefork.Settings(bind="127.0.0.1:8000")).run()

    $ prefork serve module:handle --bind 127.0.0.1:8000 --workers 4
"""

from prefork.errors import (
    BootError,
    ListenerLostError,
    ListenError,
    PreforkError,
    SettingsError,
    TargetError,
)
from prefork.hooks import Hooks
from prefork.master import Master
from prefork.server import serve
from prefork.settings import Settings
from prefork.worker import Worker

__all__ = [
    "BootError",
    "Hooks",
    "ListenError",
    "ListenerLostError",
    "Master",
    "PreforkError",
    "Settings",
    "SettingsError",
    "TargetError",
    "Worker",
    "serve",
]

__version__ = "0.1.0"
