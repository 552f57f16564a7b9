"""What prefork takes from the standard library, whatever an application has put there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefork.errors import ControlError
from prefork.services.control.client import Client
from prefork.testing import call_until, request
from prefork.testing.plugin import ServerFactory
from tests.support.probing import APPS, told


def dumped(client: Client) -> str:
    try:
        return client.dump(1)
    except ControlError:
        return ""


@pytest.mark.long
@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("way", ["handle", "wsgi"])
def test_nothing_is_looked_up_where_an_application_may_patch_it(
    prefork_server: ServerFactory, tmp_path: Path, way: str, preload: bool
) -> None:
    control = tmp_path / "control"
    more: dict[str, Any] = {"access_log": str(tmp_path / "log")} if way == "wsgi" else {}
    server = prefork_server(
        f"grasping:{way}",
        app_dir=APPS,
        subcommand="wsgi" if way == "wsgi" else "serve",
        workers=2,
        preload=preload,
        control=str(control),
        max_requests=8,
        **more,
    )
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for_log("was killed|SIGKILL")
    for _ in range(10):
        assert request(server.address).body == b"ok"
    with Client(control) as client:
        assert client.status().workers
        call_until(lambda: dumped(client), message="a dump of a worker that is not just leaving: each has 8 requests")
        client.recycle(1)
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    assert request(server.address).body == b"ok"
    assert server.stop() == 0
    assert told(server, "LOOKED UP.*|Traceback") == []


def test_a_host_that_was_patched_before_gives_what_was_saved() -> None:
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import os, select, time\n"
        "from prefork.system import natives\n"
        "assert natives.os.close is not os.close and natives.os.close.__module__ == 'posix'\n"
        "assert natives.time.sleep is not time.sleep and natives.select.epoll\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
