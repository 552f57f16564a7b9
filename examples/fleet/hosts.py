"""The hosts of a fleet, on one machine: on addresses of the loopback, or each in a network namespace of its own.

In namespaces (ip-netns(8)) they are joined by a bridge, as machines are by a switch, and a cable can be pulled. That
needs root; what is made is removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
PORT, HEALTH_PORT, AGENT_PORT = 8000, 8001, 8002
START = 60.0
"""Seconds that a server has to start."""
STOP = 60.0
"""Seconds that it has to stop: more than prefork.toml's drain_delay and graceful_timeout."""


class Loopback:
    """Hosts that have an address each, and are the same machine otherwise.

    Args:
        net: What their addresses begin with.
    """

    def __init__(self, net: str = "127.0.0") -> None:
        self.net = net

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def into(self, name: str) -> list[str]:
        """The command that runs another one on a host, or beside HAProxy ("")."""
        return []

    def add(self, name: str, address: str) -> None:
        """Let there be a host."""


class Namespaces(Loopback):
    """Hosts that are joined by a bridge only.

    Args:
        net: What their addresses begin with.
    """

    def __init__(self, net: str = "10.77.0") -> None:
        super().__init__(net)
        self._prefix = f"fleet{os.getpid()}"
        self._made: list[str] = []

    def __enter__(self) -> Self:
        self._make("")
        self._ip("", "link", "add", "bridge", "type", "bridge")
        self._ip("", "address", "add", f"{self.net}.1/24", "dev", "bridge")
        self._ip("", "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for space in self._made:
            _run("ip", "netns", "delete", space)

    def into(self, name: str) -> list[str]:
        """The command that runs another one on a host, or beside HAProxy ("")."""
        return ["ip", "netns", "exec", self._space(name)]

    def add(self, name: str, address: str) -> None:
        """Let there be a host: a namespace, and a cable to the bridge."""
        self._make(name)
        self._ip("", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", self._space(name))
        self._ip("", "link", "set", name, "master", "bridge", "up")
        self._ip(name, "address", "add", f"{address}/24", "dev", "eth0")
        self._ip(name, "link", "set", "eth0", "up")

    def cut(self, name: str) -> None:
        """Pull a host's cable: what is sent to it is lost, and nobody is told."""
        self._ip("", "link", "set", name, "down")

    def mend(self, name: str) -> None:
        """Plug it in again."""
        self._ip("", "link", "set", name, "up")

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name or 'front'}"

    def _make(self, name: str) -> None:
        _run("ip", "netns", "add", self._space(name))
        self._made.append(self._space(name))
        self._ip(name, "link", "set", "lo", "up")

    def _ip(self, name: str, *arguments: str) -> None:
        _run("ip", "-netns", self._space(name), *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Host:
    """One host with one server of prefork's.

    Args:
        name: What HAProxy calls it.
        network: Where it is.
        address: Its own.
        folder: Its files: the version of the application, the log, the control socket.
        settings: Flags for the server, beside those of prefork.toml.
        proxied: Whether HAProxy says whose connections they are (the PROXY protocol).

    Attributes:
        process: The server's master; None when there is none.
        work: Seconds that a request takes, from the next start on.
    """

    server = "prefork"
    serves = "serving on .* workers?, pid"
    """What it says when it does."""

    def __init__(
        self,
        name: str,
        network: Loopback,
        address: str,
        folder: Path,
        settings: Sequence[str] = (),
        *,
        proxied: bool = True,
    ) -> None:
        self.name = name
        self.proxied = proxied
        self.address = address
        self.folder = folder
        self._into = network.into(name)
        self._settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.work = 0.002
        folder.mkdir()

    @property
    def control(self) -> Path:
        """Its control socket, for ``prefork top`` and its like."""
        return self.folder / "control"

    @property
    def log(self) -> str:
        """What the server has said."""
        path = self.folder / "log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def command(self) -> list[str]:
        """The server's module and its flags."""
        flags = ["--config", str(HERE / "prefork.toml"), "--control", str(self.control)]
        flags += ["--bind", f"{self.address}:{PORT}", "--health-bind", f"{self.address}:{HEALTH_PORT}"]
        flags += ["--agent-bind", f"{self.address}:{AGENT_PORT}"]
        if not self.proxied:
            flags += ["--proxy-protocol", "off"]
        return ["prefork", "wsgi", "shop:application", "--app-dir", str(HERE), *flags]

    @staticmethod
    def balanced(text: str) -> str:
        """haproxy.cfg for servers of this kind."""
        return text

    def start(self, version: str) -> None:
        """Start the server with a version of the application, and wait until it serves.

        Raises:
            TimeoutError: It does not.
        """
        self._bring(version)
        began = len(self.log)
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*self._into, sys.executable, "-m", *self.command(), *self._settings],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START
        while not re.search(self.serves, self.log[began:]):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} does not serve: {self.log[began:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it: prefork tells HAProxy, serves on for drain_delay, and finishes what it has in hand.

        Raises:
            TimeoutError: It is still there after a minute.
        """
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self._end()

    def restart(self, version: str) -> None:
        """What systemctl restart does, with another version."""
        self.stop()
        self.start(version)

    def upgrade(self, version: str) -> None:
        """Have the server replace itself by another version: its socket stays, and HAProxy notices nothing."""
        self._bring(version)
        _run(sys.executable, "-m", "prefork", "upgrade", "--control", str(self.control))

    def kill(self) -> None:
        """Let the host die: all its processes at once."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):  # all of them have ended by themselves
                os.killpg(self.process.pid, signal.SIGKILL)
            self._end()

    def _end(self) -> None:
        assert self.process is not None
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} does not stop: {self.log}") from None
        self.process = None

    def _bring(self, version: str) -> None:
        (self.folder / "version").write_text(version, encoding="utf-8")
        (self.folder / "work").write_text(str(self.work), encoding="utf-8")
