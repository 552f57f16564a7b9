r"""The protocol of the control socket: one JSON object a line, each way. Pure.

A request names what is to be done and has its arguments beside it; the answer says whether it was::

    {"v": 1, "id": 7, "do": "scale", "workers": 8}
    {"v": 1, "id": 7, "ok": true, "result": {"workers": 8, "before": 4}}
    {"v": 1, "id": 7, "ok": false, "code": "failed", "error": "there is no slot 9"}

``v`` may be left out, ``id`` too; an id comes back as it was. A request that can't be read is answered and ends the
connection, for nobody knows what follows it. One that can be read and not be done is answered, and that is all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from prefork.errors import did_you_mean
from prefork.system import codec
from prefork.system.codec import DecodeError
from prefork.system.record import Record

VERSION: Final = 1

LONGEST: Final = 4096
"""Bytes of a request, its newline included."""

_LONGEST_ID: Final = 64  # characters


class Argument(NamedTuple):
    """One argument of a request.

    Attributes:
        kind: its type.
        default: what it is when it is left out; None when it has to be given.
        least: the smallest number that is allowed.
    """

    kind: type
    default: object = None
    least: int = 0


REQUESTS: Final[Mapping[str, Mapping[str, Argument]]] = {
    "health": {},
    "status": {"processes": Argument(bool, False)},
    "reload": {"wait": Argument(bool, True)},
    "upgrade": {"wait": Argument(bool, True)},
    "scale": {"workers": Argument(int, least=1)},
    "recycle": {"slot": Argument(int), "wait": Argument(bool, True)},
    "dump": {"slot": Argument(int)},
    "dump_mold": {},
    "stop": {"quick": Argument(bool, False)},
}
"""What can be asked for, and its arguments."""

_BIGGEST: Final = 2**31


class ControlRequestError(Exception):
    """A request that is not carried out.

    Args:
        code: "malformed": it can't be read, and the connection ends; "unknown": nobody knows what it asks for;
            "denied": the peer is not allowed to; "failed": it was tried and came to nothing.
        text: why, in one line.
        id: the request's own id, as far as it was read.
    """

    def __init__(self, code: str, text: str, id: int | str | None = None) -> None:  # noqa: A002  # the protocol's name for it
        super().__init__(text)
        self.code = code
        self.text = text
        self.id = id


class Request(Record):
    """One request, checked: ``arguments`` has every argument that it may have."""

    do: str
    arguments: Mapping[str, Any]
    id: int | str | None = None


def parse(line: bytes) -> Request:
    """Read a request.

    Args:
        line: what came, without its newline.

    Raises:
        ControlRequestError: it can't be read, or asks for nothing that there is.
    """
    try:
        data = codec.parsed(line)
    except DecodeError:
        raise ControlRequestError("malformed", "this is not JSON in UTF-8; send one object a line") from None
    if not isinstance(data, dict):
        raise ControlRequestError("malformed", "this is JSON, but not an object; send one object a line")
    number = data.pop("id", None)
    if not (number is None or _is_number(number) or (isinstance(number, str) and len(number) <= _LONGEST_ID)):
        raise ControlRequestError("malformed", f"id: a whole number, or a text of {_LONGEST_ID} characters at the most")
    version = data.pop("v", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise ControlRequestError("malformed", f"v: this server speaks version {VERSION}", number)
    do = data.pop("do", None)
    if not isinstance(do, str):
        raise ControlRequestError("malformed", "do: it is missing, or not a text", number)
    return Request(do, _arguments(do, data, number), number)


def _arguments(do: str, given: dict[str, object], number: int | str | None) -> dict[str, object]:
    known = REQUESTS.get(do)
    if known is None:
        remedy = did_you_mean(do, REQUESTS, f"it is one of {', '.join(REQUESTS)}")
        raise ControlRequestError("unknown", f"do: {_shown(do)} is nothing that can be done; {remedy}", number)
    for name in given.keys() - known.keys():
        raise ControlRequestError("unknown", f"{do}: {_shown(name)} is no argument of it", number)
    arguments = {}
    for name, argument in known.items():
        value = given.get(name, argument.default)
        if value is None:
            raise ControlRequestError("unknown", f"{do}: {name} is missing", number)
        fits = isinstance(value, bool) if argument.kind is bool else _is_number(value, argument.least)
        if not fits:
            what = "true or false" if argument.kind is bool else f"a whole number, {argument.least} to {_BIGGEST - 1}"
            raise ControlRequestError("unknown", f"{do}: {name} has to be {what}", number)
        arguments[name] = value
    return arguments


def _is_number(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < _BIGGEST


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}...")


def answer(request: Request | None, result: object) -> bytes:
    """The line that says that it was done.

    Args:
        request: what was asked for.
        result: what came of it.
    """
    return _line({"v": VERSION, "id": request.id if request else None, "ok": True, "result": result})


def refusal(error: ControlRequestError) -> bytes:
    """The line that says that it was not done."""
    return _line({"v": VERSION, "id": error.id, "ok": False, "code": error.code, "error": error.text})


def _line(data: object) -> bytes:
    return codec.encoded(data).encode() + b"\n"
