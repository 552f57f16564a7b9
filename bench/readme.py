"""README's tables of speed and of losses, made of the results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from bench.report import processor
from bench.tables import table

LOSSES: Final = {
    "stop": "a stop while clients wait",
    "reload": "reloads under load",
    "kept_stop": "stops, connections kept",
    "kept_reload": "reloads, connections kept",
    "limit": "no descriptors for some seconds",
}
"""What README calls a scenario."""


def fill(readme: Path, parts: dict[str, Any]) -> None:
    """Put the tables between their marks.

    Args:
        readme: the file; a table of which nothing is known stays as it is.
        parts: what was measured.

    Raises:
        LookupError: it has not the marks.
    """
    text = before = readme.read_text(encoding="utf-8")
    for name, make in (("speed", speed), ("losses", losses)):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        found = pattern.search(text)
        if found is None:
            raise LookupError(f"{readme} has no place for the table of {name}")
        lines = make(parts)
        if lines:
            body = "\n".join(lines)
            text = f"{text[: found.start()]}{found[1]}\n{body}\n\n{found[2]}{text[found.end() :]}"
    if text != before:
        readme.write_text(text, encoding="utf-8")


def speed(parts: dict[str, Any]) -> list[str]:
    """What a request costs each server, closing and kept, and how long an answer takes at most, nearly always."""
    if not {"cost", "latency"} <= parts.keys():
        return []
    cost, latency = parts["cost"]["figures"], parts["latency"]["figures"]
    closing, kept = cost.get("hello", {}), cost.get("kept", {})
    slow = latency.get("slow", {})
    named = {name: row for rows in (kept, closing) for name, row in rows.items()}
    order = sorted(named, key=lambda name: float((closing.get(name) or kept[name])["cost"]["median"]))
    rows = []
    for name in order:
        cells = [f"{rows_[name]['cost']['median']:.1f}" if name in rows_ else "-" for rows_ in (closing, kept)]
        cells.append(f"{slow[name]['p99'] / 1000:.1f}" if name in slow else "-")
        rows.append([named[name]["title"], *cells])
    head = ("server", "us of CPU a request, closing", "kept", "p99 beside slow requests, ms")
    facts = f"{processor(parts)} Measured {parts['cost']['at']}; `bench/RESULTS.md` says how, and has the rest."
    return [*table(head, rows), "", facts]


def losses(parts: dict[str, Any]) -> list[str]:
    """Who lost how many of how many, scenario by scenario."""
    figures = parts.get("losses", {}).get("figures", {})
    played = {name: title for name, title in LOSSES.items() if figures.get(name)}
    titles = {name: row["title"] for scenario in played for name, row in figures[scenario].items()}
    if not titles:
        return []
    rows = [[title, *(_lost(figures[scenario].get(name)) for scenario in played)] for name, title in titles.items()]
    facts = f"{processor(parts)} Measured {parts['losses']['at']}; - where a server doesn't do that at all."
    return [*table(("lost", *played.values()), rows), "", facts]


def _lost(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if "error" in row:
        return "failed"
    if row.get("reloads", row.get("times", 1)) == 0:  # who did none has lost nobody by them
        return "did not"
    return f"{row['lost']:,} of {row['requests']:,}"
