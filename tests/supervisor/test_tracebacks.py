"""Tracebacks of a worker, whatever it runs while it is asked: it lives on, and who runs no Python tells his, too."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prefork.services.control import Client
from prefork.supervisor.tracebacks import INSIST
from prefork.system.signals import DUMP, DUMP_ANYHOW
from prefork.testing import Load, call_until, connect, request, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import freeze, thaw

APP = """
import re
import threading

import prefork

def generated(count):
    yield count
    if count:
        yield from generated(count - 1)

class Asked:
    def __getattr__(self, name):
        return work(2)

    def __del__(self):
        work(1)

def work(depth):
    if depth == 0:
        return sum(len(str(number)) for number in range(20))
    list(generated(depth))
    Asked().anything if depth > 3 else Asked
    return max([work(depth - 1), depth], key=lambda number: number)

def quick(connection, address):
    connection.recv(1 << 16)
    for _ in range(20):
        work(8)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")

class Accompanied(prefork.Worker):
    def init(self):
        threading.Thread(target=self.go_on, daemon=True).start()

    def go_on(self):
        while True:
            work(3)

    def handle(self, connection, address):
        quick(connection, address)

class Pooled(Accompanied):
    def run(self):
        while (accepted := self.accept()) is not None:
            threading.Thread(target=self.serve, args=accepted).start()

    def serve(self, connection, address):
        with self.busy(), connection:
            quick(connection, address)

def stuck(connection, address):
    connection.sendall(b"begun")
    re.match(r"(a|a)*$", "a" * 29 + "b")  # for minutes, with the interpreter's lock

class StuckInAThread(prefork.Worker):
    def run(self):
        while (accepted := self.accept()) is not None:
            threading.Thread(target=stuck, args=accepted).start()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "threads"), [("quick", 1), ("quick", 4), ("Accompanied", 1), ("Pooled", 1)], ids=str
)
def test_who_runs_is_not_ended_by_the_question(
    prefork_server: ServerFactory, folder: Path, target: str, threads: int
) -> None:
    """Frames that are read while they change are read where there is nothing: without the lock a dozen were enough."""
    server = prefork_server(f"shop:{target}", app_dir=folder, workers=1, threads=threads)
    (worker,) = server.workers()
    with Load(server.address, clients=8, bodies=False) as load:
        for _ in range(1000):
            os.kill(worker, DUMP)
            time.sleep(0.002)  # so that each meets something else
        assert server.workers() == [worker]
    assert load.tally.lost == 0
    assert load.tally.answered > 0


def test_who_has_answered_is_not_asked_again(prefork_server: ServerFactory, folder: Path) -> None:
    """The second question is for those who run no Python; and what was answered has been taken by then."""
    control = str(folder / "control")
    server = prefork_server("shop:quick", app_dir=folder, workers=1, threads=4, control=control)
    with Load(server.address, clients=8, bodies=False) as load, Client(control) as operator:
        (worker,) = server.workers()
        for _ in range(20):
            assert "Current thread" in operator.dump(0)
        time.sleep(2 * INSIST)  # as long as it takes to be asked again
        assert server.workers() == [worker]
    assert load.tally.lost == 0


def test_who_is_stopped_is_not_asked_twice(prefork_server: ServerFactory, folder: Path) -> None:
    """He would hear both at once when he goes on, and run Python."""
    control = str(folder / "control")
    server = prefork_server("shop:Accompanied", app_dir=folder, workers=1, control=control)
    (worker,) = server.workers()
    with ThreadPoolExecutor() as pool, Client(control) as operator:
        freeze([worker])
        told = pool.submit(operator.dump, 0)
        wait_for(lambda: waits(worker, DUMP))
        time.sleep(3 * INSIST)  # in which he could be asked
        assert not waits(worker, DUMP_ANYHOW)
        thaw([worker])
        assert "in go_on" in told.result(10)
    assert server.workers() == [worker]


def test_what_nobody_has_taken_is_no_news_at_the_end(prefork_server: ServerFactory, folder: Path) -> None:
    """The log says of who ends by himself that he did, and has no tracebacks that somebody else had asked for."""
    server = prefork_server("shop:quick", app_dir=folder, workers=1)
    (worker,) = server.workers()
    os.kill(worker, DUMP)
    wait_for(lambda: not waits(worker, DUMP))
    server.signal(signal.SIGHUP)
    server.wait_for_log(rf"worker 0 \(pid {worker}, generation 0\) exited with code 0")
    assert server.stop() == 0
    assert "most recent call first" not in server.log()


def waits(pid: int, signum: int) -> bool:
    """Whether a process, or its main thread, has been sent a signal that it has not met."""
    pending = re.findall(r"^S(?:hd|ig)Pnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return any(int(mask, 16) >> (signum - 1) & 1 for mask in pending)


@pytest.mark.parametrize(("target", "threads"), [("stuck", 1), ("stuck", 2), ("StuckInAThread", 1)])
def test_who_runs_no_python_tells_his_all_the_same(
    prefork_server: ServerFactory, folder: Path, target: str, threads: int
) -> None:
    control = str(folder / "control")
    server = prefork_server(
        f"shop:{target}", app_dir=folder, workers=1, threads=threads, control=control, graceful_timeout=1
    )
    with connect(server.address) as client, Client(control) as operator:
        assert client.recv(5) == b"begun"
        text = call_until(lambda: operator.dump(0), lambda told: "in match" in told)
        assert "in stuck" in text
        assert "in asked" not in text


FORGETFUL = """
import signal
import time

def handle(connection, address):
    connection.recv(1 << 16)
    for signum in signal.valid_signals():
        if signum > signal.SIGRTMIN and signum != signal.SIGRTMIN + 2:
            signal.signal(signum, signal.SIG_DFL)
    time.sleep(1)  # it is slow, and is asked where
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""


def test_who_would_be_ended_by_the_question_is_not_asked(prefork_server: ServerFactory, tmp_path: Path) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    server = prefork_server("forgetful:handle", app_dir=tmp_path, workers=1, timeout=20, slow_log=0.01)
    assert request(server.address).status == 200
    assert server.stop() == 0
    assert "killed by" not in server.log()
