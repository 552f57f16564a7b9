"""HTTPS: the same server under TLS, and handshakes that come to nothing."""

from __future__ import annotations

import logging
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from wsgiref.simple_server import demo_app

import pytest

from prefork.config.settings import Settings
from prefork.net.tls import context_of
from prefork.testing.client import connect
from prefork.testing.server import Server
from prefork.testing.waiting import call_until
from prefork.wsgi.channel import Channel, Pace
from prefork.wsgi.gateway import Gateway
from prefork.wsgi.tls import TLSChannel, _distinguished_name
from tests.support.held_up import unless_held_up
from tests.support.tls_clients import CERTS, KEYS, client_context, greeted, received, secured
from tests.support.wsgi.apps import CONTENT
from tests.support.wsgi.harness import WITHIN, Steadiness, assert_clean, get, parse, post, read_all, release, serving


def exchange(server: Server, request: bytes, context: ssl.SSLContext | None = None) -> bytes:
    with secured(server, context) as client:
        client.sendall(request)
        return read_all(client)


def small_buffer(server: Server) -> ssl.SSLSocket:
    """A client that takes little before it reads."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    plain.settimeout(WITHIN)
    host, _, port = server.address.rpartition(":")
    plain.connect((host, int(port)))
    return client_context().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)


class Silent(Channel):
    """What `TLSChannel` is, but for the keys."""

    _counts = TLSChannel._counts


class Read(Silent):
    """Its client reads while it is waited for."""

    client: socket.socket

    def _poll(self, event: int, milliseconds: float | None) -> list[tuple[int, int]]:
        self.client.recv(1 << 24)
        return super()._poll(event, milliseconds)


@pytest.fixture(scope="module")
def show() -> Iterator[Server]:
    with serving("show", options=KEYS) as server:
        yield server
        assert_clean(server)


def test_environ(show: Server) -> None:
    with secured(show) as client:
        assert client.selected_alpn_protocol() == "http/1.1"
        client.sendall(get("/a?b"))
        environ = parse(read_all(client)).json()
        assert environ["SSL_CIPHER"] == client.cipher()[0]  # type: ignore[index]  # the handshake is done
        assert environ["SSL_PROTOCOL"] == client.version()
    assert (environ["wsgi.url_scheme"], environ["HTTPS"]) == ("https", "on")
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a", "b")
    assert environ["SERVER_PORT"] == show.address.rpartition(":")[2]
    assert "SSL_CLIENT_VERIFY" not in environ


def test_a_listener_on_every_address() -> None:
    """Which of them a client has come to is asked of each connection."""
    with serving("show", options=KEYS, bind="0.0.0.0:0", named=False) as server:
        _, _, port = server.address.rpartition(":")
        environ = parse(exchange(server, get())).json()
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", port)
        assert_clean(server)


def test_bodies_both_ways() -> None:
    body = CONTENT * 8
    with serving("echo", options=KEYS) as server:
        for spool in (post(body), post(b"")):
            assert parse(exchange(server, spool)).body == spool.partition(b"\r\n\r\n")[2]
        assert_clean(server)


def test_a_file() -> None:
    """Sendfile(2) would send it in the clear."""
    with serving("file", validate=False, options=KEYS) as server:
        assert parse(exchange(server, get("/buffered"))).body == CONTENT
        assert_clean(server)


def test_a_session_is_resumed(show: Server) -> None:
    context = client_context()
    with secured(show, context) as client:
        client.sendall(get())
        assert read_all(client)
        assert not client.session_reused
        session = client.session
    with secured(show, context, session) as client:
        client.sendall(get())
        assert read_all(client)
        assert client.session_reused


def test_an_early_answer_reaches_who_is_still_sending() -> None:
    with serving("echo", options={**KEYS, "limit_request_body": 1000}) as server:
        assert parse(exchange(server, post(b"a" * 2_000_000))).status == 413
        assert_clean(server)


def test_a_second_request_does_not_cost_the_first_answer(fifo: str) -> None:
    """In several records, of which none is read."""
    with serving("big", validate=False, options=KEYS) as server, small_buffer(server) as client:
        client.sendall(get(f"{fifo}?2"))
        server.wait_for_log("application ran")
        for _ in range(3):
            client.sendall(get("/second"))
        release(fifo)
        assert len(parse(read_all(client)).body) == 2 << 20
        assert_clean(server)


def test_a_response_that_was_cut_does_not_look_whole(fifo: str) -> None:
    """HTTP/1.0 has no other sign of the end than close_notify."""
    with serving("fails_late", validate=False, options=KEYS) as server, secured(server) as client:
        client.sendall(get(f"/?{fifo}", version="1.0"))
        while not (said := client.recv(1 << 16)).endswith(b"sent"):
            assert said
        release(fifo)
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            read_all(client)


def test_what_a_client_takes_of_a_big_piece_counts() -> None:
    """OpenSSL does not say what it has sent before it has sent all, which may take many waits."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        try:
            while True:
                ours.send(b"x" * (1 << 16))
        except BlockingIOError:
            pass
        channel = Read(ours, Pace(io_timeout=WITHIN))
        channel.client = theirs
        channel._wait(select.POLLOUT)
        assert channel._patience == WITHIN


