"""``prefork wsgi --keepalive``: what is kept, what is closed, and that connections outlive workers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from prefork.services.control.client import Client as ControlClient
from prefork.status.model import KEPT
from prefork.testing.client import burst, connect
from prefork.testing.server import Server, running
from prefork.testing.waiting import call_until
from tests.support.kept import Client, Crowd, readable
from tests.support.proxy_headers import v1
from tests.support.tls_clients import KEYS, client_context, secured
from tests.support.wsgi.harness import ROOT, WITHIN, exchange, get, parse, post, read_all

TLS = [f"--{name}={value}" for name, value in KEYS.items()]
FIVE_IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n5\r\naaaaa\r\n0\r\n\r\n"


@contextmanager
def keeping(target: str, *flags: str, workers: int = 2) -> Iterator[Server]:
    command = [sys.executable, "-m", "prefork", "wsgi", target, "--bind", "127.0.0.1:0", "--workers", str(workers)]
    with running([*command, "--keepalive", "75", *flags], cwd=ROOT, within=WITHIN) as server:
        yield server


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    with keeping("tests.support.wsgi.apps:echo") as server:
        yield server


@pytest.fixture
def client(echo: Server) -> Iterator[Client]:
    one = Client(echo.address)
    yield one
    one.close()


def test_a_connection_is_kept_and_says_so(client: Client) -> None:
    for number in range(3):
        assert client.ask(post(b"hello %d" % number)) == b"hello %d" % number
        assert (client.fields["connection"], client.fields["keep-alive"]) == ("keep-alive", "timeout=70")


@pytest.mark.parametrize(
    ("request_", "kept"),
    [
        (get("/", "Connection: close"), False),
        (get("/", "Connection: Keep-Alive, CLOSE"), False),
        (get("/", "Connection: TE"), True),
        (get("/", version="1.0"), False),
        (get("/", "Connection: keep-alive", version="1.0"), True),
        (get("/", "Connection: keep-alive, close", version="1.0"), False),
    ],
)
def test_the_client_has_the_last_word(client: Client, request_: bytes, kept: bool) -> None:
    assert client.ask(request_) == b""
    assert client.closes is not kept
    if kept:
        assert client.ask(post(b"again")) == b"again"
    else:
        assert client.over()


@pytest.mark.parametrize(
    "defect", [b"nonsense\r\n\r\n", get("/", "Host: a", "Transfer-Encoding: x"), get("/", "X: \x01")]
)
def test_an_answer_of_the_servers_own_is_the_last(client: Client, defect: bytes) -> None:
    assert client.ask(post(b"good")) == b"good"
    client.send(defect + get("/smuggled"))
    assert client.answer() is not None
    assert client.status in {400, 501}
    assert client.closes
    assert client.over()


def test_what_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with keeping("tests.support.wsgi.apps:echo", "--control", str(path), workers=1) as server:
        stays, goes = Client(server.address), Client(server.address)
        for client in (stays, stays, goes, goes, goes):
            assert client.ask(get()) == b""
        goes.close()
        with ControlClient(path) as asked:

            def counted() -> tuple[list[int], int, dict[str, int]]:
                status = asked.status()
                return [working.parked for working in status.workers], status.totals.served, status.totals.kept

            kept = dict.fromkeys(KEPT, 0) | {"reused": 3, "left": 1}
            call_until(counted, lambda now: now == ([1], 5, kept), message="all to be counted")
            reload(server)  # which is over when the queue has it, and the new worker is still to take it
            kept["handed_over"] = 1
            call_until(counted, lambda now: now == ([1], 5, kept), message="it to be handed over")
        stays.close()


@pytest.mark.parametrize(("said", "kept"), [("keep-alive", True), ("Close", False), ("upgrade,close", False)])
def test_what_the_application_says_of_the_connection_is_left_out_but_for_close(said: str, kept: bool) -> None:
    with keeping("tests.support.wsgi.apps:hop_by_hop", workers=1) as server, closing(Client(server.address)) as client:
        for _ in range(2 if kept else 1):
            assert client.ask(get(f"/?{said}")) == b"data"
            assert client.fields["connection"] == ("keep-alive" if kept else "close")
            assert client.fields.get("keep-alive") == ("timeout=70" if kept else None)
            assert client.fields.keys().isdisjoint({"transfer-encoding", "trailer"})
            assert client.fields["x-accel-buffering"] == "no"
        names = re.findall(r"WARNING .*the application answers with (\S+), which is left out", server.log())
        assert names == ["connection", "keep-alive", "transfer-encoding", "trailer"]


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    bodies = [b"%d" % number * number for number in range(1, 40)]
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\nTrailer: x\r\n\r\n"
    client.send(b"".join(post(body) for body in bodies[:20]) + chunked + b"".join(map(post, bodies[20:])))
    assert [client.answer() for _ in bodies[:20]] == bodies[:20]
    assert client.answer() == b"four"
    assert [client.answer() for _ in bodies[20:]] == bodies[20:]


def test_a_body_that_ends_with_an_empty_line_too_many_keeps_nobody_waiting() -> None:
    """Whatever comes along with the body or later is no request, and no worker waits for the rest of one."""
    with keeping("tests.support.wsgi.apps:echo", "--header-timeout", "300", workers=1) as server:
        clients = [Client(server.address) for _ in range(4)]
        for number, body in enumerate((post(b"a" * 5), b"POST / HTTP/1.1\r\nHost: a\r\n" + FIVE_IN_CHUNKS)):
            together, apart = clients[number * 2 : number * 2 + 2]
            assert together.ask(body + b"\r\n\r\n") == b"a" * 5
            assert apart.ask(body) == b"a" * 5
            apart.send(b"\r\n")
        for client in clients:
            assert client.ask(b"\r\n" + post(b"again")) == b"again"
            client.send(b"\r\n")
            client.socket.shutdown(socket.SHUT_WR)
            assert client.over()
            client.close()


def test_a_request_in_pieces_behind_another(client: Client) -> None:
    whole = post(b"a" * 5000) + post(b"b" * 70_000) + post(b"c")
    for at in range(0, len(whole), 1777):
        client.send(whole[at : at + 1777])
    assert [client.answer() for _ in range(3)] == [b"a" * 5000, b"b" * 70_000, b"c"]


def test_a_body_that_the_application_leaves_unread() -> None:
    with keeping("tests.support.wsgi.apps:ignore_body", "--spool", "none", workers=1) as server:
        client = Client(server.address)
        # Little, and in one segment: all of it is there, and the next request is found behind it.
        client.send(post(b"x" * 30_000) + get())
        assert (client.answer(), client.closes) == (b"ignored", False)
        assert (client.answer(), client.closes) == (b"ignored", False)
        client.send(post(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000))  # much
        assert (client.answer(), client.closes) == (b"ignored", True)
        assert client.over()
        client.close()
        for lines in (["Expect: 100-continue", "Content-Length: 5"], ["Transfer-Encoding: chunked"]):
            client = Client(server.address)
            client.send(get("/", *lines, method="POST"))  # what follows may be the body, or not
            assert (client.answer(), client.closes) == (b"ignored", True)
            assert client.over()
            client.close()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_nobody_waits_for_a_body_that_is_left_unread(secure: bool, threads: int) -> None:
    """What of it is still to come may never come, and the next request can't be found before it: that is said."""
    flags = [f"--threads={threads}"] + [f"--{name}={value}" for name, value in KEYS.items()] * secure
    with keeping("tests.support.wsgi.apps:ignore_body", *flags, workers=1) as server, ExitStack() as stack:
        for sent in (0, 1, 59_999):
            client = Client(secured(server) if secure else server.address)
            stack.callback(client.close)
            client.send(post(b"x" * 60_000)[: sent - 60_000])
            assert (client.answer(), client.closes) == (b"ignored", True)
            assert client.over()


