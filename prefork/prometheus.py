"""What the application counts with prometheus_client, summed over all workers, dead and alive.

By itself each worker has counters of its own, and a scrape sees those of whichever answers. prometheus_client's own way
out is a folder of files, one set for each process that ever was, which has to be emptied at every start and grows with
every reload. Here values stand in memory that all workers share (`prefork.scoreboard.app_metrics`): set `app_metrics`,
and have the application answer scrapes from a registry with a `SharedCollector`.

    from prometheus_client import CollectorRegistry, make_wsgi_app
    from prefork.prometheus import SharedCollector

    registry = CollectorRegistry()
    SharedCollector(registry)
    metrics = make_wsgi_app(registry)

Metrics are made and used as ever. What a gauge of several processes comes to says its ``multiprocess_mode``, as with
prometheus_client's files: sum, min, max, mostrecent, all (by pid), and the same with live before it for the living
alone. Exemplars are not kept. Importing this module makes prometheus_client's metrics of this process such as can be
shared; it has to be imported before the first is made, which the setting sees to.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import prometheus_client.values
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from prefork.scoreboard.app_metrics import MERGES, AppMetrics, Counted, Region, Valued, private
from prefork.scoreboard.value_name import GAUGE, OF_EACH, ValueName
from prefork.system.natives import os, threading

log = logging.getLogger("prefork")


class _Store:
    """Where the values of this process are."""

    def __init__(self) -> None:
        # Who counts may be interrupted by code that counts: a signal's handler, a __del__ when garbage is collected.
        self.lock = threading.RLock()
        self.values: weakref.WeakSet[SharedValue] = weakref.WeakSet()
        self.region: Region = private()
        self.memory: AppMetrics | None = None
        self.full = False
        os.register_at_fork(after_in_child=self._forked)

    def share(self, memory: AppMetrics) -> None:
        """Count where all can see it, from now on."""
        region = memory.claim()
        self.memory = memory
        if region is None:
            log.error("app_metrics: no room for what this process counts")
        else:
            self._move(region)

    def _forked(self) -> None:
        """A process that the application forks counts for itself, where nobody sees it."""
        self.lock = threading.RLock()
        if self.memory is not None:
            self._move(private())

    def _move(self, region: Region) -> None:
        self.region = region
        for value in self.values:
            value.move(region)

    def place(self, region: Region, name: str) -> int:
        """Where a value is; -1 when there is no room for it."""
        try:
            return region.place(name)
        except MemoryError as error:
            if not self.full:
                self.full = True
                log.error("app_metrics: %s; more are not shared", error)
            return -1


_store = _Store()


class SharedValue:
    """A float of one process that all can read: what prometheus_client's metrics are made of."""

    _multiprocess: ClassVar[bool] = True

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: object,
    ) -> None:
        labels = dict(sorted(zip(labelnames, labelvalues, strict=False)))
        self._name = ValueName(typ, multiprocess_mode, metric_name, name, labels, help_text).text
        self._gauge = typ == GAUGE
        self._value = self._at = 0.0
        with _store.lock:
            _store.values.add(self)
            self._put(_store.region)
            if self._place >= 0:  # a metric of that name was made before, and removed
                self._value, self._at = self._values[self._place], self._values[self._place + 1]

    def _put(self, region: Region) -> None:
        self._values = region.values
        self._place = _store.place(region, self._name)

    def move(self, region: Region) -> None:
        """Go on in another region. What was counted in the process before is that one's, but for how a gauge stands."""
        if not self._gauge:
            self._value = self._at = 0.0
        self._put(region)
        self._write()

    def _write(self) -> None:
        place = self._place
        if place >= 0:
            self._values[place] = self._value
            self._values[place + 1] = self._at

    def inc(self, amount: float) -> None:
        """Add to it."""
        with _store.lock:
            self._value += amount
            self._at = 0.0
            self._write()

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set it."""
        with _store.lock:
            self._value = value
            self._at = timestamp or 0.0
            self._write()

    def get(self) -> float:
        """What this process has counted."""
        return self._value

    def set_exemplar(self, exemplar: object) -> None:
        """They are not kept."""

    def get_exemplar(self) -> None:
        """There is none."""


prometheus_client.values.ValueClass = SharedValue


def share(memory: AppMetrics) -> None:
    """WORKER, once. Count where all can see it."""
    _store.share(memory)


class SharedCollector(Collector):
    """The metrics of all workers, dead and alive.

    Args:
        registry: Where to register; None does not. Not that in which the metrics themselves are.

    Raises:
        ValueError: It is that one.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        if registry is REGISTRY:
            raise ValueError("a SharedCollector needs a registry of its own; give CollectorRegistry()")
        if registry is not None:
            registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is is known when it is asked for."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics; those of this process alone where nothing is shared."""
        memory = _store.memory
        return metrics_of(_store.region.read() if memory is None else memory.read())


Labels = tuple[tuple[str, str], ...]


def metrics_of(counted: Iterable[Counted]) -> list[Metric]:
    """What values of several processes come to. Pure. A name that is none of ours is left out."""
    found: dict[str, Metric] = {}
    sums: dict[str, dict[tuple[str, Labels], Valued]] = collections.defaultdict(dict)
    for one in counted:
        name = ValueName.read(one.name)
        if name is None:
            continue
        if name.metric not in found:
            try:
                found[name.metric] = Metric(name.metric, name.help, name.type)
            except ValueError:
                continue
        labels = name.labels if name.how != OF_EACH else {**name.labels, "pid": str(name.pid or one.pid)}
        key = name.name, tuple(sorted(labels.items()))
        values, value = sums[name.metric], (one.value, one.at)
        values[key] = value if key not in values else MERGES.get(name.how, MERGES["sum"])(values[key], value)
    for metric, samples in sums.items():
        _fill(found[metric], {key: value for key, (value, _) in samples.items()})
    return list(found.values())


def _fill(metric: Metric, samples: Mapping[tuple[str, Labels], float]) -> None:
    """A process keeps for each bucket of a histogram what falls into it; told is what falls into it or one before."""
    buckets: dict[Labels, dict[float, float]] = collections.defaultdict(dict)
    for (name, labels), value in samples.items():
        bound = dict(labels).get("le")
        if metric.type == "histogram" and bound is not None:
            with contextlib.suppress(ValueError):
                edge = float(bound)
                buckets[tuple(label for label in labels if label[0] != "le")][edge] = value
        else:
            metric.add_sample(name, dict(labels), value)
    for labels, values in buckets.items():
        so_far = 0.0
        for edge, value in sorted(values.items()):
            so_far += value
            metric.add_sample(f"{metric.name}_bucket", {**dict(labels), "le": floatToGoString(edge)}, so_far)  # type: ignore[no-untyped-call]  # it has no types there
        metric.add_sample(f"{metric.name}_count", dict(labels), so_far)
