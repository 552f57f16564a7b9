"""Workers that die, can't boot, can't be forked; a master that dies; what the server does about each."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from prefork.services.control import Client
from prefork.testing import Load, Outcome, Server, call_until, hold_port, wait_for
from prefork.testing.faults import always, every, first, unavailable
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import freeze, kill, thaw
from tests.support.figures import count
from tests.support.probing import (
    APPS,
    LOGGING,
    ask,
    held,
    line,
    probe,
    steady,
    talk,
    told,
    wait_for_rest,
    wait_gone,
    zombies,
)
from tests.support.tracing import traced

SOON = 20.0

no_injection = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

# Death and respawn.


@pytest.mark.long
def test_kills_under_load_cost_what_is_in_hand_and_refuse_nobody(prefork_server: ServerFactory, tmp_path: Path) -> None:
    control = tmp_path / "control"
    server = probe(prefork_server, workers=4, control=control)
    descriptors = server.descriptors()
    killed: set[int] = set()
    end = time.monotonic() + count("seconds-of-kills", least=4)
    with Load(server.address, clients=8, bodies=False) as load, Client(control) as operator:
        while time.monotonic() < end:
            # Those that have booted: on a busy machine a boot takes longer than the pause, and to be killed in it again
            # and again is to die young, for which a slot holds back.
            living = operator.status(processes=False).workers
            victims = [one.pid for one in living if one.state in {"idle", "busy"} and one.pid not in killed]
            if victims:
                victim = random.choice(victims)
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
            time.sleep(0.1)  # the rhythm of the kills, which the figure names
        load.wait_for(lambda tally, so_far=load.tally.answered: tally.answered > so_far + 100)  # type: ignore[misc]  # mypy can't infer a lambda with a default
        steady(server, 4, SOON)
    assert killed
    assert load.tally[Outcome.REFUSED] == 0, load.tally
    print(f"{len(killed)} kills: {load.tally}")
    assert load.tally.lost <= len(killed), (len(killed), load.tally)
    server.wait_for(
        lambda: len(told(server, "killed by SIGKILL after")) == len(killed), message=f"the end of {len(killed)} workers"
    )
    assert told(server, "crash loop") == []
    server.wait_for(lambda: server.descriptors() <= descriptors, message=f"{descriptors} descriptors in the master")
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("/exit/3", r"exited with code 3"),
        (f"/die/{signal.SIGKILL.value}", r"killed by SIGKILL"),
        (f"/die/{signal.SIGSEGV.value}", r"killed by SIGSEGV(, core dumped)?"),
        (f"/die/{signal.SIGRTMIN.value + 5}", rf"killed by signal {signal.SIGRTMIN.value + 5}"),
    ],
)
def test_a_death_is_told_in_one_line(prefork_server: ServerFactory, way: str, said: str) -> None:
    server = probe(prefork_server, workers=1)
    (pid,) = server.workers()
    for _ in range(5):
        ask(server)
    with talk(server, way) as client:
        assert client.recv(1) == b""
    wait_gone(pid)
    assert int(ask(server)) != pid
    pattern = (
        rf"WARNING {server.pid} worker 0 \(pid {pid}, generation 0\) {said} after [\d.]+ s, [56] connections served; "
        r"in hand: a connection from 127\.0\.0\.1 for [\d.e-]+ s$"
    )
    assert len(told(server, pattern)) == 1, server.log()


def test_a_slot_that_dies_young_holds_back_and_the_others_do_not(prefork_server: ServerFactory, tmp_path: Path) -> None:
    server = prefork_server("mayfly:Mayfly", app_dir=APPS, workers=2, crash_limit=1000, options={"cwd": tmp_path})
    wait_for_rest(server)  # READY is said before a worker looks whether it is to die
    first_worker, second = server.workers()
    ask(server)
    (tmp_path / "die").touch()
    os.kill(first_worker, signal.SIGKILL)
    server.wait_for(lambda: len(told(server, "exited with code 9")) >= 4, message="four young deaths")
    times = [float(text) for text in re.findall(r":\d\d:(\d\d\.\d+)Z WARNING .* exited with code 9", server.log())]
    pauses = [(later - earlier) % 60 for earlier, later in pairwise(times)]
    # 0.1, 0.2, 0.4 s: each pause is longer than the last one was to be.
    assert pauses[1] > 0.1
    assert pauses[2] > 0.2
    for _ in range(10):
        ask(server)
    assert second in server.workers()
    os.kill(second, signal.SIGKILL)
    (tmp_path / "die").unlink()
    steady(server, 2)
    ask(server)


def test_a_crash_loop_degrades_the_server_until_it_is_over(prefork_server: ServerFactory, tmp_path: Path) -> None:
    server = prefork_server(
        "mayfly:Mayfly", app_dir=APPS, workers=2, crash_limit=4, crash_window=5, options={"cwd": tmp_path}
    )
    (tmp_path / "die").touch()
    kill(*server.workers())
    server.wait_for_log(r"CRITICAL .*crash loop: \d+ workers died young within 5 s; the server is degraded")
    (tmp_path / "die").unlink()
    steady(server, 2)
    server.wait_for_log("WARNING .*the crash loop is over")
    ask(server)
    assert len(told(server, "is degraded")) == 1
    assert server.stop() == 0


def test_a_crash_loop_ends_the_server_when_that_is_wanted(prefork_server: ServerFactory, tmp_path: Path) -> None:
    server = prefork_server(
        "mayfly:Mayfly", app_dir=APPS, workers=2, crash_limit=4, on_crash_loop="exit", options={"cwd": tmp_path}
    )
    (tmp_path / "die").touch()
    kill(*server.workers())
    assert server.wait() == 4
    assert told(server, "^prefork: error: crash loop: .*") != []
    assert server.survivors() == []


# Boots that fail.


@pytest.mark.parametrize(
    ("application", "said"),
    [
        ("Init", "RuntimeError: no database, as asked"),
        ("Leaves", "exited with code 2 before it was ready"),
        ("Crashes", "killed by SIGSEGV.* before it was ready"),
        ("Killed", "killed by SIGKILL before it was ready"),
        ("SaysExit", "^SystemExit: configuration missing, as asked"),
    ],
)
def test_a_first_generation_that_fails_to_boot_is_told_once_and_ends_it(
    prefork_server: ServerFactory, application: str, said: str
) -> None:
    server = prefork_server(f"broken:{application}", app_dir=APPS, workers=4, options={"ready": "prefork: error:"})
    assert server.wait() == 4
    assert len(told(server, said)) == 1, server.log()
    assert len(told(server, "^prefork: error: ")) == 1
    assert len(told(server, "^Traceback")) <= 1
    assert server.survivors() == []


def test_what_is_not_there_is_a_mistake_in_the_command(prefork_server: ServerFactory) -> None:
    server = prefork_server("broken:Nowhere", app_dir=APPS, workers=4, options={"ready": "prefork: error:"})
    assert server.wait() == 2
    assert len(told(server, "^.*Nowhere.*$")) == 1, server.log()
    assert told(server, "Traceback|ERROR") == []


FRAGILE = """
import os
if os.path.exists({flag!r}):
    raise RuntimeError("no database, as asked")
