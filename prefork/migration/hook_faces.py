"""gunicorn's hooks, called with what gunicorn would give them: our server and workers, with gunicorn's attributes.

A hook that asks for ``server.cfg.bind`` or ``worker.cfg.timeout`` finds the value that the configuration gave, under
gunicorn's name. All other attributes are those of our own object.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from typing import Any


class Cfg:
    """What gunicorn calls ``cfg``: settings by its names.

    Args:
        values: Them.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.settings = dict(values)
        self.env: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["settings"][name]
        except KeyError:
            raise AttributeError(f"gunicorn has no setting {name!r}") from None


class Face:
    """An object of ours, with what gunicorn's has beside it.

    Args:
        subject: The object.
        values: gunicorn's settings.
    """

    def __init__(self, subject: object, values: Mapping[str, Any]) -> None:
        self.__dict__["_subject"] = subject
        self.__dict__["cfg"] = Cfg(values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_subject"], name)

    def __setattr__(self, name: str, value: object) -> None:
        try:
            setattr(self.__dict__["_subject"], name, value)
        except (AttributeError, FrozenInstanceError):
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


def faced(hook: Callable[..., object], values: Mapping[str, Any]) -> Callable[..., object]:
    """A hook of gunicorn's as one of ours.

    Args:
        hook: The function; whether it can be called with its arguments is seen as of any hook (`inspect` follows it).
        values: gunicorn's settings, by its names.
    """

    @functools.wraps(hook)
    def called(*given: object) -> object:
        kinds = [ServerFace if hasattr(one, "roster") else Face for one in given]
        return hook(*(kind(one, values) for kind, one in zip(kinds, given, strict=True)))

    return called
