"""RESULTS.md: the goals and whether they are met, then each part with its table and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import goals, results
from bench.workshop import HERE

PARTS = ("cost", "latency", "losses", "boot", "scale", "profile")


def write(folder: Path) -> str:
    """Write RESULTS.md from what is kept in ``folder``: beside this module for a full run, else into ``folder``.

    Returns:
        The goals as text, for the terminal.
    """
    kept = {part: found for part in PARTS if (found := results.load(folder, part)) is not None}
    target = HERE if folder == results.FULL else folder
    figures = {part: found["figures"] for part, found in kept.items()}
    drawn = _draw(figures, target / "plots")
    verdicts = goals.judge(figures)
    lines = ["# Results", "", *_opening(verdicts), *_processor(kept), "", *_goals(verdicts), ""]
    for part, found in kept.items():
        lines += [*_SECTIONS[part](found["figures"]), ""]
        lines += [f"![{name}](plots/{name}.png)\n" for name in drawn.get(part, ())]
        lines += [f"Measured {found['at']}; {found['load']:.1f} processes wanted to run when it began.", ""]
    lines += [*_method(), "", *_machine(kept)]
    (target / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n")
    return "\n".join(f"{_mark(verdict)}  {verdict.goal}: {verdict.measured}" for verdict in verdicts)


def _draw(figures: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    try:
        from bench import plots
    except ImportError:  # a smoke run in an environment without matplotlib
        return {}
    return plots.draw(figures, folder)


def _mark(verdict: goals.Verdict) -> str:
    return {True: "met", False: "MISSED", None: "-"}[verdict.met]


def _opening(verdicts: Sequence[goals.Verdict]) -> list[str]:
    missed = [verdict for verdict in verdicts if verdict.met is False]
    unknown = [verdict for verdict in verdicts if verdict.met is None]
    lines = [f"Missed: {verdict.goal} ({verdict.measured})." for verdict in missed]
    if not missed and not unknown:
        lines = ["Every goal is met."]
    if unknown:
        lines.append(f"Not measured: {'; '.join(verdict.goal for verdict in unknown)}.")
    return [f"- {line}" for line in lines] if len(lines) > 1 else lines


def _goals(verdicts: Iterable[goals.Verdict]) -> list[str]:
    rows = [(verdict.goal, verdict.measured, _mark(verdict)) for verdict in verdicts]
    return _table(("goal", "measured", ""), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A table whose first ``left`` columns are text, the others figures."""
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' if n < left else '---:' for n in range(len(head)))} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _prose(text: str) -> str:
    """A paragraph, however it is broken into lines in the source."""
    return " ".join(text.split())


def _missing(figures: dict[str, Any]) -> list[str]:
    return [f"Not measured: {name} ({why})." for name, why in figures.get("missing", {}).items()]


def _cost(figures: dict[str, Any]) -> list[str]:
    rows = sorted(figures["hello"].values(), key=lambda row: float(row["cost"]["median"]))
    python = figures["hello"]["bare"]["ratio"]["median"]
    lines = [
        "## What a connection costs",
        "",
        _prose(
            """
            `wrk -t1 -c16 -H 'Connection: close'`, two workers: CPU time of the whole server, user and system,
            divided by the connections; that as a multiple of the C server's in the same round, with the middle
            half of the rounds, and of a bare loop's in Python: how far an interpreter is from C differs from CPU to
            CPU, so a server in Python is held to that loop.
            """
        ),
        "",
        *_table(
            ("server", "us a connection", "x C", "middle half", "x Python", "connections a second", "errors"),
            [
                (
                    row["title"],
                    f"{row['cost']['median']:.1f}",
                    f"{row['ratio']['median']:.2f}",
                    f"{row['ratio']['low']:.2f} to {row['ratio']['high']:.2f}",
                    f"{row['ratio']['median'] / python:.2f}",
                    f"{row['rate']['median']:,.0f}",
                    str(row["errors"]),
                )
                for row in rows
            ],
        ),
        "",
        *_missing(figures),
        "",
        *_kept(figures.get("kept", {})),
        "The same for connections that send messages of 64 bytes and read each back, with 16 clients:",
        "",
    ]
    names = next(iter(figures["echo"].values()))
    head = ["server"]
    for messages in figures["echo"]:
        head += [f"{messages} message{'s' * (messages != '1')}, us", "x C"]
    rows = []
    for name, first in names.items():
        row = [first["title"]]
        for by_name in figures["echo"].values():
            row += [f"{by_name[name]['cost']['median']:.1f}", f"{by_name[name]['ratio']['median']:.2f}"]
        rows.append(row)
    return [*lines, *_table(head, rows)]


