"""TLS for functions and Workers: the handshake is the worker's affair, and one that comes to nothing costs nobody."""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.net import tls
from prefork.net.tls import HandshakeError, context_of, departed, renewed, shake_hands
from prefork.services.control import Client
from prefork.testing import NotServingError, Server, connect, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import limited_descriptors
from tests.support.held_up import unless_held_up
from tests.support.programs import facts
from tests.support.tls_clients import CERTS, KEYS, client_context, hello, received, secured

APPS = Path(__file__).parents[1] / "support" / "apps"


def serve(factory: ServerFactory, name: str, **settings: Any) -> Server:
    return factory(f"confidant:{name}", app_dir=APPS, **{"workers": 1, **KEYS, **settings})


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


def ask(server: Server, context: ssl.SSLContext | None = None) -> bytes:
    """What a handler says to "hello", to the end that it means."""
    with secured(server, context) as client:
        client.sendall(b"hello")
        return read_all(client)


def test_a_function_is_given_a_connection_on_which_keys_are_agreed(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "echo", workers=2)
    pids = set()

    def both() -> bool:
        word, pid, version = ask(server).split()
        assert (word, version) == (b"hello", b"TLSv1.3")
        pids.add(pid)
        return len(pids) == 2

    server.wait_for(both, message="both workers to have answered")
    assert server.stop() == 0


