"""Where the tools of the trade are: what is compiled, unpacked or installed for a run lies under ``bench/.work``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"
APPS = HERE / "apps"
PYTHON = sys.executable


class MissingError(Exception):
    """Something that a measurement needs is not on this machine; the message says what."""


@cache
def compiled(source: str) -> Path:
    """The program made from ``source``, a C file beside this module.

    Raises:
        MissingError: there is no C compiler.
        subprocess.CalledProcessError: it doesn't compile.
    """
    origin, program = HERE / source, WORK / Path(source).stem
    if not program.exists() or program.stat().st_mtime < origin.stat().st_mtime:
        compiler = found("cc")
        program.parent.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, origin], check=True)
    return program


@cache
def found(program: str) -> str:
    """The path of a program that the machine has.

    Raises:
        MissingError: it has not.
    """
    path = shutil.which(program)
    if path is None:
        raise MissingError(f"{program} is not installed")
    return path
