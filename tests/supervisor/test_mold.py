"""The mold: the application is loaded in a process beside the master, and workers are made of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from prefork.services.control.client import Client
from prefork.supervisor.midwife import MOST_DESCRIPTORS, most_at_once
from prefork.system.immortal import lack
from prefork.testing import Load, Server, call_until, hold_port, running_target
from prefork.testing.plugin import ServerFactory
from tests.support.figures import count
from tests.support.probing import (
    APPS,
    PATIENCE,
    ask,
    complaints,
    opened,
    replaced,
    steady,
    talk,
    told,
    wait_ended,
    wait_gone,
)


class Said(NamedTuple):
    """What a worker says of itself."""

    pid: int
    loaded: int
    version: str
    folder: bool


def said(server: Server) -> Said:
    pid, loaded, version, folder, _ = ask(server).split()
    return Said(int(pid), int(loaded), version, folder == "True")


def molded(factory: ServerFactory, **settings: Any) -> Server:
    return factory("molded:handle", app_dir=APPS, **{"preload": True, "workers": 2, "control": "off", **settings})


class Code:
    """What the application does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.write("")

    def write(self, text: str) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(text)
        new.rename(self._path)

    @property
    def options(self) -> dict[str, Any]:
        return {"env": {"MOLDED": str(self._path)}}


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path / "code")


def anew(server: Server, before: list[int]) -> int:
    """The only mold, once it is none of those before."""
    (mold,) = call_until(
        server.molds, lambda now: len(now) == 1 and not set(now) & set(before), message=f"a mold other than {before}"
    )
    return mold


def alone(server: Server, workers: list[int]) -> None:
    """Wait until nobody else looks like a worker, as a mold does that was forked a moment ago and is not named yet."""
    server.wait_for(lambda: server.workers() == workers, message=f"{workers} and nobody else")


# One server for what changes nothing of it.


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("molded") / "control"


@pytest.fixture(scope="module")
def shared(path: Path) -> Iterator[Server]:
    with running_target("molded:handle", app_dir=APPS, preload=True, workers=3, control=str(path)) as server:
        yield server


def test_the_status_has_the_mold_and_a_dump_shows_what_it_is_at(shared: Server, path: Path) -> None:
    with Client(path) as client:
        (mold,) = client.status().molds
        assert (mold.pid, mold.generation, mold.state) == (shared.molds()[0], 0, "ready")
        assert mold.age > 0
        assert mold.pss is not None
        assert 1 << 20 < mold.pss < 1 << 30
        text = client.dump_mold()
        assert "_stand_by" in text
        assert "in live_as_mold" in text.splitlines()[-1]
        assert client.dump(0)


def test_the_application_is_loaded_once_and_never_in_the_master(shared: Server) -> None:
    (mold,) = shared.molds()
    assert told(shared, r"^LOADED in \d+") == [f"LOADED in {mold}"]
    assert {said(shared).loaded for _ in range(10)} == {mold}
    assert mold != shared.pid


def test_workers_are_the_master_s_children(shared: Server) -> None:
    for pid in shared.workers():
        worker = psutil.Process(pid)
        assert worker.ppid() == shared.pid
        assert worker.name() != "prefork: mold"
    assert [psutil.Process(pid).name() for pid in shared.molds()] == ["prefork: mold"]


def test_a_mold_has_no_listening_socket_and_workers_have_nothing_of_the_mold(shared: Server) -> None:
    (mold,) = shared.molds()
    assert psutil.Process(mold).net_connections() == []
    own = {os.readlink(f"/proc/{mold}/fd/{fd.fd}") for fd in psutil.Process(mold).open_files()}
    own = {name for name in own if "/libffi." not in name}  # which Debian's keeps open for its trampolines
    assert len(own) <= 1
    assert all("/dev/" in name for name in own)
    ends = set(opened(mold).values())
    pipes = {end for end in ends if end.startswith("pipe:")}
    for pid in shared.workers():
        theirs = set(opened(pid).values())
        assert len(pipes & theirs) <= 1, "the events pipe is everybody's, the mold's report is not"


