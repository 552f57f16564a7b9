"""A file that is reached by its name, where others may change what the name means.

Root opens a log, binds a socket, writes a pidfile by a name that it was given. Whoever may write to a folder on the way
can lead it elsewhere, between two looks too: with a symbolic link, a hard link, a FIFO, another folder. So a name is
walked, one folder after the other, each held by a descriptor (openat(2) with O_NOFOLLOW), and what is done in the end
is done in the folder that was reached (``dir_fd``), never by the whole name again.

**Exposed** is a name that another than root or ourselves may change: its folder is another's, or others may write to
it, by an access control list as well (acl(5)), and no sticky bit (unlink(2)) keeps them from this file. Of such a name
little is believed:

* Root follows a link there when it is root's, and no second name leads to it. Another's it follows only into a folder
  of that other's own, where it gives him nothing that he has not; and no link of proc(5) that stands for a descriptor
  of another's process, which opens anew, as root, what that other could only name (open(2), O_PATH). Who is not root
  follows what the kernel lets him (proc(5), protected_symlinks).
* What lies there already must be a plain file with one name (or a FIFO). For root it must be root's, the folder's
  owner's or the workers' user's; and root's only if it is empty, when it is to be given to the latter. So no hard link
  is written to, and no file of root's that was moved there is given away.

Links that nobody else can change, as ``/var/log/shop -> /data/log``, lead where they lead.

Any process; what it believes depends on its effective user at that moment.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prefork.system.natives import os
from prefork.system.record import MutableRecord

_MOST_LINKS: Final = 40  # as the kernel (path_resolution(7))
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_THING: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT: Final = 0

Owner = tuple[int, int]
"""A user's and a group's number."""


class Spot(MutableRecord):
    """Where a name leads: a folder and a name in it. What is done to it follows no link and no other way.

    Attributes:
        folder: the folder's descriptor (O_PATH); closed by whoever made this.
        name: the name in it.
        exposed: whether another than root or ourselves may have changed what the whole name leads to.
        found: what is there; None for nothing.
        descriptor: whether this is a link in proc(5) that stands for an open descriptor.
    """

    folder: int
    name: str
    exposed: bool
    found: os.stat_result | None
    descriptor: bool = False

    def look(self) -> os.stat_result | None:
        """What is there now (lstat(2)); None for nothing."""
        try:
            return os.lstat(self.name, dir_fd=self.folder)
        except FileNotFoundError:
            return None

    def open(self, flags: int, mode: int = 0o600) -> int:
        """Open it, close-on-exec, without waiting for anybody and without following a link.

        Args:
            flags: as open(2) has them, beside O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK and O_NOCTTY.
            mode: of a file that is made.

        Raises:
            OSError: as open(2).
        """
        always = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(self.name, flags | always, mode, dir_fd=self.folder)

    def check_room(self) -> None:
        """Find out whether a file could be made here, without making one (access(2)).

        Raises:
            OSError: not by us, or in no folder of this file system.
        """
        if os.fstatvfs(self.folder).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=self.folder, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def unlink(self) -> None:
        """Remove it (unlink(2))."""
        os.unlink(self.name, dir_fd=self.folder)

    def names(self, found: os.stat_result) -> bool:
        """Whether the name is that file's."""
        now = self.look()
        return now is not None and os.path.samestat(now, found)

    def beside(self, name: str) -> Spot:
        """Another name in the same folder."""
        return Spot(self.folder, name, self.exposed, None)

    def believe(self, found: os.stat_result, owner: Owner | None = None) -> None:
        """Refuse a file that may have been put here to have us write to what is not its maker's.

        Args:
            found: the open file's, from fstat(2).
            owner: whose it may be beside ours.

        Raises:
            OSError: it is such a file; ``strerror`` says why.
        """
        if not self.exposed:
            return
        if stat.S_ISREG(found.st_mode) and found.st_nlink != 1:
            raise OSError(errno.EMLINK, "others may write to its folder, and the file has another name as well")
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
            raise OSError(errno.EPERM, "others may write to its folder, and it is not a plain file")
        if os.geteuid() != _ROOT or (owner is not None and found.st_uid == owner[0]):
            return
        if found.st_uid not in {_ROOT, os.fstat(self.folder).st_uid}:
            raise OSError(errno.EPERM, f"others may write to its folder, and the file is uid {found.st_uid}'s")
        if owner is not None and found.st_uid == _ROOT and found.st_size:
            # An empty one has nothing that could be spoilt or read. A full one may be any of root's in that folder.
            raise OSError(
                errno.EPERM, f"others may write to its folder, and the file is root's; give it to uid {owner[0]}"
            )


@contextlib.contextmanager
def reach(path: str, *, follow: bool = True) -> Iterator[Spot]:
    """Walk to where ``path`` leads; the folder stays open for the block.

    Args:
        path: absolute, or from the working directory.
        follow: whether the last part may be a link. If not, one is what is found.

    Raises:
        OSError: a folder is missing or may not be entered, or a link may not be followed; ``strerror`` says why.
    """
    walk = _Walk(path, follow=follow)
    try:
        yield walk.spot()
    finally:
        os.close(walk.folder)


