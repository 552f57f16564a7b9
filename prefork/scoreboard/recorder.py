"""The flight recorder: what each lane has in hand, written down where it outlives the worker.

A worker that is killed can tell nobody what it was doing, and that is what everybody wants to know. So a lane keeps a
note of it in shared memory: who asks, and for what (a method and a path without the query, or a handler's own words).
The MASTER reads it when the worker has died, or when somebody asks what runs now.

A note is for one moment at which the lane became busy, which stands behind it as its stamp. A note without its moment's
stamp is an older one, or was being written when the worker was killed, and is not shown; so nothing has to be cleared.

A request costs one call of the struct module, which clears the whole note, writes it, and writes the stamp last. That
call cuts the head of the request as well: for each length that a label may have there is one that takes so much of it,
which is cheaper than to cut it out before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from prefork.errors import printable
from prefork.scoreboard.bounds import moment
from prefork.scoreboard.layout import BUSY_SINCE, LANE, LANE_WORDS, RECORD, RECORD_STAMP, RECORD_WORDS
from prefork.system.natives import time
from prefork.system.record import Record

_WAITED: Final = struct.Struct("=i")
_UNKNOWN: Final = -1
_PEER_BYTES: Final = 56  # an IPv6 address with a zone has no more
_WORD: Final = 8
_LABEL_AT: Final = _WAITED.size + _PEER_BYTES
_LABEL_BYTES: Final = (RECORD_WORDS - 1) * _WORD - _LABEL_AT

# A stamp in native order and alignment, whose eight bytes are stored as one: it can't be read half written.
_writers: Final = tuple(
    struct.Struct(f"@i{_PEER_BYTES}s{length}s{_LABEL_BYTES - length}xQ").pack_into for length in range(_LABEL_BYTES + 1)
)
_write_unlabelled: Final = _writers[0]
_write_label: Final = struct.Struct(f"={_LABEL_BYTES}s").pack_into


class FlightRecorder:
    """The notes of one lane. WORKER.

    Args:
        words: this lane's words of the scoreboard.
    """

    __slots__ = ("_record", "_words")

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self._record = words[RECORD : RECORD + RECORD_WORDS].cast("B")

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
        end = len(method) + len(target) - len(query)
        if not query:
            end += 1  # as many bytes as the question mark makes good, if there is one
        if end > _LABEL_BYTES:
            end = _LABEL_BYTES
        _writers[end](self._record, 0, waited, peer.encode(), head, self._words[BUSY_SINCE])

    def connection(self, address: Any) -> None:
        """Note a connection of which nobody knows yet what it wants.

        Args:
            address: the peer's, as accept(2) gave it.
        """
        host = address[0] if type(address) is tuple else address
        peer = host.encode() if type(host) is str else host if type(host) is bytes else b""
        _write_unlabelled(self._record, 0, _UNKNOWN, peer, b"", self._words[BUSY_SINCE])

    def label(self, text: str) -> None:
        """Note what the connection in hand wants, in a handler's own words; its peer stays."""
        words = self._words
        since = words[BUSY_SINCE]
        if words[RECORD_STAMP] != since:
            _write_unlabelled(self._record, 0, _UNKNOWN, b"", b"", 0)
        words[RECORD_STAMP] = 0  # until it is whole
        # What is cut in the midst of a character is read as well as can be.
        _write_label(self._record, _LABEL_AT, text.encode("utf-8", "replace"))
        words[RECORD_STAMP] = since


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
            note = _note(words, at, since, since)
            found.append(InHand(lane, moment(since, born, now) / 1e9, *(() if note is None else _told(note))))
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

    Args:
        words: of a worker's entry.
    """
    for lane, at in enumerate(range(LANE, len(words), LANE_WORDS)):
        busy, stamp = words[at + BUSY_SINCE], words[at + RECORD_STAMP]
        note = _note(words, at, busy, stamp) if stamp and busy in {0, stamp} else None
        if note is not None:
            label = note[_LABEL_AT:]
            yield Noted(lane, stamp, bool(busy), b"" if label[-1] else label.rstrip(b"\0"))


def _note(words: memoryview[int], at: int, busy: int, stamp: int) -> bytes | None:
    """What a lane has noted, without the stamp; None when it is not sure to be whole.

    A lane writes its note while it is busy, and the stamp behind it. So a note is whole that was looked at while the
    lane was idle, or busy with that very note, before and after: the stamp may come in the midst of the copy.

    Args:
        words: of a worker's entry.
        at: where the lane's begin.
        busy: since when it is, as it was a moment ago; 0 for idle.
        stamp: which there has to be.
    """
    if words[at + RECORD_STAMP] != stamp:
        return None
    note = words[at + RECORD : at + RECORD_STAMP].tobytes()
    return note if (words[at + BUSY_SINCE], words[at + RECORD_STAMP]) == (busy, stamp) else None


def _told(note: bytes) -> tuple[str, str, float | None]:
    """The label of a note, its peer, and how long that had waited."""
    (waited,) = _WAITED.unpack_from(note)
    return (
        _shown(note[_LABEL_AT:]),
        _shown(note[_WAITED.size : _LABEL_AT]),
        waited / 1000 if waited >= 0 else None,
    )


def _shown(field: bytes) -> str:
    text = printable(field.rstrip(b"\0").decode("utf-8", "replace"))
    return f"{text}..." if field[-1] else text
