"""The log as the commands write it: one record, one write, whoever else writes; text or JSON; a file or a stream.

The library only logs to "prefork" and configures nothing. A command attaches one :class:`Output`, which master and
workers share after the fork:

* A record is one write(2), or as many as it takes to keep each within PIPE_BUF, cut where lines end: so lines of
  several processes never mix (pipe(7); a file is opened for appending, open(2)).
* The master never waits for whoever reads the log. When a pipe is full the record is dropped and counted, and the
  count is logged when there is room again. A worker waits: its log is the application's.
* A file is looked up by its name before a record is written, once a second at most. After a rotation the next record
  goes to the new file; SIGUSR1 to the master makes it at once. Workers of another user can do so because the file is
  theirs too. What can't be opened, or shouldn't be (:mod:`prefork.system.guarded_path`), is told of in the old one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from prefork.errors import SettingsError, printable_lines
from prefork.supervisor.mold import NO_SLOT
from prefork.supervisor.service import ServerView, Service
from prefork.system import logfile
from prefork.system.guarded_path import Owner
from prefork.system.natives import os, select, signal
from prefork.system.need import WRITABLE, told
from prefork.system.zone import timestamp

if TYPE_CHECKING:
    from datetime import tzinfo

_PIPE_BUF: Final = select.PIPE_BUF
_STDOUT: Final = 1
_STDERR: Final = 2

_AS_A_RECORD: Final = re.compile(r"\n(?=[\d<])")
_INDENTED: Final = "\n  "

LOGGER: Final = "prefork"

ACCESS_LOGGER: Final = "prefork.access"
"""Which gets the lines of the access log, where ``access_log`` says logger."""

log = logging.getLogger(LOGGER)


class _Text(logging.Formatter):
    """Time, level, process, message; in a worker also its slot and generation. A traceback follows on more lines.

    Nothing in a message can be taken for a record of its own, or harm a terminal: what can't be printed is escaped, and
    a further line that begins as a record does, or as sd-daemon(3) lets one begin, is indented.
    """

    speaker: tuple[int, int] | None = None
    zone: tzinfo | None = None

    def format(self, record: logging.LogRecord) -> str:
        who = str(record.process)
        if self.speaker is not None:
            who += ":{}.{}".format(*self.speaker)
        record.message = record.getMessage()
        trace = _trace(self, record)
        text = printable_lines(f"{record.message}\n{trace}" if trace else record.message)
        return f"{timestamp(record.created, self.zone)} {record.levelname} {who} {_AS_A_RECORD.sub(_INDENTED, text)}"


class _JSON(_Text):
    """The same as an object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        slot, generation = self.speaker or (None, None)
        data: dict[str, object] = {
            "time": timestamp(record.created, self.zone),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "slot": slot,
            "generation": generation,
            "message": record.getMessage(),
        }
        trace = _trace(self, record)
        if trace:
            data["traceback"] = trace
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


class LogTarget(logging.Handler):
    """Where the log of a command goes: an :class:`Output`, or what takes it elsewhere."""

    def reopen(self) -> None:
        """MASTER. Open files anew, by their names."""

    def after_fork(self, slot: int, generation: int) -> None:
        """WORKER. From now on records are this worker's."""

    def end(self) -> None:
        """Close what is ours.

        Not in close(): a configuration of the logging module calls that of every handler there is (logging.config), and
        so would an application end the log of its server.
        """


class Several(LogTarget):
    """Several targets, each of which gets every record.

    Args:
        targets: Which.
    """

    def __init__(self, targets: Sequence[LogTarget]) -> None:
        super().__init__()
        self._targets = targets

    def emit(self, record: logging.LogRecord) -> None:
        """Give ``record`` to each."""
        for target in self._targets:
            target.handle(record)

    def reopen(self) -> None:
        """MASTER. Have each reopen its files."""
        for target in self._targets:
            target.reopen()

    def after_fork(self, slot: int, generation: int) -> None:
        """WORKER. Say who speaks."""
        for target in self._targets:
            target.after_fork(slot, generation)

    def end(self) -> None:
        """End each."""
        for target in self._targets:
            target.end()


