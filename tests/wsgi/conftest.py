"""Fixtures of the tests of the WSGI server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    """A FIFO by which a test tells an application when to go on, see `tests.support.wsgi.harness.release`."""
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path
