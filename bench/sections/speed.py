"""What a connection costs, how long an answer takes, and where the microseconds go."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.tables import Figures, Row, cheapest, missing, passage, prose, table


def cost(figures: Figures) -> list[str]:
    """Closing, kept, and echoing connections."""
    lines = ["## What a connection costs", ""]
    if figures.get("hello"):
        rows = cheapest(figures["hello"])
        python = figures["hello"].get("bare", {"ratio": {"median": float("nan")}})["ratio"]["median"]
        lines += passage(
            "",
            """
            `wrk -t1 -c16 -H 'Connection: close'`, two workers: CPU time of the whole server, user and system,
            divided by the connections; that as a multiple of the C server's in the same round, with the middle
            half of the rounds, and of a bare loop's in Python: how far an interpreter is from C differs from CPU to
            CPU, so a server in Python is held to that loop.
            """,
            table(
                ("server", "us a connection", "x C", "middle half", "x Python", "connections a second", "errors"),
                [
                    (
                        row["title"],
                        f"{row['cost']['median']:.1f}",
                        f"{row['ratio']['median']:.2f}",
                        f"{row['ratio']['low']:.2f} to {row['ratio']['high']:.2f}",
                        f"{row['ratio']['median'] / python:.2f}",
                        f"{row['rate']['median']:,.0f}",
                        f"{row['errors']:,}",
                    )
                    for row in rows
                ],
            ),
        )
    if figures.get("kept"):
        lines += passage(
            "",
            "The same clients, keeping their connections, with the servers that do:",
            table(
                ("server", "us a request", "x prefork", "middle half", "requests a second", "errors"),
                [
                    (
                        row["title"],
                        f"{row['cost']['median']:.1f}",
                        f"{row['ratio']['median']:.2f}",
                        f"{row['ratio']['low']:.2f} to {row['ratio']['high']:.2f}",
                        f"{row['rate']['median']:,.0f}",
                        f"{row['errors']:,}",
                    )
                    for row in cheapest(figures["kept"])
                ],
            ),
        )
    if figures.get("echo"):
        lines += _echo(figures["echo"])
    return [*lines, *missing(figures)]


def _echo(figures: Figures) -> list[str]:
    titles = {name: row["title"] for by_name in figures.values() for name, row in by_name.items()}
    head = ["server"]
    for messages in figures:
        head += [f"{messages} message{'s' * (messages != '1')}, us", "x C"]
    rows = []
    for name, title in titles.items():
        row = [title]
        for by_name in figures.values():
            found = by_name.get(name)
            row += [f"{found['cost']['median']:.1f}", f"{found['ratio']['median']:.2f}"] if found else ["-", "-"]
        rows.append(row)
    text = "Connections that send messages of 64 bytes and read each back, with 16 clients:"
    return passage("", text, table(head, rows))


def latency(figures: Figures) -> list[str]:
    """Closing and kept connections under load, and beside slow requests."""
    lines = [
        "## How long an answer takes",
        "",
        prose(
            """
            Open loop: requests are sent at random moments at a half and four fifths of what wrk got out of the
            same server, from 250 addresses so that no port is wanted twice, and count from the moment at which they
            were due. Milliseconds, two workers; medians of the rounds, and the middle half of the rounds' p99. A star:
            the client was on its CPU nine tenths of the time, and its own delays are in the figures.
            """
        ),
        "",
    ]
    if figures.get("plain"):
        lines += [*_under_loads(figures["plain"]), ""]
    if figures.get("tail"):
        text = """
            What a p99 is in one round, a scheduler decides, for the client and two workers share the processors. So
            those that are compared below have many short rounds by turns, and as many requests a second:
            """
        lines += passage("", text, _beside_the_floor(figures["tail"]))
    if figures.get("kept"):
        text = "On connections that are kept, with the servers that do:"
        lines += passage("", text, _under_loads(figures["kept"]))
    if figures.get("slow"):
        rows = [[row["title"], *_quantiles(row), f"{row['lost']:,}"] for row in figures["slow"].values()]
        text = "One request in a hundred takes 20 ms; eight workers, 2,000 requests a second. The quick ones:"
        lines += passage("", text, table(("server", *_QUANTILES, "lost"), rows))
        lines += [
            prose(
                """
                With one shared accept queue a connection goes to whoever is idle. With SO_REUSEPORT the kernel
                chooses the queue by a hash, blind to who is busy, and some wait behind a slow request.
                """
            ),
            "",
        ]
    return [*lines, *missing(figures)]


def _beside_the_floor(servers: Figures) -> list[str]:
    floor = servers.get("floor", {})
    rows = []
    for loads in servers.values():
        for load, row in loads.items():
            ratio = "-"
            if load in floor:
                pairs = zip(row["p99s"], floor[load]["p99s"], strict=True)
                ratio = f"{statistics.median(ours / max(1, theirs) for ours, theirs in pairs):.2f}"
            rows.append([row["title"], f"{float(load):.0%}", f"{row['rate']:,.0f}", *_quantiles(row), ratio])
    return table(("server", "load", "requests a second", *_QUANTILES, "p99 x C, by rounds"), rows)


_QUANTILES = ("p50", "p99", "middle half", "p99.9")
_BUSY = 0.9


def _under_loads(servers: Figures) -> list[str]:
    rows = [
        [row["title"], f"{float(load):.0%}", f"{row['rate']:,.0f}", *_quantiles(row), f"{row['lost']:,}"]
        for loads in servers.values()
        for load, row in loads.items()
    ]
    return table(("server", "load", "requests a second", *_QUANTILES, "lost"), rows)


def _quantiles(row: Row) -> Sequence[str]:
    p50, p99, p999, low, high = (row[name] / 1000 for name in ("p50", "p99", "p99.9", "p99 low", "p99 high"))
    star = "*" if row["busy"] > _BUSY else ""
    return [f"{p50:.2f}", f"{p99:.2f}{star}", f"{low:.2f} to {high:.2f}", f"{p999:.2f}"]


def profile(figures: Figures) -> list[str]:
    """By perf, strace, and steps alone."""
    lines = ["## Where the microseconds go", ""]
    if figures.get("shares"):
        places = ("kernel", "C library", "interpreter", "socket module", "other")
        shares = [
            [row["title"], f"{row['cost']:.1f}", *(f"{row['places'].get(place, 0.0):.2f}" for place in places)]
            for row in figures["shares"].values()
        ]
        text = "By where the CPU was (perf), microseconds a connection:"
        lines += passage("", text, table(("server", "all", *places), shares))
    if figures.get("calls"):
        calls = [
            [row["title"], ", ".join(f"{name} {count:.2f}" for name, count in sorted(row["calls"].items()))]
            for row in figures["calls"].values()
        ]
        text = "System calls a connection (strace, which slows the server down):"
        lines += passage("", text, table(("server", "calls"), calls, left=2))
    if figures.get("steps"):
        text = "Steps of prefork's own, each timed alone in a loop, microseconds:"
        steps = [[name, f"{cost:.2f}"] for name, cost in figures["steps"].items()]
        lines += passage("", text, table(("step", "us"), steps))
    return [*lines, *missing(figures)]
