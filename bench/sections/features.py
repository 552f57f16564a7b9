"""What only some servers do."""

from __future__ import annotations

from collections.abc import Callable

from bench.features import IN_TIME, LANE_CLIENTS, LANES
from bench.tables import Figures, cheapest, missing, passage, table


def features(figures: Figures) -> list[str]:
    """A passage for each table."""
    lines = ["## What only some do", ""]
    for name, (title, text, show) in _PASSAGES.items():
        if figures.get(name):
            lines += passage(title, text, show(figures[name]))
    return [*lines, *missing(figures)]


def _lanes(rows: Figures) -> list[str]:
    return table(
        ("server", "us a request", "requests a second", "errors"),
        [
            (row["title"], f"{row['cost']['median']:.0f}", f"{row['rate']['median']:,.0f}", f"{row['errors']:,}")
            for row in cheapest(rows)
        ],
    )


def _both(rows: Figures) -> list[str]:
    def cells(row: Figures) -> list[str]:
        found = []
        for way in ("closing", "kept"):
            one = row.get(way)
            found += [f"{one['cost']['median']:.1f}", f"{one['ratio']['median']:.2f}"] if one else ["-", "-"]
        errors = sum(row[way]["errors"] for way in ("closing", "kept") if way in row)
        return [row["title"], *found, f"{errors:,}"]

    head = ("server", "closing, us", "x prefork", "kept, us", "x prefork", "errors")
    return table(head, [cells(row) for row in rows.values()])


def _log(rows: Figures) -> list[str]:
    return table(
        ("server", "without, us", "with, us", "more"),
        [
            (
                row["title"],
                f"{row['without']['cost']['median']:.1f}",
                f"{row['with']['cost']['median']:.1f}",
                f"{row['with']['cost']['median'] - row['without']['cost']['median']:.1f}",
            )
            for row in rows.values()
        ],
    )


def _overload(rows: Figures) -> list[str]:
    def milliseconds(us: float | None) -> str:
        return "-" if us is None else f"{us / 1000:,.0f}"

    return table(
        ("server", "requests", f"within {IN_TIME:g} s", "goodput", "p50, ms", "p99, ms", "503", "lost"),
        [
            (
                row["title"],
                f"{row['requests']:,}",
                f"{row['in time']:,}",
                f"{row['goodput']:.0%}",
                milliseconds(row["p50"]),
                milliseconds(row["p99"]),
                f"{row['shed']:,}",
                f"{row['lost']:,}",
            )
            for row in rows.values()
        ],
    )


_WAYS = (
    "CPU of the whole server a request, microseconds; two workers, 16 clients. Closing: each request has a connection."
)

_PASSAGES: dict[str, tuple[str, str, Callable[[Figures], list[str]]]] = {
    "lanes": (
        "Threads",
        f"""Requests that wait for 20 ms, two processes of {LANES} threads, {LANE_CLIENTS} clients that keep their
        connections: CPU a request, and requests a second of the 1,600 that {2 * LANES} threads can answer. (An event
        loop has no such limit.)""",
        _lanes,
    ),
    "tls": ("TLS", f"{_WAYS} Here that is a handshake for each. The key is of the curve P-256.", _both),
    "unix": ("Unix sockets", _WAYS, _both),
    "proxy": ("PROXY protocol", f"{_WAYS} The header, of version 1, comes once a connection.", _both),
    "log": ("Access log", "The same with and without a line for each request in a file; connections closed.", _log),
    "overload": (
        "Overload",
        f"""Twice the requests that four workers can answer, each of which takes 20 ms; clients wait for five seconds.
        Goodput: answers within {IN_TIME:g} s, as a share of what four workers can do in that time.""",
        _overload,
    ),
    "flask": ("Flask", f"A view that answers six bytes. {_WAYS}", _both),
    "django": ("Django", f"A view with sessions, messages, authentication and a template. {_WAYS}", _both),
    "asgi": ("ASGI", f"uvicorn in prefork's workers beside uvicorn's own processes and others. {_WAYS}", _both),
}
