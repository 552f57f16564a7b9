"""Proxies that nobody has named: what the application sees of their words, what the log says, and what mends it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.config.networks import DEFAULT_ALLOWED
from prefork.system.throttle import SharedThrottle
from prefork.testing.clock import FakeClock
from prefork.testing.server import Server
from prefork.wsgi.forwarded import BELIEVED, KEPT, LEFT_OUT, standings
from tests.support.probing import complaints
from tests.support.wsgi.harness import WITHIN, ask, get, parse, read_all, serving
from tests.wsgi.test_worker import serving as serving_workers

UNNAMED = "127.0.0.2"
"""A peer with a private address that isn't trusted by default, and is on every machine."""


def ask_from(source: str, server: Server, *lines: str, target: str = "/") -> dict[str, Any]:
    """What the application is told of a request that comes from that address."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WITHIN, source_address=(source, 0)) as connection:
        connection.sendall(get(target, "Connection: close", *lines))
        environ: dict[str, Any] = parse(read_all(connection)).json()
    return environ


@pytest.mark.parametrize(
    ("mode", "allowed", "peers"),
    [
        ("auto", DEFAULT_ALLOWED, {"127.0.0.1": BELIEVED, "10.1.2.3": KEPT, "93.184.215.14": LEFT_OUT, "": BELIEVED}),
        ("auto", DEFAULT_ALLOWED, {"fd00::2": KEPT, "fe80::1%a": KEPT, "::ffff:10.0.0.1": KEPT, "2a00::1": LEFT_OUT}),
        ("auto", DEFAULT_ALLOWED, {"100.64.0.1": KEPT, "169.254.169.126": KEPT, "172.32.0.1": LEFT_OUT}),
        ("auto", "10.0.0.1", {"127.0.0.1": LEFT_OUT, "10.0.0.1": BELIEVED, "10.1.2.3": LEFT_OUT, "1.1.1.1": LEFT_OUT}),
        ("auto", "", {"127.0.0.1": LEFT_OUT, "10.1.2.3": LEFT_OUT, "": BELIEVED}),
        ("auto", "private", {"10.1.2.3": BELIEVED, "::1": BELIEVED, "fe80::1%eth0": BELIEVED, "1.1.1.1": LEFT_OUT}),
        ("auto", "*", {"10.1.2.3": BELIEVED, "1.1.1.1": BELIEVED}),
        ("trusted", "127.0.0.1,::1", {"127.0.0.1": BELIEVED, "10.1.2.3": LEFT_OUT, "1.1.1.1": LEFT_OUT}),
        ("keep", "127.0.0.1,::1", {"127.0.0.1": BELIEVED, "10.1.2.3": KEPT, "1.1.1.1": KEPT}),
        ("keep", "10.0.0.1", {"127.0.0.1": KEPT, "10.0.0.1": BELIEVED}),
        ("drop", "*", {"127.0.0.1": LEFT_OUT, "1.1.1.1": LEFT_OUT, "": LEFT_OUT}),
    ],
)  # fmt: skip
def test_standings(mode: str, allowed: str, peers: dict[str, int]) -> None:
    standing = standings(mode, allowed)
    assert {peer: standing(peer) for peer in peers} == peers


# What each of them sends, written down from their documentation. The client is 203.0.113.7 and speaks TLS with them;
# it has tried to pass for another, where they keep what it says.
SENT = {
    "an ALB of AWS": """
        X-Forwarded-For: 198.51.100.66, 203.0.113.7
        X-Forwarded-Proto: https
        X-Forwarded-Port: 443
        X-Amzn-Trace-Id: Root=1-67891233-abcdef012345678912345678
    """,
    "ingress-nginx": """
        X-Request-ID: 3b1d1e7a4b5c6d7e8f90a1b2c3d4e5f6
        X-Real-IP: 203.0.113.7
        X-Forwarded-For: 203.0.113.7
        X-Forwarded-Host: shop.example.org
        X-Forwarded-Port: 443
        X-Forwarded-Proto: https
        X-Forwarded-Scheme: https
        X-Scheme: https
        X-Original-Forwarded-For: 198.51.100.66
    """,
    "Heroku": """
        X-Request-Id: 0b4f2a5e-3b8e-4a53-8c9b-2f6f0f3c1d2e
        X-Forwarded-For: 198.51.100.66, 203.0.113.7
        X-Forwarded-Proto: https
        X-Forwarded-Port: 443
        Via: 1.1 heroku-router
        Connect-Time: 0
        X-Request-Start: 1764455555123
        Total-Route-Time: 0
    """,
    "Fly": """
        Fly-Client-IP: 203.0.113.7
        Fly-Forwarded-Port: 443
        Fly-Forwarded-Proto: https
        Fly-Forwarded-SSL: on
        Fly-Region: fra
        Fly-Request-Id: 01HZX5Q0T9W3-fra
        X-Forwarded-For: 203.0.113.7, 66.241.124.9
        X-Forwarded-Proto: https
        X-Forwarded-Port: 443
        X-Forwarded-SSL: on
        X-Request-Start: t=1764455555123456
        Via: 2 fly.io
    """,
    "Cloud Run": """
        X-Forwarded-For: 203.0.113.7
        X-Forwarded-Proto: https
        Forwarded: for="203.0.113.7";proto=https
        X-Cloud-Trace-Context: 65011637f09e0a5179677a7429456db7/1027871334010811884;o=1
        traceparent: 00-65011637f09e0a5179677a7429456db7-0e43b3b8d7a8d2cc-01
    """,
    "nginx in another container": """
        X-Forwarded-For: 198.51.100.66, 203.0.113.7
        X-Forwarded-Proto: https
        X-Real-IP: 203.0.113.7
    """,
}


def fields(of: str) -> list[str]:
    return [line.strip() for line in SENT[of].strip().splitlines()]


@pytest.fixture(scope="module")
def named() -> Iterator[Server]:
    """As docs/howto/proxies.md has it: private, and for Fly the application's own address too."""
    with serving("show", options={"forwarded_allow_ips": "private,66.241.124.9"}) as server:
        yield server


