"""The kinds of values that settings take.

A `Kind` turns text (a flag, an environment variable) into a value, checks a value that came from Python or TOML, and
writes a value back. It refuses with a `ValueError` whose message begins with the value and ends with the remedy, so
that the setting's name in front of it makes a whole line. All of it is pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from prefork.config.address import parse as parse_address
from prefork.system.natives import os, socket
from prefork.system.record import Record

T = TypeVar("T")

Plain = bool | int | float | str | tuple[str, ...] | tuple[int, ...]
"""What a setting's value is in TOML."""

_MADE: Final = frozenset({"inet", "inet6", "unix", "abstract"})
_SHOWN: Final = 60  # characters of a refused value that are repeated in the message about it
_BIGGEST: Final = 2**63 - 1
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")
_SIZE: Final = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,6})?)([KMG]?)", re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MODE: Final = re.compile(r"(?:0o)?([0-7]{1,6})")
_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})


def _unchanged(value: Any) -> Any:
    return value


class Kind(Record, Generic[T]):
    """One sort of value.

    Args:
        metavar: What stands for the value in ``--help``: a unit, or the forms it takes.
        parse: Gives the value that a text means, its bounds not yet checked; ValueError when it means none.
        check: Gives a value in its proper type, when type and range are right; else ValueError.
        show: Writes a value as text that ``parse`` reads.
        plain: Gives a value as TOML knows it, which ``check`` takes back.
        switch: Whether the flag stands alone, with a second one that begins with ``--no-``.
        repeats: Whether the flag may be given several times, each adding a value.
        locate: Gives a value that names a file as an absolute path, from the folder where a relative one begins.
        words: What there is to choose between, where that is a few words.
    """

    metavar: str
    parse: Callable[[str], T]
    check: Callable[[object], T]
    show: Callable[[T], str] = str
    plain: Callable[[T], Plain] = _unchanged
    switch: bool = False
    repeats: bool = False
    locate: Callable[[T, str], T] | None = None
    words: tuple[str, ...] = ()


def refusal(value: object, clause: str) -> ValueError:
    """The error that says why a value can't be used, in one printable line."""
    try:
        shown = repr(value)
    except ValueError:
        shown = (
            "a number of thousands of digits"  # which Python writes out only on request (sys.set_int_max_str_digits)
        )
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}..."
    return ValueError(f"{shown} {clause}")


def switch() -> Kind[bool]:
    """Yes or no."""
    clause = "is neither yes nor no; give true or false"

    def parse(text: str) -> bool:
        word = text.strip().lower()
        if word not in _YES | _NO:
            raise refusal(text, clause)
        return word in _YES

    def check(value: object) -> bool:
        if not isinstance(value, bool):
            raise refusal(value, clause)
        return value

    return Kind("yes|no", parse, check, lambda value: "yes" if value else "no", switch=True)


def whole(noun: str, *, least: int = 0, most: int = _BIGGEST, metavar: str = "COUNT") -> Kind[int]:
    """A whole number.

    Args:
        noun: What it is, as in "-1 is not a count of processes".
        least: The smallest allowed.
        most: The biggest allowed.
        metavar: What stands for it in the help.
    """

    def refused(value: object) -> ValueError:
        beyond = isinstance(value, int) and value > most
        return refusal(value, f"is not {noun}; give {f'at most {most}' if beyond else f'{least} or more'}")

    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text.strip()):
            raise refused(text)
        return int(text)

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise refused(value)
        return value

    return Kind(metavar, parse, check)


def computed(number: Kind[int]) -> Kind[int | str]:
    """A whole number, "auto", or a text such as "2 * cpus + 1", which is computed later (`prefork.config.arithmetic`).

    Args:
        number: The kind of the number.
    """
    remedy = ', or "auto"'

    def expression(text: str) -> str:
        from prefork.config import arithmetic

        try:
            arithmetic.parse(text)
        except ValueError as error:
            raise refusal(text, f"can't be computed: it {error}; give such as 2 * cpus + 1") from None
        return text

    def parse(text: str) -> int | str:
        text = text.strip()
        return text.lower() if text.lower() == "auto" else text if "cpus" in text else _or(remedy, number.parse, text)

    def check(value: object) -> int | str:
        if isinstance(value, str) and "cpus" in value:
            return expression(value.strip())
        return value if value == "auto" else _or(remedy, number.check, value)

    return Kind(f"{number.metavar}|auto|EXPRESSION", parse, check)


def _or(remedy: str, convert: Callable[[Any], T], value: object) -> T:
    """What ``convert`` makes of a value; its complaint offers one thing more."""
    try:
        return convert(value)
    except ValueError as error:
        raise ValueError(f"{error}{remedy}") from None


def number(
    noun: str, *, least: float = 0.0, most: float, metavar: str = "SECONDS", counts: bool = False
) -> Kind[float]:
    """A number; never nan nor infinite.

    Args:
        noun: What it is, as in "-1 is not a number of seconds".
        least: The smallest allowed.
        most: The biggest allowed.
        metavar: What stands for it in the help.
        counts: Whether it is a part of something below 1, and from there on a whole number.
    """
    parts = "0 (off), a fraction such as 0.9, or a whole number"
    clause = f"is not {noun}; give {parts if counts else f'{least:g} to {most:.10g}'}"

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise refusal(text, clause) from None

    def check(value: object) -> float:
        # A comparison with nan is false, and one of an int of any length with a float is exact.
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise refusal(value, clause)
        if counts and value > 1 and value != math.floor(value):
            raise refusal(value, clause)
        return float(value)

    return Kind(metavar, parse, check, lambda value: str(int(value)) if value == int(value) else repr(value))


