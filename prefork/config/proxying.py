"""The settings of the PROXY protocol: whether connections begin with a header, and who may send one.

A part of the table of `prefork.config.settings.Settings`; see there.
"""

from __future__ import annotations

from typing import Literal

from prefork.config import kinds
from prefork.config.fields import PROXYING, SettingsTable, setting
from prefork.config.networks import DEFAULT_ALLOWED, networks


class Proxying(SettingsTable, kw_only=True):
    """What a proxy says of connections. Not used by itself: `Settings` checks it."""

    proxy_protocol: Literal["off", "v1", "v2", "any"] = setting(
        "off",
        PROXYING,
        kinds.choice("off", "v1", "v2", "any"),
        "Each connection begins with a header of the PROXY protocol, of this version or of any, which says whose it "
        "is; one that doesn't is closed. It is read before TLS.",
    )
    proxy_allow_ips: str = setting(
        DEFAULT_ALLOWED,
        PROXYING,
        networks(),
        "With proxy_protocol, the peers that may connect: addresses or networks with commas between them, private "
        'for all that are not of the internet, "*" for everybody, who can then claim to be anybody. A proxy on a unix '
        "socket always may.",
    )
