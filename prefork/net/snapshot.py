"""What a listener was, for one that goes on with its sockets."""

from __future__ import annotations

from prefork.net.reuseport.steering import Mode
from prefork.system.record import Record


class Snapshot(Record):
    """What a listener is, for the image of this process that follows after exec(2): plain numbers and text.

    Args:
        address: The address as text, as it was asked for.
        members: Slot and descriptor of each socket.
        order: The slots by their index in the group; None when that is not known.
        owned: Whether it is ours to end.
        reuse_port: Whether it is a group.
        mode: How the group spreads connections.
        file_id: Device and inode of a unix path; None for any other.
    """

    address: str
    members: tuple[tuple[int, int], ...]
    order: tuple[int, ...] | None
    owned: bool
    reuse_port: bool
    mode: Mode
    file_id: tuple[int, int] | None