def _kept(figures: dict[str, Any]) -> list[str]:
    """Requests on connections that are kept; nothing where they were not measured."""
    if not figures:
        return []
    rows = sorted(figures.values(), key=lambda row: float(row["cost"]["median"]))
    lines = [
        (
            row["title"],
            f"{row['cost']['median']:.1f}",
            f"{row['ratio']['median']:.2f}",
            f"{row['rate']['median']:,.0f}",
            str(row["errors"]),
        )
        for row in rows
    ]
    head = ("server", "us a request", "x prefork", "requests a second", "errors")
    return ["The same clients, keeping their connections, with the servers that do:", "", *_table(head, lines), ""]


def _latency(figures: dict[str, Any]) -> list[str]:
    return [
        "## How long an answer takes",
        "",
        _prose(
            """
            Open loop: requests are sent at random moments at a half and four fifths of what wrk got out of the
            same server, from 250 addresses so that no port is wanted twice, and count from the moment at which they
            were due. Milliseconds, two workers; medians of the rounds, and the middle half of the rounds' p99. A star:
            the client was on its CPU nine tenths of the time, and its own delays are in the figures.
            """
        ),
        "",
        *_under_loads(figures["plain"]),
        "",
        "On connections that are kept, with the servers that do:",
        "",
        *_under_loads(figures["kept"]),
        "",
        "One request in a hundred takes 20 ms; eight workers, 2,000 requests a second. The quick ones:",
        "",
        *_table(
            ("server", *_QUANTILES, "lost"),
            [[row["title"], *_quantiles(row), str(row["lost"])] for row in figures["slow"].values()],
        ),
        "",
        _prose(
            """
            With one shared accept queue a connection goes to whoever is idle. With SO_REUSEPORT the kernel
            chooses the queue by a hash, blind to who is busy, and some wait behind a slow request.
            """
        ),
        "",
        *_missing(figures),
    ]


_QUANTILES = ("p50", "p99", "middle half", "p99.9")
_BUSY = 0.9


def _under_loads(servers: dict[str, Any]) -> list[str]:
    rows = [
        [row["title"], f"{float(load):.0%}", f"{row['rate']:,.0f}", *_quantiles(row), str(row["lost"])]
        for loads in servers.values()
        for load, row in loads.items()
    ]
    return _table(("server", "load", "requests a second", *_QUANTILES, "lost"), rows)


def _quantiles(row: dict[str, Any]) -> list[str]:
    p50, p99, p999, low, high = (row[name] / 1000 for name in ("p50", "p99", "p99.9", "p99 low", "p99 high"))
    star = "*" if row["busy"] > _BUSY else ""
    return [f"{p50:.2f}", f"{p99:.2f}{star}", f"{low:.2f} to {high:.2f}", f"{p999:.2f}"]


def _outcomes(row: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in row["outcomes"].items()) or "none"


def _seconds(value: float | None) -> str:
    return "more than 10 s" if value is None else f"{value:.2f} s"


