"""The settings of what a server says of itself: its log.

A part of the table of `prefork.config.settings.Settings`; see there.
"""

from __future__ import annotations

from typing import Final, Literal

from prefork.config import kinds, receiver
from prefork.config.fields import OPERATIONS, REPORTING, SettingsTable, setting
from prefork.config.kinds import Kind
from prefork.system.record import changed

FACILITIES: Final = {
    name: number
    for number, name in enumerate(
        ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")
    )
} | {f"local{number}": 16 + number for number in range(8)}
"""syslog's facilities by their names (syslog.h)."""

_SYSLOG_PORT: Final = 514
_STATSD_PORT: Final = 8125


def _receiver(port: int, *, stream: bool) -> Kind[str]:
    forms = "udp://host:port, tcp://host:port or unix:///path" if stream else "host:port or unix:///path"

    def check(value: object) -> str:
        try:
            if value == "":
                return ""
            if isinstance(value, str) and (stream or not receiver.parse(value, port).stream):
                receiver.parse(value, port)
                return value
        except ValueError:
            pass
        raise kinds.refusal(value, f"is no address to send to; give {forms}")

    return Kind("ADDRESS", str.strip, check)


class Reporting(SettingsTable, kw_only=True):
    """Where the log goes, and how. Not used by itself: `Settings` checks it."""

    log_level: Literal["debug", "info", "warning", "error", "critical"] = setting(
        "info",
        REPORTING,
        kinds.choice("debug", "info", "warning", "error", "critical"),
        "The least severe messages that the command logs.",
    )
    log_file: str = setting(
        "",
        REPORTING,
        kinds.path("file", "-"),
        "Where the command logs to: a file, opened anew on SIGUSR1 and after a rotation; - is standard output, nothing "
        "standard error.",
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        REPORTING,
        kinds.choice("text", "json"),
        "How the command logs: text for people, or a JSON object a line.",
    )
    log_timezone: str = setting(
        "utc",
        REPORTING,
        kinds.text(
            r"[A-Za-z0-9_+\-/]{1,64}",
            "is no time zone; give utc, local or a name such as Europe/Berlin",
            metavar="ZONE",
        ),
        "Whose time of day the log and the access log have: utc; local, which is what TZ or /etc/localtime says when "
        "the server starts, whatever the application makes of it; or a zone such as Europe/Berlin.",
    )
    logconfig: str = setting(
        "",
        REPORTING,
        kinds.path("file"),
        "Configure the command's log by this file of Python's logging.config, .toml or .json (dictConfig) or .ini: it "
        "goes to the handlers of the logger prefork in place of log_file, and an access log to a logger to those of "
        "prefork.access.",
    )
    syslog: bool = setting(
        False,
        REPORTING,
        kinds.switch(),
        "Send the command's log to syslog too, beside where it goes otherwise.",
    )
    syslog_addr: str = setting(
        "unix:///dev/log",
        REPORTING,
        _receiver(_SYSLOG_PORT, stream=True),
        "Where syslog listens: unix:///path (a #stream behind it for a connection), udp://host:port or tcp://host:port.",
    )
    syslog_prefix: str = setting(
        "prefork",
        REPORTING,
        kinds.text(r"[^\s:\[\]]{1,64}", "is not a program's name; give one without spaces", metavar="NAME"),
        "What the server is called in syslog; the lines of an access log are NAME.access.",
    )
    syslog_facility: str = setting(
        "user",
        REPORTING,
        changed(kinds.choice(*FACILITIES), metavar="FACILITY"),
        "Under which of syslog's facilities: user, daemon, local0 to local7 and so on.",
    )
    record_requests: bool = setting(
        True,
        REPORTING,
        kinds.switch(),
        "Note in memory what each worker has in hand: method, path without the query (or what a handler calls it), and "
        "the client's address. The log names it when the worker is killed, and prefork status --requests shows it.",
    )
    dashboard: str = setting(
        "",
        OPERATIONS,
        kinds.place(here=True),
        "Show the server to a browser that asks here, such as 127.0.0.1:9000: states, throughput, queue time and "
        "memory over time, and what runs now. A loopback address or a unix socket; there is nothing but to look at.",
    )
    app_metrics: bool = setting(
        False,
        REPORTING,
        kinds.switch(),
        "Sum over all workers what the application counts with prometheus_client, dead ones included, without a folder "
        "of files; prefork.prometheus.SharedCollector tells it. Needs prometheus-client (pip install "
        "'prefork[prometheus]').",
    )
    statsd_host: str = setting(
        "",
        REPORTING,
        _receiver(_STATSD_PORT, stream=False),
        "Send metrics to the statsd that listens here (host:port, or unix:///path); the page about metrics lists them.",
    )
    statsd_prefix: str = setting(
        "prefork",
        REPORTING,
        kinds.text(r"[A-Za-z0-9_.\-]{1,100}", "is not a name in statsd; give letters, digits and dots", metavar="NAME"),
        "What the names of those metrics begin with.",
    )
    dogstatsd_tags: str = setting(
        "",
        REPORTING,
        kinds.text(r"[^\s|#]{1,400}", "is no list of tags; give name:value with commas between them", metavar="TAGS"),
        "What each of those metrics is tagged with, for a statsd that knows tags (DogStatsD).",
    )
