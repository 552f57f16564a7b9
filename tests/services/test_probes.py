"""Health checks and HAProxy's agent-check: what the master and the workers say of the server, and when."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork import SettingsError
from prefork.config.settings import Settings
from prefork.testing import Server, connect, hold_port, running_target
from prefork.testing.exchange import parse_http
from prefork.testing.processes import limited_descriptors
from prefork.wsgi.options import WSGIOptions
from tests.support.kept import Client
from tests.support.wsgi.harness import ROOT

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def asked(address: str, payload: bytes = GET) -> bytes:
    """All that comes until the end."""
    with connect(address) as client:
        client.sendall(payload)
        return b"".join(iter(lambda: client.recv(4096), b""))


def health(address: str, payload: bytes = GET) -> tuple[int, bytes]:
    reply = parse_http(asked(address, payload))
    assert reply is not None
    return reply.status, reply.body


def places(server: Server) -> tuple[str, str]:
    """Where health_bind and agent_bind are."""
    return tuple(  # type: ignore[return-value]  # there are two
        server.wait_for_log(rf"{name}_bind: (\S+)")[1] for name in ("health", "agent")
    )


def serving(**settings: object) -> Iterator[Server]:
    with running_target(
        "tests.support.wsgi.apps:hello",
        app_dir=ROOT,
        subcommand="wsgi",
        health_bind="127.0.0.1:0",
        agent_bind="127.0.0.1:0",
        health_path="/healthz",
        options={},
        **settings,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def fit() -> Iterator[Server]:
    yield from serving(workers=2, access_log="-")


@pytest.fixture
def leaving() -> Iterator[Server]:
    yield from serving(workers=2, drain_delay=60)


def test_a_server_that_is_fit_says_so_in_three_places(fit: Server) -> None:
    by_master, agent = places(fit)
    assert health(by_master) == (200, b"ready\n")
    assert health(by_master, b"GET / HTTP/1.0\r\n\r\n") == (200, b"ready\n")
    assert asked(by_master, b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")
    assert health(by_master, b"POST / HTTP/1.1\r\n\r\n")[0] == 405
    client = Client(fit.address)
    assert (client.ask(GET), client.status, client.fields["cache-control"]) == (b"ready\n", 200, "no-store")
    for other in (b"/healthz?x=1", b"http://shop.test/healthz", b"HTTP://shop.test/healthz?", b"/%68ealthz"):
        assert (client.ask(GET.replace(b"/healthz", other)), client.status) == (b"ready\n", 200), other
    assert (client.ask(GET.replace(b"GET", b"PUT")), client.status) == (b"GET and HEAD alone\n", 405)
    client.ask(GET.replace(b"z ", b"zz "))
    assert client.status == 200  # the application's, which answers everything
    client.close()
    with connect(agent) as balancer:
        assert balancer.makefile().readline().startswith("up ready ")
    fit.wait_for_log('"GET /healthzz')
    assert '"GET /healthz ' not in fit.log()


def test_whoever_is_silent_or_talks_too_much_is_in_nobodys_way(fit: Server) -> None:
    by_master, agent = places(fit)
    silent = [connect(by_master) for _ in range(70)]
    with connect(by_master) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000)
        assert endless.recv(100).startswith(b"HTTP/1.1 200")
    assert health(by_master) == (200, b"ready\n")
    with connect(agent) as talks:
        talks.sendall(b"web1\n")  # HAProxy's agent-send
        assert talks.makefile().readline().endswith(" maxconn:8\n")
    for client in silent:
        client.close()


def test_want_is_told_while_it_lasts(fit: Server) -> None:
    by_master, agent = places(fit)
    unfit = b"all workers are out of descriptors or memory\n"
    waiting = []

    def all_are_out() -> bool:
        waiting.append(Client(fit.address))  # who waits in accept has the next descriptor already
        waiting[-1].send(ASK)
        return health(by_master) == (503, unfit)

    with limited_descriptors(fit.workers):
        fit.wait_for(all_are_out, message="the master to be red")
        assert asked(agent, b"") == b"down #" + unfit
    fit.wait_for(lambda: health(by_master) == (200, b"ready\n"), message="the master to be green again")
    assert asked(agent, b"").startswith(b"up ready ")
    for client in waiting:
        assert client.answer() is not None
        assert client.status == 200
        client.close()


def test_a_stop_is_told_before_anything_ends(leaving: Server) -> None:
    by_master, agent = places(leaving)
    kept, other = Client(leaving.address), Client(leaving.address)
    for client in (kept, other):
        assert client.ask(ASK)
        assert not client.closes
    leaving.signal(signal.SIGTERM)
    leaving.wait_for_log("stopping in 60 s")
    leaving.wait_for(lambda: health(by_master) == (503, b"stopping\n"), message="the master to be red")
    assert asked(agent, b"") == b"drain\n"
    assert kept.ask(ASK)
    assert (kept.status, kept.closes) == (200, True)  # served as usual, and told to go
    assert (other.ask(GET), other.status, other.closes) == (b"stopping\n", 503, True)
    late = Client(leaving.address)  # who comes all the same is served
    assert late.ask(ASK)
    assert (late.status, late.closes) == (200, True)
    leaving.signal(signal.SIGTERM)
    leaving.wait_for_log("asked again, so no more delay")
    assert leaving.wait() == 0
    for client in (kept, other, late):
        client.close()


SLOW_TO_START = """
import os, time
import prefork

