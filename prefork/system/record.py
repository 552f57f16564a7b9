"""Records: objects of named fields, as dataclasses are, of classes that cost next to nothing to make.

``@dataclass`` writes up to six methods for each class as text and compiles them, each time the program starts. A start
of the command makes a hundred such classes, and that was a third of its time. The methods of a record are the same for
all classes: they go by the names of the fields. To make one takes three times as long in return, 2 us more,
so what a connection or a request makes is none.

Type checkers know records as they know dataclasses (PEP 681).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, dataclass_transform

R = TypeVar("R", bound="Record")


class _Fresh(NamedTuple):
    """A default that each record has one of its own of."""

    factory: Callable[[], Any]


def fresh(*, factory: Callable[[], Any]) -> Any:
    """The default of a field whose value can change, as a list does.

    Args:
        factory: makes the value for a record that is given none.
    """
    return _Fresh(factory)


class Described(NamedTuple):
    """The default of a field of which more is told than that; `descriptions` has it.

    Attributes:
        default: the default.
        about: what is told, by names of one's own.
    """

    default: Any
    about: Mapping[str, Any]


class _Shape(NamedTuple):
    """What is known of a class of records."""

    fields: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = MappingProxyType({})
    about: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


class AnyRecord:
    """What all records are: objects that are made of the values of their fields.

    A subclass annotates its fields, in order, and assigns the defaults; those of the classes above it come first.

    Args:
        values: the first fields, in order; of a class with ``kw_only``, none.
        named: the others, by name.

    Raises:
        TypeError: a field is missing, is given twice, or there is none of that name.
    """

    _shape: ClassVar[_Shape] = _Shape()
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        """Take the fields of a class from its annotations.

        Args:
            kw_only: whether they are given by name alone.
        """
        super().__init_subclass__()
        # Text, since each module of prefork's says "from __future__ import annotations".
        own = [name for name, kind in cls.__annotations__.items() if not kind.startswith("ClassVar")]
        shapes = [vars(base)["_shape"] for base in cls.__mro__[:0:-1] if "_shape" in vars(base)]
        fields = dict.fromkeys([*(name for shape in shapes for name in shape.fields), *own])
        defaults = {name: value for shape in shapes for name, value in shape.defaults.items()}
        about = {name: told for shape in shapes for name, told in shape.about.items()}
        for name in own:
            if name in vars(cls):
                defaults[name] = vars(cls)[name]
                if type(defaults[name]) is Described:
                    defaults[name], about[name] = defaults[name]
                    setattr(cls, name, defaults[name])
        cls._shape = _Shape(tuple(fields), frozenset(fields), defaults, about)
        if not kw_only:
            cls.__match_args__ += tuple(own)  # type: ignore[misc]  # type checkers make them of the annotations

    def __init__(self, *values: Any, **named: Any) -> None:
        fields, known, defaults, _ = self._shape
        held = self.__dict__
        held.update(zip(self.__match_args__, values, strict=False))
        held.update(named)
        if len(held) != len(values) + len(named):
            raise TypeError(f"{type(self).__name__} was given more values than it has fields, or one of them twice")
        if len(held) < len(fields):
            for name, default in defaults.items():
                if name not in held:
                    held[name] = default.factory() if type(default) is _Fresh else default
        if held.keys() != known:
            wrong = ", ".join(sorted(held.keys() ^ known))
            raise TypeError(f"{type(self).__name__} lacks these fields, or has none of that name: {wrong}")

    def __replace__(self, **values: Any) -> Self:
        """One like this, but for these fields, for copy.replace() of Python 3.13."""
        return type(self)(**{**self.__dict__, **values})

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._shape.fields)
        return f"{type(self).__qualname__}({fields})"


@dataclass_transform(eq_default=False, field_specifiers=(fresh,))
class MutableRecord(AnyRecord):
    """One whose fields are set anew as things go on. It is equal to nothing but itself."""


@dataclass_transform(frozen_default=True, field_specifiers=(fresh,))
class Record(AnyRecord):
    """A value: its fields never change. Two are equal when they are of one class and their fields are equal."""

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *map(self.__dict__.__getitem__, self._shape.fields)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of {type(self).__name__} can't be set: a record never changes")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} of {type(self).__name__} can't be deleted: a record never changes")


def fields_of(kind: type[AnyRecord]) -> tuple[str, ...]:
    """The names of the fields of a class of records, in order."""
    return kind._shape.fields  # noqa: SLF001  # this is the module whose attribute it is


def descriptions(kind: type[AnyRecord]) -> Mapping[str, Mapping[str, Any]]:
    """What is told of the fields of a class beside their defaults, by their names, where there is more."""
    return kind._shape.about  # noqa: SLF001  # as above


def changed(record: R, **values: Any) -> R:
    """A record like another, but for some of its fields.

    Args:
        record: the other.
        values: what these fields are instead, by name.

    Raises:
        TypeError: there is none of a name.
    """
    return record.__replace__(**values)
