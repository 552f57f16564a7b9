"""The filter of the launcher, for every machine: its program is run here by a small interpreter of classic BPF.

On the machine that the tests run on, test_testing_faults shows the same by the kernel.
"""

from __future__ import annotations

import ast
import inspect
import struct
import sys

import pytest

from prefork.testing import inject
from prefork.testing.faults import NAMES
from prefork.testing.inject import MACHINES, Machine, build_filter

ALLOW, ASK = 0x7FFF0000, 0x7FC00000
F_GETFD, F_DUPFD_CLOEXEC = 1, 1030
EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3
CLONE_VM, SIGCHLD = 0x100, 17

MAP_SHARED, MAP_PRIVATE = 1, 2


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the program returns for a system call (linux/filter.h, struct seccomp_data)."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        match code:
            case 0x20:  # ld [k]
                accumulator = struct.unpack_from("<I", data, operand)[0]
            case 0x15:  # jeq #k
                at += if_true if accumulator == operand else if_false
            case 0x45:  # jset #k
                at += if_true if accumulator & operand else if_false
            case 0x06:  # ret #k
                return int(operand)
            case _:
                pytest.fail(f"an instruction that the launcher should not use: {code:#x}")


@pytest.fixture(params=MACHINES.values(), ids=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    assert isinstance(request.param, Machine)
    return request.param


def test_only_the_named_calls_are_asked_about(machine: Machine) -> None:
    for name in NAMES:
        program = build_filter(machine, [name])
        second = EPOLL_CTL_ADD if name == "epoll_add" else F_DUPFD_CLOEXEC
        arguments = (SIGCHLD, second, 0, MAP_SHARED)
        asked = {number for number in range(512) if verdict(program, machine.audit, number, *arguments) == ASK}
        assert asked == set(machine.calls[name])


def test_a_watch_that_is_added_is_told_from_one_that_is_changed_or_removed(machine: Machine) -> None:
    program = build_filter(machine, NAMES)
    assert verdict(program, machine.audit, machine.epoll_ctl, 3, EPOLL_CTL_ADD) == ASK
    assert verdict(program, machine.audit, machine.epoll_ctl, 3, EPOLL_CTL_DEL) == ALLOW
    assert verdict(program, machine.audit, machine.epoll_ctl, 3, EPOLL_CTL_MOD) == ALLOW


def test_memory_that_is_shared_is_told_from_a_program_s_own(machine: Machine) -> None:
    program = build_filter(machine, NAMES)
    assert verdict(program, machine.audit, machine.mmap, 0, 4096, 0, MAP_SHARED) == ASK
    assert verdict(program, machine.audit, machine.mmap, 0, 4096, 0, MAP_PRIVATE) == ALLOW


def test_a_fork_is_told_from_a_thread_and_a_dup_from_other_fcntls(machine: Machine) -> None:
    program = build_filter(machine, NAMES)
    assert verdict(program, machine.audit, machine.clone, SIGCHLD) == ASK
    assert verdict(program, machine.audit, machine.clone, SIGCHLD | CLONE_VM) == ALLOW
    assert verdict(program, machine.audit, machine.fcntl, 3, 0) == ASK
    assert verdict(program, machine.audit, machine.fcntl, 3, F_DUPFD_CLOEXEC) == ASK
    assert verdict(program, machine.audit, machine.fcntl, 3, F_GETFD) == ALLOW


def test_calls_of_another_architecture_are_let_through(machine: Machine) -> None:
    program = build_filter(machine, NAMES)
    for number in range(512):
        assert verdict(program, machine.audit ^ 1, number) == ALLOW


def test_every_machine_knows_the_same_names(machine: Machine) -> None:
    assert tuple(sorted(machine.calls)) == NAMES
    assert machine.clone in machine.calls["fork"]
    assert machine.fcntl in machine.calls["dup"]


def test_the_launcher_imports_the_standard_library_alone() -> None:
    for node in ast.walk(ast.parse(inspect.getsource(inject))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.partition(".")[0] in sys.stdlib_module_names
