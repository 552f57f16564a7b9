"""Hold prefork/ to its house: imports to the order of rooms that docs/design.md lists, and a class's name to one thing.

    .venv/bin/python scripts/import_order.py [ROOT]

A room is a package, or a module that lies beside the packages. Counted is every import there is: inside functions, for
the type checker alone, and ``import prefork`` itself, whose room is ``__init__``. A room imports only from above,
and no modules import each other in a circle.

Names of classes and of types that are made by assignment are told apart without the underscore before them. And some
verbs say too little to be a method's whole name in more than a few classes.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

NARROW = {"testing": {"_version", "errors", "system", "config", "scoreboard"}}
"""Rooms that may not use all that stands above them: who tests a foreign server has no need of ours."""


def house(root: Path) -> list[str]:
    """The rooms in their order, as the fenced block ``house`` of docs/design.md lists them."""
    text = (root / "docs" / "design.md").read_text(encoding="utf-8")
    block = text.split("```house\n", 1)[1].split("```", 1)[0]
    return [line.split()[0] for line in block.splitlines() if line.strip() and not line[0].isspace()]


def modules(root: Path) -> dict[str, Path]:
    """Each module's file, by its dotted name without the leading ``prefork.``; a package's is its ``__init__``."""
    package = root / "prefork"
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and module of each import of the package's own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "prefork" or name.startswith("prefork."):
                yield node.lineno, _module(name.removeprefix("prefork").lstrip("."), known)


def _module(name: str, known: Mapping[str, Path]) -> str:
    """The module that ``name`` is, or that it is an attribute of."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or "__init__"


def circles(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Each set of modules that import each other, sorted (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            at = stack.index(node)
            members, stack[at:] = stack[at:], []
            if len(members) > 1 or node in graph.get(node, ()):
                found.append(sorted(members))

    for node in sorted(graph):
        if node not in number:
            visit(node)
    yield from found


_TYPE = re.compile(r"_*([A-Z]\w*[a-z]\w*)")


def types(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each class, wherever it stands, and of each type that the module makes by assignment."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, node.name.lstrip("_")
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and (named := _TYPE.fullmatch(target.id)):
                yield target.lineno, named[1]


def doubles(root: Path) -> Iterator[str]:
    """One line for each name that stands for two classes or types."""
    found = defaultdict(list)
    for path in modules(root).values():
        for line, name in types(path):
            found[name].append(f"{path.relative_to(root)}:{line}")
    for name, places in sorted(found.items()):
        if len(places) > 1:
            yield f"{', '.join(places)}: {name} is the name of {len(places)} things"


VERBS = {"begin", "look", "take", "tell", "watch"}
"""What so much can mean that its object belongs into the name, where more than a few classes have it."""

_FEW = 4


def verbs(root: Path) -> Iterator[str]:
    """One line for each verb that too many classes have as a method without an object."""
    found = defaultdict(list)
    for path in modules(root).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
                for name in names & VERBS:
                    found[name].append(node.name)
    for name, classes in sorted(found.items()):
        if len(classes) > _FEW:
            yield f"{', '.join(sorted(classes))}: of what is {name}() in each?"


def _rows(order: list[str], rooms: set[str]) -> Iterator[str]:
    """What is wrong with the list by itself."""
    for room in order:
        if room not in rooms:
            yield f"docs/design.md: the house has a room {room}, and there is no such file or package"
        if order.count(room) > 1:
            yield f"docs/design.md: the house has the room {room} twice"


def problems(root: Path) -> Iterator[str]:
    """One line for each import that goes up, each circle, each difference between list and folder, each double name."""
    order, files = house(root), modules(root)
    yield from _rows(order, {name.partition(".")[0] for name in files})
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        room, shown = name.partition(".")[0], path.relative_to(root)
        if room not in order:
            yield f"{shown}: {name} has no place in the house of docs/design.md"
            continue
        graph[name] = set()
        for line, other in imports(path, files):
            graph[name].add(other)
            theirs = other.partition(".")[0]
            if theirs == room or theirs not in order:
                continue
            if order.index(theirs) > order.index(room):
                yield f"{shown}:{line}: {room} stands above {theirs} and must not import it"
            elif theirs not in NARROW.get(room, order):
                yield f"{shown}:{line}: {room} must do without {theirs}"
    for members in circles(graph):
        yield f"a circle: {', '.join(members)} import each other"
    yield from doubles(root)
    yield from verbs(root)


def main(argv: list[str]) -> int:
    """Print what is out of order; 1 when anything is."""
    found = list(problems(Path(argv[0]) if argv else Path(__file__).resolve().parent.parent))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
