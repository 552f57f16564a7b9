"""One connection, one call, and what a program around the server may rely on: against real servers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

import prefork
from prefork.scoreboard.entry import Entry
from prefork.scoreboard.events import EventsPipe
from prefork.scoreboard.layout import Order, Scoreboard, State
from prefork.testing import Load, Outcome, Server, burst, connect, request, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import frozen
from tests.support.figures import count
from tests.support.probing import (
    APPS,
    LOGGING,
    ask,
    complaints,
    get,
    held,
    importing,
    line,
    probe,
    replaced,
    talk,
    told,
    wait_for_rest,
)

# One connection, one call.


@pytest.mark.parametrize(
    ("path", "said"),
    [
        pytest.param("/nothing", b"", id="returns"),
        pytest.param("/fail", b"", id="raises"),
        pytest.param("/exit/3", b"", id="leaves"),
        pytest.param("/close", b"", id="has-closed-it"),
        pytest.param("/keep", b"", id="keeps-a-file-on-it"),
    ],
)
def test_a_connection_is_closed_whatever_its_handler_does(
    prefork_server: ServerFactory, path: str, said: bytes
) -> None:
    server = probe(prefork_server, workers=1)
    answer = request(server.address, get(path), expect=lambda _: False, timeout=10)
    assert (answer.outcome, answer.data) == (Outcome.EMPTY, said), answer


def test_a_handler_that_detaches_its_connection_keeps_it(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1)
    with talk(server, "/detach") as client:
        assert line(client) == "mine"
        ask(server)  # the one worker has finished with the connection before
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_an_exception_is_logged_with_its_traceback_and_the_worker_lives_on(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1)
    pid = ask(server)
    with talk(server, "/fail") as client:
        host, port = client.getsockname()
        assert client.recv(1) == b""
    assert ask(server) == pid
    found = server.wait_for_log(rf"ERROR {pid}:0.0 worker 0: .*{host}:{port}\n(.*\n)*RuntimeError: failed as asked")
    assert 'connection.makefile("rb")' not in found.group()  # innermost frames, not pages
    assert "do_fail" in found.group()
    assert ask(server) == pid


def test_a_client_that_goes_away_early_harms_nobody(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1)
    pid = ask(server)
    for _ in range(20):
        with connect(server.address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close resets
            client.sendall(get("/"))
    assert ask(server) == pid


def test_whatever_a_handler_raises_its_worker_lives_on(prefork_server: ServerFactory) -> None:
    """An exception that is no Exception is meant for a caller: asyncio's task, gevent's greenlet, a loop of threads."""
    server = probe(prefork_server, workers=1)
    pid = ask(server)
    for name in (
        "builtins.SystemExit",
        "builtins.KeyboardInterrupt",
        "builtins.GeneratorExit",
        "builtins.BaseException",
        "asyncio.CancelledError",
        "greenlet.GreenletExit",  # gevent's too
        "probe.OfItsOwn",
    ):
        with talk(server, f"/raise/{name}") as client:
            assert client.recv(1) == b""
        kind = name.rpartition(".")[2]
        server.wait_for_log(rf"ERROR {pid}:0.0 worker 0: the handler failed on a connection from .*\n(.*\n)*?.*{kind}")
    assert ask(server) == pid
    assert told(server, "exited with") == []


@pytest.mark.parametrize("bind", [("127.0.0.1:0",), ("127.0.0.1:0", "127.0.0.1:0")], ids=["one", "several"])
@pytest.mark.parametrize("how", ["signal", "thread"])
def test_an_exception_that_comes_late_costs_the_next_client_nothing(
    prefork_server: ServerFactory, bind: tuple[str, ...], how: str
) -> None:
    server = probe(prefork_server, workers=1, bind=bind)
    pid = ask(server)
    for times in range(1, 4):
        assert ask(server, f"/late/{how}") == pid
        server.wait_for(lambda times=times: len(re.findall("an alarm", server.log())) == times)  # type: ignore[misc]  # mypy has no type for such a default
        assert ask(server) == pid
    kind = {"signal": "TimeoutError", "thread": "OfItsOwn"}[how]
    server.wait_for_log(rf"ERROR {pid}:0.0 worker 0: {kind} was raised while no connection was in hand")
    assert told(server, "exited with") == []


@pytest.mark.parametrize("bind", [("127.0.0.1:0",), ("127.0.0.1:0", "127.0.0.1:0")], ids=["one", "several"])
@pytest.mark.parametrize("how", ["signal", "thread"])
def test_an_exception_that_comes_late_is_given_to_a_loop_of_ones_own_and_loses_nothing(
    prefork_server: ServerFactory, bind: tuple[str, ...], how: str
) -> None:
    server = prefork_server("probe:Taking", app_dir=APPS, workers=1, control="off", bind=bind)
    pid = ask(server)
    for times in range(1, 4):
        assert ask(server, f"/late/{how}") == pid
        server.wait_for(lambda times=times: len(re.findall("an alarm", server.log())) == times)  # type: ignore[misc]  # as above
        assert ask(server) == pid
    server.wait_for(lambda: len(re.findall("caught", server.log())) == 3)
    assert told(server, "exited with") == []


def test_a_worker_that_exits_within_its_handler_is_replaced(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    pids = server.workers()
    with talk(server, "/exit/3") as client:
        assert client.recv(1) == b""
    gone = server.wait_for_log(r"WARNING \d+ worker (\d) \(pid (\d+), generation 0\) exited with code 3 after")
    assert int(gone[2]) in pids
    server.wait_for(lambda: len(server.workers()) == 2)
    assert int(gone[2]) not in server.workers()
    assert len(set(server.workers()) & set(pids)) == 1  # the other one is still there


def test_a_dead_worker_is_replaced_in_its_slot(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=3)
    by_slot: dict[str, str] = {}
    while len(by_slot) < 3:
        by_slot[ask(server, "/slot")] = ""
    victim, *others = server.workers()
    os.kill(victim, signal.SIGKILL)
    death = server.wait_for_log(
        rf"WARNING {server.pid} worker (\d) \(pid {victim}, generation 0\) killed by SIGKILL after [\d.]+ s, "
        r"\d+ connections served"
    )
    server.wait_for(lambda: len(server.workers()) == 3)
    (heir,) = set(server.workers()) - set(others)
    server.wait_for_log(rf"^init {death[1]} {heir}$")


def sockets_of(pid: int) -> set[str]:
    """The sockets that a process holds, as the kernel names them."""
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the master opens and closes some
            links.add(os.readlink(descriptor))
    return {link for link in links if link.startswith("socket:")}


@pytest.mark.parametrize("reuse_port", [False, True])
def test_workers_share_what_they_accept_on_and_no_other_socket(
    prefork_server: ServerFactory, *, reuse_port: bool
) -> None:
    """The master has more: one that asks the kernel about queues, some that help to keep new connections away."""
    server = probe(prefork_server, workers=3, reuse_port=reuse_port)
    wait_for_rest(server)
    of_master = sockets_of(server.pid)
    assert len(of_master) > (3 if reuse_port else 1) + 1
    for worker in server.workers():
        # Its listener, and what takes its place when it is to accept no more.
        assert len(sockets_of(worker)) == len(sockets_of(worker) & of_master) == 2


def even(server: Server, connections: int) -> bool:
    """Whether each of eight workers has its share of so many; who has to wait for the processor has less."""
    with Load(server.addresses, clients=1, count=connections) as load:
        tally = load.wait(120)
    assert tally.lost == 0, tally
    return len(tally.bodies) == 8 and max(tally.bodies.values()) / min(tally.bodies.values()) <= 1.1


@pytest.mark.long
def test_connections_spread_evenly(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=8)
    wait_for_rest(server)
    # All of them in CI too: of a few, a worker that lost its CPU for a moment would take more than a tenth.
    wait_for(lambda: even(server, count("sequential-connections", least=8_000)), 120, "even shares")


@pytest.mark.long
def test_connections_spread_evenly_over_several_listeners(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=8, bind=("127.0.0.1:0", "127.0.0.1:0"))
    wait_for_rest(server)
    # Workers take turns of sixteen here, so it takes more connections for the turns to even out.
    wait_for(lambda: even(server, 8_000), 120, "even shares")


# What a handler is given.


def test_io_timeout_is_an_error_and_never_a_short_body(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, io_timeout=0.2)
    with frozen(server.workers()):  # as below
        client = talk(server, "/body")
        client.sendall(b"half of it")  # and then neither more nor an end
    with client:
        assert client.recv(100) == b""
    server.wait_for_log("TimeoutError: timed out")
    with frozen(server.workers()):  # it finds all of that at once, however slowly it is sent
        client = talk(server, "/body")
        client.sendall(b"all of it")
        client.shutdown(socket.SHUT_WR)
    with client:
        assert client.recv(100).endswith(b"9")


@pytest.mark.parametrize("way", ["subprocess", "multiprocessing", "terminated"])
def test_a_handler_has_children_of_its_own(prefork_server: ServerFactory, way: str) -> None:
    server = probe(prefork_server, workers=1)
    pid = ask(server)
    expected = {"subprocess": "7", "multiprocessing": "9", "terminated": str(-signal.SIGTERM)}
    assert ask(server, f"/{way}") == expected[way]
    assert ask(server) == pid
    assert told(server, "wants to be replaced") == []
    assert server.stop() == 0


# Where it listens.


def test_several_listeners_of_every_kind(prefork_server: ServerFactory, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    bind = ("127.0.0.1:0", "[::1]:0", f"unix:{path}", f"unix:@prefork-test-{tmp_path.name}-{path.parent.parent.name}")
    server = probe(prefork_server, workers=2, bind=bind)
    assert len(server.addresses) == 4
    for address in server.addresses:
        assert request(address).status == 200
    waiting = burst(server.addresses, 80, payload=get("/sleep/0.01"))
    assert server.stop() == 0
    assert waiting.wait().answered == 80
    assert list(tmp_path.iterdir()) == []


def test_a_unix_socket(prefork_server: ServerFactory, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = probe(prefork_server, workers=2, bind=f"unix:{path}", socket_mode="0640")
    assert server.address == f"unix:{path}"
    assert path.stat().st_mode & 0o777 == 0o640
    with Load(server.address, clients=4, count=400) as load:
        assert load.wait().answered == 400
    with held(server) as (connection,):
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: not path.exists(), message="the path to be removed")
        connection.finish()
    assert server.wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_unix_socket_outlives_a_server_that_was_killed_and_is_taken_over(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    first = probe(prefork_server, workers=1, bind=f"unix:{path}")
    first.signal(signal.SIGKILL)
    first.wait()
    first.wait_for(lambda: not first.tree(), message="the orphans to leave")
    assert path.is_socket()
    second = probe(prefork_server, workers=1, bind=f"unix:{path}")
    ask(second)
    assert second.stop() == 0
    assert list(tmp_path.iterdir()) == []


# Loops of one's own.

ACCEPT = """
class Own(prefork.Worker):
    def run(self):
        while (accepted := self.accept()) is not None:
            connection, address = accepted
            with connection, self.busy():
                answer(connection)

