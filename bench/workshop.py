"""Where the tools of the trade are: what is compiled, unpacked or installed for a run lies under ``bench/.work``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"
APPS = HERE / "apps"
PYTHON = sys.executable


_runtime = tempfile.TemporaryDirectory(prefix="bench-")


def environment() -> dict[str, str]:
    """Changes to the environment of everything that is measured.

    Control sockets have a folder of their own: each prefork server that starts knocks at all those in its folder, to
    see who is gone, and strangers would wake the one that is just being watched for wake-ups.
    """
    return {"PYTHONPATH": str(APPS), "RUNTIME_DIRECTORY": _runtime.name}


class MissingError(Exception):
    """Something that a measurement needs is not on this machine; the message says what."""


@cache
def compiled(source: str) -> str:
    """The program made from ``source``, a C file beside this module.

    Raises:
        MissingError: there is no C compiler.
        subprocess.CalledProcessError: it doesn't compile.
    """
    origin, program = HERE / source, WORK / Path(source).stem
    if not program.exists() or program.stat().st_mtime < origin.stat().st_mtime:
        program.parent.mkdir(exist_ok=True)
        flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([found("cc"), *flags, "-o", str(program), str(origin), "-lm"], check=True)
    return str(program)


@cache
def found(program: str) -> str:
    """The path of a program that the machine, or the environment of the bench, has.

    Raises:
        MissingError: neither has.
    """
    path = shutil.which(program, path=str(Path(PYTHON).parent)) or shutil.which(program)
    if path is None:
        raise MissingError(f"{program} is not installed")
    return path


@cache
def unpacked(package: str) -> Path:
    """A Debian package's files, unpacked and not installed: the folder that stands for the root.

    Raises:
        MissingError: this is no Debian, or the package can't be had.
    """
    root = WORK / "debian" / package
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        command = [found("apt-get"), "download", "--quiet", package]
        done = subprocess.run(command, cwd=root.parent, capture_output=True, text=True, check=False)
        archives = sorted(root.parent.glob(f"{package}_*.deb"))
        if done.returncode or not archives:
            raise MissingError(f"the Debian package {package} can't be had")
        subprocess.run([found("dpkg-deb"), "--extract", archives[-1], root], check=True)
    return root
