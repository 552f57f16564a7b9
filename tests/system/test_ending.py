"""How a worker's process ends: as any program does, for what began in it, and for nothing else."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefork.testing import NotServingError, Server, request
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.probing import APPS, LOGGING, ask, told, wait_ended


def said(server: Server, pid: int) -> set[str]:
    """What a process has done in the end."""
    return {re.sub(r"SAID (.*) in \d+", r"\1", line) for line in told(server, rf"^SAID .* in {pid}$")}


BEGUN = {"thread", "executor"}
OF_WORKERS = {"worker's atexit", "worker's finalize", "worker's log closed"}
LOADED = {"loaded atexit", "loaded finalize"}


@pytest.mark.parametrize("preload", [False, True])
def test_a_worker_ends_what_began_in_it(prefork_server: ServerFactory, preload: bool) -> None:
    server = prefork_server("ending:handle", app_dir=APPS, workers=1, preload=preload, control="off")
    pid = int(ask(server))
    assert ask(server, "/register") == str(pid)
    daemon = int(ask(server, "/begin"))
    molds = server.molds()
    assert len(molds) == preload
    assert server.stop() == 0
    wait_ended(daemon)
    assert said(server, pid) == BEGUN | OF_WORKERS | (set() if preload else LOADED)
    assert [said(server, mold) for mold in molds] == [LOADED] * preload
    assert said(server, server.process.pid) == set()
    assert f"(pid {pid}, generation 0) exited with code 0" in server.log()


STARTER = """
import atexit, os
def say(what):
    print("SAID", what, "in", os.getpid(), flush=True)
atexit.register(say, "starter's atexit")
"""


@pytest.mark.executed
@pytest.mark.parametrize("preload", [False, True])
def test_what_starts_the_command_is_told_of_each_end(
    prefork_server: ServerFactory, preload: bool, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(STARTER)
    server = prefork_server(
        "ending:handle",
        app_dir=APPS,
        workers=1,
        preload=preload,
        control="off",
        options={"env": {"PYTHONPATH": str(tmp_path)}},
    )
    first = int(ask(server))
    ask(server, "/register")
    molds = server.molds()
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    wait_ended(first)
    assert said(server, first) == {"starter's atexit"} | OF_WORKERS | (set() if preload else LOADED)
    (second,) = server.workers()
    assert server.stop() == 0
    assert "starter's atexit" in said(server, second)
    assert [said(server, mold) for mold in molds] == [{"starter's atexit"} | LOADED] * preload
    assert said(server, server.process.pid) == {"starter's atexit"}
    assert server.log().count("SAID starter's atexit") == 3 + 2 * preload


def test_what_hangs_in_the_end_is_shown_and_killed(prefork_server: ServerFactory) -> None:
    server = prefork_server("ending:handle", app_dir=APPS, workers=1, graceful_timeout=1, control="off")
    pid = int(ask(server, "/hang"))
    server.signal(signal.SIGHUP)
    server.wait_for_log(rf"worker 0 \(pid {pid}\) is past its loop and doesn't end")
    server.wait_for_log(r'^  File ".*ending.py", line \d+ in end')
    server.wait_for_log(rf"pid {pid}, generation 0\) killed by SIGKILL")
    assert server.stop() == 0


LEAVING = (
    LOGGING
    + """
import asyncio, atexit, sys, time
import prefork

HOW, WHERE = sys.argv[1:]

def at(place):
    print("AT", place, flush=True)
    if place == WHERE == "exit" and HOW != "hangs":
        raise {"exits": SystemExit(3), "breaks off": KeyboardInterrupt(), "cancels": asyncio.CancelledError()}[HOW]
    if place == WHERE:
        time.sleep(600)

class Leaving(prefork.Worker):
    def init(self):
        atexit.register(at, "atexit")

    def run(self):
        accepted = self.accept()
        if accepted is not None:
            with accepted[0] as connection:
                connection.sendall(connection.recv(1000) and b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
            raise RuntimeError("it goes no further")

    def exit(self):
        at("exit")

hooks = prefork.Hooks(worker_exit=lambda server, worker: at("worker_exit"))
prefork.Master(Leaving, prefork.Settings(bind="127.0.0.1:0", workers=1, graceful_timeout=1), hooks=hooks).run()
"""
)


@pytest.mark.parametrize("how", ["exits", "breaks off", "cancels"])
def test_whatever_exit_raises_the_rest_of_the_end_is_done(prefork_server: ServerFactory, how: str) -> None:
    server = prefork_server.script(LEAVING, how, "exit")
    assert server.stop() == 0
    assert told(server, "^AT .*") == ["AT exit", "AT worker_exit", "AT atexit"]
    assert told(server, r"exit\(\) failed")
    assert "exited with code 0" in server.log()


@pytest.mark.parametrize("where", ["exit", "worker_exit", "atexit"])
def test_an_end_that_nobody_has_ordered_is_bounded_too(prefork_server: ServerFactory, where: str) -> None:
    server = prefork_server.script(LEAVING, "hangs", where)
    assert request(server.address).status == 204
    server.wait_for_log(rf"^AT {where}$")
    assert request(server.address, timeout=30).status == 204  # of the next one
    server.wait_for_log(r"worker 0 \(pid \d+\) did not end: Timeout")


def test_the_end_of_an_orphan_is_bounded_too(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(LEAVING, "hangs", "exit")
    workers = server.workers()
    kill(server.pid)
    server.wait_for_log("^AT exit$")
    wait_ended(*workers)


@pytest.mark.parametrize("room", [None, 1 << 20], ids=["", "no-thread-to-be-had"])
def test_an_end_that_lasts_is_bounded(room: int | None) -> None:
    program = f"""
import resource, time
from prefork.system import ending

if {room}:
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + {room}, size + {room}))
ending.bound(0.5, 2)
print("bounded", flush=True)
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout == "bounded\n"
    if room:
        assert (done.returncode, done.stderr) == (-signal.SIGALRM, "")
    else:
        assert (done.returncode, "Timeout (0:00:00.5" in done.stderr) == (1, True)


CRAMPED = """
import resource

import prefork


class Cramped(prefork.Worker):
    def init(self):
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 21), size + (1 << 21)))
        raise RuntimeError("no room")
"""


def test_a_boot_that_fails_where_no_thread_is_to_be_had_is_told_of_alone(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    (tmp_path / "cramped.py").write_text(CRAMPED)
    with pytest.raises(NotServingError) as failed:
        prefork_server("cramped:Cramped", app_dir=tmp_path, workers=1, control="off")
    log = str(failed.value)
    assert "exit code 4" in log
    assert "no room" in log
    assert "watchdog" not in log