def test_an_application_may_read_on_while_it_answers() -> None:
    """What has come of a body, and was looked at when the answer began, is still there for it."""
    with keeping("tests.support.wsgi.apps:begin_then_read", workers=1) as server:
        for size in (20_000, 30_000, 60_000, 300_000):
            body = os.urandom(size)
            assert parse(exchange(server.address, post(body, "Connection: close"))).body == b"begun," + body
            client = connect(server.address, timeout=WITHIN)
            client.sendall(post(body)[:-100])
            raw = b""
            while not raw.endswith(b"begun,\r\n"):
                raw += client.recv(1 << 16)
            client.sendall(body[-100:])
            assert parse(raw + read_all(client)).body == b"begun," + body
            client.close()


def test_a_connection_brings_so_many_requests() -> None:
    with keeping("tests.support.wsgi.apps:echo", "--keepalive-requests", "3", workers=1) as server:
        client = Client(server.address)
        assert [(client.ask(get()), client.closes) for _ in range(3)] == [(b"", False), (b"", False), (b"", True)]
        assert client.over()
        client.close()


def test_the_oldest_make_room() -> None:
    with keeping("tests.support.wsgi.apps:echo", "--max-parked", "3", workers=1) as server:
        clients = [Client(server.address) for _ in range(5)]
        assert [client.ask(get()) for client in clients] == [b""] * 5
        assert clients[0].over()
        assert clients[1].over()
        assert clients[2].ask(get()) == b""  # now the youngest
        clients.append(Client(server.address))
        assert clients[5].ask(get()) == b""
        assert clients[3].over()
        for client in clients:
            client.close()


