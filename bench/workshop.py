"""Where the tools of the trade are: what is compiled, unpacked or installed for a run lies under ``bench/.work``."""

from __future__ import annotations

import os
import re
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

SOCKETS = Path(_runtime.name)
"""A folder for unix sockets, logs and keys that nobody needs after the run; its path is short, as theirs must be."""


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
def found(program: str, package: str = "") -> str:
    """The path of a program that the machine, or the environment of the bench, has.

    Args:
        program: its name.
        package: the Debian package that it is unpacked from where neither has it; "" for none.

    Raises:
        MissingError: it can't be had.
    """
    path = shutil.which(program, path=str(Path(PYTHON).parent)) or shutil.which(program)
    if path is None and package:
        path = next((str(one) for one in borrowed(package).glob(f"usr/*bin/{program}")), None)
    if path is None:
        raise MissingError(f"{program} is not installed")
    return path


def borrowed(package: str) -> Path:
    """The folder that stands for the root under which a Debian package's files are: "/" when it is installed.

    Raises:
        MissingError: it isn't, and can't be had.
    """
    done = subprocess.run(["dpkg-query", "--status", package], capture_output=True, text=True, check=False)
    return Path("/") if "\nStatus: install ok installed" in done.stdout else unpacked(package)


@cache
def unpacked(package: str) -> Path:
    """A Debian package's files and those of what it needs beyond what is installed, unpacked and not installed.

    Returns:
        The folder that stands for the root.

    Raises:
        MissingError: this is no Debian, or the package can't be had.
    """
    root = WORK / "debian" / package
    if root.exists():
        return root
    fresh = root.with_name(f"{package}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    needed = _needed(package)
    command = [found("apt-get"), "download", "--quiet", *needed]
    done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False)
    archives = sorted(fresh.glob("*.deb"))
    if done.returncode or not archives:
        raise MissingError(f"the Debian package {package} can't be had")
    for archive in archives:
        subprocess.run([found("dpkg-deb"), "--extract", archive, fresh], check=True)
        archive.unlink()
    fresh.rename(root)  # not before it is whole
    return root


def _needed(package: str) -> list[str]:
    """The package and those that it needs; what is installed in another version is left as it is."""
    simulate = [found("apt-get"), "install", "--simulate", "--no-install-recommends", package]
    done = subprocess.run(simulate, capture_output=True, text=True, check=False)
    if done.returncode and os.getuid() == 0:  # the lists of a new container are empty
        subprocess.run([found("apt-get"), "update", "--quiet"], capture_output=True, check=False)
        done = subprocess.run(simulate, capture_output=True, text=True, check=False)
    names = re.findall(r"^Inst (\S+) \(", done.stdout, re.MULTILINE)
    return names if package in names else [package]


def libraries(root: Path) -> dict[str, str]:
    """The environment in which a program below ``root`` finds its libraries."""
    if root == Path("/"):
        return {}
    folders = [str(one.parent) for one in root.glob("usr/lib/*/*.so*")]
    return {"LD_LIBRARY_PATH": ":".join(sorted(set(folders)))}


@cache
def certificate() -> tuple[str, str]:
    """A certificate for localhost and its key, made for this run.

    Raises:
        MissingError: there is no openssl.
    """
    certificate, key = SOCKETS / "certificate.pem", SOCKETS / "key.pem"
    command = [found("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, capture_output=True, check=True)
    return str(certificate), str(key)
