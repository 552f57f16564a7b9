"""``prefork run``: run a Python file in a worker, in which it can look at everything, and print what it printed.

CPython 3.14 has a way for that (PEP 768, sys.remote_exec): a process that may trace another one writes the path of a
file into its memory, and its interpreter runs that file at the next moment at which it would handle signals. So nothing
has to be prepared in the worker, and nothing costs anything before. The file that we write there runs the script by
`prefork.cli.remote`.
"""

from __future__ import annotations

import contextlib
import inspect
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import psutil

from prefork.cli import remote
from prefork.cli.commands import UNFIT, CommandParser, slot_of
from prefork.cli.main import write
from prefork.errors import ControlError, RefusedError, SettingsError, printable, printable_lines
from prefork.services.control.client import Client
from prefork.system import codec
from prefork.system.backoff import Backoff
from prefork.system.codec import DecodeError
from prefork.system.natives import os, signal, socket, time

FIRST: Final = (3, 14)
"""The release of CPython that knows how."""

_CALLS: Final = Backoff(initial=0.01, factor=2.0, maximum=1.0, jitter=0.0)
_PLACES: Final = ("tmp", "var/tmp", "dev/shm", "run")
_ANSWER, _SCRIPT = "answer", "script.py"
_MOST: Final = 16 << 20  # bytes of an answer
_CREDENTIALS: Final = struct.Struct("=iII")

_BROUGHT: Final = """\
exec(compile({code!r}, 'prefork run', 'exec'), (given := {{'__name__': 'prefork.cli.remote'}}))
given['run']({source!r}, {name!r}, {address!r})
"""
"""The file that the worker's interpreter runs, in the worker's ``__main__``; it leaves one name there."""


@dataclass(frozen=True, slots=True)
class RunWorker:
    """The worker in which something is to run.

    Attributes:
        slot: Its slot.
        pid: Its process.
        uid: Who it runs as.
        gid: With which group.
    """

    slot: int
    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class RunPlace:
    """A folder for what goes to and fro.

    Attributes:
        name: What we and the worker call it.
        folder: Its descriptor (O_PATH).
    """

    name: str
    folder: int

    @property
    def own(self) -> str:
        """The way to it that is nobody's to change."""
        return f"/proc/self/fd/{self.folder}"


def run(argv: Sequence[str]) -> int:
    """``prefork run``."""
    parser = CommandParser(
        "run",
        "Run a Python file in a worker, between two of its instructions, and print what it prints; the worker goes\n"
        "on. What it has imported can be looked at, and changed. Needs CPython 3.14 (PEP 768), and to be root or the\n"
        f"user whom the worker runs as. Exit code {UNFIT} says that the file raised, or did not run.",
    )
    parser.add_argument("slot", metavar="SLOT", type=slot_of, help="whose, as prefork status shows it")
    parser.add_argument("script", metavar="FILE", help="the file")
    parser.seconds(10.0, "how long it may take until the file has run")
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    _able()
    source = _script(arguments.script)
    with Client(arguments.control) as client:
        worker = _worker(client, arguments.slot)
    answer = _run(worker, source, os.path.abspath(arguments.script), arguments.timeout)
    write(printable_lines(answer["output"]))
    if answer["raised"]:
        sys.stderr.write(printable_lines(answer["raised"].rstrip("\n")) + "\n")
        return UNFIT
    return 0


def _able() -> None:
    """Whether this interpreter can do it at all."""
    instead = "prefork dump SLOT prints a worker's tracebacks, and py-spy (pip install py-spy) looks into any process"
    if sys.version_info < FIRST or not hasattr(sys, "remote_exec"):
        have = f"{sys.implementation.name} {_version(3)}"
        raise SettingsError(f"prefork run needs CPython 3.14, in command and workers, and this is {have}; {instead}")
    enabled: Callable[[], bool] = getattr(sys, "is_remote_debug_enabled", lambda: True)
    if not enabled():
        raise SettingsError(
            "prefork run: remote debugging is turned off for this interpreter (PYTHON_DISABLE_REMOTE_DEBUG, "
            f"-X disable-remote-debug, or its build); {instead}"
        )


def _version(parts: int) -> str:
    return ".".join(map(str, sys.version_info[:parts]))


def _script(path: str) -> bytes:
    """What stands in the script. It is read here, as whoever asks: the worker may not be allowed to."""
    shown = printable(path)
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{shown}: {error.strerror}; name a Python file that you may read") from None
    try:
        compile(source, path, "exec")
    except (SyntaxError, ValueError) as error:
        raise SettingsError(f"{shown} is not Python: {printable(str(error))}") from None
    return source


def _worker(client: Client, slot: int) -> RunWorker:
    """Who serves in a slot, if it is somebody in whom we may run something."""
    status = client.status(processes=False)
    found = next((worker for worker in status.workers if worker.slot == slot and worker.state != "leaving"), None)
    if found is None:
        raise ControlError(f"slot {slot} has no worker")
    if found.state == "starting":
        raise ControlError(f"worker {slot} (pid {found.pid}) is starting; it runs no script before it serves")
    try:
        process = psutil.Process(found.pid)
        parent, uid, gid = process.ppid(), process.uids().effective, process.gids().effective
    except psutil.Error:
        parent, uid, gid = 0, 0, 0
    if parent != status.pid:
        raise ControlError(
            f"pid {found.pid} is no worker's here: it has ended, or the server is in another container; run it there"
        )
    worker = RunWorker(slot, found.pid, uid, gid)
    if os.geteuid() not in {0, uid}:
        raise ControlError(f"{worker} runs as uid {uid}, and you are uid {os.geteuid()}; be root or that user")
    return worker


