"""What gunicorn's settings become where a row of the table does not say all of it: a function for each of these.

Each is given a `Teller` and reads what it needs of ``teller.given``. What gunicorn does, and what its defaults are, is
as of 27.0 (gunicorn/config.py, sock.py, util.py; https://docs.gunicorn.org).
"""

from __future__ import annotations

import grp
import json
import pwd
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from prefork.migration.foreign_setting import ForeignSetting
from prefork.migration.retelling import Teller, converted, is_stream, listed, whole, yes
from prefork.system.natives import os

_DEFAULT_PORT: Final = "8000"
_SECURE: Final = {"X-FORWARDED-PROTOCOL": "ssl", "X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"}
_PLAIN_LOGGERS: Final = ("simple", "gunicorn.glogging.Logger", "gunicorn.instrument.statsd.Statsd")
_LOGGING: Final[Mapping[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["error_console"], "propagate": True},
        "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": True},
    },
    "handlers": {
        name: {"class": "logging.StreamHandler", "formatter": "generic", "stream": f"ext://sys.{stream}"}
        for name, stream in (("console", "stdout"), ("error_console", "stderr"))
    },
    "formatters": {
        "generic": {
            "format": "%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
            "datefmt": "[%Y-%m-%d %H:%M:%S %z]",
        }
    },
}
"""What stands in logconfig_dict and logconfig_json beside what is given: which of these that names takes its place."""

_LONGEST_NAME: Final = 64  # characters of a program's name in syslog
_JSON: Final = "logconfig_json"
_PARTS: Final = ("root", "loggers", "handlers", "formatters")  # of those, what a file has to have to stand alone

_LEVELS: Final = {"warn": "warning", "fatal": "critical"} | {
    word: word for word in ("debug", "info", "warning", "error", "critical")
}

SYNC: Final = {"sync", "gunicorn.workers.sync.SyncWorker"}
THREADS: Final = {"gthread", "gunicorn.workers.gthread.ThreadWorker"}
UVICORN: Final = re.compile(r"asgi|gunicorn\.workers\.gasgi\.\w+|uvicorn(_worker|\.workers)\.Uvicorn(H11)?Worker")
GEVENT: Final = re.compile(r"gevent(_pywsgi|_wsgi)?|gunicorn\.workers\.ggevent\.\w+")
TORNADO: Final = {"tornado", "gunicorn.workers.gtornado.TornadoWorker"}
AIOHTTP: Final = re.compile(r"aiohttp(\.worker)?\.Gunicorn(UVLoop)?WebWorker")
"""The names of worker classes, gunicorn's own and those that others bring along."""


def address(text: str) -> str:
    """An address of gunicorn's in the form of ours.

    Args:
        text: unix:PATH, fd://N, HOST:PORT, [HOST]:PORT, tcp://HOST:PORT, or a host alone, whose port is 8000.
    """
    text = text.strip()
    if text.startswith(("unix:", "fd://")):
        return re.sub(r"^unix:(//)?", "unix:", text)
    text = text.removeprefix("tcp://")
    if not text:
        return f":{_DEFAULT_PORT}"
    if text.startswith("["):
        return text if "]:" in text else f"{text}:{_DEFAULT_PORT}"
    return text if ":" in text else f"{text}:{_DEFAULT_PORT}"


def parsed_address(text: str) -> tuple[str, int] | str | int:
    """An address as gunicorn's own ``cfg.address`` has it.

    Args:
        text: As for `address`.

    Returns:
        Host and port, the path of a unix socket, or the number of a descriptor.
    """
    found = address(text)
    if found.startswith("unix:"):
        return found.removeprefix("unix:")
    if found.startswith("fd://"):
        return int(found.removeprefix("fd://"))
    host, _, port = found.rpartition(":")
    return host.strip("[]").lower(), int(port)


