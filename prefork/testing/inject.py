"""The launcher of a server whose system calls can be made to fail. `prefork.testing.faults` runs it.

It installs a seccomp filter that asks the test about chosen system calls (seccomp_unotify(2)), hands the test the
descriptor to answer on, and becomes the server. Every process that the server forks or becomes is under the filter
too.

It is run as a file by an interpreter that imports neither site nor prefork, so that it starts in no time and the
server's own start is as it would be without it: nothing here may import more than the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Final, NamedTuple

_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 1 << 3
_WAIT_KILLABLE_RECV: Final = 1 << 5  # Linux 5.19
_RET_ALLOW: Final = 0x7FFF0000
_RET_USER_NOTIF: Final = 0x7FC00000

# Instructions of classic BPF (linux/bpf_common.h) and offsets in struct seccomp_data.
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_BITS: Final = 0x45
_RETURN: Final = 0x06
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FIRST_ARGUMENT: Final = 16  # the low half of each: both machines below are little endian
_SECOND_ARGUMENT: Final = 24
_FOURTH_ARGUMENT: Final = 40

_CLONE_VM: Final = 0x100  # set for threads and vfork, not for fork
_F_DUPFD: Final = 0
_F_DUPFD_CLOEXEC: Final = 1030
_EPOLL_CTL_ADD: Final = 1
_MAP_SHARED: Final = 1


class Machine(NamedTuple):
    """What differs from machine to machine.

    Args:
        audit: Its AUDIT_ARCH number.
        seccomp: The number of seccomp(2).
        calls: For each name that a test knows, the numbers of the system calls that it stands for.
        clone: The number of clone(2), which is a fork only without CLONE_VM.
        fcntl: The number of fcntl(2), which is a dup only with F_DUPFD or F_DUPFD_CLOEXEC.
        epoll_ctl: The number of epoll_ctl(2), which adds only with EPOLL_CTL_ADD; no other fails for want of something.
        mmap: The number of mmap(2), which is asked about only with MAP_SHARED: no program starts without the other.
    """

    audit: int
    seccomp: int
    calls: dict[str, tuple[int, ...]]
    clone: int
    fcntl: int
    epoll_ctl: int
    mmap: int


MACHINES: Final = {
    "x86_64": Machine(
        audit=0xC000003E,
        seccomp=317,
        clone=56,
        fcntl=72,
        epoll_ctl=233,
        mmap=9,
        calls={
            "accept": (43, 288),  # accept, accept4
            "fork": (56, 57),  # clone, fork
            "execve": (59,),
            "pidfd_open": (434,),
            "pipe": (22, 293),  # pipe, pipe2
            "open": (2, 257),  # open, openat
            "socket": (41,),
            "socketpair": (53,),
            "dup": (32, 33, 292, 72),  # dup, dup2, dup3, fcntl
            "epoll_create": (213, 291),  # epoll_create, epoll_create1
            "epoll_add": (233,),  # epoll_ctl
            "eventfd": (284, 290),  # eventfd, eventfd2
            "memfd_create": (319,),
            "ftruncate": (77,),
            "mmap": (9,),
            "timerfd_create": (283,),
            "prlimit": (97, 160, 302),  # getrlimit, setrlimit, prlimit64
            "sched_getaffinity": (204,),
        },
    ),
    "aarch64": Machine(
        audit=0xC00000B7,
        seccomp=277,
        clone=220,
        fcntl=25,
        epoll_ctl=21,
        mmap=222,
        calls={
            "accept": (202, 242),
            "fork": (220,),
            "execve": (221,),
            "pidfd_open": (434,),
            "pipe": (59,),
            "open": (56,),
            "socket": (198,),
            "socketpair": (199,),
            "dup": (23, 24, 25),
            "epoll_create": (20,),
            "epoll_add": (21,),
            "eventfd": (19,),
            "memfd_create": (279,),
            "ftruncate": (46,),
            "mmap": (222,),
            "timerfd_create": (85,),
            "prlimit": (163, 164, 261),
            "sched_getaffinity": (123,),
        },
    ),
}


class _SockFprog(ctypes.Structure):
    """Struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def build_filter(machine: Machine, names: Iterable[str]) -> bytes:
    """The BPF program that asks about the named calls and lets all others through.

    Args:
        machine: Where it will run.
        names: Keys of ``machine.calls``.

    Returns:
        Its instructions, each a struct sock_filter.
    """

    def instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, operand)

    ask = instruction(_RETURN, _RET_USER_NOTIF)
    allow = instruction(_RETURN, _RET_ALLOW)
    when_called = {
        machine.clone: [
            instruction(_LOAD, _FIRST_ARGUMENT),
            instruction(_JUMP_BITS, _CLONE_VM, if_false=1),
            allow,
            ask,
        ],
        machine.fcntl: [
            instruction(_LOAD, _SECOND_ARGUMENT),
            instruction(_JUMP_EQUAL, _F_DUPFD, if_true=2),
            instruction(_JUMP_EQUAL, _F_DUPFD_CLOEXEC, if_true=1),
            allow,
            ask,
        ],
        machine.epoll_ctl: [
            instruction(_LOAD, _SECOND_ARGUMENT),
            instruction(_JUMP_EQUAL, _EPOLL_CTL_ADD, if_true=1),
            allow,
            ask,
        ],
        machine.mmap: [
            instruction(_LOAD, _FOURTH_ARGUMENT),
            instruction(_JUMP_BITS, _MAP_SHARED, if_true=1),
            allow,
            ask,
        ],
    }
    program = [
        instruction(_LOAD, _ARCHITECTURE),
        instruction(_JUMP_EQUAL, machine.audit, if_true=1),
        allow,  # a program of the machine's older kind, with numbers of its own
        instruction(_LOAD, _NUMBER),
    ]
    for number in [number for name in names for number in machine.calls[name]]:
        steps = when_called.get(number, [ask])
        program += [instruction(_JUMP_EQUAL, number, if_false=len(steps)), *steps]
    return b"".join([*program, allow])


