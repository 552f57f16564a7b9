import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from prefork.config import target
from prefork.errors import TargetError
from tests.support.programs import facts

APP = """
import functools

class Shop:
    opened = "open"
    def handle(self, connection, address):
        return "shop"
    @property
    def broken(self):
        return [].nothing

shop = Shop()
number = 5

def handle(connection, address):
    return "handled"

def create():
    return handle

def create_named(name):
    return name

def broken_factory():
    import no_such_library

def raising_factory():
    raise RuntimeError("not today")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an application; what was imported from it, and its place on the path, are forgotten again."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    (tmp_path / "demo_app.py").write_text(APP)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def problem(call: Callable[[], object]) -> str:
    with pytest.raises(TargetError) as raised:
        call()
    line = str(raised.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("app", ("app", "", False)),
        ("app:handle", ("app", "handle", False)),
        ("a.b.c:d.e", ("a.b.c", "d.e", False)),
        ("a.b:create()", ("a.b", "create", True)),
        ("über:größe", ("über", "größe", False)),
    ],
)
def test_a_target_is_taken_apart(text: str, parts: tuple[str, str, bool]) -> None:
    assert target.parse(text) == (text, *parts)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "give module:attribute, as in hello:handle"),
        ("app:", "give module:attribute, as in hello:handle"),
        (":handle", "give module:attribute, as in hello:handle"),
        (".app:handle", "give module:attribute, as in hello:handle"),
        ("app:handle:x", "give module:attribute, as in hello:handle"),
        ("app handle", "give module:attribute, as in hello:handle"),
        ("my-app:handle", "give module:attribute, as in hello:handle"),
        ("app\n:handle", "give module:attribute, as in hello:handle"),
        ("app.py", "give the module's name without .py"),
        ("app.py:handle", "give the module's name without .py"),
        ("src/app.py:handle", "give the module's name without .py"),
        ("src/app:handle", "and the module's folder with --app-dir"),
        ("app:create(1)", "which is called without arguments"),
        ("app()", "which is called without arguments"),
    ],
)
def test_other_text_is_refused_with_the_remedy(text: str, remedy: str) -> None:
    line = problem(lambda: target.parse(text))
    assert line.startswith(f"{text!r} does not name a target; ")
    assert remedy in line


def test_what_a_target_names_is_found(folder: Path) -> None:
    handle = target.load("demo_app:handle", str(folder))
    assert callable(handle)
    assert handle(None, None) == "handled"
    assert target.load("demo_app:create()", str(folder)) is handle
    assert target.load("demo_app:shop.opened", str(folder)) == "open"
    module = target.load("demo_app", str(folder))
    assert isinstance(module, ModuleType)
    assert module.handle is handle


def test_the_folder_comes_first_on_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "colorsys.py").write_text("handle = 'mine'")  # also the name of a module in the standard library
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)  # a test before this one may have needed it
    monkeypatch.chdir(folder)
    assert target.load("colorsys:handle", ".") == "mine"
    assert sys.path[0] == str(folder)
    target.load("colorsys:handle", ".")
    assert sys.path.count(str(folder)) == 1
    sys.path.insert(0, "/another")
    target.load("colorsys:handle", ".")
    assert sys.path[0] == str(folder)


def test_a_module_written_after_the_folder_was_looked_at_is_found(folder: Path) -> None:
    problem(lambda: target.load("demo_late:handle", str(folder)))
    (folder / "demo_late.py").write_text("handle = 1")
    assert target.load("demo_late:handle", str(folder)) == 1


@pytest.mark.parametrize("find", [target.check, target.load])
def test_a_module_that_is_not_there(folder: Path, find: Callable[[str, str], object]) -> None:
    assert problem(lambda: find("demo_ap:handle", str(folder))) == (
        f"'demo_ap:handle': there is no module 'demo_ap' in {folder} or on the import path; did you mean demo_app?"
    )
    assert problem(lambda: find("zzz:handle", str(folder))).endswith("name another, or its folder with --app-dir")


def test_a_submodule_that_is_not_there(folder: Path) -> None:
    (folder / "demo_package").mkdir()
    (folder / "demo_package" / "__init__.py").write_text("")
    assert "there is no module 'demo_package.web'" in problem(
        lambda: target.load("demo_package.web:handle", str(folder))
    )
    assert "there is no module 'demo_app.web'" in problem(lambda: target.load("demo_app.web:handle", str(folder)))


@pytest.mark.parametrize("find", [target.check, target.load])
def test_a_folder_that_is_not_there(folder: Path, find: Callable[[str, str], object]) -> None:
    missing = str(folder / "missing")
    assert problem(lambda: find("demo_app:handle", missing)) == (
        f"app_dir: {missing!r} is not a folder; give the one that the application's module is in"
    )
    assert missing not in sys.path


def test_check_runs_none_of_the_applications_code(folder: Path) -> None:
    (folder / "demo_loud.py").write_text("raise SystemExit('imported')")
    target.check("demo_loud:handle", str(folder))
    assert "demo_loud" not in sys.modules


def test_after_a_check_only_the_application_is_imported(folder: Path) -> None:
    """What each worker imports by itself no other shares, and another user may not be allowed to read it."""
    imported = facts(
        """
        import json, sys
        from prefork import server
        from prefork.config import target
        target.check("demo_app:handle", sys.argv[1])
        before = set(sys.modules)
        target.load("demo_app:handle", sys.argv[1])
        print(json.dumps(sorted(set(sys.modules) - before)))
        """,
        str(folder),
    )
    assert imported == ["demo_app"]


def test_check_wants_an_attribute() -> None:
    assert problem(lambda: target.check("app", ".")) == (
        "'app' has no attribute; give app:NAME, with the name of what is to be served"
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("application = 'a'\napp = 'b'", "a"),
        ("app = 'b'", "b"),
        ("def __getattr__(name):\n    if name != 'app':\n        raise AttributeError(name)\n    return 'c'\n", "c"),
    ],
)
def test_a_module_alone_stands_for_the_first_usual_name(folder: Path, source: str, found: str) -> None:
    name = f"demo_alone_{found}"
    (folder / f"{name}.py").write_text(source)
    target.check(name, str(folder), ("application", "app"))
    assert target.load(name, str(folder), ("application", "app")) == found


def test_a_module_alone_that_has_none_of_them(folder: Path) -> None:
    (folder / "demo_none.py").write_text("create_app = None")
    assert problem(lambda: target.load("demo_none", str(folder), ("application", "app"))) == (
        "'demo_none': it has neither application nor app; give demo_none:NAME, with the name of what is to be served"
    )
    (folder / "demo_broken.py").write_text("def __getattr__(name):\n    return [].nothing\n")
    with pytest.raises(AttributeError, match="nothing"):
        target.load("demo_broken", str(folder), ("application", "app"))


def test_a_module_that_another_of_its_name_hides_is_told_of(folder: Path) -> None:
    """A file may be called like a module of the standard library's that has been loaded long before."""
    (folder / "http.py").write_text("def app(environ, start_response): ...\n")
    program = """
        import http, json, sys
        from prefork.config import target
        from prefork.errors import TargetError

        said = []
        for text, names in ("http", ["app"]), ("http:app", []), ("http:HTTPStatus", []):
            try:
                target.load(text, sys.argv[1], names)
            except TargetError as error:
                said.append(str(error))
        print(json.dumps([said, http.__file__]))
    """
    said, other = facts(program, str(folder))
    assert said == [
        f"{text!r}: a module of this name is loaded already, {other}, and hides {folder / 'http.py'}; rename the latter"
        for text in ("http", "http:app")
    ]


