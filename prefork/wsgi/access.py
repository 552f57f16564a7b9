"""The access log: a line for each request, in one write, so that the workers' lines never mix.

It is a file of its own and no logger: these lines have a form that other programs read. The file is opened for
appending (O_APPEND, open(2)), and looked up by name once a second at most: after a rotation the next line goes to the
new file, without a signal. While that can't be opened, lines go on into the old one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from prefork.errors import SettingsError
from prefork.system import logfile
from prefork.system.natives import os, time
from prefork.system.need import told
from prefork.system.throttle import Throttle
from prefork.wsgi.access_format import AccessRecord, Answered, compiled

if TYPE_CHECKING:
    from datetime import tzinfo

_STDOUT: Final = 1

log = logging.getLogger("prefork")


class Account(Protocol):
    """Who is told of each request: an access log, or what counts them."""

    def write(self, environ: Mapping[str, Any], response: Answered, seconds: float) -> None:
        """Take note of one request; never raises, and waits for nobody."""
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...


def check(path: str) -> None:
    """Find out whether the access log could be written to by this process, and make nothing.

    Args:
        path: The setting ``access_log``.

    Raises:
        SettingsError: As `AccessLog`.
    """
    if path not in {"", "-", "logger"}:
        with _named(path):
            logfile.check(path)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Say of which setting it is that a file can't be opened."""
    try:
        yield
    except OSError as error:
        said = told(error, "name a file in a folder that it may write to")
        raise SettingsError(f"access_log: {path!r} can't be opened by uid {os.geteuid()}: {said}") from error


class _Lines:
    """Makes the lines. What the application leaves in the environ may be anything, and raise when it is asked for text.

    Args:
        form: The setting ``access_log_format``.
        zone: Whose time of day they have.
    """

    def __init__(self, form: str, zone: tzinfo | None) -> None:
        self._render = compiled(form)
        self._zone = zone
        self._missing = Throttle(log)

    def line(self, environ: Mapping[str, Any], response: Answered, seconds: float, now: float) -> str | None:
        """The line of one request; None where there can't be one, which is told."""
        try:
            return self._render(AccessRecord(environ, response, seconds, now, self._zone))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told, and no client is to suffer for it
            told = "a request has no line in the access log: what the application has left in its environ is no text"
            self._missing.tell(logging.ERROR, type(error).__name__, told, error=error)
            return None


class AccessLog:
    """Where the lines go, and their form. One for each worker.

    Args:
        path: A file's name, or "-" for standard output.
        form: The setting ``access_log_format``.
        zone: Whose time of day lines have, from `prefork.system.zone.find`.

    Raises:
        SettingsError: The file can't be opened.
    """

    def __init__(self, path: str, form: str, zone: tzinfo | None = None) -> None:
        self._path = None if path == "-" else path
        self._lines = _Lines(form, zone)
        self._second = 0
        self._failed = False
        self._cut = False  # a line of ours is there without its end
        with _named(path):
            self._fd = _STDOUT if self._path is None else logfile.append(self._path, waits=True)
        self._refused = ""

    def write(self, environ: Mapping[str, Any], response: Answered, seconds: float) -> None:
        """Write the line of one request. Never raises: a full disk is no reason to serve nobody.

        Args:
            environ: The request's; it may lack what could not be read, and the application may have changed it.
            response: What was answered.
            seconds: From the accepted connection to the end of the response.
        """
        now = time.time()
        line = self._lines.line(environ, response, seconds, now)
        if line is None:
            return
        try:
            if self._path is not None and int(now) != self._second:
                self._second = int(now)
                self._follow(self._path)
            data = f"{line}\n".encode("utf-8", "replace")
            if self._cut:
                data = b"\n" + data
            written = os.write(self._fd, data)
            if written != len(data):
                self._cut = logfile.cut(data, written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self._failed:
                log.error("can't write the access log: %s", error)
            self._failed = True
        else:
            if self._failed:
                log.info("the access log can be written again")
            self._failed = self._cut = False

    def close(self) -> None:
        """Close the file, if it is ours."""
        if self._path is not None:
            os.close(self._fd)

    def _follow(self, path: str) -> None:
        """Open the file anew when its name no longer leads to it; when that fails, say so once, and go on with it."""
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(self._fd)):
                    self._refused = ""
                    return
            fd = logfile.append(path, waits=True)
            try:
                # Another thread may be about to write: the number stays, and leads to another file from now on.
                os.dup2(fd, self._fd, inheritable=False)
            finally:
                os.close(fd)
        except OSError as error:
            said = error.strerror or str(error)
            if said != self._refused:
                log.error("access_log: %r can't be opened anew: %s; the file that is open goes on", path, said)
            self._refused = said
            return
        self._refused = ""
        self._cut = False


class LoggedAccess:
    """The same lines by a logger, ``prefork.access``. One for each worker.

    Args:
        form: The setting ``access_log_format``.
        zone: Whose time of day lines have.
    """

    def __init__(self, form: str, zone: tzinfo | None = None) -> None:
        self._lines = _Lines(form, zone)
        self._logger = logging.getLogger("prefork.access")

    def write(self, environ: Mapping[str, Any], response: Answered, seconds: float) -> None:
        """Log the line of one request, as `AccessLog.write`."""
        line = self._lines.line(environ, response, seconds, time.time())
        if line is not None:
            self._logger.info("%s", line)

    def close(self) -> None:
        """A logger is nobody's to close."""


class SeveralAccounts:
    """Several that each are told of every request.

    Args:
        accounts: Which.
    """

    def __init__(self, accounts: Sequence[Account]) -> None:
        self._accounts = accounts

    def write(self, environ: Mapping[str, Any], response: Answered, seconds: float) -> None:
        """Tell each."""
        for account in self._accounts:
            account.write(environ, response, seconds)

    def close(self) -> None:
        """Close each."""
        for account in self._accounts:
            account.close()
