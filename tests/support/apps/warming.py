"""A hook of a mold's; the application is not imported with it, for the master imports this."""

from __future__ import annotations

import os
import sys
from typing import Any


def warm(worker: Any) -> None:
    warmed: Any = sys.modules["warmed"]
    warmed.warmed_in = os.getpid()
    worker.log.info("hooked with %d requests, %d workers", len(warmed.requests), worker.settings.workers)
