"""Put the table of losses into README.md, from what bench/RESULTS.md has measured.

.venv/bin/python scripts/losses.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

COLUMNS: Final = {
    "a stop while 150 wait": ("A graceful stop while", "lost"),
    "ten reloads under load": ("Reloads, one after the other", "lost"),
    "stops, connections kept": ("Graceful stops under 24 clients", "lost"),
    "kept connections closed by reloads": ("Reloads, likewise", "closed"),
    "no descriptors for some seconds": ("No descriptor to be had", "lost"),
}
"""What README.md calls a measurement, how the sentence above its table begins, and the table's column."""

_REGION: Final = re.compile(r"(<!-- losses -->\n).*?(<!-- end of losses -->)", re.DOTALL)


def measured(results: str, sentence: str, column: str) -> dict[str, str]:
    """What each server lost, from a column of the table below the sentence that begins so."""
    found = re.search(rf"^{re.escape(sentence)}.*?\n\n((?:\|.*\n)+)", results, re.MULTILINE)
    if found is None:
        raise LookupError(f"bench/RESULTS.md has no table below {sentence!r}")
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    cells = {row[0]: row[head.index(column)] for row in rows}
    lost = {server: cell for server, cell in cells.items() if re.fullmatch(r"[\d,]+(?: of [\d,]+)?", cell)}
    if "reloads" in head:  # who did none has lost nobody by them
        lost |= {row[0]: "did not reload" for row in rows if row[head.index("reloads")] == "0"}
    return lost


def table(results: str) -> str:
    """The table of README.md: who, and what was lost of how many."""
    columns = [measured(results, *where) for where in COLUMNS.values()]
    head = [f"| lost | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    rows = [f"| {server} | {' | '.join(one.get(server, '-') for one in columns)} |" for server in columns[0]]
    return "\n".join(head + rows)


def main() -> int:
    """Write it; 1 when there is nothing to write it from."""
    results = ROOT / "bench" / "RESULTS.md"
    if not results.exists():
        print("there is no bench/RESULTS.md; scripts/bench makes it")
        return 1
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    made = table(results.read_text(encoding="utf-8"))
    readme.write_text(_REGION.sub(lambda found: f"{found[1]}\n{made}\n\n{found[2]}", text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
