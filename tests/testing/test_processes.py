from __future__ import annotations

import resource
import signal
import subprocess
import sys
from errno import EMFILE

import psutil
import pytest

from prefork.testing import Outcome, burst, request, running_script, wait_for
from prefork.testing.processes import freeze, frozen, is_gone, kill, limited_descriptors, thaw
from tests.support.testing_servers import FORKING, PREAMBLE

pytestmark = pytest.mark.executed

PATIENT = (
    PREAMBLE
    + """
ready(address)
while True:
    try:
        connection, _ = listener.accept()
    except OSError as error:
        print("accept:", error.errno, flush=True)
        time.sleep(0.001)
        continue
    with connection:
        connection.recv(65536)
        answer(connection, b"")
"""
)


def soft_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


def test_a_process_without_descriptors_to_take_meets_emfile_and_comes_back() -> None:
    with running_script(PATIENT) as server:
        usual = soft_limit(server.pid)
        with limited_descriptors([server.pid]):
            # The accept under way holds its descriptor already: it is the next one that fails.
            assert request(server.address).outcome is Outcome.ANSWERED
            server.wait_for_log(f"accept: {EMFILE}")
            with burst(server.address, 5) as waiting:
                assert waiting.tally.total == 0
                resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (usual, usual))
                assert waiting.wait().answered == 5
        assert soft_limit(server.pid) == usual


def test_processes_forked_under_the_limit_are_freed_with_the_others() -> None:
    forking = (
        PREAMBLE
        + """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ready(address)
signal.sigwait([signal.SIGUSR1])
if os.fork():
    print("forked", flush=True)
signal.pause()
"""
    )
    with running_script(forking) as server:
        usual = soft_limit(server.pid)
        with limited_descriptors(server.tree, 10):
            server.signal(signal.SIGUSR1)
            server.wait_for_log("forked")
            assert [soft_limit(pid) for pid in server.tree()] == [10, 10]
        assert [soft_limit(pid) for pid in server.tree()] == [usual, usual]


def test_a_frozen_tree_answers_when_it_goes_on() -> None:
    with running_script(FORKING) as server:
        with frozen(server.tree()):
            assert {psutil.Process(pid).status() for pid in server.tree()} == {psutil.STATUS_STOPPED}
            with burst(server.address, 5) as waiting:
                assert waiting.tally.total == 0
                thaw(server.tree())
                assert waiting.wait().answered == 5
        one = server.workers()[0]
        freeze([one])
        assert request(server.address).body != str(one).encode()
        thaw([one])
        kill(one, 2**22 + 1)  # the second can't be a process
        assert is_gone(one)
        freeze([one, server.pid])  # a zombie by now, as its parent doesn't look
        thaw([server.pid])
        assert len(server.workers()) == 2


def test_who_is_forked_while_the_others_are_freed_is_freed_too() -> None:
    """Each look but the last finds one more, which was forked after the look before."""
    with running_script(FORKING) as server:
        usual = soft_limit(server.pid)
        tree = server.tree()
        looks = iter([tree[:1], tree[:1], tree[:2], tree, tree])
        with limited_descriptors(lambda: next(looks), 10):
            for pid in tree[1:]:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (10, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))
        assert [soft_limit(pid) for pid in tree] == [usual] * len(tree)


def test_who_has_ended_is_passed_over() -> None:
    with limited_descriptors([2**22 + 1]):
        pass


LEADERLESS = """
import ctypes, platform, sys, threading
def rest():
    print("alone", flush=True)
    sys.stdin.read()
    import os
    os._exit(0)
threading.Thread(target=rest).start()
ctypes.CDLL(None).syscall({"x86_64": 60}.get(platform.machine(), 93), 0)  # exit(2): this thread alone
"""


def test_a_process_whose_first_thread_has_ended_is_still_there() -> None:
    """It shows as a zombie, and has all its connections still open."""
    command = [sys.executable, "-c", LEADERLESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"alone\n"
        wait_for(
            lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, 30, "the end of its first thread"
        )
        assert not is_gone(process.pid)
        assert process.stdin is not None
        process.stdin.close()
        wait_for(lambda: is_gone(process.pid), 30, "the end of all")
