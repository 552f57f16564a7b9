"""A hook that takes its time."""

from __future__ import annotations

import time
from typing import Any


def when_ready(_: Any) -> None:
    time.sleep(1.2)  # longer than a hook of the master's may take
