"""A child's end is told once, after what it has said; without a pidfd as well, and when its exit can't be taken."""

from __future__ import annotations

import select
import subprocess
import sys

from tests.support.programs import facts

BEGIN = """
import json, os, resource, signal
from prefork.supervisor.event_loop import Loop
from prefork.system import child, process, signals
from prefork.system.child import Children, ReportPipe

loop = Loop()
children = Children(loop)
told = []

def until(done):
    deadline = loop.clock.monotonic() + 30.0
    while not done() and loop.clock.monotonic() < deadline:
        loop.poll(deadline)
    assert done(), told

def forked(body, name="child"):
    pipe, writer = ReportPipe.made(loop, 100)
    with signals.blocked():
        pid = process.fork(lambda: body(writer) or 0)
    os.close(writer)
    return children.watch(pid, name, pipe, lambda ended: told.append([str(ended), pipe.text.decode()]))
"""


def run(body: str) -> object:
    return facts(BEGIN + body)


def test_the_exit_is_told_once_and_after_the_last_word() -> None:
    body = """
before = len(os.listdir("/proc/self/fd"))
made = forked(lambda writer: os.write(writer, b"x" * 500 + b"the end") and 3)
made.look()  # as whoever is told of each child (pid 1) does
until(lambda: told)
made.look()
loop.poll(0.0)
made.put_down()
(how, said), = told
print(json.dumps([how, len(said), said[-8:], len(os.listdir("/proc/self/fd")) - before]))
"""
    assert run(body) == ["exited with code 3", 100, "xthe end", 0]


def test_without_a_pidfd_it_is_looked_for_until_there_is_one() -> None:
    body = """
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
go, come = os.pipe()
open_pidfd = process.open_pidfd
tries = []

def refused(pid):
    resource.setrlimit(resource.RLIMIT_NOFILE, (3 if len(tries) < 2 else limit[0], limit[1]))
    tries.append(pid)
    try:
        return open_pidfd(pid)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)

process.open_pidfd = refused
made = forked(lambda writer: os.read(go, 1) and 4)
first = made.pidfd
until(lambda: made.pidfd is not None)
os.write(come, b"x")
until(lambda: told)
print(json.dumps([first, len(tries), told]))
"""
    assert run(body) == [None, 3, [["exited with code 4", ""]]]


def test_an_exit_that_somebody_else_took_is_told_all_the_same() -> None:
    body = """
import logging
logging.basicConfig(filename="/dev/null")
made = forked(lambda writer: os.write(writer, b"bye") and 5)
os.waitpid(made.pid, 0)
until(lambda: told)
print(json.dumps(told))
"""
    assert run(body) == [["ended, and somebody else's wait() took how", "bye"]]


def test_nobody_is_told_of_one_that_was_put_down() -> None:
    body = """
made = forked(lambda writer: signal.pause())
made.put_down()
try:
    os.waitpid(made.pid, 0)
except ChildProcessError:
    told.append("reaped")
loop.poll(0.0)
print(json.dumps([told, made.pipe.reader]))
"""
    assert run(body) == [["reaped"], -1]


def test_one_that_dies_between_two_looks_is_no_tracers() -> None:
    body = """
made = forked(lambda writer: signal.pause())
remains = process.remains
looks = []

def late(pid):
    looks.append(pid)
    if len(looks) == 2:  # the first is whether it is ours; it lived when its exit was asked for
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return remains(pid)

process.remains, process.kill = late, lambda pid, signum: True
made.put_down()
try:
    os.waitpid(made.pid, 0)
except ChildProcessError:
    told.append("reaped")
print(json.dumps([told, len(looks)]))
"""
    assert run(body) == [["reaped"], 2]


def test_as_pid_1_those_who_are_known_are_told_of_and_the_others_reaped() -> None:
    body = """
with signals.blocked():
    stranger = process.fork(lambda: 0)
made = forked(lambda writer: 6)
for pid in (stranger, made.pid):
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
children.reap_strangers()
print(json.dumps([told, process.any_ended()]))
"""
    assert run(body) == [[["exited with code 6", ""]], None]


def test_who_asks_waits_for_the_answer_and_the_end() -> None:
    body = """
def answer(writer):
    os.write(writer, b"forty-two")
    return 42
said, ended = child.ask(answer)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as some programs start what they execute (wait(2))
print(json.dumps([said, str(ended), [str(what) for what in child.ask(answer)]]))
"""
    taken = "ended, and somebody else's wait() took how"
    assert run(body) == ["forty-two", "exited with code 42", ["forty-two", taken]]


INTERRUPTED = """
import _thread, os, threading
from prefork.system.child import ask

def child(writer):
    os.write(writer, b"begun")
    os.read(0, 1)
    return 0

# As a signal that comes just before read(2): noted by the interpreter, and no system call is interrupted.
try:
    threading.Timer(0.5, _thread.interrupt_main).start()
    ask(child)
except KeyboardInterrupt:
    print("heard", flush=True)
"""


def test_a_signal_just_before_the_wait_for_a_child_is_heard() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], 30)[0], "it is not heard"
            assert process.stdout.readline() == b"heard\n"
        finally:
            process.stdin.close()


def test_ctrl_c_within_the_fork_is_heard() -> None:
    """Python swallows what is raised in the hooks of os.fork(), and logging has one."""
    body = """
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    print(json.dumps([*map(str, child.ask(lambda writer: 0))]))
except KeyboardInterrupt:
    print(json.dumps("heard"))
"""
    assert run(body) == "heard"


def test_ctrl_c_ends_who_is_asked_too_and_quietly() -> None:
    body = """
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGINT))
print(json.dumps([*map(str, child.ask(lambda writer: 0))]))
"""
    assert run(body) == ["", "killed by SIGINT"]
