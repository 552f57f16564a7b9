"""A worker in somebody else's hands, as the user that workers are: its master stays calm, and others are served."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.services.control.client import Client
from prefork.testing import Load, Server, request
from prefork.testing.plugin import ServerFactory
from tests.support.figures import bound, count
from tests.support.probing import APPS, get

NOBODY = pwd.getpwnam("nobody")
MODES = (
    "records",
    "pressure",
    "garbage",
    "spoofing",
    "scribbling",
    "ordering",
    "holding",
    "reporting",
    "signals",
    "files",
    "descriptors",
    "control",
    "forks",
    "exits",
)
EXITS = 20
"""Workers that end themselves, one after the other."""

LOG = 100_000
"""Bytes that a minute of it may add to the log."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is the workers' user's."""
    made = Path(tempfile.mkdtemp(prefix="prefork-hostile-"))
    shutil.copy(APPS / "hostile.py", made)
    made.chmod(0o755)
    os.chown(made, NOBODY.pw_uid, NOBODY.pw_gid)
    yield made
    shutil.rmtree(made)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give workers another user")
def test_a_hostile_worker_is_its_own_loss_alone(
    prefork_server: ServerFactory, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = tmp_path / "control"
    monkeypatch.setenv("HOSTILE_CONTROL", str(control))
    monkeypatch.setenv("HOSTILE_FOLDER", str(folder))
    server = prefork_server(
        "hostile:Hostile",
        app_dir=folder,
        workers=4,
        user="nobody",
        control=control,
        pidfile=folder / "server.pid",
        crash_limit=1000,
    )
    seconds = count("milliseconds-of-hostility", part=150) / 1000
    for mode in MODES:
        before = len(server.log())
        with Load(server.address, clients=2, payload=get("/"), timeout=30.0) as load:
            slowest = _suffer(server, mode, seconds, str(control))
        assert load.tally.lost == 0, (mode, load.tally, server.log()[before:][-4000:])
        assert load.tally.answered, mode
        assert slowest < bound(1.0), mode
        assert len(server.log()) - before < LOG, mode
    assert server.stop() == 0
    assert Path("/dev/null").stat().st_uid == 0


def _suffer(server: Server, mode: str, seconds: float, control: str) -> float:
    """Have a worker be hostile; how long the master took to answer meanwhile, at the most."""
    times = EXITS if mode == "exits" else 1
    attack = threading.Thread(target=_attack, args=(server, mode, seconds, times))
    attack.start()
    slowest = 0.0
    with Client(control, timeout=bound(1.0)) as client:
        while attack.is_alive():
            began = time.monotonic()
            client.health()
            slowest = max(slowest, time.monotonic() - began)
            attack.join(0.02)
    return slowest


def _attack(server: Server, mode: str, seconds: float, times: int) -> None:
    for _ in range(times):
        request(server.address, get(f"/{mode}/{seconds:.2f}"), timeout=seconds + 30.0)
