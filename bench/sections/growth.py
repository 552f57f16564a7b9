"""Many workers, many connections, and what they hold."""

from __future__ import annotations

from bench.tables import Figures, missing, passage, prose, table


def boot(figures: Figures) -> list[str]:
    """Boot, stop and replace."""
    lines = ["## Boot, stop, replace", ""]
    if figures.get("workers"):
        rows = []
        for workers, row in figures["workers"].items():
            cells = [f"{int(workers):,}"]
            for step in ("boot", "stop"):
                cells += [f"{row[step][way]['median'] * 1e3:,.0f}" for way in ("fork", "prefork")]
                cells.append(f"{row[step]['ratio']:.2f}")
            rows.append([*cells, f"{row['both']['ratio']:.2f}", f"{row['cpu']['ratio']:.2f}"])
        head = ("workers", "boot: fork", "prefork", "x", "stop: fork", "prefork", "x", "both, x", "CPU, x")
        lines += passage(
            "",
            """
            From the start until every worker accepts, and until the last has ended: prefork against a loop of
            forks in the same image, whose children install the same handlers and accept. Milliseconds, medians.
            """,
            table(head, rows, left=0),
        )
    if figures.get("crash"):
        crash = figures["crash"]
        lines += [
            prose(
                f"""
                From the kill of the only worker to the first answer of the next: {crash["prefork"]["median"]:.1f} ms,
                and {crash["fork"]["median"]:.1f} ms with a loop of fork and wait.
                """
            ),
            "",
        ]
    return [*lines, *missing(figures)]


def idle(figures: Figures) -> list[str]:
    """What idle servers cost."""
    rows = [
        [f"{int(workers):,}", f"{row['wakeups']:.2f}", f"{row['master'] * 1e6:.0f}", f"{row['workers'] * 1e6:.0f}"]
        for workers, row in figures.get("idle", {}).items()
    ]
    text = "An idle server: wake-ups a second of the whole tree, CPU microseconds a second."
    head = ("workers", "wake-ups", "master, us", "workers, us")
    return ["## Idle", "", *passage("", text, table(head, rows, left=0)), *missing(figures)]


def memory(figures: Figures) -> list[str]:
    """What workers of an application hold, and what their first requests cost."""
    lines = ["## Memory and first requests", ""]
    if figures.get("held"):
        lines += passage(
            "",
            """
            A Django application after 50 requests a worker, ten of which collected all garbage. MiB; beside: master,
            arbiter, molds, in the sum.
            """,
            table(
                ("server", "workers", "a worker's own (USS)", "all together (PSS)", "beside"),
                [
                    [
                        row["title"],
                        str(row["workers"]),
                        f"{row['uss']:.1f}",
                        f"{row['pss']:.0f}",
                        f"{row['beside']:.0f}",
                    ]
                    for row in figures["held"].values()
                ],
            ),
        )
    if figures.get("first"):
        lines += passage(
            "",
            "CPU of a worker that has just taken another's place, milliseconds:",
            table(
                ("server", "first request", "second", "later"),
                [
                    [row["title"], *(f"{row[which]:.1f}" for which in ("first", "second", "later"))]
                    for row in figures["first"].values()
                ],
            ),
        )
    return [*lines, *missing(figures)]


