"""The harness of bench/ lives: every part runs, a little of each, and writes what a reader would read.

It judges no speed. Peers and plots belong to the environment that scripts/bench makes; here is what works without.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.long

PARTS = ("cost", "latency", "losses", "boot", "scale", "profile")


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_and_is_written_down(part: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "smoke", part, "--into", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / f"{part}.json").read_text())
    assert kept["figures"]
    assert kept["machine"]["kernel"]
    results = (tmp_path / "RESULTS.md").read_text()
    assert results.count("\n## ") == 3  # the part, the method, the machine
    assert "prefork, handler" in results or "prefork" in results
    assert "MISSED" not in "".join(line for line in results.splitlines() if "lose" in line), results


def test_a_part_that_is_unknown_is_refused() -> None:
    command = [sys.executable, "-m", "bench", "spede"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "spede" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "figure"), [("boot 2 1", "mold, x"), ("replace 2", "mold"), ("reloads 2", "growth")]
)
def test_what_a_mold_costs_is_measured(arguments: str, figure: str) -> None:
    command = [sys.executable, "-m", "bench.molds", *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found[figure]
    assert found.get("lost", 0) == 0
