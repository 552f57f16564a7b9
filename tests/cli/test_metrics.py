"""Metrics: what they are called, that they never go down, how they are served, what the dashboard makes of them."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.status.model import Ended, Listening, MoldStatus, Process, Status, Totals, Working
from prefork.status.totals import BOUNDS, WAIT_BOUNDS
from prefork.testing import Load, Server, request, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.probing import ask, probe
from tests.support.sockets import ROOT

pytest.importorskip("prometheus_client", reason="prefork[prometheus] is not installed")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from prefork.cli.metrics import Collector, families

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
FOUND = Status(
    version="1.0",
    pid=7,
    state="reloading",
    started=1.5e9,
    generation=2,
    size=3,
    smallest=1,
    largest=4,
    listeners=(Listening(address="127.0.0.1:8000", waiting=3, backlog=128), Listening(address='unix:/a"b', waiting=1)),
    workers=(
        Working(slot=0, pid=8, state="leaving", seconds=9, process=Process(rss=1)),
        Working(slot=0, pid=9, state="busy", seconds=2.5, process=Process(rss=5 << 20, cpu=1, descriptors=9)),
        Working(slot=1, pid=10, state="backing off", process=Process()),
        Working(slot=2, pid=11, state="busy", seconds=0.5, process=Process()),
    ),
    molds=(
        MoldStatus(pid=12, generation=2, state="ready", age=7.5, pss=4 << 20),
        MoldStatus(pid=13, generation=3, state="loading", age=0.5),
    ),
    exhaustions=("worker 1: EMFILE",),
    crash_loop=True,
    deaths=(Ended(slot=0, pid=1),),
    totals=Totals(
        served=10,
        failed=2,
        interrupted=1,
        refused=4,
        busy=3.5,
        histogram=(4, 0, 7, *[0] * 16, 1),
        bounds=BOUNDS,
        waited=(4, 0, 7, *[0] * 12, 1),
        waited_bounds=WAIT_BOUNDS,
        waiting=90.5,
        kept={"reused": 3, "left": 1},
        accept_errors={"EMFILE": 5},
        deaths={"crash": 2},
        forks=6,
        reloads=1,
        failed_reloads=2,
        reforks=3,
        failed_reforks=4,
        pressure=7.5,
        cpu=12.25,
    ),
    process=Process(rss=3 << 20, cpu=0.5, descriptors=20),
)


class Fixed(Collector):
    """A collector of a status that stands fast."""

    def collect(self) -> Iterator[Any]:
        yield from families(FOUND)


def samples(text: str) -> dict[str, float]:
    """Every sample by its name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found, key
            found[key] = sample.value
    return found


def exposition() -> str:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Fixed())
    return generate_latest(registry).decode()


