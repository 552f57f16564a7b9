"""Servers under test that are forked rather than executed: a start costs a quarter, for nothing is imported anew.

Half a thousand starts are most of what the suite takes, and most of what one takes is imports. So a process that has
imported what ``prefork serve`` imports before it looks at its target (`tests.support.forkserver`) becomes the server
that `prefork.testing` would execute. It is as fresh: nothing has run in it. What could tell the difference is
executed as ever: whatever has flags, variables, descriptors or a command of its own that work before Python does (but
for the launcher of `prefork.testing.faults`), and every test that is marked ``executed``, for it is about what a
process is started with: its command line, its memory, what it has loaded. With EXECUTED in the environment all are.
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
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from prefork.testing import inject

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


Spawn = Callable[..., subprocess.Popen[bytes]]
"""What `prefork.testing.server.spawn` is."""


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
        if self.returncode is None and _deadstate is None:  # else it is the garbage collector, perhaps within an `ask`
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
                [sys.executable, *flags, str(_PROGRAM), _FILLER, str(theirs.fileno()), inject.__file__, *modules],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.pid = self._process.pid

    def fork(
        self, what: _Start, out: int, err: int, cwd: str, environment: Mapping[str, str], command: Sequence[str]
    ) -> Forked:
        """Have a process forked that runs what the command does."""
        told = {"runs": what.runs, "command": what.command, "faults": what.faults, "cwd": cwd}
        with open(os.devnull, "rb") as null:
            answer = self.ask({**told, "environment": dict(environment)}, null.fileno(), out, err, *what.fds)
        return Forked(command, answer["pid"], self)

    def ask(self, what: Mapping[str, Any], *fds: int) -> Any:
        """Its answer."""
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(what).encode()], fds)
            return json.loads(self._channel.recv(1000))

    def end(self) -> None:
        """It ends when nobody can ask it any more."""
        self._channel.shutdown(socket.SHUT_RDWR)  # whoever else may have a copy
        self._channel.close()
        self._process.wait()


class ForkServers:
    """Those of this process, made when they are asked for."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether a test's servers may be forked: `tests/conftest.py` says it for each."""
        self._environment: dict[str, str] = {}
        self._inherited: tuple[Any, ...] = ()
        self._all: dict[tuple[tuple[str, ...], tuple[str, ...], bool], ForkServer] = {}
        self._lock = threading.Lock()
        atexit.register(self.end)

    @property
    def pids(self) -> set[int]:
        return {one.pid for one in self._all.values()}

    def spawn_or(self, execute: Spawn) -> Spawn:
        """What stands for `prefork.testing.server.spawn`: forks where that can be done, and executes elsewhere.

        It can be done where a process would begin as one that is started now.
        """
        self._environment = dict(os.environ)
        self._inherited = _inherited()

        def spawn(command: Sequence[str], **given: Any) -> subprocess.Popen[bytes]:
            out, folder = given["stdout"].fileno(), os.path.abspath(given["cwd"] or ".")
            forked = self._forked(command, out, out, given["env"], folder, given["pass_fds"])
            return forked or execute(command, **given)

        return spawn

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """What subprocess.run gives, of a command whose output is text. Its stdin is empty."""
        environment, folder = os.environ if env is None else env, os.path.abspath(cwd or ".")
        files = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2)]  # noqa: SIM115  # closed below
        try:
            out, err = (file.fileno() for file in files)
            process = self._forked(command, out, err, environment, folder) or subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd, env=env
            )
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            for file in files:
                file.seek(0)
            return subprocess.CompletedProcess(command, code, *(file.read() for file in files))
        finally:
            for file in files:
                file.close()

    def _forked(
        self,
        command: Sequence[str],
        out: int,
        err: int,
        environment: Mapping[str, str],
        cwd: str,
        pass_fds: Sequence[int] = (),
    ) -> Forked | None:
        """The process of a command; None where it has to be executed."""
        what = _understood(command)
        if not self.wanted or what is None or tuple(pass_fds) != what.fds or not os.path.isdir(cwd):
            return None
        # Whether Python keeps back what it writes is of its beginning too, and there are fork servers of both kinds.
        unbuffered = "PYTHONUNBUFFERED" in environment
        begins = {**self._environment, **({"PYTHONUNBUFFERED": "1"} if unbuffered else {})}
        if _beginning(environment) != _beginning(begins) or _inherited() != self._inherited:
            return None
        kind = what.flags, what.modules, unbuffered
        with self._lock:
            one = self._all.get(kind)
            if one is None:
                one = self._all[kind] = ForkServer(what.flags, what.modules, begins)
        return one.fork(what, out, err, cwd, environment, command)

    def end(self) -> None:
        """End all of them."""
        for one in self._all.values():
            one.end()
        self._all.clear()


class _Start(NamedTuple):
    """What a command starts.

    Attributes:
        command: It, without a launcher.
        runs: A file or module, and its arguments.
        modules: What that imports first.
        flags: Of Python.
        faults: The arguments of the launcher, but for its descriptor.
        fds: That.
    """

    command: list[str]
    runs: list[str]
    modules: tuple[str, ...]
    flags: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    fds: tuple[int, ...] = ()


def _understood(command: Sequence[str]) -> _Start | None:
    """What the command starts; None where that is nothing we know."""
    match list(command):
        case [sys.executable, "-I", "-S", inject.__file__, fd, *rest] if "--" in rest:
            end = rest.index("--")
            found = _understood(rest[end + 1 :])
            return found and found._replace(faults=tuple(rest[:end]), fds=(int(fd),))
        case [sys.executable, "-m", "prefork", "wsgi", *rest] if any(one.startswith("--worker-class") for one in rest):
            return _Start(list(command), ["prefork", "wsgi", *rest], ("prefork.cli.main", "prefork.wsgi.command"))
        case [sys.executable, "-m", "prefork", "check", *rest] if "--live" not in rest:
            return _Start(list(command), ["prefork", "check", *rest], ("prefork.cli.main", "prefork.cli.serving"))
        case [sys.executable, "-m", "prefork", subcommand, *rest] if subcommand in _MODULES:
            return _Start(list(command), list(command[2:]), ("prefork.cli.main", *_MODULES[subcommand]))
        case [sys.executable, "-W", action, "-m", "tests.support.wsgi.accept_loop" as module, *rest]:
            return _Start(list(command), [module, *rest], (module,), flags=("-W", action))
        case [sys.executable, script, *rest] if script.endswith(".py"):
            return _Start(list(command), [script, *rest], ("logging", "prefork.master"))
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
