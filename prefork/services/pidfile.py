"""The pidfile: the master's process id in a file, for scripts that send signals.

What the file says may be wrong: a server that was killed leaves it behind, and its number may be another process's by
now. So the master holds a lock on the file (flock(2)) as long as it lives, over the exec of an upgrade too: a locked
one is a living server's and refused, any other is stale and replaced. The lock counts only while the path names the
file that was locked, and only the holder of a lock that counts removes the file. A file that holds anything but a
number was never a pidfile: it is somebody's, and neither written to nor removed.

A successor that takes a living server's place (``takeover``) puts a file of its own over that server's when it serves,
and so leaves the predecessor nothing to remove. It takes no number's word for who that is: :func:`locked_by` asks
the kernel who has the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.supervisor import notifications
from prefork.supervisor.notifications import Notification
from prefork.supervisor.service import ServerView, Service
from prefork.system.guarded_path import Spot, reach
from prefork.system.natives import os
from prefork.system.need import WRITABLE, told

log = logging.getLogger("prefork")

_MODE: Final = 0o644
_PID: Final = re.compile(rb"\s*[0-9]{0,10}\s*")  # what a pidfile may hold; nothing if its writer had no time
_MOST: Final = 64  # bytes of a pidfile that are looked at
_MOST_LOOKS: Final = 1000  # at a name that is another file each time; starts and ends of servers are such looks
_NO_PIDFILE: Final = "holds something else than a process id"


class Pidfile(Service):
    """The pidfile of one server.

    Args:
        path: where.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._inherits = False

    def check(self, settings: Settings) -> None:  # noqa: ARG002  # others need them
        """Find out whether the file could be taken.

        Raises:
            SettingsError: it can't be written, or is no pidfile.
        """
        with _named(self._path), reach(self._path, follow=False) as spot:
            if spot.found is None:
                spot.check_room()
                return
            self._check_plain(spot.found)
            fd = spot.open(os.O_RDWR)
            try:
                found = os.fstat(fd)
                self._check_plain(found)
                spot.believe(found)
                self._check_text(fd)
            finally:
                os.close(fd)

    def attach(self, server: ServerView) -> None:
        """Take the file, or wait for the moment when it is to be taken over.

        Raises:
            SettingsError: it is a living server's, or can't be written.
        """
        self._path = os.path.abspath(self._path)  # the working directory is the application's to change
        self._loop = server.loop
        with _named(self._path):
            if self._goes_on():
                return
            held_by = self._take()
        if held_by is None:
            return
        if not server.settings.takeover:
            raise SettingsError(
                f"pidfile: {self._path!r} is a living server's, pid {held_by}; stop it, or name another file"
            )
        self._inherits = True

    def notify(self, notification: Notification) -> None:
        """When a successor serves, the file becomes its own."""
        if isinstance(notification, notifications.Serving) and self._inherits:
            self._inherits = False
            try:
                self._replace()
            except OSError as error:
                log.error("pidfile: %r can't be replaced: %s", self._path, error.strerror)

    def after_fork(self, slot: int, generation: int) -> None:  # noqa: ARG002  # others need them
        """WORKER. The descriptor, and with it our hold on the lock, was closed with the loop's."""
        self._fd = -1

    def keep(self) -> Sequence[int]:
        """The locked descriptor: were it closed by the exec, whoever starts in that moment could have the file."""
        return () if self._fd < 0 else (self._fd,)

    def receive(self, kept: Sequence[int]) -> None:
        """Go on with the lock of the image before."""
        (self._fd,) = kept

    def _goes_on(self) -> bool:
        """Whether the file is the one that the image before has locked; if that was another, give it back."""
        if self._fd < 0:
            return False
        found = os.fstat(self._fd)
        with reach(self._path, follow=False) as spot:
            if spot.names(found):
                self._loop.descriptors.add(self._fd)
                return True
        with contextlib.suppress(OSError), reach(os.readlink(f"/proc/self/fd/{self._fd}"), follow=False) as spot:
            if spot.names(found):
                spot.unlink()  # the new code names another
        os.close(self._fd)
        self._fd = -1
        return False

    def detach(self) -> None:
        """Remove the file if it is still ours."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError), reach(self._path, follow=False) as spot:
            if spot.names(os.fstat(self._fd)):
                spot.unlink()
        self._loop.descriptors.discard(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _take(self) -> str | None:
        """Lock the file and write it; what stands in it when somebody else has the lock."""
        for _ in range(_MOST_LOOKS):
            with reach(self._path, follow=False) as spot, contextlib.ExitStack() as stack:
                if spot.found is not None:
                    self._check_plain(spot.found)  # before it is opened, of which a device may make something
                made = spot.found is None
                try:
                    fd = spot.open(os.O_RDWR | (os.O_CREAT | os.O_EXCL if made else 0), _MODE)
                except (FileExistsError, FileNotFoundError):
                    continue  # it came or went between our two steps
                stack.callback(os.close, fd)
                found = os.fstat(fd)
                self._check_plain(found)
                spot.believe(found)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return os.pread(fd, 32, 0).split(b"\n")[0].decode(errors="replace")
                except OSError:
                    if made:
                        spot.unlink()  # on a file system without locks, where nobody has it
                    raise
                if not spot.names(found):
                    continue  # its holder has removed it between our two steps
                self._check_text(fd)
                self._write(fd, spot if made else None)
                stack.pop_all()
                return None
        raise OSError(errno.EAGAIN, "it is another file at each look")

    def _check_plain(self, found: os.stat_result) -> None:
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise SettingsError(f"pidfile: {self._path!r} is not a plain file; name another")

    def _check_text(self, fd: int) -> None:
        if not _PID.fullmatch(os.pread(fd, _MOST, 0)):
            raise SettingsError(f"pidfile: {self._path!r} {_NO_PIDFILE}; name another file")

    def _replace(self) -> None:
        """Put a file of our own over the one that is there."""
        with reach(self._path, follow=False) as spot:
            if spot.found is not None:
                _check_pidfile(spot)
            new = spot.beside(f".prefork-{os.urandom(8).hex()}")
            fd = new.open(os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._write(fd, new)
                os.rename(new.name, spot.name, src_dir_fd=new.folder, dst_dir_fd=spot.folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    new.unlink()
                self._forget()
                os.close(fd)
                raise

    def _write(self, fd: int, made: Spot | None) -> None:
        """Fill the file, and from then on hold it; ``made`` is where it was made, None if it was there before."""
        text = b"%d\n" % os.getpid()
        try:
            # Cut afterwards: whoever reads the first line meanwhile finds a number, the old one or ours.
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
        except OSError:
            if made is not None:
                made.unlink()  # a full disk, say
            raise
        self._fd = fd
        self._loop.descriptors.add(fd)

    def _forget(self) -> None:
        self._loop.descriptors.discard(self._fd)
        self._fd = -1


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Say of which setting it is that a file can't be written."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"pidfile: {path!r} can't be written: {told(error, WRITABLE)}") from None


def _check_pidfile(spot: Spot) -> None:
    """Refuse what is no pidfile.

    Raises:
        OSError: it is something else.
    """
    fd = spot.open(os.O_RDONLY)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not _PID.fullmatch(os.pread(fd, _MOST, 0)):
            raise OSError(errno.EEXIST, f"it {_NO_PIDFILE}")
    finally:
        os.close(fd)
