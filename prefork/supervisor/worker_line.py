"""The line to one worker: what ties the master to it, from before its fork to its exit, and what it says there.

A worker to come is a :class:`Birth`, one that lives has a :class:`WorkerLine`, one that is gone leaves an :class:`End`.
What its process begins with is :class:`prefork.supervisor.forked.Start`, which stays behind in the child.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from types import CodeType

from prefork.accept.lanes import BOTTOM
from prefork.accept.worker_context import WorkerContext
from prefork.scoreboard.lanes import busy_lanes, finished, threads
from prefork.scoreboard.layout import ACCEPTS, PARKED, RECYCLE_WHY, STATE, Accepts, EntryView, State
from prefork.scoreboard.recorder import InHand, in_hand
from prefork.supervisor.blueprint import Newborn
from prefork.supervisor.forked import SignalHandlers, Start, live
from prefork.supervisor.mold import MoldSignals, live_as_mold
from prefork.supervisor.policy import Burden, Vital
from prefork.system import process
from prefork.system.child import Child, ReportPipe
from prefork.system.record import MutableRecord, Record


class WorkerLine(MutableRecord):
    """What ties the master to one worker.

    Attributes:
        entry: its entry; -1 when it lives on a scoreboard of another layout.
        born: monotonic ns of the fork, or a little before.
        board: the descriptor of its scoreboard.
        words: what it says of itself; nothing but zeros when that can't be read.
        order: the one word that it reads.
        order_at: that word's index in its scoreboard.
        wake_up: the signal that makes it look there.
        report: its report pipe.
        child: its process; None before the fork.
    """

    entry: int
    born: int
    board: int
    words: memoryview[int]
    order: memoryview[int]
    order_at: int
    wake_up: int
    report: ReportPipe
    child: Child | None = None

    @property
    def accepts(self) -> bool:
        """Whether the worker takes connections by Worker.accept(), not in a loop of its own."""
        return self.words[ACCEPTS] in _OURS

    @property
    def state(self) -> int:
        """The state that it gives, as a number."""
        return self.words[STATE]

    @property
    def recycle_request(self) -> int:
        """Why it wants to be replaced, as a number; 0 when it does not."""
        return self.words[RECYCLE_WHY]

    @property
    def finished(self) -> int:
        """How many connections it has finished so far."""
        return finished(self.words, self.born)

    @property
    def in_hand(self) -> tuple[InHand, ...]:
        """What it has in hand, by its lanes."""
        return in_hand(self.words, self.born)

    def vital(self, now: float) -> Vital:
        """What it says of itself, in seconds; a time that can't be true counts as ``now``."""
        return Vital(
            tuple(
                Burden(min(began / 1e9, now), deadline / 1e9 if deadline else None, lane)
                for lane, began, deadline in busy_lanes(self.words, self.born)
            ),
            obeying=self.words[STATE] >= State.STOPPING,
            ending=self.words[STATE] == State.LEAVING,
            parked=self.words[PARKED],
        )

    @property
    def reported(self) -> str:
        """What it has reported and nobody has taken yet, without the frames of tracebacks that are ours."""
        return own_frames(self.report.text.decode(errors="replace"))

    def tracebacks(self, lanes: Collection[int] = ()) -> str:
        """As :attr:`reported`, looked at now.

        Args:
            lanes: those that hang, by number: their threads come first.
        """
        self.report.read()
        known = threads(self.words)
        return _lanes_named(self.reported, known, lanes) if any(known) else self.reported


class Birth(Record):
    """A worker to come: all that its life costs, but the process.

    Attributes:
        line: the line to it.
        one: what is its own.
        report: the writing end of its report pipe, to be closed when it has it.
        start: what its process begins with; None when that is made elsewhere, and no hook asks for it.
        announce: the hook that is called right before; None without one.
    """

    line: WorkerLine
    one: Newborn
    report: int
    start: Start | None
    announce: Callable[[WorkerContext], object] | None

    def announced(self) -> None:
        """Call the hook, if there is one."""
        if self.announce is not None and self.start is not None:
            self.announce(self.start.context)


class End(Record):
    """What is left of a worker."""

    exit: process.Exit
    finished: int
    """Connections."""
    report: str
    last: EntryView
    """Its entry, as it left it."""
    in_hand: tuple[InHand, ...]
    """What it had in hand, by its lanes."""


def _lanes_named(text: str, known: Sequence[int], first: Collection[int]) -> str:
    """Tracebacks with the number of its lane behind each thread that is one's, and some lanes' before all others."""
    found = re.split(_THREAD, text)
    head, parts = found[0], []
    for heading, number, rest in zip(found[1::3], found[2::3], found[3::3], strict=True):
        lane = known.index(int(number, 16)) if int(number, 16) in known else None
        name = "" if lane is None else f" [lane {lane}{', which hangs' if lane in first else ''}]"
        parts.append((lane not in first, f"{heading}{name}{rest}"))
    return head + "".join(part for _, part in sorted(parts, key=lambda one: one[0]))


def own_frames(text: str) -> str:
    """Tracebacks without what asks for them, and what lies below the first function of a process or lane."""
    lines, ours = [], True
    for line in text.splitlines(keepends=True):
        ours = ours or not line.startswith("  File ")
        if ours and not _FIRST_FRAME.search(line):
            lines.append(line)
        ours = ours and not _LAST_FRAME.search(line)
    return "".join(lines)


_OURS = {Accepts.ASKED, Accepts.USUAL}
_THREAD = re.compile(r"(^(?:Current thread|Thread) (0x[0-9a-f]+))", re.MULTILINE)
"""How faulthandler begins what it tells of one thread."""


def _frames_of(*functions: CodeType) -> re.Pattern[str]:
    """How faulthandler tells of any of these."""
    return re.compile(
        "|".join(rf'^  File "{re.escape(code.co_filename)}", line \d+ in {code.co_name}$' for code in functions)
    )


_FIRST_FRAME = _frames_of(SignalHandlers.asked.__code__, MoldSignals.asked.__code__)
_LAST_FRAME = _frames_of(live.__code__, live_as_mold.__code__, BOTTOM)
