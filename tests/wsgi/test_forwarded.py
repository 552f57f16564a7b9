"""Whose word about its client is taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from prefork.config.networks import parse_networks, truster
from prefork.wsgi.forwarded import BEGINNINGS, NAMES, apply, proxys_own
from tests.support.wsgi.harness import ROOT, ask, get, serving


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


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ({"HTTP_X_FORWARDED_SSL": "on"}, "https"),
        ({"HTTP_X_FORWARDED_PROTOCOL": "ssl"}, "https"),
        ({"HTTP_X_FORWARDED_PROTOCOL": "https"}, "https"),
        ({"HTTP_X_FORWARDED_SSL": "off"}, "http"),
        ({"HTTP_X_FORWARDED_PROTOCOL": "http"}, "http"),
        ({"HTTP_X_FORWARDED_SSL": "on", "HTTP_X_FORWARDED_PROTO": "http"}, "http"),
        ({"HTTP_X_FORWARDED_SSL": "on", "HTTP_X_FORWARDED_PROTO": ""}, "http"),
    ],
)
def test_the_scheme_as_it_was_said_before(fields: dict[str, str], scheme: str) -> None:
    assert applied("10.0.0.1", "10.0.0.1", **fields)["wsgi.url_scheme"] == scheme


# By which servers, proxies and content delivery networks say whose request it is, how it came and what was asked for.
_NAMES = """
    Forwarded X-Forwarded X-Forwarded-By X-Forwarded-For X-Forwarded-Host X-Forwarded-Port X-Forwarded-Prefix
    X-Forwarded-Proto X-Forwarded-Protocol X-Forwarded-Scheme X-Forwarded-Server X-Forwarded-SSL
    X-Forwarded-Uri X-Forwarded-Method X-Forwarded-User X-Forwarded-Client-Cert
    X-Forwarded-Tls-Client-Cert-Info Forwarded-For X-Real-IP X-Client-IP True-Client-IP CF-Connecting-IP
    CF-Connecting-IPv6 CF-Visitor X-Cluster-Client-IP Fastly-Client-IP Fly-Client-IP X-ProxyUser-Ip
    X-Appengine-User-IP X-Azure-ClientIP X-Envoy-External-Address X-Originating-IP X-Remote-IP X-Remote-Addr
    Client-IP Proxy-Client-IP WL-Proxy-Client-IP DO-Connecting-IP X-Original-URL X-Original-URI
    X-Original-Host X-Original-Proto X-Original-Forwarded-For X-Rewrite-URL X-Host X-HTTP-Host-Override
    X-HTTP-DestinationURL X-Script-Name Front-End-Https X-Url-Scheme X-Scheme X-ARR-SSL Fastly-SSL
    CloudFront-Forwarded-Proto X-AppService-Proto WL-Proxy-SSL Client-Cert Client-Cert-Chain X-SSL-Client-Cert
    X-SSL-Client-Verify SSL-Client-Cert X-ARR-ClientCert
"""
PROXYS_OWN = _NAMES.split()
_NAMES_TOO = """
    Host Accept User-Agent Origin Referer Via X-Requested-With X-Request-ID X-HTTP-Method-Override From
"""
CLIENTS_OWN = _NAMES_TOO.split()


def test_which_fields_are_a_proxys_own() -> None:
    for name in PROXYS_OWN:
        assert proxys_own("HTTP_" + name.upper().replace("-", "_")), name
    for name in CLIENTS_OWN:
        assert not proxys_own("HTTP_" + name.upper().replace("-", "_")), name


@pytest.mark.parametrize("trusted", ["", "10.0.0.2", "10.0.1.0/24,::1"])
def test_nobody_else_is_believed_or_even_heard(trusted: str) -> None:
    lines = [f"{name}: 1.2.3.4" for name in (*PROXYS_OWN, *(name.lower() for name in PROXYS_OWN))]
    lines += ["X-Forwarded-Proto: https", "A: b"]
    with serving("show", options={"forwarded_allow_ips": trusted, "limit_request_fields": 200}) as server:
        heard = {name for name in ask(server, get("/", *lines)).json() if name.startswith("HTTP_")}
        assert heard == {"HTTP_HOST", "HTTP_A"}
    with serving("show", options={"limit_request_fields": 200}) as server:
        environ = ask(server, get("/", *lines)).json()
        assert len([name for name in environ if name.startswith("HTTP_")]) == len(PROXYS_OWN) + 2


def test_the_documentation_lists_them_all() -> None:
    text = (ROOT / "docs" / "wsgi.md").read_text()
    listed = {"HTTP_" + name.upper().replace("-", "_") for name in re.findall(r"`([A-Za-z0-9-]+\*?)`", text)}
    assert listed >= NAMES
    assert listed >= {f"{beginning}*" for beginning in BEGINNINGS}


def test_a_trusted_proxy_on_a_socket_for_ipv6_and_ipv4() -> None:
    assert applied("::ffff:10.0.0.1", "10.0.0.1", HTTP_X_FORWARDED_FOR="1.2.3.4")["REMOTE_ADDR"] == "1.2.3.4"


def test_a_unix_socket_is_trusted(tmp_path: Path) -> None:
    with serving("show", bind=f"unix:{tmp_path}/s", options={"forwarded_allow_ips": ""}) as server:
        assert ask(server, get("/", "X-Forwarded-For: 1.2.3.4")).json()["REMOTE_ADDR"] == "1.2.3.4"


@pytest.mark.parametrize(
    ("text", "host", "trusted"),
    [
        ("127.0.0.1,::1", "127.0.0.1", True),
        ("127.0.0.1,::1", "::1", True),
        ("127.0.0.1,::1", "::ffff:127.0.0.1", True),
        ("127.0.0.1,::1", "::ffff:127.0.0.2", False),
        ("127.0.0.1,::1", "127.0.0.2", False),
        ("127.0.0.1/32", "127.0.0.1", True),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("10.0.0.0/8,::1", "10.1.1.1", True),
        ("10.0.0.0/8,::1", "::ffff:10.1.1.1", True),
        ("10.0.0.0/8,::1", "fe80::1%eth0", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.1.1", True),
        ("::ffff:10.0.0.0/104", "::ffff:11.1.1.1", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("", "127.0.0.1", False),
        ("*", "1.2.3.4", True),
    ],
)
def test_who_is_trusted(text: str, host: str, trusted: bool) -> None:
    assert truster(text)(host) is trusted


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
        assert not any(map(proxys_own, environ))
