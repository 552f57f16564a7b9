"""The control socket: see a server and steer it from outside.

:class:`Client` is for programs; the commands ``prefork status``, ``reload``, ``scale``, ``stop``, ``recycle`` and
``dump`` are made of it. ``docs/control.md`` has the protocol.
"""

from prefork.services.control.client import Client
from prefork.services.control.paths import find

__all__ = ["Client", "find"]
