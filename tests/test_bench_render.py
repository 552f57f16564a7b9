"""No figure of RESULTS.md and of README is typed by hand: both are made of bench/results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from bench import goals, readme, report
from bench.results import Results
from bench.rounds import Table, interleaved, short
from bench.workshop import HERE

ROOT = HERE.parent

MACHINE = {"processor": "A CPU, 2 CPUs", "kernel": "6.1", "Python": "3.11.7, profile-guided"}


def part(**figures: Any) -> dict[str, Any]:
    return {"at": "2026-11-30 06:45 UTC", "load": 0.1, "seconds": 60.0, "machine": MACHINE, "figures": figures}


def row(cost: float, title: str = "prefork, wsgi") -> dict[str, Any]:
    spread = {"median": cost, "low": cost, "high": cost}
    return {
        "title": title,
        "command": "c",
        "cost": spread,
        "ratio": spread,
        "rate": spread,
        "errors": 0,
        "costs": [cost],
    }


def test_what_stands_in_the_clone_is_what_was_measured() -> None:
    parts = Results.kept(HERE).parts
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert bool(parts) == ("us of CPU a request" in text), "scripts/bench render makes the one of the other"
    if parts:
        known = {name: parts[name] for name in report.SECTIONS if name in parts}
        figures = {name: found["figures"] for name, found in known.items()}
        made = report.made(known, report.pictures(figures), goals.judge(figures))
        assert (HERE / "RESULTS.md").read_text(encoding="utf-8") == made
        for lines in (readme.speed(parts), readme.losses(parts)):
            assert "\n".join(lines) in text
        drawn = {f"{name}.svg" for names in report.pictures(figures).values() for name in names}
        assert {file.name for file in (HERE / "plots").iterdir()} == drawn


def test_the_tables_of_readme_are_filled_in_and_all_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    marks = "a\n<!-- {0} -->\n{1}<!-- end of {0} -->\nb\n"
    file.write_text(marks.format("speed", "old\n") + marks.format("losses", "kept\n"))
    parts = {
        "cost": part(hello={"x": row(30.25)}, kept={"x": row(12.0)}),
        "latency": part(slow={"x": {**row(0), "p99": 410}}),
    }
    readme.fill(file, parts)
    text = file.read_text()
    assert "| prefork, wsgi | 30.2 | 12.0 | 0.4 |" in text
    assert "On A CPU, 2 CPUs, Linux 6.1, Python 3.11.7, profile-guided. Measured 2026-11-30 06:45 UTC" in text
    assert "old" not in text
    assert marks.format("losses", "kept\n") in text
    readme.fill(file, parts)
    assert file.read_text() == text


def test_a_readme_without_a_place_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("nothing\n")
    with pytest.raises(LookupError, match="no place for the table of speed"):
        readme.fill(file, {})


def test_who_did_not_reload_has_not_lost_nobody_by_it() -> None:
    lost = {"lost": 0, "requests": 1000}
    figures = {"reload": {"a": {"title": "A", **lost, "reloads": 0}, "b": {"title": "B", **lost, "reloads": 5}}}
    lines = readme.losses({"losses": part(**figures)})
    assert "| A | did not |" in lines
    assert "| B | 0 of 1,000 |" in lines


def test_a_goal_of_which_nothing_is_known_is_neither_met_nor_missed() -> None:
    assert {verdict.met for verdict in goals.judge({})} == {None}
    assert {verdict.met for verdict in goals.judge({name: {} for name in report.SECTIONS})} == {None}


def test_whoever_fails_in_a_round_has_no_series_and_is_named() -> None:
    def measure(name: str) -> int:
        if name == "bad":
            raise RuntimeError("no answer\nand much more")
        return 1

    failed: dict[str, str] = {}
    assert interleaved(["good", "bad"], 4, measure, patience=60.0, failed=failed) == {"good": [1, 1, 1, 1]}
    assert failed == {"bad": "no answer"}


def test_rounds_end_when_their_time_is_over_but_not_before_the_third() -> None:
    assert interleaved(["one"], 9, lambda _: 1, patience=0.0, failed={}) == {"one": [1, 1, 1]}


def test_each_table_is_kept_when_it_is_measured(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.parts = {"cost": part(hello={}, missing={})}
    results.add("cost", "kept", Table({"x": row(1.0)}, {"bjoern": "is not there"}), 2.0)
    again = Results.kept(tmp_path)
    assert again.parts["cost"]["figures"]["kept"]["x"]["costs"] == [1.0]
    assert again.parts["cost"]["figures"]["missing"] == {"kept": {"bjoern": "is not there"}}
    assert again.parts["cost"]["seconds"] == 62.0


@pytest.mark.parametrize(
    ("part", "tables"),
    [("cost", ("hello",)), ("features", ("tls", "unix", "flask", "django")), ("memory", ("held", "first"))],
)
def test_a_plot_in_the_clone_shows_each_server_that_was_measured(part: str, tables: tuple[str, ...]) -> None:
    figures = Results.kept(HERE).parts[part]["figures"]
    drawn = (HERE / "plots" / f"{part}.svg").read_text(encoding="utf-8")
    for title in (row["title"] for table in tables for row in figures[table].values()):
        assert f">{escape(title)}</text>" in drawn, (part, title)


def test_what_failed_does_not_say_where_the_clone_lies() -> None:
    assert short(OSError(f"{HERE}/.work/client 1 kept: socket: Too many | open files\nmore")) == (
        "bench/.work/client 1 kept: socket: Too many / open files"
    )
    for name in ("results.json", "RESULTS.md"):
        assert "/bench/.work/" not in (HERE / name).read_text(encoding="utf-8")
