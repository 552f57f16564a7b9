"""The servers under test: each example of ``examples/embed``, and what is known of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefork.testing import Server
from prefork.testing.plugin import ServerFactory

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "embed"
APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True)
class Subject:
    """One server.

    Args:
        name: Of the function in `prefork.embed`, and of the example.
        module: What has to be installed for it.
        keeps_alive: Whether it answers several requests on a connection.
    """

    name: str
    module: str = ""
    keeps_alive: bool = True

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module or self.name) is not None


SUBJECTS = (
    Subject("wsgiref", keeps_alive=False),
    Subject("werkzeug"),
    Subject("socketserver"),
    Subject("waitress"),
    Subject("cheroot"),
    Subject("bjoern"),
    Subject("gevent"),
    Subject("asyncio"),
    Subject("uvicorn"),
    Subject("hypercorn"),
    Subject("aiohttp"),
    Subject("tornado"),
)

QUICK = ("waitress", "uvicorn")
"""One of each kind, a thread for each request and a loop: of what concerns all servers, the rest is for long."""
FEW = 3
"""So many are no matter of all servers, and none of them is for long."""


def each(subjects: Iterable[Subject] = SUBJECTS, argument: str = "subject") -> Callable[..., pytest.MarkDecorator]:
    """Run a test for each of these; those that are not installed are skipped, and all but a few marked long."""
    subjects = tuple(subjects)
    few = len(subjects) <= FEW
    return pytest.mark.parametrize(
        argument,
        [
            pytest.param(
                subject,
                id=subject.name,
                marks=[
                    pytest.mark.skipif(not subject.installed, reason=f"{subject.name} is not installed"),
                    *([] if subject.name in QUICK or few else [pytest.mark.long]),
                ],
            )
            for subject in subjects
        ],
    )


def serve(server: ServerFactory, subject: Subject, **settings: object) -> Server:
    """Serve the example, with two workers unless told otherwise."""
    return server(f"with_{subject.name}:Worker", app_dir=EXAMPLES, subcommand="serve", options={}, **WORKERS | settings)


def serve_app(server: ServerFactory, target: str, **settings: object) -> Server:
    """Serve a target in ``tests/support/embed/apps``, where the example's application can be imported too."""
    environment = {"PYTHONPATH": str(EXAMPLES)}
    return server(target, app_dir=APPS, subcommand="serve", options={"env": environment}, **WORKERS | settings)


WORKERS: dict[str, object] = {"workers": 2}
