"""The warm-up: what the application has answered in the mold, its workers have answered."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from prefork.accept.worker_context import MoldContext, MoldLog
from prefork.config.networks import truster
from prefork.config.settings import Settings
from prefork.testing import Server, running_target
from prefork.wsgi.forwarded import standings
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.parser import check_strictness
from prefork.wsgi.warmup import ROUNDS, request
from prefork.wsgi.worker import serving
from tests.support.probing import APPS, ask, told


@pytest.fixture(scope="module")
def warmed() -> Iterator[Server]:
    with running_target(
        "warmed:application",
        app_dir=APPS,
        subcommand="wsgi",
        preload=True,
        workers=1,
        control="off",
        hooks="warming",
        warmup=["/big", "//shop.example/missing"],
        options={"env": {"PYTHONPATH": str(APPS)}},
    ) as server:
        yield server


def test_what_is_asked_for_in_the_mold_is_known_to_its_workers(warmed: Server) -> None:
    count, big, missing, warmed_in, pid = map(int, ask(warmed).split())
    assert (count, big, missing) == (2 * ROUNDS + 1, ROUNDS, ROUNDS)
    assert [warmed_in] == warmed.molds()
    assert [pid] == warmed.workers()
    assert told(warmed, "hooked with 40 requests, 1 workers")


def test_an_answer_that_is_none_is_told(warmed: Server) -> None:
    (line,) = told(warmed, r"WARNING .*warmup: .*")
    assert line.endswith(f"warmup: //shop.example/missing was answered 404, {ROUNDS} times")


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/", b"GET / HTTP/1.1\r\nHost: localhost\r\n"),
        ("/a?b=c", b"GET /a?b=c HTTP/1.1\r\nHost: localhost\r\n"),
        ("//shop.example", b"GET / HTTP/1.1\r\nHost: shop.example\r\n"),
        ("//shop.example:8000/a", b"GET /a HTTP/1.1\r\nHost: shop.example:8000\r\n"),
    ],
)
def test_what_is_sent(path: str, sent: bytes) -> None:
    assert request(path).startswith(sent)


def test_what_is_made_of_the_options_is_made_once_for_all_workers_of_a_mold() -> None:
    """By each of them it would be made on pages of its own: a quarter of the memory that a boot takes."""
    build = serving(lambda _environ, _start: [], WSGIOptions(access_log="access"))
    settings = Settings(preload=True, chdir="shop")
    given = MoldContext(settings, None, MoldLog(logging.getLogger("prefork")), None)
    in_mold, worker = build(), build()
    in_mold.__prefork_mold__(given)
    (made,) = in_mold.located.values()
    assert made.access_log.endswith("/shop/access")
    assert next(iter(worker.located.values())) is made
    allowed = WSGIOptions().forwarded_allow_ips
    assert truster(allowed) is truster(allowed)
    assert standings("auto", allowed) is standings("auto", allowed)
    assert check_strictness.cache_info().currsize == 1
