"""The settings by which a command runs somebody else's server in its workers: which one, and that one's own options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prefork.config import kinds
from prefork.config.fields import setting

SYNC: Final = "sync"
"""The name of prefork's own way: a connection at a time in each worker, as gunicorn's of that name."""

EMBEDDING: Final = "Servers in the workers"
"""The heading of these settings."""

_OPTIONS: Final = r"[^\W\d]\w*=[^,]*(,[^\W\d]\w*=[^,]*)*"


def worker_class(*names: str, text: str) -> Any:
    """The setting ``worker_class`` of a command.

    Args:
        names: What may be chosen; the first is the default.
        text: What it chooses between, in sentences.
    """
    return setting(names[0], EMBEDDING, kinds.choice(*names), text, "-k")


def worker_options() -> Any:
    """The setting ``worker_options``."""
    return setting(
        "",
        EMBEDDING,
        kinds.text(
            _OPTIONS, "is no list of options; give NAME=VALUE, or several with commas", metavar="NAME=VALUE,..."
        ),
        "Options of the server that worker_class names, by its own names (see the page on embedded servers). Numbers, "
        "true, false and none are read as such, all else as text.",
    )


def options_of(text: str) -> Mapping[str, object]:
    """What ``worker_options`` says. Pure.

    Args:
        text: The setting, which has been checked.
    """
    pairs = [part.partition("=") for part in text.split(",") if part]
    return {name.strip(): _value(value.strip()) for name, _, value in pairs}


def _value(text: str) -> object:
    words: Mapping[str, object] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    import ast  # which nobody else needs

    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return found if isinstance(found, int | float | str) else text
