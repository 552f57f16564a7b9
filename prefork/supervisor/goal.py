"""What is wanted, by subject: the workers, the stop, whether forks are let through, the record of failures, time.

Each object changes through its methods alone, so that who changes what is found by its name. The policy reads all of
it and writes nothing.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.supervisor.death import Death
from prefork.system.backoff import Backoff
from prefork.system.record import MutableRecord, fresh

FORK_RETRY = Backoff(initial=0.1, factor=2.0, maximum=5.0, jitter=0.0)
"""How forks hold back when the system refuses them."""


class Renewal(enum.Enum):
    """Why workers are replaced by a generation to come."""

    RELOAD = "reload"
    """Somebody has asked for it; by an upgrade, too."""
    REFORK = "refork"
    """They have served for long enough (``refork_after``)."""


class Crashes(enum.Enum):
    """Whether workers die young again and again."""

    NONE = "none"
    LOOP = "crash loop"


class Stop(MutableRecord):
    """The stop of the server."""

    order: Order = Order.RUN
    """What every worker is told; anything but RUN ends the server."""
    deadline: float | None = None
    """When whoever is left is killed."""

    @property
    def begun(self) -> bool:
        """Whether workers are told to leave."""
        return self.order is not Order.RUN

    def begin(self, order: Order, deadline: float) -> None:
        """Tell every worker to leave. An order only ever grows; the deadline is set anew."""
        self.order = max(self.order, order)
        self.deadline = deadline

    def hasten(self, deadline: float) -> None:
        """Kill whoever is left at ``deadline``."""
        self.deadline = deadline

    def thawed(self, seconds: float) -> None:
        """The master was frozen, for ``seconds`` at the most."""
        if self.deadline is not None:
            self.deadline += seconds


class ForkGate(MutableRecord):
    """Whether forks are let through."""

    held: bool = False
    """No fork, no reload and no growth at all: the system is out of descriptors or memory."""
    short_of_memory: bool = False
    """Likewise: the cgroup is near its limit, and a worker leaves for it."""
    held_until: float | None = None
    """No fork before that moment: the system refused one."""
    failures: int = 0
    """Forks in a row that the system refused."""
    without_mold: bool = False
    """No fork: there is no mold of which workers could be made."""
    exhausted_boots: int = 0
    """Boots in a row that failed for want of descriptors or memory."""

    def hold(self) -> None:
        """The system is out of descriptors or memory."""
        self.held = True

    def release(self) -> None:
        """The system has what it was out of."""
        self.held = False

    def await_mold(self) -> None:
        """There is no mold; one is being made."""
        self.without_mold = True

    def mold_ready(self) -> None:
        """There is one."""
        self.without_mold = False

    def lacks_memory(self) -> None:
        """The cgroup is near its limit."""
        self.short_of_memory = True

    def has_memory(self) -> None:
        """It is not, or nothing can be done about it."""
        self.short_of_memory = False

    @property
    def shut(self) -> bool:
        """Whether nobody is forked, for as long as it takes."""
        return self.held or self.without_mold or self.short_of_memory

    def waits(self, now: float) -> bool:
        """Whether nobody may be forked at this moment."""
        return self.shut or (self.held_until is not None and now < self.held_until)

    def fork_failed(self, now: float) -> None:
        """Hold forks for a growing time."""
        self.held_until = now + FORK_RETRY.delay(self.failures, 0.0)
        self.failures += 1

    def forked(self) -> None:
        """A fork succeeded."""
        self.failures, self.held_until = 0, None

    def boot_exhausted(self, now: float) -> None:
        """A worker's boot failed for want of descriptors or memory: hold forks for a growing time.

        Those that were under way together fail together, and count once.
        """
        if self.held_until is None or now >= self.held_until:
            self.held_until = now + FORK_RETRY.delay(self.exhausted_boots, 0.0)
            self.exhausted_boots += 1

    def booted(self) -> None:
        """A worker is READY."""
        self.exhausted_boots = 0


class FailureRecord(MutableRecord):
    """What has failed of late."""

    young_deaths: deque[float] = fresh(factory=deque)
    """When workers died young, the earliest first."""
    killed_boots: int = 0
    """Boots of this generation that a signal from outside ended, since the last worker became READY."""

    def died_young(self, at: float) -> None:
        """A worker died unasked and young."""
        self.young_deaths.append(at)

    def boot_killed(self) -> None:
        """A boot of this generation was ended by a signal from outside."""
        self.killed_boots += 1

    def booted(self) -> None:
        """A worker is READY, or those to come are of another generation."""
        self.killed_boots = 0

    def boot_failed(self, settings: Settings, death: Death) -> bool:
        """Whether ``death`` is a failed boot.

        One that is killed from outside may be somebody's doing. Of as many as would be a crash loop, with none that
        became READY in between, it is the boot that has failed: the kernel has no memory for it, for instance.
        """
        return death.boot_failed or (death.boot_killed and self.killed_boots >= settings.crash_limit)

    def crashes(self, settings: Settings, now: float) -> Crashes:
        """Whether there were ``crash_limit`` young deaths within the last ``crash_window`` seconds."""
        while self.young_deaths and self.young_deaths[0] <= now - settings.crash_window:
            self.young_deaths.popleft()
        return Crashes.LOOP if len(self.young_deaths) >= settings.crash_limit else Crashes.NONE


class Timing(MutableRecord):
    """From when spans of time count, and when workers are looked at."""

    epoch: float = 0.0
    """When the master last came back from being frozen; every span of time counts from there at the earliest."""
    scan_at: float = 0.0
    """When the vitals are to be read again."""

    def scan_next(self, at: float) -> None:
        """The vitals are to be read again then."""
        self.scan_at = at

    def thawed(self, now: float) -> None:
        """The master was frozen until now."""
        self.epoch = now


class Goal(MutableRecord):
    """What is wanted of the workers: how many, of which generation. The rest by subject."""

    size: int
    smallest: int
    """The fewest workers that the settings allow (``min_workers``)."""
    largest: int
    """The most workers that the settings ask for (``max_workers``)."""
    draining: set[int] = fresh(factory=set)
    """Slots beyond the size whose own accept queue is not empty yet: they are kept as if they counted."""
    generation: int = 0
    highest: int = 0
    """The highest generation of which there have been workers: more than that, when it was given up."""
    rolling: bool = False
    """Whether workers of an older generation are being replaced."""
    loading: int | None = None
    """The generation for which a mold loads the application, while it is not the one that is wanted yet."""
    loads: Renewal = Renewal.RELOAD
    """Why it does, or did the last time."""
    rolls: Renewal = Renewal.RELOAD
    """Why workers are being replaced, or were the last time."""
    ready: bool = False
    """Whether the first generation has been complete once."""
    stop: Stop = fresh(factory=Stop)
    forks: ForkGate = fresh(factory=ForkGate)
    failures: FailureRecord = fresh(factory=FailureRecord)
    timing: Timing = fresh(factory=Timing)

    @property
    def slots(self) -> Sequence[int]:
        """The slots that are to have a worker."""
        own = range(self.size)
        return sorted({*own, *self.draining}) if self.draining else own

    @property
    def next(self) -> int:
        """The number of the generation after all that have had workers."""
        return max(self.generation, self.highest) + 1

    @property
    def coming(self) -> int:
        """The generation that there is to be, by all that has been asked for."""
        return self.generation if self.loading is None else self.loading

    @property
    def renews(self) -> bool:
        """Whether workers are being replaced by a generation to come, or will be."""
        return self.rolling or self.loading is not None

    @property
    def reloads(self) -> bool:
        """Whether a reload is under way."""
        return (self.rolling and self.rolls is Renewal.RELOAD) or (
            self.loading is not None and self.loads is Renewal.RELOAD
        )

    def load(self, why: Renewal) -> int:
        """A mold of the next generation is to be made; returns which that is."""
        self.loading, self.loads = self.next, why
        return self.loading

    def loaded(self) -> None:
        """That is over, whatever came of it."""
        self.loading = None

    def resize(self, size: int) -> None:
        """So many workers are wanted."""
        self.size = size

    def keep(self, slots: Iterable[int]) -> None:
        """Those slots go, and have something in their own accept queues."""
        self.draining |= set(slots)

    def let_go(self, slots: Iterable[int]) -> None:
        """Nothing waits any more in the accept queues of those slots, or they stay after all."""
        self.draining -= set(slots)

    def roll(self) -> None:
        """Every worker is to be of the next generation."""
        self.generation = self.highest = self.next
        self.rolling, self.rolls = True, self.loads
        self.failures.booted()

    def rolled(self) -> None:
        """Nobody is to be replaced for its generation any more: it is done, or given up."""
        self.rolling = False

    def retreat(self, generation: int) -> None:
        """Workers to come are of that generation again, as those are who serve."""
        self.generation = generation

    def completed(self) -> None:
        """The first generation is complete."""
        self.ready = True

    def took_over(self, size: int, generation: int, draining: Iterable[int], lived: Iterable[int] = ()) -> None:
        """The workers of an earlier image of this process live on, of the generations ``lived``."""
        self.size, self.generation, self.ready = size, generation, True
        self.highest = max((generation, *lived))
        self.keep(draining)

    def booted(self) -> None:
        """A worker is READY."""
        self.forks.booted()
        self.failures.booted()

    def thawed(self, seconds: float, now: float) -> None:
        """The master itself was frozen, for ``seconds`` at the most: every deadline starts anew."""
        self.timing.thawed(now)
        self.stop.thawed(seconds)