start = lambda: prefork.Master(Own, prefork.Settings(bind="127.0.0.1:0", workers=2)).run()
"""

MAIN = """
def main(worker):
    for accepted in iter(worker.accept, None):
        with accepted[0]:
            answer(accepted[0])

start = lambda: prefork.serve(main=main, bind="127.0.0.1:0", workers=2)
"""

STOP_FD = """
import selectors
class Own(prefork.Worker):
    def run(self):
        listener = self.sockets[0]
        listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(self.stop_fd, selectors.EVENT_READ)
            while not self.stopping:
                selector.select()
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue
                connection.setblocking(True)
                with connection:
                    answer(connection)

start = lambda: prefork.Master(Own, prefork.Settings(bind="127.0.0.1:0", workers=2)).run()
"""

ON_STOP = """
import socketserver, threading
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        answer(self.request)

class Own(prefork.Worker):
    def run(self):
        with socketserver.TCPServer(("", 0), Handler, bind_and_activate=False) as server:
            server.socket.close()
            server.socket = self.sockets[0]
            server.socket.setblocking(False)
            # shutdown() waits for serve_forever() to end, which the main thread runs and this is called in.
            self.on_stop(threading.Thread(target=server.shutdown).start)
            server.serve_forever(poll_interval=0.05)

