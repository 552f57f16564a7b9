"""What waits on a listener, seen through netlink and, where that is forbidden, through /proc."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.net.queue import Diag, tcp_depth
from tests.support.sockets import closing, connect, deaf_client, hear, script, until

LOCAL: list[tuple[socket.AddressFamily, str]] = [
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "0.0.0.0"),
    (socket.AF_INET6, "::1"),
    (socket.AF_INET6, "::"),
]


@pytest.fixture(params=["netlink", "proc"])
def diag(request: pytest.FixtureRequest) -> Iterator[Diag]:
    with closing(made := Diag(netlink=request.param == "netlink")):
        assert (made._netlink is not None) == (request.param == "netlink")
        yield made


def listen(
    family: socket.AddressFamily, host: str, *, port: int = 0, backlog: int = 16, **options: int
) -> socket.socket:
    listener = socket.socket(family)
    for name, value in options.items():
        listener.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((host, port))
    listener.listen(backlog)
    return listener


def loopback(listener: socket.socket) -> Any:
    """Where a client reaches a listener that may be on every address."""
    name = listener.getsockname()
    return ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0]), *name[1:])


@pytest.mark.parametrize(("family", "host"), LOCAL)
def test_tcp_depth_counts_what_waits_and_knows_the_limit(family: socket.AddressFamily, host: str) -> None:
    listener = listen(family, host, backlog=16)
    clients = [connect(loopback(listener)) for _ in range(3)]
    with closing(listener, clients):
        assert until(lambda: tcp_depth(listener).waiting == 3, "three wait")
        assert tcp_depth(listener).limit == 16
        listener.accept()[0].close()
        assert tcp_depth(listener).waiting == 2


def test_tcp_depth_is_each_member_s_own_in_a_group() -> None:
    members = [listen(socket.AF_INET, "127.0.0.1", SO_REUSEPORT=1)]
    members.append(listen(socket.AF_INET, "127.0.0.1", port=members[0].getsockname()[1], SO_REUSEPORT=1))
    clients = [connect(members[0].getsockname()) for _ in range(12)]
    with closing(members, clients):
        until(lambda: sum(tcp_depth(member).waiting for member in members) == 12, "twelve wait in both")


def test_the_limit_is_the_kernel_s_when_somaxconn_is_lower() -> None:
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with listen(socket.AF_INET, "127.0.0.1", backlog=somaxconn + 1) as listener:
        assert tcp_depth(listener).limit == somaxconn


@pytest.mark.parametrize(("family", "host"), LOCAL)
def test_half_open_names_a_handshake_until_it_is_through(diag: Diag, family: socket.AddressFamily, host: str) -> None:
    listener = listen(family, host)
    with closing(listener):
        assert not diag.half_open(listener)
        client = deaf_client(loopback(listener))
        with closing(client):
            (handshake,) = until(lambda: diag.half_open(listener), "the SYN has come")
            peer, port, local = handshake
            assert (socket.inet_ntop(family, peer), port) == client.getsockname()[:2]
            assert socket.inet_ntop(family, local) == loopback(listener)[0]
            assert tcp_depth(listener).waiting == 0
            hear(client)
            until(lambda: tcp_depth(listener).waiting == 1, "the handshake is through")
            assert not diag.half_open(listener)


def test_half_open_finds_ipv4_clients_of_a_dual_stack_listener(diag: Diag) -> None:
    listener = listen(socket.AF_INET6, "::")
    with closing(listener), closing(deaf_client(("127.0.0.1", listener.getsockname()[1]))):
        ((peer, _, _),) = until(lambda: diag.half_open(listener), "the SYN has come")
        assert socket.inet_ntop(socket.AF_INET6, peer) == "::ffff:127.0.0.1"


def test_half_open_leaves_other_listeners_handshakes_alone(diag: Diag) -> None:
    """Another port's, and, for a listener on every address, those of a listener on one of them."""
    every = listen(socket.AF_INET, "0.0.0.0")
    port = every.getsockname()[1]
    with closing(every):
        every.close()
        # SO_REUSEADDR lets the two share the port only while neither listens: bind first.
        every, one = socket.socket(), socket.socket()
        for sock, host in ((every, "0.0.0.0"), (one, "127.0.0.9")):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            sock.listen()
        other = listen(socket.AF_INET, "127.0.0.1")
        clients = [deaf_client(("127.0.0.9", port)), deaf_client(other.getsockname())]
        with closing(every, one, other, clients):
            until(lambda: diag.half_open(one) and diag.half_open(other), "both SYNs have come")
            assert len(diag.half_open(one)) == len(diag.half_open(other)) == 1
            assert not diag.half_open(every)
            with closing(deaf_client(("127.0.0.8", port))):
                until(lambda: diag.half_open(every), "a SYN to any other address is its own")
                assert len(diag.half_open(one)) == 1


def test_a_long_answer_comes_in_parts_and_is_read_to_its_end(diag: Diag) -> None:
    listener = listen(socket.AF_INET, "127.0.0.1", backlog=1024)
    with closing(listener):
        clients: list[socket.socket] = []
        with closing(clients):
            clients += [deaf_client(listener.getsockname()) for _ in range(400)]
            ports = {client.getsockname()[1] for client in clients}
            until(lambda: {port for _, port, _ in diag.half_open(listener)} == ports, "all SYNs have come")


