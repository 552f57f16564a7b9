"""Settings of one command that are given to another of ours: what to say then. Imported where that has happened."""

from __future__ import annotations

import importlib

from prefork.cli.main import COMMANDS
from prefork.config.fields import table


def of_sibling(name: str, served_by: str) -> str:
    """Which commands have a setting; "" if none has it.

    Args:
        name: The setting's, or what was given for it.
        served_by: The command that was given it.
    """
    found = [
        f"prefork {command.name}" for command in COMMANDS if command.name != served_by and _has(command.options, name)
    ]
    return f"it is a setting of {' and '.join(found)} alone; leave it out" if found else ""


def _has(options: str, name: str) -> bool:
    if not options:
        return False
    module, _, table_name = options.partition(":")
    return any(field.name == name for field in table(getattr(importlib.import_module(module), table_name)))
