"""Fork safety: what a mold has that doesn't come through a fork as whoever made it believes.

A thread is not copied, while the locks that it holds are (fork(2)). A socket, an epoll or an eventfd is shared: what
one worker reads from it the others miss, and what one takes out of it is gone for all. So a mold that has loaded the
application looks at itself, before a worker is made of it, and names what it finds and whose it is.

It asks types and dictionaries, and no object: a lazy one says that it is of another class when it is asked (Django's
settings, a proxy of werkzeug's or celery's), and for that makes or loads what it stands for.

All of it runs in the MOLD.
"""

from __future__ import annotations

import gc
import selectors
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

from prefork.config.settings import Settings
from prefork.errors import BootError
from prefork.system.descriptors import describe, descriptors
from prefork.system.natives import os, socket, threading

SHARED: Final = ("socket ", "eventpoll", "eventfd", "timerfd", "inotify", "io_uring", "signalfd", "fanotify")
"""How the description of a descriptor begins that is not as good in a child."""

_LEVELS: Final = 6
"""How far from a thing its owner is looked for."""

_MOST: Final = 200  # referrers that are looked at, at each level
_STANDARD: Final = frozenset({*sys.stdlib_module_names, "builtins", "__main__"})
_CONTAINERS: Final = (dict, list, tuple, set, frozenset)


def open_before() -> frozenset[int] | None:
    """The descriptors that are open, to be asked for before the application is loaded; None where there is no /proc."""
    try:
        return frozenset(descriptors())
    except FileNotFoundError:
        return None


def found(before: Collection[int] | None) -> list[str]:
    """What there is, one line each.

    Args:
        before: from :func:`open_before`. With None, only what Python knows is found.
    """
    return [*_threads(), *(() if before is None else _descriptors(before)), *_databases()]


def judged(settings: Settings, before: Collection[int] | None) -> list[str]:
    """What there is, where it is not refused.

    Args:
        settings: whether it is.
        before: as for :func:`found`.

    Raises:
        BootError: there is something, and it is to be refused; or nobody can tell.
    """
    if before is None and settings.fork_safety == "refuse":
        raise BootError(
            "fork_safety: without /proc nobody can tell what the application opens where it is loaded; mount /proc, or "
            "set fork_safety to warn"
        )
    lines = found(before)
    if lines and settings.fork_safety == "refuse":
        raise BootError(
            f"fork_safety: the application has opened, where it is loaded: {'; '.join(lines)}; have it do so in the "
            "hook post_fork, or set fork_safety to warn"
        )
    return lines


def _threads() -> Iterator[str]:
    frames = sys._current_frames()  # noqa: SLF001  # documented, for this purpose
    known = {threading.get_native_id()}
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.ident is not None:
            known.add(thread.native_id or 0)
            yield f"thread {thread.name!r}{_at(frames.get(thread.ident))}"
    try:
        tasks = os.listdir("/proc/self/task")
    except FileNotFoundError:
        return
    for task in tasks:
        if int(task) not in known:
            try:
                name = Path(f"/proc/self/task/{task}/comm").read_text(errors="replace").rstrip()
            except OSError:
                continue  # it has ended
            yield f"thread {name!r} of a library's, not of Python"


def _at(frame: FrameType | None) -> str:
    """Where a thread's own code begins: the outermost frame that is not the standard library's."""
    at, here = "", frame
    while here is not None:
        name = here.f_globals.get("__name__", "")
        if name.partition(".")[0] not in _STANDARD:
            at = f", in {here.f_code.co_name} ({here.f_code.co_filename}:{here.f_lineno})"
        here = here.f_back
    return at


def _descriptors(before: Collection[int]) -> Iterator[str]:
    opened = sorted(set(descriptors()) - set(before))
    owners = _objects(set(opened)) if opened else {}
    for fd in opened:
        what = describe(fd)
        if what.startswith(SHARED):
            owner = _owner(owners[fd]) if fd in owners else ""
            yield f"{what} (descriptor {fd}){f', of {owner}' if owner else ''}"


def _objects(wanted: Collection[int]) -> dict[int, object]:
    """The Python objects that have these descriptors."""
    have: dict[int, object] = {}
    for kind in (socket.socket, selectors.EpollSelector):  # an epoll itself is not seen by the collector
        for thing in _all_of(kind):
            try:
                fd = kind.fileno(thing)
            except (ValueError, KeyError, AttributeError):
                continue  # it is closed, or was never open
            if fd in wanted:
                have[fd] = thing
    return have


def _databases() -> Iterator[str]:
    """Connections to files: two processes must not go on with one (sqlite.org/howtocorrupt.html, 2.6)."""
    sqlite = sys.modules.get("_sqlite3")
    if sqlite is not None:
        for thing in _all_of(sqlite.Connection):
            owner = _owner(thing)
            yield f"connection of sqlite3{f', of {owner}' if owner else ''}"


def _all_of(kind: type) -> list[Any]:
    """The objects of a class, and of those derived from it."""
    known: dict[int, bool] = {}  # by the class, of which not even a hash is asked
    things = []
    for thing in gc.get_objects():
        of = id(type(thing))
        if of not in known:
            known[of] = _derives(type(thing), kind)
        if known[of]:
            things.append(thing)
    return things


def _derives(kind: type, *others: type) -> bool:
    return any(base is other for base in kind.__mro__ for other in others)


def _owner(thing: object) -> str:
    """Who has a thing: the module, or the first class on the way to it that is not the standard library's."""
    seen, level, nearest = {id(thing)}, [thing], ""
    for _ in range(_LEVELS):
        above: list[Any] = []
        seen |= {id(level), id(above)}
        for holder in gc.get_referrers(*level)[:_MOST]:
            if id(holder) in seen or type(holder) is FrameType:
                continue
            seen.add(id(holder))
            name = _name(holder)
            if name and name.partition(".")[0] not in _STANDARD:
                return name
            nearest = nearest or name
            above.append(holder)
        level = above
        if not level:
            break
    return nearest


def _name(holder: object) -> str:
    kind = type(holder)
    if _derives(kind, ModuleType):
        return str(object.__getattribute__(holder, "__dict__").get("__name__", ""))
    if type(holder) is dict:
        return str(holder["__name__"]) if "__name__" in holder and "__spec__" in holder else ""
    if _derives(kind, *_CONTAINERS):
        return ""
    named: Any = holder if _derives(kind, type) else kind
    return f"{named.__module__}.{named.__qualname__}"
