"""A process with privileges imports nothing from a folder that is somebody else's."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.system import custody
from prefork.testing import request
from prefork.testing.plugin import ServerFactory

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something that others lack")

NOBODY = pwd.getpwnam("nobody")

APP = """\
import os, sys

def handle(connection, address):
    connection.recv(1000)
    answer = f"{os.getuid()} {sys.path[0]}"
    connection.sendall(f"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n{answer}".encode())
"""

PLANTED = """\
import os
if os.geteuid() == 0:
    os.write(2, b"PLANTED " + __name__.encode() + b" runs as root\\n")
raise ImportError(__name__)
"""

# Python itself imports some modules before -m has found what it is to run; only -P keeps it from the current folder.
AUDIT = """\
import os, sys

def audit(event, arguments):
    begun = sys.flags.safe_path or hasattr(sys.modules.get("prefork.safepath"), "LEFT")
    if event == "import" and os.geteuid() == 0 and begun:
        name, _, path, *_ = arguments
        foreign = [entry for entry in path or () if entry in ("", {folder!r})]
        with open({log!r}, "a") as log:
            log.write(f"{{name}} {{' '.join(sys.orig_argv[1:5])}} {{foreign}}\\n")

sys.addaudithook(audit)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """An application's folder that is the workers' user's."""
    made = Path(tempfile.mkdtemp(prefix="prefork-test-"))
    made.chmod(0o755)
    (made / "app.py").write_text(APP)
    for name in ("setproctitle", "http", "email", "watchfiles", "rich", "uvloop", "tomllib", "difflib", "argparse"):
        (made / f"{name}.py").write_text(PLANTED)
    (made / "hooks.py").write_text("def when_ready(server): print('ready, as', __import__('os').getuid(), flush=True)")
    for path in (made, *made.iterdir()):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    yield made
    shutil.rmtree(made)


def run(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFORK_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-m", "prefork", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={**kept, **env},
    )


@as_root
def test_root_has_nobody_else_s_folder_on_its_import_path(
    prefork_server: ServerFactory, folder: Path, tmp_path: Path
) -> None:
    """Looked at whenever anything is imported: by the master, its rehearsal, its watcher, and a check."""
    log = tmp_path / "imports"
    (tmp_path / "sitecustomize.py").write_text(AUDIT.format(folder=str(folder), log=str(log)))
    env = {"PYTHONPATH": str(tmp_path)}
    server = prefork_server(
        "app:handle", user="nobody", workers=1, proc_titles="live", reload=True, options={"cwd": folder, "env": env}
    )
    answer = f"{NOBODY.pw_uid} {folder}"
    assert request(server.address).body.decode() == answer
    server.wait_for_log(f"watching the Python source in .*{folder}")
    for signum, generation in ((signal.SIGHUP, 1), (signal.SIGUSR2, 2)):
        server.signal(signum)
        server.wait_for_log(rf"generation {generation} serves")
        assert request(server.address).body.decode() == answer
    done = run("check", "app:handle", "--user", "nobody", cwd=folder, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert server.stop() == 0
    assert "PLANTED" not in server.log()
    seen = log.read_text().splitlines()
    for started in ("-m prefork serve", "-P -m prefork serve", "-m prefork check", "-P -m prefork.edits"):
        assert any(started in line for line in seen), started
    assert [line for line in seen if not line.endswith(" []")] == []


@as_root
@pytest.mark.parametrize("command", ["check", "serve"])
def test_hooks_that_others_could_change_don_t_run_as_root(folder: Path, command: str) -> None:
    asked = [command, "app:handle", "--hooks", "hooks", "--user", "nobody", "--bind", "127.0.0.1:0"]
    done = run(*asked, cwd=folder, env={})
    assert done.returncode == 2
    assert done.stderr == (
        "prefork: error: hooks: 'hooks' would run with the master's privileges, from a folder that is not root's alone "
        f"({folder} belongs to uid {NOBODY.pw_uid}); have root own it (chown, chmod go-w), or leave hooks or user out\n"
    )


@as_root
def test_hooks_of_root_s_own_run_as_root(prefork_server: ServerFactory, folder: Path) -> None:
    """Found beside the application where all of it is root's, or on the import path, which then stays as it is."""
    own = folder.with_name(f"{folder.name}-own")
    own.mkdir(mode=0o755)
    try:
        shutil.copy(folder / "hooks.py", own)
        (folder / "hooks.py").unlink()
        server = prefork_server(
            "app:handle",
            user="nobody",
            workers=1,
            hooks="hooks",
            app_dir=folder,
            options={"env": {"PYTHONPATH": str(own)}, "cwd": "/"},
        )
        server.wait_for_log("ready, as 0")
        assert request(server.address).body.decode() == f"{NOBODY.pw_uid} {folder}"
        assert server.stop() == 0
        (own / "app.py").write_text(APP)
        server = prefork_server("app:handle", user="nobody", workers=1, hooks="hooks", app_dir=own)
        server.wait_for_log("ready, as 0")
    finally:
        shutil.rmtree(own)


def test_who_could_change_what_is_imported_from_a_folder(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    top = Path(tempfile.mkdtemp(prefix="prefork-test-"))
    try:
        inner = top / "inner"
        (inner / "__pycache__").mkdir(parents=True)
        (inner / "module.py").touch()
        link = top / "link"
        link.symlink_to(inner)
        assert custody.stranger(str(inner)) == custody.stranger(str(link)) == ""
        for path, said in (
            (inner / "module.py", "module.py belongs to uid 65534"),
            (inner / "__pycache__", "__pycache__ belongs to uid 65534"),
            (inner, "inner belongs to uid 65534"),
            (top, f"{top} belongs to uid 65534"),
        ):
            os.chown(path, 65534, 0)
            assert said in custody.stranger(str(inner)), path
            os.chown(path, 0, 0)
        os.chown(link, 65534, 0, follow_symlinks=False)
        assert custody.stranger(str(link)) == f"{link} belongs to uid 65534"
        assert custody.stranger(str(inner)) == ""
        for mode, said in ((0o1777, "everybody may write"), (0o757, "everybody may write"), (0o775, "")):
            inner.chmod(mode)
            assert said in custody.stranger(str(inner))
        os.chown(inner, 0, 65534)
        assert custody.stranger(str(inner)) == f"group 65534 may write {inner}"
        assert custody.stranger("/tmp") == "everybody may write /tmp"
    finally:
        shutil.rmtree(top)