class Worker(prefork.Worker):
    def init(self):
        while not os.path.exists("gate"):
            time.sleep(0.01)  # until the test makes the file

    def handle(self, connection, address):
        connection.sendall(b"served")
"""


@pytest.mark.long
def test_a_start_is_told(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_TO_START)
    with running_target(
        *("slow:Worker",),
        app_dir=tmp_path,
        subcommand="serve",
        options={"ready": r"health_bind: (?P<addresses>\S+)", "cwd": tmp_path},
        workers=2,
        health_bind="127.0.0.1:0",
    ) as server:
        place = server.address
        assert health(place) == (503, b"starting\n")
        (tmp_path / "gate").touch()
        server.wait_for(lambda: health(place) == (200, b"ready\n"), message="both workers to be ready")


@pytest.mark.long
def test_a_failed_reload_is_told_and_an_upgrade_keeps_the_place(tmp_path: Path) -> None:
    module = tmp_path / "shop.py"
    module.write_text("def application(environ, start):\n    start('204 No Content', [])\n    return []\n")
    with running_target(
        *("shop:application",),
        subcommand="wsgi",
        app_dir=tmp_path,
        options={},
        workers=1,
        health_bind="127.0.0.1:0",
        health_checks="exhausted,reload",
        health_path="/healthz",
    ) as server:
        place = server.wait_for_log(r"health_bind: (\S+)")[1]
        assert health(place) == (200, b"ready\n")
        good = module.read_text()
        module.write_text("raise RuntimeError('broken')\n")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: health(place) == (503, b"the last reload has failed\n"), message="a failed reload")
        client = Client(server.address)
        assert (client.ask(GET), client.status) == (b"the last reload has failed\n", 503)
        client.close()
        module.write_text(good)
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: health(place) == (200, b"ready\n"), message="a reload that succeeds")
        end = server.log_size()
        server.signal(signal.SIGUSR2)
        assert server.wait_for_log(r"health_bind: (\S+)", after=end)[1] == place
        server.wait_for(lambda: health(place) == (200, b"ready\n"), message="the new image to answer at the same place")


def test_settings_that_can_not_be() -> None:
    for wrong in ("seqpacket:/run/a", "fd://3", "systemd:", "nowhere"):
        with pytest.raises(SettingsError, match="health_bind"):
            Settings(health_bind=wrong)
    with pytest.raises(SettingsError, match=r"health_checks: 'disk' names no checks; give some of exhausted, reload"):
        Settings(health_checks="disk")
    assert Settings(health_checks="reload, exhausted").checks == {"reload", "exhausted"}
    assert Settings(health_checks="").checks == frozenset()
    with pytest.raises(SettingsError, match="health_path"):
        WSGIOptions(health_path="healthz")


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_place_that_is_the_servers_already_is_refused_as_such(way: str, tmp_path: Path) -> None:
    with hold_port() as port:
        place = port if way == "tcp" else f"unix:{tmp_path}/one"
        command = [sys.executable, "-m", "prefork", "wsgi", "tests.support.wsgi.apps:hello", f"--bind={place}"]
        command.append(f"--health-bind={place}")
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 3
    line = said.stderr.strip().splitlines()[-1]
    assert line.startswith(f"prefork: error: health_bind: {place}: the address is in use by ")
    assert "which is this process; choose another" in line
    assert "killed" not in line


HOOKS = """
import socket
from pathlib import Path


def when_ready(server):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(Path(__file__).with_name("socket")))
        client.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        print("ASKED", client.recv(100)[:12].decode(), flush=True)
"""


def test_workers_know_that_the_server_is_fit_before_anybody_hears_that_it_serves(tmp_path: Path) -> None:
    (tmp_path / "asking.py").write_text(HOOKS)
    with running_target(
        "tests.support.wsgi.apps:hello",
        app_dir=ROOT,
        subcommand="wsgi",
        bind=f"unix:{tmp_path}/socket",
        workers=1,
        health_path="/healthz",
        hooks="asking",
        options={"env": {"PYTHONPATH": str(tmp_path)}},
    ) as server:
        assert server.wait_for_log(r"ASKED (.*)")[1] == "HTTP/1.1 200"
