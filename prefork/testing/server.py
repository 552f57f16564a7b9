"""Run a server under test: a process tree of its own, its log in a file, and nothing left afterwards.

    with running_target("hello:handle", app_dir="examples", workers=2) as server:
        assert request(server.address).status == 200
        server.signal(signal.SIGHUP)
        server.wait_for_log("reloaded")
        assert server.stop() == 0

A server is ready when it has logged ``serving on ADDRESS[, ADDRESS...] with N workers, pid PID``, which is where its
address comes from: let it bind port 0, and tests never compete for a port. When a test fails inside the block, the
log comes with the error.
"""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM, pidfd_send_signal
from typing import IO, Final, TypedDict, Unpack

import psutil

from prefork.system.process import MOLD
from prefork.testing import measure
from prefork.testing.faults import Injector
from prefork.testing.processes import children, family, is_gone, kill, name_of_living
from prefork.testing.waiting import TIMEOUT, NotInTimeError, wait_for

READY: Final = r"serving on (?P<addresses>.+) with (?P<workers>\d+) workers?, pid (?P<pid>\d+)"
"""The line that a server logs when it is ready, as a regular expression."""

_SHOWN: Final = 20_000  # characters of a log that go into an error; the end is what tells
_FROM_OUTSIDE: Final = ("PREFORK_", "LISTEN_", "NOTIFY_SOCKET", "PYTHON")  # would let a test depend on who runs it
_KEPT: Final = ("PYTHONPATH",)

spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
"""What makes the process of a server's command."""


class NotServingError(AssertionError):
    """A server under test ended, or was not ready in time. Shows its whole log."""


class Options(TypedDict, total=False):
    """How `running` starts a server; every function here that starts one takes these."""

    cwd: str | os.PathLike[str]
    """The working directory; the test's own by default."""
    env: Mapping[str, str | None]
    """Changes to the environment; None takes a name away.

    Taken away already is what is prefork's, systemd's, or the interpreter's but for PYTHONPATH, so that a server under
    test behaves alike whoever runs the test. PYTHONUNBUFFERED is set, so that what it prints is in its log at once, and
    RUNTIME_DIRECTORY names a folder of its own, where its control socket is unless it is told another place."""
    prefix: Sequence[str]
    """A command that runs the server's (``unshare --pid --fork``), put before it."""
    pass_fds: Sequence[int]
    """Descriptors that the server inherits under their numbers."""
    ready: str
    """A regular expression for the line that says it is ready, instead of `READY`; its groups are optional."""
    faults: Injector
    """Decides about the system calls of the server."""
    within: float
    """Seconds it has to become ready."""


