"""Programs of a test's own, in a fresh interpreter: pytest itself neither forks nor takes signals nor sets limits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_SLOW = re.compile(r"the master was frozen, or held up, for|kept the master from its work for")
TIMEOUT = 60.0  # seconds; spent only by a program that hangs


def run_program(text: str, *arguments: str, fds: Iterable[int] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``text`` to its end; any warning there is an error. ``fds`` are inherited under their numbers."""
    return subprocess.run(
        command(text, *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        pass_fds=tuple(fds),
        check=False,
    )


def command(text: str, *arguments: str) -> list[str]:
    """What starts ``text``, in :data:`ROOT`, untouched by PYTHONUNBUFFERED and its like."""
    return [sys.executable, "-E", "-W", "error", "-c", textwrap.dedent(text), *arguments]


def facts(text: str, *arguments: str, fds: Iterable[int] = ()) -> Any:
    """Run ``text``, which prints one JSON value, complains about nothing and exits with 0; returns the value.

    That the machine was slow is no complaint of its own.
    """
    ended = run_program(text, *arguments, fds=fds)
    complaints = [line for line in ended.stderr.splitlines() if not _SLOW.search(line)]
    assert (ended.returncode, complaints) == (0, []), ended
    return json.loads(ended.stdout)
