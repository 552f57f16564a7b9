"""The command ``prefork``: picks a subcommand, and shows errors in plain lines.

A subcommand is a function of its arguments that returns an exit code. It is named in `COMMANDS` by module and
attribute and imported when it is asked for, so that one may live in a module that builds on this one, and none pays
for the others: what only asks a running server has none of what serves.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TextIO

from prefork._version import __version__
from prefork.errors import PreforkError, RefusedError, did_you_mean, printable_lines
from prefork.system import signals
from prefork.system.importing import Importing
from prefork.system.natives import os
from prefork.system.need import refused

_STDERR: Final = 2

INTERRUPTED: Final = 128 + 2
"""The exit code after Ctrl-C where nothing has yet begun to serve: what a shell reports for SIGINT."""


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        name: What is typed.
        summary: What it does, in a few words.
        function: ``module:attribute`` of the function that runs it, given the arguments behind its name.
        serves: Whether it is made by `prefork.cli.serving.serving`.
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
        "prefork.cli.serving:serve",
        True,
        "prefork.cli.serving:ServeOptions",
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
    with Importing():
        found = importlib.import_module(module)
    function: Callable[[Sequence[str]], int] = getattr(found, attribute)
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
    try:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
            os.set_inheritable(fd, True)  # the same holds for what the application executes
        os.close(fd)
    except OSError:
        return  # a root of few files has no such device, and who starts us there has them open
    # Python has None where it found nothing open; an application writes there, to wsgi.errors for one (PEP 3333).
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115  # it stays
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


_CHECK_HELP: Final = """\
usage: prefork check [COMMAND] TARGET [FLAG ...]
       prefork check --live [--control PATH] [--timeout SECONDS]

Say whether a server would start, without listening or making a file: settle the configuration, ask for each address
and file whether it could be had - but for who has it now, a running server of the same settings, say - and load the
application, in a process of its own and as the user that workers would run as. Descriptors and a service manager's
sockets (fd://, systemd:) are those that the check itself was given. COMMAND is the one that would serve (without it,
serve); TARGET and flags are those that it would be given. Exit codes: 0 fine, 2 a mistake in the command or the
configuration, 3 an address can't be listened on, 4 the application doesn't start.

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
