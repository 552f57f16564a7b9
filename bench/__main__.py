"""The command: measures the parts that are named, or all, and writes RESULTS.md with what is known by then.

Each part leaves its figures under bench/.work, so that a part which is measured again replaces its own and no others.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench import anatomy, cost, latency, losses, report, results, scale
from bench.effort import FULL, SMOKE
from bench.rounds import say

PARTS = {
    "cost": cost.measure,
    "latency": latency.measure,
    "losses": losses.measure,
    "boot": scale.boot,
    "scale": scale.measure,
    "profile": anatomy.measure,
}

MINUTES = {"cost": 5, "latency": 7, "losses": 12, "boot": 3, "scale": 3, "profile": 3}
"""That each takes with every peer there, on two cores."""


def main() -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"one of {', '.join(PARTS)}; all by default. smoke: a little of everything, to see that it works, "
        "judged by nobody. report: write RESULTS.md anew from what was measured before",
    )
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="leave figures, RESULTS.md and plots there")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - PARTS.keys() - {"smoke", "report"}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    smoke = "smoke" in arguments.parts
    chosen = [part for part in arguments.parts if part in PARTS] or ([] if "report" in arguments.parts else list(PARTS))
    folder = arguments.into or (results.SMOKE if smoke else results.FULL)
    for part in chosen:
        if not smoke:
            print(f"{part}: about {MINUTES[part]} minutes", file=sys.stderr)
        began = time.monotonic()
        facts = results.Facts.begin()
        figures = PARTS[part](SMOKE if smoke else FULL)
        say("")
        results.save(folder, part, figures, facts)
        print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(report.write(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