def test_who_is_silent_for_too_long_is_closed() -> None:
    with keeping("tests.support.wsgi.apps:echo", "--keepalive", "0.5", workers=1) as server:
        clients = [Client(server.address) for _ in range(2)]
        assert [client.ask(get()) for client in clients] == [b""] * 2
        for client in clients:
            assert client.over()
            client.close()


def reload(server: Server) -> None:
    """Have all workers replaced, and wait until the old ones are gone."""
    before = set(server.workers())
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: not before & set(server.workers()), message="the old workers are still there")


def test_workers_come_and_go_and_connections_stay(echo: Server) -> None:
    crowd = Crowd(echo.address, clients=12, think=0.01)
    for _ in range(2):
        reload(echo)
    echo.signal(signal.SIGTTOU)
    echo.wait_for(lambda: len(echo.workers()) == 1)
    echo.signal(signal.SIGTTIN)
    echo.wait_for(lambda: len(echo.workers()) == 2)
    echo.wait_for(lambda: crowd.counts["answered"] > 100)
    crowd.stop()
    assert crowd.counts["connections"] == 12
    assert (crowd.counts["lost"], crowd.counts["closed"], crowd.losses) == (0, 0, [])


def test_a_stop_answers_whoever_speaks_in_time_and_loses_nobody() -> None:
    with keeping("tests.support.wsgi.apps:echo", "--keepalive-min-timeout=3") as server:  # on a busy machine, too
        silent = Client(server.address)
        assert silent.ask(get()) == b""
        crowd = Crowd(server.address, clients=8, think=0.04, reconnects=False)
        server.wait_for(lambda: crowd.counts["connections"] == 8 and crowd.counts["answered"] > 100)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        crowd.stop()
        assert (crowd.counts["lost"], crowd.counts["closed"], crowd.losses) == (0, 8, [])
        assert silent.over()
        silent.close()


