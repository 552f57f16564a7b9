"""Midwives: who forks a mold's workers, and is there for some milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prefork.testing import NotInTimeError, Server
from prefork.testing.processes import children
from tests.support.probing import PATIENCE

_BIRTH: Final = 0.25
"""Seconds within which there is one after a worker's death, on a machine that has nothing else to do."""


def await_midwife(server: Server, provoke: Callable[[], object]) -> int:
    """The pid of a midwife who was there a moment ago.

    Args:
        server: whose.
        provoke: kills workers; called again while no midwife is met.

    Raises:
        NotInTimeError: there is none.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        provoke()
        end = time.monotonic() + _BIRTH
        while time.monotonic() < end:
            for mold in server.molds():
                for midwife in children(mold):
                    return midwife
    raise NotInTimeError(f"no midwife within {PATIENCE:g} s, although workers are killed")
