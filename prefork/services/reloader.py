"""``reload``: new code as soon as a source file changes, for development.

A process beside the workers says which files change (`prefork.services.file_watcher`); a thread of the master's would
be a hazard at every fork. What the master itself has imported (the hooks, a preloaded application, the program that
called `serve`) is renewed by an upgrade, which executes everything anew; for anything else a reload will do. Either way
code that can't be imported replaces nothing: who serves goes on, until the next change.

All of it runs in the MASTER.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import sys
from typing import Any, Final

from prefork.errors import SettingsError
from prefork.supervisor.service import ServerView, Service
from prefork.system import process, signals

log = logging.getLogger("prefork")

_WATCHER: Final = "prefork.services.file_watcher"
_LISTED: Final = 3  # files that are named in one line of the log
_READ: Final = 1 << 16
_NOT_FOR_IT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
"""What a terminal or a service manager sends to the whole group: the watcher ends with the master."""


class Watch(Service):
    """MASTER. Watches the source that is on the import path.

    Args:
        sources: folders that only workers have on theirs. The watcher, like the master, has not: it would import from
            there what it needs itself, and may be root.

    Raises:
        SettingsError: watchfiles is not installed.
    """

    def __init__(self, sources: tuple[str, ...] = ()) -> None:
        self._sources = sources
        if importlib.util.find_spec("watchfiles") is None:
            raise SettingsError("reload: watchfiles is not installed; pip install 'prefork[reload]', or leave it out")
        self._pid = 0
        self._reader = -1
        self._heard = b""

    def attach(self, server: ServerView) -> None:
        """Start the watcher.

        Raises:
            SettingsError: there is no process to be had for it.
        """
        self._server = server
        try:
            self._start()
        except OSError as error:
            raise SettingsError(f"reload: nobody can watch files: {error.strerror}; leave it out") from None

    def save(self) -> object:
        """The watcher of this image, for the next to end."""
        return {"pid": self._pid}

    def restore(self, saved: object) -> None:
        """The watcher of the image before speaks to nobody now."""
        if isinstance(saved, dict) and isinstance(saved.get("pid"), int) and saved["pid"] > 0:
            process.put_down(saved["pid"])

    def detach(self) -> None:
        """End the watcher."""
        self._give_up()

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", _WATCHER, *self._sources]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        parent = os.getpid()
        self._reader, writer = os.pipe2(os.O_CLOEXEC)

        def become() -> int:  # noqa: RET503  # execve() never returns, which mypy knows and ruff doesn't
            if not process.die_with_parent(signal.SIGKILL, parent):
                return 0
            signals.give_up()
            for signum in _NOT_FOR_IT:
                signal.signal(signum, signal.SIG_IGN)
            os.dup2(writer, 1)
            os.execve(sys.executable, command, environment)

        try:
            self._server.loop.register(self._reader, self._read)
            with signals.blocked():
                self._pid = process.fork(become)
        except OSError:
            self._give_up()
            raise
        finally:
            os.close(writer)

    def _read(self) -> None:
        data = os.read(self._reader, _READ)
        if not data:
            self._give_up()
            log.error("reload: nobody watches files any more; changes bring nothing new until the next start")
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if isinstance(said, dict):
                self._hear(said)
            else:
                log.debug("reload: the watcher says %r", line)  # a sitecustomize that prints, say

    def _hear(self, said: dict[str, Any]) -> None:
        if "watching" in said:
            log.info("reload: watching the Python source in %s", ", ".join(said["watching"]))
        elif "failed" in said:
            log.error("reload: can't watch files: %s", said["failed"])
        elif "changed" in said and not self._server.stopping():
            files = said["changed"]
            more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
            log.info("reload: changed: %s%s", ", ".join(files[:_LISTED]), more)
            if _imported().isdisjoint(files):
                self._server.reload()
            else:
                self._server.upgrade()

    def _give_up(self) -> None:
        if self._reader >= 0:
            self._server.loop.unregister(self._reader)
            os.close(self._reader)
            self._reader = -1
        if self._pid:
            process.put_down(self._pid)
            self._pid = 0


def _imported() -> set[str]:
    """The files of the modules that this process has imported."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {os.path.realpath(file) for file in files if file}
