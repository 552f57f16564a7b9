"""Several listeners at once: all of them or none, whether they are made, adopted or gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Unpack

from prefork.config.address import Address
from prefork.errors import InUseError, ListenError, OrphansError
from prefork.net import binding
from prefork.net.listener import Listener, Snapshot
from prefork.net.options import ListenOptions, SocketOptions
from prefork.system.natives import time

_MOMENT: Final = 0.1  # seconds until an address that is in use is tried once more
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def listen(
    addresses: Iterable[Address],
    *,
    passed: Mapping[str, tuple[int, ...]] = _NOTHING,
    kept: Mapping[str, Snapshot] = _NOTHING,
    patience: Callable[[OrphansError], bool] | None = None,
    **how: Unpack[ListenOptions],
) -> list[Listener]:
    """Listen on all of these addresses, or on none.

    Args:
        addresses: Of any kind; "systemd" gives one listener for each socket that was passed under its name.
        passed: What the service manager passed, by name (`prefork.system.systemd.listen_fds`).
        kept: What to go on with instead of listening anew, by address.
        patience: Called when an address is held by orphans alone: whether to try again. None gives up at once.
        **how: As for `Listener.open`.

    Returns:
        The listeners, in the order of the addresses.

    Raises:
        ListenError: One of them can't be had; the others are closed again.
    """
    listeners: list[Listener] = []
    # What goes on is bound and has its mode already.
    again = {name: value for name, value in how.items() if name in {"backlog", "options"}}
    try:
        for address, fd in _once(binding.descriptors(addresses, passed)):
            if str(address) in kept:
                listeners.append(Listener.restore(kept[str(address)], **again))  # type: ignore[arg-type]  # two of its
            elif fd is None:
                listeners.append(_opened(address, patience, how))
            else:
                listeners.append(Listener.adopt(fd, address=address))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def check_all(
    addresses: Iterable[Address],
    *,
    passed: Mapping[str, tuple[int, ...]] = _NOTHING,
    options: SocketOptions,
    reuse_port: bool = False,
) -> None:
    """Find out whether `listen` could listen on all of these, but for who has them now. Nothing is left.

    Args:
        addresses: As for `listen`.
        passed: As for `listen`.
        options: As for `Listener.open`.
        reuse_port: As for `Listener.open`.

    Raises:
        ListenError: One of them can't be had.
    """
    for address, fd in _once(binding.descriptors(addresses, passed)):
        if fd is None:
            binding.check(address, options=options, reuse_port=reuse_port)
        else:
            binding.adopt(address, fd).detach()


def _once(found: Iterable[tuple[Address, int | None]]) -> Iterator[tuple[Address, int | None]]:
    """The same, if no descriptor is there twice."""
    seen: set[int] = set()
    for address, fd in found:
        if fd in seen:
            raise ListenError(f"bind: {address}: descriptor {fd} is given twice; leave one of them out")
        if fd is not None:
            seen.add(fd)
        yield address, fd


def _opened(address: Address, patience: Callable[[OrphansError], bool] | None, how: ListenOptions) -> Listener:
    sure = False
    while True:
        try:
            return Listener.open(address, **how)
        except OrphansError as error:
            if patience is None or not patience(error):
                raise
        except InUseError:
            # Who is about to end holds an address at one moment, and is no orphan, or not to be found, at the next.
            if sure:
                raise
            sure = True
            time.sleep(_MOMENT)
