"""A system call that fails on demand: a seccomp filter (seccomp(2)) for the process that asks for it, to its end."""

from __future__ import annotations

import ctypes
import platform
import struct
from typing import Final

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS: Final = {
    "x86_64": {
        "accept4": 288,
        "fcntl": 72,
        "flock": 73,
        "ioctl": 16,
        "membarrier": 324,
        "prctl": 157,
        "setsockopt": 54,
        "socket": 41,
    },
    "aarch64": {
        "accept4": 242,
        "fcntl": 25,
        "flock": 32,
        "ioctl": 29,
        "membarrier": 283,
        "prctl": 167,
        "setsockopt": 208,
        "socket": 198,
    },
}
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_RET_ERRNO: Final = 0x00050000
_RET_ALLOW: Final = 0x7FFF0000
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data


def deny(name: str, number: int, *, argument: int | None = None, equal: int | None = None) -> None:
    """Make one system call fail from now on.

    Args:
        name: Of the call.
        number: The errno it fails with.
        argument: Which of its arguments decides, from 0; None: it fails always.
        equal: It fails when that argument's lower half is this; None: when the argument is not zero (no null pointer).
    """
    machine = platform.machine()
    fail = (0x06, 0, 0, _RET_ERRNO | number)
    allow = (0x06, 0, 0, _RET_ALLOW)
    program = [
        (0x20, 0, 0, _ARCH),
        (0x15, 1, 0, _AUDIT_ARCH[machine]),
        allow,
        (0x20, 0, 0, _NR),
        (0x15, 1, 0, _NUMBERS[machine][name]),
        allow,
    ]
    if argument is None:
        program += [fail]
    elif equal is not None:
        program += [(0x20, 0, 0, _ARGS + 8 * argument), (0x15, 0, 1, equal), fail, allow]
    else:
        for half in (0, 4):
            program += [(0x20, 0, 0, _ARGS + 8 * argument + half), (0x15, 1, 0, 0), fail]
        program += [allow]
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, head, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")