def test_from_python(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(
        f"""
        import logging
        import prefork

        logging.basicConfig(level=logging.INFO)
        prefork.serve(lambda connection, _: connection.sendall(b"hello"), bind="127.0.0.1:0", workers=1, **{KEYS!r})
        """
    )
    with secured(server) as client:
        assert read_all(client) == b"hello"


def test_who_wants_no_tls_does_not_import_it() -> None:
    found = facts(
        """
        import json, sys
        import prefork.server
        print(json.dumps("ssl" in sys.modules))
        """
    )
    assert found is False


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05nonsense", b""])
def test_who_does_not_speak_tls_costs_a_log_line(prefork_server: ServerFactory, sent: bytes) -> None:
    server = serve(prefork_server, "echo")
    before = server.workers()
    for _ in range(5):
        with connect(server.address) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert b"hello" not in read_all(client)
    assert ask(server).startswith(b"hello")
    assert len(server.wait_for_log(r"INFO .*worker 0: no TLS with 127\.0\.0\.1:\d+: .+")[0]) < 200
    assert server.log().count("no TLS with") == 1, "the same is told once in a while"
    assert "Traceback" not in server.log()
    assert server.workers() == before


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_plain_http_is_answered_whatever_is_served(prefork_server: ServerFactory, method: str) -> None:
    server = serve(prefork_server, "echo")
    with connect(server.address) as client:
        client.sendall(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"\r\n\r\n400 Bad Request: this port speaks TLS, and the request came without; use https\n")
    server.wait_for_log(r"no TLS with 127\.0\.0\.1:\d+: it speaks plain HTTP, and was answered 400")


def counted(steering: Client) -> tuple[int, int]:
    """How many connections were served, and how many failed."""
    (worker,) = steering.status().workers
    return worker.served, worker.failed


def test_what_came_to_nothing_has_failed(prefork_server: ServerFactory, tmp_path: Path) -> None:
    control = tmp_path / "control"
    server = serve(prefork_server, "echo", control=control)
    for _ in range(3):
        with connect(server.address) as client:
            client.sendall(b"nonsense")
            read_all(client)
    ask(server)
    with Client(control) as steering:
        server.wait_for(lambda: counted(steering) == (1, 3))


def said_hello(server: Server) -> None:
    """Others are served."""
    assert ask(server, client_context()).startswith(b"hello")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
def test_a_handshake_does_not_wait_for_ever(prefork_server: ServerFactory, sent: bytes) -> None:
    server = serve(prefork_server, "echo", io_timeout=0.4)
    with connect(server.address) as client:
        client.sendall(sent)
        assert read_all(client) == b""
    server.wait_for_log("no TLS with .*: the client was too slow")
    unless_held_up(0.4, lambda: said_hello(server))


def test_a_handshake_that_trickles_ends_as_well(prefork_server: ServerFactory) -> None:
    """The limit is one of the handshake, not of each byte."""
    server = serve(prefork_server, "echo", io_timeout=0.5)
    with connect(server.address) as client:
        client.settimeout(0.05)
        hello = b"\x16\x03\x01\x02\x00\x01" + bytes(500)
        for at in range(len(hello)):
            try:
                client.sendall(hello[at : at + 1])
                if client.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it waited for all of it")
    server.wait_for_log("no TLS with .*: the client was too slow")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
def test_who_reset_the_connection_before_the_handshake(prefork_server: ServerFactory, sent: bytes) -> None:
    server = serve(prefork_server, "echo", io_timeout=0.5)
    # The first keeps the worker busy until the second is gone.
    with connect(server.address) as first, connect(server.address) as gone:
        gone.sendall(sent)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        assert read_all(first) == b""
    server.wait_for(lambda: server.log().count("no TLS with") == 2)
    unless_held_up(0.5, lambda: said_hello(server))
    assert "Traceback" not in server.log()


def test_what_was_sent_last_is_not_cut(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "big")
    assert len(ask(server)) == 4_000_000


def test_a_handler_that_fails_leaves_a_cut_that_shows(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "fails")
    with secured(server) as client:
        assert client.recv(100) == b"half of it"
        with pytest.raises(ssl.SSLEOFError):
            client.recv(100)
    server.wait_for_log("ValueError: this one fails")


@pytest.mark.parametrize(("name", "said"), [("keeps", b"kept"), ("timeout", b"None")])
def test_the_end_comes_whatever_the_handler_does(prefork_server: ServerFactory, name: str, said: bytes) -> None:
    server = serve(prefork_server, name)
    for _ in range(2):
        with secured(server) as client:
            assert read_all(client) == said
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("lanes", [{}, {"threads": 2}, {"keepalive": 5}], ids=str)
def test_a_child_that_comes_back_says_no_goodbye_for_its_parent(
    prefork_server: ServerFactory, lanes: dict[str, Any]
) -> None:
    server = serve(prefork_server, "forks", **lanes)
    for _ in range(2):
        with secured(server) as client:
            assert read_all(client) == b"of the parent"
    assert server.stop() == 0


def test_a_handler_may_part_from_tls(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "unwraps")
    with secured(server) as client:
        assert read_all(client.unwrap()) == b"plain again"
    assert "Traceback" not in server.log()


def test_the_handler_has_the_timeout_of_the_settings(prefork_server: ServerFactory) -> None:
    with secured(serve(prefork_server, "timeout", io_timeout=7.0)) as client:
        assert read_all(client) == b"7.0"


def test_a_session_is_resumed_by_the_other_worker_and_after_a_reload(prefork_server: ServerFactory) -> None:
    """The keys of the tickets are made before the fork, and stay with their files."""
    server = serve(prefork_server, "echo", workers=2)
    by = {}
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        by[version] = client_context()
        by[version].minimum_version = by[version].maximum_version = version
    sessions: dict[ssl.TLSVersion, ssl.SSLSession | None] = dict.fromkeys(by)

    def resumed(times: int) -> list[int]:
        reused = dict.fromkeys(by, 0)
        for version, context in [*by.items()] * times:
            with secured(server, context, sessions[version]) as client:
                client.sendall(b"hello")
                assert read_all(client)
                reused[version] += bool(client.session_reused)
                sessions[version] = client.session
        return [*reused.values()]

    assert resumed(6) == [5, 5]
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    assert resumed(6) == [6, 6]


def test_a_reload_keeps_what_it_finds_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By content: how a renewed file comes to its place is nobody's business."""
    names = {"certfile": "server.pem", "keyfile": "server.key", "ca_certs": "ca.pem"}
    files = {setting: tmp_path / name for setting, name in names.items()}
    for setting, name in names.items():
        files[setting].write_bytes((CERTS / name).read_bytes())
    settings = Settings.of({setting: str(path) for setting, path in files.items()})
    first = context_of(settings)
    for path in files.values():
        path.write_bytes(path.read_bytes())
    assert renewed(first, settings) is first
    for setting, text in (("certfile", "no certificate"), ("ca_certs", "")):
        before = files[setting].read_text()
        files[setting].write_text(text)
        assert renewed(first, settings) is first
        assert "the certificate in use stays" in caplog.text
        caplog.clear()
        files[setting].write_text(before)
    for path in files.values():
        before = path.read_text()
        path.write_text(before + "\n")
        made = renewed(first, settings)
        assert made is not first
        assert renewed(made, settings) is made
        path.write_text(before)
    assert renewed(first, settings) is first


def test_what_can_be_read_once_is_taken_for_another(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def written(options: Settings) -> ssl.SSLContext | None:
        writer = threading.Thread(target=lambda: pipe.write_bytes((CERTS / "server.key").read_bytes()))
        writer.start()
        try:
            return renewed(first, options)
        finally:
            writer.join(20)

    settings = Settings(**{**KEYS, "keyfile": str(pipe)})
    first = None
    first = written(settings)
    assert first is not None
    assert written(settings) is not first


@pytest.mark.parametrize("setting", ["certfile", "keyfile", "ca_certs"])
def test_a_reload_waits_for_nobody_who_writes_into_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(tls, "_PATIENCE", 0.1)
    first = context_of(Settings.of(KEYS))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    settings = Settings.of({**KEYS, setting: str(pipe)})
    assert renewed(first, settings) is first
    writer = os.open(pipe, os.O_RDWR)
    os.write(writer, b"no end")
    assert renewed(first, settings) is first
    os.close(writer)
    assert caplog.text.count("it is a FIFO, and who writes into it does not come to an end") == 2
    pipe.unlink()
    pipe.symlink_to("/dev/zero")
    assert renewed(first, settings) is first
    assert "File too large" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files that others would like to have")
@pytest.mark.parametrize("way", ["symlink", "link"])
def test_root_is_not_led_to_a_key_of_its_own(way: str) -> None:
    nobody = 65534
    with tempfile.TemporaryDirectory(prefix="prefork-test-") as top:
        ours, theirs = Path(top, "ours.key"), Path(top, "theirs")
        Path(top).chmod(0o755)
        ours.write_bytes((CERTS / "server.key").read_bytes())
        theirs.mkdir()
        settings = Settings.of({**KEYS, "keyfile": str(theirs / "key")})
        getattr(os, way)(ours, theirs / "key")
        os.chown(theirs / "key", nobody, nobody, follow_symlinks=False)
        os.chown(ours, 0, 0)
        assert context_of(settings) is not None
        os.chown(theirs, nobody, nobody)
        with pytest.raises(SettingsError, match=r"who could change it|has another name as well"):
            context_of(settings)


def test_what_a_descriptor_brings_is_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, (CERTS / "server.key").read_bytes())
        os.close(writer)
        settings = Settings.of({**KEYS, "keyfile": f"/dev/fd/{reader}"})
        assert context_of(settings) is not None
        with pytest.raises(SettingsError):
            context_of(settings)
    finally:
        os.close(reader)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection, as accept(2) gave it, and its client."""
    with socket.create_server(("127.0.0.1", 0)) as listener, connect("{}:{}".format(*listener.getsockname())) as client:
        connection, _ = listener.accept()
        with connection:
            yield connection, client


def ended(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def end(client: socket.socket, how: str) -> None:
    if how == "shutdown":
        client.shutdown(socket.SHUT_WR)
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how in {"close", "reset"}:
        client.close()


@pytest.mark.parametrize(
    ("sent", "how", "gone"),
    [
        (hello(), "stays", False),
        (hello(), "shutdown", True),
        (hello(), "close", True),
        (hello(), "reset", True),
        (b"\x16\x03\x01\x00\x05nonsense", "shutdown", False),
        (b"", "stays", False),
        (b"", "close", False),
        (b"GET / HTTP/1.0\r\n\r\n", "shutdown", False),
    ],
)
def test_who_can_not_go_on_has_departed(
    pair: tuple[socket.socket, socket.socket], sent: bytes, how: str, gone: bool
) -> None:
    connection, client = pair
    client.sendall(sent)
    end(client, how)
    wait_for(lambda: how == "stays" or ended(connection), message="the end to arrive")
    assert departed(connection) == gone
    if not gone and sent:
        assert connection.recv(1 << 16) == sent  # nothing was taken


def test_nothing_is_computed_for_who_has_departed(pair: tuple[socket.socket, socket.socket]) -> None:
    connection, client = pair
    client.sendall(hello())
    client.shutdown(socket.SHUT_WR)
    wait_for(lambda: ended(connection), message="the end to arrive")
    context = context_of(Settings(**KEYS))
    assert context is not None
    with pytest.raises(HandshakeError, match="the client has gone"):
        shake_hands(connection, context)
    assert received(client) == b""


def test_clients_certificates_and_the_oldest_version(prefork_server: ServerFactory) -> None:
    server = serve(prefork_server, "subject", ca_certs=CERTS / "ca.pem", ssl_minimum_version="tlsv1.3")
    assert b"test client" in ask(server, client_context("client.pem"))
    for certificate in ("", "stranger.pem"):
        with pytest.raises(ssl.SSLError, match="ALERT"):
            ask(server, client_context(certificate))
    server.wait_for_log("no TLS with .*: peer did not return a certificate")
    server.wait_for_log("no TLS with .*: certificate verify failed")
    old = client_context("client.pem")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="ALERT"):
        ask(server, old)


def test_who_is_shed_gets_no_plain_text(prefork_server: ServerFactory, tmp_path: Path) -> None:
    control = tmp_path / "control"
    server = serve(prefork_server, "Outspoken", control=control, exhausted="shed")
    with Client(control) as steering, limited_descriptors(server.workers()):

        def refused() -> int:
            with connect(server.address) as client:
                client.shutdown(socket.SHUT_WR)  # the worker that can still accept is not to wait for us
                assert b"busy" not in read_all(client)
            return steering.status().totals.refused

        server.wait_for(refused)


def test_a_reload_reads_the_certificate_anew(prefork_server: ServerFactory, tmp_path: Path) -> None:
    """One that is of no use changes nothing."""
    pair = tmp_path / "pair.pem"
    pair.write_text((CERTS / "server.pem").read_text() + (CERTS / "server.key").read_text())
    server = serve(prefork_server, "echo", certfile=pair, keyfile="")
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE

    def shown() -> bytes:
        with secured(server, anybody) as client:
            return client.getpeercert(binary_form=True) or b""

    def reload(generation: int) -> None:
        server.signal(signal.SIGHUP)
        server.wait_for_log(f"generation {generation} serves")
        server.wait_for(lambda: len(server.workers()) == 1, message="the worker before to be gone")

    first = shown()
    pair.write_text("no certificate")
    reload(1)
    server.wait_for_log("ERROR .*the certificate in use stays: certfile: .*pair.pem")
    assert shown() == first
    pair.write_text((CERTS / "stranger.pem").read_text())
    reload(2)
    assert shown() not in {first, b""}


def test_a_loop_of_ones_own_serves_no_plain_text_by_mistake(prefork_server: ServerFactory) -> None:
    with pytest.raises(NotServingError, match="exit code 2") as caught:
        serve(prefork_server, "Looped")
    assert "certfile: Looped has a loop of its own, which would serve plain text; leave it out" in str(caught.value)


def test_a_loop_of_ones_own_may_shake_hands_itself(prefork_server: ServerFactory) -> None:
    with secured(serve(prefork_server, "Secure")) as client:
        client.sendall(b"hello")
        assert client.recv(100).startswith(b"hello")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"certfile": "{certs}/missing.pem"}, "certfile: .*missing.pem: No such file"),
        ({"certfile": "{certs}/README.md"}, "certfile: .*README.md: "),
        ({"certfile": "{certs}/server.pem"}, "certfile: .*server.pem: "),
        ({"certfile": "{certs}/server.pem", "keyfile": "{certs}/locked.key"}, "certfile: .* and .*locked.key: "),
        ({"certfile": "{certs}/ca.pem", "keyfile": "{certs}/server.key"}, "key values mismatch"),
        ({**KEYS, "ca_certs": "{certs}/missing.pem"}, "ca_certs: .*missing.pem: No such file"),
        ({**KEYS, "ca_certs": "{certs}/README.md"}, "ca_certs: .*README.md: "),
    ],
)
def test_files_that_are_no_use(given: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        context_of(Settings.of({name: value.format(certs=CERTS) for name, value in given.items()}))
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"ssl_minimum_version": "sslv3"}, "ssl_minimum_version: 'sslv3' is not known"),
        ({"keyfile": "k"}, "keyfile: 'k' has no use without certfile; give certfile as well"),
        ({"ca_certs": "c"}, "ca_certs: 'c' has no use without certfile; give certfile as well"),
        ({"certfile": "c", "bind": "seqpacket:@x"}, "certfile: TLS needs a stream, and 'seqpacket:@x' has packets"),
    ],
)
def test_settings_that_contradict(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**given)
    assert str(caught.value).startswith(problem)


def test_a_mistake_is_one_line_before_anything_listens(prefork_server: ServerFactory) -> None:
    with pytest.raises(NotServingError, match="exit code 2") as caught:
        serve(prefork_server, "echo", keyfile=CERTS / "locked.key", bind="unix:/nowhere/at/all")
    (line,) = [line for line in str(caught.value).splitlines() if "prefork: error" in line]
    assert "certfile: " in line
