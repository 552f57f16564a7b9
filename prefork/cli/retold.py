"""``prefork gunicorn``, ``prefork uwsgi``: serve by another server's configuration, or explain what that becomes.

What it becomes is settled by `prefork.migration`; from there on all is as with the command of ours that serves it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from prefork.cli.main import COMMANDS, write
from prefork.config import launch
from prefork.config.load import Configuration
from prefork.errors import SettingsError, printable
from prefork.migration.retelling import BIND, PASSED, Remark, Retelling
from prefork.services import log as logs
from prefork.supervisor import fdstore
from prefork.system import custody, signals, systemd
from prefork.system.natives import os

_log = logging.getLogger("prefork")

_LOGGERS: Final = {"gunicorn": ("gunicorn.error",)}
"""Where an application looks for the log of its server; Flask's are often told to log there."""

_PRINTING: Final = {"--explain", "--print-config"}

_GUNICORN_HELP: Final = """\
usage: prefork gunicorn [--explain] [GUNICORN'S FLAG ...] [MODULE:APPLICATION]

Serve what gunicorn would serve: its flags, GUNICORN_CMD_ARGS and gunicorn.conf.py (or -c FILE, which is executed) are
read as gunicorn reads them, and every setting becomes what it is called here. Each that has no equal is one line in the
log. What gunicorn knows nothing of can be set by variables, PREFORK_MIN_WORKERS=2, which beat what gunicorn's say.

  --explain       Print the TOML that it comes to, with the origin of each value and what has no equal; start nothing.
  --check-config  Say whether it would start, and exit.
  --print-config  Print what holds and where each value came from, as TOML, and exit.
  -h, --help      Print this and exit.

The page "Coming from gunicorn" of the documentation has a row for each of gunicorn's settings.

Examples:
  prefork gunicorn -w 4 -b 0.0.0.0:8000 shop:application
  prefork gunicorn -c gunicorn.conf.py shop.wsgi --explain > shop.toml
  prefork wsgi shop.wsgi:application -c shop.toml
"""


def gunicorn(argv: Sequence[str]) -> int:
    """``prefork gunicorn``.

    Args:
        argv: gunicorn's arguments, and ``--explain``.

    Returns:
        The exit code.

    Raises:
        PreforkError: As `prefork.cli.serving.serving` does, and when gunicorn's configuration can't be read or served.
    """
    from prefork.migration.gunicorn import retell

    return _run(argv, _GUNICORN_HELP, retell)


_UWSGI_HELP: Final = """\
usage: prefork uwsgi [--explain] FILE[:SECTION] [UWSGI'S FLAG ...]

Serve what uWSGI would serve, over HTTP: its ini, YAML or JSON file is read with its placeholders, and its flags, and
every option becomes what it is called here. Each that has no equal is one line in the log. What uWSGI knows nothing of
can be set by variables, PREFORK_MAX_FDS=0.9, which beat what uWSGI's say.

  --explain       Print the TOML that it comes to, with the origin of each value and what has no equal; start nothing.
  --check         Say whether it would start, and exit.
  --print-config  Print what holds and where each value came from, as TOML, and exit.
  -h, --help      Print this and exit.

Examples:
  prefork uwsgi shop.ini
  prefork uwsgi --http :8000 --module shop:app --processes 4
  prefork uwsgi shop.ini --explain > shop.toml
"""


def uwsgi(argv: Sequence[str]) -> int:
    """``prefork uwsgi``.

    Args:
        argv: uWSGI's arguments, and ``--explain``.

    Returns:
        The exit code.

    Raises:
        PreforkError: As `prefork.cli.serving.serving` does, and when uWSGI's configuration can't be read or served.
    """
    from prefork.migration.uwsgi import retell

    return _run(argv, _UWSGI_HELP, retell)


def _run(argv: Sequence[str], help_text: str, retell: Callable[[Sequence[str], Mapping[str, str]], Retelling]) -> int:
    if "-h" in argv or "--help" in argv:
        write(help_text)
        return 0
    passed = _begin()
    own = frozenset(sys.path)
    # What a configuration prints is not to stand in the TOML that is asked for.
    with _to_standard_error() if _PRINTING.intersection(argv) else contextlib.nullcontext():
        retelling = retell(argv, os.environ)
    if passed:
        text = f"it listens on the sockets that the service manager has passed, and nowhere else ({BIND}={PASSED})"
        remark = Remark(retelling.source != "gunicorn", text)
        retelling = dataclasses.replace(retelling, remarks=(*retelling.remarks, remark))
    return _served(retelling, own)