def _run(worker: RunWorker, source: bytes, name: str, seconds: float) -> dict[str, str]:
    deadline = time.monotonic() + seconds
    with _place(worker) as place, socket.socket(socket.AF_UNIX) as answers:
        answers.bind(f"{place.own}/{_ANSWER}")
        answers.listen(4)
        address, script = f"{place.name}/{_ANSWER}", f"{place.name}/{_SCRIPT}"
        text = _BROUGHT.format(code=inspect.getsource(remote), source=source, name=name, address=address)
        fd = os.open(_SCRIPT, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=place.folder)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
        if worker.uid != os.geteuid():
            for made in (_ANSWER, _SCRIPT):
                os.chown(made, worker.uid, worker.gid, dir_fd=place.folder, follow_symlinks=False)
            os.chown(place.own, worker.uid, worker.gid)  # the last: from then on it is the worker's
        _execute(worker, script)
        return _answered(worker, answers, deadline)


@contextlib.contextmanager
def _place(worker: RunWorker) -> Iterator[RunPlace]:
    """A folder of one name for us and for the worker, whatever the worker sees as its root (PrivateTmp, chroot).

    What is below that root may be the worker's to change, at any moment. So no link there is followed, the folder is
    held by a descriptor from when it is seen to be ours, and what is made in it is removed, and nothing else.
    """
    root = f"/proc/{worker.pid}/root"
    for place in _PLACES:
        with contextlib.ExitStack() as stack:
            name = f"prefork-run-{os.urandom(8).hex()}"
            try:
                parent = _entered(stack, root)
                for part in place.split("/"):
                    parent = _entered(stack, part, parent)
                os.mkdir(name, 0o700, dir_fd=parent)
                stack.callback(_removed, name, parent)
                folder = _entered(stack, name, parent)
            except OSError:
                continue
            found = os.fstat(folder)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
                continue  # another was put in its place
            for file in (_ANSWER, _SCRIPT):
                stack.callback(_unlinked, file, folder)
            yield RunPlace(f"{root}/{place}/{name}", folder)
            return
    raise RefusedError(f"{worker}: there is no place for a file that it could read ({', '.join(_PLACES)} below {root})")


def _entered(stack: contextlib.ExitStack, name: str, parent: int | None = None) -> int:
    """A folder, open until the stack is unwound; ``name`` is a link only where it is the kernel's, a process's root."""
    follow = 0 if parent is None else os.O_NOFOLLOW
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | follow, dir_fd=parent)
    stack.callback(os.close, fd)
    return fd


def _unlinked(name: str, folder: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _removed(name: str, parent: int) -> None:
    with contextlib.suppress(OSError):  # the worker has left something in it
        os.rmdir(name, dir_fd=parent)


def _execute(worker: RunWorker, path: str) -> None:
    """Have the worker's interpreter run a file, when it comes to it."""
    remote_exec: Callable[[int, str], object] = getattr(sys, "remote_exec")  # noqa: B009  # typeshed's 3.11 has none
    try:
        remote_exec(worker.pid, path)
    except PermissionError:
        raise RefusedError(
            f"{worker}: the system does not let this process trace it (ptrace(2)); be root, in a container with "
            "CAP_SYS_PTRACE, or let its user do so (kernel.yama.ptrace_scope)"
        ) from None
    except (OSError, RuntimeError) as error:
        _unable(worker, error)


def _unable(worker: RunWorker, error: Exception) -> NoReturn:
    said = printable(str(error)).rstrip(".")
    raise RefusedError(
        f"{worker}: {said}; it has to run the same CPython as this command, {_version(2)}, without "
        "PYTHON_DISABLE_REMOTE_DEBUG"
    ) from None


def _answered(worker: RunWorker, answers: socket.socket, deadline: float) -> dict[str, str]:
    connection = _began(worker, answers, deadline)
    with connection:
        data = b""
        try:
            while len(data) <= _MOST:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                more = connection.recv(1 << 16)
                if not more:
                    break
                data += more
        except TimeoutError:
            raise ControlError(f"{worker} runs it still; --timeout SECONDS waits longer") from None
        except OSError:
            data = b""
    try:
        found: dict[str, Any] = codec.parsed_object(data)
        return {"output": str(found["output"]), "raised": str(found["raised"])}
    except (DecodeError, KeyError):
        raise ControlError(f"{worker} has ended meanwhile; see the log") from None


def _began(worker: RunWorker, answers: socket.socket, deadline: float) -> socket.socket:
    """The connection that says that the worker has begun. A worker that waits in a system call is called out of it."""
    calls, waits = 0, _caught(worker, signal.SIGIO)
    while True:
        if not psutil.pid_exists(worker.pid):
            raise ControlError(f"{worker} has ended meanwhile; see the log")
        left = deadline - time.monotonic()
        if left <= 0:
            raise ControlError(
                f"{worker} has not come to it in time; prefork dump {worker.slot} shows what holds it up: a call into "
                "C, or into the kernel, that no signal ends"
            )
        if waits:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(worker.pid, signal.SIGIO)  # to a worker it says nothing by itself
        try:
            answers.settimeout(min(left, _CALLS.delay(calls, 0.0)))
            connection, _ = answers.accept()
        except TimeoutError:
            calls += 1
            continue
        pid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
        if pid == worker.pid:
            return connection
        connection.close()  # somebody else's


def _caught(worker: RunWorker, signum: int) -> bool:
    """Whether the worker has a handler for a signal, which would end it otherwise (proc(5), SigCgt)."""
    try:
        status = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signum - 1) & 1)
