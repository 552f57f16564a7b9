"""Metrics for Prometheus, made of a server's status: names and units by its conventions, counters that outlive workers.

Needs ``prefork[prometheus]``. ``prefork exporter`` serves them; a program of one's own registers a :class:`Collector`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector as _Collector

from prefork.errors import ControlError
from prefork.net.accept_errors import COUNTED
from prefork.services.control.client import Client
from prefork.status.model import KEPT, Status, Totals, Working
from prefork.supervisor.cause import Cause

STATES: Final = ("starting", "serving", "reloading", "stopping")
WORKER_STATES: Final = ("starting", "idle", "busy", "backing off", "leaving")


class Collector(_Collector):
    """Asks a server for its status each time metrics are collected; ``prefork_up`` is 0 when it does not answer.

    Args:
        control: its control socket; by default that of the only server that runs here.
        timeout: seconds that it may take to answer.
    """

    def __init__(self, control: str = "", *, timeout: float = 5.0) -> None:
        self._control = control
        self._timeout = timeout

    def describe(self) -> Iterable[Metric]:
        """The names, for a registry that looks for duplicates; without asking a server."""
        return families(Status(version="", pid=0, state=""))

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        try:
            with Client(self._control, timeout=self._timeout) as client:
                status = client.status()
        except ControlError:
            yield _gauge("prefork_up", "Whether the server answers.", 0)
            return
        yield from families(status)


def families(status: Status) -> Iterator[Metric]:
    """All metrics of a status. Pure."""
    yield _gauge("prefork_up", "Whether the server answers.", 1)
    yield InfoMetricFamily("prefork", "The release that serves.", {"version": status.version})
    yield _gauge("prefork_start_time_seconds", "When the master began to run, since the epoch.", status.started)
    yield _labelled(
        "prefork_state", "In which of its states the server is.", "state", {s: float(s == status.state) for s in STATES}
    )
    yield _gauge("prefork_generation", "The generation of workers; grows with each reload.", status.generation)
    yield from _workers(status)
    parked = sum(worker.parked for worker in status.workers)
    yield _gauge("prefork_parked_connections", "Connections that are kept at present.", parked)
    yield from _listeners(status)
    yield from _totals(status.totals)
    yield _gauge("prefork_exhaustions", "Exhaustions of descriptors or memory at present.", len(status.exhaustions))
    yield _gauge("prefork_crash_loop", "Whether workers die young again and again.", status.crash_loop)
    yield from _mold(status)
    yield from _processes(status)


def _gauge(name: str, help: str, value: float) -> Metric:  # noqa: A002  # Prometheus' word
    return GaugeMetricFamily(name, help, float(value))


def _labelled(name: str, help: str, label: str, values: dict[str, float]) -> Metric:  # noqa: A002  # as above
    family = GaugeMetricFamily(name, help, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


def _counters(name: str, help: str, label: str, values: dict[str, int]) -> Metric:  # noqa: A002  # as above
    family = CounterMetricFamily(name, help, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


def _workers(status: Status) -> Iterator[Metric]:
    counts = dict.fromkeys(WORKER_STATES, 0.0)
    for worker in status.workers:
        counts[worker.state] = counts.get(worker.state, 0.0) + 1
    yield _labelled(
        "prefork_workers", "Workers, by what they do.", "state", {s.replace(" ", "_"): n for s, n in counts.items()}
    )
    yield _gauge("prefork_workers_wanted", "How many workers there are to be.", status.size)
    yield _gauge("prefork_workers_wanted_min", "The fewest that the settings allow.", status.smallest)
    yield _gauge("prefork_workers_wanted_max", "The most that the settings allow.", status.largest)
    lanes = sum(len(worker.lanes) or 1 for worker in status.workers)
    in_hand = sum(worker.in_hand if worker.lanes else worker.state == "busy" for worker in status.workers)
    yield _labelled(
        "prefork_threads",
        "Threads that serve connections, by what they do; a worker has one, or as many as the setting threads says.",
        "state",
        {"busy": float(in_hand), "idle": float(lanes - in_hand)},
    )
    busy = [worker.seconds for worker in status.workers if worker.state == "busy"]
    yield _gauge("prefork_longest_busy_seconds", "For how long the busiest worker has been busy.", max(busy, default=0))


def _listeners(status: Status) -> Iterator[Metric]:
    waiting = {listener.address: float(listener.waiting) for listener in status.listeners}
    limits = {listener.address: float(listener.backlog) for listener in status.listeners}
    yield _labelled("prefork_accept_queue_connections", "Connections that wait to be accepted.", "address", waiting)
    yield _labelled("prefork_accept_queue_limit_connections", "How many may wait (the backlog).", "address", limits)


def _totals(totals: Totals) -> Iterator[Metric]:
    yield _counters(
        "prefork_connections",
        "Connections, by what became of them: served, failed (the handler raised), interrupted (the worker died), "
        "refused (shed).",
        "result",
        {
            "served": totals.served,
            "failed": totals.failed,
            "interrupted": totals.interrupted,
            "refused": totals.refused,
        },
    )
    yield _counters(
        "prefork_kept_connections",
        "What became of kept connections: reused (served once more), handed_over (to another worker), expired (after "
        "keepalive), evicted (to make room), left (closed by the client).",
        "event",
        dict.fromkeys(KEPT, 0) | totals.kept,
    )
    yield HistogramMetricFamily(
        "prefork_handling_seconds",
        "How long handlers took, for each connection.",
        buckets=list(_buckets(totals.bounds, totals.histogram)),
        sum_value=totals.busy,
    )
    yield HistogramMetricFamily(
        "prefork_queue_seconds",
        "How long requests had waited when a worker took them, on new connections and kept ones, as the kernel says. "
        "Of WSGI applications; on unix sockets only of those that had not.",
        buckets=list(_buckets(totals.waited_bounds, totals.waited)),
        sum_value=totals.waiting,
    )
    yield _counters(
        "prefork_accept_errors", "Failed calls of accept(2).", "errno", dict.fromkeys(COUNTED, 0) | totals.accept_errors
    )
    yield _counters(
        "prefork_worker_deaths",
        "Workers that ended, by why.",
        "cause",
        dict.fromkeys(map(str, Cause), 0) | totals.deaths,
    )
    yield CounterMetricFamily("prefork_workers_started", "Workers that became ready.", totals.forks)
    yield _counters(
        "prefork_reloads",
        "Reloads, by how they ended.",
        "result",
        {"succeeded": totals.reloads, "failed": totals.failed_reloads},
    )
    yield _counters(
        "prefork_reforks",
        "Generations of the same code, after refork_after requests of a worker, by how they ended.",
        "result",
        {"succeeded": totals.reforks, "failed": totals.failed_reforks},
    )
    yield CounterMetricFamily(
        "prefork_pressure_seconds", "Time during which descriptors or memory were exhausted.", totals.pressure
    )


def _buckets(bounds: Sequence[float], histogram: Sequence[int]) -> Iterator[tuple[str, float]]:
    sum_so_far = 0
    for bound, count in zip(bounds, histogram, strict=False):
        sum_so_far += count
        yield repr(bound), sum_so_far
    yield "+Inf", sum(histogram)


def _mold(status: Status) -> Iterator[Metric]:
    """Of what workers are made, with ``preload``."""
    used = {str(mold.generation): mold for mold in status.molds if mold.state == "ready"}
    ages = {generation: mold.age for generation, mold in used.items()}
    memory = {generation: mold.pss for generation, mold in used.items()}
    yield _labelled("prefork_mold_age_seconds", "How long ago the mold that is used was forked.", "generation", ages)
    yield _labelled("prefork_mold_memory_bytes", "Its share of memory (PSS).", "generation", _known(memory))


def _processes(status: Status) -> Iterator[Metric]:
    """What the system says of master and workers. A worker and its replacement share a slot: one of them is told of."""
    by_slot: dict[str, Working] = {}
    for worker in status.workers:
        if worker.state != "leaving":
            by_slot.setdefault(str(worker.slot), worker)
    memory = {"master": status.process.rss} | {f"worker {slot}": w.process.rss for slot, w in by_slot.items()}
    opened = {"master": status.process.descriptors} | {
        f"worker {slot}": w.process.descriptors for slot, w in by_slot.items()
    }
    yield _labelled("prefork_resident_memory_bytes", "Resident memory, by process.", "process", _known(memory))
    yield _labelled("prefork_open_fds", "Open descriptors, by process.", "process", _known(opened))
    cpu = CounterMetricFamily("prefork_cpu_seconds", "CPU time, user and system.", labels=["process"])
    cpu.add_metric(["master"], status.process.cpu or 0.0)
    cpu.add_metric(["workers"], status.totals.cpu)
    yield cpu


def _known(values: dict[str, int | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}
