"""What ``prefork top`` shows: statuses over time, the order of rows, what is selected, and the picture of it.

No terminal and no server: :meth:`TopView.take_status` is given statuses, :meth:`TopView.press` keys, and
:meth:`TopView.picture` gives text for a size. Needs ``prefork[top]``.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, Final

from rich.text import Text

from prefork.errors import printable
from prefork.status import text as report
from prefork.status.model import Status, Totals, Working
from prefork.system.record import Record

SIGNS: Final = {"idle": "_", "busy": "B", "starting": "S", "backing off": "!", "leaving": "G"}
"""The scoreboard's sign for a worker, as Apache has it where the meaning is the same; "." is a place without one."""

KEYS: Final = "q quit  ? help  v requests  s sort  jk select  d dump  r recycle  R reload"
SHORT_KEYS: Final = "q quit  ? help  v requests  s sort  d dump  r recycle"

HELP: Final = """\
_ idle  B busy  S starts  ! backs off  G leaves  . nobody

FOR   in that state; busy: with what it has in hand
WAIT  how long that had waited for a worker; - not known
DONE  served so far     /S    of these a second
ERR   handlers raised   KEPT  connections that it keeps
MEAN  how long one takes      MAX  the longest
RSS   memory   CPU  part of one   FDS  descriptors
waited (above)  in that time 99 of a hundred were taken

s S   sort by the next column, or backwards
v     what runs now, in place of the workers
j k   select a worker   d  its tracebacks; it goes on
r     replace it        + -  one worker more, one less
R     replace all       q  quit"""

_LEGEND: Final = "   B busy  _ idle  S starts  ! backs off  G leaves"

_STYLES: Final = {"busy": "bold green", "starting": "cyan", "backing off": "bold red", "leaving": "yellow", "idle": ""}
_REMEMBERED: Final = 400  # samples for the sparklines; the widest terminals have fewer columns
_DEATHS: Final = 3  # lines


class WorkerRow(Record):
    """One worker with what follows from two statuses."""

    worker: Working
    rate: float
    """Connections a second since the status before."""
    cpu: float | None
    """Share of one CPU since then."""


class Column(Record):
    """A column of the table.

    Args:
        heading: above it.
        cell: its text.
        key: what rows are sorted by.
        rank: the column with the highest is left out first where there is no room for all.
    """

    heading: str
    cell: Callable[[WorkerRow], str]
    key: Callable[[WorkerRow], Any]
    rank: int = 0


def _text(text: str, style: str = "") -> Text:
    """A line whose words may have come from anywhere: what would move the cursor is escaped."""
    return Text(printable(text), style)


