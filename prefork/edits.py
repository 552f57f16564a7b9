"""Which source files change: a process of its own, ``python -m prefork.edits FOLDER ...``, for `prefork.watch`.

It is no thread of the master's, because the master forks. Each line that it writes to its standard output is a JSON
object with one member: ``watching`` (the folders, once), ``changed`` (files), or ``failed`` (why it ends).
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from typing import Final

_SUFFIX: Final = ".py"
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_NOT_SOURCE: Final = _INSTALLED | {"__pycache__", "node_modules"}
_LOOK_MS: Final = 250
"""Milliseconds until the first "nothing yet", which says that the watches stand."""


def sources(path: Iterable[str]) -> list[str]:
    """The folders of an import path that hold somebody's source, not what was installed, without those within others.

    Args:
        path: As `sys.path`.
    """
    python = [os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "scripts")]
    found: list[str] = []
    for folder in sorted({os.path.realpath(name) for name in path}):
        if not os.path.isdir(folder) or not _INSTALLED.isdisjoint(folder.split(os.sep)):
            continue
        if not any(_within(folder, other) for other in (*python, *found)):
            found.append(folder)
    return found


def is_source(file: str, folders: Iterable[str]) -> bool:
    """Whether a file is one whose change matters: Python source, in no hidden folder and in none of caches. Pure.

    Args:
        file: Its path.
        folders: Those that are watched; what stands above them in the path decides nothing.
    """
    name = os.path.basename(file)
    if not name.endswith(_SUFFIX) or name.startswith("."):
        return False
    for folder in folders:
        if _within(file, folder):
            parts = os.path.relpath(os.path.dirname(file), folder).split(os.sep)
            return not any(part in _NOT_SOURCE or (part.startswith(".") and part != ".") for part in parts)
    return False


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def main(folders: Sequence[str]) -> None:
    """Tell of changes until nobody listens any more."""
    from watchfiles import watch

    told = False
    try:
        # Without events it comes back now and then, which is how we know that it watches.
        for changes in watch(
            *folders,
            watch_filter=lambda _, file: is_source(file, folders),
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        ):
            if not told:
                told = True
                _tell("watching", list(folders))
            if changes:
                _tell("changed", sorted({file for _, file in changes}))
    except BrokenPipeError:
        # What is still buffered would fail once more when the interpreter ends.
        os._exit(0)
    except OSError as error:
        _tell("failed", str(error))


def _tell(what: str, value: object) -> None:
    print(json.dumps({what: value}), flush=True)  # noqa: T201  # it speaks to the master, through a pipe


if __name__ == "__main__":
    main(sys.argv[1:])
