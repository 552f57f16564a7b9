"""The control socket: its protocol, peers of every kind, the operations, the client, the commands."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import ControlError
from prefork.services.control import Client, paths, protocol
from prefork.services.control.operations import Operations
from prefork.services.control.protocol import LONGEST, REQUESTS, ControlRequestError, Request, parse
from prefork.services.control.server import MOST, PATIENCE, Peer
from prefork.status.model import Ended, Health, Listening, MoldStatus, Process, Status, Totals, Working
from prefork.supervisor.event_loop import Loop
from prefork.system.record import fields_of
from prefork.testing import Load, Server, call_until, hold_port, request, wait_for
from prefork.testing.clock import FakeClock
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import frozen, kill
from tests.support.figures import count
from tests.support.forked import SERVERS
from tests.support.probing import APPS, LOGGING, ask, held, probe, steady
from tests.support.programs import command
from tests.support.sockets import ROOT

TIMEOUT = 30.0
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


# The protocol.


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b'{"do":"health"}', Request("health", {})),
        (b'{"v":1,"id":7,"do":"status"}', Request("status", {"processes": False}, 7)),
        (b' {"do": "scale", "workers": 8, "id": "a"} ', Request("scale", {"workers": 8}, "a")),
        (b'{"do":"recycle","slot":0,"wait":false,"id":null}', Request("recycle", {"slot": 0, "wait": False})),
    ],
)
def test_a_request_is_read(line: bytes, wanted: Request) -> None:
    assert parse(line) == wanted


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (b"", "malformed", "this is not JSON in UTF-8; send one object a line"),
        (b"\xff", "malformed", "this is not JSON"),
        (b"[" * 4000, "malformed", "this is not JSON"),
        (b"1" * 4000, "malformed", "this is"),
        (b"[]", "malformed", "this is JSON, but not an object"),
        (b'{"id":true,"do":"health"}', "malformed", "id: a whole number"),
        (b'{"id":"' + b"a" * 65 + b'","do":"health"}', "malformed", "id: a whole number"),
        (b'{"v":2,"do":"health"}', "malformed", "v: this server speaks version 1"),
        (b'{"v":true,"do":"health"}', "malformed", "v: this server speaks version 1"),
        (b"{}", "malformed", "do: it is missing"),
        (b'{"do":["health"]}', "malformed", "do: it is missing"),
        (b'{"do":"statsu"}', "unknown", "do: 'statsu' is nothing that can be done; did you mean status?"),
        (b'{"do":"__init__"}', "unknown", "do: '__init__' is nothing that can be done; it is one of health"),
        (b'{"do":"health","slot":1}', "unknown", "health: 'slot' is no argument of it"),
        (b'{"do":"scale"}', "unknown", "scale: workers is missing"),
        (b'{"do":"scale","workers":0}', "unknown", "scale: workers has to be a whole number, 1 to 2147483647"),
        (b'{"do":"scale","workers":true}', "unknown", "scale: workers has to be a whole number"),
        (b'{"do":"scale","workers":1e3}', "unknown", "scale: workers has to be a whole number"),
        (b'{"do":"scale","workers":99999999999}', "unknown", "scale: workers has to be a whole number"),
        (b'{"do":"stop","quick":1}', "unknown", "stop: quick has to be true or false"),
    ],
)
def test_a_request_that_asks_for_nothing_is_refused(line: bytes, code: str, said: str) -> None:
    with pytest.raises(ControlRequestError) as error:
        parse(line)
    assert error.value.code == code
    assert error.value.text.startswith(said)
    assert "\n" not in protocol.refusal(error.value).decode().rstrip("\n")


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_a_request_or_refused(line: bytes) -> None:
    with contextlib.suppress(ControlRequestError):
        assert parse(line).do in REQUESTS


def test_an_answer_has_the_request_s_id() -> None:
    asked = parse(b'{"id":"x","do":"health"}')
    assert json.loads(protocol.answer(asked, {"a": 1})) == {"v": 1, "id": "x", "ok": True, "result": {"a": 1}}
    assert json.loads(protocol.refusal(ControlRequestError("failed", "no", "x"))) == {
        "v": 1,
        "id": "x",
        "ok": False,
        "code": "failed",
        "error": "no",
    }


# One peer, without a server: time is the test's.


class Slow(Operations):
    """Answers when the test says."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[object], None]] = []

    def carry_out(
        self,
        request: Request,
        done: Callable[[object], None],
        failed: Callable[[str], None],  # noqa: ARG002  # it answers, or the test does
    ) -> None:
        if request.do == "health":
            done("h" * 300_000)
        elif request.do == "status":
            done(None)
        else:
            self.waiting.append(done)


