"""Safepath: ``python -m prefork`` imports nothing from the current folder, as ``prefork`` doesn't.

``-m`` puts that folder first on the import path (Python's command line). Were it to stay there, whatever the command
has yet to import could come from it: for root in the folder of an application that is somebody else's, as root. Workers
have the application's folder on their path all the same.

What Python itself imports before it gets to us can't be kept from it; ``-P`` can.
"""

from __future__ import annotations

import sys  # built in, unlike typing


def _leave() -> bool:
    """Take the folder away if it was put there for ``-m prefork``, and isn't the one that prefork itself is in."""
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path:  # the former is so only while -m looks for what it is to run
        return False
    if sys.orig_argv[-len(sys.argv)] not in {"prefork", "-mprefork"}:
        return False
    if __file__.startswith(f"{sys.path[0].rstrip('/')}/prefork/"):
        return False
    del sys.path[0]
    return True


LEFT = _leave()
"""Whether it was taken away. Then ``-P`` starts the same command without it."""
