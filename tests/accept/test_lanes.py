"""Workers with several lanes: so many connections at once in each, and all that is promised of workers with one."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest

from prefork.services.control.client import Client as ControlClient
from prefork.testing import Load, burst, call_until, request
from prefork.testing.plugin import ServerFactory
from prefork.testing.server import NotServingError
from tests.support.boards import wait_until_idle
from tests.support.figures import count
from tests.support.probing import APPS, ask, complaints, get, held, line, probe, talk, told, wait_ended

CLIENTS = 150
LANES = 4


def silent(client: socket.socket) -> bool:
    """Whether nothing comes for a while."""
    before = client.gettimeout()
    client.settimeout(0.2)
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        client.settimeout(before)


def test_a_worker_serves_as_many_at_once_as_it_has_lanes(prefork_server: ServerFactory, tmp_path: Path) -> None:
    control = str(tmp_path / "control")
    server = probe(prefork_server, workers=1, threads=LANES, control=control)
    with held(server, LANES) as connections, talk(server, "/pid") as waiting, ControlClient(control) as asked:
        assert silent(waiting)
        (worker,) = asked.status().workers
        assert (worker.state, worker.in_hand, len(worker.lanes)) == ("busy", LANES, LANES)
        connections[1].finish()
        assert line(waiting) == "HTTP/1.1 200 OK"
        for number in (0, 2, 3):
            connections[number].finish()
        (worker,) = call_until(
            lambda: asked.status().workers,
            lambda found: (found[0].served, found[0].state, found[0].in_hand) == (LANES + 1, "idle", 0),
            message="all to be counted, and nothing in hand",
        )
        assert sum(lane.served for lane in worker.lanes) == LANES + 1
    assert server.stop() == 0
    assert complaints(server) == []


def test_a_connection_goes_to_an_idle_process_first(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=3, threads=2)
    wait_until_idle(server, 3)
    with held(server, 3) as first:
        assert {one.pid for one in first} == set(server.workers())
        with held(server, 3) as second:  # no process is idle: second lanes
            assert Counter(one.pid for one in (*first, *second)) == dict.fromkeys(server.workers(), 2)
            idle = first[0].pid
            for one in (*first, *second):
                if one.pid == idle:
                    one.finish()
            with held(server) as (third,):  # and now one is
                assert third.pid == idle


@pytest.mark.parametrize(
    ("group", "reuse_port"),
    [(False, False), (True, False), (False, True)],
    ids=["master", "process group", "each its own queue"],
)
def test_all_who_wait_are_answered_at_a_stop(prefork_server: ServerFactory, group: bool, reuse_port: bool) -> None:
    for _ in range(count("laned-stops", part=30)):
        server = probe(prefork_server, workers=2, threads=LANES, reuse_port=reuse_port)
        with burst(server.address, CLIENTS, payload=get("/sleep/0.02")) as load:
            load.wait_for(lambda tally: tally.answered >= 20)
            (server.signal_group if group else server.signal)(signal.SIGTERM)
            tally = load.wait(60)
        assert tally.answered == CLIENTS, tally
        assert server.wait() == 0
        assert server.survivors() == []
        assert complaints(server) == []


def test_reloads_recycling_and_scaling_lose_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, threads=LANES, max_requests=100, max_recycling=2)
    with Load(server.address, clients=12, payload=get("/sleep/0.002")) as load:
        for signum in (signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP, signal.SIGTTOU):
            before = load.tally.answered
            server.signal(signum)
            load.wait_for(lambda tally, before=before: tally.answered > before + 200)  # type: ignore[misc]  # mypy can't infer a lambda with a default
        server.wait_for_log(r"connections served \(max_requests\)")
    assert load.tally.lost == 0, load.tally
    assert server.stop() == 0


def test_a_lane_that_hangs_is_named_and_its_siblings_finish(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, threads=LANES, timeout=2, graceful_timeout=20)
    with talk(server, "/extend/60/4") as first, talk(server, "/extend/60/5") as second:
        with talk(server, "/recv") as hangs:
            assert line(hangs) == "receiving"
            lane = server.wait_for_log(r"busy with one connection in lane (\d) for [\d.]+ s")[1]
            hung = server.wait_for_log(rf"hangs in lane {lane}; the others have 20 s to finish: ")
            (pid,) = server.wait_for_log(r"^init 0 (\d+)$", after=hung.end()).groups()
            server.wait_for(lambda: ask(server) == pid, message="who has taken its place serves")
            (own,) = {line(client) for client in (first, second)}
            assert own == "HTTP/1.1 200 OK"
            server.wait_for_log(r"killed by SIGABRT after .* \(it hangs\)")
        report = server.log()[hung.end() :]
        thread = re.match(rf"(?s)(Thread|Current thread) 0x\w+ \[lane {lane}, which hangs\].*?\n\n", report)
        assert thread is not None, report
        assert "in do_recv" in thread[0]
        assert [int(pid)] == server.workers()


@pytest.mark.long
def test_siblings_of_a_call_into_c_that_never_returns_are_not_waited_for(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, threads=2, timeout=0.5, graceful_timeout=60)
    with talk(server, "/extend/60/60"), talk(server, "/match"):  # no other thread gets the interpreter then
        server.wait_for_log(r"killed by SIG\w+ after")
    ask(server)


def test_whatever_handlers_raise_ends_no_lane(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, threads=2)
    (pid,) = server.workers()
    for name in ("builtins.SystemExit", "builtins.KeyboardInterrupt", "asyncio.CancelledError", "builtins.OSError"):
        for _ in range(3):
            request(server.address, get(f"/raise/{name}"))
    seen = 0
    for _ in range(6):
        assert ask(server, "/late/thread") == str(pid)
        seen = server.wait_for_log(r"an alarm\n", after=seen).end()
    with held(server, 2) as connections:
        for connection in connections:
            connection.finish()
    assert server.workers() == [pid]
    assert len(told(server, "the handler failed on a connection")) == 12
    assert server.stop() == 0


def test_processes_of_an_application_hold_no_connection_of_another_lane(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, threads=LANES)
    (pid,) = server.workers()
    with held(server, 2) as connections:
        assert ask(server, "/subprocess") == "7"
        assert ask(server, "/multiprocessing") == "9"
        assert ask(server, "/terminated") == str(-signal.SIGTERM)
        assert ask(server, "/orphan") == "left"
        for connection in connections:
            connection.finish()
    assert server.workers() == [pid]
    assert server.stop() == 0


def test_want_of_descriptors_is_waited_out(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, threads=LANES)
    (pid,) = server.workers()
    wait_until_idle(server, 1)  # it opens nothing more
    opened = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    _, second = sorted(set(range(len(opened) + 2)) - opened)[:2]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (second, before[1]))  # one connection has room
    with burst(server.address, 40, payload=get("/sleep/0.02")) as load:
        server.wait_for_log("out of descriptors")
        tally = load.wait(60)
    assert tally.answered == 40, tally
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    with held(server, LANES) as connections:
        for connection in connections:
            connection.finish()
    assert server.workers() == [pid]
    assert server.stop() == 0


def test_workers_leave_when_their_master_is_gone(prefork_server: ServerFactory) -> None:
    for _ in range(3):  # two signals tell of it, and either may come to a thread that has no handlers
        server = probe(prefork_server, workers=3, threads=LANES)
        workers = server.workers()
        with held(server) as (connection,):
            server.signal(signal.SIGKILL)
            wait_ended(*(pid for pid in workers if pid != connection.pid))
            connection.finish()
        wait_ended(*workers)


def test_a_loop_of_ones_own_has_no_lanes(prefork_server: ServerFactory) -> None:
    with pytest.raises(NotServingError) as failed:
        prefork_server("probe:Taking", app_dir=APPS, threads=2)
    assert "threads: Taking has a loop of its own, which serves as it will; leave it out" in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_a_killed_worker_costs_what_its_lanes_had_in_hand(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, threads=2)
    with held(server, 4) as connections:
        os.kill(connections[0].pid, signal.SIGKILL)
        lost = [connection for connection in connections if connection.pid == connections[0].pid]
        assert [connection.lost() for connection in lost] == [True, True]
        with held(server, 2) as others:  # the entry of the dead is nobody whom the living would leave these to
            assert len(others) == 2
        for connection in connections:
            if connection not in lost:
                connection.finish()
