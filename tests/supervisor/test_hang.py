"""Workers that hang, and those that only seem to: who is slow, asleep, frozen, or has asked for more time."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from prefork.supervisor.executor import SLOW_BURST, SLOW_PACE
from prefork.testing import Load, Server, call_until
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import frozen
from tests.support.probing import (
    APPS,
    LOGGING,
    PATIENCE,
    ask,
    complaints,
    get,
    held,
    importing,
    line,
    probe,
    talk,
    told,
    wait_gone,
)

TIMEOUT = 1.0


def ended_by(server: Server, pid: int) -> str:
    """The name of the signal that the worker was killed by."""
    return server.wait_for_log(rf"\(pid {pid}, generation 0\) killed by (\w+)")[1]


@pytest.mark.parametrize(
    ("way", "inside", "by"),
    [
        pytest.param("spin", "do_spin", "SIGABRT", id="python-loop"),
        pytest.param("recv", "do_recv", "SIGABRT", id="recv"),
        pytest.param("sleep/60", "do_sleep", "SIGABRT", id="sleep"),
        pytest.param("match", "do_match", "SIGABRT", id="regex"),
        # A Python handler never runs there, so that SIGABRT does nothing.
        pytest.param("hash", "do_hash", "SIGKILL", id="c-call"),
    ],
)
def test_a_hung_worker_is_shown_ended_and_replaced(
    prefork_server: ServerFactory, way: str, inside: str, by: str
) -> None:
    server = probe(prefork_server, workers=1, timeout=TIMEOUT)
    (pid,) = server.workers()
    with talk(server, f"/{way}"):
        assert ended_by(server, pid) == by
    log = server.log()
    seconds = re.search(rf"pid {pid}\) has been busy with one connection for ([\d.]+) s", log)
    assert seconds is not None
    assert float(seconds[1]) >= TIMEOUT
    # The tracebacks of all threads: how it came there, and where it is.
    report = log[seconds.end() :]
    assert re.search(r"\(most recent call first\):", report), log
    assert re.search(rf'File ".*probe.py", line \d+ in {inside}', report), log
    assert re.search(r"in run$", report, re.MULTILINE), log
    assert "master.py" not in report  # how the master came to fork it is nobody's concern
    assert ask(server) != str(pid)


def test_a_slow_worker_is_shown_and_goes_on(prefork_server: ServerFactory) -> None:
    """Its handler sleeps, which a signal must not cut short."""
    server = probe(prefork_server, workers=1, timeout=10, slow_log=0.05)
    (pid,) = server.workers()
    began = time.monotonic()
    with talk(server, "/sleep/2.5") as client:
        found = server.wait_for_log(rf"worker 0 \(pid {pid}\), which goes on: ")
        assert "200" in line(client)
        assert time.monotonic() - began >= 2.5
        while client.recv(1 << 16):
            pass
    log = server.log()
    assert re.search(rf"worker 0 \(pid {pid}\) is slow: a connection from 127.0.0.1 for [\d.]+ s\n", log), log
    assert re.search(r'File ".*probe.py", line \d+ in do_sleep', log[found.end() :]), log
    assert log.count("is slow") == 1
    assert ask(server) == str(pid)


def test_where_all_is_slow_some_of_it_is_shown(prefork_server: ServerFactory) -> None:
    """Those in full, as it says more than all of them in part."""
    server = probe(prefork_server, workers=4, timeout=10, slow_log=0.005)
    began = time.monotonic()
    with Load(server.address, clients=4, payload=get("/sleep/0.5"), count=24) as load:
        assert load.wait(PATIENCE).answered == 24
    server.wait_for_log(r"which goes on: ")
    assert server.stop() == 0
    log = server.log()
    assert log.count(" is slow: ") <= SLOW_BURST + (time.monotonic() - began) * SLOW_PACE + 1
    assert "characters left out" not in log


def test_all_threads_of_a_hung_worker_are_shown(prefork_server: ServerFactory) -> None:
    server = prefork_server("hooked:Threaded", app_dir=APPS, workers=1, timeout=TIMEOUT)
    (pid,) = server.workers()
    with talk(server, "/"):
        ended_by(server, pid)
    assert told(server, r"line \d+ in in_the_background$")
    assert told(server, r"line \d+ in handle$")


def test_worker_abort_runs_in_the_worker_that_is_ended(prefork_server: ServerFactory) -> None:
    server = prefork_server("hooked:Hooked", app_dir=APPS, workers=1, timeout=TIMEOUT, hooks="hooked")
    (pid,) = server.workers()
    with talk(server, "/hang"):
        assert ended_by(server, pid) == "SIGABRT"
    assert told(server, "^worker_abort .*") == [f"worker_abort in {pid} of slot 0"]


def test_worker_abort_runs_once_however_often_the_master_aborts(prefork_server: ServerFactory) -> None:
    server = prefork_server("hooked:Hooked", app_dir=APPS, workers=1, timeout=TIMEOUT, hooks="aborting")
    (pid,) = server.workers()
    with talk(server, "/hang"):
        assert ended_by(server, pid) == "SIGABRT"
    assert told(server, "^worker_abort .*") == ["worker_abort begins", "worker_abort ends"]


def test_only_the_worker_that_hangs_is_ended(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=3, timeout=3)  # which nobody else needs, whatever the machine does
    before = server.workers()
    with Load(server.address, clients=4, bodies=False) as load, talk(server, "/recv") as client:
        assert line(client) == "receiving"
        server.wait_for_log("killed by SIGABRT")
        server.wait_for(lambda: len(server.workers()) == 3)
    assert load.tally.lost == 0, load.tally
    assert len(set(server.workers()) & set(before)) == 2


PATIENT = (
    LOGGING
    + f"""
