"""Measures prefork beside other servers, and writes what was found.

Each table is kept as soon as it is measured, so that a run which is interrupted leaves what it has, and a part that is
measured again replaces its own figures and no others. A run of everything forgets what was measured before.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import anatomy, cost, features, growth, latency, losses, memory, readme, report, results, scale
from bench.effort import FULL, QUICK, SMOKE, Effort
from bench.rounds import Table, say, short
from bench.workshop import HERE, WORK

PARTS: Mapping[str, Mapping[str, Callable[[Effort], Table]]] = {
    "cost": cost.TABLES,
    "latency": latency.TABLES,
    "features": features.TABLES,
    "losses": losses.TABLES,
    "memory": memory.TABLES,
    "growth": growth.TABLES,
    "boot": scale.BOOT,
    "idle": scale.IDLE,
    "profile": anatomy.TABLES,
}

MINUTES = {
    "cost": 4.5,
    "latency": 6.5,
    "features": 5.5,
    "losses": 6.0,
    "memory": 1.5,
    "growth": 4.0,
    "boot": 1.2,
    "idle": 0.7,
    "profile": 1.0,
}
"""That each takes with every peer there, on two cores."""

EFFORTS = {"full": FULL, "quick": QUICK, "smoke": SMOKE}

README = HERE.parent / "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line names."""
    arguments = _parser().parse_args(argv)
    effort, chosen = _chosen(arguments.words)
    full = effort == "full"
    folder = arguments.into or (HERE if full else WORK / effort)
    _raise_descriptors()
    tables = [(part, name) for part, names in chosen.items() for name in names]
    everything = full and not arguments.words
    kept = results.Results(folder) if everything else results.Results.kept(folder)
    if full and tables:
        print(f"about {sum(MINUTES[part] for part in chosen):.0f} minutes", file=sys.stderr)
    failed, code = _measure(kept, chosen, EFFORTS[effort]), 0
    goals = report.write(kept, folder)
    print(goals if full else f"written: {folder / 'RESULTS.md'}")
    if folder == HERE:
        readme.fill(README, kept.parts)
    for where, why in failed.items():
        print(f"scripts/bench: {where} failed: {why}", file=sys.stderr)
        code = 130 if why == _INTERRUPTED else 1
    return code


_DESCRIPTORS = 65_536
"""Enough for all that is measured; servers that go over all numbers there can be do so in a reasonable time."""

_INTERRUPTED = "interrupted; what was measured before is kept"


def _measure(kept: results.Results, chosen: Mapping[str, Sequence[str]], effort: Effort) -> dict[str, str]:
    """Measure table after table; what failed, and why."""
    failed: dict[str, str] = {}
    try:
        for part, names in chosen.items():
            if part not in kept.parts or set(names) == set(PARTS[part]):
                kept.begin(part, results.Facts.begin())
            for name in names:
                began = time.monotonic()
                try:
                    table = PARTS[part][name](effort)
                except Exception as why:  # noqa: BLE001  # one table that can't be had must not cost the others
                    failed[f"{part}.{name}"] = f"{type(why).__name__}: {short(why)}"
                    table = Table({}, {"the whole table": short(why)})
                seconds = time.monotonic() - began
                say("")
                kept.add(part, name, table, seconds)
                print(f"{part}.{name}: {seconds:.0f} s", file=sys.stderr)
    except KeyboardInterrupt:
        failed["the run"] = _INTERRUPTED
    return failed


def _chosen(words: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
    """The effort, and the tables of each part that are named; all of them when none is."""
    effort = next((word for word in words if word in EFFORTS), "full")
    named = [word for word in words if word not in EFFORTS and word != "render"]
    if not named:
        return effort, {} if "render" in words else {part: list(tables) for part, tables in PARTS.items()}
    chosen: dict[str, list[str]] = {}
    for word in named:
        part, _, table = word.partition(".")
        chosen[part] = [*chosen.get(part, []), table] if table else list(PARTS[part])
    return effort, chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog="\n".join(
            [
                "parts and their tables:",
                *(f"  {part} ({MINUTES[part]:g} min): {', '.join(tables)}" for part, tables in PARTS.items()),
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        type=_word,
        metavar="PART",
        help="a part, or a table of one as PART.TABLE; all parts by default. render: write RESULTS.md, its plots and "
        "README's tables anew from what was measured. quick: every server once, to see that all of them work; smoke: a "
        "little of everything with prefork alone; both judged by nobody, and left under bench/.work",
    )
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="leave figures, RESULTS.md and plots there")
    return parser


def _word(word: str) -> str:
    part, _, table = word.partition(".")
    if word in EFFORTS or word == "render" or (part in PARTS and (not table or table in PARTS[part])):
        return word
    raise argparse.ArgumentTypeError(f"there is no part {word!r}; --help names them")


def _raise_descriptors() -> None:
    """Clients and servers have thousands of connections at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _DESCRIPTORS), hard))


if __name__ == "__main__":
    sys.exit(main())
