"""Clients that are slow, gone, early or greedy: each costs a worker a bounded time, and none costs the others."""

from __future__ import annotations

import contextlib
import io
import math
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork.testing.client import connect
from prefork.testing.processes import frozen
from prefork.testing.server import Server
from prefork.testing.waiting import call_until
from prefork.wsgi.body import open_body, spool
from prefork.wsgi.channel import Channel, Pace
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.parser import CHUNKED as CHUNKED_BODY
from tests.support.wsgi.harness import (
    ROOT,
    WITHIN,
    Reply,
    Steadiness,
    ask,
    assert_clean,
    exchange,
    get,
    parse,
    post,
    read_all,
    release,
    serving,
)

CHUNKED = get("/", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n0\r\n\r\n"
TOO_SLOW = "refused .*: 408, the client was too slow"


@contextmanager
def trickling(client: socket.socket, data: bytes, interval: float, *, each: float = math.inf) -> Iterator[Steadiness]:
    """Send a byte each ``interval`` seconds, meanwhile; ``each`` is what one gives back."""
    stopped = threading.Event()
    steadiness = Steadiness(each=each)

    def send() -> None:
        for byte in data:
            over = stopped.wait(interval)
            try:
                if not over:
                    client.send(bytes([byte]))
            except OSError:
                over = True
            steadiness.moved()  # or would have, had it not been cut
            if over:
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield steadiness
    finally:
        stopped.set()
        thread.join()


def test_who_sends_nothing_gets_nothing() -> None:
    with serving("hello", options={"header_timeout": 0.3}) as server:
        with connect(server.address, timeout=WITHIN) as client:
            assert read_all(client) == b""
        assert sent_at_once(server, get()).body == b"hello"
        assert_clean(server)


def sent_at_once(server: Server, data: bytes) -> Reply:
    """The answer to what is there when its connection is accepted, however slowly it was sent."""
    with frozen([server.pid]):
        client = connect(server.address, timeout=WITHIN)
        client.sendall(data)
    with client:
        return parse(read_all(client))


def test_a_head_that_does_not_end() -> None:
    with serving("hello", options={"header_timeout": 0.3}) as server:
        assert sent_at_once(server, get()[:-2]).status == 408
        assert_clean(server)


def test_a_head_that_trickles() -> None:
    """The limit is for the whole head, however alive the client looks."""
    with serving("hello", options={"header_timeout": 1.0}) as server:
        request = get("/" + "a" * 4000)
        with frozen([server.pid]):
            client = connect(server.address, timeout=WITHIN)
            client.sendall(request[:1])
        with client, trickling(client, request[1:], 0.05):
            began = time.monotonic()
            assert parse(read_all(client)).status == 408
            # 200 s would be the whole head; the linger for what is still being sent is bounded too.
            assert time.monotonic() - began < 15
        assert_clean(server)


@pytest.mark.parametrize("spool", ["all", "none"])
def test_a_body_that_does_not_come(spool: str) -> None:
    with serving("echo", options={"spool": spool}, io_timeout=0.3) as server:
        assert ask(server, post(b"hello")[:-1]).status == 408
        assert_clean(server)


@pytest.mark.parametrize("spool", ["all", "none"])
def test_a_body_that_trickles(spool: str) -> None:
    with serving("echo", options={"spool": spool}, io_timeout=0.5) as server:
        with connect(server.address, timeout=WITHIN) as client:
            request = post(b"a" * 4000)
            client.sendall(request[:-4000])
            with trickling(client, request[-4000:], 0.05):
                assert parse(read_all(client)).status == 408
        assert_clean(server)


@pytest.mark.parametrize(("min_rate", "size", "interval"), [(20, 150, 0.008), (0, 12, 0.1)])
def test_a_body_that_is_merely_slow(min_rate: int, size: int, interval: float) -> None:
    """It takes several times io_timeout; the rate is what counts, and without one any progress."""
    each = 1 / min_rate if min_rate else math.inf
    with serving("echo", io_timeout=0.5, options={"min_rate": min_rate}) as server:
        request = post(b"a" * size)

        def send() -> tuple[Reply, Steadiness]:
            with connect(server.address, timeout=WITHIN) as client:
                client.sendall(request[:-size])
                with trickling(client, request[-size:], interval, each=each) as steadiness:
                    return parse(read_all(client)), steadiness

        reply, _ = call_until(send, lambda seen: seen[1].steady, timeout=120, message="a client that nothing holds up")
        assert reply.body == b"a" * size
        assert_clean(server)


RESPONSES = [
    "big_file",
    "many/chunked",
    pytest.param("many/length", marks=pytest.mark.long),
    pytest.param("many/write", marks=pytest.mark.long),
]


@contextmanager
def downloading(response: str, **given: object) -> Iterator[tuple[Server, socket.socket]]:
    """A client with a small buffer that has asked for a response without end, and read its first bytes."""
    app, _, target = response.partition("/")
    with serving(app, validate=False, **given) as server, socket.socket() as client:  # type: ignore[arg-type]  # given by name
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(WITHIN)
        host, _, port = server.address.rpartition(":")
        client.connect((host, int(port)))
        client.sendall(get(f"/{target}"))
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        yield server, client


@pytest.mark.parametrize("response", RESPONSES)
def test_who_does_not_read_is_cut(response: str) -> None:
    with downloading(response, io_timeout=0.5) as (server, _):
        server.wait_for_log(TOO_SLOW)
        assert_clean(server)


@pytest.mark.parametrize("response", RESPONSES)
def test_who_reads_a_trickle_is_cut(response: str) -> None:
    with downloading(response, io_timeout=0.5) as (server, client):

        def cut() -> bool:
            client.recv(1)
            return "408, the client was too slow" in server.log()

        server.wait_for(cut)
        assert_clean(server)


@pytest.mark.parametrize("response", RESPONSES)
def test_who_reads_slowly_but_steadily_is_not_cut(response: str) -> None:
    """Even when the kernel has no room to report for longer than io_timeout, since it holds megabytes already."""

    def read() -> tuple[str, Steadiness]:
        with downloading(response, io_timeout=0.5, options={"min_rate": 240}) as (server, client):
            steadiness = Steadiness()
            end = time.monotonic() + 1.8
            with contextlib.suppress(ConnectionError):  # it was cut, which the log says
                while time.monotonic() < end:
                    assert client.recv(4096)
                    steadiness.moved()
                    time.sleep(0.02)  # about 200 kB a second
            log = server.log()
            steadiness.moved()  # it has not stood still before that was read
            server.wait_for_log(TOO_SLOW)
            assert_clean(server)
            return log, steadiness

    log, _ = call_until(read, lambda seen: seen[1].steady, timeout=120, message="a client that nothing holds up")
    assert "too slow" not in log


@pytest.mark.parametrize("length", [CHUNKED_BODY, 100_000])
def test_a_client_that_never_has_to_be_waited_for_is_announced_all_the_same(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it sends, the time is not the application's; and who is fast enough never makes the worker wait."""
    monkeypatch.setattr("prefork.wsgi.channel._TELL", 0.0)
    said: list[float] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n" if length == CHUNKED_BODY else b"x" * length)
        channel = Channel(ours, Pace(io_timeout=WITHIN, waiting=said.append))
        body = open_body(channel, b"", length, WSGIOptions(), expected=False, stored=True)
        assert not isinstance(body, io.BytesIO)
        stored, size = spool(body, 0)
        stored.close()
    assert size == (20_000 if length == CHUNKED_BODY else length)
    assert len(said) >= 2, "once for each receive"
    assert set(said) == {0.0}, "and not one of them a wait"


@pytest.mark.parametrize("by", ["send", "sendfile"])
def test_what_is_taken_gives_patience_back(by: str) -> None:
    size = 4 << 20
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as file:
        file.truncate(size)
        channel = Channel(ours, Pace(io_timeout=WITHIN))

        def read() -> None:
            time.sleep(0.05)  # so that it is waited for
            left = size
            while left:
                left -= len(theirs.recv(1 << 16))

        reader = threading.Thread(target=read)
        reader.start()
        if by == "send":
            channel.send(b"x" * size)
        else:
            assert channel.sendfile(file.fileno(), 0, size) == size
        reader.join()
        assert channel._patience == WITHIN


def test_a_timeout_that_the_socket_had_before() -> None:
    """As a worker with io_timeout sets one: the service's own limits hold, and no other."""
    with serving("echo", io_timeout=WITHIN, timeout=0.05) as server:
        request = post(b"hello")
        with connect(server.address, timeout=WITHIN) as client:
            for piece in (request[:10], request[10:-3], request[-3:]):
                client.sendall(piece)
                time.sleep(0.2)  # well beyond that timeout
            assert parse(read_all(client)).body == b"hello"
        assert_clean(server)


def test_each_wait_is_announced() -> None:
    with serving("echo", waits=True, io_timeout=WITHIN, options={"header_timeout": 20}) as server:
        request = post(b"hello")
        with connect(server.address, timeout=WITHIN) as client:
            server.wait_for_log(r"^waiting (1[5-9]|20)\.", after=0)
            client.sendall(request[:-3])
            server.wait_for_log(r"^waiting (2[5-9]|30)\.")
            client.sendall(request[-3:])
            assert parse(read_all(client)).body == b"hello"
        said = [line.split()[1] for line in server.log().splitlines() if line.startswith("waiting")]
        assert said[1::2] == ["0.000"] * 2, "and that it is over"


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "unix:{}/socket"])
@pytest.mark.parametrize("check", [True, False])
def test_who_hung_up_while_waiting_is_skipped(tmp_path: Path, fifo: str, bind: str, check: bool) -> None:
    with serving("tell", bind=bind.format(tmp_path), options={"check_client_connection": check}) as server:
        with (
            connect(server.address, timeout=WITHIN) as first,
            connect(server.address, timeout=WITHIN) as gone,
            connect(server.address, timeout=WITHIN) as half,
            connect(server.address, timeout=WITHIN) as late,
        ):
            first.sendall(get(f"/first?{fifo}"))
            server.wait_for_log("application ran: /first")
            gone.sendall(get("/gone"))
            half.sendall(get("/half"))
            late.sendall(get("/late"))
            half.shutdown(socket.SHUT_WR)  # it has no more to say, and listens
            time.sleep(0.3)  # a client that loses patience does so some time after its request
            gone.close()
            late.shutdown(socket.SHUT_WR)  # the same FIN, and just as late
            release(fifo)
            for client in (first, half, late):
                assert parse(read_all(client)).body == b"told"
        assert ("application ran: /gone" in server.log()) == (not check)
        assert_clean(server)


