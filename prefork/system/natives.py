"""Natives: modules of the system as they were when prefork was imported, out of reach of whoever patches them later.

An application may put functions of its own into the standard library's modules, or take some away (gevent takes
select.epoll). It does so where it is loaded, with ``preload`` in the master; who looks a name up in the module after
that finds what is right for greenlets and wrong for a master. So the copies here are looked at.

Where the host has patched before it imported prefork, what gevent keeps of the originals is taken.
"""

from __future__ import annotations

import select as _select
import socket as _socket
import sys
from types import ModuleType
from typing import TYPE_CHECKING


def _copy(module: ModuleType) -> ModuleType:
    """A module with what ``module`` has now, or had before gevent patched it."""
    found = ModuleType(module.__name__)
    found.__dict__.update(vars(module))
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        found.__dict__.update(getattr(monkey, "saved", {}).get(module.__name__, {}))
    return found


if TYPE_CHECKING:
    import select as select  # noqa: PLC0414  # exported, to the type checker
    import socket as socket  # noqa: PLC0414  # as above
else:
    select = _copy(_select)
    socket = _copy(_socket)
