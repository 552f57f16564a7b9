"""The supervisor is built whole: who reads its ``__init__`` knows all that it has."""

import ast
import inspect

from prefork.supervisor.supervisor import Supervisor


def test_every_attribute_is_made_in_the_initializer() -> None:
    (kind,) = ast.parse(inspect.getsource(Supervisor)).body
    assert isinstance(kind, ast.ClassDef)
    assert not [node for node in kind.body if isinstance(node, ast.AnnAssign)], "declared, and made later"
    made: dict[str, set[str]] = {}
    for method in kind.body:
        if isinstance(method, ast.FunctionDef):
            made[method.name] = {
                node.attr
                for node in ast.walk(method)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            }
    whole = made.pop("__init__")
    assert len(whole) > 15
    assert {name for names in made.values() for name in names} <= whole
