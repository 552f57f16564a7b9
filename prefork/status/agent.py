"""What HAProxy's agent-check is told: a line with state and weight together. Pure, but for the smoothing's memory.

Together, because a line that has only one of them leaves the other as some earlier line or an operator has set it
(haproxy issue 2039). HAProxy's documentation has the words (configuration manual, 5.2, agent-check).
"""

from __future__ import annotations

import math
from typing import Final

from prefork.scoreboard.layout import Readiness
from prefork.system.record import Record

SMOOTHING: Final = 2.0
"""Seconds in which the weight has come two thirds of the way to what is true now."""

WARM_AFTER: Final = 20
"""Connections that a worker has served when it counts as warm."""

WARM_AGE: Final = 30.0
"""Or seconds that it lives."""

A_PLACE: Final = 4
"""Connections that HAProxy may make for each that is served at one moment.

It makes the next when it has heard of the end of one. With 1 a worker idles for as long as that takes: measured behind
three servers at seven tenths of what they can do, half of the requests took 380 ms in place of 26, and with 2 still 58.
Without a limit they wait at a server that is slow, up to seconds."""

_REASONS: Final = {
    Readiness.STARTING: "starting",
    Readiness.STOPPING: "stopping",
    Readiness.DELAYED: "stopping",
    Readiness.EXHAUSTED: "all workers are out of descriptors or memory",
    Readiness.RELOAD_FAILED: "the last reload has failed",
}


def reason_of(readiness: Readiness) -> str:
    """Why a server is not fit; "" when it is."""
    return _REASONS.get(readiness, "")


class Workload(Record):
    """What the workers do.

    Attributes:
        size: How many there are to be.
        idle: How many wait for a connection.
        warm: How many have served or lived for a while.
        waiting: Connections in the accept queues.
        at_once: How many are served at one moment; 0 where workers have loops of their own, which don't tell.
    """

    size: int
    idle: int
    warm: int
    waiting: int
    at_once: int = 0

    @property
    def share(self) -> float:
        """The share of new clients that the server can take, above 0 and up to 1."""
        free = 1 / (self.size + 1 + self.waiting) if self.waiting else (self.idle + 1) / (self.size + 1)
        return min(free, (self.warm + 1) / (self.size + 1))


class Agent:
    """The weight over time.

    Begins at nothing, so that a server which has just started is given its clients little by little.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._at: float | None = None

    def line(self, readiness: Readiness, load: Workload, now: float) -> str:
        """What to say now.

        Args:
            readiness: Whether the server is fit.
            load: What its workers do.
            now: Seconds on any clock that doesn't go back.
        """
        if self._at is not None:
            self._weight += (load.share - self._weight) * (1 - math.exp((self._at - now) / SMOOTHING))
        self._at = now
        if readiness in {Readiness.STOPPING, Readiness.DELAYED}:
            return "drain\n"
        if readiness is not Readiness.READY:
            return f"down #{reason_of(readiness)}\n"
        percent = max(1, min(100, round(100 * self._weight)))
        most = f" maxconn:{A_PLACE * load.at_once}" if load.at_once else ""
        return f"up ready {percent}%{most}\n"
