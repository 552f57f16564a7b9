"""Metrics for statsd: what the master knows, every ten seconds; what a worker knows of a request, at its end.

One datagram for each occasion, dropped when nobody takes it (`prefork.services.sending`). Names, after the prefix, are
gunicorn's where there is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

from prefork._version import __version__
from prefork.config import receiver
from prefork.config.settings import Settings
from prefork.services.log import LogTarget
from prefork.services.sending import Sender
from prefork.status.collector import StatusCollector
from prefork.status.model import Status
from prefork.status.totals import Counters
from prefork.supervisor.notifications import Notification
from prefork.supervisor.service import ServerView, Service

EVERY: Final = 10.0
"""Seconds between two looks of the master's: statsd's own interval."""

_PORT: Final = 8125
_LONGEST: Final = 1400  # bytes of a datagram, which fit into one packet
_LEVELS: Final = ((logging.CRITICAL, "critical"), (logging.ERROR, "error"), (logging.WARNING, "warning"))


class Statsd:
    """Sends metrics. Any process.

    Args:
        sender: How.
        prefix: What names begin with.
        tags: What each metric bears; "" for none.
    """

    def __init__(self, sender: Sender, prefix: str, tags: str) -> None:
        self._sender = sender
        self._prefix = f"{prefix}." if prefix else ""
        self._tags = f"|#{tags}" if tags else ""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The one that the settings name.

        Raises:
            SettingsError: Its host is not known.
        """
        sender = Sender("statsd_host", receiver.parse(settings.statsd_host, _PORT))
        return cls(sender, settings.statsd_prefix, settings.dogstatsd_tags)

    def send(self, *metrics: str) -> None:
        """Send metrics: name, value and type, as in "requests:1|c"."""
        lines: list[bytes] = []
        room = _LONGEST
        for metric in metrics:
            line = f"{self._prefix}{metric}{self._tags}".encode()
            if lines and len(line) >= room:
                self._sender.send(b"\n".join(lines))
                lines, room = [], _LONGEST
            lines.append(line)
            room -= len(line) + 1
        if lines:
            self._sender.send(b"\n".join(lines))

    def close(self) -> None:
        """Give the descriptor back."""
        self._sender.close()


class RequestMetrics:
    """WORKER. What `prefork.wsgi.gateway.Gateway` tells of each request.

    Args:
        statsd: Where it goes.
    """

    def __init__(self, statsd: Statsd) -> None:
        self._statsd = statsd

    def write(self, environ: Mapping[str, Any], response: Any, seconds: float) -> None:  # noqa: ARG002  # as an access log
        """Tell of one request."""
        self._statsd.send(
            f"request.duration:{seconds * 1000:.3f}|ms", "requests:1|c", f"request.status.{response.status[:3]}:1|c"
        )

    def close(self) -> None:
        """Give the descriptor back."""
        self._statsd.close()


class RecordCounter(LogTarget):
    """Counts the records of the log that are warnings or worse.

    Args:
        statsd: Where the counts go.
    """

    def __init__(self, statsd: Statsd) -> None:
        super().__init__()
        self._statsd = statsd

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        name = next((name for level, name in _LEVELS if record.levelno >= level), None)
        if name is not None:
            self._statsd.send(f"log.{name}:1|c", *(["log.exception:1|c"] if record.exc_info else []))

    def end(self) -> None:
        """Give the descriptor back."""
        self._statsd.close()


class StatsdService(Service):
    """MASTER. Tells statsd of the server.

    Args:
        statsd: Which.
    """

    def __init__(self, statsd: Statsd) -> None:
        self._statsd = statsd
        self._counters = Counters()
        self._told: dict[str, int] = {}

    def attach(self, server: ServerView) -> None:
        """Begin to look."""
        self._server = server
        self._collector = StatusCollector(server, self._counters, __version__)
        server.loop.call_later(EVERY, self._look)

    def notify(self, notification: Notification) -> None:
        """Count what has happened."""
        self._counters.notify(notification)

    def save(self) -> object:
        """What has been counted, and told."""
        return {"counters": self._counters.save(), "told": self._told}

    def restore(self, saved: Any) -> None:
        """Go on from there."""
        self._counters.restore(saved["counters"])
        self._told = {str(name): int(count) for name, count in saved["told"].items()}

    def detach(self) -> None:
        """Tell what there is to tell still."""
        self._tell()
        self._statsd.close()

    def _look(self) -> None:
        self._tell()
        self._server.loop.call_later(EVERY, self._look)

    def _tell(self) -> None:
        status = self._collector.status()
        counts = counts_of(status)
        grown = {name: count - self._told.get(name, 0) for name, count in counts.items()}
        self._told = counts
        self._statsd.send(
            *(f"{name}:{value}|g" for name, value in gauges_of(status)),
            *(f"{name}:{count}|c" for name, count in grown.items() if count > 0),
        )


def gauges_of(status: Status) -> Iterable[tuple[str, int]]:
    """What holds at present. Pure."""
    yield "workers", sum(worker.state != "starting" for worker in status.workers)
    yield "workers.busy", sum(worker.state == "busy" for worker in status.workers)
    yield "workers.wanted", status.size
    yield "backlog", sum(listener.waiting for listener in status.listeners)
    yield "parked", sum(worker.parked for worker in status.workers)


def counts_of(status: Status) -> dict[str, int]:
    """What has been counted since the start. Pure."""
    totals = status.totals
    counts = {
        "connections.served": totals.served,
        "connections.failed": totals.failed,
        "connections.interrupted": totals.interrupted,
        "connections.refused": totals.refused,
        "workers.started": totals.forks,
        "reloads": totals.reloads,
        "reloads.failed": totals.failed_reloads,
        "reforks": totals.reforks,
        "reforks.failed": totals.failed_reforks,
    }
    counts |= {f"accept_errors.{name}": count for name, count in totals.accept_errors.items()}
    return counts | {f"worker_deaths.{cause.replace(' ', '_')}": count for cause, count in totals.deaths.items()}
