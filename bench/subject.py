"""One server under measurement: how it is started, asked whether it serves, told to stop and to reload."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from signal import SIGTERM
from typing import Any

import psutil

from bench.rounds import FAILURES, short
from bench.workshop import APPS, HERE, PYTHON, SOCKETS, WORK, MissingError, environment, found
from prefork.system.process import MOLD
from prefork.testing import GET, NotServingError, Server, call_until, hold_port, request, running
from prefork.testing.processes import is_gone, name_of_living

WORKERS = 2

PROXY = "PROXY TCP4 192.0.2.7 192.0.2.1 40000 80\r\n"
"""What comes before the first request, where the transport is "proxy"."""

Action = Callable[[Server], object]

Command = Callable[[str, int], list[str]]
"""Given the address and the number of workers, the program and its arguments."""


def by_signal(signum: int) -> Action:
    """To be told by a signal to its master."""
    return lambda server: server.signal(signum)


@dataclass(frozen=True)
class Subject:
    """One server.

    Attributes:
        name: short, for the command line and for plots.
        title: what it is, for tables.
        kind: what it is to be compared with: "handler" (bare connections), "wsgi", "asgi", "static", "echo".
        command: the program and its arguments, given the address and the number of workers.
        environment: changes to the environment.
        ready: the line that says that it serves and where; "" for a server that is given its port and asked.
        stop: how it is told to stop without losing anybody.
        reload: how it is told to replace its workers; None when it can't.
        supervises: whether a master replaces workers that die.
        transport: "tcp", "unix", "tls", or "proxy" when connections begin with the PROXY protocol's header.
        keeps: whether it keeps connections for the next request, where a table asks for both.

    """

    name: str
    title: str
    kind: str
    command: Command
    environment: Callable[[], dict[str, str]] = dict
    ready: str = ""
    stop: Action = field(default=by_signal(SIGTERM))
    reload: Action | None = None
    supervises: bool = False
    transport: str = "tcp"
    keeps: bool = True

    @contextlib.contextmanager
    def serving(self, workers: int = WORKERS, address: str | None = None) -> Iterator[Server]:
        """Run it for the block.

        Args:
            workers: processes that accept (count).
            address: where; on a port that is free, or a socket of its own, when None.

        Raises:
            MissingError: it is not on this machine.
            NotServingError: it didn't start.
        """
        with contextlib.ExitStack() as stack:
            if self.transport == "unix":
                address = f"unix:{SOCKETS / self.name}.sock"
                Path(where(address)).unlink(missing_ok=True)  # some don't take over what they left themselves
            elif self.ready and address is None:
                address = "127.0.0.1:0"
            elif address is None:
                address = stack.enter_context(hold_port())
            command = self.command(address, workers)
            env = {**environment(), **self.environment()}
            server = stack.enter_context(running(command, ready=self.ready, env=env))
            if not self.ready:
                server.addresses = (address,)
            call_until(lambda: is_gone(server.process.pid) or _answers(self, server), message=f"{self.name} to answer")
            if is_gone(server.process.pid):
                raise NotServingError(f"it ended: {_complaint(server.log())}")
            if self.supervises:
                call_until(lambda: len(server.tree()) > workers, message=f"all workers of {self.name}")
            yield server

    def told(self) -> str:
        """Its command line, for the results; paths and the port as a reader would have them."""
        address = "unix:PATH" if self.transport == "unix" else "127.0.0.1:PORT"
        text = shlex.join(self.command(address, WORKERS))
        places = {str(Path(PYTHON).parent): "", str(WORK): "bench/.work", str(APPS): "bench/apps", str(HERE): "bench"}
        for place, name in (*places.items(), (str(SOCKETS), "FOLDER")):
            text = text.replace(f"{place}/", f"{name}/" if name else "")
        return text.replace("python3.", "python", 1) if text.startswith("python3.") else text

    def row(self) -> dict[str, str]:
        """What every row of a table about it has."""
        return {"title": self.title, "kind": self.kind, "command": self.told()}


def _complaint(log: str) -> str:
    """The line of a log that tells best why it is the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it has said nothing"]
    return next((line for line in reversed(lines) if "rror" in line or "panic" in line), lines[-1])[-150:]


def _answers(subject: Subject, server: Server) -> bool:
    if subject.kind == "echo":
        return request(server.address, b"x", expect=b"x", timeout=2.0).data == b"x"
    if subject.transport == "tls":
        return _answers_by_tls(server.address)
    head = PROXY.encode() if subject.transport == "proxy" else b""
    return request(server.address, head + GET, timeout=2.0).status == 200


def _answers_by_tls(address: str) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nobody vouches for what was made for this run
    connection = HTTPSConnection(address, timeout=2.0, context=context)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def available(subjects: Iterable[Subject]) -> tuple[list[Subject], dict[str, str]]:
    """Those that this machine can run, and for the others, by title, why it can't."""
    there, missing = [], {}
    for subject in subjects:
        try:
            subject.command("127.0.0.1:0", WORKERS)
            subject.environment()
        except MissingError as why:
            missing[subject.title] = str(why)
        else:
            there.append(subject)
    return there, missing


@contextlib.contextmanager
def all_serving(
    subjects: Sequence[Subject], missing: dict[str, str], workers: int = WORKERS
) -> Iterator[dict[str, Server]]:
    """Run all of them for the block; who doesn't start is left out, and ``missing`` says so."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for subject in subjects:
            try:
                servers[subject.name] = stack.enter_context(subject.serving(workers))
            except FAILURES as why:
                missing[subject.title] = f"did not start: {short(why)}"
        yield servers


def by_title(subjects: Iterable[Subject], failed: dict[str, str]) -> dict[str, str]:
    """What became of those that failed while they were measured, by title."""
    titles = {subject.name: subject.title for subject in subjects}
    return {titles[name]: f"failed: {why}" for name, why in failed.items()}


def workers_of(server: Server) -> list[int]:
    """All processes of a server but its master and what looks after semaphores for multiprocessing."""
    return [pid for pid in server.tree() if pid != server.pid and not _helps(pid)]


def _helps(pid: int) -> bool:
    if name_of_living(pid) == MOLD:
        return True
    try:
        return any("resource_tracker" in word for word in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return True


def port(address: str) -> str:
    """The port of an address."""
    return address.rpartition(":")[2]


def where(address: str) -> str:
    """The path of an address on a unix socket."""
    return address.removeprefix("unix:")


@cache
def needs(module: str) -> None:
    """Refuse to go on without a Python package.

    Raises:
        MissingError: the environment of the bench doesn't have it.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingError(f"the Python package {module} is not installed")


def split(*arguments: str, modules: Sequence[str] = ()) -> Command:
    """A command whose arguments hold {port}, {address}, {path} and {workers}."""

    def build(address: str, workers: int) -> list[str]:
        for module in modules:
            needs(module)
        known: dict[str, Any] = {"port": port(address), "address": address, "path": where(address), "workers": workers}
        words = [word.format(**known) for word in arguments]
        return [found(words[0]), *words[1:]]

    return build