class Stage:
    """A peer, its other end, the loop between."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.operations = Slow()
        self.client, ours = socket.socketpair()
        self.client.setblocking(False)
        ours.setblocking(False)
        self.closed: list[Peer] = []
        self.peer = Peer(ours, self.loop, self.operations, self.closed.append)

    def turn(self) -> None:
        """All that can happen now."""
        for _ in range(5):
            self.loop.poll(self.clock.monotonic())

    def wait(self, seconds: float) -> None:
        """Let time pass, in steps too small to be a freeze."""
        while seconds > 0:
            self.clock.advance(min(seconds, 0.5))
            seconds -= 0.5
            self.turn()

    def say(self, text: bytes) -> None:
        self.client.send(text)
        self.turn()

    def hear(self) -> bytes:
        """All that has been answered; b"" at the end of the connection too."""
        heard = b""
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self.client.recv(1 << 20):
                heard += data
                self.turn()
        return heard

    def close(self) -> None:
        self.client.close()
        self.peer.close()
        self.loop.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def answers(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def test_requests_that_come_together_are_answered_in_order(stage: Stage) -> None:
    stage.say(b'{"id":1,"do":"status"}\n{"id":2,"do":"status"}\n{"id":3,"do":"nonsense"}\n{"id":4,"do":"st')
    stage.turn()
    assert [answer["id"] for answer in answers(stage.hear())] == [1, 2, 3]
    stage.say(b'atus"}\n')
    assert [answer["id"] for answer in answers(stage.hear())] == [4]


def test_one_waits_for_the_answer_of_the_one_before(stage: Stage) -> None:
    stage.say(b'{"id":1,"do":"reload"}\n{"id":2,"do":"status"}\n')
    assert stage.peer.waits
    assert stage.hear() == b""
    stage.operations.waiting.pop()("done")
    stage.turn()
    assert [answer["id"] for answer in answers(stage.hear())] == [1, 2]


def test_a_malformed_request_is_the_last(stage: Stage) -> None:
    stage.say(b'{"id":1,"do":"status"}\nhello\n{"id":2,"do":"status"}\n')
    first, last = answers(stage.hear())
    assert (first["ok"], last["ok"], last["code"]) == (True, False, "malformed")
    assert stage.closed == [stage.peer]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_request_has_an_end(stage: Stage, end: bytes) -> None:
    stage.say(b"x" * LONGEST + end)
    (answer,) = answers(stage.hear())
    assert answer["error"] == f"a request has {LONGEST} bytes at the most"
    assert stage.closed == [stage.peer]


def test_half_a_request_has_a_deadline(stage: Stage) -> None:
    stage.say(b'{"do":')
    stage.wait(PATIENCE - 0.1)
    assert not stage.closed
    stage.wait(0.2)
    (answer,) = answers(stage.hear())
    assert answer["code"] == "malformed"
    assert stage.closed == [stage.peer]


def test_each_request_has_a_deadline_of_its_own(stage: Stage) -> None:
    """Of a client that asks without a pause there is always half a request here."""
    stage.say(b'{"do":')
    for number in range(2, 6):
        stage.wait(PATIENCE * 0.6)
        stage.say(b'"status"}\n{"do":')
        assert not stage.closed, number
    stage.wait(PATIENCE + 0.1)
    assert answers(stage.hear())[-1]["code"] == "malformed"


def test_an_answer_that_is_taken_late_takes_nothing_from_the_next_request(stage: Stage) -> None:
    stage.say(b'{"do":"health"}\n{"do":')
    stage.wait(PATIENCE * 0.6)
    assert len(answers(stage.hear())) == 1
    stage.wait(PATIENCE * 0.6)
    assert not stage.closed


def test_silence_has_none(stage: Stage) -> None:
    stage.say(b'{"do":"status"}\n')
    stage.wait(3 * PATIENCE)
    stage.say(b'{"do":"status"}\n')
    assert len(answers(stage.hear())) == 2


def test_an_answer_that_nobody_takes_has_a_deadline(stage: Stage) -> None:
    stage.say(b'{"do":"health"}\n')
    stage.wait(PATIENCE + 0.1)
    assert stage.closed == [stage.peer]


def test_an_answer_may_be_taken_slowly(stage: Stage) -> None:
    stage.say(b'{"do":"health"}\n{"id":2,"do":"status"}\n')
    assert not stage.closed
    first, second = answers(stage.hear())
    assert len(first["result"]) == 300_000
    assert second["id"] == 2
    stage.wait(PATIENCE + 0.1)
    assert not stage.closed


def test_who_hangs_up_is_forgotten(stage: Stage) -> None:
    stage.say(b'{"do":"reload"}\n')
    stage.client.close()
    stage.turn()
    stage.operations.waiting.pop()("too late")
    stage.turn()
    assert stage.closed == [stage.peer]


# Where it lies.


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_the_place_follows_from_the_environment(tmp_path: Path) -> None:
    environ = {"RUNTIME_DIRECTORY": f"{tmp_path / 'a'}:/elsewhere", "XDG_RUNTIME_DIR": "/x"}
    assert paths.folder(environ) == tmp_path / "a"
    assert paths.default("/run/shop.pid", environ) == tmp_path / "a" / "shop.control"
    assert paths.default("", environ).name == f"{os.getpid()}.control"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    if os.geteuid() == 0:
        assert paths.folder({"XDG_RUNTIME_DIR": "/x"}) == Path("/run/prefork")
    else:
        assert paths.folder({"XDG_RUNTIME_DIR": "/x"}) == Path("/x/prefork")
        assert paths.folder({}) == Path(f"/tmp/prefork-{os.geteuid()}")


def test_a_folder_that_others_may_write_to_is_not_taken(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="own"):
        paths.default("", {"RUNTIME_DIRECTORY": str(tmp_path)})


def test_a_new_server_removes_the_sockets_of_the_dead(tmp_path: Path) -> None:
    listening(tmp_path / "dead.control").close()
    (tmp_path / "note.control").write_text("not a socket")
    with listening(tmp_path / "living.control"):
        paths.default("", {"RUNTIME_DIRECTORY": str(tmp_path)})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["living.control", "note.control"]


def test_the_only_server_is_found(tmp_path: Path) -> None:
    environ = {"RUNTIME_DIRECTORY": str(tmp_path)}
    with pytest.raises(ControlError, match=r"^no server has a control socket in .*; name one with --control PATH$"):
        paths.find("", environ)
    listening(tmp_path / "dead.control").close()
    with listening(tmp_path / "a.control"):
        assert paths.find("", environ) == str(tmp_path / "a.control")
        assert paths.find("", environ | {"PREFORK_CONTROL": "/b"}) == "/b"
        assert paths.find("/c", environ | {"PREFORK_CONTROL": "/b"}) == "/c"
        with listening(tmp_path / "d.control"), pytest.raises(ControlError) as error:
            paths.find("", environ)
    assert str(error.value).splitlines() == [
        "several servers run here; name one with --control PATH:",
        f"  {tmp_path / 'a.control'}",
        f"  {tmp_path / 'd.control'}",
    ]


# Whole servers.


def told(line: str) -> str:
    """What a command says to have done; behind it stands which server has."""
    found = re.fullmatch(r"(.+) \(\w+:\w+, pid \d+, [^)]+\)\n", line)
    assert found is not None, line
    return found[1]


def test_of_several_servers_each_is_named(
    prefork_server: ServerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = [probe(prefork_server, workers=1, control=str(tmp_path / name)) for name in ("a.control", "b.control")]
    listening(tmp_path / "c.control").close()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    with pytest.raises(ControlError) as error:
        Client()
    _, *lines = str(error.value).splitlines()
    assert lines == [
        f"  {tmp_path / name}  probe:Probe, pid {server.pid}, {server.address}"
        for name, server in zip(("a.control", "b.control"), servers, strict=True)
    ]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s.control")


@pytest.fixture
def server(prefork_server: ServerFactory, path: str) -> Server:
    return probe(prefork_server, workers=2, control=path)


@pytest.fixture
def client(server: Server, path: str) -> Iterator[Client]:
    with Client(path, timeout=TIMEOUT) as made:
        yield made


def state_of(client: Client) -> tuple[object, ...]:
    """What no refused request may change."""
    found = client.status(processes=False)
    return found.state, found.generation, found.size, [(worker.slot, worker.pid) for worker in found.workers]


def test_the_status_tells_what_the_server_does(server: Server, client: Client) -> None:
    for _ in range(3):
        ask(server)
    with contextlib.closing(socket.create_connection(("127.0.0.1", int(server.address.split(":")[1])))) as failing:
        failing.sendall(b"GET /fail HTTP/1.1\r\n\r\n")
        assert failing.recv(10) == b""
    with held(server) as (one,):
        found = call_until(
            client.status, lambda found: found.totals.served + found.totals.failed == 4, message="four finished"
        )
        assert (found.pid, found.state, found.generation) == (server.pid, "serving", 0)
        assert (found.size, found.smallest, found.largest) == (2, 2, 2)
        assert [listener.address for listener in found.listeners] == list(server.addresses)
        assert found.listeners[0].waiting == 0
        assert found.listeners[0].backlog > 0
        assert [worker.slot for worker in found.workers] == [0, 1]
        assert sorted(worker.pid for worker in found.workers) == server.workers()
        states = {worker.pid: worker.state for worker in found.workers}
        assert states.pop(one.pid) == "busy"
        assert list(states.values()) == ["idle"]
        assert 0 < found.uptime < 600
        assert (found.totals.served, found.totals.failed, found.totals.interrupted) == (3, 1, 0)
        assert sum(found.totals.histogram) == 4
        assert found.totals.busy > 0
        assert sum(worker.served for worker in found.workers) == 3
        assert all(worker.longest >= worker.mean for worker in found.workers)
        for process in (found.process, *(worker.process for worker in found.workers)):
            assert process.rss is not None
            assert process.rss > 1 << 20
            assert process.descriptors is not None
            assert process.descriptors > 3
            assert process.cpu is not None
        assert found.deaths == ()
        one.finish()


def test_what_waits_in_the_accept_queue_is_told(server: Server, client: Client) -> None:
    port = int(server.address.split(":")[1])
    with held(server, 2) as hands, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        call_until(client.status, lambda found: found.listeners[0].waiting == 3)
        for hand in hands:
            hand.finish()


def test_deaths_are_remembered_and_what_the_dead_have_served(server: Server, client: Client) -> None:
    for _ in range(6):
        ask(server)
    call_until(client.status, lambda found: found.totals.served == 6)
    victim = server.workers()[0]
    kill(victim)
    found = call_until(client.status, lambda found: found.totals.forks == 3, message="the replacement")
    assert (found.deaths[0].pid, found.deaths[0].how) == (victim, "killed by SIGKILL")
    assert found.totals.served == 6
    assert found.totals.deaths == {"crash": 1}
    assert found.totals.cpu > 0


def test_a_killed_worker_s_connection_counts_as_interrupted(server: Server, client: Client) -> None:
    with held(server) as (one,):
        kill(one.pid)
        found = call_until(client.status, lambda found: found.totals.interrupted, message="the death")
        assert found.totals.interrupted == 1
        assert one.lost()


def test_a_reload_answers_when_the_new_generation_serves(server: Server, client: Client) -> None:
    before = server.workers()
    assert client.reload(timeout=TIMEOUT) == 1
    found = client.status(processes=False)
    assert (found.generation, found.state, found.totals.reloads) == (1, "serving", 1)
    serving = [worker for worker in found.workers if worker.state != "leaving"]
    assert {worker.generation for worker in serving} == {1}
    assert not {worker.pid for worker in serving} & set(before)
    assert client.reload(wait=False) == 2


def test_a_reload_to_broken_code_answers_with_the_reason(
    prefork_server: ServerFactory, tmp_path: Path, path: str
) -> None:
    app = tmp_path / "shop.py"
    app.write_text("def handle(connection, address): connection.sendall(b'fine')\n")
    server = prefork_server("shop:handle", app_dir=tmp_path, workers=2, control=path)
    before = server.workers()
    app.write_text("raise RuntimeError('the new code is broken')\n")
    done = run("reload", "--control", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "prefork: error: generation 1 failed to boot, the old one goes on: RuntimeError: the new code is broken\n"
    )
    assert server.workers() == before
    app.write_text("def handle(connection, address): connection.sendall(b'better')\n")
    done = run("reload", "--control", path)
    assert (done.returncode, told(done.stdout), done.stderr) == (0, "generation 2 serves", "")
    with Client(path) as client:
        assert client.status().totals.failed_reloads == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["reload"], r"generation 1 failed to boot, the old one goes on: killed by SIGKILL"),
        (["recycle", "0"], r"the replacement \(pid \d+\) failed to boot; pid \d+ goes on"),
    ],
)
def test_workers_that_are_killed_in_their_boot_again_and_again_are_answered_for(
    prefork_server: ServerFactory, tmp_path: Path, path: str, command: list[str], said: str
) -> None:
    """As by the kernel when there is no memory for one more: who waits for the reload does not wait for ever."""
    app = tmp_path / "shop.py"
    app.write_text("def handle(connection, address): connection.sendall(b'fine')\n")
    server = prefork_server("shop:handle", app_dir=tmp_path, workers=2, control=path, crash_limit=3)
    before = server.workers()
    app.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    done = run(*command, "--control", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"prefork: error: {said}\n", done.stderr), done.stderr
    assert set(before) <= set(server.workers())


@pytest.mark.long
def test_an_upgrade_keeps_the_pid_and_the_sums(server: Server, client: Client, path: str) -> None:
    for _ in range(5):
        ask(server)
    call_until(client.status, lambda found: found.totals.served == 5)  # its client is answered before it is counted
    kill(server.workers()[0])
    call_until(client.status, lambda found: found.totals.forks == 3)
    before = client.status()
    with Load(server.address, clients=2) as load:
        done = run("upgrade", "--control", path)
        load.wait_for(lambda tally: tally.answered > 20)
    assert (done.returncode, told(done.stdout), done.stderr) == (0, "generation 1 serves", "")
    assert load.tally.lost == 0, load.tally
    with Client(path) as again:
        now = call_until(again.status, lambda found: found.totals.served >= before.totals.served + load.tally.answered)
        assert (now.pid, now.started, now.generation) == (before.pid, before.started, 1)
        assert now.uptime > before.uptime
        assert now.totals.deaths["crash"] == 1
        assert now.totals.forks == 5
        assert sum(now.totals.histogram) == now.totals.served
        assert now.totals.served == 5 + load.tally.answered
    with pytest.raises(ControlError, match="the server closed the connection"):
        client.status()


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "said", "goes_on"),
    [
        ("upgrade", "the new code exited with code 4: {why}; the old code goes on", "the old code goes on"),
        ("reload", "generation 1 failed to boot, the old one goes on: {why}", "the old one goes on"),
    ],
)
def test_broken_code_answers_with_the_reason(
    prefork_server: ServerFactory, tmp_path: Path, path: str, command: str, said: str, goes_on: str
) -> None:
    """By an upgrade, whose rehearsal fails, or by a reload, whose mold does."""
    app = tmp_path / "shop.py"
    app.write_text("def handle(connection, address): connection.sendall(b'fine')\n")
    server = prefork_server("shop:handle", app_dir=tmp_path, workers=1, control=path, preload=command == "reload")
    before = server.workers()
    app.write_text("raise RuntimeError('the new code is broken')\n")
    done = run(command, "--control", path)
    assert (done.returncode, done.stdout) == (1, "")
    why = "the application failed to boot: RuntimeError: the new code is broken"
    assert done.stderr == f"prefork: error: {said.format(why=why)}\n"
    assert goes_on in server.log()
    assert server.workers() == before
    app.write_text("def handle(connection, address): connection.sendall(b'better')\n")
    done = run(command, "--control", path)
    assert (done.returncode, told(done.stdout), done.stderr) == (0, "generation 1 serves", "")
    with Client(path) as client:
        assert client.status().totals.failed_reloads == 1
        assert client.upgrade(wait=False) == 2


def test_a_successor_takes_the_predecessor_s_place(prefork_server: ServerFactory, path: str, tmp_path: Path) -> None:
    with hold_port(reuse_port=True) as address:
        same = {"workers": 1, "bind": address, "reuse_port": True, "control": path, "pidfile": tmp_path / "pid"}
        first = probe(prefork_server, **same)
        second = probe(prefork_server, **same, takeover=tmp_path / "pid")
        assert first.wait() == 0
        wait_for(lambda: paths.alive(Path(path)))
        with Client(path) as client:
            assert client.status().pid == second.pid


def test_a_successor_whose_socket_could_never_be_does_not_wait_for_it(
    prefork_server: ServerFactory, path: str, tmp_path: Path
) -> None:
    with hold_port(reuse_port=True) as address:
        same = {"workers": 1, "bind": address, "reuse_port": True}
        first = probe(prefork_server, **same, pidfile=tmp_path / "pid")
        done = run(
            *["serve", "probe:Probe", "--app-dir", str(APPS), "--bind", address, "--reuse-port", "--workers=1"],
            *["--takeover", str(tmp_path / "pid"), "--control", path + "x" * 108],
        )
        assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
        assert "may have 107" in done.stderr
        assert ask(first)


HANGS_UP = """
import signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
import prefork
def handle(connection, address):
    pass
