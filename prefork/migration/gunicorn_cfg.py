"""What gunicorn calls ``cfg``, as hooks are given it: every setting by gunicorn's name, and what it makes of some.

Pure but for the defaults that are the process's own: its folder, its user and group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from prefork.errors import SettingsError
from prefork.migration.gunicorn_settings import ROWS
from prefork.migration.gunicorn_values import parsed_address
from prefork.system.natives import os


class Cfg:
    """gunicorn's settings, as attributes; those that nobody gave have gunicorn's defaults.

    Args:
        given: What was given, by gunicorn's names.
        target: What is served, as MODULE:ATTRIBUTE; "" where nothing says it.

    Attributes:
        settings: All values.
        target: As given.
        env_orig: The environment before ``raw_env``.
    """

    def __init__(self, given: Mapping[str, Any], target: str = "") -> None:
        self.target = target
        own = {"chdir": os.getcwd(), "user": os.geteuid(), "group": os.getegid()}
        self.settings: dict[str, Any] = {row.name: row.default for row in ROWS} | own | dict(given)
        self.env_orig = dict(os.environ)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["settings"][name]
        except KeyError:
            raise AttributeError(f"gunicorn has no setting {name!r}, or prefork does not make one of it") from None

    def set(self, name: str, value: object) -> NoReturn:  # noqa: ARG002  # it may be a secret
        """What gunicorn changes a setting by.

        Raises:
            SettingsError: Always.
        """
        raise SettingsError(
            f"cfg.set({name!r}) comes too late: settings hold before hooks are called; say it in the file"
        )

    @property
    def address(self) -> list[Any]:
        """Where it listens: (host, port), the path of a unix socket, or the number of a descriptor, for each."""
        return [parsed_address(text) for text in self.settings["bind"]]

    @property
    def env(self) -> dict[str, str]:
        """What ``raw_env`` sets."""
        pairs = [str(text).partition("=") for text in self.settings["raw_env"] or []]
        return {name: value for name, _, value in pairs}

    @property
    def is_ssl(self) -> Any:
        """What is true where TLS is spoken."""
        return self.settings["certfile"] or self.settings["keyfile"]

    @property
    def proc_name(self) -> Any:
        """What the server is called."""
        name = self.settings["proc_name"]
        return self.settings["default_proc_name"] if name is None else name

    @property
    def uid(self) -> Any:
        """``user``."""
        return self.settings["user"]

    @property
    def gid(self) -> Any:
        """``group``."""
        return self.settings["group"]

    @property
    def worker_class_str(self) -> str:
        """The name of the worker class; with threads, sync is gthread."""
        kind = self.settings["worker_class"]
        if not isinstance(kind, str):
            return str(kind.__name__)
        return "gthread" if kind in {"sync", "gunicorn.workers.sync.SyncWorker"} and self.threads > 1 else kind