def _bind(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given["bind"]
    texts = [part for text in converted(row, value) or [] for part in str(text).split(",")]
    addresses = tuple(address(text) for text in texts)
    if addresses:
        teller.put("bind", addresses if len(addresses) > 1 else addresses[0], origin)


def _umask(teller: Teller, row: ForeignSetting) -> None:
    whole(teller.value(row.name, 0) or 0)


def _worker_class(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    names = names_of(value)
    if names & (SYNC | THREADS):
        if names & THREADS and threads_of(teller) <= 1:
            teller.tell(row.name, "with one thread it is sync, but for connections that are kept", differs=False)
    elif any(map(UVICORN.fullmatch, names)):
        teller.command = "asgi"
        for name, said in getattr(value, "CONFIG_KWARGS", {}).items():
            _of_uvicorn(teller, name, said, origin)
        if any("H11" in name for name in names):
            teller.option("http=h11", origin)
    elif any(map(GEVENT.fullmatch, names)):
        teller.put("worker_class", "gevent", origin)
    elif names & TORNADO or any(map(AIOHTTP.fullmatch, names)):
        teller.command = "serve"
        teller.put("worker_class", "tornado" if names & TORNADO else "aiohttp", origin)
        if any("UVLoop" in name for name in names):
            teller.option("loop=uvloop", origin)
    else:
        teller.refuse(
            row.name,
            "there is no such worker here; give sync, gevent, tornado, uvicorn_worker.UvicornWorker or "
            "aiohttp.GunicornWebWorker, or write a prefork.Worker of your own",
        )


def names_of(value: object) -> set[str]:
    """The names that a worker class goes by: its own, and those of what it is made of."""
    if isinstance(value, type):
        return {f"{kind.__module__}.{kind.__qualname__}" for kind in value.__mro__}
    return {str(value or "sync").removeprefix("egg:gunicorn#")}


def _of_uvicorn(teller: Teller, name: str, value: object, origin: str) -> None:
    """What a worker class says to uvicorn."""
    if name in {"loop", "lifespan", "ws_max_size"}:
        teller.put(name, value, origin)
    elif isinstance(value, str | int | float) and "," not in str(value):
        teller.option(f"{name}={value}", origin)
    else:
        teller.remark(f"{name} of the worker class ({origin}): it can't be said in worker_options", differs=True)


def is_sync(teller: Teller) -> bool:
    """Whether gunicorn's own workers serve, one request or several threads at a time."""
    return bool(names_of(teller.value("worker_class")) & (SYNC | THREADS))


def _is_gevent(teller: Teller) -> bool:
    return any(map(GEVENT.fullmatch, names_of(teller.value("worker_class"))))


def threads_of(teller: Teller) -> int:
    """How many requests one of gunicorn's workers is to serve at a time."""
    return whole(teller.value("threads", 1) or 1)


def _tell_threads(teller: Teller, row: ForeignSetting) -> None:
    count = threads_of(teller)
    if count > 1 and is_sync(teller):
        teller.put("threads", count, teller.given[row.name].origin)


def _connections(teller: Teller, row: ForeignSetting) -> None:
    if _is_gevent(teller):
        value, origin = teller.given[row.name]
        teller.option(f"connections={whole(value)}", origin)
    else:
        teller.plainly(row)


def _preload(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if not yes(value):
        return
    if _is_gevent(teller):
        teller.tell(row.name, "each worker loads the application, after gevent has patched it", differs=True)
    else:
        teller.put("preload", True, origin)


def _other_account(teller: Teller, name: str) -> str:
    """A user or group that is not the one whom the command runs as; "" for none."""
    value = teller.value(name)
    if value is None or value == "":
        return ""
    text = str(value)
    try:
        if name == "user":
            number = int(text) if text.isdecimal() else pwd.getpwnam(text).pw_uid
            return "" if number == os.geteuid() else text
        number = int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid
    except KeyError:
        return text  # whoever resolves it says that there is none
    return "" if number == os.getegid() else text


def _account(teller: Teller, row: ForeignSetting) -> None:
    if text := _other_account(teller, row.name):
        teller.put(row.name, text, teller.given[row.name].origin)


def _raw_env(teller: Teller, row: ForeignSetting) -> None:
    for text in converted(row, teller.value(row.name)) or []:
        name, equals, value = str(text).partition("=")
        if not equals or not name:
            teller.refuse(row.name, f"{text!r} sets no variable; give NAME=VALUE")
            continue
        teller.environment[name] = value


def _pythonpath(teller: Teller, row: ForeignSetting) -> None:
    folder = str(teller.value("chdir") or "")
    parts = [part.strip() for part in str(teller.value(row.name) or "").split(",") if part.strip()]
    teller.path += [os.path.join(folder, part) for part in reversed(parts)]  # each goes before the one before it


def _schemes(teller: Teller, row: ForeignSetting) -> None:
    value = teller.value(row.name)
    named = {str(key).upper().replace("_", "-"): text for key, text in (value or {}).items()}
    if named.get("X-FORWARDED-PROTO") != "https" or any(_SECURE.get(key) != text for key, text in named.items()):
        teller.tell(row.name, row.note, differs=True)


def _joined(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if value is not None:
        teller.put(row.ours, ",".join(map(str, listed(value))), origin)


def _errorlog(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    teller.put("log_file", "" if value in ("-", None) else str(value), origin)
    if _takes_all(teller) and teller.command == "wsgi":
        teller.tell(
            row.name,
            "what the application writes to wsgi.errors, Flask's log say, is not in it but on standard error",
            differs=True,
        )


def _capture(teller: Teller, row: ForeignSetting) -> None:
    if yes(teller.value(row.name) or False):
        teller.tell(row.name, row.note, differs=_takes_all(teller))


def _takes_all(teller: Teller) -> bool:
    """Whether gunicorn's log is a file, into which more goes than what the server says."""
    return not is_stream(str(teller.value("errorlog") or "-"))


def _loglevel(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    word = str(value).strip().lower()
    level = _LEVELS.get(word, word)
    if level not in _LEVELS.values():
        teller.tell(row.name, "there is no such level, so it is info, as with gunicorn", differs=False)
        level = "info"
    teller.put("log_level", level, origin)


def _logger(teller: Teller, row: ForeignSetting) -> None:
    value = teller.value(row.name)
    name = f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else str(value or "")
    if name and name not in _PLAIN_LOGGERS:
        teller.plainly(row)


def _format(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if value not in (None, row.default):
        teller.put("access_log_format", value, origin)


def _statsd(teller: Teller, row: ForeignSetting) -> None:
    """Metrics have gunicorn's names, which begin with "gunicorn" behind the prefix."""
    value, origin = teller.given[row.name]
    if value:
        prefix = str(teller.value("statsd_prefix") or "").rstrip(".")
        teller.put("statsd_host", str(value), origin)
        teller.put("statsd_prefix", f"{prefix}.gunicorn" if prefix else "gunicorn", origin)


def _syslog(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if not value:
        return
    # As gunicorn calls itself where nobody says otherwise: by what it was told to serve.
    called = teller.value("proc_name") or teller.value("default_proc_name") or "gunicorn"
    text = re.sub(r"[\s:\[\]]", ".", str(teller.value("syslog_prefix") or called))  # what ends a program's name
    name = f"gunicorn.{text}"[:_LONGEST_NAME]
    teller.put("syslog", True, origin)
    teller.put("syslog_addr", teller.value("syslog_addr") or "udp://localhost:514", origin)
    teller.put("syslog_prefix", name, origin)
    teller.tell(
        row.name, f"what the server says is of the program {name}, where gunicorn has {name}.error", differs=True
    )
    if teller.value("disable_redirect_access_to_syslog"):
        return
    if teller.value("accesslog"):
        teller.tell(row.name, "requests go to accesslog alone", differs=True)
    else:
        teller.put("access_log", "logger", origin)


def _default_name(teller: Teller, row: ForeignSetting) -> None:
    if teller.given[row.name].origin:  # else it is the target
        teller.plainly(row)


def _logconfig(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if not value or teller.value("logconfig_dict"):
        return
    path = os.path.join(str(teller.value("chdir") or ""), str(value))
    if row.name == _JSON:
        if lacking := _completed(teller, path):
            teller.tell(row.name, f"with gunicorn's own {', '.join(lacking)} beside it", differs=False)
            return
    elif teller.value(_JSON):  # which beats it
        return
    teller.put("logconfig", str(value), origin)
    if not _names_requests(path):
        return
    if teller.value("accesslog"):
        teller.tell(row.name, "requests go to accesslog alone", differs=True)
    else:
        teller.put("access_log", "logger", origin)


def _completed(teller: Teller, path: str) -> list[str]:
    """Put gunicorn's own beside what a file of JSON says, where that says only some; what those are."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return []  # whoever reads it says so
    lacking = [name for name in _PARTS if name not in found] if isinstance(found, dict) else []
    if lacking:
        _log_by(teller, found, _JSON)
    return lacking


def _log_by(teller: Teller, told: Mapping[str, Any], name: str) -> None:
    """Logging is to be configured by what a dictionary says, and by gunicorn's own beside it."""
    teller.logging = {**_LOGGING, **told}
    if "gunicorn.access" in (teller.logging["loggers"] or ()):
        teller.put("access_log", "logger", teller.given[name].origin)


def _names_requests(path: str) -> bool:
    """Whether a file configures the logger of requests, of which gunicorn says nothing otherwise."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return True  # whoever reads it says so
    return any(name in text for name in (b"gunicorn.access", b"prefork.access"))


def _logconfig_dict(teller: Teller, row: ForeignSetting) -> None:
    if told := teller.value(row.name):
        _log_by(teller, told, row.name)


def _ca_certs(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    asks = whole(teller.value("cert_reqs", 0) or 0)
    if not value:
        return
    if asks == 0:
        teller.tell(row.name, "with cert_reqs = 0 it has no effect, so it is left out", differs=False)
        return
    if asks == 1:
        teller.tell("cert_reqs", "clients without a certificate are refused", differs=True)
    teller.put("ca_certs", value, origin)


def _jitter(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    most, jitter = whole(teller.value("max_requests", 0) or 0), whole(value or 0)
    if most and jitter:
        if jitter > most:
            teller.tell(row.name, f"more than max_requests, so it is {most}", differs=False)
        teller.put("max_requests_jitter", min(jitter, most), origin)


def _control_off(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if yes(value):
        teller.put("control", "off", origin)


def _root_path(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    if not value or value == "/":
        return
    if teller.command == "asgi":
        teller.put("script_name", str(value).rstrip("/"), origin)
    else:
        teller.tell(
            row.name, "it is for ASGI workers alone, so it is left out; SCRIPT_NAME is for others", differs=False
        )


def _of_asgi(name: str) -> Callable[[Teller, ForeignSetting], None]:
    """One that an ASGI worker alone has a use for, there as here."""

    def tell(teller: Teller, row: ForeignSetting) -> None:
        value, origin = teller.given[row.name]
        if teller.command == "asgi" and value is not None:
            teller.put(name, converted(row, value), origin)

    return tell


def _protocols(teller: Teller, row: ForeignSetting) -> None:
    value = teller.value(row.name)
    names = value.split(",") if isinstance(value, str) else listed(value or [])
    if any(str(name).strip() != "h1" for name in names):
        teller.plainly(row)


def _proxy_protocol(teller: Teller, row: ForeignSetting) -> None:
    value, origin = teller.given[row.name]
    teller.put(row.ours, "any" if value == "auto" else value, origin)


def _none(teller: Teller, row: ForeignSetting) -> None:
    """One that another's function looks at."""


SPECIAL: Final[Mapping[str, Callable[[Teller, ForeignSetting], Any]]] = {
    "config": _none,
    "wsgi_app": _none,
    "check_config": _none,
    "print_config": _none,
    "bind": _bind,
    "umask": _umask,
    "worker_class": _worker_class,
    "threads": _tell_threads,
    "worker_connections": _connections,
    "preload_app": _preload,
    "user": _account,
    "group": _account,
    "raw_env": _raw_env,
    "pythonpath": _pythonpath,
    "secure_scheme_headers": _schemes,
    "forwarded_allow_ips": _joined,
    "proxy_allow_ips": _joined,
    "errorlog": _errorlog,
    "capture_output": _capture,
    "loglevel": _loglevel,
    "logger_class": _logger,
    "access_log_format": _format,
    "statsd_host": _statsd,
    "statsd_prefix": _none,
    "syslog": _syslog,
    "syslog_addr": _none,
    "default_proc_name": _default_name,
    "syslog_prefix": _none,
    "disable_redirect_access_to_syslog": _none,
    "logconfig": _logconfig,
    "logconfig_json": _logconfig,
    "logconfig_dict": _logconfig_dict,
    "ca_certs": _ca_certs,
    "cert_reqs": _none,
    "max_requests_jitter": _jitter,
    "control_socket_disable": _control_off,
    "root_path": _root_path,
    "asgi_loop": _of_asgi("loop"),
    "asgi_lifespan": _of_asgi("lifespan"),
    "websocket_max_message_size": _of_asgi("ws_max_size"),
    "http_protocols": _protocols,
    "proxy_protocol": _proxy_protocol,
}
"""What to do with a setting, by its name; all others do as their row says."""
