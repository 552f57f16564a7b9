"""The counters: what outlives workers. It takes over what a worker has counted when it dies, and remembers the why.

What living workers have counted stands in their entries, which are cleared for the next worker. So totals are the
counters' sums of the dead and the views of the living, and never go down.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

from prefork.net.accept_errors import COUNTED
from prefork.scoreboard.layout import BUCKET_SHIFT, BUCKETS, WAIT_BUCKETS, WAIT_SHIFT, EntryView
from prefork.status.model import KEPT, Totals
from prefork.supervisor import notifications
from prefork.supervisor.death import Death
from prefork.supervisor.notifications import Notification
from prefork.system import codec
from prefork.system.clock import SYSTEM, Clock

BOUNDS = tuple(2 ** (BUCKET_SHIFT + n) / 1e9 for n in range(BUCKETS - 1))
"""The upper bounds of the histogram's places in seconds; the last place has none."""

WAIT_BOUNDS = tuple(2 ** (WAIT_SHIFT + n) / 1e3 for n in range(WAIT_BUCKETS - 1))
"""The same of the histogram of waits."""


class Counters:
    """The sums of one server.

    Args:
        clock: tells for how long something was exhausted.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._served = self._failed = self._interrupted = self._refused = self._busy = 0
        self._histogram = [0] * BUCKETS
        self._waited = [0] * WAIT_BUCKETS
        self._waiting = 0  # ms
        self._errors = [0] * len(COUNTED)
        self._kept = dict.fromkeys(KEPT, 0)
        self._deaths: collections.Counter[str] = collections.Counter()
        self._forks = self._reloads = self._failed_reloads = self._reforks = self._failed_reforks = 0
        self._cpu = 0.0
        self._exhausted: set[bool] = set()
        self._exhausted_since = 0.0
        self._pressure = 0.0

    def save(self) -> dict[str, object]:
        """What :meth:`restore` needs, as JSON has it: the sums of the dead."""
        return codec.parsed_object(codec.encoded(self.totals([])))

    def restore(self, saved: object) -> None:
        """Go on with the sums of an earlier image of this process.

        Raises:
            ValueError: they are none.
        """
        sums = codec.read(Totals, saved)
        self._served, self._failed = sums.served, sums.failed
        self._interrupted, self._refused = sums.interrupted, sums.refused
        self._busy = round(sums.busy * 1e9)
        if sums.bounds == BOUNDS:
            self._histogram = list(sums.histogram)
        if sums.waited_bounds == WAIT_BOUNDS:
            self._waited, self._waiting = list(sums.waited), round(sums.waiting * 1000)
        self._kept = {name: sums.kept.get(name, 0) for name in KEPT}
        self._errors = [sums.accept_errors.get(name, 0) for name in COUNTED]
        self._deaths.update(sums.deaths)
        self._forks, self._reloads, self._failed_reloads = sums.forks, sums.reloads, sums.failed_reloads
        self._reforks, self._failed_reforks = sums.reforks, sums.failed_reforks
        self._pressure, self._cpu = sums.pressure, sums.cpu

    def notify(self, notification: Notification) -> None:
        """Enter what has happened."""
        match notification:
            case notifications.Died(death, last):
                self._died(death, last)
            case notifications.WorkerReady():
                self._forks += 1
            case notifications.Reloaded():
                self._reloads += 1
            case notifications.ReloadFailed() | notifications.UpgradeFailed():
                self._failed_reloads += 1
            case notifications.Reforked():
                self._reforks += 1
            case notifications.ReforkFailed():
                self._failed_reforks += 1
            case notifications.Exhausted(exhaustion):
                self._exhaustion(exhaustion.system, over=exhaustion.over)
            case _:
                pass

    def _died(self, death: Death, last: EntryView) -> None:
        self._deaths[death.cause] += 1
        self._cpu += death.exit.user + death.exit.system
        self._refused += last.refused
        for name in KEPT:
            self._kept[name] += getattr(last, name)
        for place in range(len(self._errors)):
            self._errors[place] += last.errors[place]
        for lane in last.lanes:
            self._served += lane.served
            self._failed += lane.failed
            self._interrupted += bool(lane.busy_since)
            self._busy += lane.busy_total
            for place, count in enumerate(lane.histogram):
                self._histogram[place] += count
            for place, count in enumerate(lane.waited):
                self._waited[place] += count
            self._waiting += lane.waited_total

    def _exhaustion(self, system: bool, *, over: bool) -> None:
        """Exhaustions of workers and of the system may overlap: the time counts once."""
        now = self._clock.monotonic()
        if over:
            self._exhausted.discard(system)
            if not self._exhausted:
                self._pressure += now - self._exhausted_since
        else:
            if not self._exhausted:
                self._exhausted_since = now
            self._exhausted.add(system)

    def totals(self, living: Iterable[EntryView], cpu: float = 0.0) -> Totals:
        """The sums so far.

        Args:
            living: the entries of the workers that live.
            cpu: their CPU time, seconds.
        """
        views = list(living)
        lanes = [lane for view in views for lane in view.lanes]
        errors = [count + sum(view.errors[place] for view in views) for place, count in enumerate(self._errors)]
        pressure = self._pressure + (self._clock.monotonic() - self._exhausted_since if self._exhausted else 0.0)
        return Totals(
            served=self._served + sum(lane.served for lane in lanes),
            failed=self._failed + sum(lane.failed for lane in lanes),
            interrupted=self._interrupted,
            refused=self._refused + sum(view.refused for view in views),
            busy=(self._busy + sum(lane.busy_total for lane in lanes)) / 1e9,
            histogram=tuple(map(sum, zip(self._histogram, *(lane.histogram for lane in lanes), strict=True))),
            bounds=BOUNDS,
            waited=tuple(map(sum, zip(self._waited, *(lane.waited for lane in lanes), strict=True))),
            waited_bounds=WAIT_BOUNDS,
            waiting=(self._waiting + sum(lane.waited_total for lane in lanes)) / 1000,
            kept={name: self._kept[name] + sum(getattr(view, name) for view in views) for name in KEPT},
            accept_errors={name: count for name, count in zip(COUNTED, errors, strict=True) if count},
            deaths=dict(self._deaths),
            forks=self._forks,
            reloads=self._reloads,
            failed_reloads=self._failed_reloads,
            reforks=self._reforks,
            failed_reforks=self._failed_reforks,
            pressure=pressure,
            cpu=self._cpu + cpu,
        )
