"""A log that a file of the user's configures, as `logging.config` has it: TOML or JSON (dictConfig), ini (fileConfig).

The file is read once, by the master, before the application runs. What it gives the logger ``prefork`` - its handlers,
and while it propagates those of the root logger - is what the command's log goes to, whatever the application does to
logging later. Such handlers are other people's code: each record is a call of each, in the master too, which waits for
it. What one raises is told on standard error, and costs the record there and nothing else. A file that was written for
gunicorn serves as well: it gives them to loggers of gunicorn's names.

A handler of a file (`logging.FileHandler`) opens it as ``log_file`` is opened (`prefork.system.logfile`): the master
may be root, and the folder another's.
"""

from __future__ import annotations

import atexit
import configparser
import contextlib
import copy
import functools
import json
import logging
import logging.config
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import TextIOWrapper
from typing import Any, Final, NamedTuple

from prefork.errors import SettingsError, printable_lines
from prefork.services.log import ACCESS_LOGGER, LOGGER, LogTarget
from prefork.system import child, logfile
from prefork.system.guarded_path import Owner
from prefork.system.natives import os
from prefork.system.need import READABLE, told

_INI: Final = (".ini", ".conf", ".cfg")
_OF_GUNICORN: Final = {LOGGER: "gunicorn.error", ACCESS_LOGGER: "gunicorn.access"}

LogSource = str | Mapping[str, Any]
"""The name of a file, whose end says what it is, or what dictConfig takes."""

Opening = Callable[[logging.FileHandler, Owner | None], TextIOWrapper]
"""How a handler's file is opened, and whose it is to be."""

_open_anyhow: Final = logging.FileHandler._open  # noqa: SLF001  # what handlers of files override


class Configured(LogTarget):
    """Handlers that a file has configured.

    Args:
        handlers: Which.
    """

    def __init__(self, handlers: Iterable[logging.Handler]) -> None:
        super().__init__()
        self._handlers = tuple(handlers)
        self._files = [handler for handler in self._handlers if isinstance(handler, logging.FileHandler)]
        _claim(self._handlers)
        self._looked = 0
        self._who: tuple[int | None, int | None] = (None, None)

    def emit(self, record: logging.LogRecord) -> None:
        """Give ``record`` to each, which a formatter may ask for ``slot`` and ``generation``. Never raises."""
        record.slot, record.generation = self._who
        if self._files and int(record.created) != self._looked:
            self._looked = int(record.created)
            self.reopen()
        record = _harmless(record)
        for handler in self._handlers:
            if record.levelno >= handler.level:
                try:
                    handler.handle(record)
                except Exception:  # noqa: BLE001  # whatever it is, a server does not end for its log
                    _tell(handler, record)

    def reopen(self) -> None:
        """Have those that write into a file open it anew."""
        for file in self._files:
            with contextlib.suppress(Exception):  # the file that is open goes on
                _follow(file)

    def after_fork(self, slot: int, generation: int) -> None:
        """WORKER. From now on records are this worker's, and are written when it ends."""
        self._who = (slot, generation)
        atexit.register(self.flush)

    def flush(self) -> None:
        """Have each write what it has held back."""
        for handler in self._handlers:
            with contextlib.suppress(Exception):  # what it raises is its own affair here, too
                handler.flush()

    def end(self) -> None:
        """Flush and close them."""
        self.flush()
        for handler in self._handlers:
            with contextlib.suppress(Exception):
                handler.close()


def _harmless(record: logging.LogRecord) -> logging.LogRecord:
    """The record; where what it says could be taken for further records, or steer a terminal, one that says it escaped.

    Nobody knows here how a formatter of the user's lets a record begin, so that each further line is indented.
    """
    try:
        text = _escaped(record.getMessage())
    except Exception:  # noqa: BLE001  # a message whose arguments don't fit, which each handler tells of
        return record
    trace = _escaped(_PLAIN.formatException(record.exc_info)) if record.exc_info else record.exc_text
    if text == record.getMessage() and trace is None:
        return record
    shown = copy.copy(record)
    shown.msg, shown.args, shown.exc_text = text, (), trace
    return shown


def _escaped(text: str) -> str:
    return printable_lines(text).replace("\n", "\n  ")


_PLAIN: Final = logging.Formatter()


