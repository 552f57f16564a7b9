"""Refusing by age: who has waited too long is told so at once, while more come than can be served.

A queue that never gets empty makes everybody wait and serves nobody more. Who has waited for long has often given up
by himself, and the work for him is lost. So, after CoDel (RFC 8289), it is not the length of the queue that counts but
for how long it has kept requests: a burst is served, be it late; only when for a while every request has waited for
longer than the target, those that have are refused, until for as long none has. Then workers are never idle, for
somebody waits all the time, and who is served has waited for no longer than the target. CoDel's control law, by
which few are dropped at first, is for senders that slow down; clients of a server do not.

Each worker judges by what comes to it. They share a queue that is first in, first out, so they see the same. Pure.
"""

from __future__ import annotations


class Overload:
    """One worker's judgement.

    Args:
        target: Seconds that a request may wait while too many come; and for how long that has to be so.

    Attributes:
        lasts: Whether those who have waited for longer are refused.
    """

    def __init__(self, target: float) -> None:
        self._target = target
        self._above_since: float | None = None
        self._above_at = 0.0
        self.lasts = False

    def refuses(self, waited: float, now: float) -> bool:
        """Whether a request is to be refused.

        Args:
            waited: Seconds that it has waited.
            now: Seconds on any clock that doesn't go back.
        """
        if waited <= self._target:
            self._above_since = None
            if self.lasts and now - self._above_at >= self._target:
                self.lasts = False
            return False
        self._above_at = now
        since = self._above_since  # another thread may find that it is over
        if since is None:
            since = self._above_since = now
        if not self.lasts and now - since >= self._target:
            self.lasts = True
        return self.lasts
