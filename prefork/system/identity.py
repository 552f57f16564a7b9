"""Who a worker is: user, groups, capabilities, no_new_privs. Given up in the worker, for good, and checked afterwards.

The order matters, and each step needs a privilege that a later one takes away:

    capability bounding set    needs CAP_SETPCAP (capabilities(7))
    supplementary groups       needs CAP_SETGID (setgroups(2))
    group, then user           real, effective and saved (setresgid(2), setresuid(2))
    capabilities               all three sets and the ambient one, to nothing
    no_new_privs               nothing that is executed gets more (prctl(2))

The parent-death signal comes after all of it: a change of credentials clears it (prctl(2), PR_SET_PDEATHSIG).

The process is not dumpable afterwards (prctl(2), PR_SET_DUMPABLE): other processes of the same user can't attach to it
and reach the descriptors that root has opened. That is the kernel's doing, and is left as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import pwd
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prefork.errors import BootError, SettingsError
from prefork.system.natives import os
from prefork.system.record import Record

_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_NO_NEW_PRIVS: Final = 39
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_KILL: Final = 5
_MOST_CAPABILITIES: Final = 64
_NOBODY_S_BUSINESS: Final = 2**32 - 1  # (uid_t) -1 means "leave it alone" to setresuid(2)

_OF_A_LOGIN: Final = {"HOME": "pw_dir", "USER": "pw_name", "LOGNAME": "pw_name", "SHELL": "pw_shell"}
_RUNTIME: Final = "XDG_RUNTIME_DIR"

_libc = ctypes.CDLL(None, use_errno=True)


class Identity(Record):
    """What workers become.

    Attributes:
        uid: the user; None leaves user and capabilities.
        gid: the group; None leaves it.
        groups: the supplementary groups; None leaves them.
        no_new_privs: whether to give up gaining privileges by executing programs.
        environment: variables that say whose process it is, and what they are to say; None takes one away.
    """

    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None
    no_new_privs: bool
    environment: tuple[tuple[str, str | None], ...] = ()


def owner(identity: Identity | None) -> tuple[int, int] | None:
    """MASTER. Whose files are that workers of this identity must be able to open; None for the master's own user."""
    if identity is None or identity.uid is None or identity.gid is None:
        return None
    return identity.uid, identity.gid


def reaches(identity: Identity | None, path: str) -> bool:
    """MASTER. Whether workers of this identity may read a file, as far as modes say."""
    if identity is None or identity.uid is None:
        return True
    mode = 4
    while True:
        found = os.stat(path)
        shift = 0
        if found.st_uid == identity.uid:
            shift = 6
        elif found.st_gid in {identity.gid, *(identity.groups or ())}:
            shift = 3
        if not found.st_mode >> shift & mode:
            return False
        if path == os.path.dirname(path):
            return True
        path, mode = os.path.dirname(path), 1


def resolve(user: str, group: str, no_new_privs: str) -> Identity | None:
    """MASTER. What the settings of these names ask for.

    Args:
        user: name or number; "" leaves user and capabilities.
        group: name or number; "" is the user's own.
        no_new_privs: yes, no, or auto: with a user.

    Returns:
        None when they ask for nothing.

    Raises:
        SettingsError: no such user or group, root, or we may not become that, or not signal it afterwards (kill(2)).
    """
    entry = _user(user) if user else None
    gid = _group(group) if group else None
    if entry is not None and gid is None:
        if entry.gid is None:
            raise SettingsError(f"user: {user!r} has no entry in the user database; give group as well")
        gid = entry.gid
    groups: tuple[int, ...] | None = None
    if gid is not None:
        groups = tuple(os.getgrouplist(entry.name, gid)) if entry and entry.name else (gid,)
    uid = entry.uid if entry else None
    if os.geteuid() != 0:
        _refuse_others(user, uid, group, gid)
        gid = groups = None  # it is so already
        if not any(_capabilities()):
            uid = None  # and has nothing to give up; else it has, as root would (ambient capabilities, capabilities(7))
    elif uid is not None and not _capabilities()[0] >> _CAP_KILL & 1:
        raise SettingsError(
            f"user: without the capability CAP_KILL nobody can stop the workers of {user!r}; grant it "
            "(CapabilityBoundingSet=, --cap-add KILL), or start as that user"
        )
    locked = no_new_privs == "yes" or (no_new_privs == "auto" and bool(user))
    environment = tuple(_environment(uid, os.environ)) if uid not in {None, os.geteuid()} else ()
    return Identity(uid, gid, groups, locked, environment) if locked or uid is not None or gid is not None else None


