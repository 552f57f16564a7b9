"""As much of the kernel's small machine for classic BPF as prefork's programs use."""

from __future__ import annotations

from prefork.net.bpf import Program


def run(program: Program, load: dict[int, int]) -> int:
    """What a program returns when a load from an offset gives ``load[offset]``: as much of the machine as is used."""
    accumulator = at = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        match code:
            case 0x20 | 0x30:
                accumulator = load[k]
            case 0x94:
                accumulator %= k
            case 0x15:
                at += jt if accumulator == k else jf
            case 0x45:
                at += jt if accumulator & k else jf
            case 0x06:
                return k
            case 0x16:
                return accumulator
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")
