"""What was measured: kept as JSON, with the machine and the moment, until the next run of the same part."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.workshop import WORK, MissingError, found

FULL = WORK / "results"
SMOKE = WORK / "smoke"

_PACKAGES = ("prefork", "gunicorn", "bjoern", "waitress", "cheroot", "granian", "uvicorn", "uvloop", "httptools")

_PROGRAMS = {
    "cc": ("--version", r"^(.*)$"),
    "wrk": ("--version", r"^(wrk \S+)"),
    "uwsgi": ("--version", r"^(.*)$"),
    "apache2": ("-v", r"Apache/(\S+)"),
    "perl": ("--version", r"\((v[\d.]+)\)"),
}


@dataclass(frozen=True)
class Facts:
    """The moment at which a part began."""

    at: str
    load: float
    """Processes that ran or wanted to, on the average of the minute before."""

    @classmethod
    def begin(cls) -> Facts:
        """Now."""
        return cls(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0])


def save(folder: Path, part: str, figures: dict[str, Any], facts: Facts) -> None:
    """Keep the figures of a part."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"at": facts.at, "load": facts.load, "machine": machine(), "figures": figures}
    (folder / f"{part}.json").write_text(json.dumps(kept, indent=1))


def load(folder: Path, part: str) -> dict[str, Any] | None:
    """What was kept of a part; None when it was never measured."""
    try:
        kept: dict[str, Any] = json.loads((folder / f"{part}.json").read_text())
    except FileNotFoundError:
        return None
    return kept


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
    for program, (flag, pattern) in _PROGRAMS.items():
        version = _version(program, flag, pattern)
        if version:
            facts[program] = version
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def _virtual() -> str:
    flags = Path("/proc/cpuinfo").read_text()
    return "yes" if " hypervisor" in flags else "no"


def _build() -> str:
    """How the interpreter was made, which is a tenth and more of its speed."""
    if Path(sys.base_prefix) == Path("/usr"):
        return "the distribution's build"  # profile-guided by its own rules, of which sysconfig knows nothing
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return "profile-guided" if optimized else "built without profile-guided optimization"


def _version(program: str, flag: str, pattern: str) -> str | None:
    try:
        done = subprocess.run([found(program), flag], capture_output=True, text=True, check=False)
    except MissingError:
        return None
    match = re.search(pattern, done.stdout + done.stderr, re.MULTILINE)
    return match[1] if match else None