def growth(figures: Figures) -> list[str]:
    """Cost among more workers and connections, orders, parked connections."""
    lines = ["## How it grows", ""]
    for name, text, what, why in _SERIES:
        if figures.get(name):
            lines += passage("", text, _points(figures[name], what))
            lines += [prose(f"{_grown(figures[name], what)} {why}"), ""]
    if figures.get("orders"):
        rows = [
            [
                f"{int(count):,}",
                *(_milliseconds(row[key]) for key in ("status", "status cpu", "reload", "reload cpu")),
                f"{row['pss']:.2f}",
                f"{row['uss']:.2f}",
                f"{row['master']:.1f}",
            ]
            for count, row in figures["orders"].items()
        ]
        head = ("workers", "status", "its CPU", "reload", "its CPU", "MiB a worker (PSS)", "its own (USS)", "master")
        text = """Orders to a server of bare handlers, milliseconds until they are answered, and CPU of the whole server
            meanwhile: a reload is answered when every worker has been replaced. And what a worker of it holds."""
        lines += passage("", text, table(head, rows, left=0))
        lines += [prose(f"{_grown_orders(figures['orders'])} {_WHY_ORDERS}"), ""]
    if figures.get("parked"):
        rows = [[row["title"], *(f"{kib:.2f}" for kib in row["points"].values())] for row in figures["parked"].values()]
        counts = next(iter(figures["parked"].values()))["points"]
        heads = ["server", *(f"of {int(count):,}" for count in counts)]
        text = """A connection that is kept and silent: KiB of the server's memory (PSS; the kernel's for the socket is
            everybody's), beyond what it holds with none, two workers."""
        lines += passage("", text, table(heads, rows))
    return [*lines, *missing(figures)]


def _milliseconds(seconds: float) -> str:
    return "too long" if seconds == float("inf") else f"{seconds * 1e3:,.1f}"


_SERIES = (
    (
        "workers",
        "CPU a connection, microseconds, among so many workers; 16 clients, connections closed.",
        "workers",
        """That is no straight line, and no server's: accept(2) and epoll(7) wake whoever has waited longest, so of more
        workers than there are clients each connection meets the one whose code and data the caches have forgotten most
        of. A C server has little to fetch again, an interpreter more. Workers beyond what processors and waiting need
        cost that.""",
    ),
    (
        "connections",
        """CPU a request, microseconds, on so many connections that are kept, on all of which requests are made all the
        time; two workers.""",
        "connections",
        """Up to some thousands that is level: a look finds up to sixteen who speak, however many are silent. With all
        of 10,000 asking without a pause each finds its socket, and what the kernel knows of it, out of the caches.""",
    ),
)


def _points(rows: Figures, what: str) -> list[str]:
    counts = list(dict.fromkeys(count for row in rows.values() for count in row["points"]))
    return table(
        ("server", *(f"{int(count):,} {what if place == 0 else ''}".strip() for place, count in enumerate(counts))),
        [
            [
                row["title"],
                *(
                    f"{row['points'][count]['cost']['median']:.1f}{'*' * bool(row['points'][count]['errors'])}"
                    if count in row["points"]
                    else "-"
                    for count in counts
                ),
            ]
            for row in rows.values()
        ],
    ) + (["", "A star: some requests failed."] if _failed(rows) else [])


def _grown(rows: Figures, what: str) -> str:
    """By how much each row's last figure is above its first."""
    told, most, least = [], "", ""
    for row in rows.values():
        least, *_, most = row["points"]
        first, last = (row["points"][count]["cost"]["median"] for count in (least, most))
        told.append(f"{row['title']} {last / first:.1f} x")
    return f"From {int(least):,} to {int(most):,} {what}: {', '.join(told)}."


def _grown_orders(orders: Figures) -> str:
    """What a reload and a look cost for each worker, among few and among many."""
    told = [
        f"{what} of {int(count):,} {orders[count][key] / int(count) * 1e3:.2f}"
        for what, key in (("a reload", "reload cpu"), ("a status", "status cpu"))
        for count in (next(iter(orders)), list(orders)[-1])
    ]
    return f"CPU for each worker, milliseconds: {', '.join(told)}."


_WHY_ORDERS = """A status is a straight line: a read of what each worker holds (smaps_rollup). A reload is one for the
    most part, a fork and an end for each. What bends it: the master decides by a look at all workers, some times for
    each that is replaced, and a fork copies, and its child closes, descriptors of which it has some for each."""


def _failed(rows: Figures) -> bool:
    return any(point["errors"] for row in rows.values() for point in row["points"].values())
