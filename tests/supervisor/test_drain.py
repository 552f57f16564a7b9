"""The end of a server, asked for in every way and at every moment: who has reached it is served, nothing is left."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from prefork.testing import (
    Load,
    NotInTimeError,
    Options,
    Outcome,
    Server,
    burst,
    call_until,
    request,
    running_target,
    wait_for,
)
from prefork.testing.faults import always, unavailable
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import family, is_gone, kill
from tests.support.figures import count
from tests.support.probing import APPS, PATIENCE, Held, ask, complaints, get, held, line, probe, replaced, talk, told

SOON = 20.0
"""Seconds within which what happens at once has happened, on any machine; far less than what it is told apart from."""


def waiting_clients(server: Server, clients: int) -> list[socket.socket]:
    """Clients whose connections the kernel has made and no worker has accepted."""
    return [talk(server, "/") for _ in range(clients)]


def answers(clients: list[socket.socket]) -> list[str]:
    """The first line that each of them gets; "" for none."""
    found = []
    for client in clients:
        with client:
            try:
                found.append(line(client))
            except ConnectionResetError:
                found.append("")
    return found


OK = "HTTP/1.1 200 OK"

# Gracefully.


def test_term_finishes_what_is_in_hand_and_what_waits(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    with held(server, 2) as connections:
        waiting = waiting_clients(server, 20)
        server.signal(signal.SIGTERM)
        server.wait_for_log("emptying the accept queues")
        for connection in connections:
            connection.finish()
        assert answers(waiting) == [OK] * 20
    assert server.wait(SOON) == 0
    assert complaints(server) == []
    assert server.survivors() == []


def test_a_connection_that_outlasts_graceful_timeout_is_cut_and_the_rest_is_served(
    prefork_server: ServerFactory,
) -> None:
    server = probe(prefork_server, workers=2, graceful_timeout=3)
    with held(server, 2) as (first, second):
        server.signal(signal.SIGTERM)
        first.finish()
        began = time.monotonic()
        assert second.lost()
        assert server.wait(SOON) == 0
        assert time.monotonic() - began < SOON
    server.wait_for_log(rf"worker \d \(pid {second.pid}\) is killed")
    server.wait_for_log(rf"worker \d \(pid {second.pid}, generation 0\) killed by SIGKILL")
    assert told(server, f"pid {first.pid}.*SIGKILL") == []


def test_who_waits_beyond_graceful_timeout_is_counted(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, graceful_timeout=0.5)
    with held(server):
        waiting = waiting_clients(server, 3)
        assert server.stop(SOON) == 0
        assert answers(waiting) == [""] * 3
    server.wait_for_log("graceful_timeout: 3 connections were still waiting to be accepted and are lost")


def test_the_address_is_free_while_a_long_request_still_finishes(prefork_server: ServerFactory) -> None:
    first = probe(prefork_server, workers=2)
    with held(first) as (connection,):
        first.signal(signal.SIGTERM)
        host, _, port = first.address.rpartition(":")

        def bound() -> bool:
            with socket.socket() as attempt:
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    attempt.bind((host, int(port)))
                    attempt.listen()
                except OSError:
                    return False
                return True

        first.wait_for(bound, SOON, "the address to be free")
        second = probe(prefork_server, workers=1, bind=first.address)
        ask(second)
        connection.finish()
    assert first.wait(SOON) == 0
    assert second.stop() == 0


def test_new_clients_of_a_stopping_server_are_not_refused_while_somebody_waits(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1)
    with held(server) as (connection,):
        waiting = waiting_clients(server, 1)
        server.signal(signal.SIGTERM)
        server.wait_for_log("emptying the accept queues")
        with socket.socket() as late:
            late.setblocking(False)
            host, _, port = server.address.rpartition(":")
            late.connect_ex((host, int(port)))
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):  # neither refused nor connected: its SYN is dropped, and it tries again
                late.recv(1)
        connection.finish()
        assert answers(waiting) == [OK]
    assert server.wait(SOON) == 0


def test_drain_delay_serves_on_as_usual_first(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, drain_delay=4)
    server.signal(signal.SIGTERM)
    server.wait_for_log("stopping in 4 s")
    for _ in range(5):
        ask(server)
    assert told(server, "emptying") == []
    assert server.wait(SOON) == 0
    assert told(server, "emptying") == ["emptying"]


def test_a_stop_that_closes_refuses_at_once_and_finishes_what_is_in_hand(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, stop="close")
    with held(server, 2) as connections:
        server.signal(signal.SIGTERM)
        server.wait_for_log("new connections are refused")
        call_until(lambda: request(server.address).outcome, lambda outcome: outcome is Outcome.REFUSED, timeout=SOON)
        for connection in connections:
            connection.finish()
    assert server.wait(SOON) == 0


def test_a_stop_that_closes_is_put_off_by_drain_delay_as_well(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, stop="close", drain_delay=60)
    server.signal(signal.SIGTERM)
    server.wait_for_log("stopping in 60 s")
    ask(server)
    assert told(server, "refused") == []
    server.signal(signal.SIGTERM)
    server.wait_for_log("new connections are refused")
    assert server.wait(SOON) == 0


def test_an_inherited_listener_keeps_its_queue_for_the_next_server(prefork_server: ServerFactory) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        fd = listener.fileno()
        bind = f"fd://{fd}"
        first = probe(prefork_server, workers=1, bind=bind, options={"pass_fds": [fd]})
        with held(first) as (connection,):
            waiting = waiting_clients(first, 5)
            first.signal(signal.SIGTERM)
            connection.finish()
            assert first.wait(SOON) == 0
            second = probe(prefork_server, workers=1, bind=bind, options={"pass_fds": [fd]})
            assert answers(waiting) == [OK] * 5
        assert second.stop() == 0


# Quickly.


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_stop_finishes_what_is_in_hand_only(prefork_server: ServerFactory, signum: signal.Signals) -> None:
    server = probe(prefork_server, workers=2, quick_timeout=30, graceful_timeout=60, log_level="debug")
    with held(server, 2) as connections:
        waiting = waiting_clients(server, 3)
        server.signal(signum)
        server.wait_for_log("(?s)the connections in hand have 30 s.*told to leave.*told to leave")
        for connection in connections:
            connection.finish()
        assert answers(waiting) == [""] * 3
    assert server.wait(SOON) == 0


def test_quick_timeout_cuts(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, quick_timeout=0.3, graceful_timeout=60)
    with held(server) as (connection,):
        assert server.stop(SOON, signum=signal.SIGINT) == 0
        assert connection.lost()


def test_a_second_int_ends_it_at_once(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, quick_timeout=60)
    with held(server, 2) as connections:
        server.signal(signal.SIGINT)
        server.wait_for_log("the connections in hand have 60 s")
        assert server.stop(SOON, signum=signal.SIGINT) == 0
        assert all(connection.lost() for connection in connections)
    server.wait_for_log("stopping at once")


def test_int_hurries_a_graceful_stop(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, quick_timeout=0.3, graceful_timeout=60)
    with held(server) as (connection,):
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping: ")
        with pytest.raises(NotInTimeError):
            server.wait(0.5)
        assert server.stop(SOON, signum=signal.SIGINT) == 0
        assert connection.lost()


def test_int_hurries_a_graceful_stop_that_waits_for_the_queue(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, quick_timeout=0.3, graceful_timeout=60)
    with held(server):
        waiting = waiting_clients(server, 2)
        server.signal(signal.SIGTERM)
        server.wait_for_log("emptying the accept queues")
        assert server.stop(SOON, signum=signal.SIGINT) == 0
        assert answers(waiting) == ["", ""]


def test_a_second_term_changes_nothing(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    with held(server) as (connection,):
        for _ in range(3):
            server.signal(signal.SIGTERM)
        server.wait_for_log("stopping: ")
        server.signal(signal.SIGTERM)
        connection.finish()
    assert server.wait(SOON) == 0


# To the whole process group, as terminals and service managers do.


def test_term_to_the_process_group_loses_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=4)
    clients = burst(server.address, 150, payload=get("/sleep/0.01"))
    server.signal_group(signal.SIGTERM)
    tally = clients.wait()
    assert tally.answered == 150, tally
    assert server.wait(SOON) == 0
    assert server.survivors() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_to_the_process_group_ends_no_connection_in_hand(
    prefork_server: ServerFactory, signum: signal.Signals
) -> None:
    server = probe(prefork_server, workers=3, quick_timeout=30)
    with held(server, 3) as connections:
        server.signal_group(signum)
        server.wait_for_log("stopping: ")
        for connection in connections:
            connection.finish()
    assert server.wait(SOON) == 0
    assert told(server, "Traceback|is killed") == []


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, signal.SIGINT])
def test_a_signal_to_the_workers_alone_ends_none_of_them(prefork_server: ServerFactory, signum: signal.Signals) -> None:
    server = probe(prefork_server, workers=2)
    before = server.workers()
    with held(server, 2) as connections:
        for pid in before:
            os.kill(pid, signum)
        for connection in connections:
            connection.finish()
    for _ in range(10):
        ask(server)
    assert server.workers() == before


def test_term_to_a_worker_has_it_replaced_and_loses_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    with Load(server.address, clients=4) as load:
        for _ in range(5):
            before = server.workers()
            for pid in before:
                os.kill(pid, signal.SIGTERM)
            replaced(server, before)
    assert load.tally.lost == 0, load.tally
    server.wait_for_log(r"wants to be replaced: signalled by somebody else")


# At every moment.


@pytest.mark.long
def test_a_connection_in_flight_is_answered_in_every_cycle_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    threads = len(os.listdir("/proc/self/task"))
    for cycle in range(count("start-stop-cycles", part=30)):
        bind = f"unix:{path}" if cycle % 2 else "127.0.0.1:0"
        options: Options = {"env": {"RUNTIME_DIRECTORY": str(tmp_path)}}  # where the control socket is to lie
        with running_target("probe:Probe", app_dir=APPS, workers=2, bind=bind, options=options) as server:
            connection = Held(server)
            waiting = waiting_clients(server, 2)
            server.signal(signal.SIGTERM)
            connection.finish()
            assert answers(waiting) == [OK] * 2
            assert server.wait(PATIENCE) == 0
            assert server.survivors() == []
            assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/task")) == threads


@pytest.mark.parametrize("boot", ["Asleep", "Stubborn", "Finishing"])
def test_a_stop_ends_a_boot(prefork_server: ServerFactory, boot: str) -> None:
    server = prefork_server(f"slow:{boot}", app_dir=APPS, workers=2, options={"ready": "(?s)boots.*boots"})
    assert server.stop(SOON) == 0
    assert server.survivors() == []
    assert told(server, "failed|Traceback|is killed") == []


def test_a_boot_that_hears_nothing_is_killed_at_the_deadline(prefork_server: ServerFactory) -> None:
    server = prefork_server(
        "slow:Deaf", app_dir=APPS, workers=2, graceful_timeout=0.5, options={"ready": "(?s)boots.*boots"}
    )
    assert server.stop(SOON) == 0
    assert server.survivors() == []


def test_a_ring_that_was_not_heard_is_repeated(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, log_level="debug")
    with held(server, path="/deaf") as (connection,):
        server.signal(signal.SIGHUP)
        server.wait_for_log(f"pid {connection.pid}. is told to leave")  # in vain
        connection.finish()
        replaced(server, [connection.pid], SOON)
    assert told(server, "is killed") == []


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_a_backoff_at_once(prefork_server: ServerFactory, signum: signal.Signals) -> None:
    faults = prefork_server.faults("accept")
    server = probe(
        prefork_server, workers=2, backoff_initial=60, backoff_max=60, backoff_jitter=0, options={"faults": faults}
    )
    server.wait_for(lambda: len(faults.calls("accept")) == 2, message="both workers to wait for a connection")
    faults.fail("accept", always(errno.EMFILE))
    # Both are woken, serve, and fail on their next call; nobody waits then.
    assert burst(server.address, 2).wait().answered == 2
    server.wait_for_log("every worker is out of descriptors")
    assert server.stop(SOON, signum=signum) == 0


def stop_at(
    seconds: float, *arguments: str, folder: Path, before: tuple[int, ...] = (), ready: bool = False
) -> tuple[int, str]:
    """Start a server, stop it after so many seconds, and say how it ended and what it logged; nothing may be left.

    Args:
        seconds: From its start, or from the moment that it is ready, until SIGTERM.
        *arguments: Of ``prefork serve``.
        folder: Where its control socket is to lie.
        before: Signals that are sent when it is ready.
        ready: Whether to wait for that.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefork", "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "RUNTIME_DIRECTORY": str(folder)},
        )

        def said() -> str:
            return os.pread(log.fileno(), 1 << 20, 0).decode()

        try:
            if ready:
                wait_for(lambda: "serving on" in said() or is_gone(process.pid), PATIENCE, "the server to be ready")
                assert "serving on" in said(), said()
                for signum in before:
                    process.send_signal(signum)
            time.sleep(seconds)  # a moment in the server's life, chosen at random
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"still runs, {seconds:.4f} s, {arguments}\n{said()}") from None
            left = family(process.pid)
            assert left == [], f"left: {left}, {seconds:.4f} s, {arguments}\n{said()}"
            return process.returncode, said()
        finally:
            kill(*family(process.pid))
            process.wait()


@pytest.mark.long
def test_a_stop_at_any_moment_ends_and_leaves_nothing(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    path = tmp_path / "socket"
    served = 0
    for number in range(count("stops-at-random-moments", part=25)):
        arguments = ["probe:Probe", f"--app-dir={APPS}", f"--workers={moments.choice([1, 4, 16])}"]
        arguments.append(f"--bind=unix:{path}" if number % 2 else "--bind=127.0.0.1:0")
        if number % 3:
            # In its boot, and a little after: what is to be met is the master's start and its first forks.
            code, log = stop_at(moments.uniform(0.05, 0.3), *arguments, folder=tmp_path)
        else:
            signals = moments.choice([(), (signal.SIGHUP,), (signal.SIGHUP, signal.SIGTTIN), (signal.SIGTTOU,)])
            code, log = stop_at(moments.uniform(0.0, 0.05), *arguments, folder=tmp_path, before=signals, ready=True)
        served += "serving on" in log
        context = f"seed {seed}, run {number}: {code}\n{log}"
        # Before there are handlers the signal does what it does to any program.
        assert code == 0 or (code == -signal.SIGTERM and not log), context
        assert "Traceback" not in log, context
        assert list(tmp_path.iterdir()) == [], context
    assert served > 0
