"""A listener's life on real sockets: how it comes to be, what it knows, how it ends without losing anybody."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.config.address import Address, parse
from prefork.errors import ListenError
from prefork.net import options as net_options
from prefork.net import syn_gate
from prefork.net.ipsocket import IPSocket
from prefork.net.listener import Listener, Snapshot
from prefork.net.listeners import listen
from prefork.net.options import SocketOptions
from prefork.net.queue import Diag
from prefork.net.reuseport.tarpit import Tarpit
from prefork.system.record import changed
from tests.support.programs import facts
from tests.support.sockets import PATIENCE, SYN_SENT, closing, connect, deaf_client, hear, retries, script, state, until

LOOPBACK = "127.0.0.1:0"


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How TCP is gated: by a filter, as with CAP_NET_ADMIN, or by a tarpit, as without it."""
    chosen: str = getattr(request, "param", "whatever this process may")
    if chosen == "tarpit":

        def refuse(_: socket.socket) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(syn_gate, "gate", refuse)
    elif chosen == "filter" and not syn_gate.may_gate(socket.AF_INET):
        pytest.skip("this kernel lets only CAP_NET_ADMIN attach a filter")
    return chosen


both_ways = pytest.mark.parametrize("way", ["filter", "tarpit"], indirect=True)


@pytest.fixture
def listener(way: str) -> Iterator[Listener]:
    with closing(made := Listener.open(parse(LOOPBACK), backlog=64)):
        yield made


@pytest.fixture
def group(way: str) -> Iterator[Listener]:
    with closing(made := Listener.open(parse(LOOPBACK), backlog=64, reuse_port=True, members=3)):
        yield made


def where(listener: Listener) -> Any:
    return listener.sockets[0].getsockname()


def arrived(listener: Listener, count: int) -> None:
    until(lambda: listener.waiting() == count, f"{count} wait")


def take(listener: Listener, slot: int = 0) -> None:
    """Accept and close one connection."""
    listener.socket_for(slot).accept()[0].close()


def refused(text: str | Address, **how: Any) -> str:
    """The one line with which an address is refused."""
    before = os.listdir("/proc/self/fd")
    address = parse(text) if isinstance(text, str) else text
    with pytest.raises(ListenError) as caught:
        Listener.open(address, **how)
    assert os.listdir("/proc/self/fd") == before
    line = str(caught.value)
    assert line.startswith(f"bind: {address}: ")
    assert "\n" not in line
    return line.removeprefix(f"bind: {address}: ")


# How it comes to be.


@pytest.mark.parametrize(
    ("text", "family", "start"),
    [
        ("127.0.0.1:0", socket.AF_INET, "127.0.0.1:"),
        (":0", socket.AF_INET, "0.0.0.0:"),
        ("localhost:0", socket.AF_INET, "127.0.0.1:"),
        ("[::1]:0", socket.AF_INET6, "[::1]:"),
        ("[::]:0", socket.AF_INET6, "[::]:"),
    ],
)
def test_tcp(text: str, family: int, start: str) -> None:
    with closing(listener := Listener.open(parse(text), backlog=64)):
        (sock,) = listener.sockets
        port = where(listener)[1]
        assert sock.family == family
        assert listener.name == f"{start}{port}"
        assert port > 0
        assert repr(listener) == f"<Listener {start}{port}, 1 sockets>"
        assert (listener.owned, listener.reuse_port, listener.gated, listener.ended) == (True, False, False, False)
        assert (listener.limit, listener.waiting(), listener.empty()) == (64, 0, True)
        assert listener.slots == [0]
        assert listener.socket_for(0) is listener.socket_for(7) is sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
        assert not sock.get_inheritable()
        assert os.get_blocking(sock.fileno())
        assert isinstance(held := listener._group.any, IPSocket)
        assert held.standard_socket() is sock


@pytest.mark.parametrize("scheme", ["unix", "seqpacket"])
def test_unix_path(tmp_path: Path, scheme: str) -> None:
    text = f"{scheme}:{tmp_path}/s"
    listener = Listener.open(parse(text), backlog=64, options=SocketOptions(mode=0o600))
    with closing(listener), socket.socket(socket.AF_UNIX, listener.address.type) as client:
        assert listener.name == text
        assert (listener.limit, listener.waiting(), listener.empty()) == (64, 0, True)
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        assert not listener.sockets[0].get_inheritable()
        client.connect(f"{tmp_path}/s")
        assert (listener.waiting(), listener.empty()) == (1, False)
        listener.close()
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("scheme", ["unix", "seqpacket"])
def test_abstract_name(tmp_path: Path, scheme: str) -> None:
    text = f"{scheme}:@{tmp_path}"
    listener = Listener.open(parse(text), backlog=64)
    with closing(listener), socket.socket(socket.AF_UNIX, listener.address.type) as client:
        assert listener.name == text
        client.connect(f"\0{tmp_path}")
        assert (listener.limit, listener.waiting(), listener.empty()) == (64, 1, False)
        take(listener)
        assert listener.empty()
        assert "the name is in use by " in refused(text)