def test_check_takes_a_module_that_was_not_found_by_the_import_system(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModuleType("demo_made")
    assert made.__spec__ is None
    monkeypatch.setitem(sys.modules, "demo_made", made)
    target.check("demo_made:handle", ".")


def test_a_library_that_the_application_lacks_is_named_with_its_place(folder: Path) -> None:
    (folder / "demo_lacks.py").write_text("import sys\n\nimport no_such_library\n")
    assert problem(lambda: target.load("demo_lacks:handle", str(folder))) == (
        f"'demo_lacks:handle' can't be imported: {folder}/demo_lacks.py:3: "
        "ModuleNotFoundError: No module named 'no_such_library'"
    )


def test_an_application_that_imports_its_own_missing_name(folder: Path) -> None:
    # The missing module has the target's name, yet the target was found: it is the application that failed.
    (folder / "demo_self").mkdir()
    (folder / "demo_self" / "__init__.py").write_text("import demo_self.web\n")
    assert problem(lambda: target.load("demo_self.web:handle", str(folder))) == (
        f"'demo_self.web:handle' can't be imported: {folder}/demo_self/__init__.py:1: "
        "ModuleNotFoundError: No module named 'demo_self.web'"
    )


def test_an_import_error_of_many_lines_becomes_one(folder: Path) -> None:
    (folder / "demo_lines.py").write_text("raise ImportError('one\\n  two')\n")
    assert problem(lambda: target.load("demo_lines:handle", str(folder))).endswith(
        "demo_lines.py:1: ImportError: one two"
    )


def test_a_name_that_can_not_be_imported_from_a_module(folder: Path) -> None:
    (folder / "demo_from.py").write_text("from demo_app import hande\n")
    line = problem(lambda: target.load("demo_from:handle", str(folder)))
    assert f"{folder}/demo_from.py:1: ImportError: cannot import name 'hande' from 'demo_app'" in line


def test_an_attribute_that_is_not_there(folder: Path) -> None:
    assert problem(lambda: target.load("demo_app:hande", str(folder))) == (
        "'demo_app:hande': demo_app has no attribute 'hande'; did you mean handle?"
    )
    assert problem(lambda: target.load("demo_app:shop.xyz", str(folder))) == (
        "'demo_app:shop.xyz': Shop has no attribute 'xyz'; name one that it has"
    )
    (folder / "demo_private.py").write_text("_handle = 5\n")
    assert problem(lambda: target.load("demo_private:handle", str(folder))).endswith("; name one that it has")


def test_an_attribute_that_fails_by_itself_is_the_applications_error(folder: Path) -> None:
    with pytest.raises(AttributeError, match="nothing"):
        target.load("demo_app:shop.broken", str(folder))


def test_a_module_may_make_its_attributes(folder: Path) -> None:
    (folder / "demo_lazy.py").write_text(
        "def __getattr__(name):\n    if name == 'handle':\n        return 7\n    raise AttributeError(name)\n"
    )
    assert target.load("demo_lazy:handle", str(folder)) == 7
    assert "has no attribute 'other'" in problem(lambda: target.load("demo_lazy:other", str(folder)))


def test_a_factory_that_can_not_be_called(folder: Path) -> None:
    assert problem(lambda: target.load("demo_app:number()", str(folder))) == (
        "'demo_app:number()': number is int, not a function; leave the () out"
    )
    assert problem(lambda: target.load("demo_app:create_named()", str(folder))) == (
        "'demo_app:create_named()': create_named can't be called without arguments: missing a required argument: 'name'"
    )


def test_a_factory_without_a_signature_is_called(folder: Path) -> None:
    (folder / "demo_builtin.py").write_text("make = dict\n")
    assert target.load("demo_builtin:make()", str(folder)) == {}


def test_an_import_that_fails_in_a_factory(folder: Path) -> None:
    line = problem(lambda: target.load("demo_app:broken_factory()", str(folder)))
    assert f"{folder}/demo_app.py:" in line
    assert line.endswith("ModuleNotFoundError: No module named 'no_such_library'")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def x(:", SyntaxError),
        ("1 / 0", ZeroDivisionError),
        ("raise SystemExit(3)", SystemExit),
        ("raise KeyboardInterrupt", KeyboardInterrupt),
    ],
)
def test_other_errors_of_the_application_pass_through(folder: Path, source: str, error: type[BaseException]) -> None:
    (folder / "demo_broken.py").write_text(source)
    with pytest.raises(error):
        target.load("demo_broken:handle", str(folder))


def test_other_errors_of_a_factory_pass_through(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="not today"):
        target.load("demo_app:raising_factory()", str(folder))
