"""The parking thread alone: what becomes of those it has looked at when a fork ends it, and what it waits for."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMON = """
import os, signal, socket, time
from array import array
from prefork.accept.parked_connections import ParkedConnection, ParkedConnections
from prefork.accept.parking_thread import ParkingThread
from prefork.config.settings import Settings

signal.alarm(30)
passed, looks = [], []

def pass_on(some):
    passed.extend(some)
    parking.handed_over(some)
    return len(some)

def until(what):
    while not what():
        time.sleep(0.001)  # the thread tells nobody

def parked(bound=False):
    ours, theirs = socket.socketpair()
    one = ParkedConnection(ours, "")
    one.bound = bound
    assert parking.admit(one)
    return one, theirs

parking = ParkedConnections(Settings(keepalive=60), memoryview(array("q", bytes(8 * 256))))
thread = ParkingThread(parking, pass_on, lambda: 1)
(one, theirs), (in_hand, _) = parked(bound=BOUND), parked()

def begin():
    parking.in_hand, thread.began = in_hand, time.monotonic_ns()
    if not thread.awake:
        thread.rouse()

def end():
    thread.began = 0
    if thread.active:
        thread.stand_down()
"""
PROGRAMS = {
    "who can't be passed on is looked at again after a fork": """
begin()
theirs.send(b"GET")
until(lambda: not one.watched)  # it is set aside
child = os.fork()
if not child:
    os._exit(0)
end()
assert os.waitpid(child, 0)[1] == 0
assert one.watched
assert [fd for fd, _ in parking.look(0, 16)] == [one.fd]
""",
    "who is ready is passed on though no epoll tells of him": """
one.ready = True
assert parking.admit(one)
begin()
until(lambda: passed)
assert passed == [one]
end()
""",
    "a new epoll is waited for in place of the first": """
begin()
until(lambda: thread.active)
end()
before = parking.fileno()
held = os.dup(before)
ghost, other = parked()
copy = os.dup(ghost.fd)
ghost.connection.close()  # its handler did, and another process has a copy
parking.forget(ghost)
parking.stranger(ghost.fd)
assert parking.fileno() != before
look = parking.look
parking.look = lambda *given: looks.append(1) or look(*given)
begin()
until(lambda: thread.active)
time.sleep(0.05)  # nobody speaks, so nobody is looked for
assert len(looks) < 10, len(looks)
theirs.send(b"GET")
until(lambda: passed)
assert passed == [one]
end()
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_of_the_thread(name: str) -> None:
    bound = str("epoll" not in name)
    program = COMMON.replace("BOUND", bound) + PROGRAMS[name] + "thread.end()\nos._exit(0)"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
