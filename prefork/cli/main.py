"""The command ``prefork``: picks a subcommand, shows errors in plain lines, and sets up the log.

A subcommand is a function of its arguments that returns an exit code. It is named in `COMMANDS` by module and
attribute and imported when it is asked for, so that one may live in a module that builds on this one, and none pays
for the others. One that serves something describes itself as a `ServingCommand` and leaves the rest to `serving`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TextIO

from prefork import server
from prefork._version import __version__
from prefork.cli import flags
from prefork.cli.flags import CommandLine
from prefork.config import launch, settings, target
from prefork.config import load as config
from prefork.config.embedding import EMBEDDING, SYNC, worker_class, worker_options
from prefork.config.fields import GROUPS, Field, located, made, table
from prefork.config.load import Configuration, Table
from prefork.errors import PreforkError, RefusedError, did_you_mean, printable_lines
from prefork.hooks import Hooks
from prefork.services import configured
from prefork.supervisor import environment
from prefork.system import identity, signals
from prefork.system.natives import os
from prefork.system.need import refused

if TYPE_CHECKING:
    from prefork.migration.retelling import Retelling

_STDERR: Final = 2

INTERRUPTED: Final = 128 + 2
"""The exit code after Ctrl-C where nothing has yet begun to serve: what a shell reports for SIGINT."""


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        name: What is typed.
        summary: What it does, in a few words.
        function: ``module:attribute`` of the function that runs it, given the arguments behind its name.
        serves: Whether it is made by `serving`.
        options: ``module:class`` of the table of its own settings, beside those of every server; "" where it has none.
    """

    name: str
    summary: str
    function: str
    serves: bool = False
    options: str = ""


