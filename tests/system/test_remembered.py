"""What is remembered of texts that clients choose."""

from __future__ import annotations

import pytest

from prefork.system.remembered import Remembered


def test_each_is_worked_out_once_and_as_many_are_kept_as_may_be() -> None:
    made: list[str] = []

    def make(text: str) -> int:
        made.append(text)
        return len(text)

    remembered = Remembered(make, most=4, longest=3)
    assert [remembered[text] for text in ("a", "bb", "a", "ccc", "bb")] == [1, 2, 1, 3, 2]
    assert made == ["a", "bb", "ccc"]
    for number in range(50):
        assert remembered[f"{number:3}"] == 3
        assert len(remembered) <= 4
    assert [remembered["long"], remembered["long"]] == [4, 4]
    assert made[-2:] == ["long", "long"]


def test_what_is_raised_is_not_kept() -> None:
    remembered: Remembered[bytes, int] = Remembered(int)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            remembered[b"x"]
    assert (remembered[b"5"], dict(remembered)) == (5, {b"5": 5})
