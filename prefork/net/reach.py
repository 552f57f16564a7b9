"""Who can connect to a unix socket that is a file, as far as permissions say it.

It takes the right to write to the socket and to search each folder on the way there (unix(7), path_resolution(7)). A
proxy mostly is another user, and all that it says is that permission was denied.
"""

from __future__ import annotations

import grp
import pwd
import stat
from collections.abc import Iterator

from prefork.system.natives import os


def closed(path: str, *, chosen: bool = False) -> str:
    """Why a user who is neither the socket's owner nor of its group can't connect.

    Args:
        path: The socket's file, by its absolute path.
        chosen: Whether its owner, group and mode are what somebody wanted; then only the folders can be wrong.

    Returns:
        A clause for the log that names what is in the way and who can, the remedy included; "" when nothing is, or
        when it can't be known.
    """
    try:
        found = os.stat(path)
        for name in _folders(path):
            folder = os.stat(name)
            shared = chosen and folder.st_gid == found.st_gid and folder.st_mode & stat.S_IXGRP
            if not folder.st_mode & stat.S_IXOTH and not shared:
                who = _who(folder, stat.S_IXGRP)
                return (
                    f"{who} can get into {name} (mode {_mode(folder)}); for a proxy that is another user bind elsewhere"
                )
    except OSError:
        return ""
    if chosen or found.st_mode & stat.S_IWOTH:
        return ""
    who = _who(found, stat.S_IWGRP)
    remedy = "--socket-group with --socket-mode 0660, or --socket-mode 0666"
    return f"{who} can connect (mode {_mode(found)}); for a proxy that is another user give {remedy}"


def _folders(path: str) -> Iterator[str]:
    """The folders on the way to a file, the nearest first."""
    folder = os.path.dirname(os.path.abspath(path))
    while folder != "/":
        yield folder
        folder = os.path.dirname(folder)


def _who(found: os.stat_result, group_bit: int) -> str:
    owner = _user(found.st_uid)
    names = [f"user {owner}"]
    if found.st_mode & group_bit:
        names.append(f"group {_group(found.st_gid)}")
    if found.st_uid:
        names.append("root")
    return f"only {' and '.join(names)}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"
