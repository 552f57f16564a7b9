"""The settings of kept connections: for how long a client that is idle keeps its place, and how many may.

A part of the table of `prefork.config.settings.Settings`; see there.
"""

from __future__ import annotations

from typing import Final

from prefork.config import kinds
from prefork.config.fields import KEEPING, SettingsTable, setting

_LONGEST_WAIT: Final = 2_000_000.0  # seconds; what poll(2) can wait for is 2**31 - 1 milliseconds
_MOST: Final = 1_000_000


class Keepalive(SettingsTable, kw_only=True):
    """For how long connections are kept, and how many. Not used by itself: `Settings` checks it."""

    keepalive: float = setting(
        0.0,
        KEEPING,
        kinds.number("a number of seconds", most=_LONGEST_WAIT),
        "Keep a connection on which nothing is asked for so long; a proxy's own time should be the shorter one. 0 "
        "closes each after one request.",
    )
    keepalive_requests: int = setting(
        10_000,
        KEEPING,
        kinds.whole("a count of requests", least=1),
        "Close a connection after it has brought this many requests.",
    )
    keepalive_min_timeout: float = setting(
        1.0,
        KEEPING,
        kinds.number("a number of seconds", most=60.0),
        "When kept connections end with the server, and under TLS with their worker: for so long who speaks is still "
        "answered, and told that it was the last time.",
    )
    max_parked: int = setting(
        0,
        KEEPING,
        kinds.whole("a count of connections", most=_MOST),
        "How many idle connections a worker keeps; one more closes the oldest. 0 means half of the descriptors that it "
        "may have.",
    )
