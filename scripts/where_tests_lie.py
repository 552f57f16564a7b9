"""Hold tests/ to the house: a test lies in the folder of its room, under the name of a module or of what it is about.

    .venv/bin/python scripts/where_tests_lie.py [ROOT]

A folder of tests is that of a package of prefork. ``test_x.py`` in it is for the module x of that package, as is
``test_x_y.py``; or it is about something that no one module is responsible for: then the docstring of the folder's
``__init__`` has a line ``x: what that is``. What tests share lies in tests/support.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

OTHER = {"storm", "support"}
"""Folders that are of no room: a program of its own, and what tests share."""

_WORD = re.compile(r"^(\w+): \S", re.MULTILINE)


def words(folder: Path) -> set[str]:
    """What the folder's docstring says that its tests are about."""
    text = (folder / "__init__.py").read_text(encoding="utf-8") if (folder / "__init__.py").exists() else ""
    return set(_WORD.findall(ast.get_docstring(ast.parse(text)) or ""))


def _folders(tests: Path) -> list[Path]:
    """The folders that have tests."""
    found = {path.parent for path in tests.rglob("test_*.py")} - {tests}
    return sorted(folder for folder in found if folder.relative_to(tests).parts[0] not in OTHER)


def problems(root: Path) -> Iterator[str]:
    """One line for each test that has no place, each word without a test, each helper among tests."""
    tests, package = root / "tests", root / "prefork"
    for folder in _folders(tests):
        place = folder.relative_to(tests)
        room = package / place
        if not room.is_dir():
            yield f"tests/{place}: prefork has no such package"
            continue
        modules = {path.stem for path in room.rglob("*.py")} | {path.name for path in room.iterdir() if path.is_dir()}
        about = words(folder)
        names = {path.stem.removeprefix("test_") for path in folder.glob("test_*.py")}
        of_modules = {name for name in names if any(f"{name}_".startswith(f"{module}_") for module in modules)}
        for name in sorted(names - of_modules - about):
            yield f"tests/{place}/test_{name}.py: no module of prefork/{place}, no word in tests/{place}/__init__.py"
        for name in sorted(about - names):
            yield f"tests/{place}/__init__.py: {name} is said to be tested, and there is no test_{name}.py"
        for name in sorted(about & of_modules):
            yield f"tests/{place}/__init__.py: {name} is a module's in prefork/{place} and needs no word"
        for path in sorted(folder.glob("*.py")):
            shown = str(path.relative_to(tests))
            if not path.name.startswith("test_") and path.stem not in {"__init__", "conftest"}:
                yield f"tests/{shown}: what tests share lies in tests/support"


def main(argv: list[str]) -> int:
    """Print what is out of place; 1 when anything is."""
    found = list(problems(Path(argv[0]) if argv else Path(__file__).resolve().parent.parent))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
