"""Out of descriptors or memory: real servers stay calm, say so once, lose nobody, and come back by themselves."""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from prefork.scoreboard.layout import EntryView, State
from prefork.services.control import Client
from prefork.testing import READY, Load, Server, burst, call_until, connect
from prefork.testing.faults import Call, Injector, always, first, lasting, unavailable
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import freeze, frozen, kill, limited_descriptors, thaw
from tests.support import figures
from tests.support.boards import board_of, living
from tests.support.probing import LOGGING, ask, get, held, probe, replaced, steady, told, wait_for_rest

injected = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

CLIENTS: Final = 20
CPU: Final = 0.01
"""Cores that a whole server at its limit may use."""
LOG: Final = 2000
"""Bytes that it may write to its log meanwhile, from the first to the last word about it."""
RECOVERY: Final = 0.3 if figures.full() else 15.0
"""Seconds within which all who wait are answered after the limit is lifted; in CI those that only a defect takes."""


def serving(factory: ServerFactory, **settings: Any) -> Server:
    """The probe, once each of its workers waits in accept."""
    server = probe(factory, **{"workers": 4, **settings})
    wait_for_rest(server)
    return server


def short_of(factory: ServerFactory, *names: str, **settings: Any) -> tuple[Injector, Server]:
    """The probe under injection of ``names``. Without a control socket, whose accept would be one of the master's."""
    faults = factory.faults(*names)
    server = serving(factory, control="off", options={"faults": faults}, **settings)
    if "accept" in names:
        in_accept(server, faults)
    return faults, server


def in_accept(server: Server, faults: Injector) -> None:
    """Wait until the first accept of each worker has been let through."""
    workers = server.workers()
    server.wait_for(
        lambda: {call.pid for call in faults.calls("accept")} == set(workers), message="every worker to accept"
    )


def exhaust(server: Server, workers: int = 4) -> None:
    """Have every worker meet its limit, and leave nobody waiting.

    One that waits in accept holds the descriptor of its next connection already, and the kernel wakes them in turn.
    """
    for _ in range(workers):
        ask(server)
    with board_of(server) as board:
        server.wait_for(lambda: board.all_exhausted, message="every worker to be exhausted")


@contextmanager
def calm(server: Server, seconds: float) -> Iterator[None]:
    """What begins and ends the want is in the block; it lasts so long, and must cost next to nothing."""
    log, alive = server.log_size(), server.tree()
    yield
    written = server.log_size() - log
    print(f"log {written} bytes")
    assert written <= LOG, server.log()[log:]
    assert server.tree() == alive


def rest(server: Server) -> None:
    """The seconds for which the figures hold, and what they cost."""
    seconds = figures.count("seconds-of-want", least=1)
    before = server.cpu_seconds()
    time.sleep(seconds)  # the figure is what these seconds cost
    cores = (server.cpu_seconds() - before) / seconds
    print(f"{cores:.4f} cores over {seconds} s")
    assert cores <= figures.bound(CPU)


def relieved(server: Server, waiting: Load, lifted: float) -> None:
    """All who wait are answered, soon."""
    waiting.wait_for(lambda tally: tally.answered == CLIENTS)
    took = time.monotonic() - lifted
    print(f"all {CLIENTS} answered after {took:.3f} s")
    assert waiting.wait().lost == 0
    assert took <= RECOVERY


def views(server: Server) -> list[EntryView]:
    with board_of(server) as board:
        return living(board)


# At the limit, and back.


def test_a_tree_at_its_limit_stays_calm_and_comes_back(prefork_server: ServerFactory) -> None:
    server = serving(prefork_server)
    with calm(server, 1):
        with limited_descriptors(server.tree):
            exhaust(server)
            waiting = burst(server.address, CLIENTS)
            rest(server)
            assert waiting.tally.total == 0
            lifted = time.monotonic()
        relieved(server, waiting, lifted)
        server.wait_for_log("workers have descriptors again")
    assert len(told(server, "a worker is out of descriptors")) == 1
    assert len(told(server, "every worker is out of descriptors or memory$")) == 1
    assert server.stop() == 0


