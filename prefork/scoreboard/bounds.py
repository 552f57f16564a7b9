"""What a word of the scoreboard can say at the most: workers may write there what they like. Pure.

What can't be true reads as 0, a moment to come as now, one before the fork as that.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, TypeVar

_E = TypeVar("_E", bound=enum.IntEnum)

_FASTEST: Final = 1000  # ns: nothing that is counted happens more often than once in so long


def held(word: int, largest: int) -> int:
    """A word that is no larger than that."""
    return word if word <= largest else 0


def most(born: int, now: int) -> int:
    """How often something can have happened in a life; both moments in monotonic ns."""
    return max(0, now - born) // _FASTEST + 1


def counts(words: Iterable[int], largest: int) -> tuple[int, ...]:
    """How often some things have happened, each ``largest`` times at the most."""
    return tuple([word if word <= largest else 0 for word in words])


def moment(word: int, born: int, now: int) -> int:
    """A moment of a life; 0 = it has not been."""
    return min(max(word, born), now) if word else 0


def member(kind: type[_E], value: int, default: _E) -> _E:
    """What a number stands for."""
    try:
        return kind(value)
    except ValueError:
        return default
