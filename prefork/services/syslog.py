"""The log as syslog(3) has it: a line for each record to a daemon of this machine or another (RFC 3164).

Beside the log's file or stream, not in its place. Nobody waits for the daemon (`prefork.services.sending`).
"""

from __future__ import annotations

import logging
from typing import Final

from prefork.config.receiver import Receiver
from prefork.config.reporting import FACILITIES
from prefork.errors import printable, printable_lines
from prefork.services.log import LOGGER, LogTarget
from prefork.services.sending import Sender

_SEVERITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG: Final = 7
_LONGEST: Final = 8 * 1024  # bytes; what daemons take unless they are told otherwise
_FRAMED: Final = str.maketrans({"\n": "#012"})  # as rsyslog writes what would end a line


class Syslog(LogTarget):
    """A syslog daemon.

    Args:
        receiver: Where it listens.
        prefix: The program's name in its lines.
        facility: One of `prefork.config.reporting.FACILITIES`.

    Raises:
        SettingsError: Its host is not known.
    """

    def __init__(self, receiver: Receiver, prefix: str, facility: str) -> None:
        super().__init__()
        self._sender = Sender("syslog_addr", receiver)
        self._prefix = prefix
        self._facility = FACILITIES[facility] << 3
        self._who = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Send ``record``, or drop it."""
        try:
            text = record.getMessage()
            if record.exc_info:
                text = f"{text}\n{_PLAIN.formatException(record.exc_info)}"
        except Exception:  # noqa: BLE001  # a message whose arguments don't fit; logging's own way to tell of it
            self.handleError(record)
            return
        severity = next((number for level, number in _SEVERITIES if record.levelno >= level), _DEBUG)
        name = self._prefix + record.name.removeprefix(LOGGER)
        text = printable_lines(f"{self._who}{text}")
        line = f"<{self._facility | severity}>{printable(name)}[{record.process}]: {text}"
        if self._sender.stream:
            line = line.translate(_FRAMED)
        data = line.encode("utf-8", "backslashreplace")[:_LONGEST]
        self._sender.send(data + b"\n" if self._sender.stream else data)

    def after_fork(self, slot: int, generation: int) -> None:
        """WORKER. From now on records are this worker's."""
        self._who = f"{slot}.{generation} "

    def end(self) -> None:
        """Send what can be sent still, and close."""
        self._sender.close()


_PLAIN: Final = logging.Formatter()
