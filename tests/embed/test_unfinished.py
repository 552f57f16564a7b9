"""Requests of which only a part has come when their worker is told to leave: they are in hand, and are served."""

from __future__ import annotations

import signal
import socket
import time

import psutil

from prefork.testing import Server, connect
from prefork.testing.plugin import ServerFactory
from tests.embed.test_servers import body
from tests.support.embed.servers import Subject, each, serve_app

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 10\r\n"


def taken(server: Server) -> int:
    """How many connections the workers have accepted."""
    port = int(server.address.rpartition(":")[2])
    return sum(
        connection.laddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        for pid in server.workers()
        for connection in psutil.Process(pid).net_connections("tcp")
    )


def is_told_to_go_on(client: socket.socket) -> bool:
    """Wait for the word that the body may come."""
    said = b""
    while b"\r\n\r\n" not in said:
        said += client.recv(1)
    return said.startswith(b"HTTP/1.1 100 ")


@each()
def test_a_request_that_has_come_in_part_is_served(prefork_server: ServerFactory, subject: Subject) -> None:
    server = serve_app(prefork_server, f"uploads:{subject.name}", workers=3)  # wsgiref takes one connection in each
    with (
        connect(server.address) as in_its_body,
        connect(server.address) as in_its_head,
        connect(server.address) as careful,
    ):
        in_its_body.sendall(HEAD + b"\r\n12345")
        in_its_head.sendall(HEAD[:10])
        careful.sendall(HEAD + b"Expect: 100-continue\r\n\r\n")
        server.wait_for(lambda: taken(server) == 3)
        assert subject.name == "wsgiref" or is_told_to_go_on(careful)  # it knows nothing of that
        careful.sendall(b"12345")  # who has been told to, and says nothing, has half a second (embed.connections)
        server.signal(signal.SIGTERM)
        for rest in range(10, len(HEAD), 10):
            in_its_head.sendall(HEAD[rest : rest + 10])
            time.sleep(0.02)  # a client on a bad line
        careful.sendall(b"67890")
        in_its_head.sendall(b"\r\n1234567890")
        assert body(careful) == b"10"
        assert body(in_its_head) == b"10"
        time.sleep(1)  # the time is over that clients have for what may not come
        in_its_body.sendall(b"67890")
        assert body(in_its_body) == b"10"
    assert server.wait() == 0
    assert "killed" not in server.log()


@each()
def test_a_client_who_leaves_in_the_middle_holds_nobody_up(prefork_server: ServerFactory, subject: Subject) -> None:
    server = serve_app(prefork_server, f"uploads:{subject.name}", workers=1)
    with connect(server.address) as client:
        client.sendall(HEAD + b"\r\n12345")
        server.wait_for(lambda: taken(server) == 1)
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping")
    before = time.monotonic()
    assert server.wait() == 0
    assert time.monotonic() - before < 15, "it was waited for until the deadline"
