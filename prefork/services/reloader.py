"""``reload``: new code as soon as a source file changes, for development.

A process beside the workers says which files change (`prefork.services.file_watcher`); a thread of the master's would
be a hazard at every fork. What the master itself has imported (the hooks, the program that called `serve`) is renewed
by an upgrade, which executes everything anew; for anything else a reload will do. Either way code that can't be
imported replaces nothing: who serves goes on, until the next change.

No change is missed: one that comes while the server starts, or while an upgrade is under way that may fail for want of
it, is kept for the moment when that is over; and the watcher of the image before an upgrade speaks to the next one,
until that one's own has taken its first look.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Sequence
from typing import Any, Final

from prefork.errors import SettingsError
from prefork.supervisor.notifications import Notification, Reloaded, ReloadFailed, Serving, UpgradeFailed
from prefork.supervisor.service import ServerView, Service
from prefork.system import codec, process, signals
from prefork.system.child import Child, ReportPipe
from prefork.system.codec import DecodeError
from prefork.system.modules import having
from prefork.system.natives import os, signal
from prefork.system.need import told

log = logging.getLogger("prefork")

_WATCHER: Final = "prefork.services.file_watcher"
_LISTED: Final = 3  # files that are named in one line of the log
_MOST: Final = 1 << 20  # bytes of one line: tens of thousands of files
_LINGER: Final = 2.0
"""Seconds within which a watcher tells what it has seen; it gathers changes for 1.6 at the most."""

_NOT_FOR_IT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
"""What a terminal or a service manager sends to the whole group: the watcher ends with the master."""


class Watch(Service):
    """Watches the source that is on the import path.

    Args:
        sources: folders that only workers have on theirs. The watcher, like the master, has not: it would import from
            there what it needs itself, and may be root.

    Raises:
        SettingsError: watchfiles is not installed.
    """

    def __init__(self, sources: tuple[str, ...] = ()) -> None:
        self._sources = sources
        self._former: ReportPipe | None = None
        self._former_pid = 0
        self._kept = -1
        self._upgrading = False
        self._due = False
        if importlib.util.find_spec("watchfiles") is None:
            raise SettingsError("reload: watchfiles is not installed; pip install 'prefork[reload]', or leave it out")
        self._watcher: Child | None = None

    def attach(self, server: ServerView) -> None:
        """Start the watcher.

        Raises:
            SettingsError: there is no process to be had for it.
        """
        self._server = server
        try:
            if self._kept >= 0:
                kept, self._kept = self._kept, -1
                self._former = former = ReportPipe(server.loop, kept, _MOST, lambda: self._read(former.text, own=False))
            self._start()
        except OSError as error:
            raise SettingsError(f"reload: nobody can watch files: {told(error, 'leave it out')}") from None

    def save(self) -> object:
        """The watcher of this image, and that of the one before, for the next to end."""
        return {"pid": 0 if self._watcher is None else self._watcher.pid, "former": self._former_pid}

    def keep(self) -> Sequence[int]:
        """The pipe by which it speaks."""
        pipe = None if self._watcher is None else self._watcher.pipe
        return () if pipe is None or pipe.reader < 0 else (pipe.reader,)

    def receive(self, kept: Sequence[int]) -> None:
        """That of the image before."""
        self._kept, *others = kept
        super().receive(others)

    def restore(self, saved: object) -> None:
        """The watcher of the image before goes on until that of this one watches; whom nobody hears is ended."""
        pid, former = (saved.get(name) for name in ("pid", "former")) if isinstance(saved, dict) else (0, 0)
        if isinstance(former, int) and former > 0:
            process.put_down(former)
        if isinstance(pid, int) and pid > 0:
            self._former_pid = pid
            if self._former is None:
                self._dismiss()

    def notify(self, notification: Notification) -> None:
        """What was kept for this moment is begun."""
        if isinstance(notification, UpgradeFailed):
            self._upgrading = False
        elif not isinstance(notification, Serving | Reloaded | ReloadFailed):
            return
        if self._due:
            self._upgrade()

    def detach(self) -> None:
        """End the watcher."""
        self._dismiss()
        if self._watcher is not None:
            self._watcher.put_down()
            self._watcher = None

    def _dismiss(self) -> None:
        """End the watcher of the image before. Idempotent."""
        if self._former is not None:
            self._former.close()
            self._former = None
        if self._former_pid:
            process.put_down(self._former_pid)
            self._former_pid = 0

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", _WATCHER, *self._sources]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        parent = os.getpid()
        loop = self._server.loop
        said, writer = ReportPipe.made(loop, _MOST, lambda: self._read(said.text, own=True))

        def become() -> int:  # noqa: RET503  # execve() never returns, which mypy knows and ruff doesn't
            if not process.die_with_parent(signal.SIGKILL, parent):
                return 0
            signals.give_up()
            for signum in _NOT_FOR_IT:
                signal.signal(signum, signal.SIG_IGN)
            os.set_blocking(writer, True)
            os.dup2(writer, 1)
            os.execve(sys.executable, command, environment)

        try:
            with signals.blocked():
                pid = process.fork(become)
        except OSError:
            said.close()
            raise
        finally:
            os.close(writer)
        self._watcher = self._server.children.watch(pid, "the watcher, process", said, self._ended, loop)

    def _ended(self, ended: process.Exit) -> None:
        self._watcher = None
        self._dismiss()
        log.error(
            "reload: nobody watches files any more, the watcher %s; changes bring nothing new until the next start",
            ended,
        )

    def _read(self, text: bytearray, *, own: bool) -> None:
        """Take the lines that are complete, of the watcher of this image or of the one before."""
        *lines, text[:] = text.split(b"\n")
        for line in map(bytes, lines):
            try:
                said = codec.parsed_object(line)
            except DecodeError:
                log.debug("reload: the watcher says %r", line)  # a sitecustomize that prints, say
            else:
                self._hear(said, own=own)

    def _hear(self, said: dict[str, Any], *, own: bool) -> None:
        if "watching" in said:
            if own:  # what that of the image before has seen it is about to tell
                self._server.loop.call_later(_LINGER, self._dismiss)
            log.info("reload: watching the Python source in %s", ", ".join(said["watching"]))
        elif "failed" in said:
            log.error("reload: can't watch files: %s", said["failed"])
        elif "changed" in said and not self._server.stopping():
            files = said["changed"]
            more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
            log.info("reload: changed: %s%s", ", ".join(files[:_LISTED]), more)
            if _imported().isdisjoint(files) and not self._server.upgrades():
                self._server.reload()
            else:
                self._upgrade()

    def _upgrade(self) -> None:
        """Have all of it executed anew, now or when that can be begun."""
        self._due = self._upgrading or not self._server.goal.ready
        if not self._due:
            self._upgrading = self._server.upgrade()


def _imported() -> set[str]:
    """The files of the modules that this process has imported."""
    return {os.path.realpath(file) for _, file in having("__file__") if isinstance(file, str)}
