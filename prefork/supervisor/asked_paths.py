"""The paths most asked for, as far as a look now and then at what workers have noted tells. Pure. MASTER.

Workers count nothing for it: their flight recorders say what each lane was last asked for
(`prefork.scoreboard.recorder`), and a look at that is a sample. The table is bounded, and the most frequent are sure to
be in it: who is new takes the place of the rarest and its count (Space-Saving; Metwally, Agrawal and El Abbadi, ICDT
2005).

What is learnt here is going to be asked for in a mold, where nobody waits for the answer. So only what was asked for by
GET or HEAD counts, without a query, more than once (a link that is good for one time is none of it), and nothing that
takes long.
"""

from __future__ import annotations

import re
from typing import Final

ROOM: Final = 256
"""Paths that are counted at one time."""

_TWICE: Final = 2
_REQUEST: Final = re.compile(rb"(?:GET|HEAD) (/(?!/)[!-~]*)")


class AskedPaths:
    """How often each path was seen.

    Args:
        room: how many of them are counted at one time.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._seen: dict[str, list[int]] = {}  # how often, and how much of that may be another's
        self._slow: dict[str, None] = {}
        self.samples = 0
        """How much has been seen since the last `most_asked`."""

    def see(self, label: bytes) -> None:
        """A worker has been asked for that: method and path, as they were noted."""
        path = path_of(label)
        self.samples += 1
        if not path or path in self._slow:
            return
        if path in self._seen:
            self._seen[path][0] += 1
            return
        before = 0
        if len(self._seen) >= self._room:
            rarest = min(self._seen, key=lambda one: self._seen[one][0])
            before = self._seen.pop(rarest)[0]
        self._seen[path] = [before + 1, before]

    def avoid(self, label: bytes) -> None:
        """A worker is at that for long: it is not to be asked for."""
        path = path_of(label)
        if path:
            self._seen.pop(path, None)
            self._slow.pop(path, None)
            self._slow[path] = None
            if len(self._slow) > self._room:
                del self._slow[next(iter(self._slow))]  # the oldest

    def most_asked(self, most: int) -> tuple[str, ...]:
        """The paths most asked for, the first of them first; what was seen so far counts half from now on.

        Args:
            most: how many at the most.
        """
        sure = {path: seen - others for path, (seen, others) in self._seen.items() if seen - others >= _TWICE}
        found = sorted(sure, key=lambda path: (-sure[path], path))[:most]
        self._seen = {path: [seen // 2, others // 2] for path, (seen, others) in self._seen.items() if seen > 1}
        self.samples = 0
        return tuple(found)


def path_of(label: bytes) -> str:
    """The path that may be asked for again; "" when there is none.

    Args:
        label: method and path, as they were noted.
    """
    found = _REQUEST.fullmatch(label)
    return "" if found is None else found[1].decode("ascii")