class Output(LogTarget):
    """A file or a stream.

    Args:
        path: a file's name, "-" for standard output, "" for standard error.
        form: text or json.
        owner: whose the file is to be, now and after each rotation, so that workers can open it; None leaves it.
        zone: whose time of day records have, from :func:`prefork.system.zone.find`.

    Raises:
        OSError: the file can't be opened, or others could have led us to it (:func:`prefork.system.logfile.append`).
    """

    def __init__(
        self,
        path: str = "",
        form: Literal["text", "json"] = "text",
        owner: Owner | None = None,
        zone: tzinfo | None = None,
    ) -> None:
        super().__init__()
        self._path = None if path in {"", "-"} else os.path.abspath(path)
        self._fd = _STDOUT if path == "-" else _STDERR
        self._owner = owner
        self._looked = 0
        self._lost = 0
        self._cut = False  # a line of ours is there without its end
        self._refused = ""
        self._waits = False
        self._form = _JSON() if form == "json" else _Text()
        self._form.zone = zone
        self.setFormatter(self._form)
        if self._path is not None:
            self._fd = logfile.append(self._path, owner)

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record``; never raises, and in the master never waits."""
        try:
            data = self._line(record)
        except Exception:  # noqa: BLE001  # a message whose arguments don't fit; logging's own way to tell of it
            self.handleError(record)
            return
        if self._path is not None and int(record.created) != self._looked:
            self._looked = int(record.created)
            self._follow(self._path)
        if self._lost:
            data = self._line(_record(f"{self._lost} records of this log were lost: it could not be written")) + data
        try:
            written = self._write(data)
        except OSError:
            written = False
        self._lost = 0 if written else self._lost + 1

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _write(self, data: bytes) -> bool:
        """Write all of it, or nothing that would have to be waited for; whether it was written."""
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            data = b"\n" + data if self._cut else data
            written = os.write(self._fd, data)
            self._cut = logfile.cut(data, written)
            return written == len(data)
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        for part in pieces(data, _PIPE_BUF):
            # Writable means that there is room for PIPE_BUF bytes (poll(2)), so this write does not wait.
            while True:
                if not poller.poll(None if self._waits else 0):
                    return False
                try:
                    os.write(self._fd, part)
                    break
                except BlockingIOError:  # another filled it between the two calls
                    continue
        return True

    def reopen(self) -> None:
        """MASTER. Open the file anew, by its name; for streams nothing."""
        if self._path is not None:
            self._refused = ""  # who asks for it is told
            self._follow(self._path)

    def _follow(self, path: str) -> None:
        """Open the file anew if its name does not lead to it any more; when that fails, say so, and go on with it."""
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(self._fd)):
                    self._refused = ""
                    return
            fd = logfile.append(path, self._owner)
        except OSError as error:
            said = f"log_file: {path!r} can't be opened anew: {error.strerror}; the file that is open goes on"
            if said != self._refused:
                self._refused = said
                with contextlib.suppress(OSError):
                    self._write(self._line(_record(said)))
            return
        os.close(self._fd)
        self._fd = fd
        self._refused = ""
        self._cut = False

    def after_fork(self, slot: int, generation: int) -> None:
        """WORKER. From now on records are this worker's."""
        self._form.speaker = (slot, generation)
        self._waits = True
        self._lost = 0

    def end(self) -> None:
        """Close the file, if it is ours."""
        if self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.close()


class Journal(logging.Logger):
    """The logger "prefork" of a command's process: what it is told reaches the output, whatever an application does.

    An application configures the logging of its process, and Python's default way of that disables every logger there
    is (disable_existing_loggers of logging.config). In a command, the log is not the application's but the server's:
    where it goes and from which level on is said by its settings. So the output is no handler that could be removed,
    and neither ``disabled`` nor `logging.disable` nor the logger's level counts for it. For handlers that the
    application adds, all of these count as ever.

    Attributes:
        output: where records go.
        least: the least severe level that does.
    """

    output: LogTarget
    least: int

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's own name
        """Whether a record of ``level`` goes anywhere."""
        return level >= self.least or super().isEnabledFor(level)

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802  # logging's own name
        """A record; a plain one if the application's way to make them (logging.setLogRecordFactory) fails."""
        try:
            return super().makeRecord(*args, **kwargs)
        except Exception:  # noqa: BLE001  # it may need a request, say, and there is none in a master
            name, level, path, line, message, given, exc_info = args[:7]
            return logging.LogRecord(name, level, path, line, message, given, exc_info, *args[7:8])

    def handle(self, record: logging.LogRecord) -> None:
        """Give ``record`` to the output, then to whomever else the application wants to have it."""
        if record.levelno >= self.least:
            self.output.handle(record)
        # Without a handler there is logging.lastResort, which would write warnings once more.
        if self.hasHandlers() and super().isEnabledFor(record.levelno):
            try:
                super().handle(record)
            except Exception:  # noqa: BLE001  # a filter or handler of the application's: what matters is written
                pass


