"""Text of RESULTS.md: tables, paragraphs, figures as a reader has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Figures = Mapping[str, Any]
"""The tables of a part that were measured, by name; any may be missing."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A table whose first ``left`` columns are text, the others figures."""
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' if n < left else '---:' for n in range(len(head)))} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def prose(text: str) -> str:
    """A paragraph, however it is broken into lines in the source."""
    return " ".join(text.split())


def passage(title: str, text: str, lines: Sequence[str]) -> list[str]:
    """What one table of the figures comes to: a heading, what it says, and the table."""
    heading = [f"### {title}", ""] if title else []
    return [*heading, prose(text), "", *lines, ""]


def missing(figures: Figures) -> list[str]:
    """Who is not in the tables of a part, and why, each once."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, reasons in figures.get("missing", {}).items():
        for title, why in reasons.items():
            found.setdefault((title, why), []).append(name)
    return [f"- Not measured ({', '.join(names)}): {title}; {why}." for (title, why), names in found.items()]


def cheapest(rows: Mapping[str, Row]) -> list[Row]:
    """The rows in the order of what a request costs."""
    return sorted(rows.values(), key=lambda row: float(row["cost"]["median"]))


def seconds(value: float | None, patience: float) -> str:
    """A time within which something ended, or didn't."""
    return f"more than {patience:g} s" if value is None else f"{value:.2f} s"


def size(count: float) -> str:
    """Bytes."""
    for unit in ("B", "KiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count //= 1024
    return f"{count:,.0f} MiB"
