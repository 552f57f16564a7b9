"""Reforks: after so many requests of a worker a mold of the same code replaces all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefork import Master, Worker
from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.services.control.client import Client
from prefork.status.model import Status
from prefork.supervisor.reforks import ENOUGH, PATIENCE, Schedule
from prefork.testing import Server, call_until
from prefork.testing.plugin import ServerFactory
from prefork.wsgi.warmup import ROUNDS
from tests.support.probing import APPS, ask, complaints, told, wait_gone


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ((), ()),
        (50, (50,)),
        ([50, 100, 1000], (50, 100, 1000)),
        ("50, 100,1000", (50, 100, 1000)),
        (("50,100", "0"), (50, 100, 0)),
        (0, ()),
        ("", ()),
    ],
)
def test_a_list_of_counts(given: object, counts: tuple[int, ...]) -> None:
    assert Settings(preload=True, refork_after=given).refork_after == counts  # type: ignore[arg-type]  # as TOML and flags have it


@pytest.mark.parametrize("given", [-1, [50, 0, 100], "50,many", [1.5], [True], "5e3"])
def test_what_is_no_list_of_counts(given: object) -> None:
    with pytest.raises(SettingsError, match=r"^refork_after: .* is not a list of counts of requests; give such as"):
        Settings(preload=True, refork_after=given)  # type: ignore[arg-type]  # it is wrong


KNOWN = ENOUGH
"""Samples: it is known what is asked for."""


def test_each_count_holds_for_one_time_and_the_last_for_all_further_ones() -> None:
    schedule = Schedule((50, 100, 1000))
    for wanted in (50, 100, 1000, 1000, 1000):
        assert not schedule.is_due(wanted - 1, KNOWN, 0.0, free=True)
        assert schedule.is_due(wanted, KNOWN, 0.0, free=True)
        schedule.succeeded()
    schedule.begin_anew()
    assert schedule.is_due(50, KNOWN, 0.0, free=True)


def test_a_last_count_of_0_ends_it_until_there_is_other_code() -> None:
    schedule = Schedule((50, 0))
    schedule.succeeded()
    assert not schedule.is_due(10**9, KNOWN, 0.0, free=True)
    schedule.begin_anew()
    assert schedule.is_due(50, KNOWN, 0.0, free=True)


def test_it_waits_until_it_is_known_what_is_asked_for_but_not_for_long() -> None:
    schedule = Schedule((50,))
    assert not schedule.waits()
    assert not schedule.is_due(50, KNOWN - 1, 10.0, free=True)
    assert schedule.waits()
    assert not schedule.is_due(50, KNOWN - 1, 10.0 + PATIENCE - 0.1, free=True)
    assert schedule.is_due(50, KNOWN - 1, 10.0 + PATIENCE, free=True)
    assert not schedule.waits()


def test_what_is_under_way_comes_first_and_the_wait_begins_behind_it() -> None:
    schedule = Schedule((50,))
    assert not schedule.is_due(50, 0, 10.0, free=True)
    assert not schedule.is_due(50, KNOWN, 11.0, free=False)
    assert not schedule.waits()
    assert not schedule.is_due(50, 0, 10.0 + PATIENCE, free=True)


def test_one_that_failed_is_tried_again_after_a_pause_that_grows() -> None:
    schedule, now = Schedule((50,)), 0.0
    for pause in (30.0, 60.0, 120.0):
        assert schedule.is_due(50, KNOWN, now, free=True)
        assert schedule.failed(now) == pause
        assert not schedule.is_due(50, KNOWN, now + pause - 1, free=True)
        now += pause
    assert schedule.is_due(50, KNOWN, now, free=True)
    schedule.succeeded()
    assert schedule.is_due(50, KNOWN, now, free=True)
    assert schedule.failed(now) == 30.0
    schedule.begin_anew()
    assert schedule.is_due(50, KNOWN, now, free=True)


@pytest.mark.parametrize(("name", "value"), [("refork_after", 50), ("fork_safety", "refuse"), ("immortal", True)])
def test_a_program_that_has_no_mold_is_told_so(name: str, value: object) -> None:
    settings = Settings(preload=True, **{name: value})  # type: ignore[arg-type]  # mypy can't know which
    with pytest.raises(SettingsError, match=f"^{name}: this program has loaded the application by itself"):
        Master(Worker, settings)


def molded(factory: ServerFactory, target: str, path: Path, **settings: Any) -> Server:
    given = {"app_dir": APPS, "subcommand": "wsgi", "preload": True, "workers": 2, "control": str(path), **settings}
    return factory(target, **given)


def asked_until(server: Server, client: Client, path: str, fact: Callable[[Status], bool]) -> Status:
    """Ask for a path again and again, which loses nobody, until something is true."""

    def look() -> Status:
        for _ in range(5):
            ask(server, path)
        time.sleep(0.1)  # what is asked for is looked at four times a second, and the machine has other work
        return client.status()

    return call_until(look, fact, message="what comes of so many requests")


@pytest.mark.long
def test_workers_are_replaced_by_those_of_a_mold_that_has_answered_what_is_asked_for_most(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    server = molded(prefork_server, "warmed:application", tmp_path / "control", refork_after=[30, 100_000])
    molds, workers = server.molds(), server.workers()
    with Client(tmp_path / "control") as client:
        status = asked_until(server, client, "/big", lambda now: now.totals.reforks == 1)
        assert (status.generation, status.state) == (1, "serving")
        assert (status.totals.reloads, status.totals.failed_reforks) == (0, 0)
        call_until(server.workers, lambda now: len(now) == 2 and not set(now) & set(workers))
        (mold,) = call_until(server.molds, lambda now: len(now) == 1)
        assert mold not in molds
        count, big, *_ = ask(server).split()
        assert int(big) >= ROUNDS, "it was asked for in the mold"
        assert int(count) < 3 * ROUNDS + 30
        for _ in range(20):  # the next count is another one
            ask(server)
        assert client.status().generation == 1
    assert told(server, r"refork, for worker \d has served \d+ requests: generation 1")
    assert told(server, r"mold: warmup: 1 of the 1 paths most asked for were warmed")
    assert told(server, r"refork: generation 1 serves")
    assert not complaints(server)


@pytest.mark.long
def test_a_refork_never_brings_other_code(prefork_server: ServerFactory, tmp_path: Path) -> None:
    code = tmp_path / "shop.py"
    text = "def application(environ, start):\n    start('200 OK', [])\n    return [b'%d']\n"
    code.write_text(text % 1)
    server = molded(prefork_server, "shop:application", tmp_path / "control", app_dir=tmp_path, refork_after="20")
    with Client(tmp_path / "control") as client:
        code.write_text(text % 2)
        status = asked_until(server, client, "/", lambda now: now.totals.failed_reforks == 1)
        assert (status.generation, status.totals.reloads) == (0, 0)
        assert ask(server) == "1"
        assert told(server, r"ERROR .*refork_after: the module shop is another one now than the one that serves")
        assert told(server, r"refork: generation 1 failed to boot; the old one goes on")
        before = server.workers()
        client.reload()
        wait_gone(*before)  # who is told to leave may answer once more
        assert ask(server) == "2"
        status = asked_until(server, client, "/", lambda now: now.totals.reforks == 1)
        assert (status.generation, status.totals.reloads) == (2, 1)
        assert ask(server) == "2"