def test_what_a_status_becomes() -> None:
    found = samples(exposition())
    wanted = {
        "prefork_up": 1,
        "prefork_info{version=1.0}": 1,
        "prefork_start_time_seconds": 1.5e9,
        "prefork_state{state=reloading}": 1,
        "prefork_state{state=serving}": 0,
        "prefork_generation": 2,
        "prefork_mold_age_seconds{generation=2}": 7.5,
        "prefork_mold_memory_bytes{generation=2}": 4 << 20,
        "prefork_workers{state=busy}": 2,
        "prefork_workers{state=idle}": 0,
        "prefork_workers{state=leaving}": 1,
        "prefork_workers{state=backing_off}": 1,
        "prefork_workers_wanted": 3,
        "prefork_workers_wanted_min": 1,
        "prefork_workers_wanted_max": 4,
        "prefork_longest_busy_seconds": 2.5,
        "prefork_accept_queue_connections{address=127.0.0.1:8000}": 3,
        "prefork_accept_queue_limit_connections{address=127.0.0.1:8000}": 128,
        'prefork_accept_queue_connections{address=unix:/a"b}': 1,
        "prefork_connections_total{result=served}": 10,
        "prefork_connections_total{result=failed}": 2,
        "prefork_connections_total{result=interrupted}": 1,
        "prefork_connections_total{result=refused}": 4,
        "prefork_handling_seconds_count": 12,
        "prefork_handling_seconds_sum": 3.5,
        "prefork_handling_seconds_bucket{le=6.5536e-05}": 4,
        "prefork_handling_seconds_bucket{le=0.000131072}": 4,
        "prefork_handling_seconds_bucket{le=0.000262144}": 11,
        "prefork_handling_seconds_bucket{le=+Inf}": 12,
        "prefork_queue_seconds_count": 12,
        "prefork_queue_seconds_sum": 90.5,
        "prefork_queue_seconds_bucket{le=0.004}": 4,
        "prefork_queue_seconds_bucket{le=0.008}": 4,
        "prefork_queue_seconds_bucket{le=0.016}": 11,
        "prefork_queue_seconds_bucket{le=65.536}": 11,
        "prefork_queue_seconds_bucket{le=+Inf}": 12,
        "prefork_kept_connections_total{event=reused}": 3,
        "prefork_kept_connections_total{event=left}": 1,
        "prefork_kept_connections_total{event=handed_over}": 0,
        "prefork_accept_errors_total{errno=EMFILE}": 5,
        "prefork_accept_errors_total{errno=ENFILE}": 0,
        "prefork_worker_deaths_total{cause=crash}": 2,
        "prefork_worker_deaths_total{cause=timeout}": 0,
        "prefork_workers_started_total": 6,
        "prefork_reloads_total{result=succeeded}": 1,
        "prefork_reloads_total{result=failed}": 2,
        "prefork_reforks_total{result=succeeded}": 3,
        "prefork_reforks_total{result=failed}": 4,
        "prefork_pressure_seconds_total": 7.5,
        "prefork_exhaustions": 1,
        "prefork_crash_loop": 1,
        "prefork_resident_memory_bytes{process=master}": 3 << 20,
        "prefork_resident_memory_bytes{process=worker 0}": 5 << 20,
        "prefork_open_fds{process=worker 0}": 9,
        "prefork_cpu_seconds_total{process=master}": 0.5,
        "prefork_cpu_seconds_total{process=workers}": 12.25,
    }
    assert {name: found[name] for name in wanted} == wanted
    assert "prefork_resident_memory_bytes{process=worker 1}" not in found  # the system did not say


def test_names_are_as_prometheus_wants_them() -> None:
    """Its conventions: one prefix, base units, _total for counters and for nothing else, a help for each."""
    for family in families(FOUND):
        assert re.fullmatch(r"prefork(_[a-z]+)*", family.name), family.name
        assert family.documentation.endswith(".")
        assert not re.search(r"(_ms|_milliseconds|_kb|_percent|_count|_sum|_bucket)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels)


def test_a_server_that_is_gone_is_not_up(tmp_path: Path) -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector(str(tmp_path / "none.control")))
    assert samples(generate_latest(registry).decode()) == {"prefork_up": 0.0}


def test_a_registry_sees_duplicates() -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector("/no/where"))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector("/no/where"))


# Whole servers.


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s.control")


@pytest.fixture
def exporter(prefork_server: ServerFactory, path: str) -> Server:
    return prefork_server.command(
        [sys.executable, "-m", "prefork", "exporter", "--listen=127.0.0.1:0", "--control", path]
    )


def scrape(exporter: Server) -> dict[str, float]:
    answer = request(exporter.address, GET)
    assert answer.status == 200, answer
    return samples(answer.body.decode())


def test_a_scrape_tells_what_the_server_did_and_that_it_is_gone(
    prefork_server: ServerFactory, exporter: Server, path: str
) -> None:
    assert scrape(exporter) == {"prefork_up": 0.0}
    server = probe(prefork_server, workers=2, control=path)
    for _ in range(5):
        ask(server)
    counted = {
        "prefork_up": 1,
        "prefork_connections_total{result=served}": 5,
        "prefork_workers{state=idle}": 2,
        "prefork_handling_seconds_count": 5,
    }
    wait_for(lambda: counted.items() <= scrape(exporter).items())  # a client has its answer before it is counted
    found = scrape(exporter)
    assert found["prefork_resident_memory_bytes{process=worker 1}"] > 1 << 20
    server.signal(signal.SIGHUP)
    wait_for(lambda: scrape(exporter)["prefork_reloads_total{result=succeeded}"] == 1)
    assert scrape(exporter)["prefork_connections_total{result=served}"] == 5
    server.stop()
    assert scrape(exporter) == {"prefork_up": 0.0}


