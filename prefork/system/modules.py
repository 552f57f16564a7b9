"""What this process has imported, as the modules' own dictionaries have it: none of them is asked, and none runs.

A module may answer by code of its own (PEP 562, importlib.util.LazyLoader, others' lazy imports), which imports what it
stands for, and fails where that is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator


def having(attribute: str) -> Iterator[tuple[str, object]]:
    """Any process. The name of each module that has an attribute by now, and that attribute.

    Args:
        attribute: its name, such as ``__file__``.
    """
    for name, module in list(sys.modules.items()):
        try:
            namespace = object.__getattribute__(module, "__dict__")
        except AttributeError:
            continue  # somebody has put something else there
        if attribute in namespace:
            yield name, namespace[attribute]
