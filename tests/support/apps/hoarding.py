"""An application that makes garbage, and counts collections of the oldest generation: within requests, and between."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from typing import Any

HEAP = [[n] for n in range(20_000)]  # what each of them looks through
collections = {"within": 0, "between": 0}
_place = "between"


def _collected(phase: str, info: dict[str, int]) -> None:
    if phase == "start" and info["generation"] == 2:
        collections[_place] += 1


gc.callbacks.append(_collected)


def application(environ: dict[str, Any], start: Callable[..., object]) -> list[bytes]:
    """Makes garbage, when it has been sent all; answers what was counted in its worker."""
    global _place
    environ["wsgi.input"].read(-1)
    _place = "within"
    HEAP.extend([n] for n in range(200))  # it grows, or Python wouldn't look
    for _ in range(30_000):
        circle: list[object] = []
        circle.append(circle)
    body = json.dumps({"pid": os.getpid(), **collections}).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    _place = "between"
    return [body]


def on_idle(worker: Any) -> None:
    """The hook."""
    worker.log.info("on_idle in %d", os.getpid())
