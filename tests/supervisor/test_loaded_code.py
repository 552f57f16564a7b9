"""What a process has loaded, so that another one can tell whether it has loaded the same."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.supervisor import loaded_code


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "shop_of_loaded_code.py"
    path.write_text("price = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module(path.stem)
    yield path
    del sys.modules[path.stem]


def test_the_same_code_is_the_same(shop: Path) -> None:
    before = loaded_code.census()
    os.utime(shop, (0, 0))
    assert loaded_code.changed(before) == ""
    assert loaded_code.changed(b"") == ""


def test_a_module_that_was_changed_is_named(shop: Path) -> None:
    before = loaded_code.census()
    about = shop.stat()
    shop.write_text("price = 2\n")
    os.utime(shop, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert loaded_code.changed(before) == shop.stem


def test_what_only_one_of_two_has_loaded_is_not_compared(shop: Path) -> None:
    before = loaded_code.census()
    other = shop.with_name("other_of_loaded_code.py")
    other.write_text("")
    importlib.import_module(other.stem)
    assert loaded_code.changed(before) == ""
    del sys.modules[other.stem]
    shop.unlink()
    assert loaded_code.changed(before) == ""


def test_it_has_room_in_one_message(shop: Path) -> None:
    assert shop.exists()
    assert 0 < len(loaded_code.census()) <= 1 << 15