_SCENARIOS: dict[str, tuple[str, Sequence[str], Callable[[dict[str, Any]], Sequence[str]]]] = {
    "stop": (
        "A graceful stop while clients wait for an answer of 20 ms.",
        ("lost", "how", "the stop took"),
        lambda row: (f"{row['lost']} of {row['requests']}", _outcomes(row), _seconds(row["seconds"])),
    ),
    "reload": (
        "Reloads, one after the other, under eight clients.",
        ("lost", "how", "reloads", "each took"),
        lambda row: (
            f"{row['lost']:,} of {row['requests']:,}",
            _outcomes(row),
            str(row["reloads"]),
            _seconds(row["seconds"]),
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
        ("workers left after 10 s", "gone after"),
        lambda row: (f"{row['left']} of {row['workers']}", _seconds(row["seconds"])),
    ),
    "limit": (
        "No descriptor to be had for some seconds, while a client arrives every 50 ms; then there are again.",
        ("lost", "how", "CPUs used", "log", "processes that died", "serves after"),
        lambda row: (
            f"{row['lost']} of {row['requests']}",
            _outcomes(row),
            "-" if row["cpus"] is None else f"{row['cpus']:.2f}",
            _bytes(row["log"]),
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


def _bytes(count: int) -> str:
    for unit in ("B", "KiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count //= 1024
    return f"{count:,.0f} MiB"


def _losses(figures: dict[str, Any]) -> list[str]:
    lines = [
        "## What is lost",
        "",
        "Requests that were refused, reset, cut off or not answered within ten seconds. Clients never repeat one.",
    ]
    for name, (says, head, cells) in _SCENARIOS.items():
        rows = []
        for row in figures[name].values():
            if "error" in row:
                rows.append([row["title"], f"could not be played: {row['error']}", *[""] * (len(head) - 1)])
            else:
                rows.append([row["title"], *cells(row)])
        lines += ["", says, "", *_table(("server", *head), rows)]
    return [*lines, "", *_missing(figures)]


def _boot(figures: dict[str, Any]) -> list[str]:
    rows = []
    for workers, row in figures["workers"].items():
        cells = [f"{int(workers):,}"]
        for step in ("boot", "stop"):
            cells += [f"{row[step][way]['median'] * 1e3:,.0f}" for way in ("fork", "prefork")]
            cells.append(f"{row[step]['ratio']:.2f}")
        rows.append([*cells, f"{row['both']['ratio']:.2f}", f"{row['cpu']['ratio']:.2f}"])
    crash = figures["crash"]
    return [
        "## Boot, stop, replace",
        "",
        _prose(
            """
            From the start until every worker accepts, and until the last has ended: prefork against a loop of
            forks in the same image, whose children install the same handlers and accept. Milliseconds, medians.
            """
        ),
        "",
        *_table(
            ("workers", "boot: fork", "prefork", "x", "stop: fork", "prefork", "x", "both, x", "CPU, x"), rows, left=0
        ),
        "",
        _prose(
            f"""
            From the kill of the only worker to the first answer of the next: {crash["prefork"]["median"]:.1f} ms,
            and {crash["fork"]["median"]:.1f} ms with a loop of fork and wait.
            """
        ),
    ]


def _scale(figures: dict[str, Any]) -> list[str]:
    idle = [
        [f"{int(workers):,}", f"{row['wakeups']:.2f}", f"{row['master'] * 1e6:.0f}", f"{row['workers'] * 1e6:.0f}"]
        for workers, row in figures["idle"].items()
    ]
    memory = [
        [row["title"], str(row["workers"]), f"{row['uss']:.1f}", f"{row['pss']:.0f}"]
        for row in figures["memory"]["rows"].values()
    ]
    return [
        "## Idle cost and memory",
        "",
        "An idle server: wake-ups a second of the whole tree, CPU microseconds a second.",
        "",
        *_table(("workers", "wake-ups", "master, us", "workers, us"), idle, left=0),
        "",
        "A preloaded Django application after 50 requests a worker, ten of which collected all garbage. MiB.",
        "",
        *_table(("server", "workers", "a worker's own (USS)", "all together (PSS)"), memory),
        "",
        *_missing(figures["memory"]),
    ]


def _profile(figures: dict[str, Any]) -> list[str]:
    places = ("kernel", "C library", "interpreter", "socket module", "other")
    shares = [
        [row["title"], f"{row['cost']:.1f}", *(f"{row['places'].get(place, 0.0):.2f}" for place in places)]
        for row in figures["shares"].values()
    ]
    calls = [
        [row["title"], ", ".join(f"{name} {count:.2f}" for name, count in sorted(row["calls"].items()))]
        for row in figures["calls"].values()
    ]
    return [
        "## Where the microseconds go",
        "",
        "By where the CPU was (perf), microseconds a connection:",
        "",
        *_table(("server", "all", *places), shares),
        "",
        "System calls a connection (strace, which slows the server down):",
        "",
        *_table(("server", "calls"), calls, left=2),
        "",
        "Steps of prefork's own, each timed alone in a loop, microseconds:",
        "",
        *_table(("step", "us"), [[name, f"{cost:.2f}"] for name, cost in figures["steps"].items()]),
        "",
        *_missing(figures),
    ]


_SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "cost": _cost,
    "latency": _latency,
    "losses": _losses,
    "boot": _boot,
    "scale": _scale,
    "profile": _profile,
}


def _method() -> list[str]:
    return [
        "## How it was measured",
        "",
        _prose(
            """
            `scripts/bench` does all of it, over the loopback interface of one machine that server and clients
            share. Every server is measured once a round, in an order that is shuffled anew for each; figures are
            medians over the rounds, and ratios are medians of the ratios within each round. So a ratio can be
            believed on a machine that has other work, and an absolute figure only beside the others of its table.
            CPU time is what the kernel has counted for all processes of a server, those it has reaped included.
            """
        ),
    ]


def _processor(kept: dict[str, dict[str, Any]]) -> list[str]:
    """What it was measured on, in a line."""
    if not kept:
        return []
    machine = _latest(kept)
    return ["", f"On {machine['processor']}, Linux {machine['kernel']}, Python {machine['Python']}."]


def _latest(kept: dict[str, dict[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = max(kept.values(), key=lambda found: str(found["at"]))["machine"]
    return found


def _machine(kept: dict[str, dict[str, Any]]) -> list[str]:
    if not kept:
        return []
    facts = [[*fact] for fact in _latest(kept).items()]
    return ["## The machine and the versions", "", *_table(("", ""), facts, left=2)]
