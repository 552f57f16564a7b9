"""How it grows: what a request costs among more workers and more connections, orders to many workers, memory."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import psutil

from bench import client, wrk
from bench.effort import Effort
from bench.ours import ASGI, FLOOR, HANDLER, WSGI
from bench.peers import BJOERN, UVICORN, granian
from bench.rounds import FAILURES, Spread, Table, interleaved, say, short
from bench.subject import Subject, all_serving, available, by_title, workers_of
from bench.workshop import SOCKETS
from prefork.errors import ControlError
from prefork.services.control.client import Client
from prefork.testing import GET, Server, wait_for
from prefork.testing import measure as account

KEEPERS = (
    WSGI,
    BJOERN,
    granian("granian-many", "granian, WSGI, backlog 20,000", "--backlog=20000"),  # each worker keeps as many by workers
    UVICORN,
    ASGI,
)
"""Those whose connections are counted in thousands."""

RESERVE = 500
"""Descriptors that are for all else."""


def workers(effort: Effort) -> Table:
    """CPU a connection among more and more workers; 16 clients, connections closed."""
    subjects = (FLOOR, HANDLER, WSGI) if effort.peers else (FLOOR, HANDLER)
    return _series(subjects, effort.sizes, effort, _with_workers)


def connections(effort: Effort) -> Table:
    """CPU a request on more and more connections that are kept, each of which always asks for something."""
    subjects = KEEPERS if effort.peers else KEEPERS[:1]
    counts, missing = _possible(effort.connections)
    table = _series(subjects, counts, effort, _with_connections)
    return Table(table.rows, table.missing | missing)


Look = Callable[[Sequence[Subject], Sequence[int], Effort, dict[str, str]], dict[str, dict[str, list[wrk.Run]]]]


def _series(subjects: Sequence[Subject], counts: Sequence[int], effort: Effort, look: Look) -> Table:
    """For each subject a row: figures by count."""
    there, missing = available(subjects)
    by_count = look(there, counts, effort, missing)
    rows: dict[str, Any] = {}
    for subject in there:
        points = {
            count: {
                "cost": vars(Spread.of([run.cost for run in runs[subject.name]])),
                "rate": vars(Spread.of([run.rate for run in runs[subject.name]])),
                "errors": sum(run.errors for run in runs[subject.name]),
            }
            for count, runs in by_count.items()
            if subject.name in runs
        }
        if points:
            rows[subject.name] = {**subject.row(), "points": points}
    return Table(rows, missing)


def _with_workers(
    subjects: Sequence[Subject], counts: Sequence[int], effort: Effort, missing: dict[str, str]
) -> dict[str, dict[str, list[wrk.Run]]]:
    """Servers of every size at once, so that all sizes are met in each round."""
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for count in counts:
            running = stack.enter_context(all_serving(subjects, missing, count))
            servers |= {f"{name} {count}": server for name, server in running.items()}
        failed: dict[str, str] = {}
        look = partial(_run, servers, effort)
        series = interleaved(servers, effort.feature_rounds, look, patience=effort.patience, failed=failed)
    missing |= failed
    found: dict[str, dict[str, list[wrk.Run]]] = {str(count): {} for count in counts}
    for key, runs in series.items():
        name, _, size = key.rpartition(" ")
        found[size][name] = runs
    return found


def _run(servers: dict[str, Server], effort: Effort, key: str) -> wrk.Run:
    return wrk.run(servers[key], effort.seconds)


def _with_connections(
    subjects: Sequence[Subject], counts: Sequence[int], effort: Effort, missing: dict[str, str]
) -> dict[str, dict[str, list[wrk.Run]]]:
    found = {}
    with all_serving(subjects, missing) as servers:
        for count in counts:
            failed: dict[str, str] = {}
            look = partial(_load, servers, effort, count)
            runs = interleaved(servers, effort.feature_rounds, look, patience=effort.patience, failed=failed)
            found[str(count)] = runs
            missing |= {f"{title} with {count:,}": why for title, why in by_title(subjects, failed).items()}
    return found


def _load(servers: dict[str, Server], effort: Effort, clients: int, name: str) -> wrk.Run:
    return client.load(servers[name], effort.seconds, clients=clients, kept=True)


def _possible(counts: Sequence[int]) -> tuple[list[int], dict[str, str]]:
    """Those numbers of connections that a process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft, hard) - RESERVE
    missing = {
        f"{count:,} connections": f"a process may have {most + RESERVE:,} descriptors here"
        for count in counts
        if count > most
    }
    return [count for count in counts if count <= most], missing


