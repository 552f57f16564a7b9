"""A listener: one address, what listens on it, and how it ends without losing anybody.

How it ends::

    gate()       no new handshake begins; those under way go on
    empty()      true once nothing waits, and no handshake that was under way when the gate closed still is
    shutdown()   only then, and only if it is ours: accept fails with EINVAL in every process, the port is free

What a gate is depends on the family. TCP drops SYNs, and clients try again by themselves (tcp(7), tcp_syn_retries). A
unix path is removed, for good: `ungate` can't bring it back; whoever has connected before is still served. An
abstract name can't be gated: who connects between the last look and the close is reset.

A listener that outlives us (fd://, systemd:) is not *owned*: it is not gated, not shut down, not removed, because
whoever listens after us serves what waits there. One that nobody but us has open any more does not outlive us:
`inherit` makes it ours, for the end. It is gated and drained like any other, and opened again before it is closed: what
we know of others may be wrong (`prefork.net.sharing`), and a gate would stay.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from prefork.config.address import Address, parse
from prefork.errors import ListenError
from prefork.net import binding, sharing
from prefork.net.kernelsocket import KernelSocket
from prefork.net.options import SocketOptions, warn
from prefork.net.queue import Depth, Diag, tcp_depth
from prefork.net.reuseport.group import SHARED, Group
from prefork.net.reuseport.steering import Mode
from prefork.net.snapshot import Snapshot
from prefork.net.syn_gate import SynGate
from prefork.net.unixpath import Claim, FileId
from prefork.system.natives import os, socket
from prefork.system.peer import format_peer
from prefork.system.record import changed

__all__ = ["Listener", "Snapshot"]

_log: Final = logging.getLogger("prefork")

_DEFAULTS: Final = SocketOptions()
_BACKLOG: Final = 2048


class Listener:
    """MASTER opens it before the first fork and ends it; a WORKER has it by fork, and closes what is not its own.

    Made by `open`, `adopt` or `restore`; several at once by `prefork.net.listeners`. All descriptors are close-on-exec.

    Attributes:
        address: The address as it was asked for.
        name: The address to tell people, with the port that the kernel chose.
        owned: Whether it is ours to gate and to end.
        gated: Whether new connections have been stopped.
        ended: Whether it has been shut down.
    """

    def __init__(
        self,
        address: Address,
        group: Group,
        diag: Diag,
        *,
        owned: bool,
        backlog: int = _BACKLOG,
        options: SocketOptions = _DEFAULTS,
        claim: Claim | None = None,
    ) -> None:
        self.address = address
        self.owned = owned
        self.gated = False
        self.ended = False
        self.name = str(address) if address.kind in {"unix", "abstract"} else _name(group.any.standard_socket())
        self._group = group
        self._diag = diag
        self._backlog = backlog
        self._options = options
        self._tcp = _is_tcp(group.any)
        self._claim = claim
        self._pid = os.getpid()
        self._gate = SynGate(group, diag)
        self._borrowed = False
        self._blocking = True
        self._silent = False  # bound, and not listening yet
        if self._tcp and owned:
            self._gate.prepare()
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {len(self.sockets)} sockets>"

    # Making one.

    @classmethod
    def open(
        cls,
        address: Address,
        *,
        backlog: int = _BACKLOG,
        reuse_port: bool = False,
        members: int = 1,
        mode: Mode = "hash",
        options: SocketOptions = _DEFAULTS,
        listen: bool = True,
    ) -> Listener:
        """Listen on an address.

        Args:
            address: Any kind but "systemd", which may stand for several listeners: see `prefork.net.listeners`.
            backlog: The length of each accept queue, in connections (listen(2)).
            reuse_port: Whether to make a group. Only TCP knows groups; elsewhere it has no effect.
            members: How many members a group starts with, one for each slot.
            mode: How a group that is ours alone spreads connections over its members.
            options: Socket options, and mode and owner of a unix path.
            listen: False leaves TCP sockets bound, and silent, until `listen`.

        Raises:
            ListenError: It can't be done; one line with the remedy.
            ValueError: The address is of kind "systemd".
        """
        if address.kind == "systemd":
            raise ValueError(f"{address} may stand for several listeners; listeners.listen() takes it")
        if address.kind == "fd":
            return cls.adopt(address.fd, address=address)
        several = reuse_port and address.kind in {"inet", "inet6"}
        sockets, file_id = binding.bind(
            address,
            count=members if several else 1,
            backlog=backlog,
            options=options,
            reuse_port=several,
            listen=listen,
        )
        diag = Diag()
        group = Group(dict(enumerate(sockets)), diag, several=several, mode=mode)
        claim = None if file_id is None else Claim(address.file, file_id)
        listener = cls(address, group, diag, owned=True, backlog=backlog, options=options, claim=claim)
        listener._silent = listener._tcp and not listen
        warn(backlog, options, tcp=listener._tcp)
        if not group.settle():
            _log.warning("reuse_port_mode %s has no effect on %s beside another server", mode, listener.name)
        return listener

    def listen(self) -> None:
        """Begin to listen, after `open` with ``listen=False``. On a socket that listens it does nothing.

        Raises:
            ListenError: Another socket listens on the address, outside of a group that we could join.
        """
        try:
            for sock in self._group.sockets:
                sock.listen(self._backlog)
        except OSError as error:
            raise ListenError(f"bind: {self.name}: {error.strerror}; stop what listens there") from error
        self._silent = False
        self._group.settle()

    @classmethod
    def adopt(cls, fd: int, *, address: Address | None = None) -> Listener:
        """Listen on a socket that this process inherited, and that outlives it.

        Args:
            fd: The descriptor; it becomes ours to close, not to end.
            address: What the user asked for, for messages; ``fd://N`` when left out.

        Raises:
            ListenError: It is not open, not a socket, or does not listen.
        """
        asked = address if address is not None else Address("fd", fd=fd)
        sock = binding.adopt(asked, fd)
        diag = Diag()
        return cls(asked, Group({SHARED: sock}, diag), diag, owned=False)

    @classmethod
    def restore(
        cls, snapshot: Snapshot, *, folder: str = "", backlog: int = _BACKLOG, options: SocketOptions = _DEFAULTS
    ) -> Listener:
        """Go on with a listener of the image that was here before exec(2), or of a master that was killed.

        A gate that it had closed is open again, and its steering is forgotten.

        Args:
            snapshot: What `snapshot` said there; its descriptors came through the exec.
            folder: Where a relative path begins.
            backlog: For members that are added later.
            options: For members that are added later; ``defer_accept`` for all.

        Raises:
            ListenError: A descriptor of the snapshot does not listen.
        """
        address = changed(parse(snapshot.address), folder=folder)
        sockets: dict[int, KernelSocket] = {}
        try:
            for slot, fd in snapshot.members:
                sockets[slot] = binding.adopt(address, fd)
        except ListenError:
            for sock in sockets.values():
                sock.close()
            raise
        diag = Diag()
        group = Group(sockets, diag, several=snapshot.reuse_port, mode=snapshot.mode, order=snapshot.order)
        claim = None if snapshot.file_id is None else Claim(address.file, FileId(*snapshot.file_id))
        listener = cls(address, group, diag, owned=snapshot.owned, backlog=backlog, options=options, claim=claim)
        if snapshot.owned and listener._tcp:
            group.inherit()
            listener.ungate()
        return listener

    def snapshot(self) -> Snapshot:
        """What `restore` needs to go on with this listener."""
        group = self._group
        return Snapshot(
            address=str(self.address),
            members=tuple((slot, group.of(slot).fileno()) for slot in group.slots),
            order=group.order,
            owned=self.owned,
            reuse_port=group.several,
            mode=group.mode,
            file_id=None if self._claim is None else self._claim.file_id,
        )

    # What is there.

    @property
    def sockets(self) -> list[socket.socket]:
        """All that this process holds, in the order of their slots; standard sockets, as `socket_for` gives."""
        return [sock.standard_socket() for sock in self._group.sockets]

    @property
    def lost(self) -> bool:
        """Whether a socket of it does not listen any more, and not by our doing (SO_ACCEPTCONN, socket(7))."""
        return not self.ended and not all(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in self._group.sockets
        )

    @property
    def reuse_port(self) -> bool:
        """Whether it is a group with a member for each slot."""
        return self._group.several

    @property
    def slots(self) -> list[int]:
        """The slots that have a member of the group; ``[0]`` when one socket serves all."""
        return self._group.slots

    @property
    def limit(self) -> int:
        """How many connections its accept queues hold together, as the kernel cut it; 0 if unknown."""
        return sum(self._depth(sock).limit for sock in self._group.sockets)

    def socket_for(self, slot: int) -> socket.socket:
        """What the worker of a slot accepts on: a standard socket on the descriptor of ours.

        Raises:
            KeyError: The group has no member for it: `grow` makes one.
        """
        return self._group.of(slot).standard_socket()

    def waiting(self, slot: int | None = None) -> int:
        """How many connections wait to be accepted.

        Args:
            slot: Whose member to look at; None for all.
        """
        return 0 if self.ended else sum(self._depth(self._group.of(one)).waiting for one in self._slots(slot))

    def empty(self, slot: int | None = None) -> bool:
        """Whether nothing waits and no handshake is under way that could still end here.

        Before the gate has closed this is about the moment only; after it, it stays true. False when the kernel did not
        answer: then nothing is proven. Who blocks in connect(2) because an AF_UNIX queue is full is not seen; room in
        the queue wakes him.

        Args:
            slot: Whose member to look at; None for all.
        """
        if self.waiting(slot):
            return False  # most often, and a hundred times cheaper than the next question
        if self._tcp and not self.ended and self._gate.pending(self._slots(slot)):
            return False
        return self.waiting(slot) == 0  # once more: a handshake may have completed between the two questions

    # How it ends.

    def inherit(self) -> bool:
        """Make a listener that was given to us ours, if nobody else has it open any more. Before `gate`.

        Returns:
            Whether it is owned now.
        """
        if not self.owned and not any(sharing.held_elsewhere(sock) for sock in self._group.sockets):
            first = self._group.any
            if self._tcp:
                seconds = first.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
                self._options = changed(self._options, defer_accept=seconds)
                self._gate.prepare()
            self._blocking = os.get_blocking(first.fileno())
            self.owned = self._borrowed = True
        return self.owned

    def gate(self, slot: int | None = None) -> bool:
        """Stop new connections, and no others.

        TCP_DEFER_ACCEPT goes to 0 with it: who waits to be accepted until he speaks would be reset in the end.

        Args:
            slot: The one member to gate, which then can be drained and closed with `close_member`; None for all.

        Returns:
            Whether it holds: not for what we don't own, not for an abstract name, and not if the kernel refuses.
        """
        if not self.owned:
            return False
        if not self._tcp:
            if self._claim is not None:
                self._claim.release()
                self.gated = not self._claim.held
            return self.gated
        try:
            self._gate.close(self._slots(slot))
        except OSError as error:
            _log.warning("can't stop new connections to %s: %s", self.name, error)
            return False
        if slot is None:
            self.gated = True
            if not self._group.excluding:
                self._group.detach()  # a program that goes on steering to gated members would starve a successor
        return True

    def ungate(self, slot: int | None = None) -> bool:
        """Let new connections come again. A unix path that was removed does not come back.

        Args:
            slot: The one member; None for all.

        Returns:
            Whether new connections come.
        """
        if not self._tcp or not self.owned:
            return not self.gated
        self._gate.open(self._slots(slot), defer_accept=self._options.defer_accept)
        if slot is None:
            self.gated = False
            self._group.settle()
        return True

    def nonblocking(self, on: bool = True) -> None:
        """Set O_NONBLOCK, in every process that shares the sockets (open(2)).

        Args:
            on: False makes them block again.
        """
        for sock in self._group.sockets:
            os.set_blocking(sock.fileno(), not on)

    def shutdown(self) -> bool:
        """End the listener in every process, and free its port, if that costs nobody.

        Returns:
            Whether it was done: it is ours and was not given to us, the gate has closed, and it is empty.
        """
        if self._borrowed or not (self.owned and self.gated and self.empty()):
            return False
        if not self.ended:
            self.ended = True
            self._group.end()
        return True

    def unlink(self) -> bool:
        """Remove the unix path, while it is still the file that we made. Elsewhere than in the master it does nothing.

        Returns:
            Whether a file of ours was removed.
        """
        return self._claim is not None and self._claim.release()

    def close(self) -> None:
        """Close what this process holds; in the MASTER also remove the path and the program that steers. Idempotent.

        What still waits is reset when the last process has closed.
        """
        if self._closed:
            return
        self._closed = True
        ours = os.getpid() == self._pid
        if ours and self._borrowed:
            self.nonblocking(not self._blocking)
            self.ungate()
        self._diag.close()  # now: at the limit of descriptors its own are what the way to the path needs
        if ours:
            self.unlink()
            self._group.withdraw()
        self._group.close()

    @property
    def helpers(self) -> list[int]:
        """Descriptors that are the master's alone, for a WORKER to close: the window on queues, what the gate needs."""
        return [*self._diag.descriptors, *self._group.helpers]

    def keep(self, slot: int) -> None:
        """WORKER. Close the other slots' members of the group; a shared socket stays."""
        self._group.keep(slot)

    # The group.

    def grow(self, members: int) -> None:
        """Give each slot below ``members`` its socket. Does nothing for a shared socket.

        A new member gets connections at once, if the others do: start its worker soon.

        Args:
            members: How many slots are to have one.

        Raises:
            ListenError: A socket can't be made; then none is: nobody would serve what the kernel gives it.
        """
        if not self.reuse_port:
            return
        missing = [slot for slot in range(members) if slot not in self._group.slots]
        made, _ = binding.bind(
            self.address,
            count=len(missing),
            backlog=self._backlog,
            options=self._options,
            reuse_port=True,
            beside=self._group.any,
            listen=False,
        )
        blocking = os.get_blocking(self._group.any.fileno())
        for slot, sock in zip(missing, made, strict=True):
            os.set_blocking(sock.fileno(), blocking)
            if not self._silent:
                sock.listen(self._backlog)
            self._group.add(slot, sock)

    def close_member(self, slot: int) -> bool:
        """Take the member of a slot out of the group.

        Nobody is lost if it was gated and is empty. Then it leaves the group now, for every process. Else it leaves
        with its last descriptor, which resets what waits there, and the group can't be steered any more.

        Args:
            slot: Whose; the group must have another.

        Returns:
            Whether it was gated and empty.

        Raises:
            ValueError: It is the only one left, or the socket of all.
        """
        if not self.reuse_port or len(self.slots) == 1:
            raise ValueError(f"{self.name} has no second socket to go on with")
        proven = slot in self._gate and self.empty(slot)
        self._gate.forget(slot)
        self._group.remove(slot, end=proven)
        return proven

    def steer(self, slots: Collection[int]) -> bool:
        """Give new connections to the members of these slots alone.

        Args:
            slots: Who takes part; ``range(k)`` for the first k.

        Returns:
            Whether it holds. It does in a group that is ours alone; beside another server it never will, and a slot
            that goes is to be gated instead.
        """
        return self.reuse_port and self._group.steer(slots)

    def unsteer(self) -> bool:
        """Give new connections to all members again, in the mode asked for.

        Returns:
            Whether that mode holds.
        """
        return self._group.unsteer()

    # Facts.

    def _slots(self, slot: int | None) -> list[int]:
        return self._group.slots if slot is None or not self.reuse_port else [slot]

    def _depth(self, sock: KernelSocket) -> Depth:
        return tcp_depth(sock) if self._tcp else self._diag.unix_depth(sock)


def _is_tcp(sock: KernelSocket) -> bool:
    return sock.family in {socket.AF_INET, socket.AF_INET6}


def _name(sock: socket.socket) -> str:
    name = format_peer(sock.getsockname())
    return name.replace("unix:", "seqpacket:", 1) if sock.type == socket.SOCK_SEQPACKET else name
