"""A record is what a frozen dataclass would be, and making its class compiles nothing."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import pytest

from prefork.system.record import MutableRecord, Record, changed, fields_of, fresh


class Point(Record):
    """One with a default, and with something of its class's."""

    x: int
    y: int = 2
    names: dict[str, int] = fresh(factory=dict)
    made: ClassVar[int] = 0

    @property
    def sum(self) -> int:
        """What is no field."""
        return self.x + self.y


class Solid(Point):
    """One more field than the class it comes from."""

    z: int = 3


class Named(Record, kw_only=True):
    """Given by name."""

    first: int = 1
    second: int


class Counter(MutableRecord):
    """One that changes."""

    count: int
    seen: list[int] = fresh(factory=list)


def test_fields_are_given_in_order_or_by_name() -> None:
    for point in (Point(1), Point(x=1), Point(1, y=2), Point(1, 2, {}), Point(y=2, x=1)):
        assert (point.x, point.y, point.names, point.sum) == (1, 2, {}, 3)
    solid = Solid(1, z=5)
    assert (solid.x, solid.y, solid.names, solid.z) == (1, 2, {}, 5)
    assert fields_of(Solid) == ("x", "y", "names", "z")
    assert (Named(second=2).first, Named(second=2).second) == (1, 2)


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        (Point, (), {}),
        (Point, (), {"y": 1}),
        (Point, (1, 2, {}, 4), {}),
        (Point, (1,), {"x": 1}),
        (Point, (1,), {"w": 1}),
        (Point, (), {"w": 1}),
        (Point, (1,), {"made": 1}),
        (Named, (1,), {"second": 2}),
        (Named, (), {"first": 2}),
    ],
)
def test_what_does_not_fit_the_fields_is_a_type_error(
    kind: type[Record], values: tuple[object, ...], named: dict[str, object]
) -> None:
    with pytest.raises(TypeError, match=kind.__name__):
        kind(*values, **named)


def test_a_default_that_can_change_is_each_record_s_own() -> None:
    one, other = Point(1), Point(1)
    one.names["a"] = 1
    assert not other.names


def test_records_of_one_class_with_equal_fields_are_equal() -> None:
    class Other(Record):
        first: int
        second: int

    assert Named(first=1, second=2) == Named(second=2)
    assert Named(second=2) != Named(second=3)
    assert Other(1, 2) != Named(first=1, second=2)
    assert hash(Named(first=1, second=2)) == hash(Named(second=2))
    assert len({Other(1, 2), Other(1, 2), Other(2, 1)}) == 2
    assert repr(Other(1, 2)).endswith("Other(first=1, second=2)")


def test_a_record_never_changes() -> None:
    point = Point(1)
    for name in ("x", "z"):
        with pytest.raises(AttributeError, match=f"{name} of Point can't be set"):
            setattr(point, name, 3)
        with pytest.raises(AttributeError, match=f"{name} of Point can't be deleted"):
            delattr(point, name)
    assert changed(point, y=5) == Point(1, 5)
    assert point.__replace__(y=5) == Point(1, 5)
    with pytest.raises(TypeError, match="z"):
        changed(point, z=5)
    assert copy.copy(point) == copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == point


def test_one_that_changes_is_equal_to_itself_alone() -> None:
    counter = Counter(1)
    counter.count += 1
    counter.seen.append(2)
    assert (counter.count, counter.seen, Counter(1).seen) == (2, [2], [])
    assert counter == counter
    assert counter != Counter(2, [2])
    assert len({counter, Counter(2)}) == 2


def test_patterns_take_them_apart() -> None:
    match Solid(1, 4):
        case Solid(x, y, z=z):
            assert (x, y, z) == (1, 4, 3)
        case _:
            pytest.fail("it is one")