def test_who_reset_the_connection_is_skipped(fifo: str) -> None:
    with serving("tell") as server:
        with connect(server.address, timeout=WITHIN) as first, connect(server.address, timeout=WITHIN) as gone:
            first.sendall(get(f"/first?{fifo}"))
            server.wait_for_log("application ran: /first")
            gone.sendall(get("/gone"))
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
            release(fifo)
            assert parse(read_all(first)).body == b"told"
        assert ask(server, get("/last")).body == b"told"
        assert "application ran: /gone" not in server.log()
        assert_clean(server)


_FAST_OPEN = """
import socket, sys
from pathlib import Path
from prefork.net import bpf
from prefork.wsgi.channel import Channel, Pace

TCP_SYN_RECV, SO_ATTACH_FILTER, ALL_WITHOUT_COOKIES = 3, 26, 0x607
Path("/proc/sys/net/ipv4/tcp_fastopen").write_text(str(ALL_WITHOUT_COOKIES))
with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
    client.setblocking(False)
    bpf.attach(client, SO_ATTACH_FILTER, ((bpf.RETURN, 0, 0, 0),))  # it hears nothing, so it acknowledges nothing
    client.sendto(b"request", socket.MSG_FASTOPEN, listener.getsockname())
    connection, _ = listener.accept()
    with connection:
        channel = Channel(connection, Pace())
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_SYN_RECV
        assert channel.receive(100) == b"request"
        print("gone" if channel.hung_up() else "there")
"""


