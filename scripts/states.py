"""Draw the two machines of a worker from the tables by which they go.

.venv/bin/python scripts/states.py

docs/states.svg is its life (`prefork.scoreboard.life.LIFE`), docs/recovery.svg what it does when accept fails
(`prefork.accept.recovery.TABLE`). Tests hold the tables to what real workers do, and the drawings to the tables.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from prefork.accept.recovery import TABLE, Stage
from prefork.scoreboard.layout import State
from prefork.scoreboard.life import LIFE

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"

_WIDTH, _HEIGHT = 130, 36  # of a box
_APART = 9  # between the middle line and each of two arrows that go there and back


@dataclass(frozen=True)
class Machine:
    """What is drawn.

    Args:
        size: of the drawing.
        places: the middle of the box of each state.
        steps: from each state to each other, and why.
    """

    size: tuple[int, int]
    places: Mapping[Any, tuple[int, int]]
    steps: Mapping[tuple[Any, Any], str]

    def drawing(self) -> str:
        """The whole file."""
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
            'font-size="12">\n<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#444"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>'
        )
        return "\n".join([head, *self._arrows(), *self._boxes(), "</svg>", ""])

    def _boxes(self) -> Iterator[str]:
        for state, (x, y) in self.places.items():
            yield (
                f'<rect x="{x - _WIDTH // 2}" y="{y - _HEIGHT // 2}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" '
                'fill="#eef2fb" stroke="#446"/>'
            )
            yield f'<text x="{x}" y="{y + 4}" text-anchor="middle" fill="#113">{state.name}</text>'

    def _arrows(self) -> Iterator[str]:
        for (before, after), why in self.steps.items():
            (x1, y1), (x2, y2) = self.places[before], self.places[after]
            dx, dy = x2 - x1, y2 - y1
            twofold = (after, before) in self.steps
            share = _APART / math.hypot(dx, dy) if twofold else 0.0
            aside = dy * share, -dx * share
            start, end = _edge((x1, y1), (dx, dy), aside), _edge((x2, y2), (-dx, -dy), aside)
            yield (
                f'<line x1="{start[0]:.0f}" y1="{start[1]:.0f}" x2="{end[0]:.0f}" y2="{end[1]:.0f}" '
                'stroke="#444" marker-end="url(#tip)"/>'
            )
            if not dy:
                yield _label((start[0] + end[0]) / 2, start[1] + (15 if dx < 0 else -5), "middle", why)
            elif not dx:
                share = 0.5 if twofold else 0.32
                beside = -6 if twofold and dy < 0 else 6
                anchor = "start" if beside > 0 else "end"
                yield _label(start[0] + beside, start[1] + (end[1] - start[1]) * share + 4, anchor, why)
            else:  # off the middle, where the diagonals cross
                share = 0.25 if twofold else 0.72 if dx > 0 else 0.32
                x, y = (start[part] + (end[part] - start[part]) * share for part in (0, 1))
                yield _label(x, y + 4, "middle", why, _HALO) if twofold else _label(x - 7, y + 4, "end", why)


_HALO = ' stroke="#fff" stroke-width="5" paint-order="stroke"'  # which interrupts the line behind a text


def _label(x: float, y: float, anchor: str, text: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="#333"{more}>{text}</text>'


def _edge(middle: tuple[int, int], way: tuple[int, int], aside: tuple[float, float]) -> tuple[float, float]:
    """Where a line that begins ``aside`` of the ``middle`` of a box, and goes its ``way``, leaves it."""
    halves = (_WIDTH / 2, _HEIGHT / 2)
    parts = zip(halves, way, aside, strict=True)
    share = min((half - (off if on > 0 else -off)) / abs(on) for half, on, off in parts if on)
    return middle[0] + aside[0] + way[0] * share, middle[1] + aside[1] + way[1] * share


def life() -> Machine:
    """That of a worker."""
    places: dict[Enum, tuple[int, int]] = {
        State.EMPTY: (75, 45),
        State.STARTING: (265, 45),
        State.SERVING: (475, 45),
        State.BACKING_OFF: (735, 45),
        State.FAILED_TO_BOOT: (265, 195),
        State.STOPPING: (475, 195),
        State.LEAVING: (735, 195),
    }
    steps = {(before, after): why for before, following in LIFE.items() for after, why in following.items()}
    return Machine((820, 240), places, steps)


def recovery() -> Machine:
    """The stages of one, and the findings that lead from each to another."""
    places: dict[Enum, tuple[int, int]] = {
        Stage.CLEAR: (180, 45),
        Stage.RETRYING: (640, 45),
        Stage.EXHAUSTED: (180, 245),
        Stage.WAITING: (640, 245),
    }
    found: dict[tuple[Stage, Stage], list[str]] = {}
    for stage, row in TABLE.items():
        for finding, step in row.items():
            if step.stage is not stage:
                found.setdefault((stage, step.stage), []).append(finding.value)
    return Machine((820, 290), places, {ends: ", ".join(findings) for ends, findings in found.items()})


MACHINES: Final = {DOCS / "states.svg": life(), DOCS / "recovery.svg": recovery()}

if __name__ == "__main__":
    for path, machine in MACHINES.items():
        path.write_text(machine.drawing(), encoding="utf-8")
    sys.exit(0)
