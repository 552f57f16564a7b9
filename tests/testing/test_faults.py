"""Injection is tried on small servers that report what the kernel gave them."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections import Counter
from errno import EAGAIN, EBADF, ECONNABORTED, EMFILE, ENFILE, ENOMEM, EPERM
from functools import partial

import psutil
import pytest

from prefork.testing import Load, NotServingError, Outcome, Server, burst, request, running, running_script
from prefork.testing.faults import NAMES, Injector, always, every, first, once, per_process, unavailable
from prefork.testing.processes import is_gone
from tests.support.testing_servers import FORKING, GOOD, PREAMBLE

pytestmark = [pytest.mark.executed, pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))]

REPORTING = (
    PREAMBLE
    + """
import errno
signal.signal(signal.SIGUSR1, lambda *_: None)
def rang(*_):
    print("rang", flush=True)
signal.signal(signal.SIGUSR2, rang)
ready(address)
while True:
    try:
        connection, _ = listener.accept()
    except OSError as error:
        print("accept:", errno.errorcode[error.errno], flush=True)
        time.sleep(0.001)
        continue
    with connection:
        connection.recv(65536)
        answer(connection, b"")
"""
)
"""Says what accept failed with, and tries again."""


@pytest.fixture(params=[False, True], ids=["killable", "interruptible"])
def interruptible(request: pytest.FixtureRequest) -> bool:
    """Both ways in which a call can wait for its answer."""
    return bool(request.param)


def waits_in_call(server: Server, faults: Injector, nth: int) -> bool:
    """Whether the n-th accept was let through, and the server sleeps in it."""
    return len(faults.calls("accept")) == nth and psutil.Process(server.pid).status() == psutil.STATUS_SLEEPING


def test_what_is_let_through_blocks_and_is_served_as_ever(interruptible: bool) -> None:
    with Injector("accept", interruptible=interruptible) as faults, running_script(REPORTING, faults=faults) as server:
        for served in range(3):
            # One call is under way and waits in the kernel: it isn't made again and again.
            server.wait_for(partial(waits_in_call, server, faults, served + 1))
            assert request(server.address).outcome is Outcome.ANSWERED
        assert {call.errno for call in faults.calls("accept")} == {0}
        assert {call.pid for call in faults.calls("accept")} == {server.pid}


@pytest.mark.parametrize("error", [EMFILE, ENFILE, ECONNABORTED, EPERM, EBADF])
def test_the_server_gets_the_errno(error: int) -> None:
    with Injector("accept") as faults, running_script(REPORTING, faults=faults) as server:
        server.wait_for(partial(waits_in_call, server, faults, 1))
        faults.fail("accept", once(error))
        # The call under way was let through; the next one fails.
        assert request(server.address).outcome is Outcome.ANSWERED
        server.wait_for_log(f"^accept: {errno.errorcode[error]}$")
        assert request(server.address).outcome is Outcome.ANSWERED
        assert faults.failed("accept") == 1
        assert server.log().count("accept:") == 1


def test_clients_wait_while_every_call_fails_and_are_answered_when_it_ends() -> None:
    with Injector("accept") as faults, running_script(REPORTING, faults=faults) as server:
        server.wait_for(partial(waits_in_call, server, faults, 1))
        faults.fail("accept", always(ENFILE))
        assert request(server.address).outcome is Outcome.ANSWERED
        with burst(server.address, 20) as waiting:
            server.wait_for(lambda: faults.failed("accept") > 20)
            assert waiting.tally.total == 0
            faults.release()
            assert waiting.wait().answered == 20


def test_a_signal_interrupts_a_call_that_was_let_through(interruptible: bool) -> None:
    with Injector("accept", interruptible=interruptible) as faults, running_script(REPORTING, faults=faults) as server:
        end = 0
        for rung in range(5):
            server.wait_for(partial(waits_in_call, server, faults, rung + 1))
            server.signal(signal.SIGUSR2)
            end = server.wait_for_log("^rang$", after=end).end()
            # PEP 475: Python ran the handler and called accept again.
        assert request(server.address).outcome is Outcome.ANSWERED


def test_a_worker_is_sealed_as_without_injection(interruptible: bool) -> None:
    sealing = (
        PREAMBLE
        + """
