"""The settings by which balancers learn whether a server is fit: who may ask where, and what makes it unfit.

A part of the table of `prefork.config.settings.Settings`; see there.
"""

from __future__ import annotations

from typing import Final

from prefork.config import kinds
from prefork.config.fields import PROBING, SettingsTable, setting
from prefork.config.kinds import Kind

CHECKS: Final = ("exhausted", "reload")
"""What may make a server unfit, besides its start and its stop."""


def _checks() -> Kind[str]:
    """Names of `CHECKS` with commas between them; nothing for none."""

    def check(value: object) -> str:
        words = [word.strip() for word in value.split(",")] if isinstance(value, str) else [""]
        if not isinstance(value, str) or (value and not set(words) <= set(CHECKS)):
            raise kinds.refusal(value, f"names no checks; give some of {', '.join(CHECKS)}, with commas, or nothing")
        return ",".join(words)

    return Kind("CHECKS", str.strip, check)


class Probing(SettingsTable, kw_only=True):
    """What balancers are told. Not used by itself: `Settings` checks it."""

    health_bind: str = setting(
        "",
        PROBING,
        kinds.place(),
        "Answer every HTTP request here by 200 while the server is fit, and by 503 with the reason while it is not: "
        "during its start, from the moment it is told to stop, and for what health_checks names. The master answers.",
    )
    health_checks: str = setting(
        "exhausted",
        PROBING,
        _checks(),
        "What else makes the server unfit: exhausted, while all workers are out of descriptors or memory; reload, "
        "after a reload has failed, until one succeeds.",
    )
    agent_bind: str = setting(
        "",
        PROBING,
        kinds.place(),
        "Answer each connection here by a line for HAProxy's agent-check: up, ready and a weight by how many workers "
        "are idle, drain from the moment of a stop, down while unfit.",
    )
    agent_request_time: float = setting(
        0.0,
        PROBING,
        kinds.number("a number of seconds", most=3600.0),
        "Seconds that a request takes at the most while all is well, the same for all servers of a fleet: one whose "
        "requests take longer lately has a weight that is less by the fourth power of it. 0 leaves the time out.",
    )

    @property
    def checks(self) -> frozenset[str]:
        """What `health_checks` names."""
        return frozenset(filter(None, self.health_checks.split(",")))
