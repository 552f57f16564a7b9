"""Every errno of accept(2), made by the kernel in a real server: nobody is lost, nobody dies, nothing spins."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from errno import EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOTSOCK, EPERM
from typing import Final

import pytest

from prefork.net.accept_errors import DEAD_IN_A_ROW, TABLE, Reaction, reaction
from prefork.scoreboard.layout import Scoreboard, State
from prefork.testing import Server, burst, connect
from prefork.testing.faults import Call, Injector, Pattern, always, every, first, lasting, once, unavailable
from prefork.testing.plugin import ServerFactory
from tests.support import figures
from tests.support.boards import board_of, failures, living
from tests.support.probing import LOGGING, ask, held, probe, replaced, told

injected = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

WORKERS: Final = 4
CLIENTS: Final = 20
MOST_A_SECOND: Final = 50
"""Calls of accept that a worker which backs off may make within any one second."""

AT_ONCE: Final = {Reaction.RETRY, Reaction.POLL, Reaction.DEAD_CONNECTION}
LEVELS: Final = {
    Reaction.BACK_OFF_WORKER: "DEBUG",  # the master tells
    Reaction.BACK_OFF_SYSTEM: "DEBUG",
    Reaction.BACK_OFF_PERMISSION: "ERROR",
    Reaction.LISTENER_LOST: "CRITICAL",
    Reaction.FATAL: "CRITICAL",
}

PATTERNS: Final[dict[str, Callable[[int], Pattern]]] = {
    "once": once,
    "every-third": lambda number: every(3, number),
    "burst": lambda number: first(figures.count("burst-of-failures"), number),
    "seconds": lambda number: lasting(3.0 if figures.full() else 1.2, number),  # one in which accepts are counted
}
CASES: Final = [
    (number, pattern)
    for index, number in enumerate(TABLE)
    for turn, pattern in enumerate(PATTERNS)
    if figures.full() or index % len(PATTERNS) == turn
]
"""All of them; in CI each errno in one pattern and each pattern with every fourth errno."""
KINDS: Final = [(reaction(number), pattern) for number, pattern in CASES]
ANOTHERS: Final = [kind in KINDS[:index] for index, kind in enumerate(KINDS)]
"""Whether an earlier case is the same to a worker: an errno that is treated alike, in the same pattern."""


def served_under(factory: ServerFactory, faults: Injector, **settings: object) -> Server:
    # No control socket: the master would accept, too.
    return probe(factory, workers=WORKERS, log_level="debug", control="off", options={"faults": faults}, **settings)


@injected
@pytest.mark.parametrize(
    ("number", "pattern"),
    [
        pytest.param(*case, id=f"{TABLE[case[0]].name}-{case[1]}", marks=pytest.mark.long if another else ())
        for case, another in zip(CASES, ANOTHERS, strict=True)
    ],
)
def test_every_errno_is_survived(prefork_server: ServerFactory, number: int, pattern: str) -> None:
    faults = prefork_server.faults("accept")
    server = served_under(prefork_server, faults)
    suffer(server, faults, number, PATTERNS[pattern](number))


@pytest.mark.long
@injected
@pytest.mark.parametrize("number", [EAGAIN, ECONNABORTED, EMFILE, ENFILE, EPERM, ENOTSOCK])
def test_several_listeners_survive_too(prefork_server: ServerFactory, number: int) -> None:
    faults = prefork_server.faults("accept")
    server = served_under(prefork_server, faults, bind=("127.0.0.1:0", "127.0.0.1:0"))
    suffer(server, faults, number, lasting(1.0, number))


def suffer(server: Server, faults: Injector, number: int, pattern: Pattern) -> None:
    """Have accept fail while clients wait; they must be answered, and everything else be as it was before."""
    workers = server.workers()
    faults.fail("accept", pattern)
    assert burst(server.addresses, CLIENTS).wait().answered == CLIENTS
    with board_of(server) as board:
        server.wait_for(lambda: len(failed(faults, workers)) > 0, message="a failure")
        faults.release()
        server.wait_for(
            lambda: all(view.state is State.SERVING for view in living(board)) and not board.hold,
            message="every worker to serve again",
        )
        server.wait_for(lambda: counted(board, faults, workers, number), message="every failure to be counted once")
        assert {view.last_errno for view in living(board)} <= {number, EAGAIN, 0}
        server.wait_for(lambda: not board.exhaustion.errno, message="the end of the pressure")
    calls = failed(faults, workers)
    told_of(server, number, len(calls))
    if number != EINTR:
        assert busiest_while_backing_off(calls, number) <= MOST_A_SECOND
    assert server.workers() == workers
    assert told(server, r"exited with|killed by|Traceback|is to be replaced") == []
    assert server.stop() == 0


def failed(faults: Injector, workers: Sequence[int]) -> list[Call]:
    """The accepts of these workers that were made to fail."""
    return [call for call in faults.calls("accept") if call.errno and call.pid in workers]


def counted(board: Scoreboard, faults: Injector, workers: Sequence[int], number: int) -> bool:
    """Whether the slots have counted what was injected."""
    seen, made = failures(board, number), len(failed(faults, workers))
    if number == EINTR:
        return seen == 0  # the interpreter itself deals with it (PEP 475)
    if number == EAGAIN:
        return seen <= made  # somebody waited, and it is a failure once that goes on and on; else a sibling was faster
    return seen == made


def told_of(server: Server, number: int, times: int) -> None:
    """The log says what is done about it, and not for each time."""
    if number not in {EINTR, EAGAIN}:
        server.wait_for_log(rf"worker \d: accept fails: {TABLE[number].name}, ")  # which is told after it is counted
    lines = told(server, rf"^.* worker \d: accept fails: {TABLE[number].name}, .*$")
    if number == EINTR:
        assert lines == []
        return
    if number == EAGAIN and times < WORKERS and not lines:
        return  # siblings that did not fail had taken all who waited, and nothing was to be tried again
    level = LEVELS.get(reaction(number), "WARNING")
    if reaction(number) in AT_ONCE:
        assert any(" DEBUG " in line and line.endswith("; trying again at once") for line in lines), lines
        assert len(lines) <= 2 * WORKERS
    else:
        assert lines
        assert all(f" {level} " in line and line.endswith("; backing off") for line in lines), lines
        assert len(lines) <= WORKERS
    assert any("backing off" in line for line in lines) or times <= DEAD_IN_A_ROW * WORKERS


def busiest_while_backing_off(calls: Sequence[Call], number: int) -> int:
    """The most failures of one worker within a second, from where it begins to back off."""
    left = Counter({call.pid: DEAD_IN_A_ROW if reaction(number) in AT_ONCE else 0 for call in calls})
    recent: defaultdict[int, deque[float]] = defaultdict(deque)
    most = 0
    for call in calls:
        if left[call.pid] > 0:
            left[call.pid] -= 1
            continue
        times = recent[call.pid]
        times.append(call.time)
        while times[0] <= call.time - 1.0:
            times.popleft()
        most = max(most, len(times))
    return most


# Where waiting does not help.


@injected
def test_persistent_eperm_is_said_loudly_and_the_worker_replaced(prefork_server: ServerFactory) -> None:
    """A firewall may forbid it for good, or for a worker's label only: the server goes on trying with new workers."""
    patience = 10.0 if figures.full() else 1.0
    faults = prefork_server.faults("accept")
    server = prefork_server.script(
        LOGGING
        + f"""
import os
import prefork, prefork.accept.recovery

prefork.accept.recovery.PATIENCE = {patience}

def handle(connection, address):
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")

prefork.serve(handle, bind="127.0.0.1:0", workers=2)
""",
        faults=faults,
    )
    before = server.workers()
    faults.fail("accept", always(EPERM))
    waiting = burst(server.address, CLIENTS)
    for _ in before:
        server.wait_for_log(
            r"^ERROR \d+ worker \d: accept fails: EPERM, a firewall or security module forbids it; backing"
        )
    server.wait_for_log(r"^CRITICAL \d+ worker \d: accept fails for good: EPERM, .*; this worker is to be replaced")
    replaced(server, before)
    assert waiting.tally.lost == 0
    faults.release()
    assert waiting.wait().answered == CLIENTS
    # Who had given up before the release is replaced after it; nobody else is.
    lost = r"worker \d: accept fails for good: EPERM"
    ended = r"worker \d \(pid \d+, generation 0\) .* after [\d.]+ s"
    server.wait_for(
        lambda: len(told(server, ended)) == len(told(server, lost)) and len(server.workers()) == len(before),
        message="all to be replaced that had given up",
    )
    gone = told(server, ended)
    assert len(gone) >= len(before)
    assert all(" exited with code 0 " in line for line in gone), gone
    assert server.stop() == 0
    assert told(server, "Traceback|crash loop") == []