class Server:
    """A server under test. Made by `running` and its kin.

    Attributes:
        process: What was started; the leader of the session that all its processes are in. Leave waiting to `wait`.
        pid: The master's process id: what the ready line says, or else the started process's.
        addresses: Where it serves, from the ready line.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], log: IO[bytes], folder: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.process = process
        self._folder = folder
        self.pid = process.pid
        self.addresses: tuple[str, ...] = ()
        self._log = log
        self._exit_fd = os.pidfd_open(process.pid)
        self._master_fd = self._exit_fd
        self._nothing_left = False
        self._last_words = b""

    @property
    def address(self) -> str:
        """The first address it serves on.

        Raises:
            IndexError: When the ready line named none.
        """
        return self.addresses[0]

    def log(self) -> str:
        """All that it and its workers have written to stdout and stderr; after `close`, until then."""
        written = self._last_words if self._log.closed else os.pread(self._log.fileno(), self.log_size(), 0)
        return written.decode("utf-8", "replace")

    def log_size(self) -> int:
        """The log's length in bytes; what `wait_for_log` counts from is ``len(server.log())``, in characters."""
        return len(self._last_words) if self._log.closed else os.fstat(self._log.fileno()).st_size

    def tree(self) -> list[int]:
        """The ids of all its processes that live: its session, orphans included, and its descendants."""
        return [] if self._nothing_left else family(self.process.pid)

    def workers(self) -> list[int]:
        """The ids of the master's children that live, but its molds."""
        return [pid for pid in children(self.pid) if name_of_living(pid) not in (None, MOLD)]

    def molds(self) -> list[int]:
        """The ids of those of which workers are made, with ``preload``."""
        return [pid for pid in children(self.pid) if name_of_living(pid) == MOLD]

    def survivors(self) -> list[str]:
        """What is left of it: each process as its id and command line. Empty after a clean stop."""
        found = []
        for pid in self.tree():
            try:
                found.append(f"{pid} {' '.join(psutil.Process(pid).cmdline())}")
            except psutil.NoSuchProcess:
                continue
        return found

    def cpu_seconds(self) -> float:
        """CPU time, user and system, of all its processes, living or reaped; see `measure.cpu_seconds`."""
        return measure.cpu_seconds(self.tree())

    def voluntary_switches(self) -> int:
        """Voluntary context switches of all threads of its living processes."""
        return measure.voluntary_switches(self.tree())

    def descriptors(self) -> int:
        """How many descriptors the master has open."""
        return measure.descriptors(self.pid)

    def signal(self, signum: int) -> None:
        """Send a signal to the master.

        Args:
            signum: The signal.

        Raises:
            ProcessLookupError: When it has ended.
        """
        if self._log.closed:  # the descriptor's number may be another server's by now
            raise ProcessLookupError("nothing of the server is left")
        pidfd_send_signal(self._master_fd, signum)

    def signal_group(self, signum: int) -> None:
        """Send a signal to its whole process group, as a terminal's Ctrl-C and many service managers do.

        Args:
            signum: The signal.

        Raises:
            ProcessLookupError: When nothing of it is left.
        """
        if self._nothing_left:
            raise ProcessLookupError("nothing of the server is left")
        os.killpg(self.process.pid, signum)

    def wait_for(self, predicate: Callable[[], object], timeout: float = TIMEOUT, message: str = "") -> None:
        """Wait until ``predicate()`` is true.

        Args:
            predicate: The fact; called at least once.
            timeout: Seconds.
            message: The fact in words, for the error.

        Raises:
            NotInTimeError: When time is up; shows the log.
        """
        try:
            wait_for(predicate, timeout, message)
        except NotInTimeError as error:
            raise NotInTimeError(f"{error}\n{_shown(self.log())}") from None

    def wait_for_log(self, pattern: str, timeout: float = TIMEOUT, *, after: int = 0) -> re.Match[str]:
        """Wait until the log matches.

        Args:
            pattern: A regular expression, searched for; ``^`` and ``$`` are those of a line. What is written of a line
                that has not ended yet is found, too, if the match ends before it does: the rest is still to come.
            timeout: Seconds.
            after: Where to begin, in characters: ``match.end()`` of an earlier match, or ``len(server.log())``.

        Returns:
            The match.

        Raises:
            NotInTimeError: When time is up; shows the log.
        """
        compiled = re.compile(pattern, re.MULTILINE)
        found: list[re.Match[str]] = []

        def look() -> bool:
            log = self.log()
            found.extend(match for match in compiled.finditer(log, after) if match.end() < len(log) or log[-1:] == "\n")
            return bool(found)

        self.wait_for(look, timeout, f"{pattern!r} in the log")
        return found[0]

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait until the process that was started has ended.

        Args:
            timeout: Seconds.

        Returns:
            Its exit code, or minus the number of the signal that killed it.

        Raises:
            NotInTimeError: When time is up; shows the log.
        """
        if self.process.returncode is None:
            poll = select.poll()
            poll.register(self._exit_fd, select.POLLIN)
            if not poll.poll(timeout * 1000):
                raise NotInTimeError(f"still running after {timeout:g} s\n{_shown(self.log())}")
            # Until it is reaped its number stands for its session and nobody else's. A session that is empty then
            # stays so, and we never look at (or kill) what gets the number next.
            self._nothing_left = not self.tree()
        return self.process.wait()

    def stop(self, timeout: float = TIMEOUT, *, signum: int = SIGTERM) -> int:
        """Ask the master to stop, and wait until it has.

        Args:
            timeout: Seconds.
            signum: How to ask.

        Returns:
            Its exit code, or minus the number of the signal that killed it.

        Raises:
            NotInTimeError: When time is up; shows the log.
            ProcessLookupError: When it had ended before.
        """
        self.signal(signum)
        return self.wait(timeout)

    def close(self) -> None:
        """Kill all that is left of it, and give back what the test holds. Idempotent.

        With ``PREFORK_TESTING_GRACE`` (seconds) in the environment of the tests it is first asked to stop: a process
        that is killed leaves nothing of what it has found out about itself, such as its coverage.

        Raises:
            NotInTimeError: When a process outlives its SIGKILL by 30 s.
        """
        if self._log.closed:
            return
        grace = float(os.environ.get("PREFORK_TESTING_GRACE", "0"))
        if grace and self.process.returncode is None:
            self._ask_to_stop(grace)
        while left := self.tree():
            kill(*left)
        self.process.wait()
        self._nothing_left = True  # from here on its number may be somebody else's
        for fd in {self._exit_fd, self._master_fd}:
            os.close(fd)
        self._last_words = os.pread(self._log.fileno(), self.log_size(), 0)
        self._log.close()
        self._folder.cleanup()

    def _ask_to_stop(self, seconds: float) -> None:
        try:
            self.signal(SIGTERM)
            wait_for(lambda: not self.tree(), seconds)
        except (ProcessLookupError, NotInTimeError):
            pass  # it is killed then

    def wait_until_ready(self, ready: str = READY, within: float = TIMEOUT) -> None:
        """Wait for the line that says it serves; `running` has done it.

        Args:
            ready: What that line looks like, a regular expression that is searched for in whole lines; of its named
                groups, all optional, ``addresses`` are its addresses, with commas between, and ``pid`` is its
                master's process id.
            within: Seconds.

        Raises:
            NotServingError: When it has ended, or time is up; shows the whole log.
        """
        compiled = re.compile(ready, re.MULTILINE)
        ended = False
        match = None

        def look() -> bool:
            nonlocal ended, match
            ended = is_gone(self.process.pid)  # before the log is read: its last words count
            log = self.log()
            match = compiled.search(log, 0, log.rfind("\n") + 1)  # of a line that is being written, half may match
            return ended or match is not None

        try:
            wait_for(look, within)
        except NotInTimeError:
            raise NotServingError(f"not ready after {within:g} s; its log:\n{self.log()}") from None
        if match is None:
            raise NotServingError(f"ended with exit code {self.wait()}; its log:\n{self.log()}")
        groups = match.groupdict()
        if groups.get("addresses"):
            self.addresses = tuple(groups["addresses"].split(", "))
        pid = int(groups.get("pid") or self.pid)
        # In a pid namespace of its own the server doesn't know the number that it has here.
        if pid != self.pid and pid in self.tree():
            self.pid = pid
            self._master_fd = os.pidfd_open(pid)


def _shown(log: str) -> str:
    """The end of a log, for an error's message."""
    cut = f"[{len(log) - _SHOWN} characters before]\n" if len(log) > _SHOWN else ""
    return f"its log:\n{cut}{log[-_SHOWN:]}"