def test_who_dies_is_replaced_by_the_same_mold(shared: Server) -> None:
    molds, before = shared.molds(), shared.workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    replaced(shared, before)
    assert said(shared).loaded == molds[0]
    assert shared.molds() == molds


def test_orders_of_somebody_else_end_no_mold(shared: Server) -> None:
    (mold,) = shared.molds()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        os.kill(mold, signum)
    before = shared.workers()
    os.kill(before[0], signal.SIGKILL)
    call_until(shared.workers, lambda now: len(now) == 3 and before[0] not in now)
    assert shared.molds() == [mold]


# Reload.


def test_a_reload_is_a_mold_of_new_code(prefork_server: ServerFactory, code: Code) -> None:
    server = molded(prefork_server, options=code.options)
    molds, workers = server.molds(), server.workers()
    descriptors = server.descriptors()
    with Load(server.address, clients=4, bodies=False) as load:
        for generation in range(1, count("mold-reloads", least=3) + 1):
            code.write(f"VERSION = {generation!r}")
            server.signal(signal.SIGHUP)
            server.wait_for_log(f"reload: generation {generation} serves")
            replaced(server, workers)
            workers = server.workers()
            now = said(server)
            assert (now.version, now.folder) == (str(generation), True)
            anew(server, molds)
            molds = server.molds()
            assert now.loaded == molds[0]
    assert load.tally.lost == 0, load.tally
    assert complaints(server) == []
    server.wait_for(lambda: server.descriptors() <= descriptors, message=f"at most {descriptors} descriptors")
    assert server.stop() == 0
    assert server.survivors() == []


def test_a_former_mold_stays_until_its_last_worker_has_gone(prefork_server: ServerFactory, code: Code) -> None:
    """What it has made at its import, a folder for one, is theirs."""
    server = molded(prefork_server, options=code.options, workers=1)
    first = server.molds()
    with talk(server, "/slow") as client:
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 1 serves")
        assert b" True " in client.makefile("rb").read()
    anew(server, first)
    server.wait_for_log(f"ENDED {first[0]}")


BROKEN = {
    "exception": ("raise ValueError('broken on purpose')", "ValueError: broken on purpose"),
    "import": ("import no_such_module_anywhere", "no_such_module_anywhere"),
    "exit": ("os._exit(5)", "exited with code 5 before it was ready"),
    "crash": ("import signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV before it was ready"),
    "killed": ("import signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL before it was ready"),
    "hang": ("time.sleep(600)", "it was not ready within boot_timeout"),
}


RARE = {"hang", "import", "crash"}
"""Those that take seconds, or of whose kind another is left: what raises, and what is ended by a signal."""


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.long if name in RARE else ()) for name in BROKEN]
)
def test_a_mold_that_fails_leaves_the_old_generation_serving(
    prefork_server: ServerFactory, code: Code, fault: str
) -> None:
    text, why = BROKEN[fault]
    server = molded(prefork_server, options=code.options, boot_timeout=3 if fault == "hang" else 120, crash_limit=100)
    molds, workers = server.molds(), server.workers()
    code.write(text)
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload: generation 1 failed to boot; the old one goes on")
    server.wait_for_log(why)
    if fault == "hang":
        assert told(server, r'File ".*molded.py", line \d+')
        assert not told(server, r'File ".*master.py", line \d+')
    assert server.workers() == workers
    os.kill(workers[0], signal.SIGKILL)
    call_until(server.workers, lambda now: len(now) == 2 and workers[0] not in now)
    assert {said(server).loaded for _ in range(4)} == set(molds)
    code.write("VERSION = 'good'")
    workers = server.workers()
    server.signal(signal.SIGHUP)
    replaced(server, workers)
    assert said(server).version == "good"
    assert server.stop() == 0
    assert server.survivors() == []


