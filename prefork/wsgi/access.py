"""The access log: a line for each request, in one write, so that the workers' lines never mix.

It is a file of its own and no logger: these lines have a form that other programs read. The file is opened for
appending (O_APPEND, open(2)), and looked up by name once a second at most: after a rotation the next line goes to the
new file, without a signal. While that can't be opened, lines go on into the old one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from prefork.system import logfile
from prefork.system.natives import os, time

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ESCAPED: Final = re.compile(r"[^ !#-\[\]-~]")
_STDOUT: Final = 1

log = logging.getLogger("prefork")


class AccessLog:
    """Where the lines go, and their form. One for each worker.

    Args:
        path: A file's name, or "-" for standard output.
        form: "combined" or "json".

    Raises:
        OSError: The file can't be opened.
    """

    def __init__(self, path: str, form: Literal["combined", "json"]) -> None:
        self._path = None if path == "-" else path
        self._render = _combined if form == "combined" else _json
        self._second = 0
        self._failed = False
        self._fd = _STDOUT if self._path is None else logfile.append(self._path, waits=True)
        self._refused = ""

    def write(self, environ: Mapping[str, Any], status: str, sent: int, seconds: float) -> None:
        """Write the line of one request. Never raises: a full disk is no reason to serve nobody.

        Args:
            environ: The request's; it may lack what could not be read, and the application may have changed it.
            status: The status line, or at least its code; "" when nothing was sent.
            sent: How many bytes of body.
            seconds: From the accepted connection to the end of the response.
        """
        now = time.time()
        try:
            if self._path is not None and int(now) != self._second:
                self._second = int(now)
                self._follow(self._path)
            os.write(self._fd, self._render(environ, status[:3], sent, seconds, now).encode("utf-8", "replace"))
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


def _combined(environ: Mapping[str, Any], code: str, sent: int, seconds: float, now: float) -> str:  # noqa: ARG001  # the format has no place for the duration
    # In UTC as every log, for the local time is the application's to change (time.tzset). And not by strftime, which
    # would write the month in whatever language it has set.
    at = time.gmtime(now)
    stamp = (
        f"{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000"
    )
    return (
        f"{_escape(environ.get('REMOTE_ADDR'))} - {_escape(environ.get('REMOTE_USER'))} [{stamp}] "
        f'"{_escape(_request(environ))}" {code or "-"} {sent or "-"} '
        f'"{_escape(environ.get("HTTP_REFERER"))}" "{_escape(environ.get("HTTP_USER_AGENT"))}"\n'
    )


def _json(environ: Mapping[str, Any], code: str, sent: int, seconds: float, now: float) -> str:
    milliseconds = int(now * 1000) % 1000
    return (
        json.dumps(
            {
                "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{milliseconds:03d}Z",
                "pid": os.getpid(),
                "remote_addr": environ.get("REMOTE_ADDR"),
                "remote_user": environ.get("REMOTE_USER"),
                "scheme": environ.get("wsgi.url_scheme"),
                "host": environ.get("HTTP_HOST"),
                "method": environ.get("REQUEST_METHOD"),
                "uri": environ.get("REQUEST_URI"),
                "protocol": environ.get("SERVER_PROTOCOL"),
                "status": int(code) if code else None,
                "bytes": sent,
                "seconds": round(seconds, 6),
                "referer": environ.get("HTTP_REFERER"),
                "user_agent": environ.get("HTTP_USER_AGENT"),
            },
            separators=(",", ":"),
            default=str,
        )
        + "\n"
    )


def _request(environ: Mapping[str, Any]) -> str:
    method, uri = environ.get("REQUEST_METHOD"), environ.get("REQUEST_URI")
    return f"{method} {uri} {environ.get('SERVER_PROTOCOL')}" if method and uri else ""


def _escape(value: object) -> str:
    """``value`` as it may stand within quotes: all that would end them, or the line, by its number."""
    if value is None or value == "":
        return "-"
    return _ESCAPED.sub(
        lambda match: f"\\x{ord(match[0]):02x}" if match[0] < "\u0100" else ascii(match[0])[1:-1], str(value)
    )
