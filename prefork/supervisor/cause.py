"""Why a worker is to go, and why it ended. The one list of causes, and the one of their texts. Pure.

What counts and decides reads a :class:`Cause`; its text is made where somebody is to read it, and read back nowhere.
"""

from __future__ import annotations

import enum

from prefork.scoreboard.events import Why
from prefork.system.record import Record


class Cause(enum.StrEnum):
    """Why a worker ended. The values are those of the metrics' label, and stand in hand-over records."""

    # It was told to leave, and did.
    STOP = "stop"
    SHRINK = "shrink"
    RELOAD = "reload"
    MAX_REQUESTS = "max_requests"
    MAX_AGE = "max_age"
    MAX_MEMORY = "max_memory"
    MAX_FDS = "max_fds"
    MEMORY = "memory"
    SIGNALLED = "signalled"
    LEAK = "leak"
    LISTENER_LOST = "listener_lost"
    ASKED = "asked"
    RECYCLED = "recycled"
    # It was told to leave, and killed.
    GRACEFUL_TIMEOUT = "graceful_timeout"
    # Nobody had told it to.
    BOOT = "boot"
    TIMEOUT = "timeout"
    CRASH = "crash"
    EXIT = "exit"
    OTHER = "other"
    """Another version of prefork, from which this process was upgraded, knows a word for it."""

    @classmethod
    def of_request(cls, why: Why) -> Cause:
        """What a worker's request to be replaced comes to: :class:`Why` has the same names."""
        return cls[why.name]

    @classmethod
    def of_record(cls, value: str) -> Cause:
        """What a hand-over record has: a value that another version knows is :attr:`OTHER`."""
        return cls(value) if value in list(cls) else cls.OTHER


TEXTS = {
    Cause.STOP: "the server stops",
    Cause.SHRINK: "the server shrinks",
    Cause.RELOAD: "replaced",
    Cause.MAX_REQUESTS: "max_requests",
    Cause.MAX_AGE: "max_age",
    Cause.MAX_MEMORY: "max_memory",
    Cause.MAX_FDS: "max_fds",
    Cause.MEMORY: "its cgroup is short of memory",
    Cause.SIGNALLED: "signalled by somebody else",
    Cause.LEAK: "it leaks descriptors",
    Cause.LISTENER_LOST: "its listener is lost",
    Cause.ASKED: "it asked for it",
    Cause.RECYCLED: "recycled by hand",
    Cause.GRACEFUL_TIMEOUT: "it did not leave in time",
    Cause.BOOT: "it failed to boot",
    Cause.TIMEOUT: "it hangs",
    Cause.CRASH: "it crashed",
    Cause.EXIT: "it exited",
    Cause.OTHER: "another reason",
}
"""Each as log lines and the status have it."""


class Reason(Record):
    """Why one worker is to go.

    Args:
        cause: the kind.
        detail: what was found of this worker; "" for nothing.
    """

    cause: Cause
    detail: str = ""

    def __str__(self) -> str:
        """As a log line has it."""
        return f"{TEXTS[self.cause]}: {self.detail}" if self.detail else TEXTS[self.cause]