start = lambda: prefork.Master(Own, prefork.Settings(bind="127.0.0.1:0", workers=2)).run()
"""

OWN_LOOP = (
    LOGGING
    + """
import os, sys, prefork

def answer(connection):
    if connection.recv(65536):
        body = b"%d" % os.getpid()
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
LOOP
sys.exit(start())
"""
)


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(ACCEPT, id="accept"),
        pytest.param(MAIN, id="main"),
        pytest.param(STOP_FD, id="stop-fd"),
        pytest.param(ON_STOP, id="on-stop"),
    ],
)
def test_a_loop_of_ones_own_serves_reloads_and_stops(prefork_server: ServerFactory, loop: str) -> None:
    server = prefork_server.script(OWN_LOOP.replace("LOOP", loop))
    pids = server.workers()
    with Load(server.address, clients=2) as load:
        load.wait_for(lambda tally: tally.answered > 20)
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 1 serves")
        replaced(server, pids)
        load.wait_for(lambda tally, so_far=load.tally.answered: tally.answered > so_far + 20)  # type: ignore[misc]  # mypy can't infer a lambda with a default
    assert load.tally.lost == 0, load.tally
    assert server.stop() == 0
    assert complaints(server) == []


# A program around the server.

HOST = (
    LOGGING
    + """
