"""Counts that depend on the machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.config.arithmetic import parse
from prefork.config.settings import Settings
from prefork.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "one", "eight"),
    [
        ("cpus", 1, 8),
        ("2 * cpus + 1", 3, 17),
        ("(cpus*2)+1", 3, 17),
        ("cpus + 2 * cpus", 3, 24),
        ("cpus / 2", 0, 4),
        ("cpus // 2 + 1", 1, 5),
        ("cpus * 1.5", 1, 12),
        ("cpus - 1", 0, 7),
        ("10 - cpus - 1", 8, 1),
        ("max(2, cpus / 2)", 2, 4),
        ("min(4, 2 * (cpus + 1), 99)", 4, 4),
        ("  cpus  ", 1, 8),
    ],
)
def test_counts(text: str, one: int, eight: int) -> None:
    assert (parse(text)(1), parse(text)(8)) == (one, eight)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cpus +",
        "cpus cpus",
        "2 cpus",
        "cpus / 0",
        "cpus / cpus",
        "cpus ** 2",
        "(cpus",
        "cpus)",
        "max 2",
        "max()",
        "os.cpus",
        "cpusx",
        "-cpus",
        "cpus % 2",
        "111111*cpus",
        "(" * 9 + "cpus" + ")" * 9,
        "cpus+" * 20 + "1",
        "min(1,)",
    ],
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|holds|lacks|goes|divides) "):
        parse(text)


@given(st.text(alphabet="cpus0123456789+-*/(), minax.", max_size=30))
def test_nothing_else_happens(text: str) -> None:
    try:
        compute = parse(text)
    except ValueError:
        return
    assert isinstance(compute(4), int)


def test_workers() -> None:
    assert Settings(workers="2 * cpus + 1").size(4) == (9, 9, 9)
    assert Settings(workers="cpus - 9").size(4) == (1, 1, 1)
    assert Settings(workers="cpus * 9999 * 9").size(4) == (10_000, 10_000, 10_000)
    assert Settings(workers="cpus / 2", min_workers=3).size(4) == (3, 3, 3)
    with pytest.raises(SettingsError, match="workers: 'cpus / 0' can't be computed: it divides by something else"):
        Settings(workers="cpus / 0")