def test_who_sends_steadily_is_not_cut() -> None:
    """Nor does OpenSSL say what it has received of a record before it has all of it."""
    with serving("echo", options={**KEYS, "min_rate": 1000}, io_timeout=0.5) as server:
        body = b"a" * 4000

        def send() -> tuple[bytes, Steadiness]:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            with connect(server.address, timeout=WITHIN) as client:
                session = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")

                def turn(act: Callable[[], object]) -> bool:
                    """Whether ``act`` came to its end; if not, the server has been given what it wants."""
                    try:
                        act()
                    except ssl.SSLWantReadError:
                        client.sendall(outgoing.read())
                        piece = client.recv(1 << 16)
                        assert piece, "the server has closed"
                        incoming.write(piece)
                        return False
                    client.sendall(outgoing.read())
                    return True

                while not turn(session.do_handshake):
                    pass
                request = post(body)
                turn(lambda: session.write(request[:-4000]))
                session.write(body)
                record = outgoing.read()
                steadiness = Steadiness(each=40 / 1000)
                received = [b""]
                try:
                    for at in range(0, len(record), 40):
                        client.sendall(record[at : at + 40])
                        steadiness.moved()
                        time.sleep(0.01)  # the client's slowness: it takes twice io_timeout
                    while not turn(lambda: received.append(session.read(1 << 16))) or received[-1]:
                        pass
                except ConnectionError:  # it was cut
                    steadiness.moved()
                return b"".join(received), steadiness

        answer, _ = call_until(send, lambda seen: seen[1].steady, timeout=120, message="a client that nothing holds up")
        assert parse(answer).body == body
        assert_clean(server)


def test_the_subject_of_a_certificate() -> None:
    """A name with a comma in it is one name."""
    subject = ((("countryName", "DE"),), (("organizationName", 'a, "b" + c=d'), ("commonName", "#x\\ ")))
    assert _distinguished_name({"subject": subject}) == (r"O=a\, \"b\" \+ c=d+CN=\#x\\\ ,C=DE")
    assert _distinguished_name({}) == ""


