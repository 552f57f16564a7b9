"""How one episode's server is set up: the seed chooses."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from prefork.testing.faults import unavailable

MOST: Final = 6
"""The most workers that a server is scaled to."""

NOFILE: Final = 256
"""The soft limit of descriptors that a server is started with: low, so that leaks show soon."""

LISTENING: Final = ("tcp", "tcp", "reuse_port", "two", "two groups", "unix", "inherited")

REFORK_AFTER: Final = 150
"""Requests of a worker, for the first refork of each code: even one that is to leave at its `max_age` serves more."""

_SHORT: Final = 4
"""Seconds of timeout where workers are to be ended by it: more than anything that is frozen stays so."""

_ALWAYS: Final[dict[str, Any]] = {
    "raise_nofile": False,
    "io_timeout": 10,  # polite clients are never so slow, on the busiest machine; rude ones leave sooner
    "timeout": 30,
    "graceful_timeout": 60,
    "max_memory": "96M",
    "log_level": "info",
    "crash_limit": 1_000_000,
}


@dataclass(frozen=True)
class Arrangement:
    """One server's set-up.

    Args:
        listening: One of `LISTENING`. An inherited listener outlives every server.
        subcommand: "serve" or "wsgi".
        workers: How many at the start.
        elastic: Whether the server chooses their number itself.
        preload: Whether a mold loads the application.
        injected: Whether system calls can be made to fail.
        settings: For the command.
    """

    listening: str
    subcommand: str
    workers: int
    elastic: bool
    preload: bool
    injected: bool
    settings: dict[str, Any]

    @property
    def outlives(self) -> bool:
        """Whether the listener outlives the server, so that even a master that is killed costs nobody who waits."""
        return self.listening == "inherited"

    @property
    def parks_newcomers(self) -> bool:
        """Whether a connection may be parked before its first request: it is accepted before that has come."""
        return self.keeps and self.listening in {"inherited", "unix"}

    @property
    def impatient(self) -> bool:
        """Whether a worker that hangs is ended soon enough to wait for it."""
        return bool(self.settings["timeout"] == _SHORT)

    @property
    def reforks(self) -> bool:
        """Whether workers that have served for a while are replaced by those of a mold that is warmed anew."""
        return bool(self.settings.get("refork_after"))

    @property
    def in_hand(self) -> int:
        """How many connections a worker may have in hand."""
        return int(self.settings["threads"])

    @property
    def keeps(self) -> bool:
        """Whether the server keeps connections."""
        return bool(self.settings.get("keepalive"))

    @property
    def groups(self) -> int:
        """How many listeners have a socket for each slot."""
        return {"reuse_port": 1, "two groups": 2}.get(self.listening, 0)

    @property
    def per_worker(self) -> int:
        """Descriptors that the master has for each worker: its pidfd, its report pipe, its sockets."""
        return 2 + self.groups

    def __str__(self) -> str:
        said = [self.subcommand, self.listening, f"{self.workers} workers"]
        said += [name for name in ("elastic", "preload", "injected") if getattr(self, name)]
        said += [f"{name}={value}" for name, value in self.settings.items() if _ALWAYS.get(name) != value]
        return ", ".join(said)


def arrange(chance: random.Random) -> Arrangement:
    """Choose one."""
    subcommand = chance.choice(["serve", "serve", "wsgi"])
    listening = chance.choice(LISTENING)
    workers = chance.randint(2, 4)
    elastic = chance.random() < 0.15
    preload = chance.random() < 0.35
    injected = chance.random() < 0.4 and unavailable() is None
    settings = _ALWAYS | {"threads": chance.choice([1, 1, 4])}
    if listening in {"reuse_port", "two groups"}:
        settings["reuse_port"] = True
        settings["reuse_port_mode"] = chance.choice(["hash", "random"])
    if elastic:
        settings |= {"min_workers": 1, "max_workers": MOST, "idle_timeout": 0.3}
    if chance.random() < 0.3:
        settings |= {"max_requests": 2000, "max_requests_jitter": 1000}
    if chance.random() < 0.2:
        settings |= {"max_age": 4, "max_age_jitter": 2}
    if chance.random() < 0.2:
        settings |= {"reload_surge": 3, "max_recycling": 2}
    if chance.random() < 0.2:
        settings["timeout"] = _SHORT
    if preload and chance.random() < 0.6:
        settings["refork_after"] = f"{REFORK_AFTER},1000000"
    if subcommand == "wsgi":
        settings["header_timeout"] = 10
        settings["keepalive"] = chance.choice([0, 75, 75])
    return Arrangement(listening, subcommand, workers, elastic, preload, injected, settings)
