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

**The file is complete before it has its name.** The socket is bound to ``path.new``, gets its owner, listens, and is
then renamed over ``path`` (rename(2) replaces in one step): no client meets a file that refuses it for a moment, or
that it may not yet open. Under the lock the temporary name is ours, so what lies there is of a process that died. The
socket's own name remains the temporary one, and that is what getsockname(2) and ss(8) show.

**Nobody else has a hand in it.** The folder is reached once and held (`prefork.system.guarded_path`). The mode is set
on the socket before it is bound, which then makes a file of that mode (unix(7)). Where others may write to the folder
``path.new`` is a folder of our own, that nobody else may enter, and the file is made and given away in there: by its
name among theirs, somebody could put another file in its place before it changes hands.

**A name of ours is never what is too long.** What has no room in an address of 108 bytes is reached by a descriptor
(``/proc/self/fd/N``, proc(5)): the folder's, with a short name behind it, or the socket's own (O_PATH) to connect to.

**Ours means device and inode.** An open socket keeps its inode, so the number can't be given to another file as long as
we listen: when both are the same at the end, it is our file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import pwd
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from prefork.config.address import Address
from prefork.errors import ListenError
from prefork.net import port_owner
from prefork.net.options import SocketOptions
from prefork.net.unixsocket import PATH_BYTES, UnixSocket
from prefork.system.guarded_path import Spot, reach
from prefork.system.natives import os, socket, time

_log: Final = logging.getLogger("prefork")

_LOCK_SECONDS: Final = 5.0  # taking and giving up last milliseconds; beyond this the holder is stopped or stuck
_LOCK_POLL_SECONDS: Final = 0.01
_NOBODY: Final = 2**32 - 1  # (uid_t) -1 leaves the owner as it is (chown(2)), and there is none above
_INNER: Final = "s"  # the socket's name in the folder of our own


class FileId(NamedTuple):
    """What a file is, whatever its name: the device it lies on and its inode."""

    device: int
    inode: int


def take(address: Address, *, backlog: int, options: SocketOptions) -> tuple[UnixSocket, FileId]:
    """Bind and listen on a path.

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
    path = address.file
    with _locked(path) as spot:
        _check_free(spot, address)
        sock = UnixSocket()
        sock.socket(address.type)
        try:
            file_id = _make(sock, spot, address, owner, options.mode, backlog)
        except BaseException:
            sock.close()
            raise
    return sock, file_id


def check(address: Address, options: SocketOptions) -> None:
    """Find out whether `take` could take a path, and make nothing.

    Args:
        address: Of kind "unix".
        options: Of these user and group.

    Raises:
        ListenError: As `take`; InUseError when somebody listens there.
        OSError: As `take`.
    """
    owner = _owner(options)
    if os.geteuid() != 0 and not (owner[0] in {-1, os.geteuid()} and owner[1] in {-1, os.getegid(), *os.getgroups()}):
        raise _not_given(address)
    path = address.file
    with reach(path, follow=False) as spot:
        lock = spot.beside(f"{spot.name}.lock").look()
        if lock is None:
            spot.check_room()
        else:
            _check_lock(lock, path)
        _check_temporary(_beside(spot, path), address)
        _check_free(spot, address)


def give_up(path: str, file_id: FileId) -> bool:
    """Remove a path when it is still the file that `take` made.

    Returns:
        Whether it was ours and is gone now.

    Raises:
        ListenError: The lock can't be had.
        OSError: The kernel refused to remove it.
    """
    try:
        with _locked(path) as spot:
            if _identify(spot) != file_id:
                return False
            spot.unlink()
    except (FileNotFoundError, NotADirectoryError):  # it has gone, by itself or with the folder that it was in
        return False
    return True


def fits(path: str) -> bool:
    """Whether an address has room for a path. Pure."""
    return len(os.fsencode(path)) <= PATH_BYTES


def connect(sock: socket.socket, path: str) -> None:
    """Connect to a path of any length, and to what lies there when we look. Any process.

    Args:
        sock: A unix socket.
        path: The path, which may be longer than an address.

    Raises:
        OSError: As connect(2).
    """
    if fits(path):
        sock.connect(path)
        return
    there = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{there}")
    finally:
        os.close(there)


class Claim:
    """A path that we took, to be given up once; by the process that made this and by no child of it.

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
def _locked(path: str) -> Iterator[Spot]:
    """Reach the path and hold ``path.lock``, removed in the end. The rule of the module's docstring is here."""
    deadline = time.monotonic() + _LOCK_SECONDS
    with reach(path, follow=False) as spot:
        named = spot.beside(f"{spot.name}.lock")
        while True:
            lock = named.open(os.O_RDWR | os.O_CREAT)
            try:
                found = os.fstat(lock)
                _check_lock(found, path)
                try:
                    in_time = _lock_in_time(lock, deadline)
                except OSError:
                    with contextlib.suppress(OSError):
                        named.unlink()  # on a file system without locks, where nobody has it
                    raise
                if not in_time:
                    raise ListenError(
                        f"bind: unix:{path}: another process holds {path}.lock; "
                        "end it, or remove that file when none does"
                    )
                if not named.names(found):
                    continue
                try:
                    yield spot
                finally:
                    with contextlib.suppress(FileNotFoundError):  # somebody who knows no rules was faster
                        named.unlink()
                return
            finally:
                os.close(lock)