import faulthandler, gc, json, os, select, signal, subprocess, sys, threading
import prefork

def state():
    handlers = {}
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        handlers[int(number)] = getattr(handler, "__name__", str(handler))
    reader = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(reader)
    return {
        "handlers": handlers,
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "wakeup": reader,
        "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        "threads": len(threading.enumerate()),
        "logging": [str(handler) for handler in logging.getLogger().handlers + logging.getLogger("prefork").handlers],
        "frozen": gc.get_freeze_count(),
        "directory": os.getcwd(),
        "path": sys.path[:],
        "environment": dict(os.environ),
    }

def mine(signum, frame):
    pass

signal.signal(signal.SIGTERM, mine)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, mine)
signal.signal(signal.SIGCHLD, mine)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
reader, writer = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
"""
)


def facts(server: Server) -> list[dict[str, object]]:
    """What a host program has printed of itself before and after the server's run."""
    found = [json.loads(text) for text in re.findall(r"^STATE (.*)$", server.log(), re.MULTILINE)]
    assert len(found) >= 2, server.log()
    return found


def test_after_the_run_the_host_program_has_back_what_it_had(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(
        HOST
        + """
def handle(connection, address):
    connection.sendall(b"x")

for preload in (False, True):
    print("STATE", json.dumps(state()))
    prefork.serve(handle, bind="127.0.0.1:0", workers=2, preload=preload)
    print("STATE", json.dumps(state()))
"""
    )
    server.signal(signal.SIGTERM)
    server.wait_for_log("(?s)serving on.*serving on")
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    first, *others = facts(server)
    assert others == [first] * 3


def test_a_run_that_fails_gives_everything_back_too(prefork_server: ServerFactory) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = prefork_server.script(
            HOST
            + f"""
def handle(connection, address):
    pass

def broken():
    raise RuntimeError("no boot")

class Broken(prefork.Worker):
    def init(self):
        broken()

print("STATE", json.dumps(state()))
try:
    prefork.serve(handle, bind="127.0.0.1:{taken.getsockname()[1]}", workers=2)
except prefork.ListenError as error:
    print("REFUSED", error)
print("STATE", json.dumps(state()))
try:
    prefork.Master(Broken, prefork.Settings(bind="127.0.0.1:0", workers=2)).run()
except prefork.BootError as error:
    print("FAILED", error)
print("STATE", json.dumps(state()))
print("over")
os.waitid  # no child is left
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("childless")
""",
            ready="over",
        )
        assert server.wait() == 0
    assert told(server, "^REFUSED .*in use|^FAILED .*|^childless") != []
    assert len(told(server, "^REFUSED .*in use|^FAILED .*|^childless")) == 3, server.log()
    first, *others = facts(server)
    assert others == [first] * 2


def test_the_hosts_own_children_are_left_to_it(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(
        LOGGING
        + """
import multiprocessing, os, subprocess, sys
import prefork, probe

def handle(connection, address):
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")

early = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(7)"])
forked = os.fork()
if not forked:
    os._exit(9)
late = []

def when_ready(server):
    late.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(8)"]))
    late.append(multiprocessing.get_context("fork").Process(target=sys.exit, args=(6,)))
    late[-1].start()
    late.append(probe.terminated())

prefork.serve(handle, bind="127.0.0.1:0", workers=2, hooks=prefork.Hooks(when_ready=when_ready))
late[1].join(30)
print("CODES", early.wait(), os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]), late[0].wait(),
      late[1].exitcode, late[2])
""",
        env=importing(APPS),
    )
    assert request(server.address).status == 204
    # Workers come and go, so that the master has exits to take beside those of strangers.
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    assert server.stop() == 0
    assert told(server, "^CODES .*") == [f"CODES 7 9 8 6 {-signal.SIGTERM}"]


def test_run_is_refused_outside_the_main_thread(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(
        """
import os, signal, threading, prefork

before = [signal.getsignal(number) for number in signal.valid_signals()], len(os.listdir("/proc/self/fd"))

def run():
    try:
        prefork.serve(lambda connection, address: None, bind="127.0.0.1:0", workers=1)
    except prefork.PreforkError as error:
        print("REFUSED", error)

thread = threading.Thread(target=run, name="second-fiddle")
thread.start()
thread.join()
after = [signal.getsignal(number) for number in signal.valid_signals()], len(os.listdir("/proc/self/fd"))
print("same", before == after)
""",
        ready="same",
    )
    assert server.wait() == 0
    (text,) = told(server, "^REFUSED .*")
    assert "'second-fiddle'" in text
    assert "main thread" in text
    assert told(server, "^same True")


def test_threads_at_the_fork_are_warned_of_by_name(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(
        LOGGING
        + """
import threading, warnings
import prefork

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of the fork itself; ours is the point here
end = threading.Event()
threading.Thread(target=end.wait, name="background-flusher", daemon=True).start()
prefork.serve(lambda connection, address: None, bind="127.0.0.1:0", workers=1)
"""
    )
    (text,) = told(server, "^WARNING .*thread.*")
    assert "background-flusher" in text
    assert server.stop() == 0


# The life of a worker.


def test_init_and_exit_are_called_once_in_each_worker(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, max_requests=50)
    with Load(server.address, clients=2) as load:
        server.wait_for(lambda: len(told(server, r"^init \d+ \d+$")) > 6)
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 1 serves")
    assert load.tally.lost == 0, load.tally
    assert server.stop() == 0
    born, left = told(server, r"^init \d+ \d+$"), told(server, r"^exit \d+ \d+$")
    assert len(set(born)) == len(born)
    assert sorted(text.removeprefix("init") for text in born) == sorted(text.removeprefix("exit") for text in left)


def test_what_a_worker_prints_last_is_not_lost(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(
        LOGGING
        + """
import io, os, sys, prefork
sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), write_through=False)

class Own(prefork.Worker):
    def handle(self, connection, address):
        pass

    def exit(self):
        print("last words of", self.slot)

prefork.Master(Own, prefork.Settings(bind="127.0.0.1:0", workers=3)).run()
"""
    )
    assert server.stop() == 0
    assert sorted(told(server, "^last words of .*")) == [f"last words of {slot}" for slot in range(3)]


# What serve() is given.


@pytest.mark.parametrize(
    ("call", "said"),
    [
        pytest.param("serve()", "TypeError: serve.. takes either", id="nothing-to-serve"),
        pytest.param("serve(print, main=print)", "TypeError: serve.. takes either", id="both"),
        pytest.param("serve('app:handle')", "TypeError: handle is str, not a function", id="text"),
        pytest.param("serve(main=3)", "TypeError: main is int, not a function", id="number"),
        pytest.param("serve(print, wokers=2)", "SettingsError: wokers", id="unknown-setting"),
        pytest.param("serve(print, workers=-1, backlog='x')", r"SettingsError: .*\n.*: ", id="all-at-once"),
        pytest.param("serve(print, hooks='module')", "TypeError: hooks is str", id="hooks"),
        pytest.param("Master(3)", "TypeError: worker is int", id="worker"),
        pytest.param("Master(Worker, {'workers': 2})", "TypeError: settings is dict", id="settings"),
    ],
)
def test_a_wrong_call_is_refused_at_once(prefork_server: ServerFactory, call: str, said: str) -> None:
    server = prefork_server.script(f"from prefork import *\n{call}\n", ready="Error")
    assert server.wait() == 1
    assert re.search(said, server.log()), server.log()


def test_a_worker_that_would_serve_nothing_does_not_boot(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(
        LOGGING
        + """
import prefork

class Own(prefork.Worker):
    def handel(self, connection, address):
        pass

try:
    prefork.Master(Own, prefork.Settings(bind="127.0.0.1:0", workers=2)).run()
except prefork.TargetError as error:
    print("REFUSED", error)
""",
        ready="REFUSED",
    )
    assert server.wait() == 0
    assert told(server, "^REFUSED .*") == ["REFUSED Own overrides neither handle() nor run(): it would serve nothing"]


def test_a_master_runs_once(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(
        LOGGING
        + """
import prefork

class Own(prefork.Worker):
    def handle(self, connection, address):
        pass

master = prefork.Master(Own, prefork.Settings(bind="127.0.0.1:0", workers=1))
master.run()
try:
    master.run()
except prefork.PreforkError as error:
    print("REFUSED", error)
"""
    )
    assert server.stop() == 0
    assert told(server, "^REFUSED .*once.*")


def test_an_order_counts_as_seen_whatever_is_to_be_called_for_it_raises() -> None:
    """Else the master would wake the worker again and again."""
    board, events = Scoreboard.create(1), EventsPipe()
    worker = prefork.Worker()
    entry = worker._entry = Entry(board, 0, events, go=-1, master=os.getppid())
    entry.stop_fd = os.eventfd(0)
    worker._callbacks = [sys.exit]
    with pytest.raises(SystemExit):
        worker._obey(Order.SEAL)
    assert board.view(0).state is State.STOPPING
    os.close(entry.stop_fd)
    events.close()
    board.close()
