"""Refusing by age, while more come than can be served."""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from pathlib import Path
from wsgiref.simple_server import demo_app

from hypothesis import given
from hypothesis import strategies as st

from prefork.config.settings import Settings
from prefork.net.tls import context_of
from prefork.services.control import Client
from prefork.testing import Server, call_until, connect, running_target, wait_for
from prefork.wsgi.gateway import Gateway
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.overload import Overload
from tests.support.probing import APPS, PATIENCE, line
from tests.support.tls_clients import KEYS, greeted, received

TARGET = 0.1


def test_a_burst_is_served_be_it_late() -> None:
    overload = Overload(TARGET)
    assert not any(overload.refuses(0.5, now / 100) for now in range(10))
    assert not overload.lasts


def test_one_that_has_not_waited_begins_it_anew() -> None:
    overload = Overload(TARGET)
    assert not overload.refuses(0.5, 0.0)
    assert not overload.refuses(TARGET, 0.09)
    assert not overload.refuses(0.5, 0.11)
    assert not overload.refuses(0.5, 0.2)
    assert overload.refuses(0.5, 0.22)


def test_while_it_lasts_those_are_served_who_have_not_waited_for_longer() -> None:
    overload = Overload(TARGET)
    overload.refuses(0.5, 0.0)
    assert overload.refuses(0.5, 0.1)
    assert not overload.refuses(0.1, 0.11)
    assert overload.refuses(0.101, 0.12)
    assert overload.lasts


def test_it_ends_when_for_as_long_none_has_waited_for_longer() -> None:
    overload = Overload(TARGET)
    overload.refuses(0.5, 0.0)
    assert overload.refuses(0.5, 0.1)
    assert not overload.refuses(0.0, 0.19)
    assert overload.refuses(0.5, 0.5)
    assert [overload.refuses(waited, at) for waited, at in ((0.0, 0.6), (0.0, 0.7), (0.5, 0.8))] == [False] * 3


@given(
    service=st.floats(0.001, 0.05),
    load=st.floats(1.2, 4.0),
    workers=st.integers(1, 8),
    refusal=st.floats(0.0, 0.01),
)
def test_twice_what_can_be_served(service: float, load: float, workers: int, refusal: float) -> None:
    """A queue, workers that judge each by themselves, and arrivals in step: all but the first are served in time."""
    judges = [Overload(TARGET) for _ in range(workers)]
    free = [0.0] * workers
    between = service / workers / load
    queue: deque[float] = deque()
    arrivals, now, arrived = 3.0, 0.0, 0.0
    served: list[float] = []
    worked = 0.0
    while now < arrivals:
        worker = min(range(workers), key=free.__getitem__)
        now = max(free[worker], now)
        while arrived <= now:
            queue.append(arrived)
            arrived += between
        if not queue:
            now = arrived
            continue
        waited = now - queue.popleft()
        if judges[worker].refuses(waited, now):
            free[worker] = now + refusal * service
        else:
            free[worker] = now + service
            if now > 1.0:
                served.append(waited)
                worked += service
    # What began to be judged late is long over; a worker's own burst of `TARGET` may come again, if rarely.
    assert sum(waited <= TARGET + service for waited in served) >= 0.99 * len(served)
    assert worked >= 0.94 * (arrivals - 1.0 - service) * workers


def test_a_server_sheds_by_age(tmp_path: Path) -> None:
    with running_target(
        "queued:application",
        app_dir=APPS,
        subcommand="wsgi",
        workers=1,
        overload="shed",
        overload_target=TARGET,
        health_path="/healthz",
        retry_after=7,
        control=tmp_path / "control",
    ) as server:
        # The worker is busy until all others have come, who have waited for too long then.
        began = time.monotonic()
        clients = [sent(server, "/begin/2")]
        assert line(clients[0]).endswith("200 OK")
        late = time.monotonic() - began > TARGET  # by the machine: it may be the first of the burst itself
        clients += [sent(server, "/healthz" if number == 9 else "/begin/0.06") for number in range(10)]
        heads = []
        for client in clients:
            head = [line(client)]
            while head[-1]:
                head.append(line(client))
            heads.append(head)
            while client.recv(1 << 16):
                pass
            client.close()
        codes = [head[0].split()[1] for head in heads[1:]]
        # The first are a burst, for all that one knows; the check of health is not the application's.
        assert codes[0] == "200" or late
        assert codes[2:] == ["503"] * 7 + ["200"]
        assert all("Retry-After: 7" in head for head in heads if head[0].endswith("503 Service Unavailable"))
        server.wait_for_log("overload: requests wait for more than 0.1 s; those that have are answered 503")
        refused = codes.count("503")  # the second is one of them when the first has taken longer than it says
        with Client(str(tmp_path / "control")) as control:
            call_until(
                lambda: control.status(processes=False).totals,  # a client is answered before it is counted
                lambda found: (found.refused, found.served) == (refused, 1 + len(codes) - refused),
            )


def sent(server: Server, path: str) -> socket.socket:
    client = connect(server.address, timeout=PATIENCE)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return client


def test_under_tls_it_is_shed_before_the_handshake() -> None:
    told: list[None] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gateway = Gateway(
            demo_app,
            WSGIOptions(overload="shed", overload_target=TARGET),
            sockets=[listener],
            io_timeout=2 * TARGET,
            tls=context_of(Settings(**KEYS)),
            shed=lambda: told.append(None),
        )
        clients = [greeted(listener.getsockname()) for _ in range(3)]
        served = []
        for client in clients:
            connection, address = listener.accept()
            wait_for(lambda: waited(connection) > TARGET, PATIENCE)  # noqa: B023  # it is called here
            with connection:
                gateway.serve_connection(connection, address)
            with client:
                served.append(bool(received(client)))
        assert served == [True, False, False]  # the first, who goes on with nothing, for all that one knows is a burst
        assert len(told) == 2


def waited(connection: socket.socket) -> float:
    """Seconds since something came."""
    milliseconds: int
    (milliseconds,) = struct.unpack_from(
        "=I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60), 52
    )  # tcpi_last_data_recv
    return milliseconds / 1000