@contextlib.contextmanager
def _to_standard_error() -> Iterator[None]:
    """Send what is written to standard output there for the block, by whatever process."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _begin() -> bool:
    """What has to be done before a configuration is executed, whose code may change this process.

    Returns:
        Whether the server is to listen on sockets that a service manager has passed.
    """
    if not launch.begin():
        signals.let_in()
    passed = _takes_passed()
    launch.Launch.keep()
    launch.name_the_path()
    return passed


def _takes_passed() -> bool:
    """Have the server listen on what a service manager passes, as gunicorn and uWSGI do without being told.

    By a variable, for the next image of this process is passed nothing, and is to listen there as well.
    """
    if os.environ.get(BIND) or not fdstore.split(systemd.listen_fds(dict(os.environ)))[1]:
        return False
    os.environ[BIND] = PASSED
    return True


def _served(retelling: Retelling, own: Collection[str]) -> int:
    """Serve what was retold, by the command of ours that does.

    Args:
        retelling: It.
        own: What had been on the import path before there was any configuration.
    """
    os.environ.update(retelling.environment)
    user = "user" in retelling.values
    if user and retelling.hooks and os.geteuid() == 0:
        _refuse_strangers()
    path = [launch.absolute(folder) for folder in retelling.path]
    added = [folder for folder in sys.path if folder not in own]
    # As root this process imports nothing from a folder that is another's. Hooks that do can't be told from those that
    # don't; without a user they run as the application does.
    lent = [*filter(custody.stranger, [*path, *added])] if os.geteuid() == 0 and (user or not retelling.hooks) else []
    sys.path[:] = [folder for folder in [*path, *sys.path] if folder not in lent or folder in own]
    retelling = dataclasses.replace(retelling, lent=tuple(lent))
    argv = [] if retelling.target is None else [retelling.target]
    argv += [f"--{name}" for name in ("check", "print-config") if name in retelling.asks]
    named = next(command.function for command in COMMANDS if command.name == retelling.command)
    module, _, attribute = named.partition(":")
    function: Callable[[Sequence[str], Retelling], int] = getattr(importlib.import_module(module), attribute)
    return function(argv, retelling)


def _refuse_strangers() -> None:
    """The hooks are code that root runs: as with the setting hooks, their folder has to be root's alone."""
    stranger = custody.stranger(os.getcwd())
    if stranger:
        raise SettingsError(
            f"hooks would run with the master's privileges, from a folder that is not root's alone ({stranger}); have "
            "root own it (chown, chmod go-w), or leave hooks or user out"
        )


def tell(retelling: Retelling) -> None:
    """Log what has no equal, by whatever name an application calls the log. It has been set up."""
    for name in _LOGGERS.get(retelling.source, ()):
        logs.lend(name)
    for remark in retelling.remarks:
        level = logging.WARNING if remark.differs else logging.INFO
        _log.log(level, "%s: %s", retelling.source, remark.text)


def explanation(retelling: Retelling, configuration: Configuration, command: str) -> str:
    """What a configuration came to: TOML that is ours, and comments about all else.

    Args:
        retelling: What it became.
        configuration: What holds by it.
        command: The command of ours that serves it.
    """
    lines = [f"# prefork {command} {retelling.target or 'MODULE:ATTRIBUTE'} --config THIS-FILE"]
    lines += [f"# in the environment: {name}={value}" for name, value in retelling.environment.items()]
    if retelling.path:
        lines.append(f"# in the environment: PYTHONPATH={':'.join(retelling.path)}")
    if retelling.hooks:
        lines.append(
            f'# hooks = "MODULE"  # a module of yours with {", ".join(retelling.hooks)}, which this file can not hold'
        )
    if retelling.logging:
        lines.append(
            '# logconfig = "FILE"  # a file of TOML or JSON with all that logconfig_dict or logconfig_json and '
            "gunicorn's own say, which this one can not hold"
        )
    lines += ["", *configuration.toml(given=True).splitlines()]
    if retelling.remarks:
        lines.append(f"# What {retelling.source} has and prefork has not (!: something behaves otherwise):")
        lines += [f"# {'!' if remark.differs else '-'} {remark.text}" for remark in retelling.remarks]
    return "".join(f"{printable(line)}\n" for line in lines)