@contextmanager
def running(command: Sequence[str], **options: Unpack[Options]) -> Iterator[Server]:
    """Run a command that is a server, in a session of its own, until the end of the block.

    Args:
        command: The program and its arguments.
        **options: See `Options`.

    Yields:
        The server, ready.

    Raises:
        NotServingError: When it ends or is not ready in time; shows the whole log.
    """
    server = _start(command, options)
    try:
        server.wait_until_ready(options.get("ready", READY), options.get("within", TIMEOUT))
        yield server
    except NotServingError:
        raise
    except BaseException as error:
        error.add_note(f"the server, pid {server.pid}; {_shown(server.log())}")
        raise
    finally:
        server.close()


@contextmanager
def running_script(source: str, *arguments: str, **options: Unpack[Options]) -> Iterator[Server]:
    """Run the text of a Python program that is a server.

    Args:
        source: The program; common indentation is removed.
        *arguments: For its ``sys.argv``.
        **options: See `Options`.

    Yields:
        The server, ready.

    Raises:
        NotServingError: When it ends or is not ready in time; shows the whole log.
    """
    with tempfile.TemporaryDirectory(prefix="prefork-testing-") as directory:
        program = Path(directory, "server.py")
        program.write_text(textwrap.dedent(source), encoding="utf-8")
        with running([sys.executable, str(program), *arguments], **options) as server:
            yield server