def _check_lock(found: os.stat_result, path: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(found.st_mode) or found.st_size or found.st_nlink > 1:
        raise ListenError(f"bind: unix:{path}: {path}.lock is in the way; remove it")


def _lock_in_time(lock: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOCK_POLL_SECONDS)


def _identify(spot: Spot) -> FileId:
    found = os.lstat(spot.name, dir_fd=spot.folder)
    return FileId(found.st_dev, found.st_ino)


def _check_free(spot: Spot, address: Address) -> None:
    """Refuse a path that is not a socket's or whose socket is alive; a dead one's file is there to be replaced."""
    found = spot.look()
    if found is None:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(f"bind: {address}: the path is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, address.type) as probe:
        probe.setblocking(False)
        try:
            _reach_socket(probe, spot)
            by = port_owner.of_peer(probe, address.file)
        except BlockingIOError:
            by = port_owner.of_unix(address.file)  # its queue is full: nobody is more alive
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            by = port_owner.of_unix(address.file)  # somebody's, and of another type
    raise port_owner.in_use(address, by, "path")


def _reach_socket(probe: socket.socket, spot: Spot) -> None:
    there = os.open(spot.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=spot.folder)
    try:
        probe.connect(f"/proc/self/fd/{there}")
    finally:
        os.close(there)


def _make(
    sock: UnixSocket, spot: Spot, address: Address, owner: tuple[int, int], mode: int | None, backlog: int
) -> FileId:
    """Make the file under its temporary name, finish it, and rename it into place."""
    with _temporary(spot, address) as new:
        _bind(sock, new, mode, address.file)
        try:
            if owner != (-1, -1):
                _give(new, owner, address)
            sock.listen(backlog)
            file_id = _identify(new)
            os.rename(new.name, spot.name, src_dir_fd=new.folder, dst_dir_fd=spot.folder)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
    return file_id


@contextlib.contextmanager
def _temporary(spot: Spot, address: Address) -> Iterator[Spot]:
    """Where the file is made; nothing lies there."""
    new = _beside(spot, address.file)
    found = _check_temporary(new, address)
    if found is not None and stat.S_ISDIR(found.st_mode):
        with _inside(new) as inner, contextlib.suppress(FileNotFoundError):
            inner.unlink()
        os.rmdir(new.name, dir_fd=new.folder)
    elif found is not None:
        new.unlink()
    if not spot.exposed:
        yield new
        return
    os.mkdir(new.name, 0o700, dir_fd=new.folder)
    try:
        with _inside(new) as inner:
            yield inner
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(new.name, dir_fd=new.folder)


def _beside(spot: Spot, path: str) -> Spot:
    """The temporary name."""
    new = spot.beside(f"{spot.name}.new")
    if _address_of(new, path) is None:
        # The same at each start, so that what a crash has left is found; and no other path's.
        import hashlib

        new.name = f".{hashlib.sha256(os.fsencode(spot.name)).hexdigest()[:16]}.new"
    return new


def _check_temporary(new: Spot, address: Address) -> os.stat_result | None:
    """What lies at the temporary name, if that is what a start of ours has left."""
    found = new.look()
    if found is None or stat.S_ISSOCK(found.st_mode):
        return found
    if stat.S_ISDIR(found.st_mode) and new.exposed and found.st_uid == os.geteuid():
        return found
    shown = os.path.join(os.path.dirname(address.path), new.name)
    raise ListenError(f"bind: {address}: {shown} is in the way; remove it")


@contextlib.contextmanager
def _inside(folder: Spot) -> Iterator[Spot]:
    """A name in a folder of our own, which nobody else may enter."""
    fd = folder.open(os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(errno.EPERM, f"{folder.name} was exchanged by another user")
        yield Spot(fd, _INNER, exposed=False, found=None)
    finally:
        os.close(fd)


def _give(new: Spot, owner: tuple[int, int], address: Address) -> None:
    try:
        os.chown(new.name, *owner, dir_fd=new.folder, follow_symlinks=False)
    except PermissionError:
        raise _not_given(address) from None


def _not_given(address: Address) -> ListenError:
    return ListenError(
        f"bind: {address}: only root may give a file to another user or group; "
        "leave socket_user and socket_group out, or start as root"
    )


def _bind(sock: UnixSocket, new: Spot, mode: int | None, path: str) -> None:
    """Bind to the temporary name, and so make its file, with its mode from the beginning."""
    name = _address_of(new, path)
    assert name is not None  # a short one was chosen
    if mode is None:
        sock.bind(name)
        return
    os.fchmod(sock.fileno(), mode)
    umask = os.umask(0)
    try:
        sock.bind(name)
    finally:
        os.umask(umask)


def _address_of(new: Spot, path: str) -> str | None:
    """What bind(2) is to be told for a name in the folder of ``path``; None when the name is too long for that.

    The path is what others are shown as the socket's name. But it is looked up once more, so it won't do where others
    could change it.
    """
    shown = os.path.join(os.path.dirname(path), new.name)
    by_descriptor = f"/proc/self/fd/{new.folder}/{new.name}"
    names = (by_descriptor,) if new.exposed or new.name == _INNER else (shown, by_descriptor)
    return next((name for name in names if fits(name)), None)


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