sys.exit(prefork.serve(handle, bind="127.0.0.1:0", workers=1, control=sys.argv[1]))
"""


def test_a_client_that_hangs_up_ends_nobody(prefork_server: ServerFactory, path: str) -> None:
    """Not even a host that dies of SIGPIPE, as programs at a terminal may."""
    server = prefork_server.script(LOGGING + HANGS_UP, path)
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b'{"do": "reload"}\n')
    with Client(path) as client:
        client.reload(timeout=TIMEOUT)  # it is told of after those of all others
    assert server.stop() == 0


def test_scaling(server: Server, client: Client) -> None:
    assert client.scale(4) == 2
    steady(server, 4)
    assert client.scale(1) == 4
    steady(server, 1)
    for impossible in (1_000_000, 2**31 - 1):
        with pytest.raises(ControlError, match=rf"^{impossible} workers can't be had: this server has room for 34; .*"):
            client.scale(impossible)
        assert client.status().size == 1
    client.scale(1)


def test_one_worker_is_recycled_and_nobody_lost(server: Server, client: Client) -> None:
    before = {worker.slot: worker.pid for worker in client.status().workers}
    with Load(server.address, clients=2) as load:
        pid = client.recycle(1, timeout=TIMEOUT)
        load.wait_for(lambda tally: tally.answered > 20)
    assert load.tally.lost == 0, load.tally
    call_until(
        lambda: {worker.slot: worker.pid for worker in client.status().workers if worker.state != "leaving"},
        lambda now: now == {0: before[0], 1: pid},
    )
    assert pid != before[1]
    found = call_until(client.status, lambda found: found.totals.deaths)
    assert found.totals.deaths == {"recycled": 1}
    with pytest.raises(ControlError, match="slot 7 has no worker"):
        client.recycle(7)


def test_who_waits_for_a_replacement_is_told_that_the_slot_goes(server: Server, path: str) -> None:
    with connected(path) as waiting, connected(path) as other:
        # Both requests are there when the master looks.
        with frozen([server.pid]):
            waiting.sendall(b'{"do":"recycle","slot":1}\n')
            other.sendall(b'{"do":"scale","workers":1}\n')
        assert json.loads(other.makefile().readline())["ok"]
        answer = json.loads(waiting.makefile().readline())
    assert answer["error"] == "slot 1 goes, for the server shrinks"


def test_a_dump_shows_what_a_worker_is_doing(server: Server, client: Client) -> None:
    with held(server) as (one,):
        (slot,) = (worker.slot for worker in client.status().workers if worker.pid == one.pid)
        for _ in range(2):
            text = client.dump(slot)
            assert "in do_hold" in text
            assert text.count("most recent call first") == 1
        one.finish()
    call_until(lambda: client.dump(slot), lambda text: "in connections" in text, message="it to wait for the next one")
    with pytest.raises(ControlError, match="slot 9 has no worker"):
        client.dump(9)


def test_all_who_ask_for_a_dump_at_once_are_given_one(server: Server, path: str) -> None:
    slot = 0
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(path)) for _ in range(5)]
        for client in clients:
            client._sock.sendall(json.dumps({"do": "dump", "slot": slot}).encode() + b"\n")
        texts = [json.loads(client._line(None) or b"")["result"]["text"] for client in clients]
    assert [text.count("most recent call first") for text in texts] == [1] * len(clients)


def test_a_frozen_worker_gives_no_dump_and_holds_up_nobody(server: Server, client: Client, path: str) -> None:
    (slot,) = (worker.slot for worker in client.status().workers if worker.pid == server.workers()[0])
    with frozen([server.workers()[0]]), Client(path) as other:
        other._sock.sendall(json.dumps({"do": "dump", "slot": slot}).encode() + b"\n")
        assert client.health().ready
        line = other._line(None)
        assert line is not None
        assert json.loads(line)["error"].endswith("it may be frozen")


@pytest.mark.parametrize("quick", [False, True])
def test_stop_waits_for_the_end(server: Server, client: Client, quick: bool) -> None:
    client.stop(quick=quick, timeout=TIMEOUT)
    assert server.wait() == 0


def test_a_graceful_stop_serves_who_is_there_and_tells_what_it_does(server: Server, client: Client, path: str) -> None:
    with held(server) as (one,), Client(path) as other:
        client.stop(wait=False)
        found = call_until(other.status, lambda found: found.state == "stopping")
        assert found.size == 2
        assert not other.health().ready
        for impossible in ({"do": "scale", "workers": 3}, {"do": "reload"}, {"do": "recycle", "slot": 0}):
            with pytest.raises(ControlError, match=r"the server stops|no worker"):
                other.ask(**impossible)
        one.finish()
    assert server.wait() == 0
    assert not os.path.exists(path)


def test_who_waits_for_a_reload_is_told_of_the_stop(prefork_server: ServerFactory, tmp_path: Path, path: str) -> None:
    app = tmp_path / "shop.py"
    app.write_text("def handle(connection, address): pass\n")
    server = prefork_server("shop:handle", app_dir=tmp_path, workers=1, control=path)
    app.write_text("import time\ntime.sleep(1000)\n")
    with Client(path) as waiting, Client(path) as other:
        waiting._sock.sendall(b'{"do":"reload"}\n')
        call_until(other.status, lambda found: found.state == "reloading")
        other.stop(wait=False)
        line = waiting._line(None)
        assert line is not None
        assert json.loads(line)["error"] == "the server stops"
    assert server.wait() == 0


def test_the_socket_is_the_user_s_alone_and_leaves_nothing(server: Server, path: str) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    for pid in server.workers():
        assert psutil.Process(pid).net_connections("unix") == []
    assert server.stop() == 0
    assert os.listdir(os.path.dirname(path)) == []


def test_workers_hold_none_of_the_connections(server: Server, client: Client) -> None:
    client.health()
    client.reload(timeout=TIMEOUT)
    for pid in server.workers():
        with contextlib.suppress(psutil.NoSuchProcess):  # one of the generation before is still leaving
            assert len(psutil.Process(pid).net_connections("unix")) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_somebody_else_is_denied(server: Server, client: Client, path: str) -> None:
    before = state_of(client)
    os.chmod(path, 0o666)
    folder, name = os.path.split(path)
    os.chmod(folder, 0o711)  # the folders above are pytest's own; the working directory needs none of them
    code = (
        "import os, socket, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        'try: s.sendall(b\'{"do":"stop"}\\n\')\nexcept OSError: pass\n'
        "print(s.recv(4096).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    told = json.loads(done.stdout)
    assert (told["ok"], told["code"]) == (False, "denied")
    assert told["error"] == "uid 65534 may not; be root or uid 0"
    assert state_of(client) == before


def test_a_dead_server_s_socket_is_replaced_and_a_living_one_s_refused(
    server: Server, prefork_server: ServerFactory, path: str
) -> None:
    done = run("serve", "probe:Probe", "--app-dir", str(APPS), "--bind", "127.0.0.1:0", "--control", path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(f"prefork: error: control: '{path}' can't be listened on: ")
    assert f"(pid {server.pid})" in done.stderr
    kill(*server.tree())
    with pytest.raises(ControlError, match=r"nobody listens at .*: the server that made it was killed"):
        Client(path)
    probe(prefork_server, workers=1, control=path)
    with Client(path) as client:
        assert client.health().ready


def test_a_server_without_a_folder_for_its_socket_serves_all_the_same(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, control="auto", options={"env": {"RUNTIME_DIRECTORY": "/proc/nowhere"}})
    server.wait_for_log("no control socket: ")
    ask(server)


def test_there_is_no_socket_when_none_is_wanted(prefork_server: ServerFactory, tmp_path: Path) -> None:
    probe(prefork_server, workers=1, control="off", options={"env": {"RUNTIME_DIRECTORY": str(tmp_path / "run")}})
    assert not (tmp_path / "run").exists()


def test_a_script_can_have_one(prefork_server: ServerFactory, path: str) -> None:
    prefork_server.script(
        """
        import logging, sys, prefork
        logging.basicConfig(level=logging.INFO)
        prefork.serve(lambda connection, address: None, bind="127.0.0.1:0", workers=1, control=sys.argv[1])
        """,
        path,
    )
    with Client(path) as client:
        assert client.status().size == 1


# Bad company.


def connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    sock.connect(path)
    return sock


def test_the_silent_and_the_endless_hold_up_nobody(server: Server, client: Client, path: str) -> None:
    with connected(path) as silent, connected(path) as endless, connected(path) as deaf:
        with contextlib.suppress(OSError):
            for _ in range(160):
                endless.sendall(b"x" * 65536)
        assert json.loads(endless.makefile("rb").readline())["code"] == "malformed"
        deaf.settimeout(0.2)  # it fills what holds its requests and answers, and no more
        with contextlib.suppress(TimeoutError, OSError):
            while True:
                deaf.sendall(b'{"do":"status","processes":true}\n' * 100)
        for _ in range(20):
            assert client.health().ready
        ask(server)
        silent.sendall(b'{"do":"health"}\n')
        assert json.loads(silent.makefile("rb").readline())["ok"]
    assert psutil.Process(server.pid).memory_info().rss < 200 << 20


def test_too_many_peers_cost_the_longest_silent_one_his_place(server: Server, client: Client, path: str) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connected(path)) for _ in range(MOST + 5)]
        client_is_one_of_those = 1
        for sock in peers[-(MOST - client_is_one_of_those) :]:
            sock.sendall(b'{"do":"health"}\n')
            assert json.loads(sock.makefile("rb").readline())["ok"]
        assert peers[0].recv(1) == b""
    with Client(path) as another:
        assert another.health().ready


def test_who_waits_for_an_answer_keeps_his_place_before_the_silent(server: Server, path: str) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(frozen(server.workers()))
        waiting = stack.enter_context(connected(path))
        waiting.sendall(b'{"do":"dump","slot":0}\n')
        last = [stack.enter_context(connected(path)) for _ in range(MOST + 5)][-1]
        last.sendall(b'{"do":"health"}\n')
        assert json.loads(last.makefile("rb").readline())["ok"]  # so all of them are there
        assert json.loads(waiting.makefile("rb").readline())["error"].endswith("it may be frozen")


def mutations(amount: int, seed: int) -> Iterator[bytes]:
    """Requests that are nearly right: bytes changed, left out, doubled, arguments of the wrong kind."""
    chance = random.Random(seed)
    values: list[object] = [None, True, -1, 0, 1.5, 1e400, "", "0", [], {}, 2**70, "\ud800", "\0", [[]] * 50]
    harmless: list[dict[str, object]] = [
        {"v": 1, "id": 7, "do": "status", "processes": False},
        {"do": "health"},
        {"do": "scale", "workers": "many"},
        {"do": "recycle", "slot": 99},
        {"do": "dump", "slot": 99},
        {"do": "reload", "wait": 3},
        {"do": "stop", "quick": "yes"},
    ]
    made = 0
    while made < amount:
        asked = dict(chance.choice(harmless))
        if chance.random() < 0.5:
            asked[chance.choice(["v", "id", "do", "slot", "extra", "processes"])] = chance.choice(values)
        line = bytearray(json.dumps(asked).encode())
        for _ in range(chance.randrange(3)):
            at = chance.randrange(len(line))
            match chance.randrange(4):
                case 0:
                    line[at] = chance.randrange(256)
                case 1:
                    del line[at]
                case 2:
                    line[at:at] = line[at : at + 20]
                case _:
                    line[at:at] = bytes([chance.randrange(256)])
        told = bytes(line).replace(b"\n", b" ")
        with contextlib.suppress(ControlRequestError):
            if parse(told).do not in {"health", "status", "dump"}:
                continue  # by chance there is nothing wrong with it, and it would be done
        made += 1
        yield told + b"\n"


def test_whatever_is_sent_is_answered_or_ends_the_connection_and_changes_nothing(
    server: Server, client: Client, path: str
) -> None:
    before = state_of(client)
    ended = answered = 0
    sock = connected(path)
    try:
        for line in mutations(count("mutated-messages"), seed=7):
            sock.sendall(line)
            told = sock.makefile("rb").readline()
            answer = json.loads(told)
            answered += 1
            if not answer["ok"] and answer["code"] == "malformed":
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
                ended += 1
                sock.close()
                sock = connected(path)
    finally:
        sock.close()
    assert ended > 10
    assert answered == count("mutated-messages")
    assert state_of(client) == before
    ask(server)
    assert "Traceback" not in server.log()


def test_totals_equal_what_the_clients_counted_whoever_is_killed(prefork_server: ServerFactory, path: str) -> None:
    server = probe(prefork_server, workers=3, control=path)
    sampled: list[int] = []
    kills = 0
    with Client(path) as client, Load(server.address, clients=4) as load:

        def total() -> int:
            found = client.status(processes=False).totals
            return found.served + found.failed + found.interrupted

        for goal in range(100, 600, 100):
            load.wait_for(lambda tally, goal=goal: tally.answered > goal)  # type: ignore[misc]  # mypy can't infer a lambda with a default
            sampled.append(total())
            os.kill(server.workers()[0], signal.SIGKILL)
            kills += 1
            sampled += [total() for _ in range(5)]
        tally = load.stop()
        counted = tally.answered + tally.lost
        # A worker that is killed between accept's return and its mark has counted nothing: at most one a kill.
        wait_for(lambda: counted - kills <= total() <= counted, message=f"{counted}, of {kills} kills")
    assert sampled == sorted(sampled)
    assert tally.lost <= kills


# The client.


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda _: None, r"^{path} does not exist; the server has ended, or has its control socket elsewhere$"),
        (lambda path: path.write_text(""), r"^{path} is not a socket; name a control socket with --control PATH$"),
        (lambda path: path.mkdir(), r"^{path} is not a socket"),
        (
            lambda path: listening(path).close(),
            r"^nobody listens at {path}: the server that made it was killed$",
        ),
    ],
)
def test_why_nobody_answers_is_one_line(tmp_path: Path, prepare: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "s.control"
    prepare(path)
    with pytest.raises(ControlError, match=said.format(path=path)):
        Client(path)


def test_a_path_that_no_address_holds_is_refused() -> None:
    path = "/tmp/" + 200 * "d"
    done = run("serve", "probe:Probe", "--app-dir", str(APPS), "--bind=127.0.0.1:0", "--control", path)
    assert done.returncode == 3
    assert f"prefork: error: control: '{path}' can't be listened on: " in done.stderr
    with pytest.raises(ControlError, match=f"^{path} does not exist"):
        Client(path)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the server closed the connection"),
        (b"hello\n", "this is no answer of a prefork server"),
        (b"[]\n", "this is no answer of a prefork server"),
        (b'{"ok":true,"result":{"state":1}}\n', r"a server of another release\? Health.state: int"),
        (b'{"ok":false,"error":"no"}\n', "^no$"),
    ],
)
def test_a_strange_server_is_told_of(tmp_path: Path, answer: bytes, said: str) -> None:
    path = tmp_path / "s.control"
    with listening(path) as listener, Client(path, timeout=TIMEOUT) as client:
        peer = listener.accept()[0]
        with peer:
            peer.sendall(answer)
            if not answer:
                peer.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ControlError, match=said):
                client.health()


@pytest.mark.parametrize("answer", ['{"ok":true,"result":{"pid":"x"}}', '{"ok":true,"result":null}', "[" * 100_000])
@pytest.mark.parametrize(
    "order",
    [
        lambda client: client.scale(2),
        lambda client: client.recycle(0),
        lambda client: client.dump(0),
    ],
)
def test_an_answer_that_lacks_what_was_asked_for_is_strange(
    tmp_path: Path, answer: str, order: Callable[[Client], object]
) -> None:
    path = tmp_path / "s.control"
    with listening(path) as listener, Client(path, timeout=TIMEOUT) as client, listener.accept()[0] as peer:
        peer.sendall(answer.encode() + b"\n")
        with pytest.raises(ControlError, match=r"s\.control: this is no answer of a prefork server$"):
            order(client)


def test_a_path_is_shown_without_its_effect_on_the_terminal() -> None:
    with pytest.raises(ControlError, match=r"^/tmp/\\x1b\[31m\\n does not exist; "):
        Client("/tmp/\x1b[31m\n")


def test_off_is_no_path() -> None:
    done = run("status", PREFORK_CONTROL="off")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("prefork: error: control: off is the server's word for no control socket; ")


def test_a_place_that_can_not_be_had_is_named_with_what_is_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "s.control"
    done = run("serve", "probe:Probe", "--app-dir", str(APPS), "--bind=127.0.0.1:0", "--control", str(path))
    said = f"unix:{path}: the folder {path.parent} does not exist; make it"
    assert (done.returncode, done.stderr) == (3, f"prefork: error: control: '{path}' can't be listened on: {said}\n")


def test_a_server_that_does_not_answer_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "s.control"
    with (
        listening(path),
        Client(path, timeout=0.05) as client,
        pytest.raises(ControlError, match="does not answer in time; its master may be stopped"),
    ):
        client.health()


# The commands.


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFORK_")}
    return SERVERS.run([sys.executable, "-m", "prefork", *arguments], env=environment | environ)


@pytest.mark.long
def test_the_commands(server: Server, path: str) -> None:
    shown = run("status", "--control", path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"pid {server.pid}: serving" in shown.stdout
    assert server.address in shown.stdout
    found = json.loads(run("status", "--json", PREFORK_CONTROL=path).stdout)
    assert found["pid"] == server.pid
    done = run("scale", "3", "--control", path)
    assert (done.returncode, told(done.stdout), done.stderr) == (0, "3 workers instead of 2", "")
    steady(server, 3)
    done = run("recycle", "2", "--control", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("slot 2: pid ")
    told_of, _, traceback = run("dump", "0", "--control", path).stdout.partition("\n")
    assert told(f"{told_of}\n") == "slot 0"
    assert "in connections" in traceback
    assert told(run("reload", "--no-wait", "--control", path).stdout) == "generation 1 is on its way"
    done = run("check", "--live", "--control", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert told(done.stdout).startswith(("ready: serving, ", "ready: reloading, "))  # it may not have come to its end
    done = run("stop", "--control", path)
    assert (done.returncode, told(done.stdout), done.stderr) == (0, "stopped", "")
    assert server.wait() == 0
    done = run("check", "--live", "--control", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("prefork: error: ")
    assert done.stderr.count("\n") == 1


def test_a_server_that_is_starting_is_not_ready(prefork_server: ServerFactory, tmp_path: Path, path: str) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1000)\n")
    command = [sys.executable, "-m", "prefork", "serve", "slow:handle", "--app-dir", str(tmp_path)]
    server = prefork_server.command(
        [*command, "--bind=127.0.0.1:0", "--workers=1", f"--control={path}", "--log-level=debug"], ready="forked"
    )
    done = run("check", "--live", "--control", path)
    assert (done.returncode, told(done.stderr)) == (1, "prefork: error: not ready: starting, 0 of 1 workers accept")
    server.signal(signal.SIGINT)
    server.wait()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scale"], "the following arguments are required: WORKERS; prefork scale --help tells more"),
        (["scale", "0"], "WORKERS: '0' is not a count of workers; give 1 or more; prefork scale --help tells more"),
        (["scale", "9" * 5000], None),
        (["recycle", "-1"], None),
        (
            ["exporter", "--listen", "foo"],
            (
                "--listen: 'foo' has no port; give host:port, [address]:port or unix:/path; "
                "prefork exporter --help tells more"
            ),
        ),
        (["dump", "x"], "SLOT|mold: 'x' is not a slot, or mold; give 0 or more; prefork dump --help tells more"),
        (["status", "--timeout", "nan"], None),
        (["status", "more"], "unrecognized arguments: more; prefork status --help tells more"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str | None) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("prefork: error: ")
    assert "invalid" not in done.stderr
    if said is not None:
        assert done.stderr == f"prefork: error: {said}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fine.py").write_text("import os\nprint(os.getpid())\ndef handle(connection, address): pass\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "number.py").write_text("handle = 5\n")
    return tmp_path


def test_a_check_loads_the_application_and_listens_to_nothing(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"--bind=127.0.0.1:{taken.getsockname()[1]}"
        for arguments in (
            ["check", "fine:handle"],
            ["check", "serve", "fine:handle"],
            ["serve", "fine:handle", "--check"],
        ):
            done = run(*arguments, "--app-dir", str(folder), bind)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.splitlines()[-1] == "fine:handle can be served"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["broken:handle"], 4, "ZeroDivisionError"),
        (["ends:handle"], 4, "the application failed to load: the process that tried exited with code 4"),
        (["number:handle"], 2, "number:handle is int, which can't be called"),
        (["fine:hanlde"], 2, "has no attribute 'hanlde'"),
        (["absent:handle"], 2, "there is no module 'absent'"),
        (["fine:handle", "--workers=0"], 2, "workers: 0 is not a count"),
        (["fine:handle", "--hooks=fine"], 2, "hooks: fine has no function named as a hook"),
    ],
)
def test_a_check_tells_what_is_wrong(folder: Path, arguments: list[str], code: int, said: str) -> None:
    done = run("check", *arguments, "--app-dir", str(folder))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].startswith("prefork: error: ")


def test_the_records_are_what_the_protocol_says() -> None:
    """The documentation promises these names; a change of them is a change of the protocol's version."""
    assert set(REQUESTS) == {"health", "status", "reload", "upgrade", "scale", "recycle", "dump", "dump_mold", "stop"}
    assert {*fields_of(Health)} == {"state", "serving", "size", "crash_loop"}
    assert {"version", "pid", "state", "uptime", "generation", "listeners", "workers", "totals"} <= {*fields_of(Status)}


