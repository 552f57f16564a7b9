"""A log that a file of the user's configures, as `logging.config` has it: TOML or JSON (dictConfig), ini (fileConfig).

The file is read once, by the master, before the application runs. What it gives the logger ``prefork`` - its handlers,
and while it propagates those of the root logger - is what the command's log goes to, whatever the application does to
logging later. Such handlers are other people's code: each record is a call of each, in the master too, which waits for
it. A file that was written for gunicorn serves as well: it gives them to loggers of gunicorn's names.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import logging
import logging.config
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from io import TextIOWrapper
from typing import Any, Final, NamedTuple

from prefork.errors import SettingsError
from prefork.services.log import ACCESS_LOGGER, LOGGER, LogTarget
from prefork.system import child, logfile
from prefork.system.natives import os
from prefork.system.need import READABLE, told

_INI: Final = (".ini", ".conf", ".cfg")
_OF_GUNICORN: Final = {LOGGER: "gunicorn.error", ACCESS_LOGGER: "gunicorn.access"}

LogSource = str | Mapping[str, Any]
"""The name of a file, whose end says what it is, or what dictConfig takes."""


class Configured(LogTarget):
    """Handlers that a file has configured.

    Args:
        handlers: Which.
    """

    def __init__(self, handlers: Iterable[logging.Handler]) -> None:
        super().__init__()
        self._handlers = tuple(handlers)
        self._files = [handler for handler in self._handlers if isinstance(handler, logging.FileHandler)]
        self._looked = 0
        self._who: tuple[int | None, int | None] = (None, None)

    def emit(self, record: logging.LogRecord) -> None:
        """Give ``record`` to each, which a formatter may ask for ``slot`` and ``generation``."""
        record.slot, record.generation = self._who
        if self._files and int(record.created) != self._looked:
            self._looked = int(record.created)
            for file in self._files:
                _follow(file)
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)

    def reopen(self) -> None:
        """MASTER. Have those that write into a file open it anew."""
        for file in self._files:
            _follow(file)

    def after_fork(self, slot: int, generation: int) -> None:
        """WORKER. From now on records are this worker's."""
        self._who = (slot, generation)

    def end(self) -> None:
        """Flush and close them."""
        for handler in self._handlers:
            handler.flush()
            handler.close()


def _follow(handler: logging.FileHandler) -> None:
    """Have a handler open its file anew if the name does not lead to it any more, and can be opened by us."""
    if handler.stream is None or handler.mode != "a":
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(handler.baseFilename), os.fstat(handler.stream.fileno())):
                return
        os.close(os.open(handler.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))
    except (OSError, ValueError):  # the file that is open goes on
        return
    handler.close()  # it opens it with the next record


class LogConfiguration(NamedTuple):
    """What a file has configured.

    Attributes:
        target: Where the log goes.
        level: The least severe level that is written; None where the file doesn't say.
        access: Where the lines of the access log go, if the file says so.
    """

    target: LogTarget
    level: int | None
    access: LogTarget | None


def check(source: LogSource) -> None:
    """Find out whether :func:`applied` would do it, in a process of its own, in which no log is opened.

    Args:
        source: As for `applied`.

    Raises:
        SettingsError: It wouldn't.
    """

    def attempt(writer: int) -> int:
        logging.FileHandler._open = _unopened  # type: ignore[assignment,method-assign]  # noqa: SLF001  # what handlers of files override
        try:
            applied(source)
        except SettingsError as error:
            os.write(writer, str(error).encode(errors="backslashreplace"))
            return error.exit_code
        return 0

    said, ended = child.ask(attempt)
    if not ended.clean:
        raise SettingsError(said or f"logconfig: {_shown(source)} can't be used: the process that tried {ended}")


def _shown(source: LogSource) -> str:
    return repr(source) if isinstance(source, str) else "the dictionary"


def _unopened(handler: logging.FileHandler) -> TextIOWrapper:
    """In place of a handler's file, if that could be opened."""
    try:
        logfile.check(handler.baseFilename)
    except OSError as error:
        raise OSError(error.errno, error.strerror, handler.baseFilename) from None  # as open() tells it
    return open(os.devnull, "w", encoding="utf-8")  # it is the handler's to close


def applied(source: LogSource) -> LogConfiguration:
    """Configure the logging of this process.

    Args:
        source: By what.

    Raises:
        SettingsError: It can't be read or used, or gives nothing to the logger ``prefork``.
    """
    shown = _shown(source)
    try:
        _apply(source)
    except OSError as error:
        raise SettingsError(f"logconfig: {shown} can't be read: {told(error, READABLE)}") from None
    except Exception as error:  # noqa: BLE001  # what it names is found and called, and may raise anything
        said = " ".join(f"{error}".split()) or type(error).__name__
        if isinstance(error, KeyError):  # whose text is but the key
            said = f"it has no {said}"
        cause = "" if error.__cause__ is None else f": {' '.join(str(error.__cause__).split())}"
        raise SettingsError(f"logconfig: {shown} can't be used: {said}{cause}; correct it") from None
    speaker = _meant(LOGGER)
    handlers = list(_handlers(speaker))
    if not handlers:
        raise SettingsError(
            f"logconfig: {shown} has no handler for the logger {LOGGER!r} nor for the root logger; give it one"
        )
    of_access = _meant(ACCESS_LOGGER).handlers
    return LogConfiguration(
        target=Configured(handlers),
        level=speaker.level or None,
        access=Configured(of_access) if of_access else None,
    )


def _meant(name: str) -> logging.Logger:
    """The logger of that name; the one that gunicorn has for it, where that alone was given handlers."""
    ours = logging.getLogger(name)
    theirs = logging.getLogger(_OF_GUNICORN[name])
    return theirs if theirs.handlers and not ours.handlers else ours


def _apply(source: LogSource) -> None:
    if isinstance(source, str):
        _apply_file(source)
    else:
        logging.config.dictConfig(dict(source))


def _apply_file(path: str) -> None:
    kind = os.path.splitext(path)[1].lower()
    if kind in _INI:
        # Files that are written for gunicorn, or by Paste's custom, say where they are by these names.
        own = {"here": os.path.dirname(path), "__file__": path}
        # A parser of ours, for fileConfig names the file's object where it can't be parsed.
        parser = configparser.ConfigParser({name: text.replace("%", "%%") for name, text in own.items()})
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file, path)
        logging.config.fileConfig(parser, disable_existing_loggers=False)
        return
    if kind == ".toml":
        with open(path, encoding="utf-8-sig") as file:
            data: Any = tomllib.loads(file.read())
    elif kind == ".json":
        with open(path, encoding="utf-8-sig") as file:
            data = json.load(file)
    else:
        raise ValueError("its name ends neither in .toml nor in .json, .ini, .conf or .cfg")
    if not isinstance(data, dict):
        raise ValueError("it is no table of settings")  # it is the file's content that is wrong
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **data})


def _handlers(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    """Those that records of a logger go to."""
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None
