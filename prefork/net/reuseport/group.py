"""The sockets of one listener: one that all workers share, or a SO_REUSEPORT group. The package tells the theory."""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import Final

from prefork.net.kernelsocket import KernelSocket
from prefork.net.queue import Diag
from prefork.net.reuseport import steering
from prefork.net.reuseport.order import OrderFinder
from prefork.net.reuseport.steering import Mode
from prefork.net.reuseport.tarpit import Tarpit, bar
from prefork.system.natives import os, socket

SHARED: Final = 0
"""The slot under which the one socket of a shared listener is kept."""


class Group:
    """Sockets by slot, and which of them get new connections.

    Args:
        sockets: The listening sockets by slot, in the order in which they began to listen.
        several: Whether each slot has its own; else there is one, at `SHARED`.
        mode: How connections are spread while nobody steers. Only in a group that is ours alone.
        diag: Tells who else is in the group.
        order: The slots by their index in the group, when that is not the order of ``sockets``; None for unknown.
    """

    def __init__(
        self,
        sockets: dict[int, KernelSocket],
        diag: Diag,
        *,
        several: bool = False,
        mode: Mode = "hash",
        order: Collection[int] | None = (),
    ) -> None:
        self.several = several
        self.mode: Mode = mode
        self._sockets = sockets
        for sock in sockets.values():
            sock.standard_socket()  # what workers get: made here, so that no fork pays for it
        self._diag = diag
        self._order = None if order is None else list(order or sockets)
        self._steered: frozenset[int] | None = None
        self._excluded: set[int] = set()
        self._attached = False
        self._finder: OrderFinder | None = None
        self._tarpit: Tarpit | None = None
        self._tarpit_joined = False
        self._ended = False
        self._there: frozenset[int] = frozenset()

    def prepare(self, *, tarpit: bool) -> None:
        """Make what `exclude` may need, while there are descriptors. For TCP sockets that are ours.

        Args:
            tarpit: Whether it may come to excluding all members.
        """
        family = self.any.family
        try:
            if self.several:
                self._finder = OrderFinder(family)
            if tarpit:
                self._tarpit = Tarpit(family)
        except OSError:
            pass  # it is tried again when it is needed

    def inherit(self) -> None:
        """Take what is attached for ours: it is of the process that had these sockets before."""
        if self.several:
            self._attached = True
            self.settle()

    @property
    def order(self) -> tuple[int, ...] | None:
        """The slots by their index in the group; None when that is not known any more."""
        return None if self._order is None else tuple(self._order)

    @property
    def slots(self) -> list[int]:
        """The slots that have a socket of their own, in their order; `SHARED` alone when there is one for all."""
        return sorted(self._sockets)

    @property
    def sockets(self) -> list[KernelSocket]:
        """All sockets, in the order of their slots."""
        return [self._sockets[slot] for slot in self.slots]

    @property
    def excluding(self) -> bool:
        """Whether some slots are kept from new connections."""
        return bool(self._excluded)

    @property
    def any(self) -> KernelSocket:
        """One of them, where it does not matter which."""
        return next(iter(self._sockets.values()))

    def of(self, slot: int) -> KernelSocket:
        """The socket that the worker of a slot accepts on.

        Raises:
            KeyError: The slot has none: it was removed, or never added.
        """
        return self._sockets[slot if self.several else SHARED]

    def add(self, slot: int, sock: KernelSocket) -> None:
        """Take in a member that has just begun to listen."""
        self._sockets[slot] = sock
        sock.standard_socket()
        if self._order is not None:
            self._order.append(slot)
        self.settle()

    def remove(self, slot: int, *, end: bool) -> None:
        """Close a member here.

        Args:
            slot: Whose.
            end: Whether to shut it down, so that it leaves the group now, for every process, and what waits there is
                reset. If not, it leaves with its last descriptor, nobody knows when.
        """
        sock = self._sockets.pop(slot)
        if end:
            self._shut_down(slot, sock)
        sock.close()
        if self._order is not None and end:
            last = self._order.pop()
            if last != slot:
                self._order[self._order.index(slot)] = last
        else:
            self._order = None
        if self._steered is not None:
            self._steered -= {slot}
        self._excluded.discard(slot)
        self.settle()

    def end(self) -> None:
        """Shut all of them down, in every process; what waits there is reset. The address is free then."""
        if self._excluded:
            for sock in self._sockets.values():
                bar(sock)  # in the moment between the first and the last, the hash may choose one of them
        self.detach()
        for slot, sock in self._sockets.items():
            self._shut_down(slot, sock)
        self._dismiss()
        self._ended = True

    def alone(self) -> bool:
        """Whether no other process listens on the address of this group; False when that can't be told."""
        try:
            self._there = self._diag.group(self.any)
        except OSError:
            return False
        alone = self._there <= self._inodes()
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

    def exclude(self, slots: Collection[int]) -> bool:
        """Give no new connections to these slots, by whatever other member there is, or by a tarpit. For TCP alone.

        Returns:
            Whether that holds now. If not, nothing has changed.
        """
        before = set(self._excluded)
        self._excluded |= set(slots)
        if self.settle():
            return True
        self._excluded = before
        self.settle()
        return False

    def include(self, slots: Collection[int]) -> None:
        """Take back what `exclude` did for these slots."""
        if self._excluded & set(slots):
            self._excluded -= set(slots)
            self.settle()

    def follow(self) -> None:
        """Settle anew if somebody else has come or gone since, and gets what is kept from the excluded.

        Raises:
            OSError: The kernel did not say who is there.
        """
        if self._excluded and self.several and self._diag.group(self.any) != self._there:
            self.settle()

    def settle(self) -> bool:
        """Attach the program that is wanted, if one is wanted and may be; else take ours away.

        Returns:
            Whether the group spreads connections as it is wanted.
        """
        alone = self.several and self.alone()  # asked even if nothing is wanted: what is seen now is not seen later
        done = False
        try:
            if self._excluded:
                done = self._divert(alone)
            elif self._wanted is not None and alone:
                done = self._attach([n for n, slot in enumerate(self._positions(alone)) if slot in self._wanted])
        except OSError:
            pass  # no answer, or no memory for a program: the hash goes on
        if not done:
            self.detach()
        if not (done and self._excluded):
            self._dismiss()
        return done or (not self._excluded and self._wanted is None)

    def detach(self) -> None:
        """Leave the choice to the kernel's hash. Takes away our own program only."""
        if self._attached:
            steering.unsteer(self.any)
            self._attached = False

    @property
    def helpers(self) -> list[int]:
        """The descriptors of what helps to exclude, which are the master's alone."""
        return [fd for helper in (self._tarpit, self._finder) if helper is not None for fd in helper.descriptors]

    def keep(self, slot: int) -> None:
        """WORKER. Close the other slots' sockets: a copy kept here would hold a closed member in the group."""
        for other in [s for s in self._sockets if self.several and s != slot]:
            self._sockets.pop(other).close()

    def withdraw(self) -> None:
        """Take back all that was done to the kernel's choice."""
        if self._sockets and not self._ended:
            self.detach()
            self._dismiss()

    def close(self) -> None:
        """Close all descriptors. Idempotent."""
        self._close_helpers()
        while self._sockets:
            self._sockets.popitem()[1].close()

    @property
    def _wanted(self) -> frozenset[int] | None:
        """The slots that a program is to choose among; None when the kernel's hash is what is wanted."""
        if not self.several:
            return None
        if self._steered is not None:
            return self._steered
        return None if self.mode == "hash" else frozenset(self._sockets)

    def _divert(self, alone: bool) -> bool:
        """Steer to all members but those that are excluded, or to a tarpit."""
        if self.several and not alone:
            self._dismiss()
        positions = self._positions(alone)
        wanted = self._wanted or frozenset(self._sockets)
        allowed = (wanted - self._excluded) or (self._sockets.keys() - self._excluded)
        indices = [n for n, slot in enumerate(positions) if slot is None or slot in allowed]
        if indices or not positions:
            return self._attach(indices)
        tarpit = self._tarpit or Tarpit(self.any.family)
        self._tarpit = tarpit
        if not self._tarpit_joined:
            self._tarpit_joined = True
            tarpit.join(self.any)
        attached = self._attach([len(positions)])
        tarpit.fill()
        self._there |= {tarpit.inode}
        return attached

    def _positions(self, alone: bool) -> list[int | None]:
        """The slots by their index in the group, None for members of others; empty when it can't be found out.

        Raises:
            OSError: The kernel did not say who is there.
        """
        if not self.several:
            return [SHARED]
        if alone and self._order is not None:
            return list(self._order)
        self._finder = self._finder or OrderFinder(self.any.family)
        tarpits = 1 if self._tarpit_joined else 0
        positions = self._finder.find(self._sockets, len(self._diag.group(self.any)) - tarpits)
        self._attached = False  # the finder has left nothing attached
        if positions is None:
            return []
        if alone:
            self._order = [slot for slot in positions if slot is not None]
        return positions

    def _attach(self, indices: list[int]) -> bool:
        if not 0 < len(indices) <= steering.MEMBERS_MAX:
            return False
        steering.steer(self.any, indices, "cpu" if self.mode == "cpu" else "random")
        self._attached = True
        return True

    def _shut_down(self, slot: int, sock: KernelSocket) -> None:
        if slot in self._excluded:
            bar(sock)
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it does not listen yet, or somebody has shut it down before
                raise

    def _inodes(self) -> set[int]:
        """Those of our own sockets that listen."""
        inodes = {os.fstat(sock.fileno()).st_ino for sock in self._sockets.values()}
        return inodes | {self._tarpit.inode} if self._tarpit_joined and self._tarpit is not None else inodes

    def _dismiss(self) -> None:
        """Let the tarpit leave, if it is in the group."""
        if self._tarpit_joined and self._tarpit is not None:
            self._tarpit.leave()
            self._tarpit = None
            self._tarpit_joined = False

    def _close_helpers(self) -> None:
        for helper in (self._tarpit, self._finder):
            if helper is not None:
                helper.close()
        self._tarpit = self._finder = None
