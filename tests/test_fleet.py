"""Three servers behind HAProxy, as examples/fleet has them: deploys that nobody notices, and what a dead host takes."""

from __future__ import annotations

import importlib
import itertools
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from prefork.status.agent import MOST_PLACES
from prefork.testing import wait_for
from prefork.testing.processes import limited_descriptors
from tests.support.documents import ROOT
from tests.support.figures import count, full
from tests.support.proxy_headers import inet, v2

FLEET: Final = ROOT / "examples" / "fleet"
CERTS: Final = ROOT / "tests" / "support" / "wsgi" / "certs"
HAPROXY: Final = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
NGINX: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
WORKERS: Final = 2
IN_HAND: Final = MOST_PLACES * WORKERS
"""Requests that HAProxy has sent to one host, at the most."""

PATIENCE: Final = 60.0  # seconds; what takes them takes a few on an idle machine

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed"),
]


def net() -> str:
    """Addresses of the loopback that another run hardly has."""
    chance = random.SystemRandom()
    return f"127.{chance.randrange(1, 255)}.{chance.randrange(1, 255)}"


TLS: Final = ("--certfile", f"{CERTS / 'server.pem'}", "--keyfile", f"{CERTS / 'server.key'}")
WAYS: Final = {
    "kept, TLS, nginx before": (*TLS, *(["--nginx"] if NGINX else [])),
    "closed, no PROXY, by upgrade": ("--close", "--plain", "--upgrade"),
    "kept": (),
    "closed": ("--close",),
    "kept, no PROXY": ("--plain",),
    "closed, TLS": ("--close", *TLS),
}


