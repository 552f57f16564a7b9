"""Classic BPF on sockets: small programs that the kernel runs by itself, for a packet or for a new connection.

A program is a list of at most 4096 instructions of eight bytes (linux/filter.h), which the kernel checks when it is
attached as a socket option (socket(7)). What is attached to a listener, and why, stands where it is used:
`prefork.net.syn_gate` drops SYNs, `prefork.net.reuseport.steering` chooses who gets a connection.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Final, TypeAlias

from prefork.net.kernelsocket import Socket
from prefork.system.natives import socket

Program: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""Instructions: code, jump if true, jump if false, operand (``struct sock_filter``)."""

# linux/bpf_common.h, linux/filter.h
LOAD_BYTE: Final = 0x30
LOAD_WORD: Final = 0x20
MODULO: Final = 0x94
JUMP_IF_EQUAL: Final = 0x15
JUMP_IF_SET: Final = 0x45
RETURN: Final = 0x06
RETURN_LOADED: Final = 0x16


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


def attach(sock: Socket, option: int, program: Program) -> None:
    """Attach a program, in place of the one that was there.

    Args:
        sock: Whose packets or connections it is about.
        option: The socket option that takes it, by number: the standard library names none of them.
        program: The instructions.

    Raises:
        OSError: The kernel refused it: ENOMEM, or EPERM when that takes a capability or somebody locked what is there
            (SO_LOCK_FILTER).
    """
    instructions = (_Instruction * len(program))(*(_Instruction(*step) for step in program))
    head = _Head(len(program), instructions)
    sock.setsockopt(socket.SOL_SOCKET, option, bytes(head))


def detach(sock: Socket, option: int) -> None:
    """Take away what was attached; where nothing is, nothing happens.

    Raises:
        OSError: It is locked.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
