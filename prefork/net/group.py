"""The sockets of one listener: one that all workers share, or a SO_REUSEPORT group with a member for each slot.

In a group the kernel chooses the member when the SYN comes, blind to who is idle, and resets what waits on a member
when its last descriptor is closed. So the master makes all members and keeps them: a worker that dies leaves its
queue to the next worker of its slot.

**Which member has which index.** Steering (`prefork.net.filters`) speaks to members by index: the order in which they
began to listen, except that the last takes the place of one that leaves. That can be followed as long as nobody
else's sockets come and go in the group; once another process was seen there, its order counts as unknown, and it is
steered no more. For the same reason a program is attached only while the group is ours alone: it would steer a second
server's connections to our members, and stay when we are gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection
from typing import Final, Literal, TypeAlias

from prefork.net import filters
from prefork.net.queue import Diag

Mode: TypeAlias = Literal["hash", "random", "cpu"]
"""How a group spreads connections: by the kernel's hash, at random, or by the CPU that received the SYN."""

SHARED: Final = 0
"""The slot under which the one socket of a shared listener is kept."""


class Group:
    """MASTER. Sockets by slot, and which of them get new connections.

    Args:
        sockets: The listening sockets by slot, in the order in which they began to listen.
        several: Whether each slot has its own; else there is one, at `SHARED`.
        mode: How connections are spread while nobody steers. Only in a group that is ours alone.
        diag: Tells who else is in the group.
        order: The slots by their index in the group, when that is not the order of ``sockets``; None for unknown.
    """

    def __init__(
        self,
        sockets: dict[int, socket.socket],
        diag: Diag,
        *,
        several: bool = False,
        mode: Mode = "hash",
        order: Collection[int] | None = (),
    ) -> None:
        self.several = several
        self.mode: Mode = mode
        self._sockets = sockets
        self._diag = diag
        self._order = None if order is None else list(order or sockets)
        self._steered: frozenset[int] | None = None
        self._attached = False

    @property
    def order(self) -> tuple[int, ...] | None:
        """The slots by their index in the group; None when that is not known any more."""
        return None if self._order is None else tuple(self._order)

    @property
    def slots(self) -> list[int]:
        """The slots that have a socket of their own, in their order; `SHARED` alone when there is one for all."""
        return sorted(self._sockets)

    @property
    def sockets(self) -> list[socket.socket]:
        """All sockets, in the order of their slots."""
        return [self._sockets[slot] for slot in self.slots]

    @property
    def any(self) -> socket.socket:
        """One of them, where it does not matter which."""
        return next(iter(self._sockets.values()))

    def of(self, slot: int) -> socket.socket:
        """The socket that the worker of a slot accepts on.

        Raises:
            KeyError: The slot has none: it was removed, or never added.
        """
        return self._sockets[slot if self.several else SHARED]

    def add(self, slot: int, sock: socket.socket) -> None:
        """Take in a member that has just begun to listen."""
        self._sockets[slot] = sock
        if self._order is not None:
            self._order.append(slot)
        self.settle()

    def remove(self, slot: int, *, ended: bool) -> None:
        """Close a member here.

        Args:
            slot: Whose.
            ended: Whether it was shut down, and so has left the group already, for every process. If not, it leaves
                with its last descriptor, nobody knows when.
        """
        self._sockets.pop(slot).close()
        if self._order is not None and ended:
            last = self._order.pop()
            if last != slot:
                self._order[self._order.index(slot)] = last
        else:
            self._order = None
        if self._steered is not None:
            self._steered -= {slot}
        self.settle()

    def alone(self) -> bool:
        """Whether no other process listens on the address of this group; False when that can't be told."""
        try:
            there = self._diag.group(self.any)
        except OSError:
            return False
        alone = there <= {os.fstat(sock.fileno()).st_ino for sock in self._sockets.values()}
        if not alone:
            self._order = None
        return alone

    def steer(self, slots: Collection[int]) -> bool:
        """Give new connections to these slots alone, for as long as the group is ours alone.

        Returns:
            Whether that holds now. If not, the kernel's hash chooses among all members.
        """
        self._steered = frozenset(slots)
        return self.settle()

    def unsteer(self) -> bool:
        """Give new connections to all members again, by the group's mode.

        Returns:
            Whether the mode holds now; False when the kernel's hash does its work instead.
        """
        self._steered = None
        return self.settle()

    def settle(self) -> bool:
        """Attach the program that is wanted, if one is wanted and may be; else detach ours.

        Returns:
            Whether the group spreads connections as it is wanted.
        """
        wanted = self._wanted()
        alone = self.several and self.alone()  # asked even if nothing is wanted: what is seen now is not seen later
        if wanted is not None and alone and self._order is not None:
            indices = [index for index, slot in enumerate(self._order) if slot in wanted]
            if 0 < len(indices) <= filters.MEMBERS_MAX:
                with contextlib.suppress(OSError):  # no memory for it: the hash goes on
                    filters.steer(self.any, indices, "cpu" if self.mode == "cpu" else "random")
                    self._attached = True
                    return True
        self.detach()
        return wanted is None

    def detach(self) -> None:
        """Leave the choice to the kernel's hash. Takes away our own program only."""
        if self._attached:
            filters.unsteer(self.any)
            self._attached = False

    def keep(self, slot: int) -> None:
        """WORKER. Close the other slots' sockets: a copy kept here would hold a closed member in the group."""
        for other in [s for s in self._sockets if self.several and s != slot]:
            self._sockets.pop(other).close()

    def close(self) -> None:
        """Close all sockets. Idempotent."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _wanted(self) -> frozenset[int] | None:
        """The slots that a program is to choose among; None when the kernel's hash is what is wanted."""
        if not self.several:
            return None
        if self._steered is not None:
            return self._steered
        return None if self.mode == "hash" else frozenset(self._sockets)
