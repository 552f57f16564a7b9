"""What hooks fork in the master: plain processes, in which no second master goes on and nothing of ours is held."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from pathlib import Path

from prefork.testing import Outcome, hold_port, request, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import is_gone, kill
from tests.support.probing import LOGGING, opened

FORKING = """
import logging, os, sys, time
import prefork

class Quiet(prefork.Worker):
    def handle(self, connection, address):
        connection.sendall(b"ok")

def when_ready(server):
    for way in ("stay", "exit", "return", "raise"):
        pid = os.fork()
        if pid == 0:
            if way == "stay":
                time.sleep(600)
            if way == "exit":
                sys.exit(3)
            if way == "raise":
                raise ValueError("of a child")
            return
        code = pid if way == "stay" else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print("child", way, code, file=sys.stderr, flush=True)

logging.basicConfig(level=logging.INFO, format="%(message)s")
settings = prefork.Settings(bind=sys.argv[1], workers=1, pidfile=sys.argv[2], keepalive=5)
prefork.Master(Quiet, settings, hooks=prefork.Hooks(when_ready=when_ready)).run()
"""


def files(pid: int) -> set[str]:
    """What a process has open beside the standard streams."""
    return {name for number, name in opened(pid).items() if number > 2}


def inode_listens(name: str, address: str) -> bool:
    """Whether a file is the socket that listens there."""
    port = int(address.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return name in {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}


def test_what_a_hook_forks_is_a_plain_process(prefork_server: ServerFactory, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with hold_port() as address:
        server = prefork_server.script(FORKING, address, str(pidfile))
        server.wait_for_log("child raise 1")
        codes = {way: int(code) for way, code in re.findall(r"child (\w+) (\d+)", server.log())}
        child = codes.pop("stay")
        assert codes == {"exit": 3, "return": 0, "raise": 1}
        try:
            (worker,) = set(server.workers()) - {child}
            ours, theirs = files(server.pid), files(child)
            listener = next(name for name in ours & files(worker) if inode_listens(name, address))
            assert listener not in theirs
            assert str(pidfile) in ours
            # Neither the loop's, nor the file with the lock, nor where kept connections wait.
            assert not {name for name in theirs & ours if name.startswith(("anon_inode:", "socket:", str(pidfile)))}
            kill(server.pid)
            wait_for(lambda: is_gone(worker))
            assert request(address).outcome is Outcome.REFUSED
            with pidfile.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.kill(child, signal.SIGKILL)


BESIDE = (
    LOGGING
    + """
import os, socket, threading
import prefork

main = threading.main_thread()
waits, forks, over = threading.Event(), threading.Event(), threading.Event()

def before():
    if threading.current_thread() is not main:
        waits.set()
        forks.wait()
    elif waits.is_set() and not over.is_set():  # the master forks a worker
        forks.set()
        over.wait()

def fork():
    if not os.fork():
        names = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
        os.write(1, f"CHILD has {[os.readlink(name) for name in names if os.path.lexists(name)]}\\n".encode())
        os._exit(0)
    over.set()
    os.wait()

def when_ready(server):
    threading.Thread(target=fork, daemon=True).start()
    waits.wait()
    server.reload()

os.register_at_fork(before=before)
hooks = prefork.Hooks(when_ready=when_ready)
prefork.serve(lambda connection, address: None, bind="127.0.0.1:0", workers=1, hooks=hooks)
"""
)


def test_what_a_thread_forks_while_the_master_forks_is_a_plain_process(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(BESIDE)
    server.wait_for_log("CHILD has")
    server.wait_for_log("generation 1 serves")
    (found,) = re.findall(r"CHILD has (.*)", server.log())
    ours = {name for number, name in opened(server.pid).items() if number > 2}
    assert not {name for name in ours if name.startswith("socket:") and name in found}


EVERYWHERE = """
import logging, os, sys
import prefork

def at(place):
    print("at", place, "in", os.getpid(), file=sys.stderr, flush=True)
    pid = os.fork()
    if pid:
        print("child of", place, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=sys.stderr, flush=True)

class Forks(prefork.Worker):
    def __init__(self):
        super().__init__()
        at("build")

    def init(self):
        at("init")

    def handle(self, connection, address):
        connection.sendall(b"ok")

    def exit(self):
        at("exit")

logging.basicConfig(level=logging.INFO, format="%(message)s")
hooks = {name: lambda *_, name=name: at(name) for name in ("post_fork", "post_worker_init", "worker_exit")}
prefork.Master(Forks, prefork.Settings(bind="127.0.0.1:0", workers=1), hooks=prefork.Hooks(**hooks)).run()
"""
PLACES = ("post_fork", "build", "init", "post_worker_init", "exit", "worker_exit")


def test_what_a_worker_forks_while_it_boots_and_leaves_does_neither(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(EVERYWHERE)
    (worker,) = server.workers()
    assert server.stop() == 0
    assert re.findall(r"at (\w+) in (\d+)", server.log()) == [(place, str(worker)) for place in PLACES]
    assert re.findall(r"child of (\w+) (\d+)", server.log()) == [(place, "0") for place in PLACES]
