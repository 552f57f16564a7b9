"""The access log: a line for each request, in one write, so that the workers' lines never mix.

It is a file of its own and no logger: these lines have a form that other programs read. The file is opened for
appending (O_APPEND, open(2)), and looked up by name once a second at most: after a rotation the next line goes to the
new file, without a signal. While that can't be opened, lines go on into the old one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from prefork.system import logfile
from prefork.system.natives import os, time
from prefork.wsgi.access_format import Answered, Record, compiled

if TYPE_CHECKING:
    from datetime import tzinfo

_STDOUT: Final = 1

log = logging.getLogger("prefork")


class AccessLog:
    """Where the lines go, and their form. One for each worker.

    Args:
        path: A file's name, or "-" for standard output.
        form: The setting ``access_log_format``.
        zone: Whose time of day lines have, from `prefork.system.zone.find`.

    Raises:
        OSError: The file can't be opened.
    """

    def __init__(self, path: str, form: str, zone: tzinfo | None = None) -> None:
        self._path = None if path == "-" else path
        self._render = compiled(form)
        self._zone = zone
        self._second = 0
        self._failed = False
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
        try:
            if self._path is not None and int(now) != self._second:
                self._second = int(now)
                self._follow(self._path)
            line = self._render(Record(environ, response, seconds, now, self._zone))
            os.write(self._fd, f"{line}\n".encode("utf-8", "replace"))
        except OSError as error:
            if not self._failed:
                log.error("can't write the access log: %s", error)
            self._failed = True
        else:
            if self._failed:
                log.info("the access log can be written again")
            self._failed = False

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
        except OSError as error:
            said = error.strerror or str(error)
            if said != self._refused:
                log.error("access_log: %r can't be opened anew: %s; the file that is open goes on", path, said)
            self._refused = said
            return
        os.close(self._fd)
        self._fd = fd
        self._refused = ""