def test_workers_that_fail_in_a_reload_leave_the_old_mold_making_them(
    prefork_server: ServerFactory, code: Code
) -> None:
    server = molded(prefork_server, options=code.options)
    molds, workers = server.molds(), server.workers()
    code.write("from prefork import Worker; Worker.init = lambda self: int('broken on purpose')")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload: generation 1 failed to boot; the old one goes on")
    call_until(server.molds, lambda now: now == molds)  # the other one is of no use to anybody
    assert server.workers() == workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    replaced(server, workers)
    assert {said(server).loaded for _ in range(4)} == set(molds)
    code.write("VERSION = 'good'")
    workers = server.workers()
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload: generation 2 serves")
    replaced(server, workers)
    assert said(server).version == "good"
    anew(server, molds)
    assert server.stop() == 0


def lines(server: Server) -> set[str]:
    """The pipes and sockets that the master has open."""
    return {name for name in opened(server.pid).values() if name.startswith(("pipe:", "socket:"))}


def test_a_stop_at_once_waits_for_no_mold_that_is_frozen(prefork_server: ServerFactory) -> None:
    server = molded(prefork_server, workers=1)
    (mold,) = server.molds()
    before = lines(server)
    os.kill(mold, signal.SIGSTOP)
    server.signal(signal.SIGTTIN)
    server.wait_for(lambda: len(lines(server) - before) > 1, message="the two lines to a worker that was asked for")
    for said in ("the connections in hand have", "stopping at once"):
        server.signal(signal.SIGINT)
        server.wait_for_log(said)
    assert server.wait(PATIENCE) == 0
    assert told(server, "it was still to make workers") != []
    assert server.survivors() == []


def test_a_reload_that_overtakes_another_loads_what_is_there_then(prefork_server: ServerFactory, code: Code) -> None:
    server = molded(prefork_server, options=code.options)
    workers = server.workers()
    code.write("time.sleep(600)")
    server.signal(signal.SIGHUP)
    call_until(server.molds, lambda now: len(now) == 2)
    code.write("VERSION = 'last'")
    server.signal(signal.SIGHUP)
    replaced(server, workers)
    assert said(server).version == "last"
    call_until(server.molds, lambda now: len(now) == 1)
    assert server.stop() == 0


# Ends that nobody asked for.


def test_a_mold_that_dies_is_made_anew_and_nobody_notices(prefork_server: ServerFactory) -> None:
    server = molded(prefork_server)
    molds, workers = server.molds(), server.workers()
    os.kill(molds[0], signal.SIGKILL)
    server.wait_for_log(rf"mold \(pid {molds[0]}, generation 0\) killed by SIGKILL; its workers go on")
    alone(server, workers)
    os.kill(workers[0], signal.SIGKILL)  # while there is none: it waits
    mold = anew(server, molds)
    call_until(server.workers, lambda now: len(now) == 2 and workers[0] not in now)
    assert {said(server).loaded for _ in range(20)} <= {mold, molds[0]}
    assert server.stop() == 0
    assert server.survivors() == []


def test_who_dies_while_there_is_no_mold_has_a_successor_when_there_is_one(
    prefork_server: ServerFactory, code: Code
) -> None:
    server = molded(prefork_server, options=code.options)
    molds, workers = server.molds(), server.workers()
    code.write(
        "import pathlib, os; path = pathlib.Path(os.environ['MOLDED'])\nwhile path.stat().st_size: time.sleep(0.01)"
    )
    os.kill(molds[0], signal.SIGKILL)
    server.wait_for_log("those to come wait for another")
    os.kill(workers[0], signal.SIGKILL)
    server.wait_for_log(r"WARNING .*worker \d: another one is forked when there is a mold again")
    assert said(server).pid == workers[1]
    alone(server, [workers[1]])
    code.write("")
    call_until(server.workers, lambda now: len(now) == 2 and workers[0] not in now)
    assert [anew(server, molds)] == server.molds()


def test_the_master_s_death_ends_the_mold_as_well(prefork_server: ServerFactory) -> None:
    server = molded(prefork_server)
    left = [*server.molds(), *server.workers()]
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    wait_ended(*left)