def _or_dash(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def _wait(row: WorkerRow) -> float | None:
    """For how long what it has in hand had waited, the longest of it."""
    return max((request.waited for request in row.worker.requests if request.waited is not None), default=None)


def _brief(seconds: float) -> str:
    return report.duration(seconds) if seconds else "0"


def rate(value: float) -> str:
    """A rate in four characters or less: 0, 2.5, 1234, 12k."""
    if value < 9.95:
        return f"{value:.1f}" if value else "0"
    if value < 9999.5:
        return f"{value:.0f}"
    return f"{value / 1000:.0f}k"


COLUMNS: Final = (
    Column("#", lambda row: str(row.worker.slot), lambda row: -row.worker.slot),
    Column("PID", lambda row: str(row.worker.pid), lambda row: row.worker.pid, 1),
    Column("GEN", lambda row: str(row.worker.generation), lambda row: row.worker.generation, 8),
    Column(
        "STATE",
        lambda row: f"{row.worker.state.replace('backing off', 'backoff')} {report.lanes(row.worker)}".rstrip(),
        lambda row: row.worker.state,
    ),
    Column("FOR", lambda row: report.duration(row.worker.seconds), lambda row: row.worker.seconds),
    Column("WAIT", lambda row: _or_dash(_wait(row), _brief), lambda row: _wait(row) or 0.0, 2),
    Column("AGE", lambda row: report.duration(row.worker.age), lambda row: row.worker.age, 9),
    Column("DONE", lambda row: report.number(row.worker.served), lambda row: row.worker.served),
    Column("/S", lambda row: rate(row.rate), lambda row: row.rate),
    Column("ERR", lambda row: report.number(row.worker.failed), lambda row: row.worker.failed, 4),
    Column("KEPT", lambda row: report.number(row.worker.parked), lambda row: row.worker.parked, 7),
    Column("MEAN", lambda row: _or_dash(row.worker.mean or None, report.duration), lambda row: row.worker.mean, 6),
    Column(
        "MAX", lambda row: _or_dash(row.worker.longest or None, report.duration), lambda row: row.worker.longest, 10
    ),
    Column("RSS", lambda row: report.size(row.worker.process.rss), lambda row: row.worker.process.rss or 0),
    Column("CPU", lambda row: _or_dash(row.cpu, lambda share: f"{share:.0%}"), lambda row: row.cpu or 0.0, 3),
    Column(
        "FDS",
        lambda row: _or_dash(row.worker.process.descriptors, lambda count: f"{count:.0f}"),
        lambda row: row.worker.process.descriptors or 0,
        11,
    ),
)
"""The table's columns. Sorted by one of them, the greatest comes first; of the slots, the lowest."""


class TopView:
    """What is shown now.

    Attributes:
        note: a line about what a key has brought about, or why there is nothing new.
        text: what covers the table (tracebacks), line by line; empty for nothing.
    """

    def __init__(self) -> None:
        self.note = ""
        self.text: list[str] = []
        self._status: Status | None = None
        self._rows: list[WorkerRow] = []
        self._rates: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)
        self._queues: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)
        self._waits: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)
        self._sort = 0
        self._backwards = False
        self._shows_requests = False
        self._selected = 0
        self._first_line = 0

    # What it is given.

    def take_status(self, status: Status) -> None:
        """The latest status."""
        before = self._status
        if before is not None and (before.pid, before.started) != (status.pid, status.started):
            before = None  # another server by now
        seconds = status.uptime - before.uptime if before else 0.0
        known = {worker.pid: worker for worker in before.workers} if before else {}
        selected = self._selected_pid
        self._rows = [_row(worker, known.get(worker.pid), seconds) for worker in status.workers]
        if before and seconds > 0:
            done = status.totals.served + status.totals.failed - before.totals.served - before.totals.failed
            self._rates.append(max(0.0, done / seconds))
            self._waits.append(_waited(before.totals, status.totals))
        self._queues.append(sum(listener.waiting for listener in status.listeners))
        self._status = status
        self._arrange(selected)

    def press(self, key: str) -> str:
        """A key, one character, or "up" or "down".

        Returns:
            What is to be done about it elsewhere: "quit", "dump", "recycle", "reload", "more", "less"; "" for nothing.
        """
        self.note = ""
        if self.text and key not in {"up", "down", "j", "k", "q"}:
            self.text = []
            return ""
        match key:
            case "q" | "\x03" | "\x04":
                return "quit"
            case "s":
                self._sort = (self._sort + 1) % len(COLUMNS)
                self._arrange(self._selected_pid)
            case "S":
                self._backwards = not self._backwards
                self._arrange(self._selected_pid)
            case "?" | "h":
                self.show("what it means (any key closes)", HELP)
            case "v":
                self._shows_requests = not self._shows_requests
            case "j" | "down":
                self._move(1)
            case "k" | "up":
                self._move(-1)
            case _:
                return {"d": "dump", "r": "recycle", "R": "reload", "+": "more", "-": "less"}.get(key, "")
        return ""

    def show(self, title: str, text: str) -> None:
        """Cover the table with a text until a key is pressed."""
        self.text = [title, "", *text.expandtabs().split("\n")]
        self._first_line = 0

    @property
    def slot(self) -> int | None:
        """The slot of the selected row."""
        return self._rows[self._selected].worker.slot if self._rows else None

    @property
    def _selected_pid(self) -> int:
        return self._rows[self._selected].worker.pid if self._rows else 0

    @property
    def size(self) -> int:
        """How many workers are wanted."""
        return self._status.size if self._status else 0

    def _move(self, by: int) -> None:
        if self.text:
            self._first_line = max(0, min(len(self.text) - 1, self._first_line + by))
        else:
            self._selected = max(0, min(len(self._rows) - 1, self._selected + by))

    def _arrange(self, selected: int) -> None:
        """Sort the rows; the selection stays with its worker, or on its line when that one is gone."""
        key = COLUMNS[self._sort].key
        self._rows.sort(key=lambda row: (row.worker.slot, row.worker.pid))
        self._rows.sort(key=key, reverse=not self._backwards)
        lines = {row.worker.pid: line for line, row in enumerate(self._rows)}
        self._selected = max(0, min(lines.get(selected, self._selected), len(self._rows) - 1))

    # The picture.

    def picture(self, width: int, height: int) -> Text:
        """All of it, in ``height`` lines of ``width`` columns at the most."""
        lines = self._head(width) if self._status else [Text("no answer yet", "dim")]
        keys = KEYS if width >= len(KEYS) else SHORT_KEYS
        foot = [_text(self.note, "bold yellow") if self.note else Text(keys, "dim")]
        room = max(0, height - len(lines) - len(foot))
        lines += self._cover(room) if self.text else self._body(room, width)
        lines += [Text("")] * (height - len(lines) - len(foot)) + foot
        for line in lines:
            line.truncate(width, overflow="ellipsis")  # whoever looks sees that there is more
        return Text("\n").join(lines[-height:] if height < len(lines) else lines)

    def _head(self, width: int) -> list[Text]:
        status = self._status
        assert status is not None
        lines = [_text(report.headline(status), "bold")]
        for listener in status.listeners:
            limit = f" of {listener.backlog}" if listener.backlog else ""
            lines.append(_text(f"{listener.address}  {listener.waiting} waiting{limit}"))
        lines += [_text(line) for line in report.molds(status)]
        lines.append(_text(report.sums(status.totals)))
        lines += [_text(line, "bold red") for line in report.alarms(status)]
        lines.append(_spark("rate", self._rates, width, f"{rate(self._rates[-1]) if self._rates else '-'}/s", "green"))
        lines.append(_spark("queue", self._queues, width, f"{self._queues[-1]:.0f}", "yellow"))
        if any(self._waits):
            lines.append(_spark("waited", self._waits, width, report.duration(self._waits[-1]), "magenta"))
        lines.append(self._scoreboard(status, width))
        return lines

    def _scoreboard(self, status: Status, width: int) -> Text:
        """A sign for each slot in order, and those that leave behind."""
        by_slot = {worker.slot: worker.state for worker in status.workers if worker.state != "leaving"}
        line = Text(f"{'workers':<8}")
        for slot in range(max(status.size, *(slot + 1 for slot in by_slot), 0)):
            state = by_slot.get(slot, "")
            line.append(SIGNS.get(state, "."), _STYLES.get(state, "dim"))
        line.append(SIGNS["leaving"] * sum(worker.state == "leaving" for worker in status.workers), "yellow")
        if len(line) + len(_LEGEND) <= width:
            line.append(_LEGEND, "dim")
        return line

    def _body(self, room: int, width: int) -> list[Text]:
        status = self._status
        deaths = [_text(report.death(ended), "dim") for ended in (status.deaths if status else ())[:_DEATHS]]
        if self._shows_requests and status is not None:
            return [_text(line, "" if number else "bold") for number, line in enumerate(report.running(status))][:room]
        rows = max(1, room - 1 - len(deaths))
        start = max(0, min(self._selected - rows + 1, len(self._rows) - rows)) if self._selected >= rows else 0
        lines = self._table(self._rows[start : start + rows], self._selected - start, width)
        gap = [Text("")] * max(0, room - len(lines) - len(deaths))
        return (lines + gap + deaths)[:room]

    def _table(self, rows: list[WorkerRow], selected: int, width: int) -> list[Text]:
        """The workers, in as many columns as there is room for; an ellipsis behind the headings stands for the rest."""
        columns = [
            (column, [column.heading, *(printable(column.cell(row)) for row in rows)], place == self._sort)
            for place, column in enumerate(COLUMNS)
        ]
        shown = _fitting(columns, width)
        lines = []
        for number in range(-1, len(rows)):
            text = Text()
            for column, cells, sorts in shown:
                cell, room = cells[number + 1], max(map(len, cells))
                style = "underline" if number < 0 and sorts else ""
                text.append(cell.ljust(room) if column.heading == "STATE" else cell.rjust(room), style)
                text.append(" ")
            if number >= 0:
                text.append(printable(" ".join(request.label for request in rows[number].worker.requests)))
            elif len(shown) < len(columns):
                text.append("…")
            text.stylize("bold" if number < 0 else _STYLES.get(rows[number].worker.state, ""))
            if number == selected:
                text.stylize("reverse")
            lines.append(text)
        return lines

    def _cover(self, room: int) -> list[Text]:
        return [_text(line) for line in self.text[self._first_line : self._first_line + room]]


