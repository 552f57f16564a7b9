"""The record that passes over an exec: what is written is read, and anything else is refused, whatever it is."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.net.listener import Snapshot
from prefork.supervisor.cause import Cause
from prefork.supervisor.handover import FORMAT, Handover, HandoverError, Life, MoldLife, locate
from prefork.system.record import changed

LIFE = Life(
    pid=4711,
    slot=2,
    entry=5,
    generation=3,
    born=17.25,
    ready_at=17.5,
    deadline=None,
    order=0,
    cause=None,
    detail="",
    wanted=False,
    role="incumbent",
    pidfd=11,
    report=None,
    board=6,
    order_at=83,
    wake_up=36,
)
RECORD = Handover(
    format=FORMAT,
    pid=4700,
    bind=("127.0.0.1:8000", "unix:/run/s"),
    listeners=(
        Snapshot("127.0.0.1:8000", ((0, 3), (1, 4)), (0, 1), True, True, "hash", None),
        Snapshot("unix:/run/s", ((0, 5),), None, True, False, "hash", (7, 8)),
    ),
    layout=1,
    board=6,
    events=(7, 8),
    go=9,
    queue=(15, 16),
    generation=3,
    size=4,
    draining=(),
    mask=(2, 15),
    services='{"Control":{}}',
    workers=(LIFE, changed(LIFE, pid=4712, entry=-1, role="retiring", pidfd=None, report=12, board=13)),
    molds=(MoldLife(pid=4713, generation=3, born=16.5, control=17, report=18, pidfd=None),),
)


def of_format(version: int) -> dict[str, Any]:
    """The record with the names that it had until the fifth format, when there were no molds."""
    record = json.loads(RECORD.encode())
    del record["molds"]
    return {"windows" if name == "services" else name: value for name, value in record.items()} | {"format": version}


def test_what_is_written_is_read() -> None:
    assert Handover.decode(RECORD.encode()) == RECORD


def test_what_services_passed_on_is_read_by_the_name_that_it_had() -> None:
    assert Handover.decode(json.dumps(of_format(4)).encode()) == changed(RECORD, molds=())


def test_workers_of_images_that_woke_by_sigterm_are_woken_by_sigterm() -> None:
    first = of_format(1)
    for life in first["workers"]:
        del life["wake_up"], life["cause"], life["detail"]
        life["seat"], life["reason"] = life.pop("entry"), ""
    read = Handover.decode(json.dumps(first).encode())
    assert [life.wake_up for life in read.workers] == [signal.SIGTERM] * 2
    assert read == changed(RECORD, workers=read.workers, molds=())


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize(
    ("said", "cause", "detail"),
    [
        ("", None, ""),
        ("the server stops", Cause.STOP, ""),
        ("the server shrinks", Cause.SHRINK, ""),
        ("replaced", Cause.RELOAD, ""),
        ("max_requests", Cause.MAX_REQUESTS, ""),
        ("max_age", Cause.MAX_AGE, ""),
        ("max_memory: it holds 300 MiB", Cause.MAX_MEMORY, "it holds 300 MiB"),
        ("max_fds: it holds 17 descriptors", Cause.MAX_FDS, "it holds 17 descriptors"),
        ("signalled by somebody else", Cause.SIGNALLED, ""),
        ("it leaks descriptors", Cause.LEAK, ""),
        ("its listener is lost", Cause.LISTENER_LOST, ""),
        ("it asked for it", Cause.ASKED, ""),
        ("recycled by hand", Cause.RECYCLED, ""),
        ("somebody's whim: green", Cause.OTHER, "somebody's whim: green"),
    ],
)
def test_images_that_said_why_in_words_are_understood(
    version: int, said: str, cause: Cause | None, detail: str
) -> None:
    earlier = of_format(version)
    for life in earlier["workers"]:
        del life["cause"], life["detail"]
        life["reason"], life["bell"] = said, life.pop("wake_up")
        if version < 3:
            life["seat"] = life.pop("entry")
        if version < 2:
            del life["bell"]
    read = Handover.decode(json.dumps(earlier).encode())
    assert [(life.cause, life.detail) for life in read.workers] == [(cause, detail)] * 2
    assert [life.entry for life in read.workers] == [life.entry for life in RECORD.workers]


def test_a_cause_that_only_the_writer_knows_is_read() -> None:
    """A word that is for the metrics alone is no reason to refuse an upgrade."""
    of_tomorrow = changed(RECORD, workers=(changed(LIFE, cause="boredom"),))
    (life,) = Handover.decode(of_tomorrow.encode()).workers
    assert life.cause == "boredom"
    assert Cause.of_record("boredom") is Cause.OTHER


def test_every_descriptor_comes_through() -> None:
    assert sorted(RECORD.descriptors) == [3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 18]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"format": 1}', b'{"format": 2}', b'{"format": 3}', b"nonsense"]
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(HandoverError, match=r"^the hand-over record "):
        Handover.decode(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in a record."""
    here = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return here + [found for key, one in items for found in places(one, (*path, key))]


WHOLE = json.loads(RECORD.encode())


@given(
    st.sampled_from(places(WHOLE)),
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(max_size=5),
        st.floats(),
        st.lists(st.integers(), max_size=3),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    ),
)
def test_a_value_of_another_type_is_refused_or_read_as_what_it_is(path: tuple[Any, ...], value: object) -> None:
    changed = json.loads(RECORD.encode())
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        read = Handover.decode(json.dumps(changed).encode())
    except HandoverError:
        return
    assert json.loads(read.encode()) == json.loads(json.dumps(changed)) or isinstance(value, float)


@given(st.sampled_from([path for path in places(WHOLE) if isinstance(path[-1], str)]))
def test_a_field_that_is_missing_or_unknown_is_refused(path: tuple[Any, ...]) -> None:
    changed = json.loads(RECORD.encode())
    place = changed
    for key in path[:-1]:
        place = place[key]
    value = place.pop(path[-1])
    with pytest.raises(HandoverError):
        Handover.decode(json.dumps(changed).encode())
    place[path[-1]] = value
    place["unknown"] = 1
    with pytest.raises(HandoverError):
        Handover.decode(json.dumps(changed).encode())


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_without_another_exception(data: bytes) -> None:
    with pytest.raises(HandoverError):
        Handover.decode(data)


@pytest.mark.parametrize("value", ["", "3", "3:", ":4", "a:b", "3:4:5", "-3:4", "3:\uff14"])
def test_a_variable_that_names_no_record_is_refused(value: str) -> None:
    with pytest.raises(HandoverError):
        locate(value)


def test_a_variable_names_descriptor_and_pid() -> None:
    assert locate("3:4711") == (3, 4711)
