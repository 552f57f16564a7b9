"""RESULTS.md: the goals and whether they are met, then each part with its tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import goals
from bench.peers import ADVICE
from bench.results import Results
from bench.sections.features import features
from bench.sections.growth import boot, growth, idle, memory
from bench.sections.losses import losses
from bench.sections.speed import cost, latency, profile
from bench.tables import prose, table

SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "cost": cost,
    "latency": latency,
    "features": features,
    "losses": losses,
    "memory": memory,
    "growth": growth,
    "boot": boot,
    "idle": idle,
    "profile": profile,
}
"""Each part in the order in which a reader meets them."""


PICTURES: tuple[tuple[str, str, Sequence[str]], ...] = (
    ("cost", "cost", ("hello",)),
    ("cost", "echo", ("echo",)),
    ("latency", "latency", ("plain", "slow")),
    ("features", "features", ()),
    ("losses", "losses", ()),
    ("memory", "memory", ("held", "first")),
    ("growth", "growth", ()),
    ("boot", "boot", ("workers",)),
    ("profile", "profile", ("shares",)),
)
"""The part, the plot's name, and the tables without which it can't be drawn."""


def pictures(figures: dict[str, Any]) -> dict[str, list[str]]:
    """The names of the plots that can be drawn of each part."""
    found: dict[str, list[str]] = {}
    for part, name, needs in PICTURES:
        if part in figures and all(figures[part].get(table) for table in needs):
            found.setdefault(part, []).append(name)
    return found


def write(results: Results, target: Path) -> str:
    """Write RESULTS.md and the plots.

    Args:
        results: what was measured.
        target: the folder that they go into.

    Returns:
        The goals as text, for the terminal.
    """
    parts = {part: results.parts[part] for part in SECTIONS if part in results.parts}
    figures = {part: found["figures"] for part, found in parts.items()}
    verdicts = goals.judge(figures)
    text = made(parts, _draw(figures, target / "plots"), verdicts)
    target.mkdir(parents=True, exist_ok=True)
    (target / "RESULTS.md").write_text(text, encoding="utf-8")
    return "\n".join(f"{_mark(verdict)}  {verdict.goal}: {verdict.measured}" for verdict in verdicts)


def made(parts: dict[str, Any], drawn: dict[str, list[str]], verdicts: Sequence[goals.Verdict]) -> str:
    """The text of RESULTS.md."""
    lines = ["# Results", "", *_opening(verdicts), *_processor(parts), "", *_goals(verdicts), ""]
    for part, found in parts.items():
        lines += [*SECTIONS[part](found["figures"]), ""]
        lines += [f"![{name}](plots/{name}.svg)\n" for name in drawn.get(part, ())]
        lines += [
            _when(found),
            "",
        ]
    lines += [*_method(), "", *_settings(parts), "", *_machine(parts)]
    return "\n".join(lines).rstrip() + "\n"


def _when(found: dict[str, Any]) -> str:
    took = f"in {found['seconds'] / 60:.1f} minutes"
    return f"Measured {found['at']}, {took}; {found['load']:.1f} processes wanted to run when it began."


def _draw(figures: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    try:
        from bench import plots
    except ImportError:  # a smoke run in an environment without matplotlib
        return {}
    return plots.draw(figures, pictures(figures), folder)


def _mark(verdict: goals.Verdict) -> str:
    return {True: "met", False: "MISSED", None: "-"}[verdict.met]


def _opening(verdicts: Sequence[goals.Verdict]) -> list[str]:
    missed = [verdict for verdict in verdicts if verdict.met is False]
    unknown = [verdict for verdict in verdicts if verdict.met is None]
    lines = [f"Missed: {verdict.goal} ({verdict.measured})." for verdict in missed]
    if not missed and not unknown:
        lines = ["Every goal is met."]
    if unknown:
        lines.append(f"Not measured: {'; '.join(verdict.goal for verdict in unknown)}.")
    return [f"- {line}" for line in lines] if len(lines) > 1 else lines


def _goals(verdicts: Iterable[goals.Verdict]) -> list[str]:
    rows = [(verdict.goal, verdict.measured, _mark(verdict)) for verdict in verdicts]
    return table(("goal", "measured", ""), rows)


def _method() -> list[str]:
    return [
        "## How it was measured",
        "",
        prose(
            """
            `scripts/bench` does all of it, over the loopback interface of one machine that server and clients
            share. Every server is measured once a round, in an order that is shuffled anew for each; figures are
            medians over the rounds, and ratios are medians of the ratios within each round. So a ratio can be
            believed on a machine that has other work, and an absolute figure only beside the others of its table.
            CPU time is what the kernel has counted for all processes of a server, those it has reaped included.
            `bench/results.json` has every figure, and this page, its plots and README's tables are made of it
            (`scripts/bench render`).
            """
        ),
    ]


def _settings(parts: dict[str, Any]) -> list[str]:
    """How each server was started, and where its documentation says so."""
    commands = {(row["title"], row["command"]) for row in _rows(parts) if not row["command"].startswith("bench/.work/")}
    titles = sorted({title for title, _ in commands})
    advice = [(name, text) for name, text in ADVICE.items() if any(name in title for title in titles)]
    shown = [(title, f"`{command.replace('|', '/')}`") for title, command in sorted(commands)]
    return [
        "## How the servers were started",
        "",
        "Each with what its documentation recommends for production, as far as it concerns this use:",
        "",
        *table(("server", "from"), advice, left=2),
        "",
        *table(("server", "command"), shown, left=2),
    ]


def _rows(found: Any) -> Iterator[dict[str, Any]]:
    """All rows about servers, wherever they are in the figures."""
    if not isinstance(found, dict):
        return
    if "title" in found and "command" in found:
        yield found
    for value in found.values():
        yield from _rows(value)


def processor(parts: dict[str, Any]) -> str:
    """What it was measured on, in a line; "" when nothing was."""
    if not parts:
        return ""
    machine = _latest(parts)
    return f"On {machine['processor']}, Linux {machine['kernel']}, Python {machine['Python']}."


def _processor(parts: dict[str, Any]) -> list[str]:
    return ["", processor(parts)] if parts else []


def _latest(parts: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = max(parts.values(), key=lambda part: str(part["at"]))["machine"]
    return found


def _machine(parts: dict[str, Any]) -> list[str]:
    if not parts:
        return []
    facts = [[*fact] for fact in _latest(parts).items()]
    return ["## The machine and the versions", "", *table(("", ""), facts, left=2)]
