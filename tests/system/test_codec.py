"""What the codec reads is of the types that the class declares, or it is said where it is not."""

from __future__ import annotations

from typing import Literal

import pytest

from prefork.system import codec
from prefork.system.codec import DecodeError
from prefork.system.record import Record, fresh


class Inner(Record):
    """One level down."""

    name: str
    share: float | None = None


class Outer(Record):
    """A value of each kind that there is."""

    count: int
    mode: Literal["one", "two"]
    pair: tuple[int, bool]
    inner: tuple[Inner, ...] = ()
    sums: dict[str, int] = fresh(factory=dict)


WHOLE = Outer(3, "two", (4, True), (Inner("a"), Inner("b", 0.5)), {"x": 1})
GIVEN = {"count": 3, "mode": "one", "pair": [1, False]}


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_encoded_is_read(exact: bool) -> None:
    text = codec.encoded(WHOLE)
    assert text == (
        '{"count":3,"mode":"two","pair":[4,true],"inner":[{"name":"a","share":null},{"name":"b","share":0.5}],'
        '"sums":{"x":1}}'
    )
    assert codec.read(Outer, codec.parsed(text), exact=exact) == WHOLE


def test_other_names_are_left_out_or_refused() -> None:
    assert codec.read(Outer, {**GIVEN, "new": 1}) == Outer(3, "one", (1, False))
    whole = codec.parsed_object(codec.encoded(WHOLE))
    with pytest.raises(DecodeError, match=r"^Outer: nobody knows 'new'$"):
        codec.read(Outer, {**whole, "new": 1}, exact=True)
    with pytest.raises(DecodeError, match=r"^Outer: something is missing$"):
        codec.read(Outer, GIVEN, exact=True)
    with pytest.raises(DecodeError, match=r"^Outer.inner: nobody knows 'new'$"):
        codec.read(Outer, {**whole, "inner": [{"name": "a", "share": None, "new": 1}]}, exact=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"count": True}, "Outer.count: bool where int was expected"),
        ({"count": 3.0}, "Outer.count: float where int was expected"),
        ({"count": None}, "Outer.count: NoneType where int was expected"),
        ({"mode": "three"}, "Outer.mode: str where"),
        ({"mode": ["one"]}, "Outer.mode: list where"),
        ({"pair": [1]}, "Outer.pair: 1 values where 2 were expected"),
        ({"pair": [1, 0]}, "Outer.pair: int where bool was expected"),
        ({"inner": [{"name": "a", "share": True}]}, "Outer.inner.share: bool where float was expected"),
        ({"inner": [{"name": "a", "share": 10**400}]}, "Outer.inner.share: int where float was expected"),
        ({"inner": [3]}, "Outer.inner: int where an object was expected"),
        ({"sums": {"x": "1"}}, "Outer.sums: str where int was expected"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(DecodeError) as error:
        codec.read(Outer, {**GIVEN, **wrong})
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("text", ["", b"", "{", b"\xff", "[" * 100_000, b"[" * 100_000, "nonsense"])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(DecodeError):
        codec.parsed(text)
    with pytest.raises(DecodeError):
        codec.parsed_object(text)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"{}"'])
def test_json_that_is_no_object_is_refused_where_one_is_asked_for(text: str) -> None:
    codec.parsed(text)
    with pytest.raises(DecodeError, match="where an object was expected"):
        codec.parsed_object(text)


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="complex has no form in JSON"):
        codec.encoded({"value": 1j})