def install(machine: Machine, names: Iterable[str], *, interruptible: bool = False) -> int:
    """Put this process, and all that it forks or becomes, under the filter.

    Args:
        machine: The one we are on.
        names: Keys of ``machine.calls``.
        interruptible: Let any signal interrupt a call that waits for its answer.

    Returns:
        The descriptor on which calls are answered, close-on-exec.

    Raises:
        OSError: As of seccomp(2): ENOSYS or EINVAL where the kernel can't, EBUSY under a filter that asks already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    instructions = build_filter(machine, names)
    program = _SockFprog(len(instructions) // 8, instructions)
    flags = _NEW_LISTENER | (0 if interruptible else _WAIT_KILLABLE_RECV)
    while True:
        fd = int(libc.syscall(machine.seccomp, _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(program)))
        if fd >= 0:
            return fd
        error = ctypes.get_errno()
        if error == errno.EINVAL and flags & _WAIT_KILLABLE_RECV:
            flags &= ~_WAIT_KILLABLE_RECV  # an older kernel; the test's side copes with interrupted calls
        elif error != errno.EACCES or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(error, os.strerror(error))
        # EACCES: without CAP_SYS_ADMIN no_new_privs must be set first. Not otherwise: the server would inherit it.


def main(arguments: list[str]) -> None:
    """Run ``SOCKET NAME[,NAME...] [interruptible] -- COMMAND...``; comes back only by an exception.

    Args:
        arguments: The number of an inherited unix socket, the calls, and the command to become.
    """
    separator = arguments.index("--")
    command = arguments[separator + 1 :]
    launch(*arguments[:separator])
    os.execvp(command[0], command)


def launch(number: str, names: str, *rest: str) -> None:
    """Put this process under the filter, and hand the test the descriptor.

    Args:
        number: Of an inherited unix socket, which is closed.
        names: The calls, with commas between.
        *rest: "interruptible", or nothing.

    Raises:
        OSError: As `install` does.
    """
    # Once the filter stands, any call may wait for the test, which must have the descriptor by then: until it is
    # sent, nothing that opens, imports or makes a socket.
    with socket.socket(fileno=int(number)) as channel:
        fd = install(MACHINES[os.uname().machine], names.split(","), interruptible="interruptible" in rest)
        channel.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))])
    os.close(fd)


if __name__ == "__main__":
    main(sys.argv[1:])