def test_what_accepted_sockets_inherit() -> None:
    options = SocketOptions(nodelay=True, keepalive=True)
    plain = SocketOptions(nodelay=False)
    for given, expected in ((options, True), (plain, False)):
        listener = Listener.open(parse(LOOPBACK), options=given)
        with closing(listener), connect(where(listener)), listener.socket_for(0).accept()[0] as accepted:
            assert bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == expected
            assert bool(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == expected


def test_defer_accept_lets_a_silent_client_wait() -> None:
    listener = Listener.open(parse(LOOPBACK), options=SocketOptions(defer_accept=30))
    with closing(listener), connect(where(listener)) as client:
        until(lambda: not listener.empty(), "the handshake has begun")
        assert listener.waiting() == 0
        client.sendall(b"x")
        arrived(listener, 1)


def for_ipv6_alone() -> tuple[Listener, socket.socket]:
    """A listener for IPv6 alone, and its port for IPv4, on which somebody else may be, held by who does not listen."""
    for _ in range(100):
        only, held = Listener.open(parse("[::]:0"), options=SocketOptions(v6only=True)), socket.socket()
        try:
            held.bind(("127.0.0.1", where(only)[1]))
        except OSError:
            only.close()
            held.close()
        else:
            return only, held
    raise AssertionError("each port is somebody's")


def test_v6only_leaves_ipv4_clients_to_others() -> None:
    both = Listener.open(parse("[::]:0"))
    only, held = for_ipv6_alone()
    with held, closing(both, only):
        connect(("127.0.0.1", where(both)[1])).close()
        with pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", where(only)[1]))


def test_fast_open_is_set() -> None:
    with closing(listener := Listener.open(parse(LOOPBACK), options=SocketOptions(fast_open=7))):
        assert listener.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN) == 7


@pytest.mark.parametrize(
    ("sysctl", "text", "options", "warning"),
    [
        ("_SOMAXCONN", "128", SocketOptions(), "backlog 2048 is cut to 128 by the kernel; raise it with sysctl "),
        ("_SOMAXCONN", "2048", SocketOptions(), ""),
        (
            "_FAST_OPEN",
            "1",
            SocketOptions(fast_open=5),
            "fast_open has no effect on this machine; turn it on with sysctl ",
        ),
        ("_FAST_OPEN", "3", SocketOptions(fast_open=5), ""),
        ("_FAST_OPEN", "1", SocketOptions(), ""),
        ("_FAST_OPEN", "unreadable", SocketOptions(fast_open=5), ""),
    ],
)
def test_what_the_kernel_cuts_short_is_warned_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sysctl: str,
    text: str,
    options: SocketOptions,
    warning: str,
) -> None:
    other = tmp_path / "other"
    other.write_text("4096")
    monkeypatch.setattr(net_options, "_SOMAXCONN", other)
    (tmp_path / "sysctl").write_text(text)
    monkeypatch.setattr(net_options, sysctl, tmp_path / "sysctl")
    with closing(Listener.open(parse(LOOPBACK), options=options)):
        messages = [record.getMessage() for record in caplog.records]
        assert [message.startswith(warning) for message in messages] == ([True] if warning else [])


def test_a_default_timeout_of_the_host_program_reaches_no_listener(tmp_path: Path) -> None:
    socket.setdefaulttimeout(5)
    try:
        for text in (LOOPBACK, f"unix:{tmp_path}/s", f"unix:@{tmp_path}"):
            with closing(listener := Listener.open(parse(text))):
                assert listener.sockets[0].gettimeout() is None
                assert os.get_blocking(listener.sockets[0].fileno())
                with closing(adopted := Listener.adopt(os.dup(listener.sockets[0].fileno()))):
                    assert adopted.sockets[0].gettimeout() is None
                    assert os.get_blocking(adopted.sockets[0].fileno())
    finally:
        socket.setdefaulttimeout(None)


# What is refused, in one line.


def test_an_address_in_use_by_whom(listener: Listener) -> None:
    port = where(listener)[1]
    holder = Path("/proc/self/comm").read_text().strip()
    for text in (f"127.0.0.1:{port}", f":{port}"):
        line = refused(text)
        assert line.startswith("the address is in use by ")
        assert line.endswith(f"(pid {os.getpid()}), which is this process; choose another port")
        assert f" {holder} " in line or holder.startswith("python")
    line = refused(f"127.0.0.1:{port}", reuse_port=True, members=2)
    assert line.endswith("which must share it (reuse_port) and run as the same user")


def test_an_address_that_is_bound_and_does_not_listen() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        line = refused(f"127.0.0.1:{bound.getsockname()[1]}")
        assert line == "the address is in use; stop it or choose another port"


def test_an_address_that_is_not_ours() -> None:
    line = refused("192.0.2.1:8000")
    assert line == "192.0.2.1 is not an address of this machine; give one of its own, or :8000 for all"


def test_an_unknown_host() -> None:
    # An empty label can't be looked up, so no name server is asked; parse() would not let it through.
    line = refused(Address("inet", host="no..such", port=80))
    assert line.startswith("the host name is unknown (")
    assert line.endswith("); give one of this machine's addresses")


def test_an_address_family_that_this_machine_lacks() -> None:
    assert script(
        """
import errno, json, socket
from prefork.config.address import parse
from prefork.net.listener import Listener
from tests.support.seccomp import deny
deny("socket", errno.EAFNOSUPPORT, argument=0, equal=socket.AF_INET6)
try:
    Listener.open(parse("[::1]:0"))
except Exception as error:
    print(json.dumps(str(error)))
"""
    ).endswith("this machine does not speak AF_INET6")


