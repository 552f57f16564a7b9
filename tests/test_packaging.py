"""What is published: a wheel and an sdist, built as a packager would, installed where nothing else is, and run."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from trove_classifiers import classifiers

from prefork import __version__
from prefork.testing import request
from prefork.testing.plugin import ServerFactory
from tests.support.documents import ROOT

pytestmark = pytest.mark.long

NOT_PUBLISHED = {".ci/run"}
"""Tracked files that the sdist leaves out."""


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run to a good end; what it wrote."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist, and of the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The wheel."""
    return dist / f"prefork-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def source(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(dist / f"prefork-{__version__}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"prefork-{__version__}"


def test_an_empty_environment_serves(wheel: Path, prefork_server: ServerFactory, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", wheel)
    installed = run(*pip, "list", "--format=freeze")
    assert sorted(line.partition("==")[0] for line in installed.split()) == ["prefork", "psutil"]
    command = venv / "bin" / "prefork"
    assert run(command, "--version") == f"prefork {__version__}\n"
    server = prefork_server.command(
        [str(command), "serve", "hello:handle", "--app-dir", str(ROOT / "examples"), "--bind=127.0.0.1:0"],
        cwd=tmp_path,
    )
    assert request(server.address).body == b"hello\n"
    assert server.stop() == 0
    # Each extra that is missing is told of in one line.
    for words in (["wsgi", "shop:application"], ["exporter"], ["top"]):
        done = subprocess.run([command, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode != 0
        assert done.stderr.startswith("prefork: error: ")
        assert done.stderr.count("\n") == 1, done.stderr


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"prefork-{__version__}.dist-info"
        metadata = Metadata.from_email(archive.read(f"{info}/METADATA"))  # raises for what an index would refuse
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert "prefork/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {"prefork", info}
    assert metadata.license_expression == "MIT"
    assert metadata.license_files == ["LICENSE"]
    assert metadata.description_content_type == "text/markdown"
    assert set(metadata.classifiers or []) <= classifiers
    assert [str(one) for one in metadata.requires_dist or [] if one.marker is None] == ["psutil>=5.9"]
    assert entries["console_scripts"]["prefork"] == "prefork.__main__:main"
    assert entries["pytest11"]["prefork"] == "prefork.testing.plugin"


def test_the_sdist_has_all_that_its_tests_and_scripts_need(source: Path) -> None:
    if (ROOT / ".git").exists():
        tracked = set(run("git", "-c", "safe.directory=*", "ls-files").splitlines()) - NOT_PUBLISHED
        assert [name for name in sorted(tracked) if (ROOT / name).exists() and not (source / name).exists()] == []
    run(sys.executable, "scripts/import_order.py", cwd=source)
    passed = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_errors.py", cwd=source)
    assert "passed" in passed
