"""Whose word about its client is taken."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.wsgi.forwarded import NAMES, apply, parse_networks, truster
from tests.wsgi.harness import ask, get, serving


def applied(peer: str, trusted: str, **fields: str) -> dict[str, Any]:
    environ = {"REMOTE_ADDR": peer, "REMOTE_PORT": "1", "wsgi.url_scheme": "http", "HTTP_A": "b", **fields}
    apply(environ, truster(trusted))
    return environ


@pytest.mark.parametrize(
    ("trusted", "chain", "client"),
    [
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.0/8", "6.6.6.6, 1.2.3.4, 10.1.1.1,10.2.2.2", "1.2.3.4"),
        ("10.0.0.0/8", "10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("*", "6.6.6.6, 1.2.3.4", "6.6.6.6"),
        ("10.0.0.1", "1.2.3.4:5678", "1.2.3.4"),
        ("10.0.0.1", "[2001:DB8::1]:5678", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "::ffff:1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, unknown", "10.0.0.1"),
        ("10.0.0.0/8", "1.2.3.4, unknown, 10.1.1.1", "10.1.1.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, ", "10.0.0.1"),
        ("10.0.0.1", "256.1.1.1", "10.0.0.1"),
        ("10.0.0.1", "x" * 8000, "10.0.0.1"),
        ("*", "fe80::1%<any text>", "10.0.0.1"),
        ("10.0.0.0/8", "1.2.3.4, ::ffff:10.1.1.1%x, 10.2.2.2", "10.2.2.2"),
    ],
)
def test_the_client_of_a_trusted_proxy(trusted: str, chain: str, client: str) -> None:
    environ = applied("10.0.0.1", trusted, HTTP_X_FORWARDED_FOR=chain)
    assert environ["REMOTE_ADDR"] == client
    assert ("REMOTE_PORT" in environ) == (client == "10.0.0.1")
    assert environ["HTTP_X_FORWARDED_FOR"] == chain


@pytest.mark.parametrize(
    ("said", "scheme"),
    [("https", "https"), ("HTTPS", "https"), ("http", "http"), ("http, https", "https"), ("https,http", "http")]
    + [(bad, "http") for bad in ("", "ftp", "https;", "on")],
)
def test_the_scheme_of_a_trusted_proxy(said: str, scheme: str) -> None:
    assert applied("10.0.0.1", "10.0.0.1", HTTP_X_FORWARDED_PROTO=said)["wsgi.url_scheme"] == scheme


@pytest.mark.parametrize("trusted", ["", "10.0.0.2", "10.0.1.0/24,::1"])
def test_nobody_else_is_believed_or_even_heard(trusted: str) -> None:
    said = ("BY", "FOR", "HOST", "PORT", "PREFIX", "PROTO", "PROTOCOL", "SCHEME", "SERVER", "SSL")
    assert {*(f"HTTP_X_FORWARDED_{word}" for word in said), "HTTP_FORWARDED", "HTTP_X_REAL_IP"} == NAMES
    fields = dict.fromkeys(NAMES, "1.2.3.4") | {"HTTP_X_FORWARDED_PROTO": "https"}
    environ = applied("10.0.0.1", trusted, **fields)
    assert environ == {"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "1", "wsgi.url_scheme": "http", "HTTP_A": "b"}


def test_a_trusted_proxy_on_a_socket_for_ipv6_and_ipv4() -> None:
    assert applied("::ffff:10.0.0.1", "10.0.0.1", HTTP_X_FORWARDED_FOR="1.2.3.4")["REMOTE_ADDR"] == "1.2.3.4"


def test_a_unix_socket_is_trusted() -> None:
    assert applied("", "", HTTP_X_FORWARDED_FOR="1.2.3.4")["REMOTE_ADDR"] == "1.2.3.4"


@pytest.mark.parametrize("text", ["example.org", "10.0.0.1/33", "10.0.0.1/8", "10.0.0", "1.2.3.4;5.6.7.8"])
def test_what_is_no_list_of_networks(text: str) -> None:
    with pytest.raises(ValueError, match="which is no address and no network"):
        parse_networks(text)


def test_served() -> None:
    """However the client writes the name; by default loopback is trusted."""
    lines = ("X-FORWARDED-for: 1.2.3.4", "x-forwarded-proto: https", "Forwarded: for=5.6.7.8")
    with serving("show") as server:
        environ = ask(server, get("/", *lines)).json()
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("1.2.3.4", "https")
        assert environ["HTTP_FORWARDED"] == "for=5.6.7.8"
        environ = ask(server, get()).json()
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("127.0.0.1", "http")
    with serving("show", options={"forwarded_allow_ips": "10.0.0.1"}) as server:
        environ = ask(server, get("/", *lines)).json()
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("127.0.0.1", "http")
        assert not NAMES & environ.keys()