inert = socket.socket()
signal.signal(signal.SIGTERM, lambda *_: os.dup2(inert.fileno(), listener.fileno()))
ready(address)
try:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            answer(connection, b"")
except OSError as error:
    sys.exit(error.errno)
"""
    )
    with Injector("accept", interruptible=interruptible) as faults, running_script(sealing, faults=faults) as server:
        assert request(server.address).outcome is Outcome.ANSWERED
        server.wait_for(partial(waits_in_call, server, faults, 2))
        assert server.stop() == 22  # EINVAL: the retried accept found the inert socket


def test_a_storm_of_signals_changes_no_count(interruptible: bool) -> None:
    with Injector("accept", interruptible=interruptible) as faults, running_script(REPORTING, faults=faults) as server:
        server.wait_for(partial(waits_in_call, server, faults, 1))
        faults.fail("accept", first(200, ECONNABORTED))
        assert request(server.address).outcome is Outcome.ANSWERED

        def storm() -> bool:
            for _ in range(20):
                server.signal(signal.SIGUSR1)
            return faults.failed("accept") == 200

        server.wait_for(storm)
        assert request(server.address).outcome is Outcome.ANSWERED
        assert server.log().count("accept: ECONNABORTED") == 200
        assert faults.failed("accept") == 200


def test_a_call_that_a_signal_takes_back_is_failed_when_it_is_made_again(interruptible: bool) -> None:
    asked = []
    with Injector("accept", interruptible=interruptible) as faults, running_script(REPORTING, faults=faults) as server:

        def ring_and_fail(pid: int) -> int:
            asked.append(pid)
            if len(asked) > 3:
                return 0
            server.signal(signal.SIGUSR2)
            if interruptible:  # before the answer the handler runs, in Python, and accept is called again
                server.wait_for(lambda: server.log().count("rang") == len(asked))
            return EMFILE

        server.wait_for(partial(waits_in_call, server, faults, 1))
        faults.fail("accept", ring_and_fail)
        assert request(server.address).outcome is Outcome.ANSWERED
        assert request(server.address).outcome is Outcome.ANSWERED
        assert server.log().count("accept: EMFILE") == 3
        assert server.log().count("rang") == 3
        assert faults.failed("accept") == 3
        assert faults.interrupted == (3 if interruptible else 0)


def test_forked_workers_are_under_it_too() -> None:
    with Injector("accept") as faults, running_script(FORKING, faults=faults) as server:
        tally = burst(server.address, 60).wait()
        assert tally.answered == 60
        # One may not have come to its first call, while the others served.
        server.wait_for(lambda: {call.pid for call in faults.calls("accept")} == set(server.workers()))
        assert len(server.workers()) == 3


FORKS = (
    PREAMBLE
    + """
import errno, subprocess, threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ready(address)
while True:
    signal.sigwait([signal.SIGUSR1])
    thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
    subprocess.run(["echo", "subprocess"])
    try:
        pid = os.fork()
    except OSError as error:
        print("fork:", errno.errorcode[error.errno], flush=True)
        continue
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    print("forked", flush=True)
"""
)


def test_forks_fail_and_threads_and_subprocesses_do_not() -> None:
    with Injector("fork") as faults, running_script(FORKS, faults=faults) as server:
        faults.fail("fork", first(2, EAGAIN))
        end = 0
        for words in ("fork: EAGAIN", "fork: EAGAIN", "forked"):
            server.signal(signal.SIGUSR1)
            end = server.wait_for_log(f"thread\nsubprocess\n{words}$", after=end).end()
        faults.fail("fork", once(ENOMEM))
        server.signal(signal.SIGUSR1)
        server.wait_for_log("fork: ENOMEM", after=end)
        # The caller has its answer before that is noted.
        server.wait_for(lambda: [call.errno for call in faults.calls("fork")] == [EAGAIN, EAGAIN, 0, ENOMEM])


def test_each_call_has_a_pattern_of_its_own() -> None:
    with (
        Injector(*NAMES) as faults,
        running_script(
            PREAMBLE
            + """
import ctypes, fcntl, mmap, resource, select
libc = ctypes.CDLL(None, use_errno=True)
memory = os.memfd_create("y")
os.ftruncate(memory, 4096)
def timerfd():
    if libc.timerfd_create(1, 0) < 0:
        raise OSError(ctypes.get_errno(), "")
