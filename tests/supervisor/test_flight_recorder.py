"""The log names what a worker had in hand when it was killed, whatever killed it."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from prefork.services.control import Client
from prefork.status.text import requests
from prefork.testing import Server, call_until, connect, request, running_target
from tests.support.figures import count
from tests.support.probing import APPS, PATIENCE, get, line, steady

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    control = tmp_path_factory.mktemp("control") / "socket"
    with running_target(
        "recorded:application",
        app_dir=APPS,
        subcommand="wsgi",
        workers=2,
        control=control,
        crash_limit=100_000,
        log_format="text",
    ) as server:
        server.control = str(control)  # type: ignore[attr-defined]  # beside its own, for the tests here
        yield server


def in_hand(server: Server, target: str) -> tuple[socket.socket, int]:
    """A connection whose request is in the application, and the pid of the worker that has it."""
    client = connect(server.address, timeout=PATIENCE)
    client.sendall(b"GET %b HTTP/1.0\r\nHost: shop\r\n\r\n" % target.encode())
    while line(client):
        pass  # the head
    return client, int(line(client))


def death(server: Server, pid: int, after: int) -> str:
    """What the log says of a worker's end."""
    return server.wait_for_log(rf"worker \d \(pid {pid}, .*", after=after).group()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        pytest.param("segfault", "killed by SIGSEGV", id="segfault"),
        pytest.param("exit", "exited with code 7", id="exit"),
        pytest.param("hold", "killed by SIGKILL", id="killed"),
    ],
)
def test_a_death_names_the_request(server: Server, how: str, said: str) -> None:
    steady(server, 2)
    after = len(server.log())
    client, pid = in_hand(server, f"/orders/7/{how}?card=4111")
    with client:
        if how == "hold":
            os.kill(pid, signal.SIGKILL)
        told = death(server, pid, after)
    assert said in told
    assert re.search(rf"; in hand: GET /orders/7/{how} from {HOST} for [\d.e-]+ s$", told), told
    assert "4111" not in server.log()


def test_a_hang_and_its_end_name_the_request() -> None:
    with running_target(
        "recorded:application", app_dir=APPS, subcommand="wsgi", workers=1, timeout=0.5, control="off"
    ) as server:
        client, pid = in_hand(server, "/hang")
        with client:
            told = server.wait_for_log(rf"worker 0 \(pid {pid}, .*").group()
        assert re.search(rf"killed by SIG\w+.*; in hand: GET /hang from {HOST} for [\d.]+ s$", told), told
        found = re.search(r"has been busy with one connection for [\d.]+ s: (.*)", server.log())
        assert found is not None
        assert re.fullmatch(rf"GET /hang from {HOST} for [\d.]+ s", found[1])


def test_what_runs_now_is_shown(server: Server) -> None:
    steady(server, 2)
    with Client(server.control) as control:  # type: ignore[attr-defined]  # of the fixture above
        call_until(
            lambda: control.status(processes=False).workers,
            lambda workers: not any(worker.requests for worker in workers),
            message="nothing to be in hand",
        )
        client, pid = in_hand(server, "/report?year=2026")
        with client:
            status = control.status(processes=False)
            os.kill(pid, signal.SIGKILL)
            death(server, pid, 0)  # else the next test may take it for a worker that lives
    (working,) = (worker for worker in status.workers if worker.requests)
    (request,) = working.requests
    assert (working.pid, request.label, request.peer) == (pid, "GET /report", HOST)
    assert 0 <= request.seconds <= working.seconds + 1.0
    assert f"{HOST} GET /report\n" in requests(status)


def test_a_worker_that_leaves_in_order_has_nothing_to_tell(server: Server) -> None:
    steady(server, 2)
    after = len(server.log())
    with Client(server.control) as control:  # type: ignore[attr-defined]  # as above
        control.recycle(0)
    found = server.wait_for_log(r"worker 0 \(pid \d+, generation 0\) exited.*", after=after)
    assert "in hand" not in found.group()


def left(control: Client, pid: int) -> str:
    """What the status says that a worker had in hand when it ended; it has the words of the log."""

    def deaths() -> dict[int, str]:
        return {ended.pid: ended.in_hand for ended in control.status(processes=False).deaths}

    return call_until(deaths, lambda found: pid in found, timeout=PATIENCE)[pid]


def test_every_kill_names_its_request(server: Server) -> None:
    for number in range(count("kills-in-hand", part=100)):
        workers = set(steady(server, 2))
        served: set[int] = set()
        while not workers <= served:  # who dies with nothing served holds its slot back
            served.add(int(request(server.address, get("/pid"), timeout=PATIENCE).body))
        client, pid = in_hand(server, f"/{number}/hold")
        with client, Client(server.control) as control:  # type: ignore[attr-defined]  # as above
            os.kill(pid, signal.SIGKILL)
            # Not the log, which leaves lines out where too many die in a second.
            assert left(control, pid).startswith(f"GET /{number}/hold from {HOST} for")


@pytest.mark.parametrize(("word", "told"), [("17", "job 17"), ("nothing", "a connection")])
def test_the_words_of_a_handler(word: str, told: str) -> None:
    with running_target("recorded:Job", app_dir=APPS, workers=1, control="off") as server:
        with job(server, "over") as before:  # what was told of an earlier one says nothing of the next
            (pid,) = steady(server, 1)
            assert int(line(before)) == pid
            assert line(before) == ""
        with job(server, word) as client:
            assert int(line(client)) == pid
            os.kill(pid, signal.SIGKILL)
            assert f"; in hand: {told} from {HOST} for" in death(server, pid, 0)


def job(server: Server, word: str) -> socket.socket:
    client = connect(server.address, timeout=PATIENCE)
    client.sendall(f"{word}\n".encode())
    return client


def test_a_setting_turns_it_off() -> None:
    with running_target(
        "recorded:application", app_dir=APPS, subcommand="wsgi", workers=1, record_requests=False, control="off"
    ) as server:
        client, pid = in_hand(server, "/hold")
        with client:
            os.kill(pid, signal.SIGKILL)
            assert "; in hand: something unnamed for" in death(server, pid, 0)
        assert "/hold" not in server.log()