class Relay(logging.Handler):
    """Takes what other loggers say to the output of the log: those below "prefork", and those that are lent it.

    Args:
        journal: Whose output; what it is told itself has gone there already.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Give the record to the output, if another logger than ours made it."""
        if record.name != LOGGER and record.levelno >= self._journal.least:
            self._journal.output.handle(record)


def _record(message: str) -> logging.LogRecord:
    return log.makeRecord(LOGGER, logging.WARNING, __file__, 0, message, (), None)


def pieces(data: bytes, most: int) -> list[bytes]:
    """``data`` cut after line ends into pieces of ``most`` bytes or less; a longer line is cut where it has to be."""
    found = []
    start = 0
    while len(data) - start > most:
        end = data.rfind(b"\n", start, start + most) + 1 or start + most
        found.append(data[start:end])
        start = end
    found.append(data[start:])
    return found


class LogService(Service):
    """MASTER. Has an output reopened by SIGUSR1, and made over to workers after the fork.

    Args:
        output: which.
    """

    def __init__(self, output: LogTarget) -> None:
        self._output = output

    def attach(self, server: ServerView) -> None:
        """Listen to SIGUSR1."""
        server.loop.on_signal(signal.SIGUSR1, self._output.reopen)

    def begin_life(self, slot: int, generation: int) -> None:
        """WORKER and MOLD. Let records say which worker speaks."""
        if slot != NO_SLOT:
            self._output.after_fork(slot, generation)

    def after_fork(self, slot: int, generation: int) -> None:  # noqa: ARG002  # others need them
        """WORKER and MOLD. Let prints leave in whole lines."""
        for stream in (sys.stdout, sys.stderr):
            # Unbuffered, print() would write each of its arguments by itself; buffered by blocks, lines end up in two
            # writes. Between either, a sibling's could come.
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]  # a host's own kind of stream is left as it is


def opened(
    path: str = "",
    form: Literal["text", "json"] = "text",
    owner: Owner | None = None,
    zone: tzinfo | None = None,
) -> Output:
    """An output, as :class:`Output` has it.

    Raises:
        SettingsError: the file can't be opened.
    """
    with _named(path):
        return Output(path, form, owner, zone)


def check(path: str, owner: Owner | None = None) -> None:
    """Find out whether :func:`opened` would open a file, and make nothing.

    Raises:
        SettingsError: it wouldn't.
    """
    if path not in {"", "-"}:
        with _named(path):
            logfile.check(path, owner)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Say of which setting it is that a file can't be opened."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"log_file: {path!r} can't be opened: {told(error, WRITABLE)}") from None


def configure(level: str, path: str = "") -> None:
    """Send the log of prefork to one output, as text. For commands only.

    Args:
        level: the least severe level that is written, by its name.
        path: as :class:`Output` has it.

    Raises:
        SettingsError: the file can't be opened.
    """
    install(logging.getLevelNamesMapping()[level.upper()], opened(path))


def install(level: int, target: LogTarget, access: LogTarget | None = None) -> None:
    """Send the log of prefork to one target. The application's own logging is left alone. For commands only.

    Args:
        level: the least severe level that is written, as in :mod:`logging`.
        target: where it goes.
        access: where the lines of an access log go that is a logger (:data:`ACCESS_LOGGER`); None is ``target``.
    """
    _take(log, target, level)
    _take(logging.getLogger(ACCESS_LOGGER), access or target, logging.INFO)
    log.addHandler(Relay(cast("Journal", log)))


def lend(name: str) -> None:
    """Let what is told to another logger go where the log goes, while it has no handlers of its own. For commands only.

    Args:
        name: the logger's: one at which applications find the log of another server.
    """
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(Relay(cast("Journal", log)))
        logger.setLevel(log.level)
        logger.propagate = False


def _take(logger: logging.Logger, target: LogTarget, level: int) -> None:
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(level)
    if isinstance(logger, Journal):
        logger.output.end()
    logger.__class__ = Journal
    journal = cast("Journal", logger)
    journal.output, journal.least = target, level


def services() -> list[LogService]:
    """A service for each target that the log has."""
    loggers = (log, logging.getLogger(ACCESS_LOGGER))
    own = {id(logger.output): logger.output for logger in loggers if isinstance(logger, Journal)}
    return [LogService(target) for target in (*own.values(), *log.handlers) if isinstance(target, LogTarget)]
