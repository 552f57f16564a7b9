"""Whose time of day a log has."""

from __future__ import annotations

import time

import pytest

from prefork.errors import SettingsError
from prefork.system.zone import find, timestamp

SUMMER, WINTER = 1780000000.25, 1795184645.678


def test_a_time_is_utc_and_sorts() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(1795184645.678) == "2026-11-20T14:24:05.678Z"


@pytest.mark.parametrize(
    ("name", "tz", "summer", "winter"),
    [
        ("utc", "CET-1CEST", "2026-05-28T20:26:40.250Z", "2026-11-20T14:24:05.678Z"),
        ("local", "", "2026-05-28T20:26:40.250Z", "2026-11-20T14:24:05.678Z"),
        ("local", "XXX-5:30", "2026-05-29T01:56:40.250+05:30", "2026-11-20T19:54:05.678+05:30"),
        ("local", "YYY3:30", "2026-05-28T16:56:40.250-03:30", "2026-11-20T10:54:05.678-03:30"),
        ("local", "CET-1CEST,M3.5.0,M10.5.0/3", "2026-05-28T22:26:40.250+02:00", "2026-11-20T15:24:05.678+01:00"),
        ("local", ":Europe/Berlin", "2026-05-28T22:26:40.250+02:00", "2026-11-20T15:24:05.678+01:00"),
        ("Asia/Kathmandu", "UTC0", "2026-05-29T02:11:40.250+05:45", "2026-11-20T20:09:05.678+05:45"),
    ],
)
def test_zones(name: str, tz: str, summer: str, winter: str) -> None:
    zone = find(name, tz)
    assert (timestamp(SUMMER, zone), timestamp(WINTER, zone)) == (summer, winter)


def test_what_is_all_but_a_second_is_not_one() -> None:
    assert timestamp(1795184645.9999998, find("Europe/Berlin", None)) == "2026-11-20T15:24:05.999+01:00"


def test_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TZ it is what the C library finds, whatever the application sets afterwards."""
    monkeypatch.delenv("TZ", raising=False)
    time.tzset()
    seconds = int(time.time())
    here = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
    assert timestamp(seconds, find("local", None))[:19] == here


@pytest.mark.parametrize(("name", "tz"), [("Mars/Olympus", None), ("local", "Mars/Olympus"), ("local", "/etc/passwd")])
def test_what_is_no_zone(name: str, tz: str | None) -> None:
    with pytest.raises(SettingsError, match="is no zone that this machine knows; name another, or install tzdata"):
        find(name, tz)
