"""The site: what outlives a server of the storm (its folder, its addresses, its code), and the server that is there."""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from prefork.errors import ControlError
from prefork.services.control.client import Client
from prefork.status.model import Status
from prefork.system.process import MOLD
from prefork.testing import Options, Server, hold_port, running
from prefork.testing.faults import Injector
from prefork.testing.processes import is_gone, name_of_living
from tests.storm.arrangement import NOFILE, Arrangement

PATIENCE: Final = 60.0
"""Seconds that anything may take on a machine that has much else to do."""

INJECTED: Final = ("accept", "fork", "pidfd_open", "pipe", "epoll_add")
"""The system calls that can be made to fail."""

_FAILED: Final = "failed to boot|can't be imported"

_TARGETS: Final = {"serve": "application:Sturdy", "wsgi": "application:application"}


class Facts(NamedTuple):
    """What the system says of a server."""

    children: list[int]
    molds: list[int]
    zombies: list[int]
    tree: list[int]
    descriptors: int
    rss: int


class Site:
    """Where servers of one arrangement stand, one after the other.

    Attributes:
        arrangement: How they are set up.
        code: What they run at their import, if it is there.
        addresses: Where clients find them.
        server: The one that is there.
        faults: Makes its system calls fail; None unless the arrangement says so.
        starts: How many there have been.
    """

    server: Server

    def __init__(self, arrangement: Arrangement, stack: ExitStack) -> None:
        self.arrangement = arrangement
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storm-")))
        self.code = self.folder / "code.py"
        self.faults: Injector | None = None
        self.starts = 0
        self._life = ExitStack()
        stack.callback(self.ended)
        self._pass: list[int] = []
        grouped = arrangement.groups > 0
        match arrangement.listening:
            case "inherited":
                listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
                self._pass = [listener.fileno()]
                self.binds = [f"fd://{listener.fileno()}"]
                self.addresses = [f"127.0.0.1:{listener.getsockname()[1]}"]
            case "unix":
                self.binds = self.addresses = [f"unix:{self.folder}/socket"]
            case "two":
                self.binds = [stack.enter_context(hold_port()), f"unix:{self.folder}/socket"]
                self.addresses = self.binds
            case "two groups":
                self.binds = [stack.enter_context(hold_port(host, reuse_port=True)) for host in ("127.0.0.1", "::1")]
                self.addresses = self.binds
            case _:
                self.binds = self.addresses = [stack.enter_context(hold_port(reuse_port=grouped))]

    # Starts and ends.

    @property
    def control(self) -> Path:
        """The control socket of the server that is there."""
        return self.folder / f"{self.starts}.control"

    @property
    def pidfile(self) -> Path:
        """Its pidfile."""
        return self.folder / f"{self.starts}.pid"

    def start(self) -> None:
        """Start a server and wait until it serves."""
        life = ExitStack()
        try:
            self.server = self._start(life, [], None)
        except BaseException:
            life.close()
            raise
        self._life = life

    def fail_to_start(self) -> int:
        """Start a server that can't boot; returns its exit code."""
        with ExitStack() as life:
            return self._start(life, [], _FAILED).wait(PATIENCE)

    def take_over(self) -> None:
        """Start a successor beside the server, and wait until that has ended."""
        before, predecessor, life = self.server, self.pidfile, ExitStack()
        try:
            server = self._start(life, [f"--takeover={predecessor}"], None)
            code = before.wait(PATIENCE)
        except BaseException:
            life.close()
            raise
        self.server = server
        self._life.close()
        self._life = life
        if code != 0:
            raise AssertionError(f"the predecessor ended with exit code {code}")

    def _start(self, life: ExitStack, more: Sequence[str], ready: str | None) -> Server:
        arrangement = self.arrangement
        self.starts += 1
        command = [sys.executable, "-m", "prefork", arrangement.subcommand, _TARGETS[arrangement.subcommand]]
        command += ["--app-dir", str(Path(__file__).parent), f"--workers={arrangement.workers}"]
        command += [f"--control={self.control}", f"--pidfile={self.pidfile}"]
        command += [f"--bind={bind}" for bind in self.binds]
        command += ["--preload"] if arrangement.preload else []
        command += more
        for name, value in arrangement.settings.items():
            flag = name.replace("_", "-")
            switch = f"--{flag}" if value else f"--no-{flag}"
            command.append(switch if isinstance(value, bool) else f"--{flag}={value}")
        options: Options = {
            "env": {"STORM_CODE": str(self.code)},
            "pass_fds": self._pass,
            "prefix": ["sh", "-c", f'ulimit -Sn {NOFILE}; exec "$@"', "sh"],
            "within": PATIENCE,
        }
        if ready is not None:
            options["ready"] = ready
        if arrangement.injected:
            self.faults = options["faults"] = life.enter_context(Injector(*INJECTED))
        return life.enter_context(running(command, **options))

    def ended(self) -> None:
        """The server has ended: give back what the test holds of it."""
        self._life.close()
        self._life = ExitStack()

    def clean(self) -> None:
        """Remove what a killed server could not; a path in the way of the next one is its own affair."""
        self.control.unlink(missing_ok=True)
        self.pidfile.unlink(missing_ok=True)

    def files(self) -> set[str]:
        """What is in the folder."""
        return {path.name for path in self.folder.iterdir()}

    # What it says, and what the system says of it.

    def client(self, timeout: float = PATIENCE) -> Client:
        """A connection to its control socket, however long the server is busy with becoming another image of itself."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return Client(self.control, timeout=10.0)
            except ControlError as error:
                self._not_yet(error, deadline)
            time.sleep(0.005)  # nothing tells when its socket is there again

    def status(self, timeout: float = PATIENCE) -> Status:
        """What it tells of itself."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                with self.client(timeout) as client:
                    return client.status(processes=False)
            except ControlError as error:
                self._not_yet(error, deadline)
            time.sleep(0.005)  # as above

    def _not_yet(self, error: ControlError, deadline: float) -> None:
        """It does not answer: that may be forgiven for a while, unless there is nobody any more who could."""
        if is_gone(self.server.pid):
            raise AssertionError(f"the master has ended: {error}")
        if time.monotonic() > deadline:
            raise error

    def facts(self) -> Facts:
        """What the system says of it."""
        master = psutil.Process(self.server.pid)
        children = master.children()
        zombies = [child.pid for child in children if _is_zombie(child)]
        names = {child.pid: name_of_living(child.pid) for child in children}
        return Facts(
            children=sorted(pid for pid, name in names.items() if name not in (None, MOLD)),
            molds=sorted(pid for pid, name in names.items() if name == MOLD),
            zombies=zombies,
            tree=self.server.tree(),
            descriptors=master.num_fds(),
            rss=master.memory_info().rss,
        )


def _is_zombie(child: psutil.Process) -> bool:
    try:
        return bool(child.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
