"""Hold every import in prefork/ to the order of modules that docs/design.md lists: only from above."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def house() -> list[str]:
    """The modules in their order, as the fenced block ``house`` of docs/design.md lists them."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = text.split("```house\n", 1)[1].split("```", 1)[0]
    return [line.split()[0] for line in block.splitlines() if line.strip()]


def room_of(module: str, order: list[str]) -> str | None:
    """The listed room that ``module`` (dotted, without the leading ``prefork.``) belongs to."""
    parts = module.split(".")
    return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in order), None)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted module (without ``prefork.``) of each import of the package's own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("prefork."):
                yield node.lineno, name.removeprefix("prefork.")


def problems() -> Iterator[str]:
    """One line for each import that goes up the house, and for each module the list doesn't name."""
    order = house()
    for path in sorted((ROOT / "prefork").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "prefork").with_suffix("").parts)
        if module in {"__init__", "__main__"}:
            continue  # the front door may look into every room
        name = module.removesuffix(".__init__")
        room = room_of(name, order)
        if room is None:
            if not module.endswith(".__init__"):
                yield f"{path.relative_to(ROOT)}: {name} has no place in the house of docs/design.md"
            continue
        for line, imported in imports(ast.parse(path.read_text(encoding="utf-8"))):
            other = room_of(imported, order)
            if other is not None and other != room and order.index(other) > order.index(room):
                yield f"{path.relative_to(ROOT)}:{line}: {room} stands above {other} and must not import it"


def main() -> int:
    """Print what is out of order; 1 when anything is."""
    found = list(problems())
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
