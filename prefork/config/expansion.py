"""Variables of the environment in the texts of a file: ``${PORT}``, ``${PORT:-8000}``. Pure.

``${NAME:-DEFAULT}`` is DEFAULT where the variable is not set or empty, as in a shell; ``$${`` is a plain ``${``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_PLACE: Final = re.compile(r"\$\$(?=\{)|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|[^}]*\}?)")


def has(value: object) -> bool:
    """Whether a value has something to be expanded in it."""
    if isinstance(value, list):
        return any(map(has, value))
    return isinstance(value, str) and "${" in value


def plain(text: str) -> str:
    """What a text is written as in a file, so that nothing in it is taken for a variable."""
    return text.replace("${", "$${")


def expanded(value: object, environ: Mapping[str, str]) -> object:
    """A text, or each text in a list, with what the variables in it are.

    Raises:
        ValueError: One is not set, or none is named; the message is a clause with the remedy.
    """
    if isinstance(value, list):
        return [expanded(part, environ) for part in value]
    if not isinstance(value, str) or not has(value):
        return value

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name, default = found["name"], found["default"]
        if name is None:
            raise ValueError(f"holds {found[0]!a}, which names no variable; give ${{NAME}} or ${{NAME:-DEFAULT}}")
        given = environ.get(name) or default
        if given is None:
            raise ValueError(f"needs the variable {name}, which is not set; set it, or give ${{{name}:-DEFAULT}}")
        return given

    return _PLACE.sub(replaced, value)
