"""The paths most asked for, by samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.supervisor.asked_paths import AskedPaths, path_of


@pytest.mark.parametrize(
    ("label", "path"),
    [
        (b"GET /", "/"),
        (b"HEAD /a/b;c", "/a/b;c"),
        (b"GET /caf%C3%A9", "/caf%C3%A9"),
        (b"POST /cart", ""),
        (b"GET //shop.example/cart", ""),
        (b"GET http://shop/cart", ""),
        (b"OPTIONS *", ""),
        (b"GET /a b", ""),
        (b"GET /caf\xe9", ""),
        (b"GET /a\r\nX: y", ""),
        (b"get /", ""),
        (b"", ""),
    ],
)
def test_what_may_be_asked_for_again(label: bytes, path: str) -> None:
    assert path_of(label) == path


def test_the_most_frequent_come_first_and_what_was_seen_once_does_not_count() -> None:
    asked = AskedPaths()
    for label in [b"GET /a", b"GET /b", b"GET /b", b"GET /once", b"GET /a", b"HEAD /b", b"POST /c", b"POST /c"]:
        asked.see(label)
    assert asked.samples == 8
    assert asked.most_asked(8) == ("/b", "/a")
    assert asked.samples == 0
    assert AskedPaths().most_asked(8) == ()


def test_no_more_are_given_than_were_asked_for() -> None:
    asked = AskedPaths()
    for label in (b"GET /a", b"GET /b", b"GET /c") * 2:
        asked.see(label)
    assert asked.most_asked(2) == ("/a", "/b")


def test_what_is_slow_is_left_out_from_then_on() -> None:
    asked = AskedPaths(room=2)
    for _ in range(3):
        asked.see(b"GET /events")
        asked.see(b"GET /a")
    asked.avoid(b"GET /events")
    asked.see(b"GET /events")
    asked.see(b"GET /events")
    assert asked.most_asked(8) == ("/a",)
    for number in range(3):
        asked.avoid(b"GET /other%d" % number)  # it is forgotten when there are too many
    asked.see(b"GET /events")
    asked.see(b"GET /events")
    assert "/events" in asked.most_asked(8)


def test_what_was_seen_before_the_last_time_counts_half() -> None:
    asked = AskedPaths()
    for _ in range(10):
        asked.see(b"GET /old")
    for _ in range(6):
        asked.see(b"GET /new")
    assert asked.most_asked(1) == ("/old",)
    for _ in range(6):
        asked.see(b"GET /new")
    assert asked.most_asked(2) == ("/new", "/old")


@given(st.lists(st.integers(0, 30), max_size=400))
def test_the_table_is_bounded_and_never_gives_more_than_was_seen(sequence: list[int]) -> None:
    asked = AskedPaths(room=5)
    for number in sequence:
        asked.see(b"GET /%d" % number)
    counts = {f"/{number}": sequence.count(number) for number in sequence}
    found = asked.most_asked(10)
    assert len(found) <= 5
    assert all(counts[path] >= 2 for path in found)
    often = {path for path, count in counts.items() if count >= len(sequence) / 5 + 2}
    assert often <= set(found), "what is frequent is sure to be there"
