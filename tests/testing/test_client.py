from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.testing import (
    ClientError,
    ClientPhase,
    Load,
    NotInTimeError,
    Outcome,
    Server,
    burst,
    call_until,
    connect,
    hold_port,
    request,
    running_script,
)
from tests.support.testing_servers import BY_PATH, FORKING, GOOD, PREAMBLE

pytestmark = pytest.mark.executed

BAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-6\r\nhello\r\n"
"""A chunk that would end where it begins."""


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.fixture(scope="module")
def by_path() -> Iterator[Server]:
    with running_script(BY_PATH) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "outcome", "status", "body"),
    [
        ("/empty", Outcome.EMPTY, 0, b""),
        ("/reset", Outcome.RESET, 0, b""),
        ("/half-reset", Outcome.RESET, 200, b"half"),
        ("/truncated", Outcome.TRUNCATED, 200, b"half"),
        ("/unframed", Outcome.ANSWERED, 200, b"until the close"),
        ("/chunked", Outcome.ANSWERED, 200, b"hello world"),
        ("/cut-chunked", Outcome.TRUNCATED, 200, b"hello wor"),
        ("/bad-chunked", Outcome.FAILED, 0, BAD),
        ("/interim", Outcome.ANSWERED, 204, b""),
        ("/503", Outcome.FAILED, 503, b""),
        ("/nonsense", Outcome.FAILED, 0, b"SSH-2.0-OpenSSH_9.2\r\n"),
    ],
)
def test_each_way_to_end_is_told_from_the_others(
    by_path: Server, path: str, outcome: Outcome, status: int, body: bytes
) -> None:
    answer = request(by_path.address, get(path))
    assert (answer.outcome, answer.status, answer.body) == (outcome, status, body)
    assert answer.phase is ClientPhase.RECEIVING


def test_a_server_that_says_nothing_is_timed_out(by_path: Server) -> None:
    answer = request(by_path.address, get("/hang"), timeout=0.05)
    assert answer.outcome is Outcome.TIMED_OUT
    assert answer.seconds >= 0.05


def test_nobody_listening_is_refused() -> None:
    with hold_port() as address:
        answer = request(address)
    assert (answer.outcome, answer.errno, answer.phase) == (Outcome.REFUSED, errno.ECONNREFUSED, ClientPhase.CONNECTING)
    assert str(answer).endswith("while connecting, Connection refused")


def test_a_path_without_a_socket_is_refused(tmp_path: Path) -> None:
    assert request(f"unix:{tmp_path}/none").outcome is Outcome.REFUSED