@pytest.mark.long
def test_a_mold_that_is_frozen_is_given_up(prefork_server: ServerFactory) -> None:
    server = molded(prefork_server, workers=1)
    molds, workers = server.molds(), server.workers()
    os.kill(molds[0], signal.SIGSTOP)
    os.kill(workers[0], signal.SIGKILL)
    server.wait_for_log("does not fork workers; it is killed")
    anew(server, molds)
    assert len(steady(server, 1)) == 1
    said(server)
    assert server.stop() == 0


# The start and the end.


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_while_it_loads_ends(
    prefork_server: ServerFactory, code: Code, signum: signal.Signals
) -> None:
    code.write("time.sleep(600)")
    server = molded(prefork_server, options={**code.options, "ready": "LOADED in"})
    server.signal(signum)
    assert server.wait() == 0
    assert server.survivors() == []


def test_what_a_mold_has_to_do_in_the_end_is_done_when_the_workers_have_gone(prefork_server: ServerFactory) -> None:
    server = molded(prefork_server)
    (mold,) = server.molds()
    with talk(server, "/slow") as client:
        assert server.stop() == 0
        assert b" True " in client.makefile("rb").read()
    assert told(server, r"^ENDED \d+") == [f"ENDED {mold}"]
    assert server.survivors() == []


def test_a_mold_that_does_not_end_is_killed(prefork_server: ServerFactory, code: Code) -> None:
    code.write("atexit.register(time.sleep, 600)")
    server = molded(prefork_server, options=code.options, graceful_timeout=1)
    assert server.stop() == 0
    assert told(server, r"mold \(pid \d+, generation 0\) did not end; it was killed")
    assert server.survivors() == []


FORKING_LATER = """
import multiprocessing, threading

def fork_later():
    while not os.path.exists(os.environ["MOLDED"] + ".go"):
        time.sleep(0.01)  # until workers are made of this mold
    codes = []
    for _ in range(10):
        child = multiprocessing.get_context("fork").Process(target=live, daemon=True)
        child.start()
        child.terminate()
        child.join(20)
        codes.append(child.exitcode)
    print("TERMINATED", codes, flush=True)
    multiprocessing.get_context("fork").Process(target=look).start()

def live():
    time.sleep(600)

def look():
    names = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    print("CHILD has", [os.readlink(name) for name in names if os.path.lexists(name)], flush=True)

threading.Thread(target=fork_later, daemon=True).start()
"""


def test_what_a_thread_of_a_mold_forks_is_a_plain_process(prefork_server: ServerFactory, code: Code) -> None:
    code.write(FORKING_LATER)
    server = molded(prefork_server, options=code.options, workers=1)
    Path(f"{code.options['env']['MOLDED']}.go").touch()
    server.wait_for_log("CHILD has")
    assert told(server, r"TERMINATED .*") == [f"TERMINATED {[-signal.SIGTERM.value] * 10}"]
    assert told(server, "CHILD has.*")[0].count("socket:") == 1  # that which all have, and on which nobody listens
    assert server.stop() == 0


def test_an_application_that_takes_orphans_takes_no_workers(prefork_server: ServerFactory, code: Code) -> None:
    code.write("import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)")  # PR_SET_CHILD_SUBREAPER
    server = molded(prefork_server, options={**code.options, "within": 15})
    assert len(server.workers()) == 2
    assert server.stop() == 0
    assert complaints(server) == []


# What workers are given.