@pytest.mark.long
def test_a_successor_has_the_connections_of_its_predecessor(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with keeping("tests.support.wsgi.apps:echo", "--reuse-port", "--pidfile", str(pidfile)) as first:
        crowd = Crowd(first.address, clients=10, think=0.02)
        silent = Client(first.address)
        assert silent.ask(get()) == b""
        flags = ("--bind", first.address, "--reuse-port", "--takeover", str(pidfile))
        with keeping("tests.support.wsgi.apps:echo", *flags) as second:
            assert first.wait() == 0
            answered = crowd.counts["answered"]
            second.wait_for(lambda: crowd.counts["answered"] > answered + 100)
            assert silent.ask(post(b"still there")) == b"still there"
            crowd.stop()
            assert crowd.counts["connections"] == 10
            assert (crowd.counts["lost"], crowd.counts["closed"], crowd.losses) == (0, 0, [])
        silent.close()


@pytest.mark.long
def test_an_upgrade_keeps_the_connections() -> None:
    with keeping("tests.support.wsgi.apps:echo", "--preload") as server:
        crowd = Crowd(server.address, clients=10, think=0.02)
        server.wait_for(lambda: crowd.counts["answered"] > 50)
        reload(server)
        answered = crowd.counts["answered"]
        server.wait_for(lambda: crowd.counts["answered"] > answered + 100)
        crowd.stop()
        assert (crowd.counts["connections"], crowd.counts["lost"], crowd.losses) == (10, 0, [])


def test_who_speaks_beside_a_slow_request_does_not_wait_for_it() -> None:
    with keeping("tests.support.wsgi.apps:nap") as server:
        quick = [Client(server.address) for _ in range(8)]
        assert [client.ask(get("/0")) for client in quick] == [b"awake"] * 8
        slow = Client(server.address)
        slow.send(get("/20"))  # longer than all the rest, on any machine
        for _ in range(5):
            assert [client.ask(get("/0")) for client in quick] == [b"awake"] * 8
        assert not readable(slow, 0.01)
        for client in (slow, *quick):
            client.close()
        server.signal(signal.SIGINT)


def test_kept_under_tls_until_the_worker_goes() -> None:
    flags = [f"--{name}={value}" for name, value in KEYS.items()]
    with keeping("tests.support.wsgi.apps:echo", *flags, workers=1) as server:
        client = Client(secured(server))
        for number in range(3):
            assert client.ask(post(b"%d" % number)) == b"%d" % number
        client.send(post(b"a") + post(b"b"))
        assert (client.answer(), client.answer()) == (b"a", b"b")
        server.signal(signal.SIGHUP)
        assert client.over()
        client.close()


def test_a_worker_that_has_come_later_waits_for_its_kept_connections_too() -> None:
    """In a group each has a listener of its own. One that blocks would have its worker stand still in accept(2)."""
    with keeping("tests.support.wsgi.apps:echo", "--reuse-port", workers=1) as server:
        (first,) = server.workers()
        server.signal(signal.SIGTTIN)
        server.wait_for(lambda: len(server.workers()) == 2)
        with ExitStack() as stack:
            clients = [Client(server.address) for _ in range(30)]
            for client in clients:
                stack.callback(client.close)
            for said in (b"one", b"two", b"three"):
                burst(server.address, 60).wait()  # who accepts several in a row has not looked in between
                assert [client.ask(post(said)) for client in clients] == [said] * 30
            server.signal(signal.SIGTTOU)
            server.wait_for(lambda: server.workers() == [first])
            assert [client.ask(post(b"four")) for client in clients] == [b"four"] * 30


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("flags", "begin"),
    [
        (["--bind=unix:{folder}/s"], lambda server: connect(server.address)),
        (["--defer-accept=0"], lambda server: connect(server.address)),
        ([f"--{name}={value}" for name, value in KEYS.items()], secured),
        (["--proxy-protocol=v1"], lambda server: introduced(server, v1())),
    ],
    ids=["unix", "not deferred", "tls", "proxy"],
)
def test_who_connects_and_says_nothing_holds_nobody_up(
    flags: list[str], begin: Callable[[Server], socket.socket], threads: int, tmp_path: Path
) -> None:
    """Were a lane to wait for him, his time (``header_timeout``) would be over before another is served."""
    control = f"{tmp_path}/control"
    given = [flag.format(folder=tmp_path) for flag in flags]
    given += [] if any(flag.startswith("--bind") for flag in given) else ["--bind=127.0.0.1:0"]
    what = ["tests.support.wsgi.apps:echo", "--workers=1", f"--threads={threads}", f"--control={control}"]
    with running([sys.executable, "-m", "prefork", "wsgi", *what, *given], cwd=ROOT, within=WITHIN) as server:
        silent = [Client(begin(server)) for _ in range(threads)]
        other = Client(begin(server))
        assert other.ask(post(b"other", "Connection: close")) == b"other"
        for client in silent:
            for said in (b"at last", b"and again"):
                assert client.ask(post(said)) == said
        with ControlClient(control) as operator:
            call_until(  # a client has its answer before it is counted
                operator.status,
                lambda status: (
                    (status.workers[0].served, status.totals.kept["reused"], status.workers[0].parked)
                    == (2 * threads + 1, threads, threads)
                ),
                message="each request to be counted, and nothing else",
            )
        for client in (other, *silent):
            client.close()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("flags", "said", "speaks"),
    [
        (["--bind=unix:{folder}/s", *TLS], b"", b""),
        (["--defer-accept=0", *TLS], b"", b""),
        (["--proxy-protocol=v1", *TLS], v1(), b""),
        (["--proxy-protocol=any", "--defer-accept=0", *TLS], b"", v1()),
        (["--proxy-protocol=v1", "--defer-accept=0"], b"", v1()),
        (["--proxy-protocol=v1", "--bind=unix:{folder}/s"], b"", v1()),
    ],
    ids=["tls on unix", "tls", "tls behind a header", "tls and a header", "header", "header on unix"],
)
def test_who_says_nothing_before_the_first_request_can_come_holds_nobody_up(
    flags: list[str], said: bytes, speaks: bytes, threads: int, tmp_path: Path
) -> None:
    """Neither before a header of the PROXY protocol nor between that and a handshake."""
    given = [flag.format(folder=tmp_path) for flag in flags]
    given += [] if any(flag.startswith("--bind") for flag in given) else ["--bind=127.0.0.1:0"]
    what = ["tests.support.wsgi.apps:show", "--workers=1", f"--threads={threads}", f"--control={tmp_path}/control"]

    def introduce(connection: socket.socket) -> Client:
        connection.sendall(speaks)
        if TLS[0] not in given:
            return Client(connection)
        return Client(client_context().wrap_socket(connection, server_hostname="localhost"))

    with (
        running([sys.executable, "-m", "prefork", "wsgi", *what, *given], cwd=ROOT, within=WITHIN) as server,
        ExitStack() as stack,
    ):
        gone = connect(server.address, timeout=WITHIN)  # its number is another's afterwards, and its header is not
        gone.sendall(said)
        parted = introduce(gone)
        assert parted.ask(get("/", "Connection: close"))
        assert parted.over()
        parted.close()
        connections = [connect(server.address, timeout=WITHIN) for _ in range(threads + 1)]
        for connection in connections:
            connection.sendall(said)
        for connection in reversed(connections):
            client = introduce(connection)
            stack.callback(client.close)
            for number in range(3):
                shown = json.loads(client.ask(get(f"/{number}")) or "null")
                assert shown["PATH_INFO"] == f"/{number}"
                assert (shown["REMOTE_ADDR"] == "192.0.2.1") == bool(said or speaks)
        with ControlClient(f"{tmp_path}/control") as operator:
            call_until(
                operator.status,
                lambda status: status.workers[0].served == 3 * (threads + 1) + 1,
                message="each request to be counted, and nothing else",
            )


def introduced(server: Server, header: bytes) -> socket.socket:
    """A client of whom a proxy has said who he is."""
    client = connect(server.address)
    client.sendall(header)
    return client


def test_a_process_that_the_application_forks_holds_no_connection() -> None:
    with keeping("tests.support.wsgi.apps:forking", workers=1) as server:
        one, other = Client(server.address), Client(server.address)
        for _ in range(3):
            assert one.ask(get("/")) == b"forked"
            assert other.ask(get("/", "Connection: close")) == b"forked"
            assert other.over()
            other.close()
            other = Client(server.address)
        for client in (one, other):
            client.close()