def test_trouble_of_the_clients_own_is_no_outcome(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        with pytest.raises(ClientError, match="wrong type"):
            request(f"unix:{tmp_path}/s")  # a stream socket can't connect to it
        with pytest.raises(ClientError, match="wrong type"), Load(f"unix:{tmp_path}/s", clients=2, count=2) as load:
            load.wait()


def test_what_one_cannot_connect_to_is_an_error() -> None:
    for address in ("fd://3", "systemd:", "nonsense::"):
        with pytest.raises(ValueError, match=re.escape(address)):
            request(address)


@pytest.mark.parametrize(
    "form", ["127.0.0.1:0", "[::1]:0", "unix:{tmp}/s", "unix:@prefork-testing-{pid}", "seqpacket:{tmp}/s"]
)
def test_every_kind_of_address_is_reached(form: str, tmp_path: Path) -> None:
    with running_script(GOOD, form.format(tmp=tmp_path, pid=tmp_path.stat().st_ino)) as server:
        answer = request(server.address)
        assert (answer.outcome, answer.body) == (Outcome.ANSWERED, str(server.pid).encode())
        with connect(server.address) as by_hand:
            by_hand.send(b"x")
            assert by_hand.recv(100).startswith(b"HTTP/1.1 200")


ECHO = (
    PREAMBLE
    + """
ready(address)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
"""
)


def test_any_protocol_can_be_spoken_and_judged() -> None:
    with running_script(ECHO) as server:
        assert request(server.address, b"ping\n", expect=b"ping\n").outcome is Outcome.ANSWERED
        assert request(server.address, b"ping\n", expect=b"pong\n").outcome is Outcome.FAILED
        assert request(server.address, b"ping\n", expect=lambda data: data.endswith(b"\n")).body == b"ping\n"
        late = call_until(
            lambda: request(server.address, b"ping\n", expect=b"ping\nping\n", timeout=0.05), lambda answer: answer.data
        )
        assert (late.outcome, late.data) == (Outcome.TIMED_OUT, b"ping\n")
        big = bytes(range(256)) * 20_000  # more than the buffers of both sides hold
        assert request(server.address, big, expect=big).outcome is Outcome.ANSWERED


def test_a_closed_loop_counts_every_answer_and_whose_it_was() -> None:
    with running_script(FORKING) as server:
        with Load(server.address, clients=4, count=300) as load:
            tally = load.wait()
        assert (tally.total, tally.answered, tally.lost) == (300, 300, 0)
        assert len(tally.latencies) == 300
        assert 0 < tally.percentile(0.5) <= tally.percentile(1)
        assert {int(pid) for pid in tally.bodies} <= set(server.workers())
        assert tally.bodies.total() == 300
        assert str(tally) == "300 answered"
        with Load(server.address, clients=4) as load:
            load.wait_for(lambda tally: {int(pid) for pid in tally.bodies} == set(server.workers()))


def test_a_load_goes_on_until_stopped_and_finishes_what_is_under_way() -> None:
    with running_script(GOOD) as server:
        with Load(server.address, clients=3) as load:
            load.wait_for(lambda tally: tally.answered >= 50)
        assert load.tally.answered >= 50
        assert load.tally.lost == 0, load.tally
        assert load.stop() is load.tally  # idempotent


def test_an_open_loop_keeps_to_its_moments_while_the_server_stalls() -> None:
    stalled = (
        PREAMBLE
        + """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ready(address)
signal.sigwait([signal.SIGUSR1])
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        answer(connection, b"")
"""
    )
    with running_script(stalled) as server, Load(server.address, interval=0.002, count=100) as load:
        server.wait_for(lambda: load.sent == 100)  # though none of them has an answer yet
        assert load.tally.total == 0
        server.signal(signal.SIGUSR1)
        assert load.wait().answered == 100


def test_arrivals_of_an_open_loop_are_as_far_apart_as_asked() -> None:
    with running_script(GOOD) as server:
        began = time.monotonic()
        with Load(server.address, interval=0.01, count=30) as load:
            load.wait()
        took = time.monotonic() - began
    assert load.tally.answered == 30
    assert took >= 29 * 0.01  # never early; how much later is the machine's affair


def test_several_addresses_are_taken_in_turn() -> None:
    with running_script(GOOD) as one, running_script(GOOD) as other:
        tally = burst([one.address, other.address], 20).wait()
        assert tally.bodies == {str(one.pid).encode(): 10, str(other.pid).encode(): 10}


def test_a_burst_is_all_there_before_anybody_is_answered() -> None:
    held = (
        PREAMBLE
        + """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ready(address)
signal.sigwait([signal.SIGUSR1])
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        answer(connection, b"")
"""
    )
    with running_script(held) as server:
        waiting = burst(server.address, 150)
        assert waiting.tally.total == 0
        server.signal(signal.SIGUSR1)
        assert waiting.wait().answered == 150


def test_a_server_that_dies_loses_its_clients_and_the_tally_says_how() -> None:
    with running_script(BY_PATH) as server:
        with burst(server.address, 5, payload=get("/hang")) as waiting:
            server.signal(signal.SIGKILL)
            tally = waiting.wait()
        assert tally.lost == 5
        assert tally[Outcome.RESET] + tally[Outcome.EMPTY] == 5
        assert len(tally.losses) == 5
        assert server.wait() == -signal.SIGKILL  # the kernel takes the connections from it, and then the listener
        with Load(server.address, clients=1) as load:
            load.wait_for(lambda tally: tally[Outcome.REFUSED] >= 3)
        assert str(load.tally).startswith(f"{load.tally.total} refused\n")


def test_a_load_that_is_not_done_in_time_says_so_and_is_gone(by_path: Server) -> None:
    with pytest.raises(NotInTimeError, match="no requests"):
        burst(by_path.address, 2, payload=get("/hang")).wait(timeout=0.05)


def test_an_error_in_the_block_is_not_held_up_by_requests_under_way(by_path: Server) -> None:
    with pytest.raises(ZeroDivisionError), burst(by_path.address, 2, payload=get("/hang")):
        raise ZeroDivisionError


def test_a_full_accept_queue_of_a_unix_socket_is_waited_for(tmp_path: Path) -> None:
    slow = (
        PREAMBLE.replace("backlog=512", "backlog=2")
        + """
ready(address)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        answer(connection, b"")
"""
    )
    with running_script(slow, f"unix:{tmp_path}/s") as server:
        assert burst(server.address, 50).wait().answered == 50


def test_a_load_asks_for_one_kind_of_loop() -> None:
    for kinds in ({}, {"clients": 1, "interval": 0.1}):
        with pytest.raises(ValueError, match="closed loop"):
            Load("127.0.0.1:1", **kinds)  # type: ignore[arg-type]  # what the test is about


def test_a_load_that_could_not_end_or_begin_is_refused() -> None:
    for wrong in ({"clients": 1, "count": -1}, {"clients": -1, "interval": 0.1}, {"clients": 1, "interval": -0.1}):
        with pytest.raises(ValueError, match=r"closed loop|0 or more"):
            Load("127.0.0.1:1", **wrong)
    with pytest.raises(ValueError, match="an address"):
        Load([], clients=1)


def test_a_burst_that_fails_leaves_no_descriptor(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{tmp_path}/s")
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ClientError):
            burst(f"unix:{tmp_path}/s", 2)
        assert os.listdir("/proc/self/fd") == before


def test_a_load_without_end_cannot_be_waited_for() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        Load("127.0.0.1:1", clients=1).wait()
    with running_script(GOOD) as server, Load(server.address, clients=1) as load:
        with pytest.raises(RuntimeError, match="stop"):
            load.wait()
        with pytest.raises(RuntimeError, match="once"):
            load.start()
