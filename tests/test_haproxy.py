"""A real HAProxy in front: the PROXY protocol, its checks, and its agent-check through a stop."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefork.testing import Server, connect, running_target
from prefork.testing.waiting import wait_for
from tests.support.kept import Client

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
APPS = Path(__file__).parent / "support" / "apps"
GET = b"GET /shop HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
CONFIGURATION = """
global
    stats socket {folder}/control mode 600 level admin
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout check 30s
    default-server inter 200ms fall 1 rise 1
frontend requests
    mode http
    bind fd@{fd}
    default_backend requests
backend requests
    mode http
    option httpchk GET /healthz
    server one {server} send-proxy-v2 check check-send-proxy agent-check agent-addr {agent} agent-inter 200ms weight 100
frontend connections
    mode tcp
    bind {folder}/connections
    default_backend connections
backend connections
    mode tcp
    server one {server} send-proxy
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed"),
]


@contextmanager
def haproxy(folder: Path, server: Server) -> Iterator[str]:
    """HAProxy before a server; gives the address where it takes requests."""
    assert HAPROXY is not None
    agent = server.wait_for_log(r"agent_bind: (\S+)")[1].replace(":", " agent-port ")
    configuration = folder / "haproxy.cfg"
    with socket.create_server(("127.0.0.1", 0)) as listener, open(folder / "haproxy.log", "wb") as log:
        fd = listener.fileno()
        configuration.write_text(CONFIGURATION.format(folder=folder, server=server.address, agent=agent, fd=fd))
        command = [HAPROXY, "-db", "-f", str(configuration)]
        with subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[fd]) as proxy:
            try:
                yield "{}:{}".format(*listener.getsockname())
            finally:
                proxy.kill()


def asked(address: str) -> str:
    """The path that the application has seen of a request through one of HAProxy's sockets, and from whom."""
    with connect(address) as connection:
        name = connection.getsockname()
        client = Client(connection)
        told: dict[str, Any] = json.loads(client.ask(GET) or b"{}")
        assert client.status == 200, told
        if isinstance(name, tuple):
            assert told["peer"] == [name[0], str(name[1])]
        client.close()
    path: str = told["path"]
    return path


def seen(folder: Path) -> dict[str, str]:
    """What HAProxy knows of the server."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(folder / "control"))
        control.sendall(b"show stat\n")
        names, *rows = b"".join(iter(lambda: control.recv(65536), b"")).decode().strip().splitlines()
    keys = names.removeprefix("# ").split(",")
    found = [dict(zip(keys, row.split(","), strict=False)) for row in rows]
    return next(row for row in found if (row["pxname"], row["svname"]) == ("requests", "one"))


def test_haproxy_knows_of_a_stop_before_a_client_does(tmp_path: Path) -> None:
    with (
        running_target(
            *("proxied:application",),
            app_dir=APPS,
            subcommand="wsgi",
            options={},
            workers=2,
            proxy_protocol="any",
            agent_bind="127.0.0.1:0",
            health_path="/healthz",
            drain_delay=60,
        ) as server,
        haproxy(tmp_path, server) as requests,
    ):
        connections = f"unix:{tmp_path / 'connections'}"
        wait_for((tmp_path / "control").exists, message="HAProxy to start")
        wait_for(lambda: seen(tmp_path)["check_status"] == "L7OK", message="a check with a header of its own")
        assert asked(requests) == asked(connections) == "/shop"
        wait_for(lambda: 1 < int(seen(tmp_path)["weight"]) <= 100, message="the agent's weight")
        assert seen(tmp_path)["status"] == "UP"
        server.signal(signal.SIGTERM)
        wait_for(lambda: seen(tmp_path)["status"] != "UP", message="HAProxy to take the server out")
        assert asked(connections) == "/shop"  # while it serves on
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
