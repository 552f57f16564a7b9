"""The accept contract, on real sockets: what IPSocket.accept and accept(2) promise, line by line."""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.net.inetaddress import InetAddress
from prefork.net.ipsocket import IPSocket
from tests.support.sockets import closing, connect, linger_reset, script, until

FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def client(listener: socket.socket) -> Iterator[socket.socket]:
    with connect(listener.getsockname()) as made:
        until(lambda: select.select([listener], [], [], 1)[0], "the connection waits")
        yield made


@pytest.fixture
def accepted() -> Iterator[IPSocket]:
    with IPSocket() as made:
        yield made


def descriptor_flags(fd: int) -> int:
    """O_NONBLOCK, O_CLOEXEC and their like, as /proc tells them (proc(5), fdinfo)."""
    (line,) = [x for x in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines() if x.startswith("flags:")]
    return int(line.split()[1], 8)


# What accept gives.


@pytest.mark.parametrize(("family", "host"), FAMILIES)
def test_accept_holds_the_connection_and_names_its_peer(family: int, host: str) -> None:
    listener = socket.create_server((host, 0), family=family)
    address = InetAddress()
    with closing(listener, client := connect(listener.getsockname()), accepted := IPSocket()):
        fd = accepted.accept(listener, address)
        assert fd == accepted.fd == accepted.fileno() >= 0
        assert address.family == family
        assert address.as_tuple() == client.getsockname()
        client.sendall(b"hello")
        assert os.read(fd, 10) == b"hello"
        assert not accepted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_one_address_serves_peers_of_both_families() -> None:
    listeners = [socket.create_server((host, 0), family=family) for family, host in FAMILIES]
    address = InetAddress()
    with closing(listeners, accepted := IPSocket()):
        for listener in listeners * 2:
            with connect(listener.getsockname()) as client:
                accepted.accept(listener, address)
                assert address.as_tuple() == client.getsockname()


def test_the_kernel_is_asked_for_an_address_only_when_one_is_to_be_filled_in() -> None:
    """Any accept that hands the kernel room for an address fails here."""
    answers = script(
        """
import errno, json, socket
from prefork.net.inetaddress import InetAddress
from prefork.net.ipsocket import IPSocket
from tests.support.seccomp import deny
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
deny("accept4", errno.EXDEV, argument=1)
answers = []
for attempt in (listener.accept, lambda: IPSocket().accept(listener, InetAddress())):
    try:
        attempt()
    except OSError as error:
        answers.append(error.errno)
with listener, client, IPSocket() as accepted:
    accepted.accept(listener)
    answers.append(accepted.getpeername().port == client.getsockname()[1])
print(json.dumps(answers))
"""
    )
    assert answers == [errno.EXDEV, errno.EXDEV, True]


def test_an_address_that_was_not_asked_for_stays(
    listener: socket.socket, client: socket.socket, accepted: IPSocket
) -> None:
    address = InetAddress("192.0.2.1", 7)
    accepted.accept(listener)
    assert address == InetAddress("192.0.2.1", 7)
    assert accepted.getpeername().as_tuple() == client.getsockname()


@pytest.mark.parametrize("listener_blocks", [True, False])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (None, os.O_CLOEXEC),
        (0, 0),
        (socket.SOCK_CLOEXEC, os.O_CLOEXEC),
        (socket.SOCK_NONBLOCK, os.O_NONBLOCK),
        (socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, os.O_NONBLOCK | os.O_CLOEXEC),
    ],
)
@pytest.mark.usefixtures("client")
def test_flags_decide_and_nothing_is_inherited(
    listener: socket.socket, accepted: IPSocket, listener_blocks: bool, flags: int | None, expected: int
) -> None:
    listener.setblocking(listener_blocks)
    fd = accepted.accept(listener) if flags is None else accepted.accept(listener, flags=flags)
    assert descriptor_flags(fd) & (os.O_NONBLOCK | os.O_CLOEXEC) == expected
    assert os.get_blocking(listener.fileno()) == listener_blocks


def test_flags_act_in_the_same_step() -> None:
    """Without fcntl(2) and ioctl(2), which would be a second step."""
    answer = script(
        """
import errno, json, os, socket
from prefork.net.ipsocket import IPSocket
from tests.support.seccomp import deny
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
for name in ("fcntl", "ioctl"):
    deny(name, errno.EXDEV)
with listener, client, IPSocket() as accepted:
    fd = accepted.accept(listener, flags=socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    text = os.read(info, 1000).decode()
    os.close(info)
    flags = int(text.split("flags:")[1].split()[0], 8)
print(json.dumps(flags & (os.O_NONBLOCK | os.O_CLOEXEC)))
"""
    )
    assert answer == os.O_NONBLOCK | os.O_CLOEXEC


