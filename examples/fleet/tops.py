"""What ``prefork top`` shows, of several hosts one under another, with what HAProxy has made of each."""

from __future__ import annotations

from collections.abc import Mapping

from deploy import Seen
from rich.text import Text

from prefork.cli.top_view import TopView
from prefork.errors import ControlError
from prefork.services.control import Client

PATIENCE = 2.0
"""Seconds that a server has to answer before the others are shown."""


class Tops:
    """The hosts of a fleet.

    Args:
        controls: The control socket of each, by name.
    """

    def __init__(self, controls: Mapping[str, str]) -> None:
        self._controls = controls
        self._views = {name: TopView() for name in controls}

    def look(self) -> None:
        """Ask all servers what they do. One that is not there keeps what it said last, with a note."""
        for name, view in self._views.items():
            try:
                with Client(self._controls[name], timeout=PATIENCE) as client:
                    view.take_status(client.status())
                view.note = " "  # and no keys: nobody reads them here
            except ControlError as error:
                view.note = str(error).splitlines()[0]

    def picture(self, seen: Mapping[str, Seen], last: str, width: int, height: int) -> Text:
        """All of them.

        Args:
            seen: What HAProxy knows of each.
            last: A line to stand below.
            width: Columns.
            height: Lines.
        """
        each = max(3, (height - 1) // max(1, len(self._views)))
        lines = []
        for name, view in self._views.items():
            told = f" {seen[name].status}, {seen[name].weight} %" if name in seen else ""
            lines += [Text(f"── {name}{told} ".ljust(width, "─"), "bold cyan"), view.picture(width, each - 1)]
        return Text("\n").join([*lines, Text(last[:width])])
