"""``prefork asgi``, and what ``--worker-class`` of the other commands stands for. The servers are `prefork.embed`'s."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from prefork import embed
from prefork.cli.serving import ServingCommand, Starter, serving
from prefork.config import kinds
from prefork.config.embedding import EMBEDDING, options_of, worker_class, worker_options
from prefork.config.fields import SettingsTable, made, setting, table
from prefork.config.interface import meant
from prefork.config.load import DEFAULT, Configuration, Table
from prefork.embed.around import AroundASGI, AroundWSGI
from prefork.embed.base import Embedded
from prefork.errors import SettingsError, TargetError
from prefork.scoreboard.layout import Readiness
from prefork.system import zone
from prefork.system.natives import os
from prefork.wsgi import access
from prefork.wsgi import options as wsgi_options
from prefork.wsgi.command import NAMES
from prefork.wsgi.health import HealthCheck
from prefork.wsgi.options import WSGIOptions

if TYPE_CHECKING:
    from datetime import tzinfo

    from prefork.migration.retelling import Retelling

ASGI: Final = "ASGI"
"""The heading of what an ASGI server is told beside."""

_AROUND: Final = ("forwarded_allow_ips", "forwarded", "health_path", "script_name", "access_log", "access_log_format")
_DEFAULTS: Final = {"timeout": 30.0, "keepalive": 75.0, "defer_accept": 5}
_QUIET: Final[Mapping[str, Mapping[str, object]]] = {
    "gevent": {"log": None},
    "waitress": {"clear_untrusted_proxy_headers": False},
}
"""What servers do by themselves and is done around the application here: access logs, what proxies say."""

_THREADS: Final[Mapping[str, str]] = {"waitress": "threads", "cheroot": "numthreads"}
"""What a server calls its threads."""

_LONGEST: Final = 2**31 - 1

_ABOUT: Final = """\
Serve the ASGI application that MODULE:ATTRIBUTE names, or that MODULE:FACTORY() returns, with uvicorn or hypercorn in \
prefork's workers. The current folder is on the import path.

Every setting is a flag, a variable (PREFORK_ACCESS_LOG for --access-log) and a key of the file that --config or \
PREFORK_CONFIG names (access_log). A flag beats a variable, and a variable beats the file. Times are in seconds.

A worker is READY when the application has started up (lifespan). When it leaves, requests in hand are finished and \
websockets are closed with code 1012. timeout is for a loop that is blocked, not for requests that take long."""

_EPILOG: Final = """\
Signals, exit codes: as prefork serve (prefork serve --help).

Examples:
  prefork asgi shop:application
  prefork asgi 'shop:create_app()' --bind 0.0.0.0:8000 --workers 4
  prefork asgi shop.asgi:application --worker-class hypercorn --access-log -
  prefork asgi shop:application --worker-options limit_concurrency=100,server_header=false"""


class ASGIOptions(SettingsTable, kw_only=True):
    """What ``prefork asgi`` is told beyond `prefork.config.settings.Settings`. Checked when the command reads it."""

    worker_class: Literal["uvicorn", "hypercorn"] = worker_class(
        "uvicorn", "hypercorn", text="Which server runs in the workers; it has to be installed."
    )
    worker_options: str = worker_options()
    loop: Literal["auto", "asyncio", "uvloop"] = setting(
        "auto",
        ASGI,
        kinds.choice("auto", "asyncio", "uvloop"),
        "The event loop; auto is uvloop where that is installed.",
    )
    lifespan: Literal["auto", "on", "off"] = setting(
        "auto",
        ASGI,
        kinds.choice("auto", "on", "off"),
        "Whether the application is told of start and end; auto goes on without, if it knows nothing of that. Of "
        "uvicorn alone.",
    )
    ws_max_size: int = setting(
        1 << 24,
        ASGI,
        kinds.whole("a size in bytes", least=1, most=_LONGEST, metavar="BYTES"),
        "The longest message of a websocket.",
    )
    forwarded_allow_ips: str = wsgi_options.again("forwarded_allow_ips")
    forwarded: Literal["auto", "trusted", "keep", "drop"] = wsgi_options.again("forwarded")
    health_path: str = wsgi_options.again("health_path")
    script_name: str = wsgi_options.again("script_name")
    access_log: str = wsgi_options.again("access_log")
    access_log_format: str = wsgi_options.again("access_log_format")


def asgi(argv: Sequence[str], retelling: Retelling | None = None) -> int:
    """``prefork asgi``.

    Args:
        argv: The arguments behind the command's name.
        retelling: What another server's configuration became.

    Returns:
        The exit code.

    Raises:
        PreforkError: As `prefork.cli.serving.serving` does.
    """
    groups = (ASGI, EMBEDDING, wsgi_options.PROXIES, wsgi_options.LOGGING)
    return serving(
        ServingCommand(
            name="asgi",
            target="MODULE:ATTRIBUTE",
            about=_ABOUT,
            epilog=_EPILOG,
            run=_run_asgi,
            defaults=_DEFAULTS,
            names=NAMES,
            table=Table(fields=table(ASGIOptions), groups=groups, make=lambda **values: made(ASGIOptions, values)),
        ),
        argv,
        retelling,
    )


def _suits_asgi(found: object, name: str) -> None:
    if problem := meant(found, name, "asgi"):
        raise TargetError(problem)
    if not callable(found):
        raise TargetError(f"{name} is {type(found).__name__}, which can't be called; name an ASGI application")


def _run_asgi(text: str, configuration: Configuration, app_dir: str, start: Starter) -> int:
    """Serve. MASTER."""
    said: ASGIOptions = configuration.extra
    of_day = _zone(configuration)
    keepalive, level = configuration.settings.keepalive, configuration.settings.log_level
    if said.worker_class == "uvicorn":
        given: dict[str, object] = {
            "interface": "asgi3",
            "loop": said.loop,
            "lifespan": said.lifespan,
            "ws_max_size": said.ws_max_size,
            "timeout_keep_alive": keepalive,
            "proxy_headers": False,
            "access_log": False,
            "log_config": None,
        }
    else:
        given = {
            "mode": "asgi",
            "loop": said.loop,
            "websocket_max_message_size": said.ws_max_size,
            "keep_alive_timeout": keepalive,
            "errorlog": logging.getLogger("hypercorn.error"),
        }

    proxied = configuration.settings.proxy_protocol != "off"

    def around(application: Any, readiness: Callable[[], Readiness]) -> Any:
        _suits_asgi(application, text)
        _share_the_log(f"{said.worker_class}.error" if said.worker_class == "hypercorn" else "uvicorn", level)
        return AroundASGI(application, said, of_day, proxied=proxied, health=_health(said, readiness))

    def check(application: Any) -> None:
        _suits_asgi(application, text)
        access.check(said.access_log)

    options = {**given, **options_of(said.worker_options)}
    return _run(text, configuration, app_dir, start, options, around, check, NAMES)


def _zone(configuration: Configuration) -> tzinfo | None:
    """Whose time of day the access log has; before the application may change it. That there is one has been seen."""
    return zone.find(configuration.settings.log_timezone, os.environ.get("TZ"))


def _health(said: ASGIOptions | WSGIOptions, readiness: Callable[[], Readiness]) -> HealthCheck | None:
    return HealthCheck(said.health_path, readiness) if said.health_path else None


def _share_the_log(name: str, level: str) -> None:
    """Have a server's logger write where ours does, from warnings on: that it started and stopped is told by ours."""
    logger = logging.getLogger(name)
    logger.handlers = list(logging.getLogger("prefork").handlers)
    logger.propagate = False
    logger.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def run_wsgi(
    text: str, configuration: Configuration, app_dir: str, start: Starter, suits: Callable[[object, str], object]
) -> int:
    """Serve a WSGI application by the server that ``worker_class`` names. MASTER.

    Args:
        text: The target.
        configuration: Of ``prefork wsgi``.
        app_dir: The folder that is put first on the import path.
        start: As for `prefork.cli.serving.ServingCommand`.
        suits: Raises when the loaded target is no such application.

    Returns:
        The exit code.

    Raises:
        PreforkError: As `prefork.server.run` does.
    """
    said, of_day = configuration.extra, _zone(configuration)
    proxied = configuration.settings.proxy_protocol != "off"

    def around(application: Any, readiness: Callable[[], Readiness]) -> Any:
        suits(application, text)
        return AroundWSGI(application, said, of_day, proxied=proxied, health=_health(said, readiness))

    def check(application: Any) -> None:
        suits(application, text)
        access.check(said.access_log)

    options = {**_QUIET.get(said.worker_class, {}), **options_of(said.worker_options)}
    return _run(text, configuration, app_dir, start, options, around, check, NAMES)


