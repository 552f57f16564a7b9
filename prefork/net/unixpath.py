"""A unix socket's path: taken so that no server steals a living one's, given up so that none removes another's.

The kernel makes a file when a socket is bound to a path and never removes it (unix(7)). A server that starts must tell
a file that a dead one left from one that somebody listens on, and a server that ends must not remove the file of its
successor. Between looking and acting others act too, so both happen under flock(2) on ``path.lock``.

**The lock lives as long as it is held.** It is there for the moment of taking or giving up, not for the server's
life, and is removed by whoever holds it; so a clean end leaves nothing, and kill -9 between two such moments leaves
nothing either. Removing a lock file is the classical mistake with flock: A holds it, B has opened it and waits, A
removes it and lets go, B gets the lock on a file that has no name, C makes a new file and holds a lock as well. Hence
the rule here: *a lock counts only while its path names the file that was locked*. Whoever gets the flock compares
both, and starts again when they differ. That is enough, because the name is removed by the holder of a lock that
counts, and by nobody else: as long as one process holds it, the name stays, and all others wait on the same file. A
process that dies in between leaves the file; its flock is gone, and the next one uses and removes the file.

**The file is complete before it has its name.** The socket is bound to ``path.new``, gets its owner and mode,
listens, and is then renamed over ``path`` (rename(2) replaces in one step): no client meets a file that refuses it
for a moment, or that it may not yet open. Under the lock the temporary name is ours, so what lies there is of a
process that died. The socket's own name remains the temporary one, and that is what getsockname(2) and ss(8) show.

**Ours means device and inode.** An open socket keeps its inode, so the number can't be given to another file as long as
we listen: when both are the same at the end, it is our file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import pwd
import stat
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from prefork.address import Address
from prefork.errors import ListenError
from prefork.natives import socket
from prefork.net import holder
from prefork.net.options import SocketOptions

_log: Final = logging.getLogger("prefork")

_LOCK_SECONDS: Final = 5.0  # taking and giving up last milliseconds; beyond this the holder is stopped or stuck
_LOCK_POLL_SECONDS: Final = 0.01
_NOBODY: Final = 2**32 - 1  # (uid_t) -1 leaves the owner as it is (chown(2)), and there is none above
_PATH_BYTES: Final = 107  # sun_path without its closing NUL (unix(7))


class FileId(NamedTuple):
    """What a file is, whatever its name: the device it lies on and its inode."""

    device: int
    inode: int


def take(address: Address, *, backlog: int, options: SocketOptions) -> tuple[socket.socket, FileId]:
    """Bind and listen on a path. MASTER.

    Args:
        address: Of kind "unix".
        backlog: The length of the accept queue, in connections.
        options: Of these mode, user and group.

    Returns:
        The listening socket, and what its file is, for `give_up`.

    Raises:
        ListenError: Something else lies there, somebody listens there, or the lock or the owner can't be had.
        OSError: The kernel refused a step.
    """
    owner = _owner(options)
    path = address.path
    with _locked(path):
        _check_free(address)
        sock = socket.socket(socket.AF_UNIX, address.type)
        try:
            sock.settimeout(None)
            file_id = _make(sock, path, owner, options.mode, backlog)
        except BaseException:
            sock.close()
            raise
    return sock, file_id


def give_up(path: str, file_id: FileId) -> bool:
    """Remove a path when it is still the file that `take` made. MASTER.

    Returns:
        Whether it was ours and is gone now.

    Raises:
        ListenError: The lock can't be had.
        OSError: The kernel refused to remove it.
    """
    with _locked(path):
        try:
            if _identify(path) != file_id:
                return False
            os.unlink(path)
        except FileNotFoundError:
            return False
    return True


class Claim:
    """MASTER. A path that we took, to be given up once; by the process that made this and by no child of it.

    Args:
        path: The path, from where the process is now.
        file_id: What `take` made there.

    Attributes:
        file_id: The same; None once the path is given up.
    """

    def __init__(self, path: str, file_id: FileId) -> None:
        self.file_id: FileId | None = file_id
        self._path = os.path.abspath(path)  # the working directory may change before the end
        self._pid = os.getpid()

    @property
    def held(self) -> bool:
        """Whether the path may still lead to us."""
        return self.file_id is not None

    def release(self) -> bool:
        """Remove the path, while it is still the file that we made.

        Returns:
            Whether a file of ours was removed; when that fails, the log says why.
        """
        if self.file_id is None or os.getpid() != self._pid:
            return False
        try:
            removed = give_up(self._path, self.file_id)
        except (ListenError, OSError) as error:
            _log.warning("can't remove %s: %s", self._path, error)
            return False
        self.file_id = None
        return removed


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold ``path.lock``, and remove it in the end. The rule of the module's docstring is here."""
    name = path + ".lock"
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not _lock_in_time(lock, deadline):
                raise ListenError(
                    f"bind: unix:{path}: another process holds {name}; end it, or remove that file when none does"
                )
            if not _names(name, lock):
                continue
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):  # somebody who knows no rules was faster
                    os.unlink(name)
            return
        finally:
            os.close(lock)


