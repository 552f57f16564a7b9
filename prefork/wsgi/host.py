"""What may stand in a Host: a host, and perhaps a port (RFC 3986, 3.2.2 and 3.2.3). Pure."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from prefork.system.remembered import Remembered

# A host may not be empty (RFC 9110, 4.2.1), a port may.
_HOST: Final = re.compile(
    r"""(?:\[(?:(?P<ipv6>[0-9A-Fa-f:.]+)|[Vv][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]
    |(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)
    (?::(?P<port>[0-9]*))?""",
    re.VERBOSE,
)
_PORT_DIGITS: Final = 5  # leading zeros aside
_HIGHEST_PORT: Final = 65535


def valid_host(host: str) -> bool:
    """Whether ``host`` is a host with or without a port. Pure."""
    return _VALID[host]


def _valid(host: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    port = (match["port"] or "").lstrip("0")
    if len(port) > _PORT_DIGITS or int(port or 0) > _HIGHEST_PORT:
        return False
    if match["ipv6"] is not None:
        try:
            IPv6Address(match["ipv6"])
        except AddressValueError:
            return False
    return True


_VALID: Final = Remembered(_valid)