def _claim(handlers: Iterable[logging.Handler]) -> None:
    """Have nobody else close them: the next configuration of this process would (logging.config), an application's too.

    Some open again with the next record; others (a file of mode "w", a `logging.handlers.MemoryHandler`) never do.
    """
    for name in (LOGGER, ACCESS_LOGGER):
        logger = logging.getLogger(name)
        for handler in handlers:
            logger.removeHandler(handler)
    ours = {id(handler) for handler in handlers}
    logging._handlerList[:] = [ref for ref in logging._handlerList if id(ref()) not in ours]  # type: ignore[attr-defined]  # noqa: SLF001  # what shutdown() goes through


def _tell(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Say what a handler has raised, as logging does where they see to that themselves: on standard error."""
    with contextlib.suppress(Exception):  # it may be closed
        logging.Handler.handleError(handler, record)


def _follow(handler: logging.FileHandler) -> None:
    """Have a handler open its file anew if the name does not lead to it any more, and can be opened by us."""
    if handler.stream is None or handler.mode != "a":
        return
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(handler.baseFilename), os.fstat(handler.stream.fileno())):
            return
    before = handler.setStream(handler._open())  # noqa: SLF001  # as logging's own handlers do that follow a name
    if before is not None:
        before.close()


def _opened(handler: logging.FileHandler, owner: Owner | None) -> TextIOWrapper:
    """A handler's file, where others may have changed what its name means."""
    if handler.mode not in {"a", "w"}:
        return _open_anyhow(handler)  # to make it, and fail if it is there
    with _named(handler):
        fd = logfile.append(handler.baseFilename, owner, waits=True)
    file = open(fd, handler.mode + "b")  # noqa: SIM115  # the handler closes it, or its end does
    if handler.mode == "w":
        with contextlib.suppress(OSError):  # a device has no length
            os.ftruncate(fd, 0)
    return TextIOWrapper(file, handler.encoding, handler.errors)


@contextlib.contextmanager
def _named(handler: logging.FileHandler) -> Iterator[None]:
    """Have an error name the file as open() would: whole, and not the part of the way that was walked last."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, handler.baseFilename) from None


@contextlib.contextmanager
def _opening(way: Opening, owner: Owner | None) -> Iterator[None]:
    """Have handlers that are made meanwhile open their files so, then and later: with a first record, after a rotation.

    All of them, for one may stand behind another (`logging.handlers.MemoryHandler`), and be none of a logger's.
    """
    before = _all_files()
    logging.FileHandler._open = lambda handler: way(handler, owner)  # type: ignore[assignment,method-assign]  # noqa: SLF001  # as above
    try:
        yield
    finally:
        logging.FileHandler._open = _open_anyhow  # type: ignore[method-assign]  # noqa: SLF001  # as above
        for file in _all_files():
            if not any(file is one for one in before) and type(file)._open is _open_anyhow:  # noqa: SLF001  # another has a way of its own
                file._open = functools.partial(way, file, owner)  # type: ignore[method-assign]  # noqa: SLF001  # as above


def _all_files() -> list[logging.FileHandler]:
    """The handlers of files that there are in this process."""
    handlers = [ref() for ref in logging._handlerList]  # type: ignore[attr-defined]  # noqa: SLF001  # as in _claim
    return [handler for handler in handlers if isinstance(handler, logging.FileHandler)]


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


def check(source: LogSource, owner: Owner | None = None) -> None:
    """Find out whether :func:`applied` would do it, in a process of its own, in which no log is opened.

    Args:
        source: As for `applied`.
        owner: As for `applied`.

    Raises:
        SettingsError: It wouldn't.
    """

    def attempt(writer: int) -> int:
        try:
            applied(source, owner, _unopened)
        except SettingsError as error:
            os.write(writer, str(error).encode(errors="backslashreplace"))
            return error.exit_code
        return 0

    said, ended = child.ask(attempt)
    if not ended.clean:
        raise SettingsError(said or f"logconfig: {_shown(source)} can't be used: the process that tried {ended}")


def _shown(source: LogSource) -> str:
    return repr(source) if isinstance(source, str) else "the dictionary"


def _unopened(handler: logging.FileHandler, owner: Owner | None) -> TextIOWrapper:
    """In place of a handler's file, if that could be opened."""
    with _named(handler):
        logfile.check(handler.baseFilename, owner)
    return open(os.devnull, "w", encoding="utf-8")  # it is the handler's to close


def applied(source: LogSource, owner: Owner | None = None, way: Opening = _opened) -> LogConfiguration:
    """Configure the logging of this process.

    Args:
        source: By what.
        owner: Whose the files of handlers are to be; None leaves them.
        way: How these are opened.

    Raises:
        SettingsError: It can't be read or used, or gives nothing to the logger ``prefork``.
    """
    shown = _shown(source)
    try:
        with _opening(way, owner):
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
