"""``prefork wsgi --threads``: several requests at once in each worker, and connections that outlive it all the same."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from prefork.services.control.client import Client as ControlClient
from prefork.testing.client import Load
from prefork.testing.processes import limited_descriptors
from prefork.testing.server import Server, running
from prefork.testing.waiting import call_until
from tests.support.boards import wait_until_idle
from tests.support.figures import count, full
from tests.support.kept import Client, Crowd, readable, renew
from tests.support.wsgi.harness import ROOT, WITHIN, get, post

CLIENTS = 12


@contextmanager
def threaded(app: str, *flags: str, workers: int = 2, threads: int = 4) -> Iterator[Server]:
    what = [f"tests.support.wsgi.apps:{app}", f"--workers={workers}", f"--threads={threads}"]
    command = [sys.executable, "-m", "prefork", "wsgi", *what, "--bind=127.0.0.1:0", *flags]
    with running(command, cwd=ROOT, within=WITHIN) as server:
        yield server


def test_a_slow_request_and_quick_ones_beside_it_in_one_worker(tmp_path: Path) -> None:
    control = str(tmp_path / "control")
    with threaded("nap", "--control", control, workers=1) as server, ExitStack() as stack:
        quick, slow = ([Client(server.address) for _ in range(number)] for number in (5, 3))
        for client in (*quick, *slow):
            stack.callback(client.close)
            assert client.ask(get("/0")) == b"awake"
        for client in slow:
            client.send(get("/20"))  # longer than all the rest, on any machine
        for _ in range(5):
            assert [client.ask(get("/0")) for client in quick] == [b"awake"] * 5
        assert not readable(slow[0], 0.01)
        with ControlClient(control) as asked:
            (worker,) = call_until(
                lambda: asked.status().workers,  # a client has its answer before it is counted
                lambda found: (
                    (found[0].in_hand, found[0].parked, found[0].served) == (3, 8, 33)
                    and Counter(one.label for one in found[0].requests) == {"GET /20": 3}
                ),
                message="the quick ones to be counted, and the slow ones to be in hand",
            )
            assert len(worker.lanes) == 4
        server.signal(signal.SIGINT)
        server.signal(signal.SIGINT)
        server.wait()


@pytest.mark.parametrize("keepalive", ["75", "0"])
def test_workers_come_and_go_and_nobody_is_lost(keepalive: str) -> None:
    flags = ("--max-requests=400", "--max-recycling=2", "--keepalive-min-timeout=3", f"--keepalive={keepalive}")
    with threaded("echo", *flags) as server:
        crowd = Crowd(server.address, clients=CLIENTS, think=0.005)
        for signum in (signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP, signal.SIGTTOU) * (5 if full() else 1):
            answered = crowd.counts["answered"]
            server.signal(signum)
            server.wait_for(lambda answered=answered: crowd.counts["answered"] > answered + 200, WITHIN)  # type: ignore[misc]  # mypy can't infer a lambda with a default
        server.wait_for_log(r"connections served \(max_requests\)")
        crowd.stop()
        assert (crowd.counts["lost"], crowd.counts["refused"], crowd.losses) == (0, 0, [])
        if keepalive != "0":
            assert (crowd.counts["connections"], crowd.counts["closed"]) == (CLIENTS, 0)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log()


def test_a_stop_answers_whoever_speaks_in_time() -> None:
    for _ in range(count("laned-stops", part=30)):
        with threaded("echo", "--keepalive-min-timeout=3") as server:  # on a busy machine, too
            silent = Client(server.address)
            assert silent.ask(get()) == b""
            crowd = Crowd(server.address, clients=8, think=0.04, reconnects=False)
            server.wait_for(lambda: crowd.counts["connections"] == 8 and crowd.counts["answered"] > 100)  # noqa: B023  # it is waited for here
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            crowd.stop()
            assert (crowd.counts["lost"], crowd.counts["closed"], crowd.losses) == (0, 8, [])
            assert silent.over()
            silent.close()


def test_a_request_that_is_slow_is_finished_when_its_worker_leaves_and_its_connection_stays() -> None:
    with threaded("nap", workers=1) as server, ExitStack() as stack:
        slow, idle = Client(server.address), Client(server.address)
        for client in (slow, idle):
            stack.callback(client.close)
            assert client.ask(get("/0")) == b"awake"
        slow.send(get("/1.5"))
        (before,) = server.workers()
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: before not in server.workers() or len(server.workers()) == 2)
        assert idle.ask(get("/0")) == b"awake"  # it has been passed on, and waits for nobody
        assert slow.answer() == b"awake"
        assert not slow.closes
        server.wait_for(lambda: before not in server.workers())
        assert [client.ask(get("/0")) for client in (slow, idle)] == [b"awake"] * 2


def test_no_process_has_two_in_hand_while_others_have_none() -> None:
    requests = count("laned-requests", part=30)
    with threaded("crowded", "--keepalive=0", workers=8, threads=2) as server:
        wait_until_idle(server, 8)
        with Load(server.address, clients=4, count=requests, payload=get()) as load:
            tally = load.wait(300)
        # Who is woken on a busy machine has to wait for a processor, which is no affair of ours: it is told. So has who
        # has answered, and is not idle until then: with four of those beside four others, nobody is.
        waited = sum(number for body, number in tally.bodies.items() if body.endswith(b", waited"))
        second = sum(number for body, number in tally.bodies.items() if body.startswith(b"2"))
        assert tally.answered == requests, tally
        assert second <= requests // 20, tally
        print(f"{waited} of {requests} waited for more than 5 ms, {second} were the second of their process")
        assert server.stop() == 0


@pytest.mark.long  # each starts a server anew
@pytest.mark.parametrize("keepalive", ["75", "0"])
def test_upgrades_and_recycling_with_lanes_in_hand_lose_nobody(keepalive: str, tmp_path: Path) -> None:
    control = tmp_path / "control"
    with threaded("slow_echo", f"--keepalive={keepalive}", f"--control={control}") as server:
        crowd = Crowd(server.address, clients=CLIENTS, think=0.0)
        for _ in range(count("laned-upgrades", part=5)):
            renew(server, signal.SIGUSR2)
        with ControlClient(control) as master:
            for number in range(count("laned-recyclings", part=15)):
                (pid,) = [worker.pid for worker in master.status().workers if worker.slot == number % 2]
                master.recycle(number % 2)
                server.wait_for(lambda: pid not in server.workers() and len(server.workers()) == 2, WITHIN)  # noqa: B023  # it is waited for here
        crowd.stop()
        assert (crowd.counts["lost"], crowd.counts["refused"], crowd.losses) == (0, 0, [])
        if keepalive != "0":
            assert (crowd.counts["connections"], crowd.counts["closed"]) == (CLIENTS, 0)
        print(f"{crowd.counts['answered']} answered over upgrades and recycled workers")


@pytest.mark.long  # each starts a server
def test_takeovers_with_lanes_in_hand_lose_nobody(tmp_path: Path) -> None:
    flags = ("--reuse-port", f"--pidfile={tmp_path / 'pid'}")
    with ExitStack() as stack:
        before = stack.enter_context(threaded("slow_echo", *flags))
        address = before.address
        crowd = Crowd(address, clients=CLIENTS, think=0.0)
        stack.callback(crowd.stop)
        load = stack.enter_context(Load(address, clients=4, payload=get("/", "Connection: close")))
        after_it = (*flags, f"--bind={address}", f"--takeover={tmp_path / 'pid'}")
        for _ in range(count("laned-takeovers", part=5)):
            after = stack.enter_context(threaded("slow_echo", *after_it))
            assert before.wait(WITHIN) == 0
            answered = crowd.counts["answered"]
            after.wait_for(lambda: crowd.counts["answered"] > answered + 50, WITHIN)  # noqa: B023  # it is waited for here
            before = after
        crowd.stop()
        tally = load.stop()
        assert (crowd.counts["lost"], crowd.counts["refused"], crowd.losses) == (0, 0, [])
        assert (crowd.counts["connections"], crowd.counts["closed"]) == (CLIENTS, 0)
        assert tally.lost == 0, tally
        print(f"{crowd.counts['answered'] + tally.answered} answered over takeovers")


def test_a_lane_that_hangs_costs_no_request_and_no_connection_of_its_siblings() -> None:
    with (
        threaded("hanging", "--timeout=3", "--graceful-timeout=30", workers=1, threads=8) as server,
        ExitStack() as stack,
    ):
        clients = [Client(server.address) for _ in range(8)]
        for client in clients:
            stack.callback(client.close)
        (worker,) = {client.ask(get("/0")) for client in clients}
        hangs, others = clients[0], clients[1:]
        hangs.send(get("/60"))
        answers: set[bytes | None] = set()

        def over() -> bool:
            for client in others:
                client.send(get("/0.2"))
            answers.update([client.answer() for client in others])
            return "hangs in lane" in server.log() and worker not in {client.ask(get("/0")) for client in others}

        server.wait_for(over, WITHIN, "the others to be served by another process")
        assert None not in answers
        assert not any(client.closes for client in others)
        assert hangs.over()


@pytest.mark.parametrize("room", [1, 12], ids=["for fewer than lanes", "for more"])
def test_want_of_descriptors_closes_none_but_the_silent(room: int) -> None:
    with threaded("nap", workers=1, threads=4) as server, ExitStack() as stack:
        (pid,) = server.workers()
        with limited_descriptors([pid], room_for(pid, room)):
            clients = [Client(server.address) for _ in range(24)]
            for client in clients:
                stack.callback(client.close)
                client.send(get("/0.02"))
            assert [client.answer() for client in clients] == [b"awake"] * len(clients)
            kept = [client for client in clients if not (client.closes or select.select([client.socket], [], [], 0)[0])]
            assert len(kept) <= room
            for _ in range(3):  # who was not closed goes on
                for client in kept:
                    client.send(get("/0.02"))
                assert [client.answer() for client in kept] == [b"awake"] * len(kept)
        assert server.workers() == [pid]
        fresh = [Client(server.address) for _ in range(8)]
        for _ in range(2):
            for client in fresh:
                client.send(get("/0.02"))
            assert [client.answer() for client in fresh] == [b"awake"] * len(fresh)
        for client in fresh:
            client.close()


def room_for(pid: int, connections: int) -> int:
    """The limit of descriptors with which a process has room for so many more, below the highest that it has."""
    opened = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = sorted(set(range(len(opened) + connections + 1)) - opened)
    return free[connections]


def test_requests_that_came_together_are_all_served_while_another_lane_waits() -> None:
    """It waits for what comes: the first is slow enough for that, and all others are here already."""
    with threaded("nap", workers=1, threads=2) as server:
        client = Client(server.address)
        try:
            client.send(get("/0.05") * 4)
            assert [client.answer() for _ in range(4)] == [b"awake"] * 4
        finally:
            client.close()


def test_the_main_thread_sleeps_while_a_lane_waits() -> None:
    with threaded("nap", workers=1, threads=2) as server, ExitStack() as stack:
        (pid,) = server.workers()
        clients = [Client(server.address) for _ in range(2)]
        for client in clients:
            stack.callback(client.close)
        clients[0].send(get("/2"))
        assert clients[1].ask(get("/0.1")) == b"awake"
        before = wakes_of_main(pid)
        time.sleep(1)  # the time that is measured
        assert wakes_of_main(pid) - before < 40
        assert clients[0].answer() == b"awake"


def wakes_of_main(pid: int) -> int:
    """How often a process's main thread has gone to sleep."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_an_application_is_told_and_its_threads_are_no_daemons() -> None:
    with threaded("crowded", workers=1, threads=2) as server:
        client = Client(server.address)
        try:
            body = client.ask(post(b"a"))
            assert body in {b"1", b"1, waited"}
            assert (client.fields["multithread"], client.fields["daemon"]) == ("True", "False")
        finally:
            client.close()
