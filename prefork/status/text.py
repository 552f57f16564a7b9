"""A status as text: numbers that are short enough for a table, and the page that ``prefork status`` prints. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from prefork.status.model import Ended, Status, Totals, Working

_MINUTE, _HOUR, _DAY = 60, 3600, 86400

HEADINGS = ("SLOT", "PID", "GEN", "STATE", "FOR", "AGE", "SERVED", "FAIL", "MEAN", "MAX", "RSS", "CPU", "FDS")
"""Over the workers' columns."""

_WORDS = frozenset({"STATE", "FROM", "REQUEST"})
"""Headings of columns that are words."""


def duration(seconds: float) -> str:
    """A time in five characters or less: 87us, 8.7ms, 1.2s, 13m, 2h13, 5d3h."""
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f}us"
    if seconds < 0.9995:
        return _short(seconds * 1e3, "ms")
    if seconds < _MINUTE:
        return _short(seconds, "s")
    whole = int(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}"
    if whole < 10 * _DAY:
        return f"{whole // _DAY}d{whole % _DAY // _HOUR}h"
    return f"{whole // _DAY}d"


def size(count: int | None) -> str:
    """Bytes in five characters or less: 512, 19M, 1.2G; "-" for what is not known."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("", "K", "M", "G"):
        if amount < 1000:
            return _short(amount, unit) if unit else str(count)
        amount /= 1024
    return _short(amount, "T")


def number(count: float) -> str:
    """A count in six characters or less: 123456, 1.23M."""
    if count < 1_000_000:
        return f"{count:.0f}"
    for unit in ("M", "G"):
        count /= 1000 if unit == "G" else 1_000_000
        if count < 999.5:
            return f"{count:.3g}{unit}"
    return f"{count / 1000:.3g}T"


def _short(amount: float, unit: str) -> str:
    return f"{amount:.1f}{unit}" if amount < 9.95 else f"{amount:.0f}{unit}"


def page(status: Status) -> str:
    """All of it, as lines for a terminal or a mail."""
    return "\n".join(_page(status)) + "\n"


def _page(status: Status) -> Iterator[str]:
    yield headline(status)
    width = max((len(listener.address) for listener in status.listeners), default=0)
    for listener in status.listeners:
        limit = f" of {listener.backlog}" if listener.backlog else ""
        yield f"  {listener.address:<{width}}  {listener.waiting} waiting{limit}"
    yield from (f"  {line}" for line in molds(status))
    yield f"  {crew(status)}"
    yield f"  {sums(status.totals)}"
    yield from (f"  {line}" for line in alarms(status))
    if status.workers:
        yield ""
        yield from table([HEADINGS, *map(row, status.workers)])
    if status.deaths:
        yield ""
        yield "last deaths:"
        yield from (f"  {death(ended)}" for ended in status.deaths)


def requests(status: Status) -> str:
    """What runs now, what has run longest first, as lines for a terminal."""
    return "\n".join(running(status)) + "\n"


def running(status: Status) -> list[str]:
    """The lines of :func:`requests`."""
    found = [(worker, request) for worker in status.workers for request in worker.requests]
    if not found:
        return ["nothing runs"]
    found.sort(key=lambda pair: -pair[1].seconds)
    cells = [
        (
            str(worker.slot),
            str(worker.pid),
            duration(request.seconds),
            "-" if request.waited is None else duration(request.waited) if request.waited else "0s",
            request.peer or "-",
            request.label or "-",
        )
        for worker, request in found
    ]
    return list(table([("SLOT", "PID", "FOR", "WAITED", "FROM", "REQUEST"), *cells]))


def headline(status: Status) -> str:
    """What it is, and for how long."""
    name = f" [{status.name}]" if status.name else ""
    return (
        f"prefork {status.version}{name}, pid {status.pid}: {status.state}, up {duration(status.uptime)}, "
        f"generation {status.generation}"
    )


def molds(status: Status) -> Iterator[str]:
    """Of what workers are made, one line each."""
    for mold in status.molds:
        memory = "" if mold.pss is None else f", {size(mold.pss)} of memory"
        yield f"mold of generation {mold.generation}, pid {mold.pid}: {mold.state}, up {duration(mold.age)}{memory}"


def crew(status: Status) -> str:
    """How many workers, by state."""
    counts: dict[str, int] = {}
    for worker in status.workers:
        counts[worker.state] = counts.get(worker.state, 0) + 1
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    elastic = f" ({status.smallest} to {status.largest})" if status.smallest != status.largest else ""
    parked = sum(worker.parked for worker in status.workers)
    kept = f"; {_count(parked, 'connection')} kept" if parked else ""
    threads = sum(len(worker.lanes) for worker in status.workers)
    busy = f"; {sum(worker.in_hand for worker in status.workers)} of {threads} threads busy" if threads else ""
    return f"{_count(status.size, 'worker')} wanted{elastic}: {by_state or 'none lives'}{busy}{kept}"


_KEPT = {
    "reused": "of these on kept connections",
    "handed_over": "kept connections handed over",
    "expired": "closed after keepalive",
    "evicted": "closed to make room",
    "left": "closed by their clients",
}


def sums(totals: Totals) -> str:
    """What has been done since the start."""
    told = [f"{totals.served} served", f"{totals.failed} failed"]
    for count, what in ((totals.interrupted, "interrupted"), (totals.refused, "refused")):
        if count:
            told.append(f"{count} {what}")
    told += [f"{totals.kept[name]} {what}" for name, what in _KEPT.items() if totals.kept.get(name)]
    finished = totals.served + totals.failed
    if finished:
        told.append(f"{duration(totals.busy / finished)} each")
    if sum(totals.waited):
        told.append(f"99 % waited {waited(totals.waited_bounds, totals.waited)}")
    told += [f"accept failed {count} times with {name}" for name, count in sorted(totals.accept_errors.items())]
    return ", ".join(told)


def waited(bounds: Sequence[float], histogram: Sequence[int]) -> str:
    """In which time 99 of a hundred were taken, as a histogram has it."""
    within = quantile(bounds, histogram, 0.99)
    return f"less than {duration(within)}" if within < math.inf else f"more than {duration(bounds[-1])}"


def quantile(bounds: Sequence[float], histogram: Sequence[int], share: float) -> float:
    """The bound below which that share of a histogram's values is; infinite where it is in the last place.

    Args:
        bounds: of the places, but the last.
        histogram: how many values are in each; at least one.
        share: 0 to 1.
    """
    wanted, so_far = share * sum(histogram), 0
    for bound, count in zip(bounds, histogram, strict=False):
        so_far += count
        if so_far >= wanted:
            return bound
    return math.inf


def alarms(status: Status) -> list[str]:
    """What is not as it should be, one line each."""
    told = [f"EXHAUSTED: {line}" for line in status.exhaustions]
    if status.crash_loop:
        told.append("CRASH LOOP: workers die young again and again; see the log")
    return told


def lanes(worker: Working) -> str:
    """How many of its lanes are busy, where it has several and one is."""
    return f"{worker.in_hand}/{len(worker.lanes)}" if worker.in_hand else ""


def row(worker: Working) -> tuple[str, ...]:
    """One worker, in the columns of :data:`HEADINGS`."""
    process = worker.process
    return (
        str(worker.slot),
        str(worker.pid),
        str(worker.generation),
        " ".join(filter(None, (worker.state, worker.error, lanes(worker)))),
        duration(worker.seconds),
        duration(worker.age),
        number(worker.served),
        number(worker.failed),
        duration(worker.mean) if worker.mean else "-",
        duration(worker.longest) if worker.longest else "-",
        size(process.rss),
        "-" if process.cpu is None else duration(process.cpu) if process.cpu else "0s",
        "-" if process.descriptors is None else str(process.descriptors),
    )


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as lines, the headings first; numbers stand to the right, words to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {place for place, heading in enumerate(rows[0]) if heading in _WORDS}
    for cells in rows:
        padded = (
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield " ".join(padded).rstrip()


def death(ended: Ended) -> str:
    """One death in one line."""
    reason = f" ({ended.reason})" if ended.reason else ""
    in_hand = f"; in hand: {ended.in_hand}" if ended.in_hand else ""
    return (
        f"{duration(ended.ago)} ago worker {ended.slot} (pid {ended.pid}, generation {ended.generation}) {ended.how} "
        f"after {duration(ended.age)}, {ended.served} served{reason}{in_hand}"
    )


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sparkline(values: Iterable[float], most: float | None = None) -> str:
    """Values as a line of blocks, the highest at full height.

    Args:
        values: none below 0.
        most: what stands at full height; the greatest value when None.
    """
    listed = list(values)
    top = max(listed, default=0.0) if most is None else most
    last = len(_BLOCKS) - 1
    if top <= 0:
        return _BLOCKS[0] * len(listed)
    # Whatever is more than nothing can be seen.
    return "".join(_BLOCKS[max(min(last, round(value / top * last)), int(value > 0))] for value in listed)


_BLOCKS = " ▁▂▃▄▅▆▇█"
