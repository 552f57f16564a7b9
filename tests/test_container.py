"""A server as in a container: process 1 of a pid namespace, its log on standard output, asked for its health."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefork.errors import BootError
from prefork.services.control import Client
from prefork.testing import Server, call_until, request, wait_for
from prefork.testing.faults import always, unavailable
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.probing import APPS

EXAMPLES = Path(__file__).parents[1] / "examples"
CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
ALLOWED = subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0

pytestmark = pytest.mark.skipif(not ALLOWED, reason="this system lets nobody here make namespaces (unshare(1))")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def server(prefork_server: ServerFactory, folder: Path) -> Server:
    return prefork_server.command(
        [
            *[sys.executable, "-m", "prefork", "serve", "probe:Probe", "--app-dir", str(APPS)],
            *["--bind=127.0.0.1:0", "--workers=2", "--log-file=-", "--log-format=json"],
            *[f"--control={folder / 'control'}", f"--pidfile={folder / 'pid'}"],
        ],
        prefix=CONTAINER,
    )


def healthy(folder: Path) -> subprocess.CompletedProcess[str]:
    """The health check, as a container's runtime would run it."""
    return subprocess.run(
        [sys.executable, "-m", "prefork", "check", "--live", f"--control={folder / 'control'}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def main_process(server: Server) -> int:
    """The server's number out here; in there it is 1."""
    (pid,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return int(pid)


def test_process_1(server: Server, folder: Path) -> None:
    assert (folder / "pid").read_text() == "1\n"
    with Client(folder / "control") as client:
        found = client.status()
        assert found.pid == 1
        assert {worker.pid for worker in found.workers} == {2, 3}
        assert all(worker.process.rss for worker in found.workers)
    done = healthy(folder)
    assert done.returncode == 0
    assert done.stdout.startswith("ready: serving, 2 of 2 workers accept (")
    assert ", pid 1, " in done.stdout
    os.kill(main_process(server), signal.SIGTERM)
    assert server.wait() == 0
    assert sorted(os.listdir(folder)) == []
    done = healthy(folder)
    assert done.returncode == 1
    log = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    assert {line["pid"] for line in log} == {1}
    # A busy machine may do to any master what is warned of.
    assert {line["level"] for line in log if "frozen, or held up" not in line["message"]} == {"info"}


def test_health_follows_the_workers(server: Server, folder: Path) -> None:
    with Client(folder / "control") as client:
        client.reload(timeout=30)
        call_until(client.status, lambda found: [worker.state for worker in found.workers] == ["idle"] * 2)
        assert healthy(folder).returncode == 0
    children = Path(f"/proc/{main_process(server)}/task/{main_process(server)}/children")
    kill(*map(int, children.read_text().split()))
    wait_for(lambda: healthy(folder).returncode == 0, message="it is healthy again")
    assert request(server.address).status == 200


def test_a_frozen_master_is_not_healthy(server: Server, folder: Path) -> None:
    pid = main_process(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        done = subprocess.run(
            [*[sys.executable, "-m", "prefork", "check", "--live", "--timeout=0.5"], f"--control={folder / 'control'}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "does not answer in time; its master may be stopped" in done.stderr
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.long
@pytest.mark.skipif(unavailable() is not None, reason=f"no fault injection here: {unavailable()}")
def test_an_upgrade_of_process_1_is_told_of_its_rehearsal_s_end(prefork_server: ServerFactory) -> None:
    """Process 1 takes the exits of strangers. The rehearsal is none, also where no pidfd tells of its end first."""
    faults = prefork_server.faults("pidfd_open")
    faults.fail("pidfd_open", always(errno.ENOSYS))
    server = prefork_server.command(
        [
            *[sys.executable, "-m", "prefork", "serve", "probe:Probe", "--app-dir", str(APPS)],
            *["--bind=127.0.0.1:0", "--workers=1", "--log-file=-", "--control=off"],
        ],
        prefix=CONTAINER,
        faults=faults,
    )
    for generation in (1, 2):
        os.kill(main_process(server), signal.SIGUSR2)
        server.wait_for_log(f"reload: generation {generation} serves")
    os.kill(main_process(server), signal.SIGTERM)
    assert server.wait() == 0


def without(folder: str) -> list[str]:
    """What executes a command where a folder of the system's is empty."""
    script = f'mount -t tmpfs none {folder} && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]


@pytest.mark.parametrize("folder", ["/dev", "/proc"])
@pytest.mark.parametrize("preload", [False, True])
def test_a_root_of_a_few_files(prefork_server: ServerFactory, folder: str, preload: bool) -> None:
    """As in a chroot: no /dev/null, or nothing of proc(5)."""
    server = prefork_server(
        "hello:handle", app_dir=EXAMPLES, workers=1, preload=preload, options={"prefix": without(folder)}
    )
    assert request(server.address).body == b"hello\n"
    assert server.stop() == 0
    assert "Traceback" not in server.log()


def test_what_cannot_be_looked_at_is_refused_where_it_would_be(prefork_server: ServerFactory) -> None:
    server = prefork_server(
        "hello:handle",
        app_dir=EXAMPLES,
        workers=1,
        preload=True,
        fork_safety="refuse",
        options={"prefix": without("/proc"), "ready": ""},
    )
    assert server.wait() == BootError.exit_code
    assert re.fullmatch(r"prefork: error: fork_safety: without /proc nobody can tell [^\n]*\n", server.log())