@pytest.mark.skipif(os.geteuid() != 0, reason="the test becomes nobody, which only root can")
def test_a_low_port_without_permission() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 2:
        pytest.skip("every port is open to everybody here (net.ipv4.ip_unprivileged_port_start)")
    line = script(
        """
import json, os
from prefork.config.address import parse
from prefork.errors import ListenError
from prefork.net.listener import Listener
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Listener.open(parse("127.0.0.1:1"))
except ListenError as error:
    print(json.dumps(str(error)))
"""
    )
    assert line == (
        f"bind: 127.0.0.1:1: no permission for port 1; use {first} or above, start as root, "
        "or grant CAP_NET_BIND_SERVICE"
    )


def test_unix_paths_that_can_t_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(f"unix:{tmp_path}/file") == "the path is not a socket; remove it or choose another path"
    assert refused(f"unix:{tmp_path}/none/s") == f"the folder {tmp_path}/none does not exist; make it"
    os.symlink("s2", tmp_path / "s.lock")
    assert refused(f"unix:{tmp_path}/s") == f"{tmp_path}/s.lock is a symbolic link; remove it"
    assert refused(f"unix:{tmp_path}/file/s").startswith("not a directory; ")


@pytest.mark.skipif(os.geteuid() != 0, reason="the test becomes nobody, which only root can")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    line = script(
        """
import json, os, sys
from prefork.config.address import parse
from prefork.errors import ListenError
from prefork.net.listener import Listener
os.chdir(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Listener.open(parse("unix:s"))
except ListenError as error:
    print(json.dumps(str(error)))
""",
        str(tmp_path),
    )
    assert line == "bind: unix:s: permission denied; let this user write to the folder ."


def test_descriptors_that_are_no_listeners() -> None:
    with Path("/dev/null").open() as null, socket.socket() as deaf:
        fd = null.fileno()
        assert refused(f"fd://{fd}") == f"descriptor {fd} is not a socket; pass a listening socket under it"
        fd = deaf.fileno()
        assert refused(f"fd://{fd}") == f"the socket of descriptor {fd} does not listen; call listen(2) before"
        assert deaf.fileno() == fd
    assert refused("fd://9999") == "descriptor 9999 is not open; pass a listening socket under it"


# What outlives us.


@pytest.fixture
def foreign() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.set_inheritable(True)
        yield made


@pytest.mark.parametrize("blocking", [True, False])
def test_an_adopted_listener_is_served_and_left_alone(foreign: socket.socket, blocking: bool) -> None:
    foreign.setblocking(blocking)
    listener = Listener.open(parse(f"fd://{os.dup(foreign.fileno())}"))
    with closing(listener), connect(foreign.getsockname()):
        assert listener.name == f"127.0.0.1:{foreign.getsockname()[1]}"
        assert not listener.owned
        assert not listener.sockets[0].get_inheritable()
        assert os.get_blocking(foreign.fileno()) == blocking
        arrived(listener, 1)
        take(listener)
        assert listener.empty()
        assert not listener.gate()
        assert not listener.shutdown()
        assert listener.ungate()
        listener.close()
        with connect(foreign.getsockname()):
            assert select.select([foreign], [], [], PATIENCE)[0]


def test_who_holds_an_inherited_socket_decides_whether_it_is_ours(foreign: socket.socket) -> None:
    """A child of ours does not count, a process beside us does; and a gate that was closed is open again at the end."""
    program = """
        import json, os, socket, subprocess, sys
        from prefork.net.listener import Listener
        from prefork.net.sharing import held_elsewhere
        sock = socket.create_server(("127.0.0.1", 0))
        said = [held_elsewhere(sock)]
        idle = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        with subprocess.Popen(idle, stdin=-1, pass_fds=[sock.fileno()]) as child:
            said.append(held_elsewhere(sock))
            child.stdin.close()
        with socket.socket(fileno=int(sys.argv[1])) as given:
            said.append(held_elsewhere(given))
        kept = os.dup(sock.fileno())
        listener = Listener.adopt(os.dup(sock.fileno()))
        said += [listener.inherit(), listener.gate(), listener.empty(), listener.shutdown()]
        listener.nonblocking()
        listener.close()
        said.append(os.get_blocking(kept))
        with socket.socket(fileno=kept) as again, sock, socket.create_connection(again.getsockname(), 10):
            again.settimeout(10)
            again.accept()[0].close()
        print(json.dumps(said))
        """
    found = facts(program, str(foreign.fileno()), fds=[foreign.fileno()])
    assert found == [False, False, True, True, True, True, False, True]


def test_an_adopted_unix_path_is_not_removed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as foreign:
        foreign.bind(str(tmp_path / "s"))
        foreign.listen()
        with closing(listener := Listener.adopt(os.dup(foreign.fileno()))):
            assert listener.name == f"seqpacket:{tmp_path}/s"
            assert not listener.unlink()
    assert os.listdir(tmp_path) == ["s"]


SYSTEMD = """
import json, os, socket, sys
from prefork.config.address import parse
from prefork.errors import PreforkError
from prefork.net.listeners import listen
from prefork.system import systemd
os.dup2(os.open("/dev/null", os.O_RDONLY), 5)
for fd in (3, 4):
    sock = socket.create_server(("127.0.0.1", 0))
    if sock.fileno() != fd:
        os.dup2(sock.fileno(), fd)
        sock.close()
    else:
        sock.detach()
os.set_inheritable(3, True)
environ = {"LISTEN_PID": str(os.getpid()), "KEPT": "yes"} | dict(x.split("=") for x in sys.argv[2:])
try:
    listeners = listen([parse(x) for x in sys.argv[1].split()], passed=systemd.listen_fds(environ))
    found = [[x.sockets[0].fileno(), x.owned, x.sockets[0].get_inheritable()] for x in listeners]
    for listener in listeners:
        listener.close()
except PreforkError as error:
    found = str(error)
print(json.dumps([found, environ]))
"""


