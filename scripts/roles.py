"""For the documentation: docstrings as Markdown, which knows no ``:class:`~prefork.Worker``` but `Worker`."""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

_ROLE: Final = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([^`]+)`")


def plain(text: str) -> str:
    """The text with each role as a name in code; ``~`` leaves the last part of a dotted one."""
    return _ROLE.sub(lambda found: f"`{found[2].rpartition('.')[2] if found[1] else found[2]}`", text)


class Roles(griffe.Extension):
    """Rewrites the docstring of everything that has one."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute when it has been read."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