@injected
def test_workers_that_the_system_has_no_file_for_stay_calm_and_come_back(prefork_server: ServerFactory) -> None:
    faults, server = short_of(prefork_server, "accept")
    with calm(server, 1):
        faults.fail("accept", always(errno.ENFILE))
        exhaust(server)
        waiting = burst(server.address, CLIENTS)
        rest(server)
        assert waiting.tally.total == 0
        lifted = time.monotonic()
        faults.release()
        relieved(server, waiting, lifted)
        server.wait_for_log("workers and forks go on after")
    assert len(told(server, "the system is exhausted")) == 1
    assert server.stop() == 0


def test_a_master_at_its_limit_stays_calm_and_makes_up_for_it(prefork_server: ServerFactory) -> None:
    server = serving(prefork_server)
    victim, *others = server.workers()
    log = server.log_size()
    with limited_descriptors([server.pid], 3):
        kill(victim)
        server.wait_for_log("can't fork worker")
        assert burst(server.address, CLIENTS).wait().answered == CLIENTS
        rest(server)
        assert server.workers() == others
    assert len(steady(server, 4)) == 4
    server.wait_for_log("workers are forked again after")
    assert len(told(server, "can't fork")) == 1
    assert server.log_size() - log <= LOG
    assert set(others) < set(server.workers())
    assert server.stop() == 0


