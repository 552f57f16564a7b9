"""The gate of a TCP listener: no new handshake begins, and it can be known when the last one of before has ended.

**How it closes.** By a filter on the listener (SO_ATTACH_FILTER) that drops segments which carry SYN: clients that come
now get no answer and try again by themselves a second later (tcp(7), tcp_syn_retries), while handshakes that are under
way complete, because their ACK has no SYN. What is accepted afterwards inherits the filter, where it does no harm: an
established connection gets no SYN. Recent kernels (6.18.44 among them) ask for CAP_NET_ADMIN; for those who don't have
it SYNs are steered to other members of the group, or to a tarpit that drops them (`prefork.net.reuseport`). It serves
shared listeners and groups alike.

**Which handshakes count.** A handshake under way (SYN_RECV) is a promise: the client holds our SYN-ACK, and is reset
when nobody listens at its end. It belongs to an address, not to a member of a group, and during a takeover the
successor's handshakes are on the same address. So the gate remembers those that were there when it had closed: only
these can still reach us.

**Handshakes of which nothing is remembered.** When the queue of handshakes is full the kernel answers with a SYN cookie
(tcp(7), tcp_syncookies) and forgets the client, whose ACK makes the connection all the same: the filter lets it pass.
sock_diag can't show these. But the network namespace counts the cookies it has sent, and those that came back
(/proc/net/netstat): if any were sent since the listener was made, the gate counts as pending until none has come back
for `COOKIES` seconds, the time that a handshake needs, one lost segment included; `COOKIES_MOST` at the most, since
other listeners' cookies are counted as well. A tarpit can't do it: without a handshake to look up the ACK goes where
SYNs are steered to.

**When it has closed.** A SYN that another CPU was looking at when the gate closed may still become a handshake. That is
over after one RCU grace period, and membarrier(2) waits for one: some 10 ms, once in a listener's life.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Final

from prefork.net import bpf
from prefork.net.bpf import Program
from prefork.net.kernelsocket import Socket
from prefork.net.options import defer
from prefork.net.queue import Cookies, Diag, Handshake
from prefork.net.reuseport.group import Group
from prefork.system.clock import SYSTEM, Clock
from prefork.system.natives import os, socket

COOKIES: Final = 2.0
COOKIES_MOST: Final = 10.0

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_SO_DETACH_FILTER: Final = 27
_TCP_FLAGS: Final = 13  # offset in the TCP header, where a TCP socket's filter begins to count
_SYN: Final = 0x02
_ALL: Final = 0xFFFFFFFF

PROGRAM: Final[Program] = (
    (bpf.LOAD_BYTE, 0, 0, _TCP_FLAGS),
    (bpf.JUMP_IF_SET, 0, 1, _SYN),
    (bpf.RETURN, 0, 0, 0),
    (bpf.RETURN, 0, 0, _ALL),
)
"""Drops every segment with SYN set, passes every other whole."""

_SYS_MEMBARRIER: Final = {"x86_64": 324, "aarch64": 283, "riscv64": 283}.get(os.uname().machine)
_MEMBARRIER_CMD_GLOBAL: Final = 1
_syscall: Final = ctypes.CDLL(None).syscall


def gate(listener: Socket) -> None:
    """Drop what tries to open a connection to ``listener`` from now on.

    Raises:
        OSError: The kernel refused the filter (ENOMEM, or EPERM when it wants CAP_NET_ADMIN for it).
    """
    bpf.attach(listener, _SO_ATTACH_FILTER, PROGRAM)


def ungate(listener: Socket) -> None:
    """Let connections be opened again. Does nothing to a listener without a filter."""
    bpf.detach(listener, _SO_DETACH_FILTER)


def may_gate(family: int) -> bool:
    """Whether this process may attach the filter to TCP sockets; tried on one that is not in use.

    Args:
        family: AF_INET or AF_INET6.

    Returns:
        False also when there is no descriptor to try with.
    """
    try:
        with socket.socket(family) as trial:
            gate(trial)
    except OSError:
        return False
    return True


class SynGate:
    """The gates of a TCP listener's sockets, by slot.

    Args:
        group: The sockets.
        diag: Tells the handshakes under way.
        clock: Where the time comes from.
    """

    def __init__(self, group: Group, diag: Diag, clock: Clock = SYSTEM) -> None:
        self._group = group
        self._diag = diag
        self._clock = clock
        self._promised: dict[int, frozenset[Handshake] | None] = {}
        self._cookies_before = diag.cookies()
        self._cookies: Cookies | None = None
        self._closed_at = self._quiet_since = 0.0

    def prepare(self) -> None:
        """Make what `close` may need, while there are descriptors. For sockets that are ours."""
        self._group.prepare(tarpit=not may_gate(self._group.any.family))

    def __contains__(self, slot: int) -> bool:
        """Whether the socket of a slot is behind a closed gate."""
        return slot in self._promised

    def close(self, slots: Collection[int]) -> None:
        """Let no more SYNs reach the sockets of these slots.

        TCP_DEFER_ACCEPT goes to 0 with it: a client that would be accepted only once it speaks has a promise too.

        Raises:
            OSError: The kernel refused. New connections come as before.
        """
        sockets = [self._group.of(slot) for slot in slots]
        try:
            for sock in sockets:
                gate(sock)
        except PermissionError as error:
            if not self._group.exclude(slots):
                raise OSError(error.errno, "the kernel wants CAP_NET_ADMIN for it") from error
        except OSError:
            for sock in sockets:
                ungate(sock)
            raise
        for sock in sockets:
            defer(sock, 0)
        _wait_for_grace_period()
        self._promised.update(dict.fromkeys(slots))
        self._closed_at = self._quiet_since = self._clock.monotonic()
        self._cookies = self._diag.cookies()
        self.pending(slots)

    def open(self, slots: Collection[int], *, defer_accept: int) -> None:
        """Let handshakes begin again.

        Args:
            slots: Whose.
            defer_accept: What TCP_DEFER_ACCEPT was, in seconds.
        """
        self._group.include(slots)
        for slot in slots:
            sock = self._group.of(slot)
            ungate(sock)
            defer(sock, defer_accept)
            self._promised.pop(slot, None)

    def forget(self, slot: int) -> None:
        """The socket of this slot is closed."""
        self._promised.pop(slot, None)

    def pending(self, slots: Collection[int]) -> bool:
        """Whether handshakes are under way that may still reach the sockets of these slots.

        For a socket without a gate these are all handshakes to its address. True when the kernel does not answer.
        """
        try:
            self._group.follow()
            now = self._diag.half_open(self._group.any)
        except OSError:
            return True
        found = False
        for slot in slots:
            promised = self._promised.get(slot)  # None: no gate, or never seen since it closed
            left = now if promised is None else promised & now
            if slot in self._promised:
                self._promised[slot] = left
            found = found or bool(left)
        return found or self._cookies_pending(slots)

    def _cookies_pending(self, slots: Collection[int]) -> bool:
        """Whether clients may be on their way of whom nothing but a cookie tells."""
        last = self._cookies
        if last is None or last.sent == self._cookies_before.sent or self._promised.keys().isdisjoint(slots):
            return False
        now, found = self._clock.monotonic(), self._diag.cookies()
        if found.received != last.received:
            self._cookies, self._quiet_since = found, now
        return now - self._quiet_since < COOKIES and now - self._closed_at < COOKIES_MOST


def _wait_for_grace_period() -> None:
    """Return when every CPU has finished what it was doing in the kernel's network code at the call.

    Where membarrier(2) is missing or refused, microseconds remain in which a SYN can slip through unseen.
    """
    if _SYS_MEMBARRIER is not None:
        _syscall(_SYS_MEMBARRIER, _MEMBARRIER_CMD_GLOBAL, 0, 0)
