"""What a mold has that doesn't come through a fork: named with whose it is, and refused if it is to be."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.probing import APPS
from tests.support.programs import TIMEOUT

LOOK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from prefork.supervisor.fork_safety import found
from prefork.system.descriptors import descriptors
before = descriptors()
import warmed
print(*found(before), sep="\\n")
"""


def looked(unsafe: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(APPS)],
        env={"UNSAFE": unsafe},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def unsafe() -> list[str]:
    return looked("1")


def test_a_mold_that_has_opened_nothing_has_nothing_to_tell() -> None:
    assert [line for line in looked("") if line] == []


@pytest.mark.parametrize(
    "line",
    [
        r"thread 'heart', in beat \(.*warmed.py:\d+\)$",
        r"socket AF_INET listening \(descriptor \d+\), of warmed.Pool$",
        r"socket AF_INET to 127.0.0.1:\d+ \(descriptor \d+\), of warmed.Pool$",
        r"eventpoll \(descriptor \d+\), of warmed$",
        r"connection of sqlite3, of warmed$",
    ],
)
def test_what_does_not_come_through_a_fork_is_named_with_whose_it_is(unsafe: list[str], line: str) -> None:
    assert len([each for each in unsafe if re.match(line, each)]) == 1, unsafe


LAZY = """
import os, socket, sqlite3, types
from prefork.supervisor import fork_safety, loaded_code

class Asked(Exception):
    pass

class Lazy:
    __slots__ = ("kept",)
    __class__ = property(lambda self: asked())

class LazyModule(types.ModuleType):
    def __getattribute__(self, name):
        asked()

class Apart(type):
    __eq__ = lambda self, other: asked()
    __hash__ = None

class Thing(metaclass=Apart):
    pass

class Conversation(socket.socket):
    def fileno(self):
        asked()

def asked():
    raise Asked

import sys
sys.modules["lazy"] = LazyModule("lazy")
lazy, thing, database = Lazy(), Thing(), sqlite3.connect(":memory:")
lazy.kept = thing.kept = conversation = Conversation()
print(*fork_safety.found({0, 1, 2}), sep="\\n")
assert loaded_code.census()
"""


def test_nothing_of_the_application_is_asked_what_it_is() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.stderr == ""
    assert [line.partition(" (")[0].partition(",")[0] for line in done.stdout.splitlines()] == [
        "socket AF_INET not connected",
        "connection of sqlite3",
    ]


def test_it_can_be_refused() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefork", "wsgi", "warmed:application", "--app-dir", str(APPS)),
            *("--bind=127.0.0.1:0", "--workers=1", "--preload", "--fork-safety=refuse", "--control=off"),
        ],
        env={"UNSAFE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 4
    (line,) = [line for line in done.stderr.splitlines() if "prefork: error: " in line]
    assert "fork_safety: the application has opened, where it is loaded: thread 'heart', in beat" in line
    assert line.endswith("have it do so in the hook post_fork, or set fork_safety to warn")
    assert "Traceback" not in done.stderr
