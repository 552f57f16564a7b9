"""What was to be reached, and whether it was: the first lines of the results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_EVEN = 1.02
"""Equal, as far as medians of a few rounds can tell."""

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
    except (KeyError, ValueError, IndexError, StopIteration):
        return Verdict(goal, "not measured", None)
    return Verdict(goal, measured, met)


def _ratio(parts: Parts, one: str, other: str) -> float:
    """The median of the ratios within each round."""
    rows = parts["cost"]["hello"]
    ratio: float = statistics.median(a / b for a, b in zip(rows[one]["costs"], rows[other]["costs"], strict=True))
    return ratio


def _handler(parts: Parts) -> tuple[str, bool]:
    """The limit of what Python can do is a bare loop in it; C is what both are seen against."""
    ratio, floor = _ratio(parts, "prefork", "bare"), _ratio(parts, "prefork", "floor")
    return f"{ratio:.2f} x, and {floor:.2f} x a C server's", ratio <= _EVEN


def _beyond_the_kernel(parts: Parts) -> tuple[str, bool]:
    """What the C server costs is nearly all the kernel's, and everybody's."""
    rows = parts["cost"]["hello"]
    floor, bare, ours = (rows[name]["costs"] for name in ("floor", "bare", "prefork"))
    ratio = statistics.median((o - f) / (b - f) for o, b, f in zip(ours, bare, floor, strict=True) if b > f)
    return f"{ratio:.2f} x", ratio <= _EVEN


def _closing(parts: Parts) -> tuple[str, bool]:
    bare = _ratio(parts, "prefork-wsgi", "bare")
    if "bjoern" not in parts["cost"]["hello"]:
        return f"{bare:.2f} x the bare loop's", bare <= 1.9
    ratio = _ratio(parts, "prefork-wsgi", "bjoern")
    return f"{ratio:.2f} x bjoern's, {bare:.2f} x the bare loop's", ratio <= 1.2 or bare <= 1.9


def _kept(other: str, limit: float) -> Callable[[Parts], tuple[str, bool]]:
    def look(parts: Parts) -> tuple[str, bool]:
        rows = parts["cost"]["kept"]
        ours, theirs = rows["prefork-wsgi"]["costs"], rows[other]["costs"]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        return f"{ratio:.2f} x", ratio <= limit

    return look


def _kept_to_closing(parts: Parts) -> tuple[str, bool]:
    """Not measured in the same rounds, but in the same run."""
    kept, closing = (parts["cost"][way]["prefork-wsgi"]["cost"]["median"] for way in ("kept", "hello"))
    return f"{kept / closing:.2f} x", kept <= 0.5 * closing


def _late(name: str, load: str) -> Callable[[Parts], tuple[str, bool]]:
    def look(parts: Parts) -> tuple[str, bool]:
        rows = parts["latency"]["tail"]
        ratio = statistics.median(
            ours / max(1, theirs)
            for ours, theirs in zip(rows[name][load]["p99s"], rows["floor"][load]["p99s"], strict=True)
        )
        return f"{ratio:.2f} x", ratio <= 1.5

    return look


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
    workers, row = next(iter(parts["idle"]["idle"].items()))
    return f"{row['wakeups']:.2f} a second with {workers} workers", row["wakeups"] <= 0.1


def _supervision(parts: Parts) -> tuple[str, bool]:
    workers, row = list(parts["idle"]["idle"].items())[-1]
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


def _lanes(parts: Parts) -> tuple[str, bool]:
    rate = parts["features"]["lanes"]["prefork-lanes"]["rate"]["median"]
    return f"{rate:,.0f} a second", rate >= 0.95 * 1600


def _shed(parts: Parts) -> tuple[str, bool]:
    row = parts["features"]["overload"]["prefork-shed"]
    p99 = (row["p99"] or float("inf")) / 1e6
    return f"{row['goodput']:.0%}, p99 {p99:.2f} s", row["goodput"] >= 0.95 and p99 <= 0.5


_GOALS: tuple[tuple[str, Callable[[Parts], tuple[str, bool]]], ...] = (
    ("a connection to a handler costs no more than a bare Python loop's", _handler),
    ("the same of what it costs beyond the kernel's part", _beyond_the_kernel),
    ("a WSGI request costs at most 1.2 x bjoern's, or 1.9 x a bare Python loop's connection", _closing),
    ("a WSGI request costs at most 0.25 x gunicorn sync's", lambda p: _at_most(p, "prefork-wsgi", "gunicorn", 0.25)),
    ("a kept request costs at most half of a closing one", _kept_to_closing),
    ("a kept request costs at most 0.8 x granian's", _kept("granian", 0.8)),
    ("a kept request costs at most 1.6 x bjoern's", _kept("bjoern", 1.6)),
    ("at half load a handler's p99 is at most 1.5 x a C server's", _late("prefork", "0.5")),
    ("at four fifths of the load, too", _late("prefork", "0.8")),
    ("2 x 16 threads answer at least 95 % of the 1,600 requests of 20 ms that they can in a second", _lanes),
    ("with overload=shed and twice the load: goodput at least 95 %, p99 of the answered within 0.5 s", _shed),
    ("idle, at most 0.1 wake-ups a second", _idle),
    ("supervising hundreds of idle workers costs the master nothing", _supervision),
    ("a graceful stop loses nobody who waits", _lost("stop")),
    ("reloads under load lose nobody", _lost("reload")),
    ("stops lose nobody whose connection is kept", _lost("kept_stop")),
    ("reloads lose nobody whose connection is kept", _lost("kept_reload")),
    ("killed workers lose what they had in hand, no more", _lost_in_hand),
    ("at the descriptor limit nobody is lost", _lost("limit")),
    ("a stop and a start lose nobody who had reached the first", _lost_with_nobody_there),
    ("an upgrade in place loses nobody", _lost("renew")),
    ("idle workers outlive a killed master by less than a second", _orphans),
    ("500 workers boot and stop within 1.5 x a bare fork loop", _boot("500", "both", 1.5)),
    ("1,000 workers boot within 1.3 x a bare fork loop", _boot("1000", "boot", 1.3)),
    ("a crashed worker is replaced within 10 ms of a bare fork", _crash),
)
