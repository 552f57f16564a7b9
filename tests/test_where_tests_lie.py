"""The check of where tests lie fails on everything that it is there for."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROBLEMS = runpy.run_path(str(ROOT / "scripts" / "where_tests_lie.py"))["problems"]
FILES = {
    "prefork/net/queue.py": "",
    "prefork/net/reuseport/group.py": "",
    "tests/test_whole.py": "",
    "tests/net/__init__.py": '"""Sockets.\n\nlosses: nobody is lost.\n"""',
    "tests/net/conftest.py": "",
    "tests/net/test_queue.py": "",
    "tests/net/test_queue_depth.py": "",
    "tests/net/test_reuseport.py": "",
    "tests/net/test_losses.py": "",
    "tests/net/reuseport/test_group.py": "",
    "tests/support/apps/test_like.py": "",
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"tests/net/test_bells.py": ""}, "tests/net/test_bells.py: no module of prefork/net, no word in"),
        ({"tests/net/reuseport/test_queue.py": ""}, "test_queue.py: no module of prefork/net/reuseport"),
        ({"tests/nets/test_queue.py": ""}, "tests/nets: prefork has no such package"),
        ({"tests/net/test_losses.py": None}, "losses is said to be tested, and there is no test_losses.py"),
        ({"prefork/net/losses.py": ""}, "losses is a module's in prefork/net and needs no word"),
        ({"tests/net/helper.py": ""}, "tests/net/helper.py: what tests share lies in tests/support"),
    ],
)
def test_what_is_out_of_place_is_told(tmp_path: Path, changes: dict[str, str | None], problem: str) -> None:
    for name, text in {**FILES, **changes}.items():
        if text is not None:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    found = list(PROBLEMS(tmp_path))
    assert [problem in line for line in found] == ([True] if problem else [])


def test_every_test_has_its_place() -> None:
    assert list(PROBLEMS(ROOT)) == []
