"""What was lost, scenario by scenario."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.kept import PATIENCE
from bench.losses import OUTLIVED
from bench.tables import Figures, missing, seconds, size, table


def _outcomes(row: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in row["outcomes"].items()) or "none"


SCENARIOS: dict[str, tuple[str, Sequence[str], Callable[[dict[str, Any]], Sequence[str]]]] = {
    "stop": (
        "A graceful stop while clients wait for an answer of 20 ms.",
        ("lost", "how", "the stop took"),
        lambda row: (f"{row['lost']} of {row['requests']}", _outcomes(row), seconds(row["seconds"], PATIENCE)),
    ),
    "reload": (
        "Reloads, one after the other, under eight clients.",
        ("lost", "how", "reloads", "each took"),
        lambda row: (
            f"{row['lost']:,} of {row['requests']:,}",
            _outcomes(row),
            str(row["reloads"]),
            seconds(row["seconds"], PATIENCE),
        ),
    ),
    "kept_stop": (
        "Graceful stops under 24 clients that keep their connections, and think for 40 ms at the most.",
        ("lost", "stops"),
        lambda row: (f"{row['lost']:,} of {row['requests']:,}", str(row["times"])),
    ),
    "kept_reload": (
        "Reloads, likewise: closed are kept connections that the server has ended, whoever had been told of it.",
        ("lost", "closed", "reloads"),
        lambda row: (f"{row['lost']:,} of {row['requests']:,}", f"{row['closed']:,}", str(row["times"])),
    ),
    "crash": (
        "A worker killed (SIGKILL) every 100 ms under eight clients. A connection in its hand is lost with it.",
        ("lost", "kills", "how", "whole again"),
        lambda row: (
            f"{row['lost']:,} of {row['requests']:,}",
            str(row["kills"]),
            _outcomes(row),
            "yes" if row["whole"] else "no",
        ),
    ),
    "orphans": (
        "The master killed (SIGKILL) while all is idle.",
        (f"workers left after {OUTLIVED:g} s", "gone after"),
        lambda row: (f"{row['left']} of {row['workers']}", seconds(row["seconds"], OUTLIVED)),
    ),
    "limit": (
        "No descriptor to be had for some seconds, while a client arrives every 50 ms; then there are again.",
        ("lost", "how", "CPUs used", "log", "processes that died", "serves after"),
        lambda row: (
            f"{row['lost']} of {row['requests']}",
            _outcomes(row),
            "-" if row["cpus"] is None else f"{row['cpus']:.2f}",
            size(row["log"]),
            str(row["deaths"]),
            "yes" if row["recovered"] else "no",
        ),
    ),
    "restart": (
        "Stops, each followed by a start on the same port, while a client arrives every 4 ms, whoever is there.",
        ("lost", "how", "times"),
        lambda row: (f"{row['lost']:,} of {row['requests']:,}", _outcomes(row), str(row["restarts"])),
    ),
    "renew": (
        "The same without a gap: upgrades in place (SIGUSR2).",
        ("lost", "how", "times"),
        lambda row: (f"{row['lost']:,} of {row['requests']:,}", _outcomes(row), str(row["restarts"])),
    ),
}


def losses(figures: Figures) -> list[str]:
    """A table for each scenario that was played."""
    lines = [
        "## What is lost",
        "",
        "Requests that were refused, reset, cut off or not answered within ten seconds. Clients never repeat one.",
    ]
    for name, (says, head, cells) in SCENARIOS.items():
        rows = []
        for row in figures.get(name, {}).values():
            if "error" in row:
                rows.append([row["title"], f"could not be played: {row['error']}", *[""] * (len(head) - 1)])
            else:
                rows.append([row["title"], *cells(row)])
        if rows:
            lines += ["", says, "", *table(("server", *head), rows)]
    return [*lines, "", *missing(figures)]