def _environment(uid: int | None, environ: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """What is to become of the variables that are ours, as login(1) sets them; those that were given otherwise stay."""
    ours, theirs = _entry(os.geteuid()), _entry(uid)
    for name, field in _OF_A_LOGIN.items():
        own = getattr(ours, field, None)
        if environ.get(name, own) == own:
            yield name, getattr(theirs, field, None)
    folder = environ.get(_RUNTIME)
    if folder:
        with contextlib.suppress(OSError):
            if os.stat(folder).st_uid == uid:
                return
        yield _RUNTIME, None


def _entry(uid: int | None) -> pwd.struct_passwd | None:
    try:
        return None if uid is None else pwd.getpwuid(uid)
    except KeyError:
        return None


class _User(Record):
    uid: int
    gid: int | None = None
    name: str = ""


def _user(text: str) -> _User:
    try:
        found = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except (KeyError, OverflowError):
        if not text.isdecimal() or int(text) >= _NOBODY_S_BUSINESS:
            raise SettingsError(f"user: {text!r} is no user of this machine; give a name or a number") from None
        return _User(int(text))
    if found.pw_uid == 0:
        raise SettingsError(f"user: {text!r} is root and gives nothing up; name another user, or leave it out")
    return _User(found.pw_uid, found.pw_gid, found.pw_name)


def _group(text: str) -> int:
    if text.isdecimal() and int(text) < _NOBODY_S_BUSINESS:
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise SettingsError(f"group: {text!r} is no group of this machine; give a name or a number") from None


def _refuse_others(user: str, uid: int | None, group: str, gid: int | None) -> None:
    """Without root's privileges nobody can be anybody else; to be asked for what one is already is no mistake."""
    if uid is not None and uid != os.geteuid():
        raise SettingsError(f"user: only root can become {user!r}; start as root, or leave it out")
    if group and gid != os.getegid():
        raise SettingsError(f"group: only root can become {group!r}; start as root, or leave it out")


def assume(identity: Identity | None) -> None:
    """WORKER. Become ``identity``, for good.

    Args:
        identity: who; None changes nothing.

    Raises:
        BootError: a step failed, or there would be a way back.
    """
    if identity is None:
        return
    _leave_environment(identity)
    try:
        if identity.uid is not None:
            _drop_bounding_set()
        if identity.groups is not None:
            os.setgroups(identity.groups)
        if identity.gid is not None:
            os.setresgid(identity.gid, identity.gid, identity.gid)
        if identity.uid is not None:
            os.setresuid(identity.uid, identity.uid, identity.uid)
            _drop_capabilities()
        if identity.no_new_privs:
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise BootError(f"can't give up privileges: {error.strerror}; the worker does not start") from None
    way_back = _way_back(identity)
    if way_back:
        raise BootError(f"privileges are not given up: {way_back}; the worker does not start")


def _leave_environment(identity: Identity) -> None:
    """Leave the session and the variables of who we were."""
    if identity.uid not in {None, os.geteuid()} and os.getsid(0) != os.getpid():
        # Within a session, anybody may send SIGCONT to anybody (kill(2)), and have the terminal signal the others.
        os.setsid()
    for name, value in identity.environment:
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _way_back(identity: Identity) -> str:
    """What is left of the old identity, or could bring it back; "" for nothing."""
    if identity.uid is not None:
        if set(os.getresuid()) != {identity.uid}:
            return f"user ids are {os.getresuid()}"
        if any(_capabilities()):
            return "there are capabilities left"
        try:
            os.setresuid(-1, 0, -1)
        except PermissionError:
            pass
        else:
            return "it could become root again"
    if identity.gid is not None and set(os.getresgid()) != {identity.gid}:
        return f"group ids are {os.getresgid()}"
    if identity.groups is not None and set(os.getgroups()) != set(identity.groups):
        return f"supplementary groups are {os.getgroups()}"
    if identity.no_new_privs and _prctl(_PR_GET_NO_NEW_PRIVS) != 1:
        return "no_new_privs is not set"
    return ""


def _prctl(option: int, argument: int = 0) -> int:
    result: int = _libc.prctl(option, argument, 0, 0, 0)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _drop_bounding_set() -> None:
    """What a program with file capabilities could give at the most. Without CAP_SETPCAP it stays as it is."""
    for capability in range(_MOST_CAPABILITIES):
        try:
            if _prctl(_PR_CAPBSET_READ, capability):
                _prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # beyond the last one that this kernel knows
            if error.errno != errno.EPERM:
                raise
            return


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_Sets = ctypes.c_uint32 * 6  # effective, permitted, inheritable of the lower 32, then of the upper


def _drop_capabilities() -> None:
    try:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel before 4.3 has no ambient set
            raise
    _capability_call(_libc.capset, _Sets())


def _capabilities() -> tuple[int, ...]:
    """The three sets of this process (capget(2)), as words."""
    sets = _Sets()
    _capability_call(_libc.capget, sets)
    return tuple(sets)


def _capability_call(function: Any, sets: ctypes.Array[ctypes.c_uint32]) -> None:
    header = _Header(_CAPABILITY_VERSION_3, 0)
    if function(ctypes.byref(header), ctypes.byref(sets)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
