"""The flight recorder: what each lane has in hand, written down where it outlives the worker.

A worker that is killed can tell nobody what it was doing, and that is what everybody wants to know. So a lane keeps a
note of it in shared memory: who asks, and for what (a method and a path without the query, or a handler's own words).
The MASTER reads it when the worker has died, or when somebody asks what runs now.

A note is for one moment at which the lane became busy, which stands before it as its stamp. The stamp is written last:
a note without its moment's stamp is an older one, or was being written when the worker was killed, and is not shown. So
nothing has to be cleared, and a request costs one copy and one store.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from prefork.errors import printable
from prefork.scoreboard.bounds import moment
from prefork.scoreboard.layout import BUSY_SINCE, LANE, LANE_WORDS, RECORD, RECORD_WORDS
from prefork.system.natives import time
from prefork.system.record import Record

_WAITED: Final = struct.Struct("=i")
_UNKNOWN: Final = -1
_PEER_BYTES: Final = 56  # an IPv6 address with a zone has no more
_WORD: Final = 8
_LABEL_AT: Final = _WAITED.size + _PEER_BYTES
_LABEL_BYTES: Final = (RECORD_WORDS - 1) * _WORD - _LABEL_AT

_write_note: Final = struct.Struct(f"=i{_PEER_BYTES}s{_LABEL_BYTES}s").pack_into
_write_label: Final = struct.Struct(f"={_LABEL_BYTES}s").pack_into


class FlightRecorder:
    """The notes of one lane. WORKER.

    Args:
        words: this lane's words of the scoreboard.
    """

    __slots__ = ("_note", "_words")

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self._note = words[RECORD + 1 : RECORD + RECORD_WORDS].cast("B")

    def request(self, head: bytes, method: str, target: bytes, query: str, peer: str, waited: int) -> None:
        """Note an HTTP request, but not its query. How long each part is, is known: to look for it would cost more.

        Args:
            head: begins with the request line.
            method: the first word of that.
            target: the second.
            query: what stands in the target behind its question mark.
            peer: who asks.
            waited: for how many milliseconds it had waited; -1 when nobody knows.
        """
        end = len(method) + 1 + len(target)
        if query:
            end -= len(query) + 1
        _write_note(self._note, 0, waited, peer.encode(), head[:end])
        words = self._words
        words[RECORD] = words[BUSY_SINCE]

    def connection(self, address: Any) -> None:
        """Note a connection of which nobody knows yet what it wants.

        Args:
            address: the peer's, as accept(2) gave it.
        """
        host = address[0] if type(address) is tuple else address
        peer = host.encode() if type(host) is str else host if type(host) is bytes else b""
        _write_note(self._note, 0, _UNKNOWN, peer, b"")
        words = self._words
        words[RECORD] = words[BUSY_SINCE]

    def label(self, text: str) -> None:
        """Note what the connection in hand wants, in a handler's own words; its peer stays."""
        words = self._words
        if words[RECORD] != words[BUSY_SINCE]:
            _write_note(self._note, 0, _UNKNOWN, b"", b"")
        words[RECORD] = 0  # until it is whole
        # What is cut in the midst of a character is read as well as can be.
        _write_label(self._note, _LABEL_AT, text.encode("utf-8", "replace"))
        words[RECORD] = words[BUSY_SINCE]


class InHand(Record):
    """What one lane has in hand.

    Attributes:
        lane: which.
        since: monotonic seconds.
        label: what is asked for, to be shown as it is; "" when nobody has said.
        peer: who asks, likewise.
        waited: for how many seconds it had waited for a worker; None when nobody knows.
    """

    lane: int
    since: float
    label: str = ""
    peer: str = ""
    waited: float | None = None

    def told(self, now: float) -> str:
        """In a few words, for a log line."""
        what = self.label or ("a connection" if self.peer else "something unnamed")
        whose = f" from {self.peer}" if self.peer else ""
        return f"{what}{whose} for {max(0.0, now - self.since):.3g} s"


def in_hand(words: memoryview[int], born: int) -> tuple[InHand, ...]:
    """MASTER. What a worker has in hand, or had when it died; none of its words is taken on trust.

    Args:
        words: of its entry.
        born: monotonic ns of its fork.
    """
    now = time.monotonic_ns()
    found = []
    for lane, at in enumerate(range(LANE, len(words), LANE_WORDS)):
        since = words[at + BUSY_SINCE]
        if since:
            note = _read(words[at + RECORD : at + RECORD + RECORD_WORDS], since)
            found.append(InHand(lane, moment(since, born, now) / 1e9, *note))
    return tuple(found)


class Noted(NamedTuple):
    """What one lane has noted last.

    Attributes:
        lane: which.
        stamp: monotonic ns at which it became busy with that.
        in_hand: whether it still is.
        label: what was asked for; as it was noted, b"" when it was cut.
    """

    lane: int
    stamp: int
    in_hand: bool
    label: bytes


def last_noted(words: memoryview[int]) -> Iterator[Noted]:
    """MASTER. What each lane has in hand, or had last, where that is sure.

    A lane writes its note while it is busy, and its stamp behind it. So a note is whole that was looked at while the
    lane was idle, or busy with that very note, before and after.

    Args:
        words: of a worker's entry.
    """
    for lane, at in enumerate(range(LANE, len(words), LANE_WORDS)):
        busy, stamp = words[at + BUSY_SINCE], words[at + RECORD]
        if not stamp or busy not in {0, stamp}:
            continue
        label = words[at + RECORD + 1 : at + RECORD + RECORD_WORDS].tobytes()[_LABEL_AT:]
        if (words[at + BUSY_SINCE], words[at + RECORD]) == (busy, stamp):
            yield Noted(lane, stamp, bool(busy), b"" if label[-1] else label.rstrip(b"\0"))


def _read(record: memoryview[int], since: int) -> tuple[str, str, float | None]:
    """The label of a note, its peer, and how long that had waited; nothing of it when it is of another moment."""
    note = record.tobytes()[_WORD:]
    if record[0] != since:  # looked at behind the copy: a worker that lives may write the next one meanwhile
        return "", "", None
    (waited,) = _WAITED.unpack_from(note)
    return (
        _shown(note[_LABEL_AT:]),
        _shown(note[_WAITED.size : _LABEL_AT]),
        waited / 1000 if waited >= 0 else None,
    )


def _shown(field: bytes) -> str:
    text = printable(field.rstrip(b"\0").decode("utf-8", "replace"))
    return f"{text}..." if field[-1] else text
