"""The memory of the application's metrics: who writes where, what outlives whom, and what is made of anything."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.scoreboard import app_metrics
from prefork.scoreboard.app_metrics import AppMetrics, private
from prefork.scoreboard.value_name import ValueName
from tests.support.programs import facts


@pytest.fixture
def memory() -> Iterator[AppMetrics]:
    made = AppMetrics.create(3)
    yield made
    made.close()


def kept(name: str, _: int) -> tuple[str, str] | None:
    return None if name == "gone" else (name, name)


def told(memory: AppMetrics) -> dict[str, float]:
    return {one.name: one.value for one in memory.read()}


def test_what_a_process_writes_is_read(memory: AppMetrics) -> None:
    region = memory.claim()
    assert region is not None
    first, second = region.place("first"), region.place("a second one")
    assert region.place("first") == first
    region.values[first], region.values[second] = 1.5, -2.0
    region.values[second + 1] = 7.0
    assert [tuple(one) for one in memory.read()] == [
        ("first", os.getpid(), 1.5, 0.0),
        ("a second one", os.getpid(), -2.0, 7.0),
    ]


def test_the_dead_are_merged_and_their_region_is_free(memory: AppMetrics) -> None:
    for number in (1, 2):
        region = memory.regions[number]
        region.words[0] = 100 + number
        for name, value, at in (("sum", 2.0 * number, 0), ("min", number, 0), ("max", number, 0), ("gone", 1, 0)):
            place = region.place(name)
            region.values[place], region.values[place + 1] = value, at
        place = region.place("mostrecent")
        region.values[place], region.values[place + 1] = number, 10.0 - number
    memory.bury(101, kept)
    memory.bury(102, kept)
    assert told(memory) == {"sum": 6.0, "min": 1.0, "max": 2.0, "mostrecent": 1.0}
    assert not any(region.words[0] for region in memory.regions[1:])


def test_a_value_that_can_not_be_kept_keeps_no_region(memory: AppMetrics) -> None:
    region = memory.regions[1]
    region.words[0] = 101
    region.place("anything")

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        memory.bury(101, fails)
    assert not region.words[0]
    assert memory.read() == []


def test_another_image_goes_on_with_it(memory: AppMetrics) -> None:
    memory.regions[1].words[0] = 101
    memory.regions[1].values[memory.regions[1].place("sum")] = 2.0
    memory.bury(101, kept)
    again = AppMetrics(os.dup(memory.fd))
    again.regions[1].words[0] = 102
    again.regions[1].values[again.regions[1].place("sum")] = 3.0
    again.bury(102, kept)
    assert told(again) == {"sum": 5.0}
    again.close()


def test_each_process_has_a_region_of_its_own_for_life(memory: AppMetrics) -> None:
    program = """
        import json, os, sys
        from prefork.scoreboard.app_metrics import AppMetrics

        memory = AppMetrics(int(sys.argv[1]))
        ends = []
        for _ in range(4):
            reader, writer = os.pipe()
            go, gone = os.pipe()
            if os.fork() == 0:
                region = memory.claim()
                os.write(writer, b"none" if region is None else b"%4d" % memory.regions.index(region))
                os.close(gone)
                os.read(go, 1)  # the parent's end
                os._exit(0)
            os.close(go)
            ends.append((os.read(reader, 4).decode().strip(), gone))
        print(json.dumps([number for number, _ in ends]))
        sys.stdout.flush()
        for _, gone in ends:
            os.close(gone)
        for _ in ends:
            os.wait()
    """
    assert facts(program, str(memory.fd), fds=[memory.fd]) == ["1", "2", "3", "none"]


def test_a_full_region_says_so() -> None:
    region = private()
    names = (f"{number} {'x' * 200}" for number in range(10_000))
    with pytest.raises(MemoryError, match="there is no room for"):
        list(map(region.place, names))


@pytest.mark.parametrize("size", [0, 4096, 4096 + app_metrics.REGION + 8])
def test_what_is_no_such_memory_is_refused(size: int) -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    with pytest.raises(ValueError, match="no memory of metrics"):
        AppMetrics(fd)
    os.ftruncate(fd, 4096 + 2 * app_metrics.REGION)
    with pytest.raises(ValueError, match="not a memory of metrics"):
        AppMetrics(fd)
    os.close(fd)


@given(st.binary(max_size=400), st.integers(0, 2**64 - 1))
def test_whatever_a_process_writes_is_read_to_its_end(data: bytes, used: int) -> None:
    region = private()
    region._bytes[16 : 16 + len(data)] = data  # what a hostile one would write
    region.words[1] = used
    for one in region.read():
        assert ValueName.read(one.name) is None or one.name


@given(st.text(max_size=60) | st.lists(st.none() | st.text(max_size=3) | st.integers(), max_size=8).map(repr))
def test_a_name_is_one_of_ours_or_none(text: str) -> None:
    assert ValueName.read(text) is None


def test_a_way_that_is_none_is_no_name() -> None:
    assert ValueName.read(ValueName("gauge", "livesum", "a", "a", {}, "").text) is not None
    assert ValueName.read(ValueName("gauge", "livewhatever", "a", "a", {}, "").text) is None


def test_a_name_is_read_back() -> None:
    name = ValueName("gauge", "liveall", "level", "level", {"kind": "ä"}, "A level.", 7)
    assert ValueName.read(name.text) == name
    assert (name.how, name.kept(5)) == ("all", None)
    assert name._replace(mode="all").kept(5) == (name._replace(mode="all", pid=5).text, "sum")
    assert name._replace(type="counter", mode="").kept(5) == (name._replace(type="counter", mode="").text, "sum")
    assert struct.calcsize("=II") == 8