class _Walk:
    """A walk along a path.

    Args:
        path: which.
        follow: whether its last part may be a link.

    Attributes:
        folder: where it is now (O_PATH); closed by whoever made this.
    """

    def __init__(self, path: str, *, follow: bool) -> None:
        if not path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._todo = _parts(path) or ["."]
        self._follow = follow
        self._trusted = _trusted()
        self._exposed = False
        self._links = 0
        self._foreign: set[int] = set()  # who made the links that were followed though they could change them
        # What leads to the working directory is nobody's to change.
        self.folder = os.open("/" if path.startswith("/") else ".", _FOLDER)

    def spot(self) -> Spot:
        """Walk to the end.

        Raises:
            OSError: as :func:`reach`.
        """
        while True:
            found = self._step()
            if found is not None:
                if self._foreign - {os.fstat(self.folder).st_uid}:
                    raise OSError(
                        errno.ELOOP,
                        f"on its way is a symbolic link of uid {min(self._foreign)}'s, who could change it; "
                        "name the file that it leads to",
                    )
                return found

    def _step(self) -> Spot | None:
        """Go one part further; the spot when that was the last."""
        name, last = self._todo.pop(), not self._todo
        around = os.fstat(self.folder)
        try:
            thing = os.open(name, _THING, dir_fd=self.folder)
        except FileNotFoundError:
            if not last:
                raise
            return Spot(self.folder, name, self._exposed or self._changeable(around, None), None)
        try:
            found = os.fstat(thing)
            changeable = name not in {".", ".."} and self._changeable(around, found)
            self._exposed = self._exposed or changeable
            if stat.S_ISLNK(found.st_mode) and (self._follow or not last):
                self._judge(found, changeable=changeable)
                if not _is_descriptor(around, name):
                    self._turn(os.readlink("", dir_fd=thing))
                elif os.geteuid() == _ROOT and around.st_uid not in self._trusted:
                    raise OSError(
                        errno.ELOOP,
                        f"on its way is a descriptor of a process of uid {around.st_uid}'s, of any file that he could "
                        "name; name the file that it leads to",
                    )
                elif last:
                    return Spot(self.folder, name, self._exposed, found, descriptor=True)
                else:
                    self._enter(name, self.folder)
            elif last:
                return Spot(self.folder, name, self._exposed, found)
            else:
                if not stat.S_ISDIR(found.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                # In the other's place: who gives up what it has may have no third descriptor for the way.
                os.dup2(thing, self.folder, inheritable=False)
        finally:
            os.close(thing)
        return None

    def _changeable(self, around: os.stat_result, found: os.stat_result | None) -> bool:
        """Whether another could have a name in the folder mean another file, this one now (None: one of ours)."""
        if around.st_uid not in self._trusted:
            return True
        if not others_may_write(around, f"/proc/self/fd/{self.folder}"):
            return False
        if not around.st_mode & stat.S_ISVTX:
            return True
        # He could neither remove it nor put another in its place; but a second name of some other file he could make.
        second = found is not None and not stat.S_ISDIR(found.st_mode) and found.st_nlink != 1
        return second or (found is not None and found.st_uid not in self._trusted)

    def _judge(self, link: os.stat_result, *, changeable: bool) -> None:
        """Refuse to follow a link, or note whose it is."""
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not changeable or os.geteuid() != _ROOT:
            return
        if link.st_uid not in self._trusted:
            self._foreign.add(link.st_uid)
        elif link.st_nlink != 1:
            raise OSError(errno.ELOOP, "others may change its way, on which is a symbolic link with two names")

    def _turn(self, target: str) -> None:
        """Go where a link leads."""
        if target.startswith("/"):
            self._enter("/", self.folder)
        self._todo = self._todo + _parts(target) or ["."]

    def _enter(self, name: str, folder: int) -> None:
        entered = os.open(name, _FOLDER, dir_fd=folder)
        os.close(self.folder)
        self.folder = entered


def others_may_write(found: os.stat_result, path: str) -> bool:
    """Whether another than the owner and root may write to a file or folder, as mode and access control list have it.

    With a list the group's bits are what anybody named in it may have at the most, whoever the group is (acl(5)).

    Args:
        found: what is there.
        path: a way to it, which is looked at (getxattr(2)) where the mode alone does not tell.
    """
    if found.st_mode & stat.S_IWOTH:
        return True
    if not found.st_mode & stat.S_IWGRP:
        return False
    if found.st_gid != _ROOT:
        return True
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except OSError as error:
        return error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}


def _parts(path: str) -> list[str]:
    """The parts of a path, the first one last."""
    return [part for part in path.split("/") if part not in {"", "."}][::-1]


def _trusted() -> frozenset[int]:
    """Whom we believe: root and ourselves; and whoever has no number here, for he is outside (user_namespaces(7))."""
    return frozenset({_ROOT, os.geteuid(), *_outside()})


@functools.cache
def _outside() -> frozenset[int]:
    """The number that stands for all who have none here; nothing when it is a user's as well."""
    try:
        # As bytes: a codec may have to be imported, and who is not root may not be let to the standard library.
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_bytes())
        ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_bytes().splitlines()]
    except (OSError, ValueError):
        return frozenset()
    mapped = any(first <= overflow < first + count for first, _, count in ranges)
    return frozenset() if mapped else frozenset({overflow})


def _is_descriptor(folder: os.stat_result, name: str) -> bool:
    """Whether a link in that folder is one of proc(5)'s that stand for an open file, and not for a path."""
    try:
        return name.isdecimal() and folder.st_dev == os.stat("/proc/self/fd").st_dev
    except FileNotFoundError:
        return False
