"""Custody: whether anybody but root could change what root is about to import.

Code that root imports is root's own only if nobody else may write the file, the folder that it is in, or any folder on
the way there: who may write a folder may put another file, or another folder, in the place of one in it, unless the
folder is sticky and that one isn't his (unlink(2), inode(7)). sshd looks at the files of its users in the same way
(sshd_config(5), StrictModes).
"""

from __future__ import annotations

import stat
from typing import Final

from prefork.system.guarded_path import others_may_write
from prefork.system.natives import os

_ROOT: Final = 0
_MOST_LINKS: Final = 40  # path_resolution(7)
_CODE: Final = (".py", ".pyc", ".so")
_CACHE: Final = "__pycache__"


def stranger(folder: str) -> str:
    """Any process. Who but root could have a module imported from ``folder``, in a few words; "" for nobody.

    A folder that can't be looked at is nobody's to trust: that is told instead.

    Args:
        folder: one that goes on the import path. The modules directly in it are looked at, and what packages it has
            are not: they are in it by root's doing.
    """
    try:
        return _stranger(folder)
    except OSError as error:
        return f"{error.filename} can't be looked at: {error.strerror}"


def _stranger(folder: str) -> str:
    found = _on_the_way(os.path.abspath(folder)) or _writer(folder, shared=False)
    if found:
        return found
    with os.scandir(folder) as entries:
        names = [entry.path for entry in entries if entry.name.endswith(_CODE) or entry.name == _CACHE]
    return next((found for name in names if (found := _on_the_way(name) or _writer(name, shared=False))), "")


def _on_the_way(path: str) -> str:
    """Who could lead ``path`` elsewhere: each folder and each symbolic link on the way is looked at."""
    links = 0
    done, rest = "/", [part for part in path.split("/") if part]
    while rest:
        found = _writer(done, shared=True)
        if found:
            return found
        part = rest.pop(0)
        if part == "..":  # of a link; folders on the way up have been looked at
            done = os.path.dirname(done)
            continue
        here = os.path.join(done, part)
        entry = os.lstat(here)
        # In a folder that is everybody's and sticky, a name is its owner's.
        if entry.st_uid != _ROOT:
            return f"{here} belongs to uid {entry.st_uid}"
        if stat.S_ISLNK(entry.st_mode):
            links += 1
            if links > _MOST_LINKS:
                return f"{here} leads nowhere"
            to = os.readlink(here)
            done = "/" if to.startswith("/") else done
            rest = [part for part in to.split("/") if part not in {"", "."}] + rest
        else:
            done = here
    return ""


def _writer(path: str, *, shared: bool) -> str:
    """Who but root may write ``path``, in a few words; "" for nobody.

    Args:
        path: what is looked at, where links lead.
        shared: whether a sticky folder may be everybody's.
    """
    found = os.stat(path)
    if found.st_uid != _ROOT:
        return f"{path} belongs to uid {found.st_uid}"
    if shared and stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return ""
    if found.st_mode & stat.S_IWOTH:
        return f"everybody may write {path}"
    if found.st_mode & stat.S_IWGRP and found.st_gid != _ROOT:
        return f"group {found.st_gid} may write {path}"
    if others_may_write(found, path):
        return f"{path} has an access control list, by which others may write it"
    return ""