@pytest.mark.parametrize(("family", "host"), LOCAL)
def test_listening_names_all_on_a_port_and_no_connection(diag: Diag, family: socket.AddressFamily, host: str) -> None:
    first = listen(family, host, SO_REUSEPORT=1)
    port = first.getsockname()[1]
    second = listen(family, host, port=port, SO_REUSEPORT=1)
    with closing(first, second, *(connect(loopback(first)) for _ in range(3))):
        assert diag.listening(port) == {(host, os.fstat(sock.fileno()).st_ino) for sock in (first, second)}
    assert diag.listening(port) == set()


@pytest.mark.parametrize(("family", "host"), LOCAL)
def test_group_counts_the_listeners_of_one_address(diag: Diag, family: socket.AddressFamily, host: str) -> None:
    first = listen(family, host, SO_REUSEPORT=1)
    port = first.getsockname()[1]
    second = listen(family, host, port=port, SO_REUSEPORT=1)
    elsewhere = listen(family, host)
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.bind((host, port))  # does not listen, so gets no connections
    with closing(first, second, elsewhere, bound):
        inodes = [os.fstat(sock.fileno()).st_ino for sock in (first, second)]
        assert diag.group(first) == diag.group(second) == frozenset(inodes)
        second.close()
        assert diag.group(first) == {inodes[0]}


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize("abstract", [False, True])
def test_unix_depth(diag: Diag, kind: socket.SocketKind, abstract: bool, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(f"\0{tmp_path}" if abstract else str(tmp_path / "s"))
    listener.listen(5)
    clients = [socket.socket(socket.AF_UNIX, kind) for _ in range(3)]
    netlink = diag._netlink is not None
    with closing(listener, clients):
        assert diag.unix_depth(listener) == ((0, 5) if netlink else (0, 0))
        for client in clients:
            client.connect(listener.getsockname())
        assert diag.unix_depth(listener) == ((3, 5) if netlink else (1, 0))
        for _ in clients:
            listener.accept()[0].close()
        assert diag.unix_depth(listener).waiting == 0


def test_every_question_is_answered_at_the_descriptor_limit() -> None:
    answers = script(
        """
import json, os, resource, socket, sys
from prefork.net.queue import Diag, tcp_depth
from tests.support.sockets import connect, deaf_client
unix = socket.socket(socket.AF_UNIX); unix.bind("\\0" + str(os.getpid())); unix.listen(3)
tcp = socket.create_server(("127.0.0.1", 0))
caller = socket.socket(socket.AF_UNIX); caller.connect(unix.getsockname())
clients = [connect(tcp.getsockname()), deaf_client(tcp.getsockname())]
windows = [Diag(), Diag(netlink=False)]
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    os.dup(0)
    raise SystemExit("there is a descriptor left")
except OSError:
    pass
print(json.dumps([
    [tcp_depth(tcp).waiting, len(d.half_open(tcp)), len(d.group(tcp)), d.unix_depth(unix).waiting] for d in windows
]))
for thing in (unix, tcp, caller, *clients, *windows):
    thing.close()
"""
    )
    assert answers == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_without_netlink_proc_is_asked() -> None:
    """As in a service unit with RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX."""
    answers = script(
        """
import errno, json, socket
from prefork.net.queue import Diag
from tests.support.sockets import deaf_client
from tests.support.seccomp import deny
deny("socket", errno.EAFNOSUPPORT, argument=0, equal=socket.AF_NETLINK)
try:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    raise SystemExit("netlink is not forbidden")
except OSError:
    pass
diag = Diag()
tcp = socket.create_server(("127.0.0.1", 0))
client = deaf_client(tcp.getsockname())
print(json.dumps([len(diag.half_open(tcp)), len(diag.group(tcp))]))
for thing in (tcp, client, diag):
    thing.close()
"""
    )
    assert answers == [1, 1]


def test_without_any_window_nothing_is_proven() -> None:
    diag = Diag()
    diag.close()
    with listen(socket.AF_INET, "127.0.0.1") as listener:
        with pytest.raises(OSError, match="neither"):
            diag.half_open(listener)
        with pytest.raises(OSError, match="neither"):
            diag.group(listener)


def test_a_question_given_up_half_way_does_not_spoil_the_next() -> None:
    """The kernel answers a long question in parts, and takes no other one before the last part is read."""
    with closing(diag := Diag()), listen(socket.AF_INET, "127.0.0.1") as listener:
        assert diag._netlink is not None
        everything = b"\2\6" + bytes(2) + b"\xff\xff\xff\xff" + bytes(48)
        header = struct.pack("=IHHII", 16 + len(everything), 20, 0x301, 7, 0)
        diag._netlink.send(header + everything)
        diag._unread = True
        assert diag.group(listener) == {os.fstat(listener.fileno()).st_ino}


def test_close_is_idempotent(diag: Diag) -> None:
    before = len(os.listdir("/proc/self/fd"))
    diag.close()
    assert len(os.listdir("/proc/self/fd")) < before
    diag.close()
