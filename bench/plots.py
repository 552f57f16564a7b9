"""The plots beside RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]  # it is in the environment of the bench only

mpl.use("Agg")  # draws into files; there may be no screen

import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]  # as above
from matplotlib.axes import Axes  # type: ignore[import-not-found,unused-ignore]  # as above

OURS, FLOOR, PEER = "#d1495b", "#2e2e2e", "#8d99ae"

PLACES = {
    "kernel": "#2e2e2e",
    "C library": "#8d99ae",
    "interpreter": "#edae49",
    "socket module": "#66a182",
    "other": "#d9d9d9",
}

STYLE = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text that can be searched, and small files
    "svg.hashsalt": "prefork",  # the same figures give the same file
}


def draw(parts: dict[str, Any], names: dict[str, list[str]], folder: Path) -> dict[str, list[str]]:
    """Draw what was measured, and leave no other plots in the folder.

    Args:
        parts: the figures of each part.
        names: the plots of each part.
        folder: where the files go.

    Returns:
        The names of those that could be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[str]] = {}
    with mpl.rc_context(STYLE):
        for part, wanted in names.items():
            for name in wanted:
                paint, size = _PLOTS[name]
                figure = plt.figure(figsize=size, layout="constrained")
                try:
                    paint(figure, parts[part])
                    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
                except Exception as why:  # noqa: BLE001  # a picture of odd figures must not cost the figures
                    print(f"scripts/bench: the plot {name} failed: {type(why).__name__}: {why}", file=sys.stderr)
                else:
                    drawn.setdefault(part, []).append(name)
                plt.close(figure)
    kept = {f"{name}.svg" for found in drawn.values() for name in found}
    for old in folder.glob("*.*"):
        if old.name not in kept:
            old.unlink()
    return drawn


def _color(name: str) -> str:
    return OURS if name.startswith("prefork") else FLOOR if name == "floor" else PEER


def _cost(figure: Any, figures: dict[str, Any]) -> None:
    axes: Axes = figure.subplots()
    rows = sorted(figures["hello"].items(), key=lambda item: float(item[1]["cost"]["median"]), reverse=True)
    for place, (name, row) in enumerate(rows):
        cost, ratio = row["cost"], row["ratio"]["median"]
        axes.barh(place, cost["median"], color=_color(name), height=0.7)
        axes.plot([cost["low"], cost["high"]], [place, place], color="#000000", linewidth=1, alpha=0.6)
        axes.annotate(
            f"{cost['median']:.0f} us   {ratio:.2f} x",
            (max(cost["median"], cost["high"]), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(rows)), [row["title"] for _, row in rows])
    axes.set_xlim(0, max(row["cost"]["high"] for _, row in rows) * 1.22)
    axes.set_xlabel("microseconds of CPU a connection, the whole server; multiples of the C server")
    axes.set_title("What a connection costs")
    axes.grid(axis="x")


