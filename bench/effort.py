"""How much work a run does: all of it, or as much as shows that the harness lives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Counts and seconds of every part."""

    peers: bool = True
    """Whether other servers are measured beside prefork and the floor."""
    rounds: int = 7
    """Of cost; each measures every server once."""
    seconds: float = 1.0
    """Of load in such a round."""
    messages: tuple[int, ...] = (1, 10, 100)
    """A connection, for the echo servers."""
    message_rounds: int = 3
    latency_rounds: int = 5
    latency_seconds: float = 2.0
    waiting: int = 150
    """Clients that wait when a server is stopped."""
    reloads: int = 10
    kill_seconds: float = 8.0
    limit_seconds: float = 4.0
    restarts: int = 5
    workers: tuple[int, ...] = (1, 10, 100, 500, 1000)
    """That are booted and stopped."""
    boot_rounds: int = 5
    idle_workers: tuple[int, ...] = (4, 100, 500)
    idle_seconds: float = 10.0
    crashes: int = 30
    memory_workers: int = 8
    profile_seconds: float = 5.0


FULL = Effort()

SMOKE = Effort(
    peers=False,
    rounds=1,
    messages=(2,),
    message_rounds=1,
    latency_rounds=1,
    latency_seconds=0.5,
    waiting=10,
    reloads=1,
    kill_seconds=0.5,
    limit_seconds=0.5,
    restarts=1,
    workers=(1, 3),
    boot_rounds=1,
    idle_workers=(2,),
    idle_seconds=0.5,
    crashes=2,
    memory_workers=2,
    profile_seconds=0.5,
)