def test_each_slot_has_its_own_socket_of_a_group_and_a_slot_that_goes_leaves_it(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    server = molded(prefork_server, workers=3, reuse_port=True, bind=["127.0.0.1:0", f"unix:{tmp_path}/s"])
    with Load(list(server.addresses), clients=6, bodies=False) as load:
        server.signal(signal.SIGTTOU)
        server.wait_for_log("2 workers instead of 3")
        steady(server, 2)
        before = server.workers()
        server.signal(signal.SIGTTIN)  # which makes a socket that the mold has never had
        steady(server, 3)
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 1 serves")
        assert not set(replaced(server, [*before, 0])) & set(before)
        answered = load.tally.answered
        load.wait_for(lambda tally: tally.answered > answered + 100)
    assert load.tally.lost == 0, load.tally
    assert server.stop() == 0


@pytest.mark.long
def test_an_upgrade_renews_the_mold(prefork_server: ServerFactory, code: Code) -> None:
    server = molded(prefork_server, options=code.options)
    molds, workers = server.molds(), server.workers()
    code.write("VERSION = 'new'")
    with Load(server.address, clients=4, bodies=False) as load:
        server.signal(signal.SIGUSR2)
        server.wait_for_log("generation 1 serves")
        replaced(server, workers)
        anew(server, molds)
    assert load.tally.lost == 0, load.tally
    assert said(server).version == "new"
    server.wait_for_log(f"ENDED {molds[0]}")
    assert server.stop() == 0
    assert server.survivors() == []


@pytest.mark.long
def test_a_takeover_ends_the_predecessor_s_mold(prefork_server: ServerFactory, tmp_path: Path) -> None:
    with hold_port(reuse_port=True) as address:
        same = {"bind": address, "reuse_port": True, "pidfile": tmp_path / "pid"}
        first = molded(prefork_server, **same)
        with Load(address, clients=4, bodies=False) as load:
            load.wait_for(lambda tally: tally.answered > 100)
            second = molded(prefork_server, **same, takeover=tmp_path / "pid")
            assert first.wait() == 0
            answered = load.tally.answered
            load.wait_for(lambda tally: tally.answered > answered + 100)
        assert load.tally.lost == 0, load.tally
    assert first.survivors() == []
    assert said(second).loaded == second.molds()[0]
    assert second.stop() == 0


def test_more_workers_than_one_message_has_room_for(prefork_server: ServerFactory) -> None:
    server = molded(prefork_server, workers=70)
    assert len(steady(server, 70)) == 70
    assert server.stop() == 0


# Pure.


@pytest.mark.parametrize(
    ("grouped", "wanted", "most"),
    [
        ((False,), 1, 1),
        ((False,), 1000, 248),
        ((True,), 1000, 124),
        ((True, True, False), 64, 64),
        ((True,) * 4, 64, 49),
    ],
)
def test_how_many_are_asked_for_by_one_message(grouped: tuple[bool, ...], wanted: int, most: int) -> None:
    assert most_at_once(grouped, wanted) == most
    shared, own = len(grouped) - sum(grouped), 1 + sum(grouped)
    assert 1 + shared + own * most <= MOST_DESCRIPTORS


def test_more_listeners_than_a_message_has_room_for() -> None:
    with pytest.raises(OSError, match="300 listeners are too many for a mold"):
        most_at_once((True,) * 300, 1)


def test_what_a_mold_has_loaded_lives_for_ever_or_the_setting_is_refused(prefork_server: ServerFactory) -> None:
    if lack():
        with pytest.raises(AssertionError, match=r"immortal: True can't be had: it was checked on CPython"):
            molded(prefork_server, immortal=True)
        return
    server = molded(prefork_server, immortal=True)
    assert told(server, r"mold: \d+ objects live for ever")
    before = server.workers()
    server.signal(signal.SIGHUP)
    replaced(server, before)
    for pid in server.workers():
        os.kill(pid, signal.SIGTERM)  # each asks for a replacement, and ends as programs do
    assert said(server).loaded in server.molds()
    assert server.stop() == 0
    assert not complaints(server)


def test_a_mold_that_is_given_up_while_it_loads_has_not_failed(prefork_server: ServerFactory, code: Code) -> None:
    server = molded(prefork_server, options=code.options)
    code.write("import time; print('SLOW', flush=True); time.sleep(60)")
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: told(server, "^SLOW"))
    code.write("VERSION = '1'")
    (before,) = server.molds()[1:]
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: "is given up" in server.log())
    wait_gone(before)
    server.wait_for(lambda: "generation 1 serves" in server.log())
    assert "Traceback" not in server.log()
