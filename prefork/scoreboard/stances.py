"""What the processes of a server have to do with the next connection, where workers have several lanes."""

from __future__ import annotations

import enum

from prefork.scoreboard.layout import STANCE, Scoreboard


class Stance(enum.IntEnum):
    """What one of them has to do with it."""

    NONE = 0
    """It may take it with another lane, or has no room."""
    IDLE = 1
    """Nothing is in hand in it, and a lane waits."""
    STANDING_BY = 2
    """Something is in hand, a lane is free, and its main thread waits for the word that no process is idle."""


_IDLE, _STANDING_BY = bytes([Stance.IDLE]), bytes([Stance.STANDING_BY])


class Stances:
    """What the processes of a server have to do with the next connection, where they have several lanes.

    A stance is of a process, and its lanes write it under a lock of theirs; all others look. All of them are one copy
    of so many words, and a search in that.

    Args:
        board: the scoreboard.
        words: this worker's own.
        shared: whether processes accept from the same queue; else nobody waits for another to do it.
    """

    def __init__(self, board: Scoreboard, words: memoryview[int], *, shared: bool) -> None:
        self._column = board.column(STANCE) if shared else memoryview(b"")
        self._words = words

    def assume(self, stance: Stance) -> None:
        """Say what this process has to do with it."""
        self._words[STANCE] = stance

    def look(self) -> tuple[bool, bool]:
        """Whether a process is idle, and whether one stands by."""
        column = self._column.tobytes()
        return _IDLE in column, _STANDING_BY in column
