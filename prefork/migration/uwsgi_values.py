"""What uWSGI's options become where a row of the table does not say all of it: a function for each of these."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from prefork.migration.foreign_setting import ForeignSetting
from prefork.migration.retelling import Teller, is_stream, whole, yes
from prefork.system.natives import os

_USUAL_FIELD: Final = 8190  # bytes; what prefork allows a field of a request's head
_USUAL_LINE: Final = 4094
_PRINTED: Final = (
    "what the application prints, and writes to wsgi.errors, is not in it but on standard output and error"
)
_LOCAL: Final = re.compile(r"unix:|fd://|127\.|localhost:|\[::1\]:")  # addresses that others don't reach
_LISTENING: Final = ("http", "http-socket", "http11-socket", "socket", "uwsgi-socket", "https", "https-socket")


def _address(teller: Teller, text: str) -> str:
    """An address of uWSGI's: a path, :PORT, HOST:PORT, @NAME, fd://N, or =N for a shared socket."""
    text = text.strip()
    if text.startswith("="):
        shared = teller.value("shared-socket") or []
        if not text[1:].isdecimal() or int(text[1:]) >= len(shared):
            raise ValueError(f"{text!r} names none of {len(shared)} shared-socket; give an address")
        return _address(teller, shared[int(text[1:])])
    if text.startswith(("fd://", "unix:")):
        return text
    if text.startswith("@"):
        return f"unix:{text}"
    if text.startswith("/") or ":" not in text:
        return text if text.isdecimal() else f"unix:{'@' * yes(teller.value('abstract-socket', False))}{text}"
    host, _, port = text.rpartition(":")
    return f":{port}" if host == "*" else text


def _add(teller: Teller, text: str, origin: str) -> None:
    before = teller.values.get("bind")
    had: tuple[str, ...] = () if before is None else before.value
    teller.put("bind", (*had, _address(teller, text)), origin)


def _http(teller: Teller, row: ForeignSetting) -> None:
    texts, origin = teller.given[row.name]
    for text in texts:
        _add(teller, text.partition(",")[0], origin)


def _socket(teller: Teller, row: ForeignSetting) -> None:
    _http(teller, row)
    if str(teller.value("protocol", teller.value("socket-protocol", "uwsgi"))) != "http":
        teller.tell(row.name, row.note, differs=True)


def _https(teller: Teller, row: ForeignSetting) -> None:
    texts, origin = teller.given[row.name]
    text, *files = texts[-1].split(",")
    _add(teller, text, origin)
    for name, file in zip(("certfile", "keyfile"), files, strict=False):
        teller.put(name, file, origin)
    if teller.value("http") or teller.value("http-socket") or teller.value("socket"):
        teller.refuse(row.name, "TLS is spoken on all addresses or on none; have a second server for the others")


def _protocol(teller: Teller, row: ForeignSetting) -> None:
    if str(teller.value(row.name)) not in {"http", "uwsgi"}:
        teller.refuse(row.name, row.note)


