"""A thread that no fork meets: programs that fork beside one, from several threads and from handlers of signals."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMON = """
import _thread, faulthandler, os, signal, sys, threading, time
from prefork.system.descriptors import readable
from prefork.system.fork_safe_thread import ForkSafeThread

faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(30)
turns, seen, broken = [], [], []

def tasks():
    return len(os.listdir("/proc/self/task"))

# Registered before the thread's own: what is called before a fork is called in the opposite order.
os.register_at_fork(before=lambda: seen.append(tasks()))

def turn():
    turns.append(_thread.get_native_id())
    if broken:
        raise RuntimeError(broken.pop())
    readable(thread.wake_fd, seconds=None)
    thread.heard()

thread = ForkSafeThread(lambda: True, turn, resume=lambda: thread.start(), drop=lambda: seen.clear())

def begun(count):
    while len(turns) < count:
        time.sleep(0.001)

def ended(child):
    assert os.waitpid(child, 0)[1] == 0

def woken():
    count = len(turns)
    thread.wake()
    begun(count + 1)

thread.prepare()
thread.start()
begun(1)
"""
PROGRAMS = {
    "no fork meets it, and a child may have one of its own": """
assert tasks() == 2
child = os.fork()
if not child:
    assert (tasks(), thread.wake_fd, seen) == (1, -1, [])
    turns.clear()
    thread.prepare()
    thread.start()
    begun(1)
    assert tasks() == 2
    thread.end()
    os._exit(0)
ended(child)
assert seen == [1]
begun(2)
assert tasks() == 2
""",
    "it takes no signals": """
with open(f"/proc/self/task/{turns[0]}/status") as file:
    (mask,) = [int(line.split()[1], 16) for line in file if line.startswith("SigBlk")]
assert mask & 1 << signal.SIGTERM - 1 and mask & 1 << signal.SIGRTMAX - 1
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
""",
    "several threads fork at once": """
def fork():
    for _ in range(40):
        child = os.fork()
        if not child:
            os._exit(0)
        ended(child)
        thread.wake()

forking = [threading.Thread(target=fork) for _ in range(4)]
for one in forking:
    one.start()
for one in forking:
    one.join()
assert thread.lock.acquire(timeout=5)
thread.lock.release()
woken()
""",
    "a handler forks under the lock, while the thread wants it": """
def handle(signum, frame):
    child = os.fork()
    if not child:
        os._exit(0)
    ended(child)

signal.signal(signal.SIGUSR1, handle)
for _ in range(20):
    count = len(turns)
    with thread.lock:
        thread.wake()  # it comes to the lock
        signal.raise_signal(signal.SIGUSR1)
    begun(count + 1)
assert set(seen) == {1}
""",
    "a handler forks within a fork": """
again = [1]

def handle(signum, frame):
    child = os.fork()
    if not child:
        os._exit(0)
    ended(child)

signal.signal(signal.SIGUSR1, handle)
os.register_at_fork(before=lambda: again and signal.raise_signal(signal.SIGUSR1 if again.pop() else 0))
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGUSR1) if again else None)
again.append(1)
child = os.fork()
if not child:
    os._exit(0)
ended(child)
woken()
assert thread.lock.acquire(timeout=5)
""",
    "one that has failed can be started again": """
broken.append("as asked")
sys.unraisablehook = lambda unraisable: None
thread.wake()
while tasks() > 1:
    time.sleep(0.001)
turns.clear()
thread.start()
begun(1)
""",
    "one that has ended stays so": """
thread.end()
assert tasks() == 1
child = os.fork()
if not child:
    os._exit(0)
ended(child)
thread.start()
assert tasks() == 1
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_of_forks(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMON + PROGRAMS[name] + "os._exit(0)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
