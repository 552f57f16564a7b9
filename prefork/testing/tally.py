"""What became of requests: an `Answer` each, and the `Tally` of all."""

from __future__ import annotations

import enum
import os
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Final

from prefork.testing.exchange import Outcome, Reply, parse_http

_KEPT: Final = 10  # losses kept as they were; the first few tell what went wrong, the rest only repeat it


class ClientPhase(enum.Enum):
    """How far a client had come when its request ended."""

    CONNECTING = "connecting"
    SENDING = "sending"
    RECEIVING = "receiving"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request.

    Args:
        outcome: In one word.
        data: Every byte that the server sent.
        seconds: From the first connect(2) to the end.
        phase: What the client was doing when it ended.
        started: When it began, in seconds of ``time.monotonic()``.
        errno: Of the system call that ended it, 0 when none failed.
    """

    outcome: Outcome
    data: bytes
    seconds: float
    phase: ClientPhase
    started: float
    errno: int = 0

    @property
    def http(self) -> Reply | None:
        """The data as an HTTP answer; None when it is none, or not a whole head."""
        try:
            return parse_http(self.data)
        except ValueError:
            return None

    @property
    def status(self) -> int:
        """The HTTP status code; 0 when the data is no HTTP answer."""
        reply = self.http
        return reply.status if reply else 0

    @property
    def body(self) -> bytes:
        """The body of an HTTP answer (chunks joined), or all of the data when it is something else."""
        reply = self.http
        return reply.body if reply else self.data

    def __str__(self) -> str:
        cause = f", {os.strerror(self.errno)}" if self.errno else ""
        return f"{self.outcome.value} after {self.seconds:.3f} s while {self.phase.value}{cause}"


class Tally:
    """Outcomes, counted.

    ``tally[Outcome.RESET]`` is how many were reset; ``tally.answered`` and ``tally.lost`` sum up; ``str(tally)``
    is for a failed assertion.

    Attributes:
        counts: How many ended each way.
        bodies: How many answers had this body: with a server that answers its pid, requests per worker.
        latencies: Seconds each answered request took, in the order of their ends.
        losses: The first ten that were lost.
    """

    def __init__(self) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.bodies: Counter[bytes] = Counter()
        self.latencies: array[float] = array("d")
        self.losses: list[Answer] = []

    def add(self, answer: Answer, *, body: bool = True) -> None:
        """Count one more.

        Args:
            answer: What became of the request.
            body: Whether to count it by body as well.
        """
        self.counts[answer.outcome] += 1
        if answer.outcome is not Outcome.ANSWERED:
            if len(self.losses) < _KEPT:
                self.losses.append(answer)
            return
        self.latencies.append(answer.seconds)
        if body:
            self.bodies[answer.body] += 1

    def __getitem__(self, outcome: Outcome) -> int:
        return self.counts[outcome]

    @property
    def total(self) -> int:
        """How many requests have ended."""
        return self.counts.total()

    @property
    def answered(self) -> int:
        """How many got their whole answer."""
        return self.counts[Outcome.ANSWERED]

    @property
    def lost(self) -> int:
        """How many ended in any other way."""
        return self.total - self.answered

    def percentile(self, fraction: float) -> float:
        """The latency that ``fraction`` of the answered requests stayed within.

        Args:
            fraction: 0 to 1; 0.5 is the median.

        Returns:
            Seconds.

        Raises:
            ValueError: When nothing was answered.
        """
        if not self.latencies:
            raise ValueError("no request was answered, so there is no latency")
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]

    def __str__(self) -> str:
        parts = [f"{self.counts[outcome]} {outcome.value}" for outcome in Outcome if self.counts[outcome]]
        text = ", ".join(parts) or "no requests"
        return text + "".join(f"\n  {loss}" for loss in self.losses)

    def __repr__(self) -> str:
        return f"<Tally: {str(self).splitlines()[0]}>"