LOSING = (
    LOGGING
    + """
import os, socket, sys
import prefork

class Worker(prefork.Worker):
    def handle(self, connection, address):
        path = connection.recv(1000).split()[1].decode()
        listener = self.sockets[0]
        if path == "/shutdown":
            listener.shutdown(socket.SHUT_RDWR)
        elif path == "/close":
            os.close(listener.fileno())
        elif path == "/file":
            os.dup2(os.open("/dev/null", os.O_RDONLY), listener.fileno())
        elif path == "/deaf":
            with socket.socket() as deaf:
                os.dup2(deaf.fileno(), listener.fileno())
        elif path == "/hold":
            connection.sendall(b"held %d\\n" % os.getpid())
            connection.recv(100)
            connection.sendall(b"done %d\\n" % os.getpid())
            return
        body = b"%d" % os.getpid()
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))

try:
    sys.exit(prefork.Master(Worker, prefork.Settings(bind="127.0.0.1:0", workers=4)).run())
except prefork.PreforkError as error:
    print("ENDED", type(error).__name__, error)
    sys.exit(error.exit_code)
"""
)


ORDERED = (
    LOGGING
    + """
import os, signal, socket, sys, time
import prefork

class Ordered(logging.Filter):
    def __init__(self, worker):
        self.worker = worker

    def filter(self, record):
        if "accept fails for good" in record.getMessage():
            os.kill(os.getppid(), signal.SIGTERM)
            while not self.worker.stopping:
                time.sleep(0.001)  # for the order; the test has a deadline
        return True

class Worker(prefork.Worker):
    def init(self):
        logging.getLogger("prefork").addFilter(Ordered(self))
        logging.getLogger("prefork").setLevel(logging.DEBUG)

    def handle(self, connection, address):
        with socket.socket() as deaf:
            os.dup2(deaf.fileno(), self.sockets[0].fileno())

sys.exit(prefork.Master(Worker, prefork.Settings(bind="127.0.0.1:0", workers=1, graceful_timeout=4)).run())
"""
)


