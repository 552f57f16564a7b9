"""What was to be reached, and whether it was: the first lines of the results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Parts = Mapping[str, Any]
"""The figures of each part that was measured."""


@dataclass(frozen=True)
class Verdict:
    """One goal and what became of it."""

    goal: str
    measured: str
    met: bool | None
    """None when it was not measured."""


def judge(parts: Parts) -> list[Verdict]:
    """Hold the figures to the goals."""
    return [_judged(goal, look, parts) for goal, look in _GOALS]


def _judged(goal: str, look: Callable[[Parts], tuple[str, bool]], parts: Parts) -> Verdict:
    try:
        measured, met = look(parts)
    except (KeyError, statistics.StatisticsError):
        return Verdict(goal, "not measured", None)
    return Verdict(goal, measured, met)


def _ratio(parts: Parts, one: str, other: str) -> float:
    """The median of the ratios within each round."""
    rows = parts["cost"]["hello"]
    ratio: float = statistics.median(a / b for a, b in zip(rows[one]["costs"], rows[other]["costs"], strict=True))
    return ratio


def _connection(parts: Parts) -> tuple[str, bool]:
    """Beside it what a bare loop in Python costs: how that compares to C is the interpreter's and the CPU's affair."""
    ratio, bare = _ratio(parts, "prefork", "floor"), _ratio(parts, "bare", "floor")
    return f"{ratio:.2f} x, where a bare Python loop costs {bare:.2f} x", ratio <= 1.15


def _at_most(parts: Parts, one: str, other: str, limit: float) -> tuple[str, bool]:
    ratio = _ratio(parts, one, other)
    return f"{ratio:.2f} x", ratio <= limit


def _lost(scenario: str) -> Callable[[Parts], tuple[str, bool]]:
    def look(parts: Parts) -> tuple[str, bool]:
        rows = [row for name, row in parts["losses"][scenario].items() if name.startswith("prefork")]
        lost, requests = sum(row["lost"] for row in rows), sum(row["requests"] for row in rows)
        if not requests:
            raise KeyError(scenario)
        return f"{lost} of {requests:,}", lost == 0

    return look


def _lost_in_hand(parts: Parts) -> tuple[str, bool]:
    rows = [row for name, row in parts["losses"]["crash"].items() if name.startswith("prefork")]
    lost, kills = sum(row["lost"] for row in rows), sum(row["kills"] for row in rows)
    return f"{lost} lost, {kills} kills", bool(kills) and lost <= kills


def _lost_with_nobody_there(parts: Parts) -> tuple[str, bool]:
    rows = [row for name, row in parts["losses"]["restart"].items() if name.startswith("prefork")]
    refused = sum(row["outcomes"].get("refused", 0) for row in rows)
    others = sum(row["lost"] for row in rows) - refused
    return f"{others} lost, {refused} refused while nobody was there", others == 0


def _orphans(parts: Parts) -> tuple[str, bool]:
    rows = [row for name, row in parts["losses"]["orphans"].items() if name.startswith("prefork")]
    slowest = max(row["seconds"] if row["seconds"] is not None else float("inf") for row in rows)
    return f"{slowest:.2f} s", slowest < 1.0


def _idle(parts: Parts) -> tuple[str, bool]:
    workers, row = next(iter(parts["scale"]["idle"].items()))
    return f"{row['wakeups']:.2f} a second with {workers} workers", row["wakeups"] <= 0.1


def _supervision(parts: Parts) -> tuple[str, bool]:
    workers, row = list(parts["scale"]["idle"].items())[-1]
    return f"{row['master'] * 1e6:.0f} us a second with {workers} workers", row["master"] < 1e-3


def _boot(workers: str, step: str, limit: float) -> Callable[[Parts], tuple[str, bool]]:
    def look(parts: Parts) -> tuple[str, bool]:
        row = parts["boot"]["workers"][workers]
        ratio = row[step]["ratio"]
        return f"{ratio:.2f} x (CPU {row['cpu']['ratio']:.2f} x)", ratio <= limit

    return look


def _crash(parts: Parts) -> tuple[str, bool]:
    rows = parts["boot"]["crash"]
    more = rows["prefork"]["median"] - rows["fork"]["median"]
    return f"{more:+.1f} ms", more <= 10


_GOALS: tuple[tuple[str, Callable[[Parts], tuple[str, bool]]], ...] = (
    ("a connection to a handler costs at most 1.15 x a C server's", _connection),
    ("a WSGI request costs at most 1.2 x bjoern's", lambda p: _at_most(p, "prefork-wsgi", "bjoern", 1.2)),
    ("a WSGI request costs at most 0.25 x gunicorn sync's", lambda p: _at_most(p, "prefork-wsgi", "gunicorn", 0.25)),
    ("idle, at most 0.1 wake-ups a second", _idle),
    ("supervising hundreds of idle workers costs the master nothing", _supervision),
    ("a graceful stop loses nobody who waits", _lost("stop")),
    ("reloads under load lose nobody", _lost("reload")),
    ("killed workers lose what they had in hand, no more", _lost_in_hand),
    ("at the descriptor limit nobody is lost", _lost("limit")),
    ("a stop and a start lose nobody who had reached the first", _lost_with_nobody_there),
    ("an upgrade in place loses nobody", _lost("renew")),
    ("idle workers outlive a killed master by less than a second", _orphans),
    ("500 workers boot and stop within 1.5 x a bare fork loop", _boot("500", "both", 1.5)),
    ("1,000 workers boot within 1.3 x a bare fork loop", _boot("1000", "boot", 1.3)),
    ("a crashed worker is replaced within 10 ms of a bare fork", _crash),
)
