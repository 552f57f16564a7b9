"""What HAProxy's agent-check is told: a line with state and weight together. Pure, but for the smoothing's memory.

Together, because a line that has only one of them leaves the other as some earlier line or an operator has set it
(haproxy issue 2039). HAProxy's documentation has the words (configuration manual, 5.2, agent-check).

The weight is what the workers can take, times a power of the pace (`STEEPNESS`), which is the part of a request's time
that it should take. A server can't know how fast others are, and need not: all measure by the same seconds
(agent_request_time), so that they lose weight alike when their database is slow, and who has just been started is soon
one of them. Who compared with his own past would have all clients sent to that one. It is never 0, for a fleet of which
all are slow has to serve.

Who is slow is asked for little, and would not find out that he is fast again. So his pace is forgotten while all his
workers are idle, until he is sent a request.
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

TURN: Final = 0.05
"""Seconds in which HAProxy has heard of an answer and its next request is at the worker, at the worst (busy CPUs)."""

LEAST_PLACES: Final = 2
MOST_PLACES: Final = 4
"""Requests that HAProxy may have sent for each that is served at one moment.

It sends the next when it has heard of the end of one, and a worker idles for as long as that takes. So there is one
more for each request that could be served meanwhile: four where one takes up to 17 ms, two where it takes 50 or more.
What is sent beyond that waits at one server while another is free, and most of all at one that has become slow; what is
not sent yet, HAProxy gives to whoever has a place first. Never less than two: with one, behind three servers at seven
tenths of what they can do, half of the requests took 380 ms in place of 26, once CPUs were busy."""

STEEPNESS: Final = 4
"""By which power of its pace a server loses weight.

By the first, everybody would have in hand what he gets through in the same time: a fifth of the requests for who needs
five times as long, each of which is five times as late. What the clients notice is the hundredth that is slowest, so
fewer than that may meet such a host. Of three it has to weigh less than a fiftieth of each of the others, which have
half of their weight at half of their load: the fourth power is 1/625. roundrobin gives to each what its weight says;
leastconn gives to who has nothing in hand first, whatever it weighs, and what it is spared then is the queue."""

FORGOTTEN: Final = 10.0
"""Seconds without work in which a server forgets two thirds of how slow it was, as its weight has it."""

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
        served: How many requests the workers have served so far.
        busy: Seconds that all of these took.
    """

    size: int
    idle: int
    warm: int
    waiting: int
    at_once: int = 0
    served: int = 0
    busy: float = 0.0

    @property
    def share(self) -> float:
        """The share of new clients that the server can take, above 0 and up to 1."""
        free = 1 / (self.size + 1 + self.waiting) if self.waiting else (self.idle + 1) / (self.size + 1)
        return min(free, (self.warm + 1) / (self.size + 1))


class Lately:
    """For how long a request has kept a worker of late.

    Args:
        usual: Seconds that one takes at the most while all is well; 0 when that is not known.
    """

    def __init__(self, usual: float = 0.0) -> None:
        self._usual = usual
        self._worked = 0.0
        self._served = 0
        self._busy = 0.0
        self._at = 0.0
        self._late_served = 0.0
        self._late_busy = 0.0

    def take_in(self, load: Workload, now: float) -> None:
        """Consider what was served by now."""
        served, busy = load.served - self._served, load.busy - self._busy
        if served:
            self._served, self._busy = load.served, load.busy
        if served > 0 <= busy:  # else a worker has ended, and taken its sums along
            fading = math.exp((self._at - now) / SMOOTHING)
            self._late_served = self._late_served * fading + served
            self._late_busy = self._late_busy * fading + busy
            self._at = now
        if served or load.idle < load.size:
            self._worked = now

    def places(self) -> float:
        """How many requests may be sent for each that is served at one moment; `MOST_PLACES` while nothing was."""
        if self._late_busy <= 0:
            return MOST_PLACES
        if self._usual:
            return max(LEAST_PLACES, MOST_PLACES * self._measured())
        return max(LEAST_PLACES, min(MOST_PLACES, 1 + TURN * self._late_served / self._late_busy))

    def pace(self, now: float) -> float:
        """How many times faster a request should be, above 0 and up to 1, which it is until something is known."""
        if not self._usual or self._late_busy <= 0:
            return 1.0
        known: float = self._measured() ** math.exp((self._worked - now) / FORGOTTEN)
        return known

    def _measured(self) -> float:
        return min(1.0, self._usual * self._late_served / self._late_busy)


class Agent:
    """What is told over time.

    The weight begins at nothing, so that a server which has just started is given its clients little by little.

    Args:
        usual: As `Lately` has it.
    """

    def __init__(self, usual: float = 0.0) -> None:
        self._weight = 0.0
        self._at: float | None = None
        self._lately = Lately(usual)

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
        self._lately.take_in(load, now)
        percent = max(1, min(100, round(100 * self._weight * self._lately.pace(now) ** STEEPNESS)))
        most = f" maxconn:{round(self._lately.places() * load.at_once)}" if load.at_once else ""
        return f"up ready {percent}%{most}\n"