COMMANDS: Final = (
    Command(
        "serve",
        "serve a function, or a Worker of your own",
        "prefork.cli.main:serve",
        True,
        "prefork.cli.main:ServeOptions",
    ),
    Command(
        "wsgi", "serve a WSGI application", "prefork.wsgi.command:wsgi", True, "prefork.wsgi.command:CommandOptions"
    ),
    Command(
        "asgi",
        "serve an ASGI application, with uvicorn or hypercorn",
        "prefork.embed.command:asgi",
        True,
        "prefork.embed.command:ASGIOptions",
    ),
    Command(
        "gunicorn", "serve what gunicorn serves, by its own configuration", "prefork.cli.retold:gunicorn", serves=True
    ),
    Command("uwsgi", "serve what uWSGI serves, by its ini or YAML", "prefork.cli.retold:uwsgi", serves=True),
    Command("check", "say whether that would start, or with --live whether it runs well", "prefork.cli.main:check"),
    Command("status", "show what a running server does", "prefork.cli.commands:status"),
    Command("top", "show it live", "prefork.cli.top:top"),
    Command("reload", "replace all workers, by new code", "prefork.cli.commands:reload"),
    Command(
        "upgrade", "execute new code in the master's process, then replace all workers", "prefork.cli.commands:upgrade"
    ),
    Command("scale", "run another number of workers", "prefork.cli.commands:scale"),
    Command("recycle", "replace one worker", "prefork.cli.commands:recycle"),
    Command("dump", "print the tracebacks of a worker", "prefork.cli.commands:dump"),
    Command("run", "run a Python file in a worker", "prefork.cli.run:run"),
    Command("stop", "stop a running server", "prefork.cli.commands:stop"),
    Command("completion", "print what bash, zsh or fish completes by", "prefork.cli.completion:completion"),
    Command("exporter", "serve its metrics for Prometheus", "prefork.wsgi.exporter:exporter"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code: 0 after a stop that was asked for, 2 for a mistake in the command or the configuration, 3 when
        an address can't be listened on, 4 when the application failed to start.
    """
    _open_standard_streams()
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except PreforkError as error:
        _complain("".join(f"prefork: error: {line}\n" for line in str(error).split("\n")))
        return error.exit_code
    except OSError as error:
        if error.errno not in {errno.EMFILE, errno.ENFILE}:
            raise
        _complain(f"prefork: error: {refused('a descriptor', '', error)}\n")
        return RefusedError.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _leave()


def _dispatch(argv: list[str]) -> int:
    name = argv[0] if argv else ""
    for command in COMMANDS:
        if command.name == name:
            if not command.serves:
                signals.let_in()
            return call(command.function, argv[1:])
    if name in {"-h", "--help", "help"}:
        write(_overview())
        return 0
    if name in {"-V", "--version"}:
        write(f"prefork {__version__}\n")
        return 0
    names = [command.name for command in COMMANDS]
    remedy = did_you_mean(name, names, "prefork --help lists them")
    _complain(f"prefork: error: {name!r} is not a command; {remedy}\n" if argv else _overview())
    return 2


def call(name: str, argv: Sequence[str]) -> int:
    """Import the function of a command and run it.

    Args:
        name: ``module:attribute``.
        argv: Its arguments.

    Returns:
        The exit code.
    """
    module, _, attribute = name.partition(":")
    function: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), attribute)
    return function(argv)


def _overview() -> str:
    lines = [f"  {command.name:<10}  {command.summary}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: prefork COMMAND ...",
            "",
            "Servers made of many processes on one listening socket, that lose nothing.",
            "",
            *lines,
            "",
            "  prefork COMMAND --help tells more, prefork --version says which release this is.",
            "",
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCommand:
    """A subcommand that serves something.

    Args:
        name: The subcommand's name.
        target: What stands for its argument in the help.
        about: What it does, in paragraphs.
        epilog: The end of its help: examples, signals.
        run: Serves, given the target, the configuration and the application's folder; returns the exit code.
        defaults: Where its defaults differ from those of `Settings`.
        table: Its own settings, if it has any.
        names: The attributes that a module alone stands for, the first first.
        suits: Raises when a loaded target is not what it serves; None for what `prefork.server.run` serves.
        refuse: Raises when the configuration says what it can't do; None where there is no such thing.
    """

    name: str
    target: str
    about: str
    epilog: str
    run: Callable[[str, Configuration, str], int]
    defaults: Mapping[str, object] = field(default_factory=dict)
    table: Table[Any] | None = None
    names: tuple[str, ...] = ()
    suits: Callable[[object, str], object] | None = None
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
    line = flags.read(argv, fields)
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
    if line.check:
        server.check(line.target, configuration.settings, app_dir=folder, names=command.names, suits=command.suits)
        write(f"{line.target} can be served\n")
        return 0
    configuration = _located(command, configuration, begin)
    settled = configuration.settings
    who = identity.resolve(settled.user, settled.group, "no")
    configured.configure_log(settled, identity.owner(who), os.environ.get("TZ"))
    if retelling is not None:
        _retold().tell(retelling)
    if not settled.name:
        configuration = replace(configuration, settings=replace(settled, name=line.target))
    return command.run(line.target, configuration, folder)


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
        checks=lambda values: _problems_of_the_target(line, values, command.names),
    )
    if command.refuse is not None:
        command.refuse(configuration)
    if retelling is None or not retelling.hooks:
        return configuration
    return replace(configuration, hooks=Hooks(**retelling.hooks))


def _located(command: ServingCommand, configuration: Configuration, begin: str) -> Configuration:
    """The same, with every file by its absolute path; relative ones begin in the folder ``begin``."""
    extra = configuration.extra
    if command.table is not None:
        extra = located(extra, begin, command.table.fields)
    return replace(configuration, settings=located(configuration.settings, begin), extra=extra)


def _retold() -> Any:
    """The module that knows what to say of a retelling; it imports this one."""
    return importlib.import_module("prefork.cli.retold")


def _problems_of_the_target(line: CommandLine, values: Mapping[str, object], names: tuple[str, ...]) -> Iterator[str]:
    """What can be seen to be wrong with the target before anything runs."""
    folder = str(values.get("chdir", ""))
    if folder and not os.path.isdir(folder):
        yield f"chdir: {folder!r} is not a folder; name one"
    elif line.target is not None:
        try:
            target.check(line.target, os.path.join(folder, line.app_dir), names)
        except PreforkError as error:
            yield str(error)


def _help(command: ServingCommand, fields: Sequence[Field]) -> str:
    own_defaults = [replace(field, default=command.all_defaults.get(field.name, field.default)) for field in fields]
    groups = GROUPS + (command.table.groups if command.table else ())
    usage = f"prefork {command.name} {command.target} [FLAG ...]"
    return flags.help_text(usage, command.about, own_defaults, groups, command.epilog)


def write(text: str) -> None:
    """Write to standard output. A reader that went away, as ``head`` does, has seen enough, and so has none at all.

    Raises:
        PreforkError: it can't be written.
    """
    try:
        _put(sys.stdout, text)
    except BrokenPipeError:
        pass
    except OSError as error:
        raise PreforkError(f"standard output can't be written: {error.strerror}; send it elsewhere") from None


def _complain(text: str) -> None:
    """Write to standard error. When that fails, the exit code still tells."""
    with contextlib.suppress(OSError):
        _put(sys.stderr, text)


def _put(stream: TextIO | None, text: str) -> None:
    if stream is None:  # whoever started us has closed it
        return
    try:
        encoding = stream.encoding or "utf-8"  # an io.StringIO in its place has none
        text = printable_lines(text)  # whatever names, errors and tracebacks hold: it may be a terminal
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError:
        _drop(stream)
        raise


def _drop(stream: TextIO) -> None:
    """Send what a stream still holds nowhere: it would fail once more when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):  # it has no descriptor, or is closed
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def _leave() -> None:
    """Write what others than :func:`write` have left in the standard streams: a screen, the application's print().

    Where that can't be done, the interpreter's end would try again, complain twice and change the exit code to 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            _drop(stream)
        except ValueError:
            pass  # somebody has closed it


def _open_standard_streams() -> None:
    """Open what whoever started us has closed: else the next socket would get that number, and the log with it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)  # the same holds for what the application executes
    os.close(fd)
    # Python has None where it found nothing open; an application writes there, to wsgi.errors for one (PEP 3333).
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115  # it stays
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
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