def test_counters_never_go_down_while_workers_are_killed_under_load(
    prefork_server: ServerFactory, exporter: Server, path: str
) -> None:
    server = probe(prefork_server, workers=3, control=path)
    before: dict[str, float] = {}
    kills = 0

    def look() -> None:
        nonlocal before
        found = scrape(exporter)
        for name, value in before.items():
            if "_total" in name or name.endswith(("_count", "_sum")) or "_bucket" in name:
                assert found[name] >= value, name
        before = found

    with Load(server.address, clients=4) as load:
        for goal in range(100, 500, 100):
            load.wait_for(lambda tally, goal=goal: tally.answered > goal)  # type: ignore[misc]  # mypy can't infer a lambda with a default
            look()
            victim = server.workers()[0]
            kill(victim)
            kills += 1
            look()
            server.wait_for(lambda victim=victim: victim not in server.workers())  # type: ignore[misc]  # as above
            look()
        tally = load.stop()
    wait_for(  # of whatever cause: one that was killed before it was READY has failed to boot
        lambda: (
            sum(n for name, n in scrape(exporter).items() if name.startswith("prefork_worker_deaths_total{")) == kills
        )
    )
    counted = tally.answered + tally.lost

    def total() -> float:
        found = scrape(exporter)
        return sum(found[f"prefork_connections_total{{result={word}}}"] for word in ("served", "failed", "interrupted"))

    # A worker that is killed between accept's return and its mark has counted nothing: at most one a kill.
    wait_for(lambda: counted - kills <= total() <= counted, message=f"{counted}, of {kills} kills")


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /metrics?name[]=prefork_up HTTP/1.0\r\n\r\n", 200),
        (b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405),
        (b"hello\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # without a Host, RFC 9112, 3.2
        (b"GET " + b"x" * 16384, 414),
    ],
)
def test_what_is_asked_for(exporter: Server, asked: bytes, status: int) -> None:
    assert request(exporter.address, asked).status == status


def test_a_head_has_no_body(exporter: Server) -> None:
    answer = request(exporter.address, b"HEAD /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (answer.status, answer.body) == (200, b"")


def test_the_form_that_is_accepted(exporter: Server) -> None:
    kinds = {}
    for accept in (b"text/plain", b"application/openmetrics-text; version=1.0.0"):
        answer = request(exporter.address, b"GET / HTTP/1.1\r\nHost: a\r\nAccept: %b\r\n\r\n" % accept)
        match = re.search(rb"Content-Type: (\S+?);", answer.data)
        assert match is not None
        kinds[accept] = match[1]
    assert list(kinds.values()) == [b"text/plain", b"application/openmetrics-text"]


def test_a_slow_client_holds_up_no_scrape(exporter: Server) -> None:
    port = int(exporter.address.split(":")[1])
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET /")
        for _ in range(3):
            assert scrape(exporter) == {"prefork_up": 0.0}


def test_an_exporter_is_no_server_that_could_be_meant(prefork_server: ServerFactory, tmp_path: Path) -> None:
    """It makes no control socket, so that commands without --control don't find it."""
    env = {"RUNTIME_DIRECTORY": str(tmp_path)}
    exporter = prefork_server.command([sys.executable, "-m", "prefork", "exporter", "--listen=127.0.0.1:0"], env=env)
    server = probe(prefork_server, workers=1, control="auto", options={"env": env})
    assert len(list(tmp_path.iterdir())) == 1
    assert scrape(exporter)["prefork_up"] == 1
    kill(*server.tree())
    assert scrape(exporter) == {"prefork_up": 0.0}


# The dashboard.


def test_the_dashboard_uses_only_metrics_that_there_are() -> None:
    board = json.loads((ROOT / "docs" / "grafana.json").read_text())
    names = {sample.name for family in families(FOUND) for sample in family.samples}
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += [note["expr"] for note in board["annotations"]["list"]]
    used = {name for expression in expressions for name in re.findall(r"prefork_\w+", expression)}
    assert used <= names, used - names
    families_used = {family.name for family in families(FOUND) if used & {sample.name for sample in family.samples}}
    assert len(families_used) > 15
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
