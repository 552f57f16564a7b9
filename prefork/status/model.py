"""What a server tells of itself: plain data, and the JSON that carries it.

A reader leaves out names that it doesn't know and takes the default for those that are missing, so that a command of
one release reads the server of another. Times are seconds, sizes are bytes. Pure.
"""

from __future__ import annotations

from prefork.system.record import Record, fresh

KEPT = ("reused", "handed_over", "expired", "evicted", "left")
"""What is counted of kept connections, as a :class:`~prefork.scoreboard.layout.EntryView` has it."""


class Process(Record, kw_only=True):
    """What the system says of a process; None for what it doesn't tell."""

    rss: int | None = None
    """Resident memory, bytes."""
    cpu: float | None = None
    """CPU time so far, user and system, seconds."""
    descriptors: int | None = None


class Listening(Record, kw_only=True):
    """One listener."""

    address: str
    waiting: int = 0
    """Connections in the accept queue."""
    backlog: int = 0
    """How many may wait there, as the kernel cut it; 0 if unknown."""


class LaneStatus(Record, kw_only=True):
    """One lane of a worker that has several: a thread, with one connection in hand or none."""

    busy: float | None = None
    """For how long it has been with the connection in hand, seconds; None when it has none."""
    served: int = 0
    failed: int = 0
    mean: float = 0.0
    longest: float = 0.0


class RunningRequest(Record, kw_only=True):
    """What a worker has in hand, in one of its threads that accept."""

    label: str = ""
    """What is asked for: method and path without the query, or what the handler calls it; "" if that is not noted."""
    peer: str = ""
    """The client's address, as the handler has it; "" on a unix socket, or if it is not noted."""
    seconds: float = 0.0
    """For how long."""
    waited: float | None = None
    """For how long it had waited for a worker before."""
    lane: int = 0


class Working(Record, kw_only=True):
    """One worker that lives."""

    slot: int
    pid: int
    generation: int = 0
    state: str = ""
    """starting, idle, busy, backing off, or leaving (told to leave, perhaps busy still)."""
    seconds: float = 0.0
    """How long it has been in that state; while it is busy, how long with the connection in hand, the oldest."""
    age: float = 0.0
    served: int = 0
    failed: int = 0
    refused: int = 0
    parked: int = 0
    """Kept connections on which nothing is in hand, and one that is."""
    mean: float = 0.0
    """Handling time of a connection, seconds."""
    longest: float = 0.0
    lanes: tuple[LaneStatus, ...] = ()
    """Where it has several (``threads``): each of them."""
    reason: str = ""
    """Why it leaves or is to be replaced."""
    error: str = ""
    """The last failure of accept(2) while it backs off."""
    requests: tuple[RunningRequest, ...] = ()
    """What it has in hand; nothing when it is idle."""
    process: Process = Process()

    @property
    def in_hand(self) -> int:
        """How many of its lanes have a connection in hand."""
        return sum(lane.busy is not None for lane in self.lanes)


class MoldStatus(Record, kw_only=True):
    """One mold: a process that has loaded the application, of which workers are forked."""

    pid: int
    generation: int = 0
    state: str = ""
    """loading, ready (workers are made of it), or former (its last workers live)."""
    age: float = 0.0
    pss: int | None = None
    """Its share of memory, bytes: what it has alone, and its part of what it shares; None for what is not known."""


class Ended(Record, kw_only=True):
    """One worker that died."""

    slot: int
    pid: int
    generation: int = 0
    how: str = ""
    reason: str = ""
    age: float = 0.0
    served: int = 0
    ago: float = 0.0
    in_hand: str = ""
    """What it had in hand, in words, if its end was not in order."""


class Totals(Record, kw_only=True):
    """What has been counted since the start, by workers dead and alive. Nothing here ever goes down."""

    served: int = 0
    failed: int = 0
    """Connections whose handler raised."""
    interrupted: int = 0
    """Connections that were in hand when their worker died."""
    refused: int = 0
    """Connections shed."""
    busy: float = 0.0
    """Seconds spent in handlers."""
    histogram: tuple[int, ...] = ()
    """Handlers that took less than ``bounds[n]`` seconds and not less than the bound before; the last is without
    bound."""
    bounds: tuple[float, ...] = ()
    waited: tuple[int, ...] = ()
    """What had waited less than ``waited_bounds[n]`` seconds when a worker took it, likewise; where that is known."""
    waited_bounds: tuple[float, ...] = ()
    waiting: float = 0.0
    """Seconds that all of it had waited."""
    kept: dict[str, int] = fresh(factory=lambda: dict.fromkeys(KEPT, 0))
    """Of kept connections, each of these even at 0: how often one was served again (``reused``), passed on to a
    sibling (``handed_over``), closed because its time was over (``expired``) or to make room (``evicted``), by its
    client (``left``)."""
    accept_errors: dict[str, int] = fresh(factory=dict)
    """Failed accepts by errno."""
    deaths: dict[str, int] = fresh(factory=dict)
    """Workers that ended, by cause."""
    forks: int = 0
    """Workers that became ready."""
    reloads: int = 0
    failed_reloads: int = 0
    reforks: int = 0
    """Generations of the same code, after ``refork_after`` requests."""
    failed_reforks: int = 0
    pressure: float = 0.0
    """Seconds during which descriptors or memory were exhausted."""
    cpu: float = 0.0
    """CPU time of all workers, the dead ones included, seconds; of the living only when processes were asked for."""


class Status(Record, kw_only=True):
    """One server at one moment."""

    version: str
    pid: int
    state: str
    """starting, serving, reloading or stopping."""
    name: str = ""
    """What the server is called; by the commands, what it serves."""
    started: float = 0.0
    """When the master began to run: seconds since the epoch."""
    uptime: float = 0.0
    generation: int = 0
    size: int = 0
    """How many workers are wanted."""
    smallest: int = 0
    largest: int = 0
    listeners: tuple[Listening, ...] = ()
    workers: tuple[Working, ...] = ()
    molds: tuple[MoldStatus, ...] = ()
    exhaustions: tuple[str, ...] = ()
    """What is exhausted at present, one line each."""
    crash_loop: bool = False
    deaths: tuple[Ended, ...] = ()
    """The last ones, the latest first."""
    totals: Totals = fresh(factory=Totals)
    process: Process = Process()
    """The master."""


class Health(Record, kw_only=True):
    """Whether a server is fit for work."""

    state: str
    serving: int = 0
    """Workers that accept."""
    size: int = 0
    crash_loop: bool = False

    @property
    def ready(self) -> bool:
        """Whether it takes connections and means to go on."""
        return self.state in {"serving", "reloading"} and self.serving > 0