def attempt(name, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        print(name, error.errno, flush=True)
epoll = select.epoll()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ready(address)
signal.sigwait([signal.SIGUSR1])
attempt("epoll_add", epoll.register, listener)
attempt("open", os.open, "/dev/null", 0)
attempt("pipe", os.pipe)
attempt("pidfd_open", os.pidfd_open, os.getpid())
attempt("dup", os.dup, 0)
attempt("dup", os.dup2, 0, 9)
attempt("socket", socket.socket)
attempt("socketpair", socket.socketpair)
attempt("epoll_create", select.epoll)
attempt("eventfd", os.eventfd, 0)
attempt("memfd_create", os.memfd_create, "x")
attempt("ftruncate", os.ftruncate, memory, 8192)
attempt("mmap", mmap.mmap, -1, 4096)  # shared by default; of a file it would dup first
attempt("prlimit", resource.getrlimit, resource.RLIMIT_NOFILE)
attempt("sched_getaffinity", os.sched_getaffinity, 0)
attempt("timerfd_create", timerfd)
attempt("execve", os.execv, "/bin/true", ["true"])
fcntl.fcntl(0, fcntl.F_SETFD, 0)  # a fcntl that makes no descriptor
attempt("fork", lambda: os.fork() or os._exit(0))
print("done", flush=True)
signal.pause()
""",
            faults=faults,
        ) as server,
    ):
        # Numbers that no kernel gives by itself, one for each name.
        chosen = {name: 1000 + place for place, name in enumerate(NAMES) if name not in ("accept", "fork")}
        for name, number in chosen.items():
            faults.fail(name, always(number))
        server.signal(signal.SIGUSR1)
        server.wait_for_log("^done$")
        said = re.findall("^([a-z_]+) ([0-9]+)$", server.log(), re.MULTILINE)
        assert {name: int(number) for name, number in said} == chosen
        assert faults.failed("dup") == 2
        assert faults.failed("fork") == 0


def test_only_what_an_injector_is_for_can_be_failed() -> None:
    with Injector("accept", "fork") as faults, pytest.raises(ValueError, match="accept, fork, not socket"):
        faults.fail("socket", once(EMFILE))


def test_a_server_that_becomes_another_program_stays_under_it() -> None:
    becoming = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', " + repr(GOOD) + "])"
    with Injector("accept", "execve") as faults, running_script(becoming, faults=faults) as server:
        assert request(server.address).outcome is Outcome.ANSWERED
        assert faults.calls("accept")
        assert len(faults.calls("execve")) >= 2  # the launcher's own, and the server's


def test_the_server_has_nothing_that_it_would_not_have_otherwise() -> None:
    telling = (
        PREAMBLE
        + """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("self:", sorted(os.listdir("/proc/self/fd"), key=int), status["NoNewPrivs"].strip(), status["SigBlk"].strip(),
      status["SigIgn"].strip(), sys.flags, sorted(os.environ), flush=True)
ready(address)
signal.pause()
"""
    )
    if os.geteuid() != 0:
        pytest.skip("without CAP_SYS_ADMIN the launcher must set no_new_privs, which the server inherits")
    with running_script(telling) as server:
        usual = server.wait_for_log("^self: .*$").group()
    with Injector("accept") as faults, running_script(telling, faults=faults) as server:
        assert server.wait_for_log("^self: .*$").group() == usual


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a capability to give up; others run all tests without")
def test_it_works_without_privileges() -> None:
    giving_up = """if True:
    import ctypes, os, sys
    assert ctypes.CDLL(None).prctl(24, 21, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_SYS_ADMIN: gone after the exec
    os.execv(sys.argv[1], sys.argv[1:])
    """
    telling = REPORTING.replace("ready(address)", "print(open('/proc/self/status').read()); ready(address)")
    with Injector("accept") as faults:
        launcher = faults.command([sys.executable, "-c", telling])
        with running([sys.executable, "-c", giving_up, *launcher], pass_fds=faults.pass_fds) as server:
            faults.started()
            assert "NoNewPrivs:\t1" in server.log()
            server.wait_for(partial(waits_in_call, server, faults, 1))
            faults.fail("accept", once(EMFILE))
            assert request(server.address).outcome is Outcome.ANSWERED
            server.wait_for_log("^accept: EMFILE$")
            assert request(server.address).outcome is Outcome.ANSWERED


def test_a_pattern_that_raises_lets_the_call_through_and_fails_the_test() -> None:
    def broken(pid: int) -> int:
        raise ZeroDivisionError(pid)

    def run() -> None:
        with Injector("accept") as faults, running_script(GOOD, faults=faults) as server:
            faults.fail("accept", broken)
            assert request(server.address).outcome is Outcome.ANSWERED
            assert request(server.address).outcome is Outcome.ANSWERED

    with pytest.raises(ZeroDivisionError):
        run()


def test_a_server_that_never_starts_holds_nothing_up() -> None:
    with (
        Injector("accept") as faults,
        pytest.raises(NotServingError, match="exit code"),
        running(["/does/not/exist"], faults=faults),
    ):
        pytest.fail("there is no such program")


def test_an_injector_without_a_server_ends() -> None:
    with Injector("accept") as faults:
        assert faults.calls("accept") == []


def test_the_load_of_each_process_is_told() -> None:
    with Injector("accept") as faults, running_script(FORKING, faults=faults) as server:
        with Load(server.address, clients=4, count=200) as load:
            load.wait()
        server.wait_for(lambda: len(faults.calls("accept")) == 200 + 3, message="all to wait for the next")
        by_process = Counter(call.pid for call in faults.calls("accept"))
        assert faults.busiest("accept", window=1000) == max(by_process.values())
        assert 1 <= faults.busiest("accept", window=1e-9) < max(by_process.values())
        last = faults.calls("accept")[-1].time
        assert faults.busiest("accept", since=last + 1e-9) == 0


def test_each_process_can_have_its_own_failure() -> None:
    with (
        Injector("accept") as faults,
        running_script(
            FORKING.replace("connection, _ = listener.accept()", "connection, _ = patient()").replace(
                "def work", PATIENT + "def work"
            ),
            faults=faults,
        ) as server,
    ):
        faults.fail("accept", per_process(lambda: first(2, EMFILE)))
        with Load(server.address, clients=8) as load:
            server.wait_for(lambda: faults.failed("accept") == 6)
            enough = load.tally.total + 50
            load.wait_for(lambda tally: tally.total > enough)
        assert load.tally.lost == 0
        failed = Counter(call.pid for call in faults.calls("accept") if call.errno == EMFILE)
        assert failed == dict.fromkeys(server.workers(), 2)


PATIENT = """
def patient():
    while True:
        try:
            return listener.accept()
        except OSError as error:
            time.sleep(0.001)

"""


def test_every_third_call_fails_and_nobody_is_lost() -> None:
    with Injector("accept") as faults, running_script(REPORTING, faults=faults) as server:
        faults.fail("accept", every(3, ECONNABORTED))
        assert burst(server.address, 100).wait().answered == 100
        assert faults.failed("accept") >= 49
        server.signal(signal.SIGKILL)
        server.wait()
        assert is_gone(server.pid)


@pytest.mark.parametrize(("said", "error"), [(None, TypeError), (-1, ValueError), (4096, ValueError)])
def test_what_is_no_errno_lets_the_call_through_and_fails_the_test(said: object, error: type[Exception]) -> None:
    def run() -> None:
        with Injector("accept") as faults, running_script(GOOD, faults=faults) as server:
            faults.fail("accept", lambda _pid: said)  # type: ignore[arg-type,return-value]  # what the test is about
            assert request(server.address).outcome is Outcome.ANSWERED
            assert request(server.address).outcome is Outcome.ANSWERED
            assert faults.failed("accept") == 0

    with pytest.raises(error):
        run()


def test_an_injector_serves_one_start_within_its_block() -> None:
    faults = Injector("accept")
    with pytest.raises(RuntimeError, match="within its block"), running_script(GOOD, faults=faults):
        pytest.fail("nobody would answer it")
    with faults, running_script(GOOD, faults=faults) as server:
        assert request(server.address).outcome is Outcome.ANSWERED
        with pytest.raises(RuntimeError, match="one start"), running_script(GOOD, faults=faults):
            pytest.fail("it had its start")
