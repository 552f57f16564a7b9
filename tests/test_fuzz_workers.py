"""Workers are not trusted: whatever they write into the memory and the pipe that they share with the master.

It may take such a worker for hung, or for idle, and its own fate is its own fault. But the master lives, tells its
status, harms no process that is not its child, and has its workers back in the end.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.cli.metrics import families
from prefork.services.control import Client
from prefork.status.text import page
from prefork.testing import Load, Server, request
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.figures import count, full
from tests.support.probing import APPS, get, steady, told


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is nobody's worker, and whose id gets into the scoreboard."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.long
@pytest.mark.parametrize("what", ["own", "all", "pipe"])
def test_a_worker_that_writes_at_random(
    prefork_server: ServerFactory, bystander: subprocess.Popen[bytes], tmp_path: Path, what: str
) -> None:
    control, seed = tmp_path / "control", random.randrange(1 << 32) if full() else 1
    server = prefork_server(
        "spoiler:Spoiler",
        app_dir=APPS,
        control=control,
        workers=3,
        min_workers=2,
        max_workers=4,
        idle_timeout=0.2,
        timeout=1,
        graceful_timeout=2,
        max_memory="200M",
        crash_limit=100_000,
        options={"env": {"BYSTANDER": str(bystander.pid)}},
    )
    with Load(server.address, clients=2, payload=get("/")):
        for number in range(count("spoilt-scoreboards", least=20)):
            request(server.address, get(f"/{what}/{seed}-{number}"))
            with Client(control, timeout=30.0) as client:
                status = client.status()
            assert page(status)
            assert list(families(status))
    assert bystander.poll() is None, seed
    assert server.process.poll() is None, seed
    if what != "all":  # whoever reads the words of another's order from it may stumble
        assert told(server, "Traceback|a defect of the server") == [], seed
    kill(*server.workers())
    healed(server, control, seed)


def healed(server: Server, control: Path, seed: int) -> None:
    """Workers of sound mind serve."""
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"generation \d+ serves")
    with Client(control, timeout=30.0) as client:
        server.wait_for(
            lambda: sorted(worker.pid for worker in client.status().workers) == server.workers(), message=f"seed {seed}"
        )
    assert request(server.address, get("/")).status == 200
    steady(server, len(server.workers()))
    assert server.stop() == 0, seed
    assert server.survivors() == []