@pytest.mark.parametrize("flags", [pytest.param(WAYS[way], id=way) for way in list(WAYS)[: None if full() else 2]])
def test_a_rolling_deploy_is_noticed_by_nobody(flags: tuple[str, ...]) -> None:
    deploys, rate = count("rolling-deploys", part=20), 500 if full() else 25
    command = [sys.executable, str(FLEET / "fleet.py"), "--net", net(), "--front", "127.0.0.1:0", "--quiet", *flags]
    done = subprocess.run(
        [*command, f"--deploys={deploys}", f"--rate={rate}", "--weight=10"],
        capture_output=True,
        text=True,
        timeout=PATIENCE * (4 + deploys),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    total = re.search(r"^(\d+) deploys: (\d+) answered, 0 lost, 0 sent again or failed$", done.stdout, re.MULTILINE)
    assert total is not None, done.stdout
    assert int(total[1]) == deploys
    versions = {name: set(re.findall(rf"\d+ (version \d+) on {name}", done.stdout)) for name in ("one", "two", "three")}
    wanted = {f"version {number}" for number in range(1, deploys + 2)}
    # Whom clients are sent to meanwhile is the proxies' affair; the first may have had none before its turn.
    assert all(found and found <= wanted for found in versions.values()), versions
    assert set().union(*versions.values()) == wanted, versions
    print(done.stdout.splitlines()[-1])


def test_the_figure_has_a_row_for_each_server() -> None:
    command = [sys.executable, str(FLEET / "figure.py"), "--net", net(), "--deploys=1", "--rate=10"]
    done = subprocess.run(
        [*command, "--only=closed,HTTP,no PROXY"], capture_output=True, text=True, timeout=6 * PATIENCE, check=False
    )
    rows = re.findall(
        r"^\| closed, HTTP, no PROXY \| (\w+) \| 1 \| (\d+) \| (\d+) \| (\d+) \|", done.stdout, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["prefork", "gunicorn"], done.stdout + done.stderr
    assert all(int(row[1]) > 0 for row in rows), done.stdout
    assert (done.returncode == 0) == (rows[0][2:] == ("0", "0")), done.stdout


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    """The example's modules, which are no package: fleet, and what it has imported."""
    sys.path.insert(0, str(FLEET))
    try:
        yield importlib.import_module("fleet")
    finally:
        sys.path.remove(str(FLEET))


@pytest.fixture
def fleet(modules: Any, tmp_path: Path) -> Iterator[Any]:
    with modules.Fleet(tmp_path / "fleet", modules.Loopback(net())) as running:
        yield running


def seen(fleet: Any, name: str) -> Any:
    return fleet.haproxy.servers()[name]


def wait_until(fleet: Any, name: str, status: str, weight: int = 1) -> None:
    wait_for(
        lambda: seen(fleet, name).status == status and (status != "UP" or seen(fleet, name).weight >= weight),
        PATIENCE,
        f"{name} to be {status}",
    )


def workers(fleet: Any, name: str) -> list[int]:
    """The workers of one host's server."""
    pid = int(re.findall(r"workers?, pid (\d+)", fleet.hosts[name].log)[-1])
    return [child.pid for child in psutil.Process(pid).children()]


def test_a_host_that_dies_takes_what_it_has_in_hand_and_no_more(modules: Any, fleet: Any) -> None:
    with modules.Clients(fleet.front, 25) as clients:
        wait_for(lambda: any("two" in answer for answer in clients.by), PATIENCE, "an answer of the host")
        fleet.hosts["two"].kill()
        wait_until(fleet, "two", "DOWN")
        answered = clients.answered
        wait_for(lambda: clients.answered > answered + 20, PATIENCE, "the others to serve on")
        fleet.hosts["two"].start("version 2")
        wait_until(fleet, "two", "UP")
        wait_for(lambda: clients.by["version 2 on two"] > 0, PATIENCE, "an answer of the new one")
    assert len(clients.lost) <= IN_HAND, clients.lost


def test_a_host_in_want_is_taken_out_and_loses_nobody(modules: Any, fleet: Any) -> None:
    with modules.Clients(fleet.front, 25) as clients:
        with limited_descriptors(lambda: workers(fleet, "three"), soft=3):
            wait_until(fleet, "three", "DOWN")
            answered = clients.answered
            wait_for(lambda: clients.answered > answered + 20, PATIENCE, "the others to serve on")
        wait_until(fleet, "three", "UP")
    assert clients.lost == []


def test_the_weight_falls_with_the_idle_workers_and_a_stop_drains(fleet: Any) -> None:
    host = fleet.hosts["one"]
    wait_until(fleet, "one", "UP", weight=30)  # what a server has that is idle and cold
    with ExitStack() as stack:
        for _ in range(WORKERS):
            slow = stack.enter_context(socket.create_connection((host.address, 8000)))
            slow.sendall(v2(inet()) + b"GET /?work=60 HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        wait_for(lambda: seen(fleet, "one").weight < 15, PATIENCE, "the weight to fall")
        assert seen(fleet, "one").status == "UP"
        for pid in workers(fleet, "one"):
            psutil.Process(pid).kill()
    wait_until(fleet, "one", "UP", weight=30)
    found: set[str] = set()

    def look() -> bool:
        found.add(seen(fleet, "one").status)
        return "DOWN" in found

    assert host.process is not None
    host.process.terminate()
    wait_for(look, PATIENCE, "HAProxy to have it out")
    assert "DRAIN" in found
    host.stop()


def test_the_tops_of_all_hosts_stand_one_under_another(modules: Any, fleet: Any) -> None:
    tops = importlib.import_module("tops").Tops({name: str(host.control) for name, host in fleet.hosts.items()})

    def picture() -> list[str]:
        tops.look()
        lines: list[str] = tops.picture(fleet.haproxy.servers(), "the last line", 100, 45).plain.splitlines()
        return lines

    def told() -> dict[str, str]:
        """What stands first below each title, by the names in those."""
        return {line.split()[1]: below for line, below in itertools.pairwise(picture()) if line.startswith("── ")}

    wait_for(lambda: all("[shop:application]" in said for said in told().values()), PATIENCE, "all to answer")
    fleet.hosts["three"].kill()
    wait_until(fleet, "three", "DOWN")
    shown = picture()
    assert list(told()) == ["one", "two", "three"]
    assert [line.split()[2] for line in shown if line.startswith("── three")] == ["DOWN,"]
    assert len(shown) <= 45
    assert shown[-2].strip()  # nobody is at its control socket
    assert shown[-1] == "the last line"


NAMESPACES: Final = os.geteuid() == 0 and shutil.which("ip") is not None


@pytest.mark.skipif(not NAMESPACES, reason="network namespaces need root, and ip(8)")
def test_a_cable_that_is_pulled_is_noticed_by_nobody_else(modules: Any, tmp_path: Path) -> None:
    network = modules.Namespaces()
    try:
        running = modules.Fleet(tmp_path / "fleet", network).__enter__()
    except (subprocess.CalledProcessError, PermissionError) as error:
        pytest.skip(f"this system lets nobody here make network namespaces: {error}")
    with ExitStack() as stack:
        stack.push(running)
        with modules.Clients(running.front, 50, patience=5.0) as clients:
            wait_for(lambda: any("two" in answer for answer in clients.by), PATIENCE, "an answer of the host")
            network.cut("two")
            wait_until(running, "two", "DOWN")
            answered = clients.answered
            wait_for(lambda: clients.answered > answered + 20, PATIENCE, "the others to serve on")
            network.mend("two")
            wait_until(running, "two", "UP")
            before = clients.by["version 1 on two"]
            wait_for(lambda: clients.by["version 1 on two"] > before, PATIENCE, "an answer of the host")
        assert len(clients.lost) <= IN_HAND, clients.lost
