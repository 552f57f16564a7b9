"""Draw docs/states.svg, the life of a worker: the states of prefork.scoreboard.layout, and the steps between.

.venv/bin/python scripts/states.py

A test holds the steps to what real workers do, and the drawing to the steps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from prefork.scoreboard.layout import State

DRAWING: Final = Path(__file__).resolve().parent.parent / "docs" / "states.svg"


class Step(NamedTuple):
    """From one state to another, and why."""

    before: State
    after: State
    why: str


STEPS: Final = (
    Step(State.EMPTY, State.STARTING, "forked"),
    Step(State.STARTING, State.SERVING, "READY"),
    Step(State.STARTING, State.FAILED_TO_BOOT, "boot failed"),
    Step(State.STARTING, State.STOPPING, "order"),
    Step(State.SERVING, State.BACKING_OFF, "accept fails"),
    Step(State.BACKING_OFF, State.SERVING, "relief"),
    Step(State.SERVING, State.STOPPING, "order"),
    Step(State.BACKING_OFF, State.STOPPING, "order"),
    Step(State.STOPPING, State.LEAVING, "loop ended"),
    Step(State.SERVING, State.LEAVING, "by itself"),
    Step(State.BACKING_OFF, State.LEAVING, "listener lost"),
)

_PLACES: Final[Mapping[State, tuple[int, int]]] = {
    State.EMPTY: (75, 45),
    State.STARTING: (265, 45),
    State.SERVING: (475, 45),
    State.BACKING_OFF: (735, 45),
    State.FAILED_TO_BOOT: (265, 195),
    State.STOPPING: (475, 195),
    State.LEAVING: (735, 195),
}
_WIDTH, _HEIGHT = 130, 36  # of a box
_APART = 9  # between the middle line and each of two arrows that go there and back

_HEAD: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 240" font-family="sans-serif" font-size="12">
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">\
<path d="M0 0 L8 4 L0 8 z" fill="#444"/></marker></defs>
<rect width="820" height="240" rx="8" fill="#fff"/>"""


def drawing() -> str:
    """The whole file."""
    return "\n".join([_HEAD, *_arrows(), *_boxes(), "</svg>", ""])


def _boxes() -> Iterator[str]:
    for state, (x, y) in _PLACES.items():
        yield (
            f'<rect x="{x - _WIDTH // 2}" y="{y - _HEIGHT // 2}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" '
            'fill="#eef2fb" stroke="#446"/>'
        )
        yield f'<text x="{x}" y="{y + 4}" text-anchor="middle" fill="#113">{state.name}</text>'


def _arrows() -> Iterator[str]:
    there_and_back = {(step.after, step.before) for step in STEPS}
    for step in STEPS:
        (x1, y1), (x2, y2) = _PLACES[step.before], _PLACES[step.after]
        if (step.before, step.after) in there_and_back:
            y1 = y2 = y1 + (_APART if x1 > x2 else -_APART)
        start, end = _edge(x1, y1, x2, y2), _edge(x2, y2, x1, y1)
        yield (
            f'<line x1="{start[0]:.0f}" y1="{start[1]:.0f}" x2="{end[0]:.0f}" y2="{end[1]:.0f}" '
            'stroke="#444" marker-end="url(#tip)"/>'
        )
        if y1 == y2:
            yield _label((start[0] + end[0]) / 2, y1 + (15 if x1 > x2 else -5), "middle", step.why)
        else:  # off the middle, where the diagonals cross
            share = 0.72 if x1 < x2 else 0.32
            x, y = (start[part] + (end[part] - start[part]) * share for part in (0, 1))
            yield _label(x + (6 if x1 == x2 else -7), y + 4, "start" if x1 == x2 else "end", step.why)


def _label(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="#333">{text}</text>'


def _edge(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float]:
    """Where the line from the middle of one box to another leaves the first."""
    dx, dy = x2 - x1, y2 - y1
    share = min(_WIDTH / 2 / abs(dx) if dx else 2.0, _HEIGHT / 2 / abs(dy) if dy else 2.0)
    return x1 + dx * share, y1 + dy * share


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
    sys.exit(0)
