"""How much work a run does: all of it, a little with every server, or as much as shows that the harness lives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Counts and seconds of every part."""

    peers: bool = True
    """Whether other servers are measured beside prefork and the floor."""
    patience: float = 110.0
    """Seconds that the rounds of one table may take: no further round is begun then, once there are three."""
    rounds: int = 5
    """Of cost; each measures every server once."""
    seconds: float = 1.0
    """Of load in such a round."""
    messages: tuple[int, ...] = (1, 10, 100)
    """A connection, for the echo servers."""
    feature_rounds: int = 3
    """Of what only some do, of echoes, and of growth."""
    overload_seconds: float = 3.0
    latency_rounds: int = 5
    latency_seconds: float = 1.0
    tail_rounds: int = 31
    """Of the few that a p99 is judged of: what it is in one round, a scheduler decides."""
    tail_seconds: float = 0.5
    waiting: int = 150
    """Clients that wait when a server is stopped."""
    reloads: int = 4
    kill_seconds: float = 3.0
    limit_seconds: float = 2.0
    restarts: int = 2
    scenario_seconds: float = 10.0
    """After which no further reload, stop or start is begun."""
    workers: tuple[int, ...] = (1, 10, 100, 500, 1000)
    """That are booted and stopped."""
    boot_rounds: int = 3
    idle_workers: tuple[int, ...] = (4, 100, 500)
    idle_seconds: float = 6.0
    crashes: int = 15
    memory_workers: int = 8
    firsts: int = 3
    """Workers whose first requests are timed."""
    sizes: tuple[int, ...] = (1, 2, 8, 32, 128)
    """Workers among which a request costs."""
    connections: tuple[int, ...] = (16, 1000, 10_000)
    """Kept ones, on each of which requests are made."""
    ordered_workers: tuple[int, ...] = (1, 10, 100, 1000)
    """That are asked for their status and reloaded."""
    parked: tuple[int, ...] = (1000, 10_000)
    profile_seconds: float = 4.0


FULL = Effort()

QUICK = Effort(
    patience=0.0,
    rounds=1,
    messages=(1, 100),
    feature_rounds=1,
    overload_seconds=1.0,
    latency_rounds=1,
    latency_seconds=0.5,
    tail_rounds=1,
    waiting=30,
    reloads=1,
    kill_seconds=1.0,
    limit_seconds=1.0,
    restarts=1,
    workers=(1, 100),
    boot_rounds=1,
    idle_workers=(4,),
    idle_seconds=1.0,
    crashes=3,
    memory_workers=2,
    firsts=1,
    sizes=(1, 8),
    connections=(16, 1000),
    ordered_workers=(1, 100),
    parked=(1000,),
    profile_seconds=0.5,
)

SMOKE = Effort(
    peers=False,
    rounds=1,
    messages=(2,),
    feature_rounds=1,
    overload_seconds=0.5,
    latency_rounds=1,
    latency_seconds=0.3,
    tail_rounds=1,
    tail_seconds=0.3,
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
    firsts=1,
    sizes=(1, 3),
    connections=(4, 40),
    ordered_workers=(1, 3),
    parked=(20,),
    profile_seconds=0.5,
)
