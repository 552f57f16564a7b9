"""The pidfile: the master's process id in a file, for scripts that send signals.

What the file says may be wrong: a server that was killed leaves it behind, and its number may be another process's by
now. So the master holds a lock on the file (flock(2)) as long as it lives: a locked one is a living server's and
refused, any other is stale and replaced. The lock counts only while the path names the file that was locked, and only
the holder of a lock that counts removes the file.

A successor that takes a living server's place (``takeover``) puts a file of its own over that server's when it serves,
and so leaves the predecessor nothing to remove. All of it runs in the MASTER.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
from typing import Final

from prefork import windows
from prefork.errors import SettingsError
from prefork.windows import Inside, News, Window

log = logging.getLogger("prefork")

_MODE: Final = 0o644


class Pidfile(Window):
    """MASTER. The pidfile of one server.

    Args:
        path: where.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._inherits = False

    def attach(self, inside: Inside) -> None:
        """Take the file, or wait for the moment when it is to be taken over.

        Raises:
            SettingsError: it is a living server's, or can't be written.
        """
        self._path = os.path.abspath(self._path)  # the working directory is the application's to change
        self._loop = inside.loop
        try:
            held_by = self._take()
        except OSError as error:
            raise SettingsError(f"pidfile: {self._path!r} can't be written: {error.strerror}") from None
        if held_by is None:
            return
        if not inside.settings.takeover:
            raise SettingsError(
                f"pidfile: {self._path!r} is a living server's, pid {held_by}; stop it, or name another file"
            )
        self._inherits = True

    def told(self, news: News) -> None:
        """When a successor serves, the file becomes its own."""
        if isinstance(news, windows.Serving) and self._inherits:
            self._inherits = False
            try:
                self._replace()
            except OSError as error:
                log.error("pidfile: %r can't be replaced: %s", self._path, error.strerror)

    def after_fork(self, slot: int, generation: int) -> None:  # noqa: ARG002  # others need them
        """WORKER. The descriptor, and with it our hold on the lock, was closed with the loop's."""
        self._fd = -1

    def detach(self) -> None:
        """Remove the file if it is still ours."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if _names(self._path, self._fd):
                os.unlink(self._path)
        self._loop.descriptors.discard(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _take(self) -> str | None:
        """Lock the file and write it; what stands in it when somebody else has the lock."""
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, _MODE)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise SettingsError(f"pidfile: {self._path!r} is not a plain file; name another")
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _names(self._path, fd):
                    os.close(fd)
                    continue  # its holder has removed it between our two steps
                self._write(fd, self._path)
            except BlockingIOError:
                said = os.pread(fd, 32, 0).split(b"\n")[0].decode(errors="replace")
                os.close(fd)
                return said
            except BaseException:
                os.close(fd)
                raise
            return None

    def _replace(self) -> None:
        """Put a file of our own over the one that is there."""
        name = f"{self._path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(fd, name)
            os.rename(name, self._path)
        except BaseException:
            os.close(fd)
            raise

    def _write(self, fd: int, path: str) -> None:
        text = b"%d\n" % os.getpid()
        try:
            # Cut afterwards: whoever reads the first line meanwhile finds a number, the old one or ours.
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
        except OSError:
            os.unlink(path)  # a full disk, say; what is locked is ours to remove
            raise
        self._fd = fd
        self._loop.descriptors.add(fd)


def _names(path: str, fd: int) -> bool:
    """Whether ``path`` names the file that is open as ``fd``."""
    held = os.fstat(fd)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)
