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


def refused(name: str, value: str) -> None:
    """A file that says so is read, or refused with the name of the setting."""
    Path("gunicorn.conf.py").write_text(f"{name} = {value}\n")
    try:
        retell(["shop:app"], {})
    except SettingsError as error:
        assert name in str(error), value  # noqa: PT017  # it need not be raised
