"""gunicorn's hooks, called with what gunicorn would give them: our server and workers, with gunicorn's attributes.

A hook that asks for ``server.cfg.bind`` or ``worker.cfg.timeout`` finds the value that the configuration gave, under
gunicorn's name. All other attributes are those of our own object.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from prefork.migration.gunicorn_cfg import Cfg


class App:
    """The application as gunicorn's hooks find it at ``worker.app``.

    Args:
        callable: The application.
    """

    def __init__(self, callable: Any) -> None:  # noqa: A002  # gunicorn's name of it
        self.callable = callable

    def wsgi(self) -> Any:
        """The application."""
        return self.callable


class Face:
    """An object of ours, with what gunicorn's has beside it.

    Args:
        subject: The object.
        cfg: gunicorn's settings.
    """

    cfg: Cfg

    def __init__(self, subject: object, cfg: Cfg) -> None:
        self.__dict__["_subject"] = subject
        self.__dict__["cfg"] = cfg

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_subject"], name)

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(getattr(type(self), name, None), property):
            super().__setattr__(name, value)
            return
        try:
            setattr(self.__dict__["_subject"], name, value)
        except AttributeError:
            self.__dict__[name] = value


class ServerFace(Face):
    """The master as gunicorn's arbiter."""

    @property
    def WORKERS(self) -> dict[int, Any]:  # noqa: N802  # gunicorn's name of it
        """Workers by their pids."""
        return {member.pid: member for member in self.roster}

    @property
    def LISTENERS(self) -> list[Any]:  # noqa: N802  # gunicorn's name of it
        """The listening sockets."""
        return list(self.listeners)

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        return len(self.roster)

    @property
    def proc_name(self) -> str:
        """What the server is called."""
        return str(self.settings.name)

    @property
    def address(self) -> list[Any]:
        """Where it listens."""
        return self.cfg.address

    @property
    def timeout(self) -> Any:
        """The setting."""
        return self.cfg.timeout

    @property
    def master_name(self) -> str:
        """There is one master, whatever is upgraded."""
        return "Master"


class WorkerFace(Face):
    """A worker, or how one ended, as gunicorn's."""

    @property
    def app(self) -> App:
        """The application, where `prefork wsgi` has loaded it, in gunicorn's cover."""
        return App(self.wsgi)

    @property
    def timeout(self) -> float:
        """Half of the setting, as gunicorn has it."""
        return float(self.cfg.timeout) / 2

    @property
    def alive(self) -> bool:
        """Whether it has not been told to leave."""
        return not getattr(self.__dict__["_subject"], "stopping", False)

    @alive.setter
    def alive(self, value: bool) -> None:
        if not value:
            self.recycle()


def faced(hook: Callable[..., object], cfg: Cfg) -> Callable[..., object]:
    """A hook of gunicorn's as one of ours.

    Args:
        hook: The function; whether it can be called with its arguments is seen as of any hook (`inspect` follows it).
        cfg: gunicorn's settings.
    """

    @functools.wraps(hook)
    def called(*given: object) -> object:
        kinds = [ServerFace if hasattr(one, "roster") else WorkerFace for one in given]
        return hook(*(kind(one, cfg) for kind, one in zip(kinds, given, strict=True)))

    return called