@injected
def test_a_master_that_has_nobody_to_fork_any_more_is_exhausted_no_more(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    faults = prefork_server.faults("pipe")
    path = tmp_path / "control"
    server = serving(prefork_server, workers=2, control=path, options={"faults": faults})
    faults.fail("pipe", lambda pid: errno.EMFILE if pid == server.pid else 0)
    with Client(path) as client:
        kill(next(worker.pid for worker in client.status().workers if worker.slot == 1))
        (told,) = call_until(lambda: client.status().exhaustions, bool, message="the exhaustion")
        assert told.startswith("the master: EMFILE for ")
        assert client.scale(1) == 2
        call_until(lambda: client.status().exhaustions, lambda found: not found, message="the end of the exhaustion")
    server.wait_for_log("no worker is to be forked any more")
    assert server.stop() == 0


@injected
def test_many_workers_hold_while_one_probes_and_recover_together(prefork_server: ServerFactory) -> None:
    workers = figures.count("workers-in-want", least=12)
    faults, server = short_of(prefork_server, "accept", workers=workers)
    faults.fail("accept", always(errno.ENFILE))
    exhaust(server, workers)
    began = time.monotonic()
    with board_of(server) as board:
        prober = board.view(board.prober).pid
        begin = began + 0.5

        def later() -> list[Call]:
            return [call for call in faults.calls("accept") if call.time > begin]

        # Long enough for a rate; whatever holds up who counts makes the time longer, never shorter.
        server.wait_for(lambda: time.monotonic() - begin >= 2 and len(later()) >= 4, message="four probes")
        calls, took = later(), time.monotonic() - begin
        assert {call.pid for call in calls} == {prober}
        print(f"{len(calls) / took:.0f} probes a second by one of {workers} workers")
        assert len(calls) / took <= 50
        lifted = time.monotonic()
        faults.release()
        server.wait_for(lambda: all(view.state is State.SERVING for view in living(board)), message="all to serve")
        took = time.monotonic() - lifted
        print(f"all {workers} recovered after {took:.3f} s")
        assert took <= RECOVERY
        server.wait_for(lambda: not board.all_exhausted, message="the master to have heard of it")
    server.wait_for_log("workers and forks go on")
    assert len(told(server, "the system is exhausted|workers and forks go on")) == 2
    assert burst(server.address, 2 * workers).wait().answered == 2 * workers
    assert server.stop() == 0


@injected
def test_it_is_over_for_all_though_nobody_connects(prefork_server: ServerFactory) -> None:
    """Each worker has a queue of its own here: the prober's may stay empty while clients wait in the others."""
    faults, server = short_of(prefork_server, "accept", reuse_port=True)
    faults.fail("accept", always(errno.ENOMEM))
    with board_of(server) as board:
        while not board.all_exhausted:  # the kernel chooses the worker by the client's port
            with connect(server.address) as client:
                client.sendall(get("/"))
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload: generation 1")
        faults.release()
        server.wait_for(lambda: not board.hold and not board.exhaustion.errno, message="the end of the hold")
    server.wait_for_log("generation 1 serves")
    assert server.stop() == 0


@injected
def test_waits_grow_as_the_settings_say_and_a_success_begins_anew(prefork_server: ServerFactory) -> None:
    faults, server = short_of(
        prefork_server,
        "accept",
        workers=1,
        backoff_initial=0.1,
        backoff_factor=3,
        backoff_max=0.5,
        backoff_jitter=0,
    )
    began_anew = []
    for failures in (4, 2, 2, 2):
        so_far = len(faults.calls("accept"))
        faults.fail("accept", first(failures, errno.EMFILE))
        assert burst(server.address, 3).wait().answered == 3
        times = [call.time for call in faults.calls("accept")[so_far:] if call.errno]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        for gap, least in zip(gaps, (0.1, 0.3, 0.5), strict=False):
            assert least <= gap + 0.002  # poll(2) takes milliseconds
        assert len(gaps) == failures - 1
        began_anew.append(gaps[0])
    assert min(began_anew[1:]) < 0.5  # what follows the last wait; a busy machine makes one longer, hardly all of them


# Whoever is missed while all hold.


@injected
@pytest.mark.parametrize("way", ["killed", pytest.param("frozen", marks=pytest.mark.long)])
def test_another_worker_probes_when_the_prober_is(prefork_server: ServerFactory, way: str) -> None:
    faults, server = short_of(prefork_server, "accept")
    faults.fail("accept", always(errno.ENFILE))
    exhaust(server)
    with board_of(server) as board:
        prober = board.view(board.prober).pid
        if way == "killed":
            kill(prober)
        else:
            freeze([prober])
        try:
            server.wait_for(lambda: board.view(board.prober).pid not in {prober, 0}, message="another prober")
            heir = board.view(board.prober).pid
            assert board.hold == errno.ENFILE
            since = time.monotonic()
            server.wait_for(
                lambda: any(call.pid == heir and call.time > since for call in faults.calls("accept")),
                message="the heir to probe",
            )
            assert len(server.workers()) == (3 if way == "killed" else 4)
            waiting = burst(server.address, CLIENTS)
            faults.release()
            waiting.wait_for(lambda tally: tally.answered == CLIENTS)
        finally:
            if way == "frozen":
                thaw([prober])
        server.wait_for(lambda: not board.hold, message="the end of the hold")
    steady(server, 4)
    assert waiting.wait().lost == 0
    assert server.stop() == 0


@injected
def test_workers_go_on_by_themselves_while_the_master_is_frozen(prefork_server: ServerFactory) -> None:
    faults, server = short_of(prefork_server, "accept")
    faults.fail("accept", always(errno.ENFILE))
    exhaust(server)
    with frozen([server.pid]):
        waiting = burst(server.address, 100, payload=get("/sleep/0.01"))
        faults.release()
        tally = waiting.wait()
        assert tally.answered == 100
        served = set(tally.bodies)

        def some_more() -> set[bytes]:
            served.update(burst(server.address, 8, payload=get("/sleep/0.01")).wait().bodies)
            return served

        # All of them, though only one has probed, and sooner or later: the machine has other work.
        call_until(some_more, lambda served: len(served) == 4, message="each of the four to serve")
    server.wait_for_log("workers and forks go on after")
    with board_of(server) as board:
        server.wait_for(lambda: not board.hold and not board.exhaustion.errno, message="the end of the hold")
    assert told(server, "exited with|killed by") == []
    assert server.stop() == 0


@injected
def test_a_want_that_comes_again_while_the_master_is_frozen_is_held_for_again(prefork_server: ServerFactory) -> None:
    faults, server = short_of(prefork_server, "accept")
    faults.fail("accept", always(errno.ENFILE))
    exhaust(server)
    with frozen([server.pid]):
        faults.release()
        with Load(server.address, clients=8) as load:
            load.wait_for(lambda tally: tally.answered > 100)
            faults.fail("accept", always(errno.ENFILE))
            so_far = faults.failed("accept")
            server.wait_for(lambda: faults.failed("accept") > so_far + 12, message="all of them to fail again")
            with board_of(server) as board:
                thaw([server.pid])
                server.wait_for(lambda: bool(board.hold) and board.all_exhausted, message="the hold")
                faults.release()
                server.wait_for(lambda: not board.hold and not board.exhaustion.errno, message="its end")
    assert load.tally.lost == 0, load.tally
    assert server.stop() == 0


# What waits until it is over, and what does not.


@injected
def test_replacements_reloads_and_growth_wait_until_it_is_over(prefork_server: ServerFactory) -> None:
    faults, server = short_of(prefork_server, "accept")
    faults.fail("accept", always(errno.ENFILE))
    exhaust(server)
    with board_of(server) as board:
        prober = board.view(board.prober).pid
        victim = next(pid for pid in server.workers() if pid != prober)
        kill(victim)
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload: generation 1")
        server.signal(signal.SIGTTIN)
        server.wait_for_log("5 workers instead of 4")
        server.wait_for(lambda: victim not in server.workers(), message="the death")
        time.sleep(0.5)  # in which somebody would have been forked
        assert len(server.workers()) == 3
        assert {view.generation for view in living(board)} == {0}
        faults.release()
    server.wait_for_log("reload: generation 1 serves")
    server.wait_for(lambda: [view.generation for view in views(server)] == [1] * 5, message="five of generation 1")
    assert server.stop() == 0


@injected
def test_growth_by_the_load_goes_on_after_a_hold(prefork_server: ServerFactory) -> None:
    faults, server = short_of(prefork_server, "accept", workers=1, max_workers=4)
    with held(server, 1) as connections:
        faults.fail("accept", lasting(1.0, errno.ENFILE))
        with burst(server.address, CLIENTS, payload=get("/sleep/0.2")) as waiting:
            connections[0].finish()
            server.wait_for_log("the system is exhausted")
            server.wait_for_log("workers and forks go on after")
            steady(server, 4)
            assert waiting.wait().answered == CLIENTS


@injected
@pytest.mark.parametrize(
    ("number", "signum"),
    [
        (errno.EMFILE, signal.SIGTERM),
        (errno.ENFILE, signal.SIGINT),
        pytest.param(errno.EMFILE, signal.SIGINT, marks=pytest.mark.long),
        pytest.param(errno.ENFILE, signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_a_stop_ends_every_wait(prefork_server: ServerFactory, number: int, signum: signal.Signals) -> None:
    faults, server = short_of(prefork_server, "accept", backoff_initial=60, backoff_max=60, graceful_timeout=60)
    faults.fail("accept", always(number))
    exhaust(server)
    began = time.monotonic()
    assert server.stop(20, signum=signum) == 0  # a wait is 60 s, graceful_timeout as well
    assert time.monotonic() - began < 20
    assert told(server, "is killed") == []


def test_a_worker_whose_listener_lies_beyond_its_limit_leaves_as_it_is_told(prefork_server: ServerFactory) -> None:
    """dup2(2) gives no number that is not below the limit, and a limit may be lowered below what is open."""
    server = serving(prefork_server, workers=2)
    before = server.workers()
    with limited_descriptors(before, 3):
        server.signal(signal.SIGHUP)
        replaced(server, before)
    server.wait_for_log("generation 1 serves")
    server.wait_for(lambda: len(told(server, "generation 0\\) exited with code 0")) == 2, message="two clean exits")
    assert burst(server.address, CLIENTS).wait().answered == CLIENTS
    assert server.stop() == 0


def test_a_drain_at_the_limit_loses_nobody_once_the_limit_is_lifted(prefork_server: ServerFactory) -> None:
    server = serving(prefork_server)
    with limited_descriptors(server.tree):
        exhaust(server)
        waiting = burst(server.address, CLIENTS)
        server.signal(signal.SIGTERM)
        server.wait_for_log("emptying the accept queues")
    assert waiting.wait().answered == CLIENTS
    assert server.wait() == 0
    assert told(server, "is killed|are lost") == []


# The master's own needs.


@injected
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("fork", errno.EAGAIN),
        ("pipe", errno.EMFILE),
        ("epoll_add", errno.ENOSPC),
        pytest.param("fork", errno.ENOMEM, marks=pytest.mark.long),
        pytest.param("pipe", errno.ENFILE, marks=pytest.mark.long),
        pytest.param("epoll_add", errno.ENOMEM, marks=pytest.mark.long),
    ],
    ids=lambda value: value if isinstance(value, str) else errno.errorcode[value],
)
def test_a_master_that_cannot_fork_tries_again_and_says_so_once(
    prefork_server: ServerFactory, name: str, number: int
) -> None:
    faults, server = short_of(prefork_server, name)
    victim, *others = server.workers()
    began = len(faults.calls(name))
    faults.fail(name, lambda pid: number if pid == server.pid else 0)
    kill(victim)
    server.wait_for(lambda: faults.failed(name) >= 4, message="four attempts")
    times = [call.time for call in faults.calls(name)[began:] if call.errno]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    for gap, least in zip(gaps, (0.1, 0.2, 0.4), strict=False):
        assert gap >= least
    with board_of(server) as board:
        assert board.exhaustion.errno == number
        assert not board.hold
        assert ask(server)
        faults.release()
        steady(server, 4)
        server.wait_for(lambda: not board.exhaustion.errno, message="the end of the pressure")
    server.wait_for_log("workers are forked again after")
    assert set(others) < set(server.workers())
    assert len(told(server, f"ERROR .*can't fork worker .*{re.escape(os.strerror(number))}")) == 1
    assert len(told(server, "workers are forked again after")) == 1
    assert server.stop() == 0


@injected
@pytest.mark.parametrize(
    "number",
    [
        errno.EMFILE,
        errno.ENOSYS,
        *(pytest.param(one, marks=pytest.mark.long) for one in (errno.ENFILE, errno.ENOMEM, errno.EPERM)),
    ],
)
def test_deaths_are_noticed_without_a_pidfd(prefork_server: ServerFactory, number: int) -> None:
    faults = prefork_server.faults("pidfd_open")
    faults.fail("pidfd_open", always(number))
    server = probe(prefork_server, workers=2, options={"faults": faults})
    for _ in range(2):
        before = server.workers()
        kill(*before)
        now = replaced(server, before)
        if number != errno.EMFILE:
            break
        faults.release()  # and those who live already are given one
        server.wait_for(lambda: pidfds(server) == 2, message="a pidfd for each worker")
        assert set(server.workers()) == set(now)
    assert server.stop() == 0


@injected
def test_deaths_are_noticed_where_a_pidfd_cannot_be_watched(prefork_server: ServerFactory) -> None:
    """Each worker costs two watches: that of its report pipe succeeds, that of its pidfd doesn't."""
    faults, server = short_of(prefork_server, "epoll_add", workers=1)
    before = server.workers()
    faults.fail("epoll_add", lambda pid: errno.ENOSPC if pid == server.pid and pidfds(server) else 0)
    kill(*before)
    before = replaced(server, before)
    kill(*before)
    before = replaced(server, before)
    faults.release()
    server.wait_for(lambda: pidfds(server) == 1, message="a pidfd")
    assert server.workers() == before
    assert server.stop() == 0


@injected
def test_a_death_in_the_very_moment_of_the_fork_is_noticed_without_a_pidfd(prefork_server: ServerFactory) -> None:
    """The master, which is about to ask for a pidfd, knows the worker's pid; nothing else of it knows it yet."""
    faults, server = short_of(prefork_server, "pidfd_open", workers=1)
    before = server.workers()
    killed: list[int] = []

    def kill_it(_: int) -> int:
        killed.extend(pid for pid in server.workers() if pid not in {*before, *killed})
        kill(*killed[-1:])
        return errno.EMFILE if len(killed) < 3 else 0

    faults.fail("pidfd_open", kill_it)
    kill(*before)
    server.wait_for(lambda: len(told(server, "killed by SIGKILL")) >= 4, message="every death to be noticed")
    faults.release()
    assert len(steady(server, 1)) == 1
    assert server.stop() == 0


def pidfds(server: Server) -> int:
    """How many pidfds the master holds."""
    count = 0
    for fd in Path(f"/proc/{server.pid}/fd").iterdir():
        try:
            count += os.readlink(fd) == "anon_inode:[pidfd]"
        except FileNotFoundError:
            continue
    return count


def test_at_its_limit_the_master_still_removes_its_path_and_its_lock(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    server = probe(prefork_server, workers=2, bind=f"unix:{tmp_path / 'socket'}")
    with limited_descriptors([server.pid]):
        assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_handler_that_fails_at_the_limit_is_logged_with_its_traceback(prefork_server: ServerFactory) -> None:
    server = serving(prefork_server, workers=1)
    (worker,) = server.workers()
    with limited_descriptors([worker]):
        with connect(server.address) as client:  # whose descriptor the worker has had since it waits
            client.sendall(get("/fail"))
            assert client.recv(1) == b""
        server.wait_for_log(rf"ERROR {worker}\S* worker 0: the handler failed(.*\n)+RuntimeError: failed as asked")
    assert ask(server) == str(worker)


EXHAUSTING = """
import os, sys
import prefork

class Hungry(prefork.Worker):
    def init(self):
        if os.path.exists(sys.argv[1]):
            self.files = [os.open("/dev/null", os.O_RDONLY) for _ in range(500)]

    def handle(self, connection, address):
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 1\\r\\n\\r\\n%d" % self.generation)

sys.exit(prefork.Master(Hungry, prefork.Settings(bind="127.0.0.1:0", workers=2, crash_limit=2)).run())
"""


def test_an_exhausted_boot_is_no_crash(prefork_server: ServerFactory, tmp_path: Path) -> None:
    flag = tmp_path / "hungry"
    server = prefork_server.script(LOGGING + EXHAUSTING, str(flag))
    before = server.workers()
    with limited_descriptors([server.pid], 100):
        flag.touch()
        kill(before[0])
        server.signal(signal.SIGHUP)
        said = server.wait_for_log(r"^WARNING .*can't boot for now: .*$").group()
        assert said.endswith("OSError: [Errno 24] Too many open files: '/dev/null'")
        time.sleep(1.0)  # in which boots would follow each other without a pause, and be a crash loop
        assert ask(server) == "0"
        assert server.workers()[0] == before[1]
        forks = len(told(server, "can't boot|exited with"))
        assert forks <= 2
        flag.unlink()
    server.wait_for_log("workers boot again")
    server.wait_for_log("reload: generation 1 serves")
    assert len(steady(server, 2)) == 2
    assert told(server, "crash loop|failed to boot|Traceback") == []
    assert ask(server) == "1"
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("limit", "workers", "who"), [(40, 16, "the master"), (34, 1, "a worker"), (4096, 16, ""), (64, 4, "")]
)
def test_a_limit_that_is_too_small_is_told_at_the_start(
    prefork_server: ServerFactory, limit: int, workers: int, who: str
) -> None:
    shell = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh"]
    # With so few there can't be as many workers as were asked for, and those who are there serve.
    ready = "serving on|can't fork" if who == "the master" else READY
    server = probe(prefork_server, workers=workers, options={"prefix": shell, "ready": ready})
    said = told(server, "WARNING .*the limit of open descriptors is .*")
    assert len(said) == (1 if who else 0), said
    assert all(f"is {limit}, and {who} needs " in line and "LimitNOFILE=" in line for line in said), said
    assert server.stop() == 0


# What the hook is told.

HOOKED = """
import os, sys
import prefork

class Worker(prefork.Worker):
    def handle(self, connection, address):
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")

def on_pressure(server, pressure):
    print("PRESSURE", os.getpid(), pressure.errno, pressure.system, pressure.slot, pressure.over, flush=True)

hooks = prefork.Hooks(on_pressure=on_pressure)
sys.exit(prefork.Master(Worker, prefork.Settings(bind="127.0.0.1:0", workers=2), hooks=hooks).run())
"""


@injected
@pytest.mark.parametrize(
    "number",
    [
        errno.EMFILE,
        errno.ENFILE,
        *(pytest.param(one, marks=pytest.mark.long) for one in (errno.ENOBUFS, errno.ENOMEM, errno.ENOSR)),
    ],
)
def test_the_hook_is_told_when_it_begins_and_when_it_ends(prefork_server: ServerFactory, number: int) -> None:
    faults = prefork_server.faults("accept")
    server = prefork_server.script(LOGGING + HOOKED, faults=faults)
    in_accept(server, faults)
    faults.fail("accept", always(number))
    exhaust(server, 2)
    server.wait_for_log("^PRESSURE .*$")  # the master hears of it later than the board, which the workers write
    (begin,) = told(server, "^PRESSURE .*")
    slot = begin.split()[4]
    system = number != errno.EMFILE
    assert begin == f"PRESSURE {server.pid} {number} {system} {slot} False"
    faults.release()
    server.wait_for_log(f"^PRESSURE {server.pid} {number} {system} {slot} True$")
    assert len(told(server, "^PRESSURE .*")) == 2
    assert server.stop() == 0


@injected
@pytest.mark.parametrize(
    "number",
    [
        errno.EPERM,
        errno.ECONNABORTED,
        *(pytest.param(one, marks=pytest.mark.long) for one in (errno.EBADF, errno.EXDEV)),
    ],
)
def test_the_hook_is_told_of_want_alone(prefork_server: ServerFactory, number: int) -> None:
    faults = prefork_server.faults("accept")
    server = prefork_server.script(LOGGING + HOOKED, faults=faults)
    faults.fail("accept", lasting(0.5, number))
    assert burst(server.address, CLIENTS).wait().answered == CLIENTS
    with board_of(server) as board:
        assert board.exhaustion == (0, 0, 0)
    assert told(server, "PRESSURE") == []


@injected
def test_the_hook_is_told_that_the_master_cannot_fork(prefork_server: ServerFactory) -> None:
    faults = prefork_server.faults("fork")
    server = prefork_server.script(LOGGING + HOOKED, faults=faults)
    faults.fail("fork", always(errno.EAGAIN))
    before = server.workers()
    kill(*before)
    server.wait_for_log(f"^PRESSURE {server.pid} {errno.EAGAIN} True None False$")
    faults.release()
    replaced(server, before)
    server.wait_for_log(f"^PRESSURE {server.pid} {errno.EAGAIN} True None True$")
    assert len(told(server, "^PRESSURE .*")) == 2