@pytest.mark.parametrize("flags", [1, 0x10000, 1 << 40, -1, socket.SOCK_CLOEXEC | 0x100])
@pytest.mark.usefixtures("client")
def test_unknown_flags_are_refused_and_take_no_connection(
    listener: socket.socket, accepted: IPSocket, flags: int
) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
        accepted.accept(listener, flags=flags)
    assert caught.value.errno == errno.EINVAL
    assert accepted.fd == -1
    assert accepted.accept(listener) >= 0


@pytest.mark.usefixtures("client")
def test_anything_with_a_fileno_can_be_accepted_from(listener: socket.socket, accepted: IPSocket) -> None:
    class Other:
        def fileno(self) -> int:
            return listener.fileno()

    accepted.accept(Other())
    with IPSocket() as server, IPSocket() as second:
        server.tcp_socket()
        server.bind("127.0.0.1", 0)
        server.listen()
        with connect(server.getsockname().as_tuple()):
            assert second.accept(server) >= 0


def test_a_peer_of_another_family_is_accepted_and_has_no_ip_address(tmp_path: Path, accepted: IPSocket) -> None:
    address = InetAddress("192.0.2.1", 7)
    listener, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with closing(listener, client):
        listener.bind(str(tmp_path / "listener"))
        listener.listen()
        client.bind(str(tmp_path / "client"))  # longer than there is room for: the kernel cuts it off
        client.connect(str(tmp_path / "listener"))
        accepted.accept(listener, address)
        assert (address.family, address.as_tuple(), str(address)) == (socket.AF_UNIX, ("", 0), "")


# When it fails.


def _closed() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (_closed, errno.EBADF),
        (lambda: Path("/etc/passwd").open(), errno.ENOTSOCK),  # noqa: SIM115  # closed by the test
        (socket.socket, errno.EINVAL),
        (lambda: socket.socket(type=socket.SOCK_DGRAM), errno.EOPNOTSUPP),
    ],
)
@pytest.mark.usefixtures("client")
def test_a_failure_has_the_exact_errno_and_leaves_all_as_it_was(
    listener: socket.socket, accepted: IPSocket, make: Callable[[], Any], number: int
) -> None:
    fd = accepted.accept(listener, address := InetAddress())
    peer = address.as_tuple()
    with closing(wrong := make()):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            accepted.accept(wrong, address)
        assert caught.value.errno == number
    assert accepted.fd == fd
    assert accepted.getpeername().as_tuple() == peer == address.as_tuple()


def test_an_empty_queue_is_eagain_on_a_nonblocking_listener(listener: socket.socket, accepted: IPSocket) -> None:
    listener.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        accepted.accept(listener)
    assert caught.value.errno == errno.EAGAIN == errno.EWOULDBLOCK
    assert accepted.fd == -1


def test_emfile_at_the_limit_takes_nothing_and_the_connection_is_served_later() -> None:
    answers = script(
        """
import errno, json, resource, socket
from prefork.net.ipsocket import IPSocket
with socket.create_server(("127.0.0.1", 0)) as listener:
    with socket.create_connection(listener.getsockname()) as client, IPSocket() as accepted:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            accepted.accept(listener)
        except OSError as error:
            first = error.errno, accepted.fd
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        accepted.accept(listener)
        second = accepted.getpeername().as_tuple() == client.getsockname()
print(json.dumps([*first, second]))
"""
    )
    assert answers == [errno.EMFILE, -1, True]


def test_the_descriptor_held_before_is_closed_only_after_the_next_accept_succeeded(
    listener: socket.socket, accepted: IPSocket
) -> None:
    with connect(listener.getsockname()) as first, connect(listener.getsockname()) as second:
        before = accepted.accept(listener)
        assert select.select([listener], [], [], 20)[0]
        after = accepted.accept(listener)
        # A descriptor closed before the accept would have been given out again: the lowest free one (open(2)).
        assert after != before
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(before)
        first.settimeout(20)
        assert first.recv(1) == b""
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            accepted.accept(listener)
        second.sendall(b"x")
        assert accepted.fd == after
        assert accepted.recv(1) == b"x"