def _mode(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    teller.put("socket_mode", "0666" if value in {"true", ""} else str(value).partition(";")[0].strip(), origin)


def _owner(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    user, _, group = str(value).partition(":")
    teller.put("socket_user", user, origin)
    if group:
        teller.put("socket_group", group, origin)


def _threads(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if "gevent" not in teller.given:
        teller.put("threads", max(1, whole(value)), origin)


def _gevent(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    teller.put("worker_class", "gevent", origin)
    teller.option(f"connections={whole(value)}", origin)


def _cheaper(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    least, most = whole(value), whole(teller.value("processes", teller.value("workers", 1)))
    if least == 0:
        return
    teller.put("min_workers", least, origin)
    teller.put("max_workers", most, origin)
    teller.put("workers", whole(teller.value("cheaper-initial", least)), origin)


def _jitter(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if most := whole(teller.value("max-requests", 0)):
        teller.put("max_requests_jitter", min(whole(value), most), origin)


def _megabytes(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    teller.put("max_memory", f"{whole(value)}M", origin)


def _buffer(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    size = whole(value)
    if size > _USUAL_FIELD:
        teller.put("limit_request_field_size", size, origin)
    if size > _USUAL_LINE:
        teller.put("limit_request_line", size, origin)


def _keepalive(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if str(value) not in {"true", "1", ""}:
        teller.put("keepalive", whole(value), origin)


def _folder(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    teller.put("chdir", str(value), origin)


def _paths(teller: Teller, row: ForeignSetting) -> None:
    parts = [part for text in teller.given[row.name].value for part in text.split(":") if part]
    teller.path += [os.path.join(str(teller.value("chdir", "")), part) for part in reversed(parts)]


def _shared(teller: Teller, row: ForeignSetting) -> None:
    named = [text.strip() for name in _LISTENING for text in teller.value(name) or []]
    for index, text in enumerate(teller.given[row.name].value):
        if not any(one.partition(",")[0] == f"={index}" for one in named):
            teller.remark(f"{row.name} = {text!r} ({teller.given[row.name].origin}): nobody names it", differs=True)


def _quietly(teller: Teller, row: ForeignSetting) -> None:
    quiet = teller.given.get("disable-logging")
    if quiet is not None and yes(quiet.value):
        teller.tell(row.name, "with disable-logging no request is logged; --access-log logs all", differs=True)
    else:
        teller.tell(row.name, row.note, differs=False)


def _undeferred(teller: Teller, row: ForeignSetting) -> None:
    teller.put(row.ours, 0, teller.given[row.name].origin)


def _before_chdir(teller: Teller, path: str) -> str:
    """A path that uWSGI opens before it changes the folder, where ours begin in the one that is changed to."""
    return os.path.abspath(path) if path and "chdir" in teller.given else path


def _early(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    teller.put(row.ours, _before_chdir(teller, str(value)), origin)
    if row.ours == "log_file" and not is_stream(str(value)):
        teller.tell(row.name, _PRINTED, differs=True)


def _daemon(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    teller.tell(row.name, row.note, differs=True)
    if str(value).startswith("/") or "." in str(value):
        teller.put("log_file", _before_chdir(teller, str(value)), origin)
        teller.tell(row.name, _PRINTED, differs=True)


def _home(teller: Teller, row: ForeignSetting) -> None:
    path = str(teller.value(row.name))
    if os.path.realpath(path) != os.path.realpath(sys.prefix):
        teller.tell(
            row.name, f"this prefork is of {sys.prefix}; run {os.path.join(path, 'bin', 'prefork')}", differs=True
        )


def _env(teller: Teller, row: ForeignSetting) -> None:
    for text in teller.given[row.name].value:
        name, _, value = text.partition("=")
        teller.environment[name.strip()] = value.strip()


def _lazy(teller: Teller, row: ForeignSetting) -> None:
    """Said of what is not given: see `settle_application`."""


def _reload(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if str(value) not in {"0", "false"}:
        teller.put("reload", True, origin)


def _account(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    own = os.geteuid() if row.name == "uid" else os.getegid()
    if str(value) not in {str(own), "root" if own == 0 else ""}:
        teller.put(row.ours, str(value), origin)


def _plugins(teller: Teller, row: ForeignSetting) -> None:
    names = {part.strip() for text in teller.given[row.name].value for part in text.split(",")}
    if any(not name.startswith(("python", "http", "gevent", "logfile")) for name in names):
        teller.tell(row.name, row.note, differs=True)


def _none(teller: Teller, row: ForeignSetting) -> None:
    """One that another's function looks at."""


def settle_log(teller: Teller) -> None:
    """UWSGI logs requests unless it is told not to, and where all else goes; in local time."""
    teller.put("log_timezone", "local", "uWSGI's default")
    if "graceful_timeout" not in teller.values:
        teller.put("graceful_timeout", 60, "uWSGI's default")
    quiet = teller.given.get("disable-logging")
    if quiet is not None and yes(quiet.value):
        return
    log = teller.values.get("log_file")
    teller.put("access_log", log.value if log else "-", log.origin if log else "uWSGI's default")


def settle_proxies(teller: Teller) -> None:
    """UWSGI believes everybody what the scheme is, and nobody who the client is."""
    bind = teller.values.get("bind")
    alone = bind is None or all(_LOCAL.match(text) for text in bind.value)
    teller.remark(
        "X-Forwarded-Proto is believed of the proxies in PREFORK_FORWARDED_ALLOW_IPS alone, this machine's unless it "
        "is given, where uWSGI believes everybody; from these REMOTE_ADDR is the address in X-Forwarded-For, where "
        "uWSGI leaves the proxy's",
        differs=not alone,
    )


def settle_application(teller: Teller) -> None:
    """UWSGI loads the application once, before it forks, unless it is lazy."""
    lazy = teller.given.get("lazy-apps") or teller.given.get("lazy")
    if lazy is None or not yes(lazy.value):
        teller.remark(
            "lazy-apps (uWSGI's default is false): each worker loads the application; PREFORK_PRELOAD=1 loads it once, "
            "in a process beside the master",
            differs=False,
        )


SPECIAL: Final[Mapping[str, Callable[[Teller, ForeignSetting], Any]]] = {
    **dict.fromkeys(("module", "wsgi", "wsgi-file", "file", "callable", "mount", "disable-logging"), _none),
    **dict.fromkeys(("http", "http-socket", "http11-socket"), _http),
    **dict.fromkeys(("socket", "uwsgi-socket"), _socket),
    **dict.fromkeys(("https", "https-socket"), _https),
    **dict.fromkeys(("protocol", "socket-protocol"), _protocol),
    "chmod-socket": _mode,
    "chown-socket": _owner,
    "threads": _threads,
    "gevent": _gevent,
    "cheaper": _cheaper,
    "cheaper-initial": _none,
    "max-requests-delta": _jitter,
    **dict.fromkeys(("reload-on-rss", "evil-reload-on-rss"), _megabytes),
    "buffer-size": _buffer,
    "http-keepalive": _keepalive,
    **dict.fromkeys(("chdir", "chdir2"), _folder),
    **dict.fromkeys(("pythonpath", "python-path", "pp"), _paths),
    **dict.fromkeys(("home", "virtualenv", "venv", "pyhome"), _home),
    "env": _env,
    "shared-socket": _shared,
    "abstract-socket": _none,
    **dict.fromkeys(("logto", "logto2", "pidfile"), _early),
    "no-defer-accept": _undeferred,
    **dict.fromkeys(("log-4xx", "log-5xx", "log-slow", "log-zero", "log-big"), _quietly),
    **dict.fromkeys(("daemonize", "daemonize2"), _daemon),
    **dict.fromkeys(("lazy-apps", "lazy"), _lazy),
    **dict.fromkeys(("py-autoreload", "python-autoreload"), _reload),
    **dict.fromkeys(("uid", "gid"), _account),
    **dict.fromkeys(("plugins", "plugin"), _plugins),
}
"""What to do with an option, by its name; all others do as their row says."""
