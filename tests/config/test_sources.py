"""New code is what the source says: an edit that leaves size and second as they were is served all the same."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefork.config import sources
from prefork.testing import Server, request
from prefork.testing.plugin import ServerFactory
from tests.support.probing import LOGGING, replaced

CODE = """
def handle(connection, address):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\n{word}")
"""
SECOND = 1_700_000_000


def say(file: Path, word: str) -> None:
    """A source of the same size and second, whatever it says."""
    file.write_text(CODE.format(word=word))
    os.utime(file, (SECOND, SECOND))


def edit(folder: Path) -> None:
    say(folder / "words.py", "two")


def point_elsewhere(folder: Path) -> None:
    """As a link that names the current release does; the other has been there all along."""
    (folder / "link").symlink_to("two.py")
    (folder / "link").replace(folder / "words.py")


@pytest.fixture(params=[edit, point_elsewhere])
def change(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], None]:
    """Makes the application say "two", where it says "one" now and has been compiled."""
    (tmp_path / "shop.py").write_text("from words import handle\n")
    if request.param is edit:
        say(tmp_path / "words.py", "one")
    else:
        say(tmp_path / "one.py", "one")
        say(tmp_path / "two.py", "two")
        (tmp_path / "words.py").symlink_to("one.py")
    return lambda: request.param(tmp_path)


def said(server: Server) -> str:
    return request(server.address).body.decode()


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "signum"),
    [
        ({}, signal.SIGHUP),
        ({"preload": True}, signal.SIGHUP),
        ({"preload": True}, signal.SIGUSR2),
        ({"reload": True}, 0),
        ({"reload": True, "preload": True}, 0),
    ],
    ids=["reload", "reload, preloaded", "upgrade", "watched", "watched, preloaded"],
)
def test_the_source_is_believed(
    prefork_server: ServerFactory, tmp_path: Path, change: Callable[[], None], settings: dict[str, Any], signum: int
) -> None:
    if "reload" in settings:
        pytest.importorskip("watchfiles", reason="prefork[reload] is not installed")
    subprocess.run([sys.executable, "-c", "import shop"], cwd=tmp_path, timeout=60, check=True)  # compiled by time
    server = prefork_server("shop:handle", app_dir=tmp_path, workers=1, **settings)
    assert said(server) == "one"
    if not signum:
        server.wait_for_log("reload: watching")
    change()
    if signum:
        before = server.workers()
        server.signal(signum)
        replaced(server, before)
        assert said(server) == "two"
    else:
        server.wait_for(lambda: said(server) == "two")
    assert server.stop() == 0


@pytest.mark.long
def test_the_source_is_believed_of_a_program_that_serves(
    prefork_server: ServerFactory, tmp_path: Path, change: Callable[[], None]
) -> None:
    """Its modules are imported before anything of ours runs."""
    (tmp_path / "program.py").write_text(
        f"{LOGGING}\nimport os, sys, prefork, shop\n"
        "def handle(connection, address):\n"
        "    assert sys.pycache_prefix is None and 'PYTHONPYCACHEPREFIX' not in os.environ\n"
        "    shop.handle(connection, address)\n"
        "prefork.serve(handle, bind='127.0.0.1:0', workers=1)\n"
    )
    server = prefork_server.command([sys.executable, str(tmp_path / "program.py")])
    assert said(server) == "one"
    for word, made in (("two", change), ("six", lambda: say(tmp_path / "words.py", "six"))):
        before = server.workers()
        made()
        server.signal(signal.SIGUSR2)
        replaced(server, before)
        assert said(server) == word
    assert server.stop() == 0


def load(file: Path) -> dict[str, object]:
    """What a module's code makes, by our loader."""
    code = sources.Loader("words", str(file)).get_code("words")
    assert code is not None
    made: dict[str, object] = {}
    exec(code, made)
    return made


def test_what_is_cached_is_used_while_it_is_of_that_text(tmp_path: Path) -> None:
    file = tmp_path / "words.py"
    cached = Path(importlib.util.cache_from_source(str(file)))
    file.write_text("word = 1\n")
    os.chmod(file, 0o600)
    assert load(file)["word"] == 1
    first = cached.stat()
    assert first.st_mode & 0o777 == 0o600
    assert load(file)["word"] == 1
    assert cached.stat().st_ino == first.st_ino, "it is not written again"
    file.write_text("word = 2\n")
    assert load(file)["word"] == 2
    for spoilt in (b"", cached.read_bytes()[:20], cached.read_bytes()[:16] + b"N", b"\0" * 100):
        cached.write_bytes(spoilt)
        assert load(file)["word"] == 2
    # An interpreter without us believes what we have written, for as long as it is true (PEP 552).
    for number in (2, 3):
        file.write_text(f"word = {number}\n")
        os.utime(file, (SECOND, SECOND))
        program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import words; print(words.word)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == f"{number}\n"


def test_nothing_is_cached_where_nothing_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "words.py"
    file.write_text("word = 1\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert load(file)["word"] == 1
    assert list(tmp_path.iterdir()) == [file]
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "__pycache__").touch()
    assert load(file)["word"] == 1


def test_a_host_gets_its_imports_back_as_they_were(tmp_path: Path) -> None:
    program = (
        "import sys; from prefork.config import sources; before = list(sys.path_hooks)\n"
        "assert sources.by_content() and not sources.by_content()\n"
        "import words; assert type(words.__loader__) is sources.Loader\n"
        "import psutil; assert type(psutil.__loader__) is not sources.Loader\n"
        "sources.by_time(); assert sys.path_hooks == before\n"
        "import more; assert type(more.__loader__) is not sources.Loader\n"
    )
    for name in ("words.py", "more.py"):
        (tmp_path / name).touch()
    environment = os.environ | {"PYTHONPATH": f"{Path(sources.__file__).parents[2]}:{tmp_path}"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, timeout=60, check=True)


TRUSTED = """
import importlib.util, os, sys

from prefork.config import sources

sys.path.insert(0, os.getcwd())
sys.dont_write_bytecode = False
import trusted_words

SECOND = int(sys.argv[1])
cached = importlib.util.cache_from_source(trusted_words.__file__)
later = os.stat(trusted_words.__file__).st_ctime_ns + 10**9
os.utime(cached, ns=(later, later))
environ = {"A": "b", "PYTHONPYCACHEPREFIX": "/mine"}
assert sources.distrusting(environ) == environ
os.utime(cached, (SECOND, SECOND))
assert sources.distrusting(environ) == {"A": "b", "PYTHONPYCACHEPREFIX": "/dev/null/prefork/mine"}
with open(trusted_words.__file__, "w") as file:
    file.write("word = 22\\n")
assert sources.distrusting(environ) == environ
"""


def test_an_image_that_may_trust_what_is_compiled_does(tmp_path: Path) -> None:
    """Only a source of the same size and second that has changed since costs a start without any compiled file."""
    (tmp_path / "trusted_words.py").write_text("word = 1\n")
    # In a process of its own: this one has imported what other tests have written, and changed since.
    subprocess.run([sys.executable, "-c", TRUSTED, str(SECOND)], cwd=tmp_path, timeout=60, check=True)


@pytest.mark.parametrize("before", ["", "/mine"])
def test_trust_comes_back(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", f"/dev/null/prefork{before}")
    sources.trusting()
    assert (sys.pycache_prefix or "", os.environ.get("PYTHONPYCACHEPREFIX", "")) == (before, before)
    sources.trusting()
    assert (sys.pycache_prefix or "") == before