# Signals.

_SIGNALS = """
import errno, json, signal, socket
from prefork.net.ipsocket import IPSocket
listener = socket.create_server(("127.0.0.1", 0))
clients = []
seen = []
def handler(*_):
    seen.append(accepted.fd)
    if len(seen) == 3:
        clients.append(socket.create_connection(listener.getsockname()))
accepted = IPSocket()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
"""
_SIGNALS_END = """
signal.setitimer(signal.ITIMER_REAL, 0)
for thing in (listener, accepted, *clients):
    thing.close()
print(json.dumps(answer))
"""


def test_a_signal_runs_its_handler_and_accept_goes_on_waiting() -> None:
    """The third signal's handler connects: only an accept that was taken up again gets that connection."""
    answer = script(
        _SIGNALS
        + """
fd = accepted.accept(listener)
answer = [fd == accepted.fd, seen[:3], accepted.getpeername().as_tuple() == clients[0].getsockname()]
"""
        + _SIGNALS_END
    )
    assert answer == [True, [-1, -1, -1], True]


def test_on_request_a_signal_ends_the_call_after_its_handler_has_run() -> None:
    answer = script(
        _SIGNALS
        + """
try:
    accepted.accept(listener, interruptible=True)
except InterruptedError as error:
    answer = [error.errno, len(seen) > 0, accepted.fd]
"""
        + _SIGNALS_END
    )
    assert answer == [errno.EINTR, True, -1]


def test_what_a_handler_raises_ends_the_call() -> None:
    answer = script(
        _SIGNALS
        + """
def handler(*_):
    raise KeyError("stop")
signal.signal(signal.SIGALRM, handler)
try:
    while True:
        accepted.accept(listener)
except KeyError as error:
    signal.setitimer(signal.ITIMER_REAL, 0)
    answer = [error.args, accepted.fd]
"""
        + _SIGNALS_END
    )
    assert answer == [["stop"], -1]


def test_connect_survives_a_signal_in_the_middle_of_its_handshake() -> None:
    """The handler lets the client hear the server's answer; a second connect(2) would fail with EALREADY."""
    answer = script(
        """
import json, signal, socket
from prefork.net.ipsocket import IPSocket
IP_MINTTL = 21
with socket.create_server(("127.0.0.1", 0)) as listener, IPSocket() as client, IPSocket() as accepted:
    signal.signal(signal.SIGALRM, lambda *_: client.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 0))
    client.tcp_socket()
    client.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    client.connect(*listener.getsockname())
    accepted.accept(listener)
    print(json.dumps(client.getsockname() == accepted.getpeername()))
"""
    )
    assert answer is True


# Readiness.


@pytest.mark.parametrize("ready", ["select", "poll"])
def test_readiness_tells_of_a_connection(listener: socket.socket, accepted: IPSocket, ready: str) -> None:
    def look(timeout: float) -> bool:
        if ready == "select":
            return bool(select.select([listener], [], [], timeout)[0])
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        return poll.poll(timeout * 1000) == [(listener.fileno(), select.POLLIN)]

    assert not look(0)
    with connect(listener.getsockname()) as client:
        assert look(20)
        accepted.accept(listener)
        assert not look(0)
        assert not select.select([accepted], [], [], 0)[0]
        client.sendall(b"x")
        assert select.select([accepted], [], [], 20)[0]


@pytest.mark.usefixtures("client")
def test_ready_but_gone(listener: socket.socket, accepted: IPSocket) -> None:
    """Two wait in poll for the same connection, one gets it: only O_NONBLOCK keeps the other from blocking."""
    listener.setblocking(False)
    with socket.socket(fileno=os.dup(listener.fileno())) as sibling, IPSocket() as faster:
        assert len(select.select([listener, sibling], [], [], 20)[0]) == 2
        faster.accept(sibling)
        with pytest.raises(BlockingIOError):
            accepted.accept(listener)
    assert accepted.fd == -1


def test_a_connection_that_died_while_it_waited_is_accepted_and_then_tells(
    listener: socket.socket, accepted: IPSocket
) -> None:
    """Linux hands it out all the same; its error comes with the first use."""
    with connect(listener.getsockname()) as client:
        linger_reset(client)
    accepted.accept(listener)
    until(lambda: select.select([accepted], [], [], 1)[0], "the reset has come")
    assert accepted.error() == errno.ECONNRESET
    assert accepted.error() == 0
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        accepted.getpeername()
    assert repr(accepted) == f"<IPSocket fd={accepted.fd}>"


