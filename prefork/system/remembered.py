"""What a function makes of a text, worked out once for those texts that come again, as most that come from clients do.

Clients choose the texts, so long ones are not kept: of names of 8 KiB, which nobody sends but to see what becomes of
them, a few hundred are more memory than all else that a worker has of its own. A look costs less than that of
`functools.lru_cache`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

K = TypeVar("K", str, bytes)
V = TypeVar("V")

LONGEST: Final = 128
"""Characters or bytes of a text that is kept."""


class Remembered(dict[K, V]):
    """The values of one function; asking for that of a text (``[text]``) calls it where it is not there.

    Args:
        make: The function. What it raises goes through, and is not kept.
        most: How many are kept. At that many all are forgotten, since what comes often is soon there again.
        longest: Of what length a text may be that is kept.
    """

    def __init__(self, make: Callable[[K], V], *, most: int = 512, longest: int = LONGEST) -> None:
        super().__init__()
        self._make: Callable[[K], V] = make
        self._most = most
        self._longest = longest

    def __missing__(self, text: K) -> V:
        """Work it out."""
        made = self._make(text)
        if len(text) <= self._longest:
            if len(self) >= self._most:
                self.clear()
            self[text] = made
        return made
