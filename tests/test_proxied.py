"""Servers behind the PROXY protocol: handlers and WSGI, plain and under TLS, closed and kept connections."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork import SettingsError
from prefork.config.settings import Settings
from prefork.testing import Server, connect, running_target
from prefork.testing.engine import endpoint_of
from tests.support.kept import Client
from tests.support.proxy_headers import GOOD, inet, inet6, tlv, unix, v1, v2, verdict
from tests.support.tls_clients import KEYS, client_context

APPS = Path(__file__).parent / "support" / "apps"
SILENCE = 2.0  # seconds: io_timeout of the handler's server; a client on a busy machine is not silent


@pytest.fixture(scope="module")
def reporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    bind = ("127.0.0.1:0", f"unix:{tmp_path_factory.mktemp('proxied') / 'socket'}")
    with running_target(
        "proxied:Reporter", app_dir=APPS, bind=bind, workers=1, proxy_protocol="any", io_timeout=SILENCE
    ) as server:
        yield server


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    with running_target(
        *("proxied:application",),
        subcommand="wsgi",
        app_dir=APPS,
        workers=2,
        proxy_protocol="v2",
        access_log="-",
    ) as server:
        yield server


def _either() -> contextlib.AbstractContextManager[None]:
    """An end of a connection with something unread is a reset."""
    return contextlib.suppress(ConnectionError)


def ask(address: str, *pieces: bytes) -> dict[str, Any]:
    """What the handler says of a connection on which this is sent; {} when it was closed without a word."""
    data = b""
    with connect(address) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
            while piece := client.recv(65536):
                data += piece
        except ConnectionError:
            pass  # closed with something unread
    told: dict[str, Any] = json.loads(data or b"{}")
    return told


@pytest.mark.parametrize("header", GOOD, ids=repr)
def test_a_handler_gets_the_true_peer_and_all_that_follows(reporter: Server, header: bytes) -> None:
    source = verdict(header)[1][1]
    told = ask(reporter.address, header, b"a line\n")
    assert told["line"] == "a line\n"
    assert told["address"] == repr(source) if source is not None else told["address"].startswith("('127.0.0.1', ")
    assert told["version"] == (1 if header.startswith(b"P") else 2)
    by_socket = ask(reporter.addresses[1], header + b"a line\n")
    assert by_socket["address"] == repr("" if source is None else source)


def test_a_header_that_comes_byte_by_byte(reporter: Server) -> None:
    for header, authority in ((v1(), ""), (v2(inet() + tlv(0x02, b"a.test")), "a.test")):
        pieces = [header[at : at + 1] for at in range(len(header))]
        told = ask(reporter.address, *pieces, b"a line\n")
        assert (told["address"], told["line"]) == ("('192.0.2.1', 56324)", "a line\n")
        assert (told["destination"], told["authority"]) == ("('198.51.100.2', 443)", authority)


def test_a_second_header_is_the_clients_and_believed_by_nobody(reporter: Server) -> None:
    told = ask(reporter.address, v1("192.0.2.1"), v1("192.0.2.66"))
    assert told["address"] == "('192.0.2.1', 56324)"
    assert told["line"] == v1("192.0.2.66").decode()


@pytest.mark.parametrize(
    "wrong",
    [
        b"a line\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        v1("1.2.3.256") + b"a line\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\na line\n",
        b"PROXY UNKNOWN " + b"x" * 200 + b"\r\na line\n",
        v2(inet(), command=0x22) + b"a line\n",
        v2(inet()[:11]) + b"a line\n",
        v2(inet() + b"\x04") + b"a line\n",
    ],
    ids=repr,
)
def test_without_a_good_header_a_connection_ends_unheard(reporter: Server, wrong: bytes) -> None:
    end = reporter.log_size()
    assert ask(reporter.address, wrong) == {}
    assert ask(reporter.address, v1(), b"a line\n")["line"] == "a line\n"
    assert "Traceback" not in reporter.log()[end:]


def test_it_is_told_why(reporter: Server) -> None:
    assert ask(reporter.address, v1("1.1.1.1.1") + b"a line\n") == {}
    reporter.wait_for_log(r"WARNING .*no PROXY header from 127\.0\.0\.1:\d+ but .+: its connection was closed")


def test_a_peer_that_is_not_named(reporter: Server) -> None:
    target = endpoint_of(reporter.address)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.2", 0))
        stranger.connect(target.sockaddr)
        with _either():
            stranger.sendall(v1() + b"a line\n")
            assert stranger.recv(100) == b""
    reporter.wait_for_log(r"127\.0\.0\.2:\d+ is not in proxy_allow_ips: its connection was closed; .*--proxy-allow-ips")


def test_nobody_waits_for_a_header_for_ever(reporter: Server) -> None:
    with connect(reporter.address) as silent, connect(reporter.address) as half:
        half.sendall(v2(inet())[:20])
        assert silent.recv(1) == half.recv(1) == b""
    reporter.wait_for_log("but nothing for too long")


def test_who_only_looks_whether_somebody_listens_is_no_news(reporter: Server) -> None:
    assert ask(reporter.address, v1(), b"a line\n")["line"] == "a line\n"  # the one worker has said all of those before
    end = reporter.log_size()
    connect(reporter.address).close()
    assert ask(reporter.address, v1(), b"a line\n")["line"] == "a line\n"
    assert "PROXY" not in reporter.log()[end:]


GET = b"GET /%s HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 198.51.100.77\r\n\r\n"


def answer(client: Client, payload: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(client.ask(payload) or b"{}")
    return told


def test_a_kept_connection_keeps_its_peer_in_every_worker(site: Server) -> None:
    client = Client(site.address)
    header = v2(inet("203.0.113.9", 4711) + tlv(0x02, b"a.test") + tlv(0xEA, b"\x01vpce-1"))
    known: dict[str, Any] = {
        "peer": ["203.0.113.9", "4711"],
        "scheme": "http",
        "authority": "a.test",
        "endpoint": "vpce-1",
    }
    known["forwarded"] = None  # the proxy has not said that, and nobody has named the client
    assert answer(client, header + GET % b"one") == known | {"path": "/one"}
    assert answer(client, GET % b"two") == known | {"path": "/two"}
    end = site.log_size()
    site.signal(signal.SIGHUP)
    site.wait_for_log(r"generation \d+ serves", after=end)
    assert answer(client, GET % b"three") == known | {"path": "/three"}
    client.close()
    site.wait_for_log(r'203\.0\.113\.9 - - \[.*"GET /three HTTP/1.1" 200')


def test_what_comes_along_with_a_header_is_served_too(site: Server) -> None:
    client = Client(site.address)
    client.send(v2(inet("203.0.113.9", 4711)) + GET % b"one" + GET % b"two" + (GET % b"three")[:20])
    for path in ("/one", "/two"):
        told = json.loads(client.answer() or b"{}")
        assert (told["peer"], told["path"]) == (["203.0.113.9", "4711"], path)
    assert answer(client, (GET % b"three")[20:])["path"] == "/three"
    client.close()


@pytest.mark.parametrize(
    ("header", "peer", "scheme"),
    [
        (v2(inet6(), family=0x21), ["2001:db8::1", "56324"], "http"),
        (v2(inet() + tlv(0x20, b"\x01\0\0\0\0")), ["192.0.2.1", "56324"], "https"),
        (v2(inet() + tlv(0x20, b"\0\0\0\0\0")), ["192.0.2.1", "56324"], "http"),
        (v2(unix(), family=0x31), ["", None], "http"),
    ],
)
def test_what_an_application_is_told(site: Server, header: bytes, peer: list[str | None], scheme: str) -> None:
    client = Client(site.address)
    told = answer(client, header + GET % b"")
    assert (told["peer"], told["scheme"]) == (peer, scheme)
    assert told["forwarded"] is None  # a unix socket of the proxy's is no reason to believe a client
    client.close()


def test_the_proxy_itself_is_believed_as_without_a_header(site: Server) -> None:
    client = Client(site.address)
    told = answer(client, v2(command=0x20, family=0) + GET % b"")
    assert told["peer"] == ["198.51.100.77", None]
    client.close()


def test_a_version_that_is_not_spoken_and_a_header_in_the_wrong_place(site: Server) -> None:
    for wrong in (v1() + GET % b"", GET % b"", v2(inet()) + v1() + GET % b"", v2(inet()) + v2(inet()) + GET % b""):
        with connect(site.address) as client:
            client.sendall(wrong)
            with _either():
                assert client.recv(100)[:12] in {b"", b"HTTP/1.1 400"}
    assert "Traceback" not in site.log()


def secured(**settings: Any) -> contextlib.AbstractContextManager[Server]:
    """The application, behind a proxy and under TLS."""
    given = {"subcommand": "wsgi", "app_dir": APPS, "workers": 1, "proxy_protocol": "any", **KEYS, **settings}
    return running_target("proxied:application", **given)


def test_the_header_comes_before_tls() -> None:
    with secured() as server:
        connection = connect(server.address)
        connection.sendall(v2(inet("203.0.113.9", 4711)))
        client = Client(client_context().wrap_socket(connection, server_hostname="localhost"))
        for path in (b"one", b"two"):
            told = answer(client, GET % path)
            assert (told["peer"], told["scheme"], told["path"]) == (
                ["203.0.113.9", "4711"],
                "https",
                f"/{path.decode()}",
            )
        client.close()


def test_who_sends_no_header_before_tls_is_closed() -> None:
    with secured(header_timeout=0.5, defer_accept=0, keepalive=0) as server:
        with connect(server.address) as plain, pytest.raises((ssl.SSLError, OSError)):
            client_context().wrap_socket(plain, server_hostname="localhost")
        began = time.monotonic()
        with connect(server.address) as silent:
            assert silent.recv(1) == b""
        assert time.monotonic() - began > 0.4


def test_a_header_needs_a_stream() -> None:
    with pytest.raises(SettingsError, match=r"proxy_protocol: a header needs a stream, and 'seqpacket:/run/a'"):
        Settings(bind="seqpacket:/run/a", proxy_protocol="v2")
    for wrong in ("", "v3", "yes"):
        with pytest.raises(SettingsError, match=r"proxy_protocol: .* is not known; give off, v1, v2 or any"):
            Settings.of({"proxy_protocol": wrong})
    with pytest.raises(SettingsError, match=r"proxy_allow_ips: .* holds '10\.0\.0\.300'"):
        Settings(proxy_allow_ips="10.0.0.300")
