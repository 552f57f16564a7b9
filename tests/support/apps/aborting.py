"""A hook that takes its time."""

from __future__ import annotations

import time
from typing import Any


def worker_abort(worker: Any) -> None:  # as hooks are called
    print("worker_abort begins", flush=True)
    time.sleep(0.2)  # in which the master aborts some four times more
    print("worker_abort ends", flush=True)
