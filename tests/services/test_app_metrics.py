"""The application's metrics, summed over all workers, dead and alive, in each mode that prometheus_client knows."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prefork.scoreboard.app_metrics import AppMetrics
from prefork.testing import Server, request, running_target
from tests.support.probing import APPS, PATIENCE, get, opened, replaced, steady
from tests.support.programs import facts

pytest.importorskip("prometheus_client", reason="prefork[prometheus] is not installed")

from prometheus_client.parser import text_string_to_metric_families


@contextmanager
def metered(**settings: object) -> Iterator[Server]:
    given: dict[str, Any] = {"workers": 2, "app_metrics": True, "control": "off", "keepalive": 0, **settings}
    with running_target("metered:application", app_dir=APPS, subcommand="wsgi", **given) as server:
        yield server


def scraped(server: Server) -> dict[str, float]:
    answer = request(server.address, get("/metrics"), timeout=PATIENCE)
    assert answer.status == 200, answer
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def counted(server: Server, kind: str, levels: list[int]) -> list[int]:
    """Who has counted each."""
    return [int(request(server.address, get(f"/count/{kind}/{n}"), timeout=PATIENCE).body) for n in levels]


@pytest.mark.parametrize("preload", [False, True])
def test_all_workers_are_summed_and_the_dead_stay(preload: bool) -> None:
    with metered(preload=preload) as server:
        before = steady(server, 2)
        pids: list[int] = []
        while len(set(pids)) < 2:
            pids += counted(server, "book", [1, 3])
        levels = [1, 3] * (len(pids) // 2)
        last = {pid: level for pid, level in zip(pids, levels, strict=True)}  # noqa: C416  # the last of each wins
        expected = {
            "orders_total{kind=book}": len(pids),
            "sizes_count": len(pids),
            "sizes_sum": sum(levels),
            "sizes_bucket{le=1.0}": levels.count(1),
            "sizes_bucket{le=2.0}": levels.count(1),
            "sizes_bucket{le=4.0}": len(pids),
            "times_sum": sum(levels),
            "level_min": min(last.values()),
            "level_max": max(last.values()),
            "level_sum": sum(last.values()),
            "level_livesum": sum(last.values()),
            **{f"level_all{{pid={pid}}}": level for pid, level in last.items()},
            **{f"level_liveall{{pid={pid}}}": level for pid, level in last.items()},
        }
        assert {name: value for name, value in scraped(server).items() if name in expected} == expected
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        replaced(server, before)
        # A gauge that is not set yet is 0, as with prometheus_client's files, and so is the least of them.
        dead = {name: value for name, value in expected.items() if "live" not in name} | {"level_min": 0}
        found = scraped(server)
        assert {name: value for name, value in found.items() if name in dead} == dead
        assert not any(f"pid={pid}" in name for name in found for pid in before if "level_live" in name)
        counted(server, "book", [1])
        assert scraped(server)["orders_total{kind=book}"] == len(pids) + 1
        assert server.stop() == 0


@pytest.mark.long
def test_a_reload_and_an_upgrade_forget_nothing() -> None:
    with metered() as server:
        counted(server, "book", [1, 2, 3])
        for signum in (signal.SIGHUP, signal.SIGUSR2):
            before = steady(server, 2)
            server.signal(signum)
            replaced(server, before)
            counted(server, "book", [1])
        assert scraped(server)["orders_total{kind=book}"] == 5


def test_what_a_process_counts_that_the_application_forks_is_its_own() -> None:
    with metered() as server:
        counted(server, "forked", [1])
        assert scraped(server)["orders_total{kind=forked}"] == 1


def test_without_the_setting_a_worker_tells_of_itself() -> None:
    with metered(app_metrics=False, workers=1) as server:
        counted(server, "book", [1, 2])
        assert scraped(server)["orders_total{kind=book}"] == 2


def test_a_mold_takes_no_room() -> None:
    """It would keep it after its end, and each reload makes another."""
    with metered(preload=True) as server:
        before = steady(server, 2)
        counted(server, "book", [1] * 4)
        server.signal(signal.SIGHUP)
        replaced(server, before)
        counted(server, "book", [1] * 4)
        number = next(number for number, name in opened(server.pid).items() if "prefork-metrics" in name)
        memory = AppMetrics(os.open(f"/proc/{server.pid}/fd/{number}", os.O_RDWR))
        try:
            # The master takes the room of the dead back when it has heard of their ends.
            server.wait_for(
                lambda: {region.words[0] for region in memory.regions[1:]} - {0} <= set(server.workers()),
                message="nobody but the workers to have room",
            )
        finally:
            memory.close()


def test_who_counts_may_be_interrupted_by_who_counts() -> None:
    """As by a signal's handler, or by a __del__ when garbage is collected; it is done here at each call within."""
    program = """
        import json, signal, sys

        from prefork import prometheus
        from prometheus_client import CollectorRegistry, Counter

        signal.alarm(20)  # who waits for ever is ended
        registry = CollectorRegistry()
        outer, inner = (Counter(name, "?", registry=registry) for name in ("outer", "inner"))

        def interrupt(frame, event, _):
            if event == "call" and frame.f_code.co_filename == prometheus.__file__ and frame.f_code.co_name != "inc":
                sys.setprofile(None)
                inner.inc()

        sys.setprofile(interrupt)
        outer.inc()
        assert sys.getprofile() is None
        print(json.dumps([registry.get_sample_value(f"{name}_total") for name in ("outer", "inner")]))
        """
    assert facts(program) == [1, 1]


def test_what_a_process_has_written_that_is_no_metric_costs_no_other() -> None:
    program = """
        import json
        from prefork.prometheus import metrics_of
        from prefork.scoreboard.app_metrics import Counted
        from prefork.scoreboard.value_name import ValueName

        names = [
            ValueName("nothing", "", "first", "first", {}, ""),
            ValueName("histogram", "", "second", "second_bucket", {"le": "wide"}, ""),
            ValueName("gauge", "sum", "third", "third", {}, ""),
        ]
        found = metrics_of(Counted(name.text, 1, 1.5, 0.0) for name in names)
        print(json.dumps([sample.value for metric in found for sample in metric.samples]))
        """
    assert facts(program) == [1.5]
