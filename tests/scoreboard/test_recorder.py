"""The flight recorder: what is noted of a request, and what is made of a note that may be anything."""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.scoreboard import layout
from prefork.scoreboard.entry import Lane
from prefork.scoreboard.layout import LANE, RECORD, RECORD_STAMP, RECORD_WORDS, Scoreboard
from prefork.scoreboard.recorder import FlightRecorder, InHand, in_hand, last_noted


@pytest.fixture
def words() -> Iterator[memoryview[int]]:
    board = Scoreboard.create(1, lanes=2)
    yield board.entry(0)
    board.close()


@pytest.fixture
def lane(words: memoryview[int]) -> Lane:
    return Lane(words[LANE:], FlightRecorder(words[LANE:]))


def noted(words: memoryview[int]) -> list[tuple[str, str]]:
    return [(one.label, one.peer) for one in in_hand(words, 0)]


def request_of(lane: Lane, head: bytes, peer: str = "192.0.2.1", waited: int = 0) -> None:
    assert lane.recorder is not None
    method, target, *_ = head.split(b" ")
    query = target.partition(b"?")[2].decode()
    lane.recorder.request(head, method.decode(), target, query, peer, waited)


@pytest.mark.parametrize(
    ("head", "label"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "GET /"),
        (b"GET /?token=secret HTTP/1.1\r\n\r\n", "GET /"),
        (b"POST /a/b;c?d=e?f HTTP/1.1\r\nReferer: /?x\r\n\r\n", "POST /a/b;c"),
        (b"GET /a%20b%0Ac HTTP/1.0\r\n\r\n", "GET /a%20b%0Ac"),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", "OPTIONS *"),
        (b"GET http://shop/cart?user=7 HTTP/1.1\r\n\r\n", "GET http://shop/cart"),
        (b"GET /" + b"x" * 300 + b" HTTP/1.1\r\n\r\n", "GET /" + "x" * 183 + "..."),
    ],
)
def test_a_request_is_its_method_and_its_path(lane: Lane, words: memoryview[int], head: bytes, label: str) -> None:
    lane.begin()
    request_of(lane, head)
    assert noted(words) == [(label, "192.0.2.1")]
    assert b"secret" not in words.tobytes()


def test_how_long_it_had_waited(lane: Lane, words: memoryview[int]) -> None:
    lane.begin()
    for waited, seconds in ((0, 0.0), (1500, 1.5), (-1, None)):
        request_of(lane, b"GET / HTTP/1.1\r\n\r\n", waited=waited)
        assert [one.waited for one in in_hand(words, 0)] == [seconds]


def test_an_idle_lane_has_nothing_in_hand(lane: Lane, words: memoryview[int]) -> None:
    began = lane.begin()
    request_of(lane, b"GET /a HTTP/1.1\r\n\r\n")
    lane.end(began, failed=False)
    assert in_hand(words, 0) == ()


def test_a_note_of_what_was_in_hand_before_is_not_shown(lane: Lane, words: memoryview[int]) -> None:
    began = lane.begin()
    request_of(lane, b"GET /the/former HTTP/1.1\r\n\r\n")
    lane.end(began, failed=False)
    lane.begin()
    assert noted(words) == [("", "")]
    request_of(lane, b"GET /b HTTP/1.1\r\n\r\n", "192.0.2.2")
    assert noted(words) == [("GET /b", "192.0.2.2")]


def test_a_shorter_note_leaves_nothing_of_the_longer(lane: Lane, words: memoryview[int]) -> None:
    lane.begin()
    request_of(lane, b"GET /" + b"x" * 300 + b" HTTP/1.1\r\n\r\n", "2001:db8::ffff:ffff:ffff")
    request_of(lane, b"GET /b HTTP/1.1\r\n\r\n", "::1")
    assert noted(words) == [("GET /b", "::1")]


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("192.0.2.1", 5555), "192.0.2.1"),
        (("2001:db8::1", 5555, 0, 0), "2001:db8::1"),
        ("", ""),
        ("/run/client", "/run/client"),
        (b"\0abstract", "\\x00abstract"),
        (None, ""),
    ],
)
def test_a_connection_is_its_peer(lane: Lane, words: memoryview[int], address: object, peer: str) -> None:
    lane.begin()
    assert lane.recorder is not None
    lane.recorder.connection(address)
    assert noted(words) == [("", peer)]


def test_a_label_keeps_the_peer_of_its_connection_alone(lane: Lane, words: memoryview[int]) -> None:
    recorder = lane.recorder
    assert recorder is not None
    began = lane.begin()
    recorder.connection(("192.0.2.1", 5555))
    recorder.label("GET ä/\n")
    assert noted(words) == [("GET ä/\\n", "192.0.2.1")]
    lane.end(began, failed=False)
    lane.begin()
    recorder.label("SET")
    assert noted(words) == [("SET", "")]
    recorder.label("\udcff" + "é" * 200)
    ((label, _),) = noted(words)
    assert label.startswith("?é")
    assert label.endswith("...")


def test_what_a_note_costs(lane: Lane) -> None:
    """Counted, not timed: calls into C beside the cheapest."""
    recorder = lane.recorder
    assert recorder is not None
    called: list[str] = []

    def profile(_frame: object, event: str, what: Any) -> None:
        if event == "c_call":
            called.append(what.__name__)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        recorder.request(b"GET /a?b HTTP/1.1\r\n\r\n", "GET", b"/a?b", "b", "192.0.2.1", 0)
        recorder.connection(("192.0.2.1", 5555))
    finally:
        sys.setprofile(before)
    assert [name for name in called if name not in {"len", "setprofile"}] == ["encode", "pack_into"] * 2


