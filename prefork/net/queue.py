"""What waits on a listener: its accept queue, the handshakes under way, and who else listens there.

The accept queue of a TCP listener is in its TCP_INFO (tcp(7)): ``tcpi_unacked`` connections wait, ``tcpi_sacked`` may.
That is one system call and right for IPv6 and for members of a SO_REUSEPORT group. It does not hold the handshakes that
are still under way (SYN_RECV): a client that got our SYN-ACK believes to be connected soon, and a listener that is
closed now resets it. Those, and the queues of AF_UNIX listeners, come from sock_diag(7), a netlink socket that any user
may open. `Diag` opens it once, beforehand, because a process at its descriptor limit could not.

Where netlink is forbidden (a service unit with RestrictAddressFamilies, a sandbox), /proc/net/tcp and tcp6 tell the
same in text, and poll(2) tells whether anything waits on an AF_UNIX listener.
"""

from __future__ import annotations

import contextlib
import errno
import re
import struct
from typing import Final, NamedTuple, TypeAlias

from prefork.net.ipsocket import local_address
from prefork.net.kernelsocket import Selectable, Socket
from prefork.system.natives import os, select, socket

Handshake: TypeAlias = tuple[bytes, int, bytes]
"""A handshake under way: the client's address and port, and the address of ours that it speaks to."""


class Depth(NamedTuple):
    """A listener's accept queue: both are counts of connections."""

    waiting: int
    limit: int


class Cookies(NamedTuple):
    """SYN cookies of a network namespace since it is there: both are counts."""

    sent: int
    received: int


class _Row(NamedTuple):
    """One TCP socket on a port: addresses are in network order, 4 bytes for AF_INET and 16 for AF_INET6."""

    listening: bool
    local: bytes
    peer: bytes
    peer_port: int
    inode: int


_NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY: Final = 20  # linux/sock_diag.h
_REQUEST: Final = 0x1  # NLM_F_REQUEST
_DUMP: Final = 0x300  # NLM_F_DUMP
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_INET_REQUEST: Final = struct.Struct("=BBBxI2s46x")  # inet_diag_req_v2, up to the port asked for; no cookie
_ONE_REQUEST: Final = struct.Struct("=BBxxxxxx2s2s16s16s4xII")  # the same for one socket, by both its ends
_INET_ROW: Final = struct.Struct("=xBxx2xH16s16s4x8x4x4x4x4xI")  # inet_diag_msg
_UNIX_REQUEST: Final = struct.Struct("=BxxxIIIII")  # unix_diag_req
_UNIX_ROW_BYTES: Final = 16  # unix_diag_msg
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length, type
_UDIAG_SHOW_RQLEN: Final = 0x10
_UNIX_DIAG_RQLEN: Final = 4
_NO_COOKIE: Final = 0xFFFFFFFF
_SYN_RECV: Final = 3  # net/tcp_states.h
_LISTEN: Final = 10
_ANSWER_BYTES: Final = 1 << 16

_TCP_INFO_BYTES: Final = 32  # up to and with tcpi_sacked
_TCPI_UNACKED: Final = 24


def tcp_depth(listener: Socket) -> Depth:
    """The accept queue of a TCP listener. Any process that holds it; costs one system call.

    Raises:
        OSError: It is no TCP socket, or not open.
    """
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return Depth(*struct.unpack_from("=II", info, _TCPI_UNACKED))