_CHECK_HELP: Final = """\
usage: prefork check [COMMAND] TARGET [FLAG ...]
       prefork check --live [--control PATH] [--timeout SECONDS]

Say whether a server would start, without listening: settle the configuration and load the application, in a process
of its own and as the user that workers would run as. COMMAND is the one that would serve (without it, serve); TARGET
and flags are those that it would be given. Exit codes: 0 fine, 2 a mistake in the command or the configuration, 4 the
application doesn't start.

With --live, ask the server that runs here whether it is ready. Exit codes: 0 ready, 1 not.

Examples:
  prefork check serve hello:handle --config hello.toml
  prefork check --live
"""


def check(argv: Sequence[str]) -> int:
    """``prefork check``."""
    if "--live" in argv:
        return call("prefork.cli.commands:live", [argument for argument in argv if argument != "--live"])
    if not argv or argv[0] in {"-h", "--help"}:
        write(_CHECK_HELP)
        return 0 if argv else 2
    named = argv[0] if argv[0] in {command.name for command in COMMANDS if command.serves} else ""
    rest = list(argv[1:] if named else argv)
    function = next(command.function for command in COMMANDS if command.name == (named or "serve"))
    return call(function, [*rest, "--check"])


def _run(text: str, configuration: Configuration, app_dir: str) -> int:
    if configuration.extra.worker_class != SYNC:
        run: Callable[..., int] = importlib.import_module("prefork.embed.command").run_any
        return run(text, configuration, app_dir)
    return server.run(text, configuration.settings, app_dir=app_dir, hooks=configuration.hooks)