_Shown = tuple[Column, list[str], bool]
"""A column, its heading and cells, and whether the rows are sorted by it."""


def _fitting(columns: list[_Shown], width: int) -> list[_Shown]:
    """Those for which there is room: what says least goes first, but never what the rows are sorted by."""
    shown = list(columns)

    def taken() -> int:
        return sum(1 + max(map(len, cells)) for _, cells, _ in shown) + (2 if len(shown) < len(columns) else 0)

    while taken() > width + 1:
        spare = [one for one in shown if one[0].rank and not one[2]]
        if not spare:
            break
        shown.remove(max(spare, key=lambda one: one[0].rank))
    return shown


def _row(worker: Working, before: Working | None, seconds: float) -> WorkerRow:
    if before is None or seconds <= 0:
        return WorkerRow(worker, 0.0, None)
    done = worker.served + worker.failed - before.served - before.failed
    cpu = None
    if worker.process.cpu is not None and before.process.cpu is not None:
        cpu = max(0.0, worker.process.cpu - before.process.cpu) / seconds
    return WorkerRow(worker, max(0.0, done / seconds), cpu)


def _waited(before: Totals, after: Totals) -> float:
    """In how many seconds 99 of a hundred were taken of what was taken meanwhile; 0 if within what can be told."""
    grown = [now - then for now, then in zip(after.waited, before.waited, strict=False)]
    if sum(grown) <= grown[0] if grown else True:
        return 0.0
    return min(report.quantile(after.waited_bounds, grown, 0.99), 2 * after.waited_bounds[-1])


def _spark(name: str, values: collections.deque[float], width: int, now: str, style: str) -> Text:
    room = max(0, width - 8 - 8)
    shown = list(values)[-room:] if room else []
    line = Text(f"{name:<8}")
    line.append(report.sparkline(shown).rjust(room), style)
    line.append(f" {now:>7}")
    return line