def test_the_struct_module_clears_first_and_writes_in_order() -> None:
    """So a worker that is killed in the midst of a note leaves none: there is no stamp before the rest is there."""
    record = bytearray(b"\xff" * RECORD_WORDS * 8)
    with pytest.raises(struct.error):
        struct.pack_into("@i56s188sQ", record, 0, 0, b"192.0.2.1", b"GET /a", "no stamp")
    assert record.rstrip(b"\0").endswith(b"GET /a")
    assert record.startswith(bytes(4) + b"192.0.2.1" + bytes(1))


class Copied:
    """Words of which a part is copied in two steps, with something in between."""

    def __init__(self, words: memoryview[int], between: Callable[[], object]) -> None:
        self._words = words
        self._between = between

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, at: int | slice) -> int | memoryview[int]:
        if isinstance(at, int):
            return self._words[at]
        early = self._words[at].tobytes()
        self._between()
        late = self._words[at].tobytes()
        return memoryview(early[: len(early) // 2] + late[len(late) // 2 :])


def test_a_note_that_is_written_while_it_is_copied_is_not_shown(lane: Lane, words: memoryview[int]) -> None:
    lane.begin()

    def note() -> None:
        request_of(lane, b"GET /b HTTP/1.1\r\n\r\n", "192.0.2.2")

    seen: Any = Copied(words, note)
    assert noted(seen) == [("", "")]
    assert list(last_noted(seen)) == []


def test_a_note_that_another_follows_while_it_is_copied_is_not_shown(lane: Lane, words: memoryview[int]) -> None:
    def follow() -> None:
        lane.end(lane.began, failed=False)
        lane.begin()
        request_of(lane, b"GET /b HTTP/1.1\r\n\r\n", "192.0.2.2")

    lane.begin()
    request_of(lane, b"GET /a HTTP/1.1\r\n\r\n")
    seen: Any = Copied(words, follow)
    assert noted(seen) == [("", "")]
    assert list(last_noted(seen)) == []
    assert noted(words) == [("GET /b", "192.0.2.2")]


def test_each_lane_has_its_note(lane: Lane, words: memoryview[int]) -> None:
    second = Lane(words[LANE + layout.LANE_WORDS :], FlightRecorder(words[LANE + layout.LANE_WORDS :]))
    lane.begin()
    time.sleep(0.001)  # two moments are to be told apart
    second.begin()
    request_of(second, b"GET /2 HTTP/1.1\r\n\r\n")
    request_of(lane, b"GET /1 HTTP/1.1\r\n\r\n")
    first, other = in_hand(words, 0)
    assert (first.lane, first.label, other.lane, other.label) == (0, "GET /1", 1, "GET /2")
    assert first.since < other.since


@given(note=st.binary(min_size=RECORD_WORDS * 8 - 8, max_size=RECORD_WORDS * 8 - 8), since=st.integers(0, 2**64 - 1))
def test_whatever_a_worker_writes_is_a_line(note: bytes, since: int) -> None:
    words = memoryview(bytearray(8 * (LANE + layout.LANE_WORDS))).cast("Q")
    words[LANE] = words[LANE + RECORD_STAMP] = since
    words[LANE + RECORD : LANE + RECORD_STAMP].cast("B")[:] = note
    for one in in_hand(words, 0):
        assert (one.label + one.peer).isprintable()
        assert 0 <= one.since <= time.monotonic()
        assert one.told(time.monotonic()).isprintable()


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (InHand(0, 7.5, "GET /a", "192.0.2.1"), "GET /a from 192.0.2.1 for 2.5 s"),
        (InHand(0, 7.5, "GET /a"), "GET /a for 2.5 s"),
        (InHand(0, 7.5, "", "192.0.2.1"), "a connection from 192.0.2.1 for 2.5 s"),
        (InHand(0, 10.5), "something unnamed for 0 s"),
    ],
)
def test_in_words(one: InHand, told: str) -> None:
    assert one.told(10.0) == told


def test_a_process_that_the_application_forks_notes_nothing_here(lane: Lane, words: memoryview[int]) -> None:
    """Its memory is its own (`Scoreboard.part`), and the recorder's view of it goes along."""
    board = Scoreboard.create(1)
    theirs = board.entry(0)
    recorder = FlightRecorder(theirs[LANE:])
    theirs[LANE] = 5
    pid = os.fork()
    if pid == 0:
        board.part()
        recorder.label("the child's")
        os._exit(0)
    os.waitpid(pid, 0)
    assert noted(theirs) == [("", "")]
    del theirs, recorder
    board.close()


def test_what_was_asked_for_last_is_told_whether_it_is_in_hand_or_done(lane: Lane, words: memoryview[int]) -> None:
    assert list(last_noted(words)) == []
    began = lane.begin()
    assert list(last_noted(words)) == [], "nothing is noted yet"
    request_of(lane, b"GET /a?b HTTP/1.1\r\n\r\n")
    (first,) = last_noted(words)
    assert (first.lane, first.in_hand, first.label) == (0, True, b"GET /a")
    lane.end(began, failed=False)
    assert list(last_noted(words)) == [first._replace(in_hand=False)]
    lane.begin()
    assert list(last_noted(words)) == [], "the note may be in the midst of being written"
    request_of(lane, b"GET /" + b"x" * 300 + b" HTTP/1.1\r\n\r\n")
    (second,) = last_noted(words)
    assert second.stamp > first.stamp
    assert second.label == b"", "a path that was cut is none"