def _echo(figure: Any, figures: dict[str, Any]) -> None:
    axes: Axes = figure.subplots()
    counts = [int(messages) for messages in figures["echo"]]
    for name in next(iter(figures["echo"].values())):
        rows = [by_name[name] for by_name in figures["echo"].values() if name in by_name]
        if len(rows) < len(counts):
            continue
        heights = [row["cost"]["median"] for row in rows]
        axes.plot(counts, heights, marker="o", color=_color(name), label=rows[0]["title"], linewidth=2)
    lines = axes.get_lines()
    for line, style in zip(lines, ("-", "-", "-", "--"), strict=False):
        line.set_linestyle(style)
    if len(lines) > 1:
        lines[1].set_color(PLACES["interpreter"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("messages a connection")
    axes.set_ylabel("microseconds of CPU a connection")
    axes.set_title("Longer connections")
    axes.grid(which="major")
    axes.legend()


def _latency(figure: Any, figures: dict[str, Any]) -> None:
    plain, slow = figure.subplots(1, 2, sharey=True)
    names = list(figures["plain"])
    peers = plt.get_cmap("Dark2")
    for place, name in enumerate(names):
        row = figures["plain"][name].get("0.8")
        if row is None:
            continue
        color = _color(name) if _color(name) != PEER else peers(place % 8)
        _curve(plain, row, color, ":" if name == "prefork-reuseport" else "-", row["title"])
    plain.set_title("At 80 % of capacity")
    for name, row in figures["slow"].items():
        _curve(slow, row, OURS, ":" if name == "prefork-reuseport" else "-", row["title"])
    slow.set_title("Beside slow requests: 1 in 100 takes 20 ms")
    for axes in (plain, slow):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([1, 10, 100, 1000, 10000], ["0", "90", "99", "99.9", "99.99"])
        axes.set_xlim(1, 10000)
        axes.set_xlabel("percent of requests that were answered within")
        axes.grid(which="major")
        axes.legend(fontsize=8)
    plain.set_ylabel("milliseconds")


def _curve(axes: Axes, row: dict[str, Any], color: Any, style: str, label: str) -> None:
    steps = [10 ** (step / 10) for step in range(len(row["curve"]))]
    # A quantile of which fewer than ten requests lie beyond says nothing.
    known = [step for step in steps if row["answered"] / step >= 10]
    axes.plot(known, [us / 1000 for us in row["curve"][: len(known)]], color=color, linestyle=style, label=label, lw=2)


_LOST = {
    "stop": "graceful stop",
    "reload": "reloads",
    "kept_stop": "stops, kept",
    "kept_reload": "reloads, kept",
    "crash": "killed workers",
    "limit": "no descriptors",
    "restart": "stops and starts",
    "renew": "upgrades in place",
}


def _losses(figure: Any, figures: dict[str, Any]) -> None:
    axes: Axes = figure.subplots()
    titles: dict[str, str] = {}
    for scenario in _LOST:
        titles.update({name: row["title"] for name, row in figures.get(scenario, {}).items()})
    names = list(titles)
    for across, scenario in enumerate(_LOST):
        for down, name in enumerate(names):
            row = figures.get(scenario, {}).get(name)
            text, color, ink = _cell(scenario, row)
            axes.add_patch(plt.Rectangle((across + 0.03, down + 0.05), 0.94, 0.9, color=color))
            axes.text(across + 0.5, down + 0.5, text, ha="center", va="center", color=ink, fontsize=9)
    axes.set_xlim(0, len(_LOST))
    axes.set_ylim(len(names), 0)
    axes.set_xticks([n + 0.5 for n in range(len(_LOST))], list(_LOST.values()))
    axes.set_yticks([n + 0.5 for n in range(len(names))], list(titles.values()))
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("Requests lost", pad=24)


def _cell(scenario: str, row: dict[str, Any] | None) -> tuple[str, str, str]:
    """The text, the color and the color of the text."""
    if row is None:
        return "", "#f5f5f5", "#000000"
    if "error" in row:
        return "failed", "#f5f5f5", "#777777"
    lost, requests = row["lost"], row["requests"]
    if scenario == "restart":
        # While nobody is there, nobody can be reached: that is the operator's gap, not the server's loss.
        refused = row["outcomes"].get("refused", 0)
        lost -= refused
        beside = f"\n{refused:,} refused between"
    else:
        beside = f"\n{row['kills']} kills" if scenario == "crash" else ""
    if not lost:
        return f"0{beside}", "#66a182", "#ffffff"
    text = f"{lost:,}{beside}" if beside else f"{lost:,} of {requests:,}"
    if scenario == "crash" and lost <= row["kills"]:
        return text, "#a7c7a5", "#000000"
    return text, "#edae49" if lost < 0.05 * requests else "#d1495b", "#ffffff"


def _boot(figure: Any, figures: dict[str, Any]) -> None:
    axes: Axes = figure.subplots()
    counts = [int(workers) for workers in figures["workers"]]
    for way, color, label in (("fork", FLOOR, "a loop of forks"), ("prefork", OURS, "prefork")):
        for step, style in (("boot", "-"), ("stop", ":")):
            heights = [row[step][way]["median"] for row in figures["workers"].values()]
            axes.plot(counts, heights, color=color, linestyle=style, marker="o", lw=2, label=f"{label}: {step}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("workers")
    axes.set_ylabel("seconds")
    axes.set_title("Boot and stop")
    axes.grid(which="major")
    axes.legend()


def _profile(figure: Any, figures: dict[str, Any]) -> None:
    axes: Axes = figure.subplots()
    rows = list(figures["shares"].values())[::-1]
    for down, row in enumerate(rows):
        left = 0.0
        for place, color in PLACES.items():
            width = row["places"].get(place, 0.0)
            axes.barh(down, width, left=left, color=color, height=0.6, label=place if down == 0 else None)
            left += width
        axes.annotate(f"{left:.1f}", (left, down), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows])
    axes.set_xlabel("microseconds of CPU a connection")
    axes.set_title("Where they go")
    axes.grid(axis="x")
    axes.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.4, -0.22), fontsize=9)


_WAYS = {"closing": "a connection for each request", "kept": "kept connections"}

_FEATURES = {
    "tls": "TLS",
    "unix": "Unix sockets",
    "proxy": "PROXY protocol",
    "flask": "Flask",
    "django": "Django",
    "asgi": "ASGI",
}


