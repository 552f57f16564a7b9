"""Classic BPF on listening sockets: the SYN gate, and steering inside a SO_REUSEPORT group.

Both are socket options (socket(7)), and the kernel runs the programs itself. A program is a list of instructions of
eight bytes (linux/filter.h), checked by the kernel when it is attached. Steering needs no privilege. For the gate
recent kernels ask for CAP_NET_ADMIN; who does not have it gets the same by a tarpit (`prefork.net.reuseport.tarpit`).

**The gate** is attached to a listener (SO_ATTACH_FILTER) and drops segments that carry SYN and nothing else: clients
that come now get no answer and try again by themselves a second later (tcp(7), tcp_syn_retries), while handshakes that
are under way complete, because their ACK has no SYN. What is accepted afterwards inherits the filter, where it does
no harm: an established connection gets no SYN.

**Steering** is attached to any one member of a SO_REUSEPORT group and holds for all of it (SO_ATTACH_REUSEPORT_CBPF):
for each new connection it returns the index of the member that gets it, in the order in which the members began to
listen. An index that no member has falls back to the kernel's hash.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

from prefork.system.natives import socket

Program: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""Instructions: code, jump if true, jump if false, operand (``struct sock_filter``)."""

Spread: TypeAlias = Literal["random", "cpu"]
"""By what steering chooses: a random number for each connection, or the CPU that received its SYN."""

# asm-generic/socket.h; the standard library names none of them.
_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_SO_DETACH_REUSEPORT_BPF: Final = 68

# linux/bpf_common.h, linux/filter.h
_LD_BYTE_ABS: Final = 0x30
_LD_WORD_ABS: Final = 0x20
_MOD: Final = 0x94
_JEQ: Final = 0x15
_JSET: Final = 0x45
_RET: Final = 0x06
_RET_A: Final = 0x16

_TCP_FLAGS: Final = 13  # offset in the TCP header, where a TCP socket's filter begins to count
_SYN: Final = 0x02
_ALL: Final = 0xFFFFFFFF
_SPREAD: Final[dict[Spread, int]] = {"random": 0xFFFFF038, "cpu": 0xFFFFF024}  # SKF_AD_OFF + SKF_AD_RANDOM, _CPU

MEMBERS_MAX: Final = 2000
"""How many members steering can tell apart: a classic program has at most 4096 instructions (BPF_MAXINSNS)."""

SYN_GATE: Final[Program] = (
    (_LD_BYTE_ABS, 0, 0, _TCP_FLAGS),
    (_JSET, 0, 1, _SYN),
    (_RET, 0, 0, 0),
    (_RET, 0, 0, _ALL),
)
"""Drops every segment with SYN set, passes every other whole."""


def steering(indices: Sequence[int], spread: Spread) -> Program:
    """A program that gives each new connection to one of ``indices``. Pure.

    Args:
        indices: The members that take part, by their index in the group; at least one, at most `MEMBERS_MAX`.
        spread: By what one of them is chosen.

    Raises:
        ValueError: No member, or more than a program can hold.
    """
    if not 0 < len(indices) <= MEMBERS_MAX:
        raise ValueError(f"{len(indices)} members can't be steered to; give 1 to {MEMBERS_MAX}")
    choose = ((_LD_WORD_ABS, 0, 0, _SPREAD[spread]), (_MOD, 0, 0, len(indices)))
    if list(indices) == list(range(len(indices))):
        return (*choose, (_RET_A, 0, 0, 0))
    *cases, last = indices
    table = [step for n, index in enumerate(cases) for step in ((_JEQ, 0, 1, n), (_RET, 0, 0, index))]
    return (*choose, *table, (_RET, 0, 0, last))


def gate(listener: socket.socket) -> None:
    """Drop what tries to open a connection to ``listener`` from now on. MASTER.

    Raises:
        OSError: The kernel refused the filter (ENOMEM, or EPERM when somebody locked it, SO_LOCK_FILTER).
    """
    _attach(listener, _SO_ATTACH_FILTER, SYN_GATE)


def may_gate(sock: socket.socket) -> bool:
    """Whether this process may gate a TCP socket; tried on one that is not in use.

    Recent kernels (6.18.44 among them) ask for CAP_NET_ADMIN; to others everybody may.
    """
    try:
        gate(sock)
    except OSError:
        return False
    ungate(sock)
    return True


def ungate(listener: socket.socket) -> None:
    """Let connections be opened again. MASTER. Does nothing to a listener without a gate."""
    with _nothing_there_is_fine():
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def steer(member: socket.socket, indices: Sequence[int], spread: Spread) -> None:
    """Give the group's new connections to ``indices`` alone, in place of any program it had. MASTER.

    Args:
        member: Any listening socket of the group.
        indices: Who takes part, by index in the group.
        spread: By what one of them is chosen.

    Raises:
        OSError: The kernel refused the program.
    """
    _attach(member, _SO_ATTACH_REUSEPORT_CBPF, steering(indices, spread))


def unsteer(member: socket.socket) -> None:
    """Leave the choice to the kernel's hash again. MASTER. Does nothing to a group without a program."""
    with _nothing_there_is_fine():
        member.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)


class _Instruction(ctypes.Structure):
    """``struct sock_filter``."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Head(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def _attach(sock: socket.socket, option: int, program: Program) -> None:
    instructions = (_Instruction * len(program))(*(_Instruction(*step) for step in program))
    head = _Head(len(program), instructions)
    sock.setsockopt(socket.SOL_SOCKET, option, bytes(head))


@contextlib.contextmanager
def _nothing_there_is_fine() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
