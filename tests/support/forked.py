"""Servers under test that are forked rather than executed: a start costs a third, for nothing is imported anew.

Half a thousand starts are most of what the suite takes, and most of what one takes is imports. So a process that has
imported what ``prefork serve`` imports before it looks at its target (`tests.support.forkserver`) becomes the server
that `prefork.testing` would execute. It is as fresh: nothing has run in it. What could tell the difference is
executed as ever: whatever has flags, variables, descriptors or a command of its own that work before Python does, and
every test that is marked ``executed``, for it is about what a process is started with: its command line, its
memory, what it has loaded. With EXECUTED in the environment all are.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Protocol

_PROGRAM: Final = Path(__file__).with_name("forkserver.py")
_FILLER: Final = "-" * 4000

# What works before a program does, or on its libraries: fixed when the interpreter begins.
_AT_THE_BEGINNING: Final = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_", "GLIBC_", "COV", "HOME", "OPENSSL", "SSL_")

# What a process is given by its parent, of /proc/self/status (proc_pid_status(5)).
_INHERITED: Final = ("Umask:", "Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Sec", "SigBlk:", "SigIgn:", "Cpus")

_MODULES: Final = {
    "serve": ("prefork.cli.serving",),
    "wsgi": ("prefork.wsgi.command", "prefork.wsgi.worker"),
    "asgi": ("prefork.embed.command",),
}
_HARNESS: Final = "tests.support.wsgi.accept_loop"


class Spawn(Protocol):
    """What `prefork.testing.server.spawn` is."""

    def __call__(
        self,
        command: Sequence[str],
        log: IO[bytes],
        environment: Mapping[str, str],
        cwd: str | os.PathLike[str] | None,
        pass_fds: Sequence[int],
    ) -> subprocess.Popen[bytes]: ...


class Forked(subprocess.Popen[bytes]):
    """A process that a fork server has forked; it is that one's child, and reaped by it when it is waited for here.

    Args:
        command: What it would have been executed by.
        pid: Its id.
        by: The fork server.
    """

    def __init__(self, command: Sequence[str], pid: int, by: ForkServer) -> None:
        self.args = command
        self.pid = pid
        self.returncode = None
        self.stdin = self.stdout = self.stderr = None
        self._child_created = True
        self._by = by
        self._fd = os.pidfd_open(pid)

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        if self.returncode is None:
            self.returncode = self._by.ask({"ended": self.pid})["code"]
            if self.returncode is not None:
                os.close(self._fd)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self._internal_poll()
        assert code is not None
        return code


class ForkServer:
    """One such process.

    Args:
        flags: Of the interpreter.
        modules: What it imports.
        environment: Its environment.
    """

    def __init__(self, flags: tuple[str, ...], modules: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *flags, str(_PROGRAM), _FILLER, str(theirs.fileno()), *modules],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.pid = self._process.pid

    def fork(self, runs: Sequence[str], command: Sequence[str], log: IO[bytes], **told: Any) -> Forked:
        """Have a process forked that runs what the command does."""
        with open(os.devnull, "rb") as null:
            pid = self.ask({"runs": runs, "command": command, **told}, null.fileno(), log.fileno())["pid"]
        return Forked(command, pid, self)

    def ask(self, what: Mapping[str, Any], *fds: int) -> Any:
        """Its answer."""
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(what).encode()], fds)
            return json.loads(self._channel.recv(1000))

    def end(self) -> None:
        """It ends when nobody can ask it any more."""
        self._channel.close()
        self._process.wait()


class ForkServers:
    """Those of this process, made when they are asked for."""

    def __init__(self) -> None:
        self.wanted = True
        """Whether a test's servers may be forked: `tests/conftest.py` says it for each."""
        self._environment: dict[str, str] = {}
        self._inherited: tuple[Any, ...] = ()
        self._all: dict[tuple[tuple[str, ...], tuple[str, ...]], ForkServer] = {}
        self._lock = threading.Lock()
        atexit.register(self.end)

    @property
    def pids(self) -> set[int]:
        return {one.pid for one in self._all.values()}

    def spawn_or(self, execute: Spawn) -> Spawn:
        """What stands for `prefork.testing.server.spawn`: forks where that can be done, and executes elsewhere.

        It can be done where a process would begin as one that is started now.
        """
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # as `prefork.testing` sets it
        self._inherited = _inherited()

        def spawn(
            command: Sequence[str],
            log: IO[bytes],
            environment: Mapping[str, str],
            cwd: str | os.PathLike[str] | None,
            pass_fds: Sequence[int],
        ) -> subprocess.Popen[bytes]:
            return self._forked(command, log, environment, os.path.abspath(cwd or "."), pass_fds) or execute(
                command, log, environment, cwd, pass_fds
            )

        return spawn

    def _forked(
        self, command: Sequence[str], log: IO[bytes], environment: Mapping[str, str], cwd: str, pass_fds: Sequence[int]
    ) -> Forked | None:
        """The process of a server; None where it has to be executed."""
        found = _found(command)
        if not self.wanted or found is None or pass_fds or not os.path.isdir(cwd):
            return None
        if _beginning(environment) != _beginning(self._environment) or _inherited() != self._inherited:
            return None
        flags, runs, modules = found
        with self._lock:
            one = self._all.get((flags, modules))
            if one is None:
                one = self._all[flags, modules] = ForkServer(flags, modules, self._environment)
        return one.fork(runs, list(command), log, cwd=cwd, environment=dict(environment))

    def end(self) -> None:
        """End all of them."""
        for one in self._all.values():
            one.end()
        self._all.clear()


def _found(command: Sequence[str]) -> tuple[tuple[str, ...], list[str], tuple[str, ...]] | None:
    """The flags of Python, what it runs, and what that imports first; None where that is nothing we know."""
    if command[0] != sys.executable:
        return None
    if list(command[1:3]) == ["-m", "prefork"] and len(command) > 3 and command[3] in _MODULES:
        own = command[3] != "wsgi" or not any(word.startswith("--worker-class") for word in command)
        modules = _MODULES[command[3]] if own else _MODULES["wsgi"][:1]
        return (), list(command[2:]), ("prefork.cli.main", *modules)
    if list(command[1:2]) == ["-W"] and list(command[3:5]) == ["-m", _HARNESS]:
        return tuple(command[1:3]), list(command[4:]), (_HARNESS,)
    if len(command) > 1 and command[1].endswith(".py"):  # `running_script`
        return (), list(command[1:]), ("logging", "prefork.master")
    return None


def _beginning(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_AT_THE_BEGINNING)}


def _inherited() -> tuple[Any, ...]:
    """All that a process has of its parent, and that we don't hand on."""
    lines = Path("/proc/self/status").read_text().splitlines()
    limits = [resource.getrlimit(number) for name, number in vars(resource).items() if name.startswith("RLIMIT_")]
    return (
        [line for line in lines if line.startswith(_INHERITED)],
        limits,
        os.nice(0),
        Path("/proc/self/cgroup").read_text(),
        Path("/proc/self/oom_score_adj").read_text(),
        [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "net", "pid_for_children", "user", "ipc", "uts")],
    )


SERVERS: Final = ForkServers()
"""Those of this process of pytest."""