# The rest of a socket's life.


@pytest.mark.parametrize(("family", "host"), FAMILIES)
def test_a_conversation(family: int, host: str) -> None:
    with IPSocket(family) as server, IPSocket(family) as client, IPSocket(family) as accepted:
        assert server.tcp_socket() == server.fd
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        server.bind(InetAddress(host))
        server.listen(5)
        name = server.getsockname()
        assert (name.host, name.family) == (host, family)
        client.tcp_socket()
        client.connect(name)
        assert repr(client) == f"<IPSocket fd={client.fd} remote={name}>"
        accepted.accept(server, address := InetAddress())
        assert address == client.getsockname()
        assert accepted.getpeername() == address
        assert client.send(b"hello") == 5
        assert client.send(memoryview(bytearray(b" you"))) == 4
        received = b""
        while len(received) < 9:
            received += accepted.recv(100)
        assert received == b"hello you"
        assert accepted.send(b"abc") == 3
        assert client.recv(2, socket.MSG_PEEK) == client.recv(2) == b"ab"
        client.shutdown(socket.SHUT_WR)
        assert accepted.recv(1) == b""
        assert client.recv(10) == b"c"
        assert client.error() == 0


def test_bind_takes_a_port_alone_for_any_address() -> None:
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with IPSocket(family) as sock:
            sock.tcp_socket()
            sock.bind(0)
            assert sock.getsockname().host == host
            assert sock.getsockname().port > 0


def test_bind_takes_host_and_port(listener: socket.socket) -> None:
    with IPSocket() as sock:
        sock.tcp_socket()
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            sock.bind(*listener.getsockname())
        with pytest.raises(ValueError, match="localhost"):
            sock.bind("localhost", 80)


def test_a_nonblocking_connect_is_finished_by_poll_and_error(listener: socket.socket) -> None:
    with IPSocket() as client:
        client.tcp_socket(nonblocking=True)
        with pytest.raises(BlockingIOError) as caught:
            client.connect(*listener.getsockname())
        assert caught.value.errno == errno.EINPROGRESS
        assert select.select([], [client], [], 20)[1]
        assert client.error() == 0
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_a_refused_connection_is_told_once(listener: socket.socket) -> None:
    address = listener.getsockname()
    listener.close()
    with IPSocket() as client:
        client.tcp_socket(nonblocking=True)
        with pytest.raises(BlockingIOError):
            client.connect(*address)
        assert select.select([], [client], [], 20)[1]
        assert [client.error(), client.error()] == [errno.ECONNREFUSED, 0]
        client.tcp_socket()
        with pytest.raises(ConnectionRefusedError):
            client.connect(*address)


def test_options_as_numbers_and_as_bytes() -> None:
    with IPSocket() as sock:
        assert sock.socket(socket.SOCK_DGRAM) == sock.fd
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM
        sock.tcp_socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 9))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 100) == struct.pack("ii", 1, 9)
        with pytest.raises(OSError, match=os.strerror(errno.ENOPROTOOPT)):
            sock.getsockopt(socket.SOL_SOCKET, 9999)


def test_sending_to_nobody_is_an_error_and_no_signal() -> None:
    answer = script(
        """
import errno, json, signal, socket
from prefork.net.ipsocket import IPSocket
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
left, right = socket.socketpair()
with IPSocket(fd=left.detach()) as sock:
    right.close()
    try:
        sock.send(b"x")
    except BrokenPipeError as error:
        print(json.dumps(error.errno))
"""
    )
    assert answer == errno.EPIPE


def test_every_socket_made_is_close_on_exec_and_closes_the_one_before() -> None:
    with IPSocket() as sock:
        before = sock.tcp_socket()
        keep = os.dup(before)
        after = sock.tcp_socket(nonblocking=True)
        assert descriptor_flags(after) & (os.O_CLOEXEC | os.O_NONBLOCK) == os.O_CLOEXEC | os.O_NONBLOCK
        assert after != before
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(before)
        os.close(keep)


def test_close_is_idempotent_and_forgets_the_descriptor() -> None:
    sock = IPSocket()
    assert (sock.fd, sock.fileno(), repr(sock)) == (-1, -1, "<IPSocket fd=-1>")
    sock.close()
    fd = sock.tcp_socket()
    sock.close()
    sock.close()
    assert sock.fd == -1
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)
    for use in (sock.listen, sock.getsockname, sock.error, sock.to_socket):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            use()


