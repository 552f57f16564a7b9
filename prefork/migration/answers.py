"""What to say to somebody who gives a name of another server's to one of our commands. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from prefork.migration import gunicorn_settings as gunicorn
from prefork.migration import uvicorn_settings as uvicorn
from prefork.migration import uwsgi_settings as uwsgi
from prefork.migration import waitress_settings as waitress
from prefork.migration.foreign_setting import ForeignSetting, by_flag, by_name, flag_of

_SERVERS: Final = (("gunicorn", gunicorn.ROWS), ("uWSGI", uwsgi.ROWS), ("uvicorn", uvicorn.ROWS))
_OF_ASGI: Final = "--lifespan"  # who has this flag is asked by users of uvicorn
_OF_WSGI: Final = "--script-name"  # and by users of waitress, where it is not that one
_NEARLY: Final = 0.8  # how much of a name has to be that of a hook, for a function that is none to look like one
_SEVERAL: Final = 2  # names of settings that a module has by no chance


def to_flag(flag: str, known: Collection[str]) -> str:
    """What a flag that is none of ours becomes here, if it is another server's; "" if it is not.

    Args:
        flag: What was given, with its hyphens.
        known: The flags that the command has.
    """
    # A listener of uWSGI's is none of waitress's, and --listen is typed by whoever comes from the latter.
    servers = _SERVERS[:1] + ((("waitress", waitress.ROWS),) if _OF_WSGI in known else ()) + _SERVERS[1:]
    return _answer(known, servers, lambda rows: by_flag(rows).get(flag))


def to_name(name: str, known: Collection[str]) -> str:
    """The same for the name of a setting.

    Args:
        name: What was given.
        known: The names of the settings that the command has.
    """
    return _answer([flag_of(known_name) for known_name in known], _SERVERS, lambda rows: by_name(rows).get(name))


def _answer(
    known: Collection[str],
    servers: tuple[tuple[str, tuple[ForeignSetting, ...]], ...],
    find: Callable[[tuple[ForeignSetting, ...]], ForeignSetting | None],
) -> str:
    for server, rows in (servers[-1:] if _OF_ASGI in known else ()) + servers:
        row = find(rows)
        if row is None or not (row.ours or row.note):
            continue
        if not row.ours:
            return f"it is {server}'s: {row.note}"
        flag = flag_of(row.ours)
        if flag not in known:
            return f"it is {server}'s, and here a setting of prefork wsgi alone: {flag}"
        return f"it is {server}'s, and called {flag} here" + (f": {row.note}" if row.note else "")
    return ""


def strange_hooks(namespace: object, ours: Iterable[str]) -> Iterator[str]:
    """What a module of hooks has that looks as if it were one, or a setting, and is neither; a line for each.

    Args:
        namespace: The module, or another object with hooks.
        ours: The names of hooks.
    """
    ours = list(ours)
    theirs = by_name(gunicorn.HOOKS)
    settings = {row.name for row in gunicorn.ROWS} - set(theirs)
    # Without asking the object itself, whose attributes may be made by code.
    named = {**vars(type(namespace)), **getattr(namespace, "__dict__", {})}
    found = {name: value for name, value in named.items() if not name.startswith("_")}
    for name, value in found.items():
        if name in ours or not callable(value) or isinstance(value, type):
            continue
        if name in theirs:
            yield f"{name} is a hook of gunicorn's and none here: {theirs[name].note}"
        elif close := difflib.get_close_matches(name, ours, n=1, cutoff=_NEARLY):
            yield f"{name} is no hook, and is never called; did you mean {close[0]}?"
    given = [name for name, value in found.items() if name in settings and not callable(value)]
    if len(given) >= _SEVERAL:
        yield (
            f"settings are not read from a module of hooks ({', '.join(given)}); prefork gunicorn -c FILE reads "
            "gunicorn's, others stand in flags, variables or TOML"
        )
