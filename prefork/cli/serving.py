"""Commands that serve: from arguments to a configuration, a log, and what it is that serves.

Each describes itself as a `ServingCommand` and leaves the rest to `serving`. ``prefork serve`` is one of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from prefork import server
from prefork.cli import flags
from prefork.cli.flags import CommandLine
from prefork.cli.main import write
from prefork.config import launch, settings, target
from prefork.config import load as config
from prefork.config.embedding import EMBEDDING, SYNC, worker_class, worker_options
from prefork.config.fields import GROUPS, Field, SettingsTable, located, made, table
from prefork.config.load import Configuration, Table
from prefork.errors import PreforkError
from prefork.hooks import Hooks
from prefork.services import configured
from prefork.supervisor import environment
from prefork.system import identity, signals
from prefork.system.natives import os
from prefork.system.record import Record, changed, fresh

if TYPE_CHECKING:
    from prefork.migration.retelling import Retelling


Starter = Callable[..., int]
"""What starts a server, or finds out whether it would start: `prefork.server.run` or `prefork.server.check`."""


class ServingCommand(Record, kw_only=True):
    """A subcommand that serves something.

    Args:
        name: The subcommand's name.
        target: What stands for its argument in the help.
        about: What it does, in paragraphs.
        epilog: The end of its help: examples, signals.
        run: Serves, given the target, the configuration, the application's folder and how to start:
            `prefork.server.run`, or `prefork.server.check` to find out whether that would; returns the exit code.
        defaults: Where its defaults differ from those of `Settings`.
        table: Its own settings, if it has any.
        names: The attributes that a module alone stands for, the first first.
        refuse: Raises when the configuration says what it can't do; None where there is no such thing.
    """

    name: str
    target: str
    about: str
    epilog: str
    run: Callable[[str, Configuration, str, Starter], int]
    defaults: Mapping[str, object] = fresh(factory=dict)
    table: Table[Any] | None = None
    names: tuple[str, ...] = ()
    refuse: Callable[[Configuration], object] | None = None

    @property
    def all_defaults(self) -> Mapping[str, object]:
        """Its own defaults and those of every command: a library makes no control socket unasked, a command does."""
        return {"control": "auto", **self.defaults}


def serving(command: ServingCommand, argv: Sequence[str], retelling: Retelling | None = None) -> int:
    """Run a subcommand that serves: read its arguments, settle the configuration, set up the log, serve.

    Args:
        command: Which.
        argv: The arguments behind its name.
        retelling: What another server's configuration became; see `prefork.cli.retold`.

    Returns:
        The exit code.

    Raises:
        SettingsError: With all problems of arguments and configuration at once.
        PreforkError: As the command's ``run`` raises it.
    """
    masked = launch.begin()
    fields = settings.fields() + (command.table.fields if command.table else ())
    line = flags.read(argv, fields, lambda name: _of_sibling(name, command.name))
    if line.help:
        write(_help(command, fields))
        return 0
    configuration = _settled(command, line, retelling)
    if retelling is not None and "explain" in retelling.asks:
        write(_retold().explanation(retelling, configuration, command.name))
        return 0
    if line.print_config or line.target is None:
        write(configuration.toml())
        return 0
    if retelling is None:  # else it has been done before another server's configuration was executed
        launch.Launch.keep()
        launch.name_the_path()
    begin = environment.folder_of(configuration.settings)
    folder = launch.absolute(os.path.join(configuration.settings.chdir, line.app_dir))
    foreign = line.check or configuration.settings.hooks or configuration.hooks
    if foreign and not masked:
        signals.let_in()
    configuration = _located(command, configuration, begin)
    settled = configuration.settings
    who = identity.resolve(settled.user, settled.group, "no")
    send_log = configured.check_log if line.check else configured.configure_log
    send_log(settled, identity.owner(who), os.environ.get("TZ"), configuration.logging)
    if line.check:
        command.run(line.target, configuration, folder, server.check)
        write(f"{line.target} can be served\n")
        return 0
    if retelling is not None:
        _retold().tell(retelling)
    if not settled.name:
        configuration = changed(configuration, settings=changed(settled, name=line.target))
    return command.run(line.target, configuration, folder, server.run)


def _settled(command: ServingCommand, line: CommandLine, retelling: Retelling | None) -> Configuration:
    """The configuration, from all sources.

    Raises:
        SettingsError: With all problems of arguments and configuration at once.
    """
    complaints = list(line.complaints)
    if line.target is None and not line.print_config and not complaints:
        complaints.append(f"there is nothing to serve; give {command.target} (prefork {command.name} --help)")
    configuration = config.load(
        line.flags,
        os.environ,
        file=line.config,
        defaults=command.all_defaults,
        retold=None if retelling is None else retelling.values,
        table=command.table,
        complaints=complaints,
        checks=lambda values: _problems_of_the_target(line, values, command.names, retelling),
        siblings=lambda name: _of_sibling(name, command.name),
    )
    if command.refuse is not None:
        command.refuse(configuration)
    if retelling is None:
        return configuration
    hooks = Hooks(**retelling.hooks) if retelling.hooks else configuration.hooks
    return changed(configuration, hooks=hooks, logging=retelling.logging, path=retelling.lent)


def _located(command: ServingCommand, configuration: Configuration, begin: str) -> Configuration:
    """The same, with every file by its absolute path; relative ones begin in the folder ``begin``."""
    extra = configuration.extra
    if command.table is not None:
        extra = located(extra, begin, command.table.fields)
    return changed(configuration, settings=located(configuration.settings, begin), extra=extra)


def _of_sibling(name: str, served_by: str) -> str:
    said: str = importlib.import_module("prefork.cli.siblings").of_sibling(name, served_by)
    return said


def _retold() -> Any:
    """The module that knows what to say of a retelling; it imports this one."""
    return importlib.import_module("prefork.cli.retold")


def _problems_of_the_target(
    line: CommandLine, values: Mapping[str, object], names: tuple[str, ...], retelling: Retelling | None
) -> Iterator[str]:
    """What can be seen to be wrong with the target before anything runs."""
    folder = str(values.get("chdir", ""))
    if folder and not os.path.isdir(folder):
        yield f"chdir: {folder!r} is not a folder; name one"
    elif line.target is not None:
        try:
            lent = () if retelling is None else retelling.lent
            target.check(line.target, os.path.join(folder, line.app_dir), names, lent)
        except PreforkError as error:
            yield str(error)


def _help(command: ServingCommand, fields: Sequence[Field]) -> str:
    own_defaults = [changed(field, default=command.all_defaults.get(field.name, field.default)) for field in fields]
    groups = GROUPS + (command.table.groups if command.table else ())
    usage = f"prefork {command.name} {command.target} [FLAG ...]"
    return flags.help_text(usage, command.about, own_defaults, groups, command.epilog)


class ServeOptions(SettingsTable, kw_only=True):
    """What ``prefork serve`` is told beside the settings. Checked when the command reads it."""

    worker_class: Literal["sync", "aiohttp", "asyncio", "tornado"] = worker_class(
        SYNC,
        "aiohttp",
        "asyncio",
        "tornado",
        text="What the target is: sync, a function of connection and address, or a Worker; aiohttp or tornado, an "
        "application of theirs; asyncio, a coroutine function of reader and writer.",
    )
    worker_options: str = worker_options()


_SERVE_ABOUT: Final = """\
Serve what MODULE:ATTRIBUTE names: a function handle(connection, address), called in a worker process with one \
connection at a time, or a subclass of prefork.Worker. MODULE:FACTORY() serves what the factory returns. The current \
folder is on the import path.

