"""Which members of a SO_REUSEPORT group get new connections: a program that the kernel asks for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from prefork.net import bpf
from prefork.net.bpf import Program
from prefork.net.kernelsocket import Socket

Spread: TypeAlias = Literal["random", "cpu"]
"""By what steering chooses: a random number for each connection, or the CPU that received its SYN."""

Mode: TypeAlias = Literal["hash", "random", "cpu"]
"""How a group spreads connections: by the kernel's hash, at random, or by the CPU that received the SYN."""

MEMBERS_MAX: Final = 2000
"""How many members steering can tell apart: each takes two instructions, of which a program has at most 4096."""

_SO_ATTACH_REUSEPORT_CBPF: Final = 51  # asm-generic/socket.h
_SO_DETACH_REUSEPORT_BPF: Final = 68
_SPREAD: Final[dict[Spread, int]] = {"random": 0xFFFFF038, "cpu": 0xFFFFF024}  # SKF_AD_OFF + SKF_AD_RANDOM, _CPU


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
    choose = ((bpf.LOAD_WORD, 0, 0, _SPREAD[spread]), (bpf.MODULO, 0, 0, len(indices)))
    if list(indices) == list(range(len(indices))):
        return (*choose, (bpf.RETURN_LOADED, 0, 0, 0))
    *cases, last = indices
    table = [
        step for n, index in enumerate(cases) for step in ((bpf.JUMP_IF_EQUAL, 0, 1, n), (bpf.RETURN, 0, 0, index))
    ]
    return (*choose, *table, (bpf.RETURN, 0, 0, last))


def steer(member: Socket, indices: Sequence[int], spread: Spread) -> None:
    """Give the group's new connections to ``indices`` alone, in place of any program it had.

    Args:
        member: Any listening socket of the group.
        indices: Who takes part, by index in the group.
        spread: By what one of them is chosen.

    Raises:
        OSError: The kernel refused the program.
    """
    bpf.attach(member, _SO_ATTACH_REUSEPORT_CBPF, steering(indices, spread))


def unsteer(member: Socket) -> None:
    """Leave the choice to the kernel's hash again. Does nothing to a group without a program."""
    bpf.detach(member, _SO_DETACH_REUSEPORT_BPF)