def test_the_documentation_has_every_name() -> None:
    text = (ROOT / "docs" / "control.md").read_text()
    for name, arguments in REQUESTS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"`{argument}`" in row for argument in arguments), row
    for record in (Health, Status, Working, Listening, MoldStatus, Ended, Process, Totals):
        for field in fields_of(record):
            assert f"`{field}`" in text, f"{record.__name__}.{field}"
    for code in ("malformed", "denied", "unknown", "failed"):
        assert f"| `{code}` |" in text
    for number in (LONGEST, MOST, PATIENCE):
        assert f" {number:g} " in text


def test_requests_are_answered_while_the_server_is_loaded(server: Server, client: Client) -> None:
    with Load(server.address, clients=4) as load:
        for _ in range(200):
            assert client.status(processes=True).pid == server.pid
        load.wait_for(lambda tally: tally.answered > 100)
    assert load.tally.lost == 0, load.tally
    assert request(server.address).status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is somebody else's")
def test_a_client_believes_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that somebody else was first to make, a socket of his in ours, a server of his that we name."""
    somebody = 65534
    where = tmp_path / "prefork"
    monkeypatch.delenv("PREFORK_CONTROL", raising=False)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(paths, "_ROOTS", where)
    where.mkdir()
    path = where / "1.control"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        assert paths.find() == str(path)
        os.chown(path, somebody, somebody)
        with pytest.raises(ControlError, match=r"1\.control is not a socket of root's or of uid 0's own"):
            paths.find()
        os.chown(path, 0, 0)
        os.chown(where, somebody, somebody)
        with pytest.raises(ControlError, match="prefork is not a folder of root's or of uid 0's own"):
            paths.find()
        os.chown(where, 0, 0)
        link = tmp_path / "link"
        link.symlink_to(where)
        monkeypatch.setattr(paths, "_ROOTS", link)
        with pytest.raises(ControlError, match="link is not a folder"):
            paths.find()
    tmp_path.chmod(0o755)
    path.unlink()
    where.chmod(0o777)
    listens = """
        import os, socket, sys
        os.chdir(sys.argv[1])
        os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("his"); sock.listen()
        print("listens", flush=True)
        connection, _ = sock.accept()
        print(connection.recv(100))
    """
    with subprocess.Popen(command(listens, str(where)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        os.chdir(where)  # pytest's folders are closed to the other, and the path may be long
        try:
            with pytest.raises(ControlError, match="his: uid 65534 listens there, which may not speak"):
                Client("his").stop()
        finally:
            os.chdir(ROOT)
        assert process.stdout.read() == "b''\n"