@contextmanager
def running_target(
    target: str,
    *,
    app_dir: str | os.PathLike[str] = ".",
    subcommand: str = "serve",
    options: Options | None = None,
    **settings: object,
) -> Iterator[Server]:
    """Run ``prefork serve TARGET`` with the interpreter of the test.

    Args:
        target: "module:attribute".
        app_dir: The folder that the module is imported from.
        subcommand: ``serve``, or another that takes a target.
        options: See `Options`.
        **settings: prefork's settings by name, each passed as its flag; True and False as ``--name`` and
            ``--no-name``, a tuple or list as the flag repeated. ``bind`` is "127.0.0.1:0" unless given.

    Yields:
        The server, ready.

    Raises:
        NotServingError: When it ends or is not ready in time; shows the whole log.
    """
    command = [sys.executable, "-m", "prefork", subcommand, target, "--app-dir", os.fspath(app_dir)]
    for name, value in {"bind": "127.0.0.1:0", **settings}.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, (tuple, list)) else [value]
            command += [f"--{flag}={one}" for one in values]
    with running(command, **(options or {})) as server:
        yield server


@contextmanager
def hold_port(host: str = "127.0.0.1", *, reuse_port: bool = False) -> Iterator[str]:
    """Keep a port for a server that is started more than once.

    The port is bound here but not listened on, with SO_REUSEADDR: a server that sets it too (prefork does) can bind
    the port, while the kernel gives it to nobody else who asks for port 0.

    Args:
        host: The IPv4 or IPv6 address.
        reuse_port: Set SO_REUSEPORT as well, which servers need that share the port with each other.

    Yields:
        The address, "127.0.0.1:40000", for ``bind``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, 0))
        port = holder.getsockname()[1]
        yield f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"


def _start(command: Sequence[str], options: Options) -> Server:
    folder = tempfile.TemporaryDirectory(prefix="prefork-testing-", ignore_cleanup_errors=True)
    try:
        return _start_in(folder, command, options)
    except BaseException:
        folder.cleanup()
        raise


def _start_in(folder: tempfile.TemporaryDirectory[str], command: Sequence[str], options: Options) -> Server:
    environment = {
        name: value for name, value in os.environ.items() if name in _KEPT or not name.startswith(_FROM_OUTSIDE)
    }
    environment["PYTHONUNBUFFERED"] = "1"  # what it prints is in the log when it is printed
    environment["RUNTIME_DIRECTORY"] = folder.name
    for name, value in options.get("env", {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    command = [*options.get("prefix", ()), *command]
    pass_fds = tuple(options.get("pass_fds", ()))
    faults = options.get("faults")
    if faults is not None:
        command = faults.command(command)
        pass_fds += faults.pass_fds
    log = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115  # lives as long as the server; closed with it
    try:
        process = spawn(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=options.get("cwd"),
            env=environment,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except BaseException:
        log.close()
        raise
    try:
        if faults is not None:
            faults.started()
        return Server(process, log, folder)
    except BaseException:
        process.kill()
        process.wait()
        log.close()
        raise