@pytest.fixture(scope="module")
def unnamed() -> Iterator[Server]:
    with serving("show") as server:
        yield server


@pytest.mark.parametrize("proxy", SENT)
def test_a_platform_that_is_named(named: Server, proxy: str) -> None:
    environ = ask_from(UNNAMED, named, *fields(proxy))
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("203.0.113.7", "https")
    assert environ["HTTP_X_FORWARDED_PROTO"] == "https"


@pytest.mark.parametrize("proxy", SENT)
def test_a_platform_that_is_not_named(unnamed: Server, proxy: str) -> None:
    """The application hears what the proxy says, as with other servers; prefork makes nothing of it."""
    environ = ask_from(UNNAMED, unnamed, *fields(proxy))
    assert environ["HTTP_X_FORWARDED_PROTO"] == "https"
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == (UNNAMED, "http")


def test_the_application_sees_no_mark_of_ours() -> None:
    with serving("show", options={"forwarded": "trusted"}) as server:
        environ = ask_from(UNNAMED, server, *fields("Fly"))
    assert not [name for name in environ if "FORWARDED" in name or name.startswith("prefork")]


def test_nobody_is_believed_where_all_is_dropped() -> None:
    with serving("show", options={"forwarded": "drop"}) as server:
        environ = ask_from("127.0.0.1", server, *fields("ingress-nginx"))
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("127.0.0.1", "http")
        assert not [name for name in environ if "FORWARDED" in name or ("SCHEME" in name and name.startswith("HTTP"))]
        ask_from(UNNAMED, server, *fields("ingress-nginx"))
        assert "WARNING" not in server.log()


def test_whoever_keeps_all_has_decided_himself() -> None:
    with serving("show", options={"forwarded": "keep"}) as server:
        environ = ask_from(UNNAMED, server, *fields("Heroku"))
        assert environ["HTTP_X_FORWARDED_FOR"] == "198.51.100.66, 203.0.113.7"
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == (UNNAMED, "http")
        assert "WARNING" not in server.log()


def test_django_behind_a_proxy_that_nobody_has_named() -> None:
    """SECURE_PROXY_SSL_HEADER with SECURE_SSL_REDIRECT: a redirect of what came by TLS already would never end."""
    with serving("django_secure", validate=False) as server:
        host, _, port = server.address.rpartition(":")
        said = {}
        for proto in ("https", "http"):
            with socket.create_connection((host, int(port)), WITHIN, source_address=(UNNAMED, 0)) as connection:
                connection.sendall(get("/", "Connection: close", f"X-Forwarded-Proto: {proto}"))
                said[proto] = parse(read_all(connection)).status
    assert said == {"https": 200, "http": 301}


@pytest.mark.parametrize(
    ("options", "fate"),
    [
        ([], "the application sees them, prefork does not believe them"),
        (["--forwarded", "trusted"], "they were left out"),
        (["--forwarded-allow-ips", "10.0.0.1"], "they were left out"),
    ],
)
def test_one_line_of_a_whole_server(options: list[str], fate: str) -> None:
    """Whichever workers the requests come to, and however many there are."""
    with serving_workers("tests.support.wsgi.apps:show", *options) as server:
        ask_from("127.0.0.1", server)
        pids = set()
        for number in range(200):
            pids.add(ask_from(UNNAMED, server, *fields("Fly"), target=f"/{number}")["pid"])
            if len(pids) == 2 and number > 20:
                break
        said = complaints(server)
    assert len(said) == 1, said
    assert said[0].endswith(
        f"{UNNAMED} is not in forwarded_allow_ips and sends Fly-Client-IP, Fly-Forwarded-Port, Fly-Forwarded-Proto, "
        f"Fly-Forwarded-SSL and 4 more: {fate}; if it is your proxy, give --forwarded-allow-ips {UNNAMED}, its "
        "network, or private"
    ), said


def test_nothing_is_said_of_clients_that_say_nothing() -> None:
    with serving("show") as server:
        assert ask_from(UNNAMED, server, "X-Requested-With: a")["REMOTE_ADDR"] == UNNAMED
        assert ask(server, get("/", *fields("Heroku"))).json()["REMOTE_ADDR"] == "203.0.113.7"
        assert "WARNING" not in server.log()


def test_a_shared_throttle() -> None:
    clock = FakeClock()
    throttle = SharedThrottle(2, 60.0, clock)
    assert [throttle.lets_through(0), throttle.lets_through(0), throttle.lets_through(1)] == [True, False, True]
    clock.advance(59.0)
    assert not throttle.lets_through(0)
    clock.advance(1.0)
    assert throttle.lets_through(0)


def test_a_unix_socket_is_never_warned_of(tmp_path: Path) -> None:
    with serving("show", bind=f"unix:{tmp_path}/s") as server:
        assert ask(server, get("/", *fields("Heroku"))).json()["REMOTE_ADDR"] == "203.0.113.7"
        assert "WARNING" not in server.log()