def _features(figure: Any, figures: dict[str, Any]) -> None:
    shown = [(name, title) for name, title in _FEATURES.items() if figures.get(name)]
    panels = list(figure.subplots(-(-len(shown) // 2), 2, squeeze=False).flat)
    for axes in panels:
        axes.set_visible(False)
    for axes, (table, title) in zip(panels, shown, strict=False):
        axes.set_visible(True)
        rows = list(figures[table].items())[::-1]
        for place, (name, row) in enumerate(rows):
            for shift, alpha, way in ((0.2, 1.0, "closing"), (-0.2, 0.5, "kept")):
                if way not in row:
                    continue
                cost = row[way]["cost"]["median"]
                axes.barh(place + shift, cost, color=_color(name), alpha=alpha, height=0.38)
                axes.annotate(f"{cost:.0f}", (cost, place + shift), (3, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(rows)), [row["title"] for _, row in rows])
        axes.margins(x=0.12)
        axes.set_title(title)
        axes.grid(axis="x")
    ways = ", ".join(f"{shade}: {_WAYS[way]}" for shade, way in (("dark", "closing"), ("light", "kept")))
    figure.supxlabel(f"microseconds of CPU a request; {ways}", fontsize=10)


def _memory(figure: Any, figures: dict[str, Any]) -> None:
    held, first = figure.subplots(1, 2)
    for axes, rows, keys, unit, title in (
        (held, figures["held"], ("pss", "beside"), "MiB of all processes (PSS); pale: without workers", "Memory"),
        (first, figures["first"], ("first", "later"), "CPU milliseconds; pale: later ones", "A worker's first request"),
    ):
        ordered = list(rows.items())[::-1]
        for place, (name, row) in enumerate(ordered):
            axes.barh(place, row[keys[0]], color=_color(name), height=0.7)
            axes.barh(place, row[keys[1]], color="#ffffff", alpha=0.55, height=0.7)
            axes.annotate(f"{row[keys[0]]:.0f}", (row[keys[0]], place), (3, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(ordered)), [row["title"] for _, row in ordered])
        axes.margins(x=0.12)
        axes.set_xlabel(unit)
        axes.set_title(title)
        axes.grid(axis="x")


def _growth(figure: Any, figures: dict[str, Any]) -> None:
    panels = iter(figure.subplots(2, 2).flat)
    for table, label in (("workers", "workers"), ("connections", "kept connections, all busy")):
        axes = next(panels)
        for place, (name, row) in enumerate(figures.get(table, {}).items()):
            counts = [int(count) for count in row["points"]]
            costs = [point["cost"]["median"] for point in row["points"].values()]
            _line(axes, counts, costs, row["title"], _shade(name, place))
        _scaled(axes, label, "microseconds of CPU", "A request", linear=True)
    orders = figures.get("orders", {})
    axes = next(panels)
    for place, (key, title) in enumerate((("reload", "reload"), ("status", "status"))):
        points = [row[key] * 1e3 if row[key] != float("inf") else float("nan") for row in orders.values()]
        _line(axes, [int(count) for count in orders], points, title, (OURS, FLOOR)[place])
    _scaled(axes, "workers", "milliseconds", "Orders")
    axes = next(panels)
    for place, (name, row) in enumerate(figures.get("parked", {}).items()):
        points = [kib * int(count) / 1024 for count, kib in row["points"].items()]
        _line(axes, [int(count) for count in row["points"]], points, row["title"], _shade(name, place))
    _scaled(axes, "kept connections, silent", "MiB beyond none", "Memory", linear=True)


def _shade(name: str, place: int) -> Any:
    """Ours and the floor have their colors; peers one each."""
    return _color(name) if _color(name) != PEER else plt.get_cmap("Dark2")(place % 8)


def _line(axes: Axes, counts: Sequence[int], heights: Iterable[float], label: str, color: Any) -> None:
    if not counts:
        return
    style = "--" if label.endswith("handler") or "uvicorn)" in label else "-"
    axes.plot(counts, list(heights), marker="o", label=label, color=color, linestyle=style, lw=2)


def _scaled(axes: Axes, across: str, up: str, title: str, *, linear: bool = False) -> None:
    if axes.get_lines():  # nothing has no logarithm
        axes.set_xscale("log")
        if linear:
            axes.set_ylim(bottom=0)
        else:
            axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title)
    axes.grid(which="major")
    if axes.get_lines():
        axes.legend(fontsize=8)


_Paint = Callable[[Any, dict[str, Any]], None]

_PLOTS: dict[str, tuple[_Paint, tuple[float, float]]] = {
    "cost": (_cost, (9, 6)),
    "echo": (_echo, (7, 4)),
    "latency": (_latency, (11, 5)),
    "features": (_features, (11, 10)),
    "losses": (_losses, (11, 6.5)),
    "memory": (_memory, (11, 3.6)),
    "growth": (_growth, (11, 8)),
    "boot": (_boot, (7, 4)),
    "profile": (_profile, (9, 3)),
}
"""What draws each, and its size in inches."""
