"""The table of gunicorn's settings, held against the gunicorn that is installed and against our own tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from gunicorn import config  # type: ignore[import-untyped]  # it has no types

from prefork import SettingsError, hooks
from prefork.config import settings
from prefork.config.fields import table
from prefork.migration import gunicorn_settings as gunicorn
from prefork.migration.foreign_setting import ForeignSetting, by_name
from prefork.migration.gunicorn import retell
from prefork.migration.gunicorn_kinds import validated
from prefork.wsgi.command import CommandOptions

INSTALLED = {known.name: known for known in config.KNOWN_SETTINGS}
ROWS = by_name(gunicorn.ROWS)
OURS = {field.name for field in settings.fields() + table(CommandOptions)}

ACTIONS = {None: {"text", "whole", "dict", "function", "maybe"}, "store_true": {"true"}, "append": {"list"}}


def test_every_setting_of_the_installed_gunicorn_has_a_row() -> None:
    assert set(INSTALLED) <= set(ROWS)
    assert len(ROWS) == len(gunicorn.ROWS)


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_a_row_says_what_gunicorn_is_given(name: str) -> None:
    theirs, row = INSTALLED[name], ROWS[name]
    assert list(row.flags) == list(theirs.cli or [])
    if theirs.action != "store_const":
        assert row.takes in ACTIONS[theirs.action]
    if theirs.type in {int, config.auto_int}:
        assert row.takes == "whole"
    if theirs.section in {"Server Hooks", "Dirty Arbiter Hooks"}:
        assert row.takes == "function"
    if row.default is not None:
        assert row.default == theirs.default


@pytest.mark.parametrize("row", gunicorn.ROWS, ids=lambda row: row.name)
def test_a_row_leads_to_a_setting_or_says_why_not(row: ForeignSetting) -> None:
    if row.takes == "function":
        assert bool(row.note) != (row.name in {hook.name for hook in hooks.described()})
    elif row.ours:
        assert row.ours in OURS
    else:
        assert row.note
    assert not row.note.endswith(".")


@pytest.mark.parametrize("row", gunicorn.ROWS, ids=lambda row: row.name)
def test_a_value_of_another_kind_is_no_traceback(
    row: ForeignSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ("1", "float('inf')", "b'x'", "[None]", "{1: 2}", "object()"):
        refused(row.name, value)


VALUES = [
    *("027", "abc", "", "true", "False", "0", "1", "5", " 5 ", "0x10", "0o17", "a,b", "on", "5e3", "1_0"),
    *("::1", "10.0.0.1/8", "10.0.0.0/8, ::1"),
    *("h2,h1", "V2", "auto", "upgrade", "Drop", "os.getcwd", "os.nosuch", "nosuch", "nosuch.nosuch", "*"),
    *(5, 0, -1, 1.5, 2.0, True, False, None, 1 << 31, 20_000),
    *([], ["a"], [1], ("a", "b"), {}, {"a": "b"}, b"a", object, object(), range(3)),
    *(lambda: None, lambda _: None, lambda _a, _b: None, lambda _a, _b, _c: None, lambda _a, _b, _c, _d: None),
]
FOUND_LATER = {"chdir", "user", "group", "statsd_host", "reload_extra_files"}
"""What gunicorn looks for on this machine at once: ours is looked for when all settings are known."""


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_a_value_of_a_file_is_taken_as_gunicorn_takes_it(name: str) -> None:
    row, wrong = ROWS[name], []
    for value in VALUES:
        setting = INSTALLED[name]()
        try:
            setting.set(value)
        except Exception as error:  # noqa: BLE001  # whatever its validators raise
            theirs: object = error
        else:
            theirs = setting.get()
        try:
            ours: object = validated(row, value, line=False)
        except ValueError as error:
            ours = error
        later = name in FOUND_LATER and not isinstance(ours, Exception)
        if not later and not alike(ours, theirs, setting.default, value):
            wrong.append(f"{value!r}: {theirs!r}, here {ours!r}")
    assert not wrong, "\n".join(wrong)


def alike(ours: object, theirs: object, default: object, value: object) -> bool:
    """Whether two readings of a value are the same; where ours is None, the setting is as if it was not given."""
    if isinstance(theirs, Exception) or isinstance(ours, Exception):
        return isinstance(ours, Exception) and (isinstance(theirs, Exception) or value is None)
    if callable(theirs):
        return callable(ours)
    if isinstance(theirs, list) and isinstance(ours, str):
        return ours.split(",") == theirs or not (ours or theirs)
    if ours is None:
        return theirs in (None, False, default, [default])
    return ours == theirs


def refused(name: str, value: str) -> None:
    """A file that says so is read, or refused with the name of the setting."""
    Path("gunicorn.conf.py").write_text(f"{name} = {value}\n")
    try:
        retell(["shop:app"], {})
    except SettingsError as error:
        assert name in str(error), value  # noqa: PT017  # it need not be raised