def size(*, least: int) -> Kind[int]:
    """A number of bytes: 0, or ``least`` and more; as text also with the suffix K, M or G (powers of 1024)."""

    def show(value: int) -> str:
        unit = next((unit for unit in "GMK" if value and value % _UNITS[unit] == 0), "")
        return f"{value // _UNITS[unit]}{unit}"

    clause = f"is not a size; give 0 (off) or {show(least)} and more, such as 512M"

    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise refusal(text, clause)
        amount = float(match[1]) if "." in match[1] else int(match[1])
        return int(amount * _UNITS[match[2].upper()])

    def check(value: object) -> int:
        amount = parse(value) if isinstance(value, str) else value
        if not isinstance(amount, int) or isinstance(amount, bool) or not least <= (amount or least) <= _BIGGEST:
            raise refusal(value, clause)
        return amount

    return Kind("BYTES", parse, check, show, show)


_NARROW: Final = 40  # characters that fit behind a flag's name in the narrowest help


def choice(*words: str) -> Kind[str]:
    """One of a few words, in capitals or not."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value.lower() not in words:
            raise refusal(value, f"is not known; give {', '.join(words[:-1])} or {words[-1]}")
        return value.lower()

    forms = "|".join(words)
    return Kind(
        forms if len(forms) <= _NARROW else f"{words[0]}|{words[1]}|...|{words[-1]}", str.strip, check, words=words
    )


def text(pattern: str, remedy: str, *, metavar: str, locate: Callable[[str, str], str] | None = None) -> Kind[str]:
    """A text of one form, or an empty one.

    Args:
        pattern: The regular expression that the whole text matches; it is printable besides.
        remedy: The clause about one that doesn't.
        metavar: What stands for it in the help.
        locate: As `Kind` has it.
    """

    def check(value: object) -> str:
        if not isinstance(value, str) or (value and not (value.isprintable() and re.fullmatch(pattern, value))):
            raise refusal(value, remedy)
        return value

    return Kind(metavar, str.strip, check, locate=locate)


def several(pattern: str, remedy: str, *, metavar: str) -> Kind[tuple[str, ...]]:
    """Any number of texts of one form; as text with commas between them.

    Args:
        pattern: The regular expression that the whole of each matches; it is printable besides.
        remedy: The clause about one that doesn't.
        metavar: What stands for one in the help.
    """

    def parse(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    def check(value: object) -> tuple[str, ...]:
        texts = parse(value) if isinstance(value, str) else value
        if not isinstance(texts, tuple | list):
            raise refusal(value, remedy)
        for text in texts:
            if not isinstance(text, str) or not (text.isprintable() and re.fullmatch(pattern, text)):
                raise refusal(text, remedy)
        return tuple(texts)

    return Kind(metavar, parse, check, ",".join, repeats=True)


def account(noun: str) -> Kind[str]:
    """A user or a group, by name or number; nothing for none.

    Args:
        noun: Which of the two.
    """
    return text(r"[^\s:]{1,255}", f"is not a {noun}; give a name or a number", metavar=noun.upper())


def path(noun: str, *words: str) -> Kind[str]:
    """The path of a file; nothing for none.

    Args:
        noun: What it is the path of.
        words: What else may stand there, and is no path.
    """
    return text(r".*[^/]", f"is not the path of a {noun}; name one", metavar="PATH", locate=path_in(*words))


def path_in(*words: str) -> Callable[[str, str], str]:
    """What makes a path absolute; nothing, and these words, are left as they are."""

    def locate(value: str, folder: str) -> str:
        return os.path.join(folder, value) if value and value not in words else value

    return locate


def mode() -> Kind[int | None]:
    """Permission bits, written in octal; None (as text: nothing) leaves them alone."""
    clause = 'is not a file mode; give octal digits in quotes, such as "0660"'

    def show(value: int | None) -> str:
        return "" if value is None else f"{value:04o}"

    def parse(text: str) -> int | None:
        if not text.strip():
            return None
        match = _MODE.fullmatch(text.strip())
        if match is None:
            raise refusal(text, clause)
        return int(match[1], 8)

    def check(value: object) -> int | None:
        bits = parse(value) if isinstance(value, str) else value
        if bits is None:
            return None
        if not isinstance(bits, int) or isinstance(bits, bool) or not 0 <= bits <= 0o777:
            raise refusal(value, clause)
        return bits

    return Kind("OCTAL", parse, check, show, show)


def addresses() -> Kind[str | tuple[str, ...]]:
    """One or several addresses to listen on; as text with commas between them."""
    clause = "is not an address; give host:port or unix:/path, or several of them"

    def parse(text: str) -> str | tuple[str, ...]:
        texts = tuple(part.strip() for part in text.split(","))
        return texts[0] if len(texts) == 1 else texts

    def check(value: object) -> str | tuple[str, ...]:
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, tuple | list) or not texts:
            raise refusal(value, clause)
        for text in texts:
            if not isinstance(text, str):
                raise refusal(text, clause)
            parse_address(text)
        return value if isinstance(value, str) else tuple(texts)

    return Kind(
        "ADDRESS", parse, check, lambda value: value if isinstance(value, str) else ",".join(value), repeats=True
    )


def place(*, here: bool = False) -> Kind[str]:
    """One address that the master listens on for itself; nothing for none.

    Args:
        here: Whether nobody on another machine may reach it.
    """

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise refusal(value, "is not an address; give host:port or unix:/path")
        if value:
            address = parse_address(value)
            if address.kind not in _MADE or address.type != socket.SOCK_STREAM:
                raise refusal(value, "is no address of our own making; give host:port or unix:/path")
            if here and not address.is_here:
                remedy = "give 127.0.0.1:PORT or unix:/path, and put what asks for a password in front of it"
                raise refusal(value, f"could be reached from other machines; {remedy}")
        return value

    return Kind("ADDRESS", str.strip, check)
