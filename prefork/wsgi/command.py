"""``prefork wsgi``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from prefork.cli.serving import ServingCommand, Starter, serving
from prefork.config.embedding import EMBEDDING, SYNC, worker_class, worker_options
from prefork.config.fields import made, table
from prefork.config.interface import meant
from prefork.config.load import Configuration, Table
from prefork.errors import TargetError
from prefork.worker import Worker
from prefork.wsgi import options
from prefork.wsgi.options import WSGIOptions

if TYPE_CHECKING:
    from prefork.migration.retelling import Retelling
    from prefork.wsgi.gateway import Application

NAMES: Final = ("application", "app")
"""What a module alone stands for."""

_ABOUT: Final = """\
Serve the WSGI application (PEP 3333) that MODULE:ATTRIBUTE names, or that MODULE:FACTORY() returns; MODULE alone \
stands for its application, or its app: one request at a time in each thread (--threads), on connections that are kept \
(--keepalive). The current folder is on the import path.

Every setting is a flag, a variable (PREFORK_LIMIT_REQUEST_BODY for --limit-request-body) and a key of the file that \
--config or PREFORK_CONFIG names (limit_request_body). A flag beats a variable, and a variable beats the file. Times \
are in seconds.

A client that is slow keeps a worker for as long as it is slow, within header_timeout, io_timeout and min_rate. Where \
many are, put a proxy in front that takes requests in and answers out at its own pace, or have workers to spare."""

_EPILOG: Final = """\
Signals, exit codes: as prefork serve (prefork serve --help).

Examples:
  prefork wsgi shop:application
  prefork wsgi 'shop:create_app()' --bind 0.0.0.0:8000 --workers 4
  prefork wsgi shop.wsgi:application --bind unix:/run/shop --forwarded-allow-ips ''
  prefork wsgi shop:application --access-log - --limit-request-body 10M
  prefork wsgi shop:application --bind 0.0.0.0:443 --certfile shop.pem --keyfile shop.key"""


def wsgi(argv: Sequence[str], retelling: Retelling | None = None) -> int:
    """``prefork wsgi``.

    Args:
        argv: The arguments behind the command's name.
        retelling: What another server's configuration became.

    Returns:
        The exit code.

    Raises:
        PreforkError: As `prefork.cli.serving.serving` does, and when httptools is missing or not safe.
    """
    return serving(
        ServingCommand(
            name="wsgi",
            target="MODULE[:ATTRIBUTE]",
            about=_ABOUT,
            epilog=_EPILOG,
            run=_run,
            defaults=options.DEFAULTS,
            names=NAMES,
            table=Table(fields=table(CommandOptions), groups=(EMBEDDING, *options.GROUPS), make=_made),
            refuse=_refuse,
        ),
        argv,
        retelling,
    )


class CommandOptions(WSGIOptions, kw_only=True):
    """What ``prefork wsgi`` is told: the options, and which server runs in the workers."""

    worker_class: Literal["sync", "bjoern", "cheroot", "gevent", "waitress", "werkzeug", "wsgiref"] = worker_class(
        SYNC,
        "bjoern",
        "cheroot",
        "gevent",
        "waitress",
        "werkzeug",
        "wsgiref",
        text="Which server runs in the workers: sync is prefork's own, one request at a time in each thread; the "
        "others have to be installed. There, forwarded_allow_ips, forwarded, script_name and access_log mean the same; "
        "limits are those of that server.",
    )
    worker_options: str = worker_options()


def _made(**values: Any) -> CommandOptions:
    """The options of values that have been checked."""
    return made(CommandOptions, values)


def _suits(found: object, name: str) -> None:
    """Raise when a loaded target is no WSGI application, with the command that serves it, where that shows."""
    if problem := meant(found, name, "wsgi"):
        raise TargetError(problem)
    if not callable(found):
        raise TargetError(f"{name} is {type(found).__name__}, which can't be called; name a WSGI application")


def _refuse(configuration: Configuration) -> None:
    """Raise when something was given that the server which ``worker_class`` names knows nothing of."""
    if configuration.extra.worker_class != SYNC:
        importlib.import_module("prefork.embed.command").refuse(configuration)


def _run(text: str, configuration: Configuration, app_dir: str, start: Starter) -> int:
    """Serve. MASTER."""
    if configuration.extra.worker_class != SYNC:
        run: Callable[..., int] = importlib.import_module("prefork.embed.command").run_wsgi
        return run(text, configuration, app_dir, start, _suits)
    from prefork.wsgi.common import Common
    from prefork.wsgi.worker import serving

    common = Common()
    if configuration.extra.access_log:
        importlib.import_module("prefork.wsgi.access")  # here, once for all workers

    def make(found: object, name: str) -> Callable[[], Worker]:
        _suits(found, name)
        return serving(cast("Application", found), configuration.extra, common)

    return start(
        text,
        configuration.settings,
        app_dir=app_dir,
        make=make,
        names=NAMES,
        hooks=configuration.hooks,
        path=configuration.path,
    )
