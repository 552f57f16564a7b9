"""Peers that are named by address or network: the kind of such a setting, and the question that it answers. Pure.

`ipaddress` is imported where somebody has named one: it is dearer than all else that a start imports for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from prefork.config import kinds
from prefork.config.kinds import Kind

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    Network = IPv4Network | IPv6Network

DEFAULT_ALLOWED: Final = "127.0.0.1,::1"
"""Who is trusted where nobody has said anything."""

PRIVATE: Final = "private"
"""The word that stands for every address that is not of the internet, this machine's own included."""

_PRIVATE_NETWORKS: Final = (
    "127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 169.254.0.0/16 100.64.0.0/10 ::1 fc00::/7 fe80::/10"
)

_MAPPED_BITS: Final = 96  # of ::ffff:0:0/96 (RFC 4291, 2.5.5.2)


def networks() -> Kind[str]:
    """Addresses and networks with commas between them, "private", or "*" for everybody."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise kinds.refusal(value, 'is not a list of addresses; give some with commas between them, or "*"')
        if value == DEFAULT_ALLOWED:
            return value
        try:
            parse_networks(value)
        except ValueError as error:
            raise kinds.refusal(
                value, f'holds {error}; give addresses or networks with commas, private, or "*"'
            ) from None
        return value

    return Kind("ADDRESSES", str.strip, check)


def parse_networks(text: str) -> tuple[Network, ...] | None:
    """Read the value of such a setting.

    Returns:
        The networks that are trusted; None when everybody is ("*").

    Raises:
        ValueError: A part is neither address nor network; the message is a noun phrase that shows it.
    """
    from ipaddress import ip_network

    found: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part == "*":
            return None
        if part.lower() == PRIVATE:
            found += map(ip_network, _PRIVATE_NETWORKS.split())
            continue
        try:
            found.append(_as_ipv4(ip_network(part)))
        except ValueError:
            raise ValueError(f"{part!r}, which is no address and no network") from None
    return tuple(found)


def _as_ipv4(network: Network) -> Network:
    """Peers of IPv4 as the kernel names them to a socket for both (`address_of`) are what they are without."""
    from ipaddress import ip_network

    mapped = getattr(network.network_address, "ipv4_mapped", None)
    bits = network.prefixlen - _MAPPED_BITS
    return network if mapped is None or bits < 0 else ip_network((int(mapped), bits))


@functools.lru_cache(maxsize=16)
def truster(text: str) -> Callable[[str], bool]:
    """The question whether an address is that of a trusted peer, from the value of such a setting.

    What is asked is an address as the kernel's or `ipaddress` writes it.
    """
    found = parse_networks(text)
    return _everybody if found is None else _membership(found)


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text is; None when it is none, and for one with a zone."""
    from ipaddress import ip_address

    if "%" in text:
        return None  # a zone says something to one machine alone (RFC 4007, 11.2), and may be any text
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A socket that takes IPv6 and IPv4 shows an IPv4 peer as ::ffff:a.b.c.d (ipv6(7)).
    return getattr(address, "ipv4_mapped", None) or address


def _everybody(host: str) -> bool:  # noqa: ARG001  # as any other that is asked
    return True


def _membership(networks: Iterable[Network]) -> Callable[[str], bool]:
    """The question whether an address is in one of several networks."""
    networks = tuple(networks)
    alone = frozenset(str(network.network_address) for network in networks if network.num_addresses == 1)
    wide = [network for network in networks if network.num_addresses > 1]

    @functools.lru_cache(maxsize=1024)
    def holds(host: str) -> bool:
        if host in alone:
            return True
        if not wide and not host.startswith("::ffff:"):
            return False
        address = address_of(host.partition("%")[0])  # the kernel names a link-local peer's interface too
        return address is not None and (str(address) in alone or any(address in network for network in wide))

    return holds