Every setting is a flag, a variable (PREFORK_MAX_REQUESTS for --max-requests) and a key of the file that --config or \
PREFORK_CONFIG names (max_requests). A flag beats a variable, and a variable beats the file. Times are in seconds."""

_SERVE_EPILOG: Final = """\
Signals to the master process:
  TERM        stop; all who are connected already are served (graceful_timeout)
  INT, QUIT   stop; the connections in hand are finished (quick_timeout)
  HUP         replace all workers, one by one, by new code
  TTIN, TTOU  one worker more, one fewer
  USR1        open the log file anew
  USR2        upgrade: execute the new code in this process, then replace all workers

Exit codes:
  0           stopped as asked
  2           a mistake in the command or the configuration
  3           an address can't be listened on
  4           the application didn't start

Examples:
  prefork serve hello:handle
  prefork serve hello:handle --bind 0.0.0.0:8000 --workers 4 --timeout 30
  prefork serve shop.server:ShopWorker --bind unix:/run/shop --socket-mode 0660
  prefork serve hello:handle --max-requests 10000 --max-requests-jitter 1000
  PREFORK_WORKERS=8 prefork serve hello:handle -c shop.toml --print-config"""


def serve(argv: Sequence[str], retelling: Retelling | None = None) -> int:
    """``prefork serve``."""
    return serving(
        ServingCommand(
            name="serve",
            target="MODULE:ATTRIBUTE",
            about=_SERVE_ABOUT,
            epilog=_SERVE_EPILOG,
            run=_run,
            table=Table(
                fields=table(ServeOptions), groups=(EMBEDDING,), make=lambda **values: made(ServeOptions, values)
            ),
        ),
        argv,
        retelling,
    )


def _run(text: str, configuration: Configuration, app_dir: str, start: Starter) -> int:
    if configuration.extra.worker_class != SYNC:
        run: Callable[..., int] = importlib.import_module("prefork.embed.command").run_any
        return run(text, configuration, app_dir, start)
    return start(text, configuration.settings, app_dir=app_dir, hooks=configuration.hooks, path=configuration.path)