def _lock_in_time(lock: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOCK_POLL_SECONDS)


def _names(name: str, lock: int) -> bool:
    """Whether the file that was locked still has its name."""
    held = os.fstat(lock)
    try:
        return _identify(name) == FileId(held.st_dev, held.st_ino)
    except FileNotFoundError:
        return False


def _identify(path: str) -> FileId:
    found = os.lstat(path)
    return FileId(found.st_dev, found.st_ino)


def _check_free(address: Address) -> None:
    """Refuse a path that is not a socket's or whose socket is alive; a dead one's file is there to be replaced."""
    try:
        mode = os.lstat(address.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"bind: {address}: the path is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, address.type) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
            by = holder.of_peer(probe, address.path)
        except BlockingIOError:
            by = holder.of_unix(address.path)  # its queue is full: nobody is more alive
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            by = holder.of_unix(address.path)  # somebody's, and of another type
    raise holder.in_use(address, by, "path")


def _make(sock: socket.socket, path: str, owner: tuple[int, int], mode: int | None, backlog: int) -> FileId:
    """Make the file under its temporary name, finish it, and rename it into place."""
    name = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(name).st_mode):
            raise ListenError(f"bind: unix:{path}: {name} is in the way; remove it")
        os.unlink(name)
    _bind(sock, name)
    try:
        if owner != (-1, -1):
            _give(name, owner)
        if mode is not None:
            os.chmod(name, mode)
        sock.listen(backlog)
        file_id = _identify(name)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return file_id


def _give(name: str, owner: tuple[int, int]) -> None:
    try:
        os.chown(name, *owner)
    except PermissionError:
        raise ListenError(
            f"bind: unix:{name.removesuffix('.new')}: only root may give a file to another user or group; "
            "leave socket_user and socket_group out, or start as root"
        ) from None


def _bind(sock: socket.socket, name: str) -> None:
    """Bind to a path that may be too long for an address because of the temporary name's ending."""
    if len(os.fsencode(name)) <= _PATH_BYTES:
        sock.bind(name)
        return
    folder, base = os.path.split(name)
    descriptor = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{descriptor}/{base}")
    finally:
        os.close(descriptor)


def _owner(options: SocketOptions) -> tuple[int, int]:
    """The numbers of the user and group that the file is to belong to; -1 leaves one as it is (chown(2))."""
    uid = gid = -1
    try:
        if options.user:
            uid = _number(options.user) if options.user.isdecimal() else pwd.getpwnam(options.user).pw_uid
    except KeyError:
        raise ListenError(
            f"socket_user: {options.user!r} is no user of this machine; give a name or a number"
        ) from None
    try:
        if options.group:
            gid = _number(options.group) if options.group.isdecimal() else grp.getgrnam(options.group).gr_gid
    except KeyError:
        raise ListenError(
            f"socket_group: {options.group!r} is no group of this machine; give a name or a number"
        ) from None
    return uid, gid


def _number(text: str) -> int:
    if int(text) >= _NOBODY:
        raise KeyError(text)
    return int(text)