@pytest.mark.parametrize(
    ("addresses", "variables", "fds"),
    [
        ("systemd:", ["LISTEN_FDS=2"], [3, 4]),
        ("systemd:", ["LISTEN_FDS=1", "LISTEN_PIDFDID=7"], [3]),
        ("systemd:", ["LISTEN_FDS=2", "LISTEN_FDNAMES=web:admin"], [3, 4]),
        ("systemd:admin", ["LISTEN_FDS=2", "LISTEN_FDNAMES=web:admin"], [4]),
        ("systemd:admin systemd:web", ["LISTEN_FDS=2", "LISTEN_FDNAMES=web:admin"], [4, 3]),
        ("systemd:web", ["LISTEN_FDS=2", "LISTEN_FDNAMES=web:web"], [3, 4]),
        ("systemd:unknown", ["LISTEN_FDS=2"], [3, 4]),
    ],
)
def test_the_service_manager_s_sockets(addresses: str, variables: list[str], fds: list[int]) -> None:
    found, environ = script(SYSTEMD, addresses, *variables)
    assert found == [[fd, False, False] for fd in fds]
    assert environ == {"KEPT": "yes"}


@pytest.mark.parametrize(
    ("addresses", "variables", "line"),
    [
        (
            "systemd:",
            ["LISTEN_PID=1", "LISTEN_FDS=2"],
            "systemd:: the service manager passed no sockets; start through a .socket unit, or give an address",
        ),
        (
            "systemd:mail",
            ["LISTEN_FDS=2", "LISTEN_FDNAMES=web:admin"],
            "systemd:mail: the service manager passed no socket of this name; it passed admin, web",
        ),
        ("systemd:", ["LISTEN_FDS=x"], "systemd: LISTEN_FDS='x' is not a count; start through the service manager"),
        (
            "systemd:",
            ["LISTEN_FDS=2", "LISTEN_FDNAMES=web"],
            "systemd: LISTEN_FDNAMES names 1 sockets, LISTEN_FDS counts 2",
        ),
        ("systemd:", ["LISTEN_FDS=99"], "systemd: LISTEN_FDS=99, but descriptor 6 is not open"),
        (
            "systemd:",
            ["LISTEN_FDS=3"],
            "systemd:: descriptor 5 is not a socket; pass a listening socket under it",
        ),
        (
            "systemd: systemd:web",
            ["LISTEN_FDS=1", "LISTEN_FDNAMES=web"],
            "systemd:web: descriptor 3 is given twice; leave one of them out",
        ),
    ],
)
def test_what_the_service_manager_got_wrong(addresses: str, variables: list[str], line: str) -> None:
    found, environ = script(SYSTEMD, addresses, *variables)
    assert found == f"bind: {line}"
    assert environ == {"KEPT": "yes"}


def test_all_or_none(tmp_path: Path, listener: Listener) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ListenError, match="in use"):
        listen([parse(f"unix:{tmp_path}/s"), parse(LOOPBACK), parse(listener.name)])
    assert os.listdir(tmp_path) == []
    assert os.listdir("/proc/self/fd") == before
    first, second = listen([parse(f"unix:{tmp_path}/s"), parse(LOOPBACK)], backlog=7)
    with closing(first, second):
        assert (first.limit, second.limit) == (7, 7)


def test_a_service_manager_s_address_may_be_several(foreign: socket.socket) -> None:
    with pytest.raises(ValueError, match=r"listeners\.listen\(\)"):
        Listener.open(parse("systemd:"))
    with pytest.raises(ListenError, match="given twice"):
        listen([parse(f"fd://{foreign.fileno()}")] * 2)
    foreign.detach()  # what was adopted before the second time is closed


# How it ends: TCP.


@both_ways
def test_the_gate_lets_finish_what_has_begun(listener: Listener) -> None:
    address = where(listener)
    with connect(address), closing(slow := deaf_client(address)):
        arrived(listener, 1)
        assert listener.gate()
        assert listener.gated
        with closing(late := connect(address, blocking=False)):
            take(listener)
            assert (listener.waiting(), listener.empty()) == (0, False)
            assert not listener.shutdown()
            hear(slow)
            arrived(listener, 1)
            assert not listener.shutdown()
            take(listener)
            assert listener.empty()
            assert state(late) == SYN_SENT
            assert listener.shutdown()
            assert listener.ended
            assert listener.shutdown()
            assert (listener.waiting(), listener.empty()) == (0, True)


@both_ways
@pytest.mark.usefixtures("way")
def test_a_client_that_was_to_speak_first_is_let_in_silent_behind_the_gate() -> None:
    listener = Listener.open(parse(LOOPBACK), options=SocketOptions(defer_accept=30))
    with closing(listener), connect(where(listener)):
        until(lambda: not listener.empty(), "the handshake has begun")
        assert listener.waiting() == 0
        assert listener.gate()
        assert not listener.shutdown()
        arrived(listener, 1)
        take(listener)
        assert listener.shutdown()