_PATIENCE = 60.0
"""Seconds that an order may take."""


def orders(effort: Effort) -> Table:
    """Servers of growing size that are asked for their status, and told to reload; and what a worker of them holds."""
    rows = {}
    for count in effort.ordered_workers:
        say(f"growth: orders to {count} workers")
        with HANDLER.serving(count) as server:
            wait_for(lambda: len(workers_of(server)) >= count)  # noqa: B023  # it is called at once
            held = [psutil.Process(pid).memory_full_info() for pid in (server.pid, *workers_of(server))]
            with Client(str(SOCKETS / f"{server.pid}.control"), timeout=_PATIENCE) as operator:
                status = [_ordered(server, operator.status) for _ in range(3)]
                reload = _ordered(server, partial(operator.reload, timeout=_PATIENCE))
        rows[str(count)] = {
            "status": sorted(seconds for seconds, _ in status)[1],
            "status cpu": sorted(cpu for _, cpu in status)[1],
            "reload": reload[0],
            "reload cpu": reload[1],
            "pss": sum(info.pss for info in held[1:]) / count / 2**20,
            "uss": sum(info.uss for info in held[1:]) / count / 2**20,
            "master": held[0].pss / 2**20,
        }
    return Table(rows, {})


def _ordered(server: Server, order: Callable[[], object]) -> tuple[float, float]:
    """Seconds until it is answered, and CPU seconds of the whole server meanwhile; no end of seconds for no answer."""
    before, began = account.cpu_seconds(server.tree()), time.monotonic()
    try:
        order()
        seconds = time.monotonic() - began
    except ControlError:
        seconds = float("inf")
    return seconds, account.cpu_seconds(server.tree()) - before


def parked(effort: Effort) -> Table:
    """Memory of a connection that is kept and silent: KiB of all processes of a server, by the pages that they have."""
    there, missing = available(KEEPERS if effort.peers else KEEPERS[:1])
    counts, more = _possible(effort.parked)
    rows: dict[str, Any] = {}
    with all_serving(there, missing) as servers:
        for subject in there:
            if subject.name not in servers:
                continue
            say(f"growth: parked connections of {subject.name}")
            try:
                points = _parked(servers[subject.name], counts)
            except FAILURES as why:
                missing[subject.title] = f"failed: {short(why)}"
            else:
                rows[subject.name] = {**subject.row(), "points": points}
    return Table(rows, missing | more)


def _parked(server: Server, counts: Sequence[int]) -> dict[str, float]:
    """KiB a connection, beyond what the server held with none."""
    with _silent(server, 10):
        pass  # what the first ones bring with them is no connection's
    before, points = _held(server), {}
    for count in counts:
        with _silent(server, count) as alive:
            points[str(count)] = (_held(server) - before) / count / 1024
            if alive() < count:
                raise RuntimeError(f"keeps {alive():,} of {count:,}")
    return points


def _held(server: Server) -> int:
    return sum(psutil.Process(pid).memory_full_info().pss for pid in server.tree())


@contextlib.contextmanager
def _silent(server: Server, count: int) -> Iterator[Callable[[], int]]:
    """So many connections, each of which has been answered once; given is what counts those that are still open."""
    host, _, port = server.address.rpartition(":")
    ask = GET.replace(b"Connection: close\r\n", b"")
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection((host, int(port)), timeout=10.0))
            one.sendall(ask)
            if not one.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError("no answer on a connection that is to be kept")
            one.settimeout(0.0)
            connections.append(one)
        yield lambda: sum(_is_open(one) for one in connections)


def _is_open(connection: socket.socket) -> bool:
    """What it may still read is the rest of an answer."""
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


TABLES = {"workers": workers, "connections": connections, "orders": orders, "parked": parked}