import prefork
from probe import Probe
from prefork.supervisor import policy

policy.DUMP_TIME = 10.0  # in which a busy machine finishes, and much less than is waited for then
prefork.Master(Probe, prefork.Settings(bind="127.0.0.1:0", workers=1, timeout={TIMEOUT}, control="off")).run()
"""
)
"""The probe under a master that waits for long before it ends who hangs."""


def test_who_finishes_while_it_is_looked_at_is_let_live(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(PATIENT, env=importing(APPS))
    with held(server) as (connection,):
        server.wait_for_log("has been busy with one connection for")
        connection.finish()
    server.wait_for_log(rf"pid {connection.pid}\) has finished after all")
    assert ask(server) == str(connection.pid)


def test_a_handler_may_ask_for_more_time(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, timeout=TIMEOUT)
    pid = ask(server)
    assert ask(server, f"/extend/60/{2.5 * TIMEOUT}") == pid
    # For that connection only.
    with talk(server, f"/sleep/{60}"):
        assert ended_by(server, int(pid)) == "SIGABRT"


def test_a_handler_that_asked_for_more_time_is_held_to_it(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, timeout=TIMEOUT)
    pid = int(ask(server))
    with talk(server, f"/extend/{3 * TIMEOUT}/60"):
        ended_by(server, pid)
    seconds = server.wait_for_log(r"has been busy with one connection for ([\d.]+) s")
    assert float(seconds[1]) >= 3 * TIMEOUT


def test_idle_workers_are_healthy_however_long(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=3, timeout=0.2)
    before = server.workers()
    time.sleep(1)  # five times the timeout: nothing is to happen in it
    assert server.workers() == before
    assert complaints(server) == []


def test_without_a_timeout_nothing_is_a_hang(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1)
    with held(server) as (connection,):
        time.sleep(1)  # nothing is to happen in it
        connection.finish()
    assert ask(server) == str(connection.pid)


def test_a_loop_of_ones_own_that_reports_is_watched(prefork_server: ServerFactory) -> None:
    server = prefork_server("hooked:OwnLoop", app_dir=APPS, workers=1, timeout=TIMEOUT)
    (pid,) = server.workers()
    assert ask(server) == str(pid)
    with talk(server, "/hang"):
        ended_by(server, pid)
    assert told(server, r"line \d+ in run$")


def test_a_boot_that_hangs_is_shown_and_ends_the_start(prefork_server: ServerFactory) -> None:
    server = prefork_server(
        "slow:Asleep", app_dir=APPS, workers=2, boot_timeout=TIMEOUT, options={"ready": "has been starting for"}
    )
    assert server.wait() == 4
    assert told(server, r"line \d+ in init$")
    assert told(server, "^prefork: error: .*failed to boot")
    assert server.survivors() == []


def test_a_hung_worker_that_was_told_to_leave_is_killed_at_the_deadline(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, graceful_timeout=0.3)
    with talk(server, "/match") as client:
        assert line(client) == "matching"
        pid = server.workers()
        assert server.stop(10) == 0
    wait_gone(*pid)


# Freezes: the clock went on and nobody worked.


def test_a_master_that_was_frozen_kills_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, timeout=2.5)
    with held(server) as (connection,):
        with frozen([server.pid]):
            time.sleep(3)  # beyond the deadline, as the clock has it
        time.sleep(0.3)  # for the master to have looked, if it were to do something wrong
        connection.finish()
    assert ask(server) in map(str, server.workers())
    assert told(server, "has been busy|is killed|SIGABRT") == []
    assert connection.pid in server.workers()


@pytest.mark.long
def test_a_tree_that_was_frozen_kills_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, timeout=3, graceful_timeout=3)
    with held(server, 2) as connections:
        for seconds in (1, 4, 5):
            with frozen(server.tree()):
                time.sleep(seconds)  # within and beyond the deadline, as the clock has it
        for connection in connections:
            connection.finish()
    assert told(server, "has been busy|is killed|SIGABRT") == []
    assert {connection.pid for connection in connections} == set(server.workers())


@pytest.mark.long
def test_a_freeze_during_a_stop_cuts_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, graceful_timeout=3, log_level="debug")
    with held(server, 2) as connections:
        server.signal(signal.SIGTERM)
        server.wait_for_log("(?s)told to leave.*told to leave")
        with frozen(server.tree()):
            time.sleep(4)  # beyond the deadline, as the clock has it
        for connection in connections:
            connection.finish()
    assert server.wait() == 0
    assert told(server, "is killed") == []


@pytest.mark.long
def test_a_freeze_that_is_shorter_than_the_master_would_sleep_counts_in_a_stop(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, graceful_timeout=6, log_level="debug")
    with held(server, 2) as connections:
        server.signal(signal.SIGTERM)
        server.wait_for_log("(?s)told to leave.*told to leave")
        with frozen(server.tree()):
            time.sleep(5)  # short of the deadline, as the clock has it
        time.sleep(3)  # beyond it, and no more than the half of what they have when the freeze is not counted
        for connection in connections:
            connection.finish()
    assert server.wait() == 0
    assert told(server, "is killed") == []


@pytest.mark.long
def test_a_freeze_while_the_queues_are_emptied_loses_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, graceful_timeout=3)
    with held(server) as (connection,), talk(server, "/") as waiting:
        server.signal(signal.SIGTERM)
        server.wait_for_log("emptying the accept queues")
        with frozen(server.tree()):
            time.sleep(3.5)  # beyond the deadline, as the clock has it
        time.sleep(0.3)  # for the master to have looked, if it were to do something wrong
        connection.finish()
        assert line(waiting) == "HTTP/1.1 200 OK"
    assert server.wait() == 0
    assert told(server, "graceful_timeout") == []


def test_a_worker_that_is_stopped_is_a_hang_only_when_it_is_busy(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, timeout=TIMEOUT)
    first, second = server.workers()
    with frozen([first]):
        time.sleep(3 * TIMEOUT)  # nothing is to happen in it
        assert first in server.workers()
    with held(server) as (connection,), frozen([connection.pid]):
        # It gives no traceback and hears no SIGABRT: SIGKILL is what ends it.
        call_until(lambda: connection.pid in server.workers(), lambda there: not there, message="its end")
    assert ended_by(server, connection.pid) in {"SIGKILL", "SIGABRT"}
    assert (second if connection.pid == first else first) in server.workers()
    os.kill(server.pid, signal.SIGCONT)
    ask(server)