def test_without_a_gate_nothing_is_shut_down(listener: Listener) -> None:
    assert listener.empty()
    assert not listener.shutdown()
    with connect(where(listener)):
        arrived(listener, 1)


@both_ways
@pytest.mark.usefixtures("way")
def test_an_opened_gate_lets_clients_in_again() -> None:
    listener = Listener.open(parse(LOOPBACK), options=SocketOptions(defer_accept=30))
    with closing(listener):
        assert listener.gate()
        assert listener.ungate()
        assert not listener.gated
        assert not listener.shutdown()
        assert listener.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) > 0
        with connect(where(listener)) as client:
            client.sendall(b"x")
            arrived(listener, 1)


@both_ways
def test_a_successor_s_handshakes_do_not_keep_the_predecessor(group: Listener) -> None:
    """As in a takeover: both on one port, the predecessor gated, the successor under way with a slow client."""
    address = where(group)
    with closing(mine := deaf_client(address)):
        until(lambda: not group.empty(), "its SYN has come")
        assert group.gate()
        successor = Listener.open(parse(group.name), reuse_port=True, members=3)
        others: list[socket.socket] = []
        with closing(successor, others, diag := Diag()):
            # Members of both are in the group, and those gated by a filter drop what hashes to them.
            while len(diag.half_open(successor.sockets[0])) < 6:
                assert not group.empty()
                others.append(deaf_client(address))
                assert len(others) < 200
            hear(mine)
            slot = until(lambda: [slot for slot in group.slots if group.waiting(slot)], "its handshake is through")[0]
            assert not group.empty()
            take(group, slot)
            assert len(diag.half_open(successor.sockets[0])) >= 5
            assert group.empty()
            assert group.shutdown()


def test_after_the_shutdown_the_port_is_free_and_accept_ends_in_every_process() -> None:
    answers = script(
        """
import errno, json, os
from prefork.config.address import parse
from prefork.net.listener import Listener
listener = Listener.open(parse("127.0.0.1:0"))
told, tell = os.pipe()
children = []
for slot in range(3):
    children.append(os.fork())
    if not children[-1]:
        listener.keep(slot)
        os.write(tell, b"r")
        try:
            listener.socket_for(slot).accept()
        except OSError as error:
            os._exit(error.errno)
ready = b""
while len(ready) < 3:
    ready += os.read(told, 3)
assert listener.gate() and listener.shutdown()
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
successor = Listener.open(parse(listener.name))
print(json.dumps([codes, errno.EINVAL, successor.name == listener.name]))
successor.close()
listener.close()
os.close(told)
os.close(tell)
"""
    )
    assert answers == [[errno.EINVAL] * 3, errno.EINVAL, True]


@pytest.mark.parametrize("way", ["filter", "tarpit"], indirect=True)
def test_it_all_works_at_the_descriptor_limit_and_without_membarrier(way: str) -> None:
    answers = script(
        """
import errno, json, os, resource, sys
from prefork.config.address import parse
from prefork.net.listener import Listener
from tests.support.seccomp import deny
from tests.support.sockets import connect, until
if sys.argv[1] == "tarpit":
    deny("setsockopt", errno.EPERM, argument=2, equal=26)  # SO_ATTACH_FILTER
listener = Listener.open(parse("127.0.0.1:0"), reuse_port=True, members=2)
client = connect(listener.sockets[0].getsockname())
until(lambda: listener.waiting() == 1, "it waits")
deny("membarrier", errno.EPERM)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
answers = [listener.steer([0]), listener.waiting(), listener.empty(), listener.gate(), listener.shutdown()]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
slot = [slot for slot in listener.slots if listener.waiting(slot)][0]
listener.socket_for(slot).accept()[0].close()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
answers += [listener.empty(), listener.shutdown()]
print(json.dumps(answers))
client.close()
listener.close()
""",
        way,
    )
    assert answers == [True, 1, False, True, False, True, True]


def test_nothing_is_proven_when_the_kernel_does_not_answer(listener: Listener) -> None:
    listener._diag.close()
    assert not listener.empty()
    assert listener.gate()
    assert not listener.shutdown()


