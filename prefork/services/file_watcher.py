"""Which source files change: a process of its own that `prefork.services.reloader` starts.

It is no thread of the master's, because the master forks. It looks at the folders of its import path, which is the
master's, and at those that it is given as arguments. Each line that it writes to its standard output is a JSON object
with one member: ``watching`` (these folders, once), ``changed`` (files), or ``failed`` (why it ends).

Only folders that have source are watched, each by itself: in what a virtual environment or ``node_modules`` holds,
nobody edits, and the kernel's watches are counted (inotify(7), max_user_watches).
"""

from __future__ import annotations

import contextlib
import json
import sys
import sysconfig
from collections.abc import Generator, Iterable, Iterator
from typing import Final

from prefork.config.sources import INSTALLED
from prefork.system.natives import os
from prefork.system.process import exit_now

_NOT_SOURCE: Final = INSTALLED | {"__pycache__", "node_modules"}
_OF_AN_ENVIRONMENT: Final = "pyvenv.cfg"
_LOOK_MS: Final = 250
"""Milliseconds until the first "nothing yet", which says that the watches stand."""


def roots(path: Iterable[str]) -> list[str]:
    """The folders of an import path that hold somebody's source, not what was installed, without those within others.

    Args:
        path: As `sys.path`.
    """
    python = [os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "scripts")]
    found: list[str] = []
    for folder in sorted({os.path.realpath(name) for name in path}):
        if not os.path.isdir(folder) or not INSTALLED.isdisjoint(folder.split(os.sep)):
            continue
        if not any(folder == other or folder.startswith(other.rstrip("/") + "/") for other in (*python, *found)):
            found.append(folder)
    return found


def is_source(file: str) -> bool:
    """Whether a file is Python source, going by its name; what editors keep beside it is not. Pure."""
    name = os.path.basename(file)
    return name.endswith(".py") and not name.startswith(".")


def folders(tops: Iterable[str]) -> Iterator[str]:
    """These folders and all below them that may have source: none that are hidden, installed or generated."""
    for top in tops:
        for folder, below, files in os.walk(top):
            if _OF_AN_ENVIRONMENT in files:
                below.clear()
                continue
            below[:] = [name for name in below if name not in _NOT_SOURCE and not name.startswith(".")]
            yield folder


Mark = tuple[int, ...]
"""What a file is told by that has not changed."""


def sources(within: Iterable[str]) -> dict[str, Mark]:
    """The source files directly in these folders, each with what is another once the file, or the link to it, changes.

    As the kernel notes it (inode(7)), not as their dates say: a file that was copied, unpacked or moved here bears an
    older one. And only whether it is the same is asked, never which of two is the later: a clock may be set back.
    """
    found: dict[str, Mark] = {}
    for folder in within:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:  # else it is gone
            for entry in entries:
                if is_source(entry.path) and (mark := _mark(entry.path)):
                    found[entry.path] = mark
    return found


def _mark(path: str) -> Mark:
    """What a file is told by; nothing where there is none, at a link that leads nowhere for instance."""
    try:
        of_text, of_name = os.stat(path), os.lstat(path)
    except OSError:
        return ()
    return (
        of_text.st_ino,
        of_text.st_size,
        of_text.st_mtime_ns,
        of_text.st_ctime_ns,
        of_name.st_ino,
        of_name.st_ctime_ns,
    )


def _may_have_source(folder: str) -> bool:
    name = os.path.basename(folder)
    return name not in _NOT_SOURCE and not name.startswith(".") and os.path.isdir(folder)


def changes(tops: list[str]) -> Generator[set[str], None, None]:
    """Source files that were changed, as soon as they are; first of all, when the watches stand, perhaps none."""
    from watchfiles import Change, watch

    known = sources(folders(tops))
    while True:
        watched = list(folders(tops))
        stands = False
        try:
            # Without events it comes back now and then, which is how we know that it watches.
            for events in watch(
                *watched, recursive=False, watch_filter=None, rust_timeout=_LOOK_MS, yield_on_timeout=True
            ):
                files = {file for _, file in events if is_source(file)}
                new = [path for change, path in events if change is Change.added and _may_have_source(path)]
                files.update(sources(folders(new)))
                if not stands:  # of what has changed until now, or has gone, nobody told
                    now = sources(watched)
                    files.update(file for file, mark in known.items() ^ now.items() if mark)
                    known = now
                known |= {file: _mark(file) for file in files}  # what changes from here on has another, or its event
                if files or not stands:
                    yield files
                stands = True
                if new:
                    break
        except FileNotFoundError:
            continue  # a folder is gone, between our look and the watch


def main() -> None:
    """Tell of changes until nobody listens any more."""
    tops = roots([*sys.path, *sys.argv[1:]])
    try:
        told = False
        for files in changes(tops):
            if not told:
                told = True
                _tell("watching", tops)
            if files:
                _tell("changed", sorted(files))
    except BrokenPipeError:
        # What is still buffered would fail once more when the interpreter ends.
        exit_now(0)
    except OSError as error:
        _tell("failed", str(error))


def _tell(what: str, value: object) -> None:
    print(json.dumps({what: value}), flush=True)  # noqa: T201  # it speaks to the master, through a pipe


if __name__ == "__main__":
    main()