def run_any(text: str, configuration: Configuration, app_dir: str, start: Starter) -> int:
    """Serve what ``worker_class`` of ``prefork serve`` serves. MASTER.

    Args:
        text: The target.
        configuration: Of ``prefork serve``.
        app_dir: The folder that is put first on the import path.
        start: As for `prefork.cli.serving.ServingCommand`.

    Returns:
        The exit code.

    Raises:
        PreforkError: As `prefork.server.run` does.
    """
    return _run(text, configuration, app_dir, start, options_of(configuration.extra.worker_options), None, None)


def refuse(configuration: Configuration) -> None:
    """Refuse settings of ``prefork wsgi`` that the server which ``worker_class`` names knows nothing of.

    Raises:
        SettingsError: There are some.
    """
    name = configuration.extra.worker_class
    given = [field.name for field in wsgi_options.fields() if configuration.given[field.name].origin != DEFAULT]
    problems = [
        f"{wrong}: {name} reads requests by itself, with limits of its own (worker_options); leave it out (from "
        f"{configuration.given[wrong].origin})"
        for wrong in given
        if wrong not in _AROUND
    ]
    if configuration.settings.preload and name == "gevent":
        problems.append("preload: gevent patches what an application imports, in each worker; leave it out")
    if problems:
        raise SettingsError(problems)


def _run(
    text: str,
    configuration: Configuration,
    app_dir: str,
    start: Starter,
    options: Mapping[str, object],
    around: Callable[[Any, Callable[[], Readiness]], Any] | None,
    check: Callable[[Any], object] | None,
    names: tuple[str, ...] = (),
) -> int:
    name, threads = configuration.extra.worker_class, configuration.settings.threads
    if threads > 1:
        own = f"worker_options {_THREADS[name]}={threads}" if name in _THREADS else "worker_options"
        raise SettingsError(
            f"threads: {name} has a loop of its own, which serves as many at once as it will ({own}); leave threads = "
            f"{threads} out (from {configuration.given['threads'].origin})"
        )

    def worker(application: object) -> type[Embedded]:
        try:
            kind: type[Embedded] = getattr(embed, name)(application, **options)
        except TypeError as error:
            raise SettingsError(f"worker_options: {error}") from None
        kind.given = dataclasses.replace(
            kind.given, folder=app_dir, names=names, around=around, check=check, path=configuration.path
        )
        return kind

    by_name = worker(text)
    return start(
        text,
        configuration.settings,
        app_dir=app_dir,
        make=lambda found, _: worker(found),
        names=names,
        own=by_name,
        hooks=configuration.hooks,
        path=configuration.path,
    )