@pytest.mark.parametrize("way", ["tarpit"], indirect=True)
def test_a_gate_that_the_kernel_refuses_is_told(
    listener: Listener, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    monkeypatch.setattr(Tarpit, "join", refuse)
    assert not listener.gate()
    assert not listener.gated
    assert not listener.shutdown()
    assert f"can't stop new connections to {listener.name}: " in caplog.text
    with connect(where(listener)):
        arrived(listener, 1)


def test_nonblocking_holds_in_every_process_that_shares_it(listener: Listener) -> None:
    with socket.socket(fileno=os.dup(listener.sockets[0].fileno())) as shared:
        listener.nonblocking()
        with pytest.raises(BlockingIOError):
            shared.accept()
        listener.nonblocking(False)
        assert os.get_blocking(shared.fileno())


# How it ends: AF_UNIX.


@pytest.mark.parametrize("scheme", ["unix", "seqpacket"])
def test_the_gate_of_a_path_is_its_removal(tmp_path: Path, scheme: str) -> None:
    listener = Listener.open(parse(f"{scheme}:{tmp_path}/s"))
    clients = [socket.socket(socket.AF_UNIX, listener.address.type) for _ in range(2)]
    with closing(listener, clients):
        clients[0].connect(f"{tmp_path}/s")
        assert listener.gate()
        with pytest.raises(FileNotFoundError):
            clients[1].connect(f"{tmp_path}/s")
        assert not listener.shutdown()
        take(listener)
        assert not listener.ungate()
        assert listener.gate()
        assert listener.shutdown()
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            listener.sockets[0].accept()
        assert (listener.waiting(), listener.empty()) == (0, True)


def test_a_path_that_somebody_replaced_is_gated_and_stays(tmp_path: Path) -> None:
    listener = Listener.open(parse(f"unix:{tmp_path}/s"))
    (tmp_path / "s").unlink()
    successor = Listener.open(parse(f"unix:{tmp_path}/s"))
    with closing(listener, successor):
        assert listener.gate()
        listener.close()
        assert os.listdir(tmp_path) == ["s"]
        assert successor.unlink()
        assert not successor.unlink()


def test_the_path_is_removed_from_wherever_the_process_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listener = Listener.open(parse("unix:s"))
    monkeypatch.chdir("/")
    listener.close()
    assert os.listdir(tmp_path) == []


def test_a_path_that_can_t_be_removed_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "prefork")
    listener = Listener.open(parse(f"unix:{tmp_path}/s"))
    with closing(listener):
        os.symlink("s2", tmp_path / "s.lock")
        assert not listener.gate()
        assert not listener.gated
        assert f"can't remove {tmp_path}/s: " in caplog.text
        (tmp_path / "s.lock").unlink()
        assert listener.gate()


def test_an_abstract_name_can_t_be_gated(tmp_path: Path) -> None:
    with closing(listener := Listener.open(parse(f"unix:@{tmp_path}"))):
        assert not listener.gate()
        assert not listener.shutdown()


def test_close_is_idempotent_and_a_worker_s_close_is_its_own(tmp_path: Path) -> None:
    answers = script(
        """
import json, os, sys
from prefork.config.address import parse
from prefork.net.listener import Listener
os.chdir(sys.argv[1])
before = len(os.listdir("/proc/self/fd"))
listener = Listener.open(parse("unix:s"))
child = os.fork()
if not child:
    listener.keep(0)
    listener.close()
    os._exit(1 if listener.unlink() else 0)
code = os.waitpid(child, 0)[1]
left = os.listdir(".")
listener.close()
listener.close()
print(json.dumps([code, left, os.listdir("."), len(os.listdir("/proc/self/fd")) - before]))
""",
        str(tmp_path),
    )
    assert answers == [0, ["s"], [], 0]


# The group.


def spread(listener: Listener, count: int) -> dict[int, int]:
    """How many of ``count`` new connections each slot gets; all are accepted and closed."""
    clients = [connect(where(listener)) for _ in range(count)]
    with closing(clients):
        arrived(listener, count)
        shares = {slot: listener.waiting(slot) for slot in listener.slots}
        for slot, share in shares.items():
            for _ in range(share):
                take(listener, slot)
        return shares


def alone(listener: Listener, slot: int) -> None:
    """Show that steering to one slot reaches that slot: the order of the group is what we think."""
    assert listener.steer([slot])
    assert spread(listener, 6) == {one: 6 if one == slot else 0 for one in listener.slots}


def test_a_group_has_a_member_for_each_slot(group: Listener) -> None:
    assert group.reuse_port
    assert group.slots == [0, 1, 2]
    assert group.limit == 3 * 64
    assert len({sock.getsockname() for sock in group.sockets}) == 1
    assert len({sock.fileno() for sock in group.sockets}) == 3
    assert [group.socket_for(slot) for slot in group.slots] == group.sockets
    with pytest.raises(KeyError):
        group.socket_for(3)
    assert not any(sock.get_inheritable() for sock in group.sockets)
    shares = spread(group, 90)
    assert all(share > 2 for share in shares.values())  # one in 10**12 falls short


def test_only_tcp_has_groups(tmp_path: Path) -> None:
    with closing(listener := Listener.open(parse(f"unix:{tmp_path}/s"), reuse_port=True, members=3)):
        assert (listener.reuse_port, listener.slots) == (False, [0])
        assert not listener.steer([0])
        assert listener.unsteer()
        listener.grow(3)
        assert listener.slots == [0]
        with pytest.raises(ValueError, match="no second socket"):
            listener.close_member(0)


def test_steering_away_from_a_slot_and_back(group: Listener) -> None:
    assert group.steer([0, 2])
    shares = spread(group, 60)
    assert shares[1] == 0
    assert min(shares[0], shares[2]) > 2  # one in 10**14 falls short
    for slot in group.slots:
        alone(group, slot)
    assert not group.steer([])
    assert not group.steer([7])
    assert group.unsteer()
    assert all(spread(group, 90).values())


@pytest.mark.parametrize("on", [True, False])
def test_a_new_member_blocks_as_the_others_do(group: Listener, on: bool) -> None:
    group.nonblocking(on)
    group.grow(5)
    assert [os.get_blocking(sock.fileno()) for sock in group.sockets] == [not on] * 5


@both_ways
def test_growing_and_shrinking_keep_the_order(group: Listener) -> None:
    assert group.gate(1)
    assert not group.gated
    assert group.close_member(1)
    assert group.slots == [0, 2]
    alone(group, 2)
    alone(group, 0)
    group.grow(5)
    assert group.slots == [0, 1, 2, 3, 4]
    for slot in group.slots:
        alone(group, slot)
    for slot in (0, 3):
        assert group.gate(slot)
        assert group.close_member(slot)
    for slot in (4, 1, 2):
        alone(group, slot)


