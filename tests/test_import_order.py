"""The check of the imports' order fails on everything that it is there for."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROBLEMS = runpy.run_path(str(ROOT / "scripts" / "import_order.py"))["problems"]

HOUSE = """
```house
errors    what is raised
system    the kernel
net       sockets
testing   for tests
__init__  the face
```
"""
FILES = {
    "__init__.py": "from prefork.net.listener import Listener\n",
    "errors.py": "",
    "system/__init__.py": "",
    "system/process.py": "from prefork.errors import PreforkError\n",
    "net/__init__.py": "",
    "net/listener.py": "from prefork.system import process\n",
    "net/queue.py": "",
    "testing/__init__.py": "from prefork.system import process\n",
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"system/process.py": "import prefork.net.listener\n"}, "system stands above net and must not import it"),
        ({"system/process.py": "from prefork.net import queue\n"}, "system stands above net and must not import it"),
        ({"errors.py": "def late():\n    from prefork.system import process\n"}, "errors.py:2: errors stands above"),
        ({"errors.py": "import prefork\n"}, "errors stands above __init__ and must not import it"),
        ({"errors.py": "from prefork import Listener\n"}, "errors stands above __init__ and must not import it"),
        (
            {"net/queue.py": "from prefork.net import listener\n", "net/listener.py": "import prefork.net.queue\n"},
            "a circle: net.listener, net.queue import each other",
        ),
        ({"extra.py": ""}, "prefork/extra.py: extra has no place in the house"),
        ({"errors.py": None}, "the house has a room errors, and there is no such file or package"),
        ({"testing/client.py": "from prefork.net import queue\n"}, "testing must do without net"),
        (
            {"net/queue.py": "class Claim: ...\n", "net/listener.py": "def of():\n    class Claim: ...\n"},
            "prefork/net/listener.py:2, prefork/net/queue.py:1: Claim is the name of 2 things",
        ),
        (
            {"net/queue.py": "_Kind = tuple[int, int]\n", "net/listener.py": "class Kind: ...\n"},
            "prefork/net/listener.py:1, prefork/net/queue.py:1: Kind is the name of 2 things",
        ),
        (
            {"net/queue.py": "".join(f"class {name}:\n    def take(self): ...\n" for name in "ABCDE")},
            "A, B, C, D, E: of what is take() in each?",
        ),
        ({"net/queue.py": "".join(f"class {name}:\n    def take(self): ...\n" for name in "ABCD")}, ""),
        (
            {"net/queue.py": "MOST: int = 1\nT = int\nsome = 2\n", "net/listener.py": "MOST = 2\nT = int\nsome = 3\n"},
            "",
        ),
    ],
)
def test_what_is_out_of_order_is_told(tmp_path: Path, changes: dict[str, str | None], problem: str) -> None:
    files = {**FILES, "system/process.py": FILES["system/process.py"] if "errors.py" not in changes else "", **changes}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "design.md").write_text(HOUSE, encoding="utf-8")
    for name, text in files.items():
        if text is not None:
            path = tmp_path / "prefork" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    found = list(PROBLEMS(tmp_path))
    if problem:
        assert any(problem in line for line in found), found
    else:
        assert found == []


@pytest.mark.long
def test_the_house_is_in_order() -> None:
    assert list(PROBLEMS(ROOT)) == []


@pytest.mark.parametrize("room", sorted(path.parent.name for path in (ROOT / "prefork").glob("*/__init__.py")))
def test_each_room_says_who_runs_it_and_who_imports_it(room: str) -> None:
    said = ast.get_docstring(ast.parse((ROOT / "prefork" / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert re.search(r"MASTER|WORKER|process", said), said
    assert re.search(r"import|known here|attaches", said), said
