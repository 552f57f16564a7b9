"""Natives: modules of the system as they were when prefork was imported, out of reach of whoever patches them later.

An application may put functions of its own into the standard library's modules, or take some away: gevent takes
select.epoll, and closes descriptors in its next turn; others stop the clock. It does so where it is loaded, which may
be the mold, or the master in a program that has loaded what it serves; who looks a name up in the module after that
finds what is right for greenlets or tests and wrong for those. So prefork looks names up in the copies here, and
imports none of these modules itself (pyproject.toml holds it to that). What runs other servers' threads in
:mod:`prefork.embed` is in the application's world.

Where the host has patched before it imported prefork, what gevent keeps of the originals is taken.
"""

from __future__ import annotations

import os as _os
import select as _select
import signal as _signal
import socket as _socket
import sys
import threading as _threading
import time as _time
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
    import os as os  # noqa: PLC0414  # exported, to the type checker
    import select as select  # noqa: PLC0414  # as above
    import signal as signal  # noqa: PLC0414  # as above
    import socket as socket  # noqa: PLC0414  # as above
    import threading as threading  # noqa: PLC0414  # as above
    import time as time  # noqa: PLC0414  # as above
else:
    os = _copy(_os)
    select = _copy(_select)
    signal = _copy(_signal)
    socket = _copy(_socket)
    threading = _copy(_threading)
    time = _copy(_time)
