"""The harness of bench/ lives: every part runs, a little of each, and writes what a reader would read.

It judges no speed. Peers and plots belong to the environment that scripts/bench makes; here is what works without.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefork.testing import wait_for

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.long

PARTS = {
    "cost": ("hello", "kept", "echo"),
    "latency": ("plain", "tail", "kept", "slow"),
    "features": ("lanes", "tls", "unix", "proxy", "log", "overload", "flask", "django", "asgi"),
    "losses": ("stop", "reload", "kept_stop", "kept_reload", "crash", "orphans", "limit", "restart", "renew"),
    "memory": ("held", "first"),
    "growth": ("workers", "connections", "orders", "parked"),
    "boot": ("workers", "crash"),
    "idle": ("idle",),
    "profile": ("shares", "calls", "steps"),
}
"""And their tables, which all have rows; those of profile only where perf and strace may look."""

measured = [
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed"),
]


def bench(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *words, "--into", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("part", [pytest.param(part, marks=measured) for part in PARTS])
def test_a_part_runs_and_is_written_down(part: str, tmp_path: Path) -> None:
    done = bench("smoke", part, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "results.json").read_text())
    figures = kept[part]["figures"]
    assert kept.keys() == {part}
    assert figures.keys() == {"missing", *PARTS[part]}
    empty = [name for name in PARTS[part] if not figures[name]]
    assert not empty or part == "profile", (figures["missing"], done.stderr)
    assert kept[part]["machine"]["kernel"]
    results = (tmp_path / "RESULTS.md").read_text()
    assert results.count("\n## ") == 4  # the part, the method, the servers' settings, the machine
    assert "prefork" in results
    assert "MISSED" not in "".join(line for line in results.splitlines() if "lose" in line), results


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_what_was_measured_before_an_interruption_is_kept_and_rendered(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "smoke", "profile.steps", "memory", "--into", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for((tmp_path / "results.json").exists, 60.0, "the first table")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "interrupted" in said
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["profile"]["figures"]["steps"]
    before = (tmp_path / "RESULTS.md").read_text()
    assert "Steps of prefork's own" in before
    (tmp_path / "RESULTS.md").unlink()
    assert bench("render", folder=tmp_path).returncode == 0
    assert (tmp_path / "RESULTS.md").read_text() == before


@pytest.mark.parametrize("word", ["spede", "cost.spede"])
def test_a_part_that_is_unknown_is_refused(word: str, tmp_path: Path) -> None:
    done = bench(word, folder=tmp_path)
    assert done.returncode == 2
    assert word in done.stderr


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