@both_ways
def test_a_member_that_is_closed_while_steered_to_leaves_the_others_their_share(group: Listener) -> None:
    assert group.steer([0, 1])
    assert group.gate(0)
    assert group.close_member(0)
    assert spread(group, 6) == {1: 6, 2: 0}


@both_ways
def test_a_gated_member_is_drained_alone_while_the_others_go_on(group: Listener) -> None:
    address = where(group)
    assert group.steer([1])
    with connect(address), closing(slow := deaf_client(address)):
        arrived(group, 1)
        assert group.gate(1)
        assert group.steer([0, 2])
        assert not group.empty(1)
        take(group, 1)
        assert not group.empty(1)
        with closing(others := [deaf_client(address) for _ in range(4)], diag := Diag()):
            until(lambda: len(diag.half_open(group.sockets[0])) == 5, "the others' handshakes are under way")
            hear(slow)
            until(lambda: group.waiting(1) == 1, "its own is through")
            assert not group.empty(1)
            take(group, 1)
            assert group.empty(1)
            assert not group.empty()
            assert group.close_member(1)
            for other in others:
                hear(other)
            until(lambda: group.waiting(0) + group.waiting(2) == 4, "nobody else was lost")


def test_a_member_closed_without_proof_is_steered_around_all_the_same(group: Listener) -> None:
    """It stays in the group for as long as a worker holds it; then the order is found out anew."""
    worker = socket.socket(fileno=os.dup(group.socket_for(1).fileno()))
    with worker:
        assert not group.close_member(1)
        assert not group.steer([0])
    alone(group, 2)
    alone(group, 0)


def test_the_last_member_stays(group: Listener) -> None:
    group.close_member(0)
    group.close_member(1)
    with pytest.raises(ValueError, match="no second socket"):
        group.close_member(2)


def test_beside_a_second_server_nobody_steers(group: Listener) -> None:
    assert group.steer([0])
    second = Listener.open(parse(group.name), reuse_port=True, members=2)
    with closing(second):
        assert not second.steer([0])
        assert not group.steer([0])  # and what was attached is gone: both get their share
        clients = [connect(where(group)) for _ in range(150)]
        with closing(clients):
            until(lambda: group.waiting() + second.waiting() == 150, "all have arrived")
            assert all(listener.waiting(slot) > 2 for listener in (group, second) for slot in listener.slots)
        for sock in group.sockets + second.sockets:
            sock.setblocking(False)
        for sock in group.sockets + second.sockets:
            while True:
                try:
                    sock.accept()[0].close()
                except BlockingIOError:
                    break
    # Its members have left holes into which others may have moved: the order is found out anew.
    for slot in group.slots:
        alone(group, slot)


@both_ways
@pytest.mark.usefixtures("way")
def test_a_gate_takes_its_program_along_so_that_a_successor_gets_clients() -> None:
    predecessor = Listener.open(parse(LOOPBACK), reuse_port=True, members=2, mode="random")
    successor = Listener.open(parse(predecessor.name), reuse_port=True, members=2)
    with closing(predecessor, successor):
        assert predecessor.gate()
        assert predecessor.shutdown()
        assert sum(spread(successor, 10).values()) == 10


@pytest.mark.parametrize("way", ["tarpit"], indirect=True)
def test_without_privilege_a_successor_gets_the_clients_at_once(group: Listener) -> None:
    """They are steered to it; no SYN is dropped. And a second takeover, whose order nobody has followed, as well."""
    generations = [group]
    with closing(generations):
        for _ in range(2):
            predecessor, successor = generations[-1], Listener.open(parse(group.name), reuse_port=True, members=2)
            generations.append(successor)
            with closing(slow := deaf_client(where(predecessor))):
                until(lambda: not successor.empty(), "its SYN has come")  # noqa: B023  # asked at once
                assert predecessor.gate()
                assert all(spread(successor, 40).values())
                assert predecessor.waiting() == 0
                hear(slow)
                until(lambda: predecessor.waiting() + successor.waiting() == 1, "it is through")  # noqa: B023  # as above
                for listener in (predecessor, successor):
                    for slot in listener.slots:
                        while listener.waiting(slot):
                            take(listener, slot)
                assert predecessor.shutdown()
            predecessor.close()
            assert all(spread(successor, 40).values())


@pytest.mark.parametrize("mode", ["random", "cpu"])
def test_a_mode_is_attached_grows_along_and_is_taken_away(mode: Any) -> None:
    with closing(listener := Listener.open(parse(LOOPBACK), reuse_port=True, members=2, mode=mode)):
        second = socket.socket(fileno=os.dup(listener.sockets[0].fileno()))
        before = os.sched_getaffinity(0)
        with second:
            try:
                os.sched_setaffinity(0, {min(before)})
                for count in (2, 3):
                    listener.grow(count)
                    shares = spread(listener, 60)
                    if mode == "cpu":
                        assert shares[min(before) % count] == 60
                    else:
                        assert all(shares.values())
            finally:
                os.sched_setaffinity(0, before)
            listener.close()
            with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
                second.setsockopt(socket.SOL_SOCKET, 68, 0)  # SO_DETACH_REUSEPORT_BPF: there is none