def test_a_request_that_came_before_its_handshake_was_done() -> None:
    """With ``fast_open``: the last segment of the handshake may be as far away as its client."""
    network = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*network, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody here make networks (unshare(1), ip(8))")
    command = [*network, "sh", "-c", 'ip link set lo up && exec "$0" -c "$1"', sys.executable, _FAST_OPEN]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WITHIN, cwd=ROOT)
    assert (found.stdout, found.returncode) == ("there\n", 0), found.stderr


def test_a_second_request_on_the_connection_does_not_cost_the_first_answer(fifo: str) -> None:
    """It comes while the application runs, so that it lies unread when the connection is closed."""
    with serving("tell") as server:
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(get(f"/first?{fifo}"))
            server.wait_for_log("application ran: /first")
            client.sendall(get("/second"))
            release(fifo)
            assert parse(read_all(client)).body == b"told"
        assert "application ran: /second" not in server.log()
        assert_clean(server)


@pytest.mark.parametrize("framing", ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_an_empty_line_too_many_behind_a_body_does_not_cost_the_answer(fifo: str, framing: str) -> None:
    """RFC 9112, 2.2: old clients send one, also those that say at once that they will close."""
    with serving("tell") as server:
        with connect(server.address, timeout=WITHIN) as client:
            head = get(f"/posted?{fifo}", "Connection: close", method="POST").removesuffix(b"\r\n")
            client.sendall(head + framing.encode())
            server.wait_for_log("application ran: /posted")
            client.sendall(b"\r\n")
            release(fifo)
            assert parse(read_all(client)).body == b"told"
        assert_clean(server)


def still_heard(client: socket.socket) -> bool:
    """Whether the server takes what is sent behind its answer; when it has closed, that is answered by RST."""
    try:
        for _ in range(10):
            client.sendall(b"a")
            time.sleep(0.02)  # for the RST, which comes by itself
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize("request_", [get(), post(b"hello"), CHUNKED])
def test_who_has_begun_another_request_is_waited_for(request_: bytes) -> None:
    """The rest of that comes later: met by a close, it would cost the answer. Who has not is left at once."""
    with serving("echo", options={"spool": "none"}) as server:

        def ends(request: bytes, cut: int) -> tuple[bool, float]:
            """Whether the client is still heard after the answer, and how long all of that took."""
            with connect(server.address, timeout=WITHIN) as client:
                began = time.monotonic()
                client.sendall(request[:cut])
                time.sleep(0.02)  # so that the pieces are received apart; if not, the test merely proves less
                client.sendall(request[cut:])
                assert parse(read_all(client)).status == 200
                return still_heard(client), time.monotonic() - began

        for request, heard in ((request_ + b"GET", True), (request_, False)):
            for cut in (len(request), len(request_) - 2):
                # Nobody is waited for longer than two seconds.
                found, _ = call_until(lambda: ends(request, cut), lambda seen: seen[1] < 1.5)  # noqa: B023  # called at once
                assert found == heard
        assert_clean(server)


@pytest.mark.parametrize("path", ["/length", "/chunked"])
def test_a_slow_close_of_the_applications_does_not_hold_the_response_back(fifo: str, path: str) -> None:
    with serving("slow_to_close", validate=False) as server, connect(server.address, timeout=WITHIN) as client:
        client.sendall(get(f"{path}?{fifo}"))
        raw = b""
        while not raw.endswith((b"\r\n\r\nhello", b"\r\n0\r\n\r\n")):
            raw += client.recv(1 << 16)
        release(fifo)
        assert parse(raw + read_all(client)).body == b"hello"


@pytest.mark.parametrize("size", [100_000, 8_000_000])
def test_an_early_answer_reaches_who_is_still_sending(size: int) -> None:
    """Whether the body is refused or ignored: no reset, though the client sends all of it before it reads."""
    for app, options, status in (("echo", {"limit_request_body": 1000}, 413), ("ignore_body", {}, 200)):
        with serving(app, options=options) as server:
            for framing in (
                post(b"a" * size),
                get("/", "Transfer-Encoding: chunked", method="POST")
                + b"%x\r\n" % size
                + b"a" * size
                + b"\r\n0\r\n\r\n",
            ):
                if app == "ignore_body" and b"chunked" in framing:
                    continue  # that one is received whole
                assert parse(exchange(server.address, framing)).status == status
            assert_clean(server)


@pytest.mark.parametrize("interval", [0.001, 0])
def test_who_never_stops_sending_is_left(interval: float) -> None:
    """After two seconds, or 16 MiB."""
    with serving("echo", options={"limit_request_body": 1000}) as server:
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(post(b"a" * 2000)[:-1000])
            stopped = threading.Event()
            poured = 0

            def pour() -> None:
                nonlocal poured
                try:
                    while not stopped.is_set():
                        poured += client.send(b"a" * (1000 if interval else 1 << 20))
                        stopped.wait(interval)
                except OSError:
                    pass

            thread = threading.Thread(target=pour)
            thread.start()
            began = time.monotonic()
            try:
                assert ask(server, post(b"hello")).body == b"hello"
                assert time.monotonic() - began < 15
            finally:
                stopped.set()
                thread.join()
            assert poured < 48 << 20, "16 MiB, and what the kernel holds"
        assert_clean(server)


def test_resets_in_the_middle() -> None:
    with serving("echo", options={"spool": "none"}) as server:
        for request in (get()[:-5], post(b"hello")[:-2], post(b"a" * 100_000)[:-1]):
            with connect(server.address, timeout=WITHIN) as client:
                client.sendall(request)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert ask(server, post(b"hello")).body == b"hello"
        assert_clean(server)


def test_shed() -> None:
    with serving("hello", shed=True, options={"retry_after": 7}) as server:
        for _ in range(5):
            reply = ask(server, get())
            assert (reply.status, reply["retry-after"]) == (503, "7")
        with connect(server.address, timeout=WITHIN) as client:
            assert parse(read_all(client)).status == 503
        assert_clean(server)


def test_how_long_somebody_takes_nothing_counts_from_when_he_took_the_last() -> None:
    """Not from when the kernel had room again, which may be a whole io_timeout later."""

    class TwiceError(Exception):
        pass

    ours, theirs = socket.socketpair()
    began: list[float] = []

    def waiting(seconds: float) -> None:
        if seconds:
            began.append(time.monotonic())
            if len(began) > 1:
                raise TwiceError

    def take() -> None:
        time.sleep(0.1)  # so that it is waited for
        theirs.recv(1 << 17)

    with ours, theirs:
        channel = Channel(ours, Pace(io_timeout=WITHIN, seconds_per_byte=1.0, waiting=waiting))
        taker = threading.Thread(target=take)
        taker.start()
        with pytest.raises(TwiceError):
            channel.send(b"x" * (4 << 20))
        taker.join()
    assert began[1] - began[0] < WITHIN / 2
