"""The lanes of an entry, looked at together: which are busy since when, what they have finished, what comes of it."""

from __future__ import annotations

from prefork.scoreboard.bounds import counts, moment, most
from prefork.scoreboard.layout import BUSY_SINCE, DEADLINE, FAILED, LANE, LANE_WORDS, SERVED, THREAD
from prefork.system.natives import time


def lane_words(words: memoryview[int], word: int) -> memoryview[int]:
    """One word of each lane of an entry."""
    return words[LANE + word :: LANE_WORDS]


def busy(words: memoryview[int]) -> bool:
    """Whether a lane of an entry has something in hand."""
    return any(lane_words(words, BUSY_SINCE))


def full(words: memoryview[int]) -> bool:
    """Whether all lanes of an entry have something in hand."""
    return all(lane_words(words, BUSY_SINCE))


def finished(words: memoryview[int], born: int) -> int:
    """MASTER. How many connections an entry's worker has finished, held to what is possible; see `Scoreboard.read`."""
    now = time.monotonic_ns()
    often = most(born, now)
    return sum(sum(counts(lane_words(words, place), often)) for place in (SERVED, FAILED))


def busy_lanes(words: memoryview[int], born: int) -> list[tuple[int, int, int]]:
    """MASTER. The lanes that are busy: number, since when (held to what is possible), deadline or 0; monotonic ns."""
    now, deadlines = time.monotonic_ns(), lane_words(words, DEADLINE)
    since = (moment(word, born, now) for word in lane_words(words, BUSY_SINCE))
    return [(number, began, deadlines[number]) for number, began in enumerate(since) if began]


def threads(words: memoryview[int]) -> list[int]:
    """MASTER. What Python calls the thread of each lane; 0 = it is the main one, or there is none yet."""
    return list(lane_words(words, THREAD))
