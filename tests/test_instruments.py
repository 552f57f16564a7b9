"""What docs/howto/instruments.md says of tools beyond what its reader types: py-spy, debuggers, New Relic."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefork.testing import Options, Server, request, running_target
from tests.support.documents import BIN, ROOT, blocks
from tests.support.programs import facts

PAGE = ROOT / "docs" / "howto" / "instruments.md"
TIMEOUT = 60.0

APP = """\
def handle(connection, address):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
"""

pytestmark = pytest.mark.long


@pytest.mark.skipif(not shutil.which("py-spy", path=str(BIN)), reason="py-spy is not installed (it has wheels for few)")
def test_py_spy_sees_a_worker(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    with running_target("shop:handle", app_dir=tmp_path, workers=1) as server:
        (pid,) = server.workers()
        done = subprocess.run(
            [BIN / "py-spy", "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        if done.returncode and "ermission" in done.stderr:
            pytest.skip("this process may not trace another one (ptrace(2))")
        assert f"Process {pid}" in done.stdout, done
        assert "(prefork/worker.py" in done.stdout.replace(f"{ROOT}/", "")
        assert request(server.address).status == 200
        assert server.workers() == [pid]


class _Debugger:
    """A client of the Debug Adapter Protocol."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._file = client.makefile("rb")
        self._sent = 0

    def send(self, command: str, **arguments: object) -> None:
        """Ask for something."""
        self._sent += 1
        text = json.dumps({"seq": self._sent, "type": "request", "command": command, "arguments": arguments}).encode()
        self._client.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(text), text))

    def wait_for(self, kind: str, name: str) -> dict[str, Any]:
        """The next event, or the next response, of that name."""
        while True:
            length = 0
            while line := self._file.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            assert length, "the adapter has ended"
            told: dict[str, Any] = json.loads(self._file.read(length))
            if (told["type"], told.get("event") or told.get("command")) == (kind, name):
                assert told.get("success", True), told
                return told


def test_a_debugger_attaches_to_a_worker(tmp_path: Path) -> None:
    pytest.importorskip("debugpy", reason="debugpy is not installed")
    (hook,) = (block.text for block in blocks(PAGE) if block.title == "debugged.py")
    (tmp_path / "debugged.py").write_text(hook)
    (tmp_path / "shop.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"DEBUG_PORT": str(port), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    with running_target(
        "shop:handle", app_dir=tmp_path, workers=1, hooks="debugged", options={"env": environment}
    ) as server:
        (pid,) = server.workers()
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
            debugger = _Debugger(client)
            debugger.send("initialize", adapterID="test")
            debugger.wait_for("response", "initialize")
            debugger.send("attach", connect={"host": "127.0.0.1", "port": port})
            debugger.wait_for("event", "initialized")
            debugger.send("configurationDone")
            debugger.wait_for("response", "attach")
            debugger.send("pydevdSystemInfo")
            assert debugger.wait_for("response", "pydevdSystemInfo")["body"]["process"]["pid"] == pid
        assert request(server.address).status == 200
        assert server.workers() == [pid]
        assert server.stop() == 0
        server.wait_for(lambda: not server.tree(), message="the adapter to end with its worker")


@contextmanager
def measured(folder: Path, target: str, **settings: object) -> Iterator[Server]:
    """A server with the page's files about New Relic in its folder."""
    pytest.importorskip("newrelic", reason="newrelic is not installed")
    texts = {block.title: block.text for block in blocks(PAGE)}
    for name in ("measured.py", "relic.py", "newrelic.ini"):
        (folder / name).write_text(texts[name])
    options: Options = {"cwd": folder, "within": TIMEOUT}
    with running_target(
        target, app_dir=folder, subcommand="wsgi", workers=1, log_format="text", options=options, **settings
    ) as server:
        yield server


def test_new_relic_measures_workers_that_load_by_themselves(tmp_path: Path) -> None:
    """And those of a mold, as the page shows."""
    with measured(tmp_path, "measured", hooks="relic") as server:
        answer = request(server.address, timeout=TIMEOUT)
        assert answer.status == 200, server.log()
        assert b"X-Trace: " in answer.data
        assert server.stop() == 0


def test_new_relic_registered_in_the_mold_is_named(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(
        "import newrelic.agent\nfrom measured import application\nnewrelic.agent.register_application(timeout=60)\n"
    )
    with measured(tmp_path, "early", preload=True) as server:
        server.wait_for_log(r"in the hook post_fork: thread 'NR-Harvest-Thread'", timeout=TIMEOUT)
        assert server.stop() == 0


def test_the_master_starts_none_of_it() -> None:
    """The hooks' modules are the master's, too, so they import nothing before a hook is called."""
    tools = {"opentelemetry", "sentry_sdk", "newrelic", "debugpy"}
    hooks = [block.text for block in blocks(PAGE) if "def post_fork" in block.text and not block.reason]
    assert len(hooks) == len(tools)
    for text in hooks:
        found = facts(f"{text}\nimport json, sys\nprint(json.dumps(sorted(set(sys.modules) & {tools!r})))")
        assert found == []