def test_recv_refuses_a_negative_size() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        IPSocket().recv(-1)


@pytest.mark.parametrize("default_timeout", [None, 5.0])
@pytest.mark.parametrize("flags", [socket.SOCK_CLOEXEC, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK])
def test_a_standard_socket_is_made_of_it(
    listener: socket.socket, client: socket.socket, default_timeout: float | None, flags: int
) -> None:
    accepted = IPSocket()
    fd = accepted.accept(listener, flags=flags)
    socket.setdefaulttimeout(default_timeout)
    try:
        made = accepted.to_socket()
    finally:
        socket.setdefaulttimeout(None)
    with made:
        assert type(made) is socket.socket
        assert (made.fileno(), accepted.fd) == (fd, -1)
        assert (made.family, made.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert made.getpeername() == client.getsockname()
        blocks = not flags & socket.SOCK_NONBLOCK
        assert os.get_blocking(fd) == blocks
        assert made.gettimeout() == (None if blocks else 0)


@pytest.mark.usefixtures("client")
def test_detach_gives_the_descriptor_away(listener: socket.socket) -> None:
    accepted = IPSocket()
    fd = accepted.accept(listener)
    assert accepted.detach() == fd
    assert accepted.detach() == -1
    accepted.close()
    os.close(fd)


def test_what_is_forgotten_is_closed_and_complained_of() -> None:
    socks = [IPSocket()]
    fd = socks[0].tcp_socket()
    with pytest.warns(ResourceWarning, match=f"unclosed <IPSocket fd={fd}>"):
        socks.clear()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


# Addresses.


@given(st.ip_addresses(v=4), st.integers(0, 65535))
def test_ipv4_addresses_are_read_as_they_were_written(ip: ipaddress.IPv4Address, port: int) -> None:
    address = InetAddress(str(ip), port)
    assert address.as_tuple() == (str(ip), port)
    assert (address.family, address.flowinfo, address.scope_id) == (socket.AF_INET, 0, 0)
    assert str(address) == f"{ip}:{port}"


@given(st.ip_addresses(v=6), st.integers(0, 65535), st.integers(0, 2**20 - 1), st.integers(0, 2**32 - 1))
def test_ipv6_addresses_are_read_as_they_were_written(
    ip: ipaddress.IPv6Address, port: int, flowinfo: int, scope_id: int
) -> None:
    address = InetAddress(str(ip), port, flowinfo, scope_id)
    host, *rest = address.as_tuple()
    assert ipaddress.ip_address(host) == ip
    assert rest == [port, flowinfo, scope_id]
    assert address == InetAddress(str(ip), port, flowinfo, scope_id)
    assert address != InetAddress(str(ip), (port + 1) % 65536, flowinfo, scope_id)


def test_a_zone_is_a_name_or_a_number() -> None:
    number = socket.if_nametoindex("lo")
    assert (
        InetAddress("fe80::1%lo", 80) == InetAddress(f"fe80::1%{number}", 80) == InetAddress("fe80::1", 80, 0, number)
    )
    assert str(InetAddress("fe80::1%lo", 80)) == f"[fe80::1%{number}]:80"
    with pytest.raises(OSError, match="there is no network interface 'nosuchzone'") as caught:
        InetAddress("fe80::1%nosuchzone", 80)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.parametrize(
    ("host", "port", "flowinfo"),
    [
        ("localhost", 80, 0),
        ("1.2.3", 80, 0),
        ("::g", 80, 0),
        ("127.0.0.1", 65536, 0),
        ("::1", -1, 0),
        ("::1", 1, 1 << 20),
    ],
)
def test_what_is_no_address_is_refused(host: str, port: int, flowinfo: int) -> None:
    with pytest.raises(ValueError, match=r"no address|not in"):
        InetAddress(host, port, flowinfo)


def test_an_empty_address_says_so() -> None:
    address = InetAddress()
    assert (address.family, address.as_tuple(), str(address)) == (socket.AF_UNSPEC, ("", 0), "")
    assert repr(address) == "<InetAddress empty>"
    assert repr(InetAddress("::1", 80)) == "<InetAddress [::1]:80>"
    assert address == InetAddress()
    assert address != "127.0.0.1:80"
    with pytest.raises(TypeError, match="unhashable"):
        hash(address)
