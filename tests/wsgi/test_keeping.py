"""Kept connections by the thousand: none is lost, and none is closed by a server that goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from prefork.services.control.client import Client as ControlClient
from prefork.testing import call_until
from prefork.testing.server import Server, running
from tests.support.figures import count, full
from tests.support.kept import Client, Crowd, renew
from tests.support.wsgi.harness import ROOT, get

WITHIN = 60.0  # seconds; for what takes less than one on an idle machine
SMALLEST, LARGEST = 2, 8  # workers
EACH = 2048  # bytes


@contextmanager
def keeping(*flags: str, workers: int = 2, app: str = "echo") -> Iterator[Server]:
    what = [
        f"tests.support.wsgi.apps:{app}",
        "--workers",
        str(workers),
        "--keepalive-requests=1000000",
    ]  # no limit closes any
    command = [sys.executable, "-m", "prefork", "wsgi", *what]
    with running([*command, "--bind=127.0.0.1:0", *flags], cwd=ROOT, within=WITHIN) as server:
        yield server


def resize(server: Server, signum: int, workers: int) -> None:
    server.signal(signum)
    server.wait_for(lambda: len(server.workers()) == workers, WITHIN, f"{workers} workers")


def assert_nobody_was_closed(crowd: Crowd, clients: int) -> None:
    assert (crowd.counts["lost"], crowd.counts["closed"], crowd.counts["refused"], crowd.losses) == (0, 0, 0, [])
    assert crowd.counts["connections"] == clients


@pytest.mark.long  # a reload takes a second, and so does each of the rest
def test_nothing_is_lost_or_closed_while_workers_come_and_go(tmp_path: Path) -> None:
    control = tmp_path / "control"
    with keeping("--control", str(control)) as server:
        crowd = Crowd(server.address, clients=16, think=0.02)
        for _ in range(count("kept-reloads", part=20)):
            renew(server, signal.SIGHUP)
        for _ in range(count("kept-upgrades", part=15)):
            renew(server, signal.SIGUSR2)
        with ControlClient(control) as master:
            for number in range(count("kept-recyclings", part=20)):
                (pid,) = [worker.pid for worker in master.status().workers if worker.slot == number % 2]
                master.recycle(number % 2)
                server.wait_for(lambda: pid not in server.workers(), WITHIN, "it is still there")  # noqa: B023  # it is waited for here
                server.wait_for(lambda: len(server.workers()) == 2, WITHIN)
        for workers in range(SMALLEST + 1, LARGEST + 1):
            resize(server, signal.SIGTTIN, workers)
        for workers in range(LARGEST - 1, SMALLEST - 1, -1):
            resize(server, signal.SIGTTOU, workers)
        requests = count("kept-requests", part=100)
        server.wait_for(lambda: crowd.counts["answered"] >= requests, 10 * WITHIN, f"{requests} requests")
        crowd.stop()
        assert_nobody_was_closed(crowd, 16)


@pytest.mark.long  # a start takes a second
def test_nothing_is_lost_or_closed_in_takeovers(tmp_path: Path) -> None:
    pidfile = str(tmp_path / "pid")
    with keeping("--reuse-port", "--pidfile", pidfile) as first:
        address = first.address
        crowd = Crowd(address, clients=16, think=0.02)
        before, generations = first, []
        try:
            for _ in range(count("kept-takeovers", part=15)):
                successor = keeping("--reuse-port", "--pidfile", pidfile, "--bind", address, "--takeover", pidfile)
                generations.append(successor)
                after = successor.__enter__()
                assert before.wait(WITHIN) == 0
                answered = crowd.counts["answered"]
                after.wait_for(lambda: crowd.counts["answered"] > answered + 50, WITHIN)  # noqa: B023  # it is waited for here
                before = after
            crowd.stop()
            assert_nobody_was_closed(crowd, 16)
        finally:
            crowd.stop()
            for successor in reversed(generations):
                successor.__exit__(None, None, None)


@pytest.mark.long  # a start takes a second
def test_stops_lose_nobody_who_speaks_in_time() -> None:
    for _ in range(count("kept-stops", part=25)):
        with keeping("--keepalive-min-timeout=10") as server:  # whoever thinks for 40 ms, however busy the machine is
            crowd = Crowd(server.address, clients=32, think=0.04, reconnects=False)
            server.wait_for(lambda: crowd.counts["connections"] == 32 and crowd.counts["answered"] > 200)  # noqa: B023  # it is waited for here
            server.signal(signal.SIGTERM)
            assert server.wait(WITHIN) == 0
            crowd.stop()
            assert (crowd.counts["lost"], crowd.counts["closed"], crowd.losses) == (0, 32, [])


@pytest.mark.long  # some thousand requests, one after the other
def test_those_who_are_kept_are_shared_with_new_workers() -> None:
    with keeping(app="show", workers=1) as server, ExitStack() as stack:
        clients = [Client(server.address) for _ in range(64)]
        for client in clients:
            stack.callback(client.socket.close)
        assert {pid_of(client) for client in clients} == set(server.workers())
        for workers in (2, 3, 4):
            resize(server, signal.SIGTTIN, workers)
        # On a quiet machine it comes to 1.2; who has to wait for the processor passes some on, too.
        call_until(
            lambda: Counter(map(pid_of, clients)),
            lambda served: len(served) == 4 and max(served.values()) <= 1.5 * min(served.values()),
            timeout=WITHIN,
            message="each worker to have its share",
        )


def pid_of(client: Client) -> int:
    """Which worker answers."""
    answer = client.ask(get())
    assert answer is not None
    return int(json.loads(answer)["pid"])


def switches(pid: int) -> int:
    """How often a process has been scheduled in or out, all of its threads."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return found


def memory(pid: int) -> int:
    """Bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def room_for(descriptors: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < descriptors:
        pytest.skip(f"{descriptors} descriptors are needed, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, descriptors), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_parked_connections_cost_nothing_while_they_are_silent() -> None:
    crowd = count("parked-connections", part=20)
    with room_for(crowd + 500), keeping("--keepalive=600", f"--max-parked={crowd + 1}", workers=1) as server:
        (worker,) = server.workers()
        first = Client(server.address)
        assert first.ask(get()) == b""
        host, _, port = server.address.rpartition(":")
        before = memory(worker)
        silent = []
        for _ in range(crowd):
            client = socket.create_connection((host, int(port)), WITHIN)
            client.sendall(get())
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            silent.append(client)
        assert memory(worker) - before < EACH * crowd + (0 if full() else 1 << 20)
        seen = [switches(worker)]

        def at_rest() -> bool:
            seen.append(switches(worker))
            return len(seen) > 12 and len(set(seen[-10:])) == 1

        server.wait_for(at_rest, WITHIN, "a second without a wake-up")
        assert first.ask(get()) == b""
        for client in silent:
            client.close()
        first.close()
