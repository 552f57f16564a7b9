from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Every test ends what it started: a server that survives its test would disturb all that follow."""
    before = set(psutil.Process().children())
    yield
    left = set(psutil.Process().children()) - before
    assert not left, f"processes left by the test, or never waited for: {left}"
