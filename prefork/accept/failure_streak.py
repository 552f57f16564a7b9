"""A streak: what a worker remembers of its trouble with accept(2), from the first failure to the next success.

Pure but for the random numbers of its jitter.
"""

from __future__ import annotations

from prefork.net.accept_errors import Reaction
from prefork.system.backoff import Backoff, Retry

EXHAUSTION = frozenset({Reaction.BACK_OFF_WORKER, Reaction.BACK_OFF_SYSTEM})
"""Reactions that say that descriptors or memory are short, in this worker or in the system."""


class FailureStreak:
    """One streak of one acceptor: made at the first failure, forgotten at the next success.

    Args:
        backoff: how long is waited.

    Attributes:
        fruitless: attempts in a row that were to be repeated at once (count).
        errno: the failure last waited for; 0 when nothing has been waited for.
        reaction: its reaction; None likewise.
        failures: how many have been waited for since the last success (count).
        waited: seconds given to waiting for ``errno`` alone. Time in a blocked accept is none: an accept that blocks
            does not fail.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._retry = Retry(backoff)
        self.fruitless = 0
        self.failures = 0
        self.relieved()

    def relieved(self) -> None:
        """An accept can be expected to succeed: nothing is waited for. Should it fail again, the wait is no shorter."""
        self.errno = 0
        self.reaction: Reaction | None = None
        self.waited = 0.0

    @property
    def backs_off(self) -> bool:
        """Whether it has come to waiting."""
        return self.reaction is not None

    @property
    def exhausted(self) -> bool:
        """Whether it is descriptors or memory that is waited for."""
        return self.reaction in EXHAUSTION

    def waited_for(self, number: int) -> float:
        """How long that failure, and no other, has been waited for, in seconds."""
        return self.waited if number == self.errno else 0.0

    def wait(self, number: int, reaction: Reaction) -> float:
        """Count a failure that has to be waited out.

        Args:
            number: its errno.
            reaction: what the table says of it.

        Returns:
            The seconds to wait.
        """
        if number != self.errno:
            self.errno, self.waited = number, 0.0
        self.reaction = reaction
        self.failures += 1
        seconds = self._retry.next()
        self.waited += seconds
        return seconds
