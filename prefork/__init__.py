"""Servers made of many processes on one listening socket, that lose nothing.

Three ways in::

    prefork.serve(handle, bind="127.0.0.1:8000", workers=4)  # handle(connection, address)

    class MyWorker(prefork.Worker): ...
    prefork.Master(MyWorker, prefork.Settings(bind="127.0.0.1:8000")).run()

    $ prefork serve module:handle --bind 127.0.0.1:8000 --workers 4

A name is imported when somebody asks for it (PEP 562), so that a part of the package costs no more than what it needs:
the pytest plugin is loaded by every pytest of an environment.
"""

from prefork._version import __version__ as __version__
from prefork.system import safepath as safepath  # first of all: it is about what is imported from here on

TYPE_CHECKING = False  # as in typing, whose import costs more than all of this
if TYPE_CHECKING:
    from prefork.config.settings import Settings
    from prefork.errors import BootError, ListenerLostError, ListenError, PreforkError, SettingsError, TargetError
    from prefork.hooks import Hooks
    from prefork.master import Master
    from prefork.net.lingering import linger
    from prefork.server import serve
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
    "linger",
    "serve",
]

_HOMES = {
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "prefork.errors"),
    "Hooks": "prefork.hooks",
    "Master": "prefork.master",
    "Settings": "prefork.config.settings",
    "Worker": "prefork.worker",
    "linger": "prefork.net.lingering",
    "serve": "prefork.server",
}


def __getattr__(name: str) -> object:
    """Import a public name from where it is defined.

    Raises:
        AttributeError: there is none of that name.
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(home), name)
    globals()[name] = found  # the next look is a plain one
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
