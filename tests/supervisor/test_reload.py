"""Workers replaced on purpose, by SIGHUP or by their limits, while clients come: the next one serves first."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from prefork.testing import Load, Server
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import frozen, kill
from tests.support.figures import count
from tests.support.probing import APPS, ask, complaints, held, probe, replaced, steady, told, wait_gone

SOON = 20.0


def reload(server: Server, generation: int) -> None:
    """One reload, from the signal until the new generation serves."""
    server.signal(signal.SIGHUP)
    server.wait_for_log(f"reload: generation {generation} serves")


# Reload.


def test_reloads_under_load_lose_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    first, descriptors = server.workers(), server.descriptors()
    reloads = count("reloads")
    with Load(server.address, clients=8, bodies=False) as load:
        for generation in range(1, reloads + 1):
            reload(server, generation)
            load.wait_for(lambda tally, least=200 * generation: tally.total >= least)  # type: ignore[misc]  # mypy can't infer a lambda with a default
    assert load.tally.lost == 0, load.tally
    assert load.tally.total >= 200 * reloads
    assert not set(steady(server, 2)) & set(first)
    assert ask(server, "/generation") == str(reloads)
    assert complaints(server) == []
    server.wait_for(lambda: server.descriptors() <= descriptors, message=f"{descriptors} descriptors in the master")


GOOD = """
def handle(connection, address):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 1\\r\\n\\r\\n%d")
"""

BROKEN = {
    "import": ("import no_such_module_anywhere", "no_such_module_anywhere"),
    "exception": ("def handle(connection, address): pass\nraise ValueError('broken on purpose')", "broken on purpose"),
    "syntax": ("def handle(connection, address)", "SyntaxError|invalid syntax|expected ':'"),
    "attribute": ("def another(connection, address): pass", "handle"),
    "exit": ("import os\nos._exit(5)", "exited with code 5"),
    "crash": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "killed": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "to boot: killed by SIGKILL before it was"),
}


@pytest.mark.long
@pytest.mark.parametrize("fault", BROKEN)
def test_a_reload_to_broken_code_changes_nothing_until_a_good_one(
    prefork_server: ServerFactory, tmp_path: Path, fault: str
) -> None:
    source = tmp_path / "changing.py"
    code, said = BROKEN[fault]

    def write(text: str) -> None:
        # A file of a new name and a rename: no worker reads half of it.
        new = tmp_path / "new"
        new.write_text(text)
        new.rename(source)

    write(GOOD % 1)
    server = prefork_server("changing:handle", app_dir=tmp_path, workers=2, crash_limit=4)
    before = server.workers()
    with Load(server.address, clients=4) as load:
        load.wait_for(lambda tally: tally.answered > 100)
        write(code)
        server.signal(signal.SIGHUP)
        failed = server.wait_for_log("reload: generation 1 failed to boot; the old one goes on")
        so_far = load.tally.answered
        load.wait_for(lambda tally: tally.answered > so_far + 100)
        assert server.workers() == before
        assert set(load.tally.bodies) == {b"1"}
        # Told once, however many workers were to boot; and told again by the next reload.
        assert len(re.findall("failed to boot: ", server.log())) == 1
        assert re.search(said, server.log())
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload: generation 2 failed to boot; the old one goes on", after=failed.end())
        assert len(re.findall("failed to boot: ", server.log())) == 2
        write(GOOD % 2)
        reload(server, 3)
        load.wait_for(lambda tally: tally.bodies[b"2"] > 100)
    assert load.tally.lost == 0, load.tally
    assert not set(steady(server, 2)) & set(before)
    assert told(server, "crash loop") == []
    assert server.stop() == 0


SUCCESSOR = r"worker \d \(pid (\d+), generation 1\) forked"
"""Logged with ``log_level="debug"``."""


def most_at_once(server: Server) -> int:
    """The most workers that there have been, as its log of every fork and end has it (``log_level="debug"``)."""
    now = most = 0
    for _, end in re.findall(r"worker \d \(pid (\d+), generation \d+\) (forked|exited|killed)", server.log()):
        now += 1 if end == "forked" else -1
        most = max(most, now)
    return most


def test_at_most_reload_surge_workers_are_added(prefork_server: ServerFactory) -> None:
    server = prefork_server("slow:Slowly", app_dir=APPS, workers=3, reload_surge=2, log_level="debug")
    before = server.workers()
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    replaced(server, before)
    assert most_at_once(server) == 5


def test_the_successor_is_ready_before_the_incumbent_is_told(prefork_server: ServerFactory) -> None:
    server = prefork_server("slow:Slowly", app_dir=APPS, workers=1, log_level="debug")
    (old,) = server.workers()
    with Load(server.address, clients=2) as load:
        load.wait_for(lambda tally: tally.bodies[b"%d" % old])
        reload(server, 1)
        (new,) = replaced(server, [old])
        load.wait_for(lambda tally: tally.bodies[b"%d" % new])
    assert load.tally.lost == 0, load.tally
    assert set(load.tally.bodies) == {b"%d" % old, b"%d" % new}
    log = server.log()
    assert log.index(f"booted {new}") < log.index(f"pid {old}) is told to leave: replaced")


def test_reloads_that_overtake_each_other_end_with_the_last(prefork_server: ServerFactory) -> None:
    server = prefork_server("slow:Slowly", app_dir=APPS, workers=2)
    before = server.workers()
    for generation in range(1, 6):
        server.signal(signal.SIGHUP)
        server.wait_for_log(f"reload: generation {generation}$")
    server.wait_for_log("generation 5 serves")
    replaced(server, before)
    assert complaints(server) == []


def test_a_successor_that_is_killed_in_its_boot_does_not_end_the_reload(prefork_server: ServerFactory) -> None:
    server = prefork_server("slow:Slowly", app_dir=APPS, workers=2, log_level="debug")
    before = server.workers()
    server.signal(signal.SIGHUP)
    kill(int(server.wait_for_log(SUCCESSOR)[1]))
    server.wait_for_log("generation 1 serves")
    replaced(server, before)


def test_an_incumbent_that_dies_during_a_reload_is_not_missed(prefork_server: ServerFactory) -> None:
    server = prefork_server("slow:Slowly", app_dir=APPS, workers=2, log_level="debug")
    before = server.workers()
    server.signal(signal.SIGHUP)
    server.wait_for_log(SUCCESSOR)
    kill(*before)
    server.wait_for_log("generation 1 serves")
    replaced(server, before)


def test_a_connection_in_hand_is_finished_by_the_old_generation(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, reload_surge=2)
    with held(server, 2) as connections:
        reload(server, 1)
        assert ask(server, "/generation") == "1"
        assert len(server.workers()) == 4
        for connection in connections:
            connection.finish()
        replaced(server, [connection.pid for connection in connections])


def test_an_old_worker_has_graceful_timeout_to_leave(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, graceful_timeout=0.3)
    with held(server) as (connection,):
        reload(server, 1)
        assert connection.lost()
        wait_gone(connection.pid)
    server.wait_for_log(rf"worker 0 \(pid {connection.pid}\) is killed: replaced")


# Recycling.


def served(server: Server, reason: str) -> list[int]:
    """How many connections those workers had served that left for a reason."""
    return [int(text) for text in re.findall(rf"(\d+) connections served \({reason}", server.log())]


def test_who_asks_for_a_replacement_is_heard_though_the_pipe_to_the_master_is_full(
    prefork_server: ServerFactory,
) -> None:
    server = prefork_server("chatty:Chatty", app_dir=APPS, workers=1, control="off")
    with frozen([server.pid]):
        pid = int(ask(server, "/fill"))
        assert int(ask(server, "/recycle")) == pid
    replaced(server, [pid])
    assert len(told(server, "wants to be replaced: it asked for it")) == 1
    assert server.stop() == 0


def test_max_requests_replaces_a_worker_and_loses_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, max_requests=100, max_requests_jitter=50)
    with Load(server.address, clients=4, bodies=False) as load:
        server.wait_for(lambda: len(served(server, "max_requests")) >= 6)
    assert load.tally.lost == 0, load.tally
    assert min(served(server, "max_requests")) >= 100
    assert len(set(served(server, "max_requests"))) > 1
    assert len(steady(server, 2)) == 2


def test_at_most_max_recycling_workers_are_replaced_at_once(prefork_server: ServerFactory) -> None:
    server = prefork_server("slow:Slowly", app_dir=APPS, workers=4, max_age=0.5, max_recycling=2, log_level="debug")
    server.wait_for(lambda: len(served(server, "max_age")) >= 8)
    # Two that start, and two who leave: those have been told, and are on their way out.
    assert 5 <= most_at_once(server) <= 8
    assert told(server, "is killed") == []


def test_max_age_replaces_a_worker_and_loses_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, max_age=0.3, max_age_jitter=0.3)
    with Load(server.address, clients=2, bodies=False) as load:
        server.wait_for(lambda: len(served(server, "max_age")) >= 6)
    assert load.tally.lost == 0, load.tally
    ages = [float(text) for text in re.findall(r"after ([\d.]+) s, \d+ connections served \(max_age", server.log())]
    assert min(ages) >= 0.3


def test_max_memory_replaces_who_holds_too_much(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, max_memory="150M")
    before = server.workers()
    with Load(server.address, clients=2, bodies=False) as load:
        fat = int(ask(server, "/memory/200"))
        server.wait_for_log(rf"pid {fat}\) is to be replaced: max_memory: it holds \d+ MiB")
        wait_gone(fat)
    assert load.tally.lost == 0, load.tally
    (other,) = set(before) - {fat}
    assert other in steady(server, 2)
    server.wait_for_log(r"connections served \(max_memory")  # which the master says when it has seen the end
    assert len(served(server, "max_memory")) == 1


def test_max_fds_replaces_who_holds_too_many(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, max_fds=100)
    leaky = int(ask(server, "/descriptors/200"))
    with Load(server.address, clients=2, bodies=False) as load:
        server.wait_for_log(rf"pid {leaky}\) is to be replaced: max_fds: it holds 2\d\d descriptors")
        wait_gone(leaky)
    assert load.tally.lost == 0, load.tally
    assert len(steady(server, 2)) == 2
