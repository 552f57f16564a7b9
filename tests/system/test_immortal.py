"""What lives for ever: on the interpreters where that was checked, each in a process of its own, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

import prefork
from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.supervisor.environment import refuse_immortality
from prefork.system import immortal

_ROOT = Path(prefork.__file__).parent.parent

PROGRAM = """
import ctypes, gc, os, re, sys, tempfile, weakref
from prefork.system.immortal import immortalize, lack

assert not lack(), lack()

class Plain:
    pass

class Ending:
    def __del__(self):
        ended.append(self)

class Lazy:
    __class__ = property(lambda self: asked.append(self))

def function(a, b=("constant of a function", 12345.5)):
    return lambda: "constant within a function"

def generator():
    yield

ended, asked = [], []
plain, ending, lazy, file, suspended = Plain(), Ending(), Lazy(), tempfile.TemporaryFile(), generator()
plain.held = {"a list": [10**30, "a text", b"bytes", 1.25, re.compile("a+")]}
next(suspended)

def lives(one):
    return ctypes.c_uint32.from_address(id(one)).value >= 1 << 31

assert not lives(plain) and not lives(function.__code__)
marked = immortalize()
gc.freeze()
assert marked > 1000, marked
for one in (plain, plain.held, *plain.held.values(), *plain.held["a list"], Plain, function, sys.modules, lazy):
    assert lives(one), one
for one in (function.__code__, *function.__code__.co_consts[-1:], *function.__defaults__[0]):
    assert lives(one), one
inner = next(one for one in function.__code__.co_consts if hasattr(one, "co_code"))
assert lives(inner) and any(lives(one) for one in inner.co_consts if isinstance(one, str))
for one in (ending, file, suspended):
    assert not lives(one), one
assert not asked, "nothing of the application's is called"

gone = weakref.ref(plain)
pid = os.fork()
if not pid:
    many = [plain, plain.held, function] * 1000
    del many, plain
    gc.enable()
    cycle = Plain()
    cycle.itself, cycle.held = cycle, gone().held
    del cycle
    gc.collect()
    assert gone() is not None
    del ending
    file.close()
    assert len(ended) == 1
    exec(compile("def f(x):\\n return [x] * 3\\nf({1: 2})", "new", "exec"))
    import decimal, email.message
    gc.unfreeze()
    gc.collect()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert type(sys.intern("never " + "seen")) is str
file.close()
del ending
assert len(ended) == 1
print("whole", flush=True)
"""


def interpreters() -> list[str]:
    """Those on this machine on which it works: of this very version, on the path, of pyenv."""
    names = [f"{major}.{minor}" for major, minor in immortal.CHECKED]
    pyenv = Path.home() / ".pyenv/versions"
    found = [str(path) for name in names for path in sorted(pyenv.glob(f"{name}.*/bin/python"))[:1]]
    on_path = [path for name in names if (path := which(f"python{name}")) and ".pyenv" not in path]
    found += on_path
    return [sys.executable, *found] if not immortal.lack() else found


@pytest.mark.skipif(not interpreters(), reason="no CPython is here on which it was checked")
@pytest.mark.parametrize("python", interpreters() or ["none"])
def test_what_is_there_lives_for_ever_and_the_process_lives_and_ends_as_before(python: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-X", "dev", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


def test_it_is_refused_in_one_line_where_it_was_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "abiflags", "t")
    settings = Settings(preload=True, immortal=True)
    with pytest.raises(SettingsError) as caught:
        refuse_immortality(settings)
    here = ".".join(map(str, sys.version_info[:3]))
    assert str(caught.value) == (
        "immortal: True can't be had: it was checked on CPython 3.12 and 3.13 of 64 bits, and this is "
        f"{sys.implementation.name} {here}t; leave it out, or run one of those"
    )
    refuse_immortality(Settings(preload=True))
