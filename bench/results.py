"""What was measured: one JSON file, with the machine and the moment of each part. RESULTS.md is made of it alone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.rounds import Table
from bench.workshop import HERE, WORK, MissingError, found, libraries

FILE = "results.json"

_PACKAGES = (
    *(
        "prefork",
        "gunicorn",
        "bjoern",
        "bjoern-binary",
        "fastwsgi",
        "waitress",
        "cheroot",
        "granian",
        "uvicorn",
        "pyuwsgi",
    ),
    *("uvloop", "httptools", "django", "flask"),
)

_PROGRAMS = {
    "cc": ("", "--version", r"^(.*)$"),
    "wrk": ("wrk", "--version", r"^(wrk \S+)"),
    "apache2": ("apache2-bin", "-v", r"Apache/(\S+)"),
    "ruby3.1": ("puma", "--version", r"^(ruby \S+)"),
    "perl": ("", "--version", r"\((v[\d.]+)\)"),
}


@dataclass(frozen=True)
class Facts:
    """When a part was begun, and on what."""

    at: str
    load: float
    """Processes that ran or wanted to, on the average of the minute before."""
    machine: dict[str, str]

    @classmethod
    def begin(cls) -> Facts:
        """Now."""
        return cls(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0], machine())


class Results:
    """The file of results in a folder.

    Args:
        folder: where it is, or will be.

    Attributes:
        parts: for each part what `Facts` has, the ``seconds`` that it took, its ``figures`` by table.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self.parts: dict[str, Any] = {}

    @classmethod
    def kept(cls, folder: Path) -> Results:
        """What the file has; nothing when there is none."""
        results = cls(folder)
        if results._file.exists():
            results.parts = json.loads(results._file.read_text(encoding="utf-8"))
        return results

    def begin(self, part: str, facts: Facts) -> None:
        """A part is measured anew: what was known of it is known no more."""
        self.parts[part] = {**asdict(facts), "seconds": 0.0, "figures": {"missing": {}}}

    def add(self, part: str, name: str, table: Table, seconds: float) -> None:
        """Keep a table, at once: whoever interrupts the run finds what it has measured."""
        found = self.parts[part]
        found["figures"][name] = table.rows
        found["figures"]["missing"][name] = table.missing
        found["seconds"] += seconds
        self._save()

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(self.parts, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self._file)


def machine() -> dict[str, str]:
    """What the figures were measured on and with."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    facts = {
        "processor": f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "virtual": _virtual(),
        "kernel": platform.release(),
        "Python": f"{platform.python_version()}, {_build()}",
    }
    for program, (package, flag, pattern) in _PROGRAMS.items():
        version = _version(program, package, flag, pattern)
        if version:
            facts[program] = version
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit()
    if commit:
        facts["prefork"] = f"{facts.get('prefork', '')} ({commit})".strip()
    return facts


def _commit() -> str:
    """Of this clone, where it is one; with a + when files differ from it."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _virtual() -> str:
    flags = Path("/proc/cpuinfo").read_text()
    return "yes" if " hypervisor" in flags else "no"


def _build() -> str:
    """How the interpreter was made, which is a tenth and more of its speed."""
    if Path(sys.base_prefix) == Path("/usr"):
        return "the distribution's build"  # profile-guided by its own rules, of which sysconfig knows nothing
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return "profile-guided" if optimized else "built without profile-guided optimization"


def _version(program: str, package: str, flag: str, pattern: str) -> str | None:
    unpacked = WORK / "debian" / package  # nothing is fetched for the sake of its version
    try:
        command = [found(program, package if package and unpacked.exists() else ""), flag]
    except MissingError:
        return None
    environment = {**os.environ, **(libraries(unpacked) if package and unpacked.exists() else {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    match = re.search(pattern, done.stdout + done.stderr, re.MULTILINE)
    return match[1] if match else None