class Diag:
    """The window on sockets: a netlink socket, or the files of /proc where netlink is forbidden.

    All descriptors that a question needs are opened here, so that it can be asked at the descriptor limit. `half_open`,
    `group` and `listening` raise OSError when the kernel does not answer (ENOBUFS, ENOMEM, or neither window could be
    opened): nothing is proven then.

    Args:
        netlink: False takes the way through /proc at once.
    """

    def __init__(self, *, netlink: bool = True) -> None:
        self._netlink: socket.socket | None = None
        self._tables: dict[int, int] = {}
        self._sequence = 0
        self._unread = False
        try:
            self._counters = os.open("/proc/net/netstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._counters = -1
        if netlink:
            try:
                self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
                self._netlink.setblocking(False)
                self._ask_inet(socket.AF_INET, 0, states=0)  # whether TCP is known there at all
                return
            except OSError:
                self._close_netlink()
        for family, table in ((socket.AF_INET, "/proc/net/tcp"), (socket.AF_INET6, "/proc/net/tcp6")):
            try:
                self._tables[family] = os.open(table, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # whoever asks is told

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that it holds."""
        netlink = () if self._netlink is None else (self._netlink.fileno(),)
        counters = () if self._counters < 0 else (self._counters,)
        return (*netlink, *counters, *self._tables.values())

    def half_open(self, listener: Selectable) -> frozenset[Handshake]:
        """The handshakes under way that will end in the accept queue of ``listener``.

        In a SO_REUSEPORT group nothing tells to which member a handshake belongs: all of the group's are returned, of
        other processes' members too. A client that the kernel answered with a SYN cookie (tcp(7), tcp_syncookies: its
        queue of handshakes overflowed) is not remembered by it and not found here: see `cookies`.
        """
        family, port, local = _inet_name(listener)
        rows = self._inet(family, port, (_SYN_RECV, _LISTEN))
        # A listener on every address gets only what no listener on one address takes from it.
        taken = {row.local for row in rows if row.listening and any(row.local)}
        return frozenset(
            (row.peer, row.peer_port, row.local)
            for row in rows
            if not row.listening and (row.local == local if any(local) else row.local not in taken)
        )

    def group(self, listener: Selectable) -> frozenset[int]:
        """The inodes of all sockets that listen on the address and port of ``listener``, its own among them."""
        family, port, local = _inet_name(listener)
        return frozenset(row.inode for row in self._inet(family, port, (_LISTEN,)) if row.local == local)

    def listening(self, port: int) -> frozenset[tuple[str, int]]:
        """The address and inode of every TCP socket of this network namespace that listens on a port."""
        found = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(FileNotFoundError):  # a machine without IPv6
                rows = self._inet(family, port, (_LISTEN,))
                found |= {(socket.inet_ntop(family, row.local), row.inode) for row in rows}
        return frozenset(found)

    def cookies(self) -> Cookies:
        """The SYN cookies of this network namespace so far; none where /proc does not tell."""
        if self._counters < 0:
            return Cookies(0, 0)
        try:
            names, values = (line.split() for line in os.pread(self._counters, _ANSWER_BYTES, 0).splitlines()[:2])
            found = dict(zip(names, values, strict=True))
            return Cookies(int(found[b"SyncookiesSent"]), int(found[b"SyncookiesRecv"]))
        except (OSError, ValueError, KeyError):
            return Cookies(0, 0)

    def abandoned(self, connection: socket.socket) -> bool:
        """Whether a TCP connection's other end is a socket of this machine that no process has open any more.

        A FIN does not tell a client that has closed from one that has only ended its side (shutdown(2)); the inode of
        its socket does, where the kernel can be asked for it. False for a client elsewhere, or in another network
        namespace, and without netlink.
        """
        if self._netlink is None:
            return False
        (near, near_port, *_), (far, far_port, *_) = connection.getsockname(), connection.getpeername()
        mapped = near.startswith("::ffff:") and "." in near
        family = socket.AF_INET if mapped else connection.family
        near, far = (host.removeprefix("::ffff:") if mapped else host.partition("%")[0] for host in (near, far))
        request = _ONE_REQUEST.pack(
            family,
            socket.IPPROTO_TCP,
            far_port.to_bytes(2, "big"),
            near_port.to_bytes(2, "big"),
            socket.inet_pton(family, far),
            socket.inet_pton(family, near),
            _NO_COOKIE,
            _NO_COOKIE,
        )
        try:
            (answer,) = self._ask(request, 0)
        except (OSError, ValueError):
            return False  # there is no such socket here, or the kernel does not say
        state, _, _, _, inode = _INET_ROW.unpack_from(answer)
        return bool(state != _LISTEN and inode == 0)

    def unix_depth(self, listener: Selectable) -> Depth:
        """The accept queue of an AF_UNIX listener. Without netlink: 1 or 0 waiting, and a limit of 0 (unknown)."""
        if self._netlink is not None:
            request = _UNIX_REQUEST.pack(
                socket.AF_UNIX,
                1 << _LISTEN,
                os.fstat(listener.fileno()).st_ino & 0xFFFFFFFF,
                _UDIAG_SHOW_RQLEN,
                _NO_COOKIE,
                _NO_COOKIE,
            )
            try:
                return _unix_row(*self._ask(request, 0))
            except OSError:
                pass  # a kernel without unix_diag, or without memory for the answer
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        return Depth(len(poll.poll(0)), 0)

    def close(self) -> None:
        """Give back the descriptors. Idempotent."""
        self._close_netlink()
        while self._tables:
            os.close(self._tables.popitem()[1])
        if self._counters >= 0:
            os.close(self._counters)
            self._counters = -1

    def _close_netlink(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _inet(self, family: int, port: int, states: tuple[int, ...]) -> list[_Row]:
        if self._netlink is not None:
            return self._ask_inet(family, port, sum(1 << state for state in states))
        return self._read_inet(family, port, states)

    def _ask_inet(self, family: int, port: int, states: int) -> list[_Row]:
        request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, port.to_bytes(2, "big"))
        width = 4 if family == socket.AF_INET else 16
        rows = []
        for answer in self._ask(request, _DUMP):
            state, peer_port, local, peer, inode = _INET_ROW.unpack_from(answer)
            rows.append(_Row(state == _LISTEN, local[:width], peer[:width], socket.ntohs(peer_port), inode))
        return rows

    def _ask(self, request: bytes, flags: int) -> list[memoryview]:
        """Send one question; the payload of each answer to it.

        The kernel works the answer out within send(2) and recv(2), so that nothing is ever waited for: an answer that
        is not there does not come (BlockingIOError).
        """
        assert self._netlink is not None
        if self._unread:  # the last question failed half-way; the kernel takes no new one before that is read (EBUSY)
            self._discard(self._netlink)
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST | flags, self._sequence, 0)
        self._unread = True
        self._netlink.send(header + request)
        found = []
        while self._unread:
            answers = memoryview(self._netlink.recv(_ANSWER_BYTES))
            while answers:
                length, kind, _, sequence, _ = _HEADER.unpack_from(answers)
                payload, answers = answers[_HEADER.size : length], answers[(length + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                self._unread = flags == _DUMP and kind not in {_NLMSG_DONE, _NLMSG_ERROR}
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    raise OSError(number, f"sock_diag: {os.strerror(number)}")
                if kind != _NLMSG_DONE:
                    found.append(payload)
        return found

    def _discard(self, netlink: socket.socket) -> None:
        try:
            while True:
                netlink.recv(_ANSWER_BYTES)
        except BlockingIOError:
            self._unread = False

    def _read_inet(self, family: int, port: int, states: tuple[int, ...]) -> list[_Row]:
        """The rows of /proc/net/tcp (proc_net_tcp in the kernel's documentation) that are on a port."""
        table = self._tables.get(family)
        if table is None:
            raise OSError(errno.ENOENT, "neither sock_diag nor /proc/net can be asked")
        os.lseek(table, 0, os.SEEK_SET)
        text = b"".join(iter(lambda: os.read(table, _ANSWER_BYTES), b""))
        # Searched, not split: a busy machine has a hundred thousand lines of connections in TIME_WAIT.
        wanted = b"|".join(b"%02X" % state for state in states)
        lines = re.findall(
            rb"^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:[0-9A-F]{4} (?:%b) .*" % (port, wanted), text, re.MULTILINE
        )
        rows = []
        for line in lines:
            _, local, peer, state, _, _, _, _, _, inode, *_ = line.split()
            rows.append(_Row(int(state, 16) == _LISTEN, _words(local), _words(peer), int(peer[-4:], 16), int(inode)))
        return rows


def _inet_name(listener: Selectable) -> tuple[int, int, bytes]:
    """Family, port and packed address of a listener; a zone (ipv6(7)) does not tell listeners apart here."""
    address = local_address(listener)
    return address.family, address.port, address.packed


def _unix_row(answer: memoryview) -> Depth:
    """The queue of an AF_UNIX listener: unix_diag_msg, then attributes, of which one was asked for."""
    attributes = answer[_UNIX_ROW_BYTES:]
    while attributes:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _UNIX_DIAG_RQLEN:
            return Depth(*struct.unpack_from("=II", attributes, _ATTRIBUTE.size))
        attributes = attributes[(length + 3) & ~3 :]
    raise OSError("sock_diag told no queue length")


def _words(address: bytes) -> bytes:
    """An address of /proc/net/tcp, words of 32 bits in hexadecimal and host order, in network order."""
    digits = address.partition(b":")[0].decode()
    return b"".join(struct.pack("=I", int(digits[n : n + 8], 16)) for n in range(0, len(digits), 8))
