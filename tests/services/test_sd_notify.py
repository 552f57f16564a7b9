"""What the service manager is told: every message as it leaves, over a server's whole life."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from prefork.config.settings import Settings
from prefork.services import sd_notify
from prefork.services.sd_notify import EVERY, Notify
from prefork.supervisor import notifications
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Crashes, Goal
from prefork.supervisor.roster import Roster
from prefork.supervisor.service import ServerView
from prefork.testing.clock import FakeClock
from prefork.testing.plugin import ServerFactory
from tests.support.probing import ask, held, probe

TIMEOUT = 30.0
NOTHING: dict[str, str | None] = {"WATCHDOG_USEC": None, "WATCHDOG_PID": None}


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + path[1:] if path.startswith("@") else path)
        self.sock.settimeout(TIMEOUT)

    @property
    def env(self) -> dict[str, str | None]:
        return NOTHING | {"NOTIFY_SOCKET": self.path}

    def heard(self) -> dict[str, str]:
        """The next message."""
        text = self.sock.recv(65536).decode()
        return dict(line.split("=", 1) for line in text.split("\n"))

    def until(self, **wanted: str) -> dict[str, str]:
        """The next message with these lines; others are passed over."""
        while True:
            message = self.heard()
            if wanted.items() <= message.items():
                return message


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    with made.sock:
        yield made


def test_a_life(manager: Manager, prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, options={"env": manager.env})
    assert manager.heard() == {"EXTEND_TIMEOUT_USEC": "15000000"}
    assert manager.until(READY="1") == {
        "READY": "1",
        "MAINPID": str(server.pid),
        "STATUS": f"serving on {server.address} with 2 workers, generation 0",
    }
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    server.signal(signal.SIGHUP)
    message = manager.until(RELOADING="1")
    assert before <= int(message["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert message["STATUS"] == "reloading: generation 1"
    assert manager.heard()["STATUS"] == f"serving on {server.address} with 2 workers, generation 1"
    server.signal(signal.SIGTTIN)
    assert manager.heard() == {"STATUS": f"serving on {server.address} with 3 workers, generation 1"}
    with held(server) as (one,):
        server.signal(signal.SIGTERM)
        assert manager.heard() == {"STOPPING": "1", "STATUS": "stopping: who is connected is being served"}
        assert manager.heard() == {"EXTEND_TIMEOUT_USEC": "15000000"}
        one.finish()
    assert server.wait() == 0


def test_a_reload_that_fails_leaves_the_service_ready(
    manager: Manager, prefork_server: ServerFactory, tmp_path: Path
) -> None:
    app = tmp_path / "shop.py"
    app.write_text("def handle(connection, address): pass\n")
    server = prefork_server("shop:handle", app_dir=tmp_path, workers=1, options={"env": manager.env})
    manager.until(READY="1")
    app.write_text("raise RuntimeError('broken')\n")
    server.signal(signal.SIGHUP)
    manager.until(RELOADING="1")
    message = manager.until(READY="1")
    assert message["STATUS"] == "generation 1 failed to boot, the old one goes on: RuntimeError: broken"


@pytest.mark.long
def test_an_upgrade_is_a_reload_to_the_service_manager(manager: Manager, prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, options={"env": manager.env})
    manager.until(READY="1")
    server.signal(signal.SIGUSR2)
    manager.until(RELOADING="1")
    assert manager.until(READY="1")["MAINPID"] == str(server.pid)


def test_an_abstract_name(prefork_server: ServerFactory) -> None:
    manager = Manager(f"@prefork-test-{os.getpid()}-{time.monotonic_ns()}")
    with manager.sock:
        probe(prefork_server, workers=1, options={"env": manager.env})
        manager.until(READY="1")


def test_a_full_queue_loses_no_message(manager: Manager, prefork_server: ServerFactory) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as others:
        with contextlib.suppress(BlockingIOError):
            while True:
                others.sendto(b"NOISE=1", manager.path)
        probe(prefork_server, workers=1, options={"env": manager.env})
        manager.until(READY="1")


def test_a_manager_that_is_gone_holds_nobody_up(manager: Manager, prefork_server: ServerFactory) -> None:
    os.unlink(manager.path)
    server = probe(prefork_server, workers=1, options={"env": manager.env})
    server.wait_for_log("the service manager can't be told .*: ")
    ask(server)


def test_an_address_of_another_kind_is_told_of(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, options={"env": NOTHING | {"NOTIFY_SOCKET": "vsock:2:1234"}})
    assert "NOTIFY_SOCKET: 'vsock:2:1234' is neither a path nor an abstract name" in server.log()


def test_nothing_of_it_reaches_the_workers(manager: Manager, prefork_server: ServerFactory, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    (tmp_path / "app.py").write_text(
        "import os\n"
        "found = [name for name in os.environ if name.startswith(('NOTIFY', 'WATCHDOG'))]\n"
        f"with open({str(seen)!r}, 'a') as file:\n"
        "    print(found, file=file)\n"
        "def handle(connection, address):\n"
        "    connection.recv(1000)\n"
        "    connection.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n' + repr(found).encode())\n"
    )
    env = manager.env | {"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": None}
    server = prefork_server("app:handle", app_dir=tmp_path, workers=1, control="off", options={"env": env})
    assert ask(server) == "[]"
    (worker,) = server.workers()
    assert psutil.Process(worker).net_connections("unix") == []
    server.signal(signal.SIGUSR2)  # nor who only tries whether it can be loaded
    server.wait_for_log("generation 1 serves")
    command = [sys.executable, "-m", "prefork", "check", "app:handle", "--app-dir", str(tmp_path)]
    subprocess.run(command, env=dict(os.environ) | {"NOTIFY_SOCKET": manager.path}, check=True)
    assert seen.read_text() == "[]\n" * 4


def test_the_watchdog_is_fed(manager: Manager, prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, options={"env": manager.env | {"WATCHDOG_USEC": "200000"}})
    manager.until(READY="1")
    for _ in range(5):
        manager.until(WATCHDOG="1")
    server.signal(signal.SIGTERM)
    manager.until(STOPPING="1")


# Without a server: time is the test's.


class Stage:
    """A notify service on a master that the test plays."""

    def __init__(self, manager: Manager, watchdog: float = 0.0, **settings: Any) -> None:
        self.manager = manager
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.goal = Goal(size=1, smallest=1, largest=1)
        self.roster = Roster()
        self.stopping = False
        self.exits = types.SimpleNamespace(crashes=Crashes.NONE)
        self.pressure = types.SimpleNamespace(exhaustions={})
        server = types.SimpleNamespace(
            loop=self.loop,
            goal=self.goal,
            roster=self.roster,
            listeners=[types.SimpleNamespace(name="here")],
            settings=Settings(**settings),
            stopping=lambda: self.stopping,
            exits=self.exits,
            pressure=self.pressure,
        )
        self.service = Notify(manager.path, watchdog)
        self.service.attach(cast("ServerView", server))
        self.member = self.roster.forked(slot=0, entry=0, pid=1, generation=0, now=0.0)

    def serve(self) -> None:
        self.roster.ready(self.member, 1.0)
        self.goal.completed()
        self.service.notify(notifications.Serving())

    def wait(self, seconds: float) -> list[str]:
        """Let time pass, in steps too small to be a freeze; what was sent, a message a text."""
        while seconds > 0:
            self.clock.advance(0.5)
            seconds -= 0.5
            self.loop.poll(self.clock.monotonic())
        sent = []
        self.manager.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sent.append(self.manager.sock.recv(65536).decode())
        return sent

    def close(self) -> None:
        self.service.detach()
        self.loop.close()


def test_time_is_asked_for_until_it_serves_and_again_until_it_ends(manager: Manager) -> None:
    stage = Stage(manager)
    ask_for_time = f"EXTEND_TIMEOUT_USEC={int(sd_notify.EXTENSION * 1e6)}"
    assert stage.wait(2 * EVERY + 1) == [ask_for_time] * 3
    stage.serve()
    assert len(stage.wait(5 * EVERY)) == 1
    stage.stopping = True
    stage.service.notify(notifications.Stopping())
    assert stage.wait(2 * EVERY + 1)[1:] == [ask_for_time] * 3
    stage.close()


def test_no_time_is_asked_for_after_an_upgrade_whose_reload_has_failed(manager: Manager) -> None:
    stage = Stage(manager)
    assert len(stage.wait(EVERY + 1)) == 2
    stage.roster.ready(stage.member, 1.0)
    stage.goal.completed()
    stage.service.notify(notifications.ReloadFailed(1, "as asked"))
    (said,) = stage.wait(5 * EVERY)
    assert said.startswith("READY=1\nSTATUS=generation 1 failed to boot")
    stage.close()


def test_without_a_boot_timeout_the_manager_s_own_limit_holds(manager: Manager) -> None:
    stage = Stage(manager, boot_timeout=0)
    assert stage.wait(3 * EVERY) == []
    stage.close()


def test_the_watchdog_is_fed_only_while_somebody_serves(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(manager, watchdog=4.0, boot_timeout=0)
    assert stage.wait(4.1) == ["WATCHDOG=1"] * 3
    stage.serve()
    stage.wait(1)
    assert "WATCHDOG=1" in stage.wait(2)
    stage.member.ready_at = None  # its replacement is still starting
    assert stage.wait(10) == []
    assert [record.message for record in caplog.records] == [
        "no worker serves: the service manager's watchdog gets no sign of life"
    ]
    stage.member.ready_at = 1.0
    assert "WATCHDOG=1" in stage.wait(3)
    stage.member.ready_at = None
    assert stage.wait(10) == []
    assert len(caplog.records) == 2
    stage.stopping = True
    stage.member.ready_at = None
    assert "WATCHDOG=1" in stage.wait(3)
    stage.close()


def test_the_status_tells_what_is_wrong_and_is_not_repeated(manager: Manager) -> None:
    stage = Stage(manager, boot_timeout=0)
    stage.serve()
    stage.wait(0)
    stage.pressure.exhaustions = {1: object()}
    for _ in range(3):
        stage.service.notify(notifications.Scaled(1))
    stage.exits.crashes = Crashes.LOOP
    stage.service.notify(notifications.Scaled(1))
    said = "STATUS=serving on here with 1 worker, generation 0"
    assert stage.wait(0) == [
        f"{said}; descriptors or memory are exhausted",
        f"{said}; workers die young again and again; descriptors or memory are exhausted",
    ]
    stage.close()


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": ""}, None),
        ({"NOTIFY_SOCKET": "/run/n"}, 0.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "3000000"}, 3.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, 0.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "999"}, 0.0),
    ],
)
def test_the_environment_says_whom_to_tell(environ: dict[str, str], watchdog: float | None) -> None:
    made = Notify.of(environ, 7)
    assert (None if made is None else made._watchdog) == watchdog


def test_a_reason_of_several_lines_stays_one_line(manager: Manager) -> None:
    """A traceback must not put words into the service's mouth."""
    stage = Stage(manager, boot_timeout=0)
    stage.service.notify(notifications.ReloadFailed(1, "Traceback ...\nError: a\x0bMAINPID=1"))
    assert stage.wait(0) == ["READY=1\nSTATUS=generation 1 failed to boot, the old one goes on: MAINPID=1"]
    stage.close()


def test_the_host_has_its_environment_back_afterwards(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    monkeypatch.setenv("WATCHDOG_USEC", "5000000")
    stage = Stage(manager, boot_timeout=0)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & os.environ.keys()
    stage.close()
    assert (os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]) == (manager.path, "5000000")
