"""The settings of what a server says of itself: its log.

A part of the table of `prefork.config.settings.Settings`; see there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefork.config import fields as kinds
from prefork.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Where the log goes, and how. Not used by itself: `Settings` checks it."""

    log_level: Literal["debug", "info", "warning", "error", "critical"] = setting(
        "info",
        kinds.REPORTING,
        kinds.choice("debug", "info", "warning", "error", "critical"),
        "The least severe messages that the command logs.",
    )
    log_file: str = setting(
        "",
        kinds.REPORTING,
        kinds.path("file", "-"),
        "Where the command logs to: a file, opened anew on SIGUSR1 and after a rotation; - is standard output, nothing "
        "standard error.",
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        kinds.REPORTING,
        kinds.choice("text", "json"),
        "How the command logs: text for people, or a JSON object a line.",
    )
    log_timezone: str = setting(
        "utc",
        kinds.REPORTING,
        kinds.text(
            r"[A-Za-z0-9_+\-/]{1,64}",
            "is no time zone; give utc, local or a name such as Europe/Berlin",
            metavar="ZONE",
        ),
        "Whose time of day the log and the access log have: utc; local, which is what TZ or /etc/localtime says when "
        "the server starts, whatever the application makes of it; or a zone such as Europe/Berlin.",
    )