def test_a_mode_without_effect_is_told(group: Listener, caplog: pytest.LogCaptureFixture) -> None:
    with closing(Listener.open(parse(group.name), reuse_port=True, members=2, mode="random")):
        assert caplog.messages == [f"reuse_port_mode random has no effect on {group.name} beside another server"]


def test_a_worker_keeps_its_own_member_only() -> None:
    """Else a member closed by the master would live on in workers, and swallow what the kernel sends it."""
    answers = script(
        """
import json, os
from prefork.config.address import parse
from prefork.net.listener import Listener
listener = Listener.open(parse("127.0.0.1:0"), reuse_port=True, members=3)
kept = os.fstat(listener.socket_for(1).fileno()).st_ino
child = os.fork()
if not child:
    for fd in listener.helpers:
        os.close(fd)
    listener.keep(1)
    (sock,) = listener.sockets
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and
             os.path.exists(f"/proc/self/fd/{fd}") or int(fd) > 2 and os.path.islink(f"/proc/self/fd/{fd}")]
    sockets = [link for link in links if link.startswith("socket:")]
    os._exit(0 if sockets == [f"socket:[{kept}]"] and listener.socket_for(1) is sock else 1)
print(json.dumps(os.waitpid(child, 0)[1]))
listener.close()
"""
    )
    assert answers == 0


# Over an exec.


@pytest.mark.parametrize("text", ["unix:s", "127.0.0.1:0", "group", "[::1]:0"])
def test_a_snapshot_carries_a_listener_over_exec(tmp_path: Path, text: str) -> None:
    """The old image queues a client; the new one serves it, steers, and removes what is to be removed."""
    answers = script(
        """
import json, os, socket, sys
from prefork.config.address import parse
from prefork.net.ipsocket import IPSocket
from prefork.net.listener import Listener, Snapshot
if len(sys.argv) == 3:
    os.chdir(sys.argv[1])
    text = sys.argv[2]
    if text == "group":
        listener = Listener.open(parse("127.0.0.1:0"), reuse_port=True, members=3)
        assert listener.gate(0) and listener.close_member(0)
    else:
        listener = Listener.open(parse(text))
    snapshot = listener.snapshot()
    client = socket.socket(listener.sockets[0].family)
    client.connect("s" if text == "unix:s" else listener.sockets[0].getsockname())
    for fd in (client.fileno(), *(fd for _, fd in snapshot.members)):
        os.set_inheritable(fd, True)
    code = sys.orig_argv[sys.orig_argv.index("-c") + 1]
    options = sys.orig_argv[1 : sys.orig_argv.index("-c")]
    facts = json.dumps([vars(snapshot), listener.name, client.fileno()])
    os.execv(sys.executable, [sys.executable, *options, "-c", code, facts])
fields, name, fd = json.loads(sys.argv[1])
fields["members"] = tuple(tuple(member) for member in fields["members"])
for part in ("order", "file_id"):
    fields[part] = fields[part] and tuple(fields[part])
snapshot = Snapshot(**fields)
listener = Listener.restore(snapshot)
client = socket.socket(fileno=fd)
kept = os.listdir(".")
answers = [listener.snapshot() == snapshot, listener.waiting(), listener.owned]
answers += [any(sock.get_inheritable() for sock in listener.sockets), listener.name == name]
for slot in listener.slots:
    if listener.waiting(slot):
        listener.socket_for(slot).accept()[0].close()
answers.append(listener.steer([2]) if listener.reuse_port else False)
answers += [listener.gate(), listener.shutdown()]
listener.close()
client.close()
print(json.dumps([answers, kept, os.listdir(".")]))
""",
        str(tmp_path),
        text,
    )
    assert answers == [[True, 1, True, False, True, text == "group", True, True], ["s"] * (text == "unix:s"), []]


def successor_of(listener: Listener, options: SocketOptions) -> Listener:
    """What a new master makes of the sockets of one that was killed."""
    snapshot = listener.snapshot()
    members = tuple((slot, os.dup(fd)) for slot, fd in snapshot.members)
    return Listener.restore(changed(snapshot, members=members), options=options)


@both_ways
def test_what_a_killed_master_had_stopped_goes_on_under_the_next(group: Listener, way: str) -> None:
    """Its steering, its gate and its deferring are in the sockets, and would stay."""
    assert group.steer([0])
    with closing(second := successor_of(group, SocketOptions(defer_accept=0))):
        assert all(spread(second, 90).values())
    assert group.gate()
    if way == "tarpit":
        group._group._dismiss()  # its descriptors went with the master
    with closing(third := successor_of(group, SocketOptions())):
        assert not third.gated
        assert all(spread(third, 90).values())
        assert third.gate()
        assert third.shutdown()


def test_a_snapshot_of_what_is_gone_is_refused() -> None:
    snapshot = Snapshot("127.0.0.1:0", ((0, 9999),), (0,), True, False, "hash", None)
    with pytest.raises(ListenError, match="descriptor 9999 is not open"):
        Listener.restore(snapshot)


@both_ways
def test_clients_of_a_gate_reach_a_listener_that_comes_later(listener: Listener) -> None:
    """A stop followed by a start: who came to the closed gate, and had no answer, is served by the successor."""
    listener.gate()
    with closing(late := connect(where(listener), blocking=False)):
        assert listener.shutdown()
        with closing(successor := Listener.open(parse(listener.name))):
            until(lambda: retries(late) >= 1 or successor.waiting(), "it has repeated its SYN")
            arrived(successor, 1)