@pytest.mark.parametrize(
    "sent",
    [
        *(
            get(method=method)
            for method in ("GET", "POST", "HEAD", "PUT", "CONNECT", "DELETE", "OPTIONS", "PATCH", "X")
        ),
        get("/" + "a" * 3000, "Cookie: " + "b" * 4000, method="PROPFIND", version="1.0"),
        post(b"c" * 100_000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_plain_http_is_answered_in_plain_text(show: Server, sent: bytes) -> None:
    before = show.log().count("no TLS with")
    with connect(show.address, timeout=WITHIN) as client:
        client.sendall(sent)
        reply = parse(read_all(client))
    assert (reply.status, reply["content-type"]) == (400, "text/plain; charset=utf-8")
    assert reply.body == b"400 Bad Request: this port speaks TLS, and the request came without; use https\n"
    assert show.log().count("no TLS with") - before <= 1


def test_plain_http_is_told_in_one_line() -> None:
    with serving("hello", options=KEYS) as server:
        for _ in range(3):
            with connect(server.address, timeout=WITHIN) as client:
                client.sendall(get())
                assert parse(read_all(client)).status == 400
        assert parse(exchange(server, get())).body == b"hello"
        said = [line for line in server.log().splitlines() if "TLS" in line]
        assert_clean(server)
    assert len(said) == 1
    assert re.fullmatch(r"INFO no TLS with 127\.0\.0\.1:\d+: it speaks plain HTTP, and was answered 400", said[0])


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x00\x05nonsense", b"\0", b"SSH-2.0-a\r\n", b"EHLO a\r\nMAIL HTTP/1\r\n"]
)
def test_who_does_not_speak_tls_costs_a_log_line(sent: bytes) -> None:
    with serving("hello", options=KEYS) as server:
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert b"HTTP" not in read_all(client)
        server.wait_for_log(r"^INFO no TLS with 127\.0\.0\.1:\d+: .+$")
        assert server.log().count("no TLS with") == 1
        assert parse(exchange(server, get())).body == b"hello"
        assert_clean(server)


def said_hello(server: Server) -> None:
    """Others are served."""
    assert parse(exchange(server, get(), client_context())).body == b"hello"


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
def test_a_handshake_that_does_not_go_on(sent: bytes) -> None:
    with serving("hello", options={**KEYS, "header_timeout": 0.4}) as server:
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(sent)
            assert read_all(client) == b""
        server.wait_for_log("INFO no TLS with .*: the client was too slow")
        unless_held_up(0.4, lambda: said_hello(server))
        assert_clean(server)


def test_who_hangs_up_instead_of_shaking_hands() -> None:
    with serving("hello", options=KEYS) as server:
        connect(server.address).close()
        server.wait_for_log("INFO no TLS with")
        assert_clean(server)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
def test_who_reset_the_connection_before_the_handshake(sent: bytes) -> None:
    with serving("hello", options={**KEYS, "header_timeout": 0.5}) as server:
        # The first keeps the server busy until the second is gone.
        with connect(server.address, timeout=WITHIN) as first, connect(server.address) as gone:
            gone.sendall(sent)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
            assert read_all(first) == b""
        server.wait_for(lambda: server.log().count("INFO no TLS with") == 2)
        unless_held_up(0.5, lambda: said_hello(server))
        assert_clean(server)


def test_nothing_is_said_to_who_ends_his_side_before_his_part_is_whole(caplog: pytest.LogCaptureFixture) -> None:
    """It would be half a handshake for nothing."""
    caplog.set_level(logging.INFO, "prefork")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gateway = Gateway(demo_app, sockets=[listener], tls=context_of(Settings(**KEYS)))
        with greeted(listener.getsockname()) as client:
            client.shutdown(socket.SHUT_WR)
            connection, address = listener.accept()
            with connection:
                ended = select.poll()
                ended.register(connection, select.POLLRDHUP)
                assert ended.poll(1000 * WITHIN)
                gateway.serve_connection(connection, address)
            assert received(client) == b""
    assert "no TLS with 127.0.0.1" in caplog.text
    assert "the client has gone" in caplog.text


def test_who_is_silent_after_the_handshake() -> None:
    with serving("hello", options={**KEYS, "header_timeout": 0.5}) as server:

        def in_time(sent: bytes) -> ssl.SSLSocket:
            """A client that has shaken hands, and sent this, before his time was over."""

            def connected() -> ssl.SSLSocket:
                began = time.monotonic()
                client = secured(server)
                client.sendall(sent)
                if time.monotonic() - began >= 0.5:
                    client.close()
                    raise TimeoutError("the machine has held it up")
                return client

            return unless_held_up(0.5, connected)

        with in_time(b"") as client:
            assert read_all(client) == b""
        with in_time(get()[:-1]) as client:
            assert parse(read_all(client)).status == 408
        assert_clean(server)


def test_who_does_not_read_is_cut() -> None:
    with serving("many", validate=False, options=KEYS, io_timeout=0.5) as server:
        with secured(server) as client:
            client.sendall(get("/length"))
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            server.wait_for_log("408, the client was too slow")
        assert_clean(server)


def test_a_body_that_does_not_come() -> None:
    with serving("echo", options=KEYS, io_timeout=0.5) as server:
        assert parse(exchange(server, post(b"hello")[:-1])).status == 408
        assert_clean(server)


def test_the_oldest_version() -> None:
    old = client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving("hello", options={**KEYS, "ssl_minimum_version": "tlsv1.3"}) as server:
        with pytest.raises(ssl.SSLError):
            secured(server, old)
        server.wait_for_log("INFO no TLS with .*: unsupported protocol")
        assert parse(exchange(server, get())).body == b"hello"
    with serving("hello", options=KEYS) as server:
        assert parse(exchange(server, get(), old)).body == b"hello"


def test_clients_certificates() -> None:
    with serving("show", options={**KEYS, "ca_certs": str(CERTS / "ca.pem")}) as server:
        environ = parse(exchange(server, get(), client_context("client.pem"))).json()
        assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
        assert environ["SSL_CLIENT_S_DN"] == "CN=test client,O=prefork"
        pem = environ["SSL_CLIENT_CERT"]
        assert pem.strip() in (CERTS / "client.pem").read_text()
        for certificate in ("", "stranger.pem"):
            with pytest.raises(ssl.SSLError, match="ALERT"):
                exchange(server, get(), client_context(certificate))
        server.wait_for_log("no TLS with .*: peer did not return a certificate")
        server.wait_for_log("no TLS with .*: certificate verify failed")
        assert_clean(server)