def test_who_is_told_to_leave_does_not_wait_for_a_successor(prefork_server: ServerFactory) -> None:
    """The order comes between a failure for good and the wait for whoever is to take over."""
    server = prefork_server.script(ORDERED)
    with connect(server.address):
        assert server.wait() == 0
    assert told(server, "killed") == []


def test_a_listener_that_somebody_has_shut_down_ends_the_server(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(LOSING)
    with held(server) as (connection,):
        ask(server, "/shutdown")
        critical = server.wait_for_log(r"^CRITICAL .*$").group()
        connection.finish()  # what was accepted is finished
    assert server.wait() == 3
    assert critical == (
        f"CRITICAL {server.pid} {server.address}: nothing listens there any more; somebody has shut it down"
    )
    assert len(told(server, "CRITICAL|ERROR")) == 1, server.log()
    assert told(server, "^ENDED .*") == [f"ENDED ListenerLostError {critical.partition(f'{server.pid} ')[2]}"]
    assert server.survivors() == []
    assert told(server, "Traceback|crash loop|killed by|forked") == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        pytest.param("/close", r"OSError: \[Errno 9\]", id="EBADF"),
        pytest.param("/file", r"OSError: \[Errno 88\]", id="ENOTSOCK"),
        pytest.param("/deaf", "wants to be replaced: its listener is lost", id="EINVAL"),
    ],
)
def test_a_worker_that_loses_its_own_copy_is_replaced_alone(
    prefork_server: ServerFactory, path: str, said: str
) -> None:
    server = prefork_server.script(LOSING)
    before = server.workers()
    victim = int(ask(server, path))
    server.wait_for_log(said)
    server.wait_for(lambda: victim not in server.workers() and len(server.workers()) == 4, message="a replacement")
    assert set(before) - {victim} < set(server.workers())
    assert burst(server.address, CLIENTS).wait().answered == CLIENTS
    assert server.stop() == 0