def handle(connection, address):
    pass
"""


def test_each_spell_of_failed_boots_is_told(prefork_server: ServerFactory, tmp_path: Path) -> None:
    """One after the other, and of the same: what was told in the morning is news in the evening."""
    flag = tmp_path / "no-database"
    (tmp_path / "fragile.py").write_text(FRAGILE.format(flag=str(flag)))
    server = prefork_server("fragile:handle", app_dir=tmp_path, workers=2, control=tmp_path / "control")
    with Client(tmp_path / "control") as client:
        for spell in (1, 2):
            flag.touch()
            kill(server.workers()[0])
            server.wait_for(
                lambda spell=spell: len(told(server, "^RuntimeError: no database, as asked$")) == spell,  # type: ignore[misc]  # mypy can't infer a lambda with a default
                message=f"the traceback of spell {spell}",
            )
            flag.unlink()
            call_until(client.health, lambda health: health.serving == 2, message="two who serve")
    assert len(told(server, "failed to boot: ")) == 2
    assert server.stop() == 0


# Forks that fail.


@no_injection
@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOMEM])
def test_a_fork_that_fails_ends_nothing_and_costs_no_slot(prefork_server: ServerFactory, error: int) -> None:
    faults = prefork_server.faults("fork")
    server = probe(prefork_server, workers=3, options={"faults": faults})
    descriptors = server.descriptors()
    faults.fail("fork", always(error))
    kill(*server.workers())
    server.wait_for(lambda: faults.failed("fork") >= 4, message="several attempts")
    assert server.workers() == []
    assert 1 <= len(told(server, "ERROR .*can't fork worker")) <= faults.failed("fork")
    # Attempts at growing intervals, not a storm of them.
    assert faults.busiest("fork") <= 20
    faults.release()
    steady(server, 3)
    assert {int(ask(server, "/slot")) for _ in range(60)} <= {0, 1, 2}
    server.wait_for(lambda: len(told(server, "^init [012] ")) == 6)
    server.wait_for(lambda: server.descriptors() <= descriptors, message=f"{descriptors} descriptors in the master")
    assert server.stop() == 0


@no_injection
def test_a_start_whose_forks_fail_at_first_succeeds(prefork_server: ServerFactory) -> None:
    faults = prefork_server.faults("fork")
    faults.fail("fork", first(3, errno.EAGAIN))
    server = probe(prefork_server, workers=2, options={"faults": faults})
    assert len(server.workers()) == 2
    assert server.stop() == 0


@no_injection
def test_forks_that_fail_now_and_then_delay_reloads_and_lose_nobody(prefork_server: ServerFactory) -> None:
    faults = prefork_server.faults("fork")
    server = probe(prefork_server, workers=2, options={"faults": faults})
    faults.fail("fork", every(2, errno.EAGAIN))
    with Load(server.address, clients=4, bodies=False) as load:
        for generation in range(1, 4):
            server.signal(signal.SIGHUP)
            server.wait_for_log(f"generation {generation} serves")
    assert load.tally.lost == 0, load.tally
    assert len(steady(server, 2)) == 2


@no_injection
def test_a_stop_does_not_wait_for_a_fork(prefork_server: ServerFactory) -> None:
    faults = prefork_server.faults("fork")
    server = probe(prefork_server, workers=2, options={"faults": faults})
    faults.fail("fork", always(errno.EAGAIN))
    kill(*server.workers())
    server.wait_for_log("can't fork")
    assert server.stop(SOON) == 0


# Orphans.


def test_workers_leave_when_their_master_was_killed(prefork_server: ServerFactory) -> None:
    for _ in range(count("masters-killed-idle")):
        server = probe(prefork_server, workers=4)
        for _ in range(8):
            ask(server)
        server.signal(signal.SIGKILL)
        server.wait()
        wait_for(lambda server=server: not server.tree(), SOON, "the orphans to leave")  # type: ignore[misc]  # mypy can't infer a lambda with a default


def test_an_orphan_finishes_what_it_has_in_hand(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=3)
    with held(server, 2) as connections:
        server.signal(signal.SIGKILL)
        server.wait()
        wait_for(lambda: len(server.tree()) == 2, SOON, "the idle one to leave")
        for connection in connections:
            connection.finish()
        wait_for(lambda: not server.tree(), SOON, "the others to leave")


def test_an_orphan_leaves_when_it_has_not_heard_the_parent_death_signal(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1)
    with held(server, path="/deaf") as (connection,):
        server.signal(signal.SIGKILL)
        server.wait()
        connection.finish()
        wait_for(lambda: not server.tree(), SOON, "the orphan to leave")


def test_an_orphan_with_threads_leaves(prefork_server: ServerFactory) -> None:
    """It is told twice at once, and any thread may meet what is for the process, while the main one sleeps on.

    Who was frozen meanwhile shows it best: all are woken together.
    """
    server = prefork_server("hooked:Surrounded", app_dir=APPS, workers=4)
    workers = server.workers()
    freeze(workers)
    server.signal(signal.SIGKILL)
    server.wait()
    thaw(workers)
    wait_for(lambda: not server.tree(), SOON, "the orphans to leave")


def test_a_worker_whose_master_is_killed_in_its_boot_leaves(prefork_server: ServerFactory) -> None:
    server = prefork_server("slow:Slowly", app_dir=APPS, workers=2, options={"ready": ""})
    server.wait_for(lambda: len(server.tree()) == 3)
    server.signal(signal.SIGKILL)
    wait_for(lambda: not server.tree(), SOON, "the orphans to leave")


def test_the_next_server_has_the_address_at_once(prefork_server: ServerFactory) -> None:
    with hold_port() as address:
        server = probe(prefork_server, workers=2, bind=address)
        server.signal(signal.SIGKILL)
        server.wait()
        wait_for(lambda: not server.tree(), SOON, "the orphans to leave")
        ask(probe(prefork_server, workers=2, bind=address))


@no_injection
def test_deaths_are_noticed_where_nobody_may_wait_for_them(prefork_server: ServerFactory) -> None:
    """Without a pidfd they are looked for, and where the host ignores its children there is nothing to be found."""
    faults = prefork_server.faults("pidfd_open")
    faults.fail("pidfd_open", always(errno.ENOSYS))
    script = f"""
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sys.path.insert(0, {str(APPS)!r})
from probe import Probe
from prefork import Master, Settings
sys.exit(Master(Probe, Settings(bind="127.0.0.1:0", workers=2, control="off")).run())
"""
    server = prefork_server.script(LOGGING + script, faults=faults)
    before = server.workers()
    kill(before[0])
    call_until(server.workers, lambda now: len(now) == 2 and before[0] not in now, message="another worker")
    assert ask(server)
    assert server.stop() == 0


# Process 1.


def can_unshare() -> bool:
    return (
        subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
        ).returncode
        == 0
    )


@pytest.mark.skipif(not can_unshare(), reason="needs unshare(1) and the right to make a pid namespace")
def test_process_1_reaps_strangers_and_stops_as_asked(prefork_server: ServerFactory) -> None:
    server = probe(
        prefork_server,
        workers=2,
        options={
            "prefix": ["unshare", "--pid", "--fork", "--mount-proc"],
            "ready": "serving on (?P<addresses>.+) with",
        },
    )
    (master,) = psutil.Process(server.pid).children()
    assert told(server, "pid 1$") != []
    for number in range(1, 11):
        assert ask(server, "/orphan") == "left"
        server.wait_for_log("(?s)" + "orphan of 1 ends.*" * number)
    server.wait_for(
        lambda: len(master.children()) == 2 and not zombies(master.pid), message="two workers and no zombie"
    )
    before = master.children()
    for child in before:
        child.kill()
    call_until(
        master.children,
        lambda children: len(children) == 2 and not set(children) & set(before),
        message="two other workers",
    )
    ask(server)
    with talk(server, "/hold") as client:
        assert line(client).startswith("held")
        master.send_signal(signal.SIGTERM)
        server.wait_for_log("stopping: ")
        client.sendall(b"go\n")
        assert line(client).startswith("done")
    assert server.wait() == 0


# At rest.


def test_an_idle_server_sleeps(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=4, timeout=30, min_workers=4, max_workers=8, max_age=3600)
    for _ in range(20):
        ask(server)

    def switches(seconds: float) -> int:
        before = server.voluntary_switches()
        time.sleep(seconds)  # nothing is to happen in it
        return server.voluntary_switches() - before

    # What the load has started comes to rest first.
    call_until(lambda: switches(0.5), lambda number: number == 0, message="rest")
    seconds = count("idle-seconds", least=3)
    assert switches(seconds) <= max(1, 0.1 * seconds)


# Memory.


@pytest.mark.executed
def test_preloaded_objects_stay_shared_through_a_full_collection(prefork_server: ServerFactory) -> None:
    megabytes = count("preloaded-mebibytes", least=48)
    server = prefork_server(
        "ballast:Collector", app_dir=APPS, workers=4, preload=True, options={"env": {"BALLAST": str(megabytes)}}
    )
    collected: set[str] = set()
    while len(collected) < 4:
        collected.add(ask(server))
    (mold,) = server.molds()
    assert psutil.Process(mold).memory_full_info().rss > megabytes << 20
    assert psutil.Process(server.pid).memory_full_info().rss < 48 << 20, "the master has not loaded it"
    for pid in server.workers():
        assert psutil.Process(pid).memory_full_info().uss <= 10 << 20


# Hooks.


def hook_lines(server: Server, name: str) -> list[str]:
    return told(server, f"^{name} in .*")


def test_each_hook_runs_where_it_says(prefork_server: ServerFactory) -> None:
    server = prefork_server("hooked:Hooked", app_dir=APPS, workers=2, hooks="hooked", timeout=0.5)
    pids = server.workers()
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    server.wait_for(lambda: len(hook_lines(server, "child_exit")) == 2)
    later = server.workers()
    with talk(server, "/hang"):
        server.wait_for(lambda: len(hook_lines(server, "child_exit")) == 3)
    (last,) = set(steady(server, 2)) - set(later)
    server.wait_for_log(rf"INFO {last}:\S+ worker [01]: number \d is ready")  # the end of its boot
    assert server.stop() == 0
    everybody = sorted([*pids, *later, last])
    master = server.pid
    assert hook_lines(server, "on_starting") == [f"on_starting in {master} with 0 listeners"]
    assert hook_lines(server, "when_ready") == [f"when_ready in {master} with 2 workers"]
    assert hook_lines(server, "on_reload") == [f"on_reload in {master} of 2 workers"]
    assert hook_lines(server, "on_exit") == [f"on_exit in {master} with 0 listeners and 0 workers"]
    assert sorted(hook_lines(server, "pre_fork"))[:2] == [
        f"pre_fork in {master} of slot 0 generation 0",
        f"pre_fork in {master} of slot 0 generation 1",
    ]
    assert len(hook_lines(server, "pre_fork")) == 5
    for name in ("post_fork", "post_worker_init"):
        where = [int(pid) for pid in re.findall(rf"^{name} in (\d+) of slot [01]$", server.log(), re.MULTILINE)]
        assert sorted(where) == everybody
    (aborted,) = (int(pid) for pid in re.findall(r"^worker_abort in (\d+) of slot [01]$", server.log(), re.MULTILINE))
    assert aborted in later
    left = [int(pid) for pid in re.findall(r"^worker_exit in (\d+) of slot [01]$", server.log(), re.MULTILINE)]
    assert sorted(left) == [pid for pid in everybody if pid != aborted]
    assert len(hook_lines(server, "child_exit")) == 5
    assert all(f" in {master} of " in text for text in hook_lines(server, "child_exit"))
    assert f"child_exit in {master} of {aborted}: killed by SIGABRT" in "\n".join(hook_lines(server, "child_exit"))
    # What gunicorn's hooks expect of their arguments.
    numbers = {}
    for pid in everybody:
        (number,) = told(server, rf"INFO {pid}:\S+ worker [01]: number \d is there, pid {pid}, of {master}")
        numbers[pid] = number.partition(" number ")[2][0]
        for text in (
            rf"INFO {pid}:\S+ worker [01]: number {numbers[pid]} is ready, pid {pid}, of {master}",
            rf"INFO {master} worker [01]: number {numbers[pid]} is to come, pid None, of {master}",
            rf"INFO {master} pid {pid} is gone from slot [01]",
        ):
            assert told(server, text) != []
    assert sorted(numbers.values()) == ["1", "2", "3", "4", "5"]


def test_hooks_that_raise_harm_nobody(prefork_server: ServerFactory) -> None:
    server = prefork_server("hooked:Hooked", app_dir=APPS, workers=2, hooks="raising", timeout=0.5)
    before = server.workers()
    ask(server)
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    with talk(server, "/hang"):
        server.wait_for_log("killed by SIGABRT")
    assert not set(steady(server, 2)) & set(before)
    ask(server)
    assert server.stop() == 0
    for name in (
        "on_starting",
        "when_ready",
        "pre_fork",
        "post_fork",
        "post_worker_init",
        "worker_abort",
        "worker_exit",
        "child_exit",
        "on_reload",
        "on_exit",
    ):
        assert told(server, rf"ERROR .*hook {name} failed") != [], name


def test_a_hook_that_holds_the_master_up_is_told(prefork_server: ServerFactory) -> None:
    server = prefork_server("hooked:Hooked", app_dir=APPS, workers=1, hooks="dawdling")
    server.wait_for_log(r"serving on (.*\n)+.*WARNING .*hook when_ready kept the master from its work for \d+\.\d s")
    ask(server)


# A worker that somebody traces.


def test_a_worker_that_dies_under_a_tracer_is_replaced_and_wakes_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    victim = server.workers()[0]
    with traced(victim) as tracer:
        if tracer is None:
            pytest.skip("this process may not trace")
        os.kill(victim, signal.SIGKILL)
        server.wait_for_log(rf"worker 0 \(pid {victim}, generation 0\) killed by SIGKILL after")
        server.wait_for(lambda: len(told(server, r"^init ")) == 3, message="a replacement")
        before = server.cpu_seconds()
        time.sleep(1.0)  # the span over which the master's CPU time is taken
        assert server.cpu_seconds() - before < 0.5
        assert psutil.Process(victim).status() == psutil.STATUS_ZOMBIE
        assert len(told(server, "a tracer .* holds back its exit")) == 1
        ask(server)
        tracer.kill()
        tracer.wait()
        wait_gone(victim)
    assert server.stop() == 0


def test_a_stop_and_a_start_that_fails_wait_for_no_tracer(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1)
    (victim,) = server.workers()
    with traced(victim) as tracer:
        if tracer is None:
            pytest.skip("this process may not trace")
        server.signal(signal.SIGTERM)
        os.kill(victim, signal.SIGKILL)
        assert server.wait() == 0
