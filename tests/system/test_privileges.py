"""What privileges are kept from: imports from a folder that is somebody else's, and what workers inherit of root."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from prefork.system import custody, identity
from prefork.testing import request, running, wait_for
from prefork.testing.plugin import ServerFactory

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something that others lack")

NOBODY = pwd.getpwnam("nobody")
TIMEOUT = 30.0

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
    begun = sys.flags.safe_path or hasattr(sys.modules.get("prefork.system.safepath"), "LEFT")
    if event == "import" and os.geteuid() == 0 and begun:
        name, _, path, *_ = arguments
        foreign = [entry for entry in path or () if not entry or entry.startswith({folder!r})]
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


@pytest.mark.long
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
    for started in (
        "-m prefork serve",
        "-P -m prefork serve",
        "-m prefork check",
        "-P -m prefork.services.file_watcher",
    ):
        assert any(started in line for line in seen), started
    assert [line for line in seen if not line.endswith(" []")] == []


WEB = """\
import os

def application(environ, start_response):
    import beside
    answer = f"{os.getuid()} {os.path.dirname(beside.__file__)}".encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""


@as_root
@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("uwsgi --http 127.0.0.1:0 --wsgi-file web/shop.py --uid nobody", "web"),
        ("uwsgi --http 127.0.0.1:0 --module shop --chdir web --pythonpath {folder}/lib --uid nobody", "lib"),
        ("gunicorn -b 127.0.0.1:0 -u nobody --chdir web shop", ""),
        ("gunicorn -b 127.0.0.1:0 -u nobody --pythonpath lib web.shop", "lib"),
        ("gunicorn -b 127.0.0.1:0 -u nobody -c {config} web.shop", "lib"),
    ],
)
def test_nor_has_it_one_of_another_server_s_configuration(folder: Path, tmp_path: Path, line: str, where: str) -> None:
    """Workers have it all the same, and so has a check."""
    (folder / "web").mkdir()
    (folder / "web" / "shop.py").write_text(WEB)
    (folder / where).mkdir(exist_ok=True)
    (folder / where / "beside.py").touch()
    log, config = tmp_path / "imports", tmp_path / "gunicorn.conf.py"
    config.write_text(f"import sys\nsys.path.insert(0, {str(folder / 'lib')!r})\n")
    (tmp_path / "sitecustomize.py").write_text(AUDIT.format(folder=str(folder), log=str(log)))
    arguments = line.format(folder=folder, config=config).split()
    env = {"PYTHONPATH": str(tmp_path)}
    check = "--check" if arguments[0] == "uwsgi" else "--check-config"
    done = run(*arguments, check, cwd=folder, env=env)
    assert (done.returncode, "can be served" in done.stdout) == (0, True), done
    with running([sys.executable, "-m", "prefork", *arguments], cwd=folder, env=env) as server:
        answer = f"{NOBODY.pw_uid} {folder / where}"
        assert request(server.address).body.decode() == answer
        for signum, generation in ((signal.SIGHUP, 1), (signal.SIGUSR2, 2)):
            server.signal(signum)
            server.wait_for_log(rf"generation {generation} serves")
            assert request(server.address).body.decode() == answer
        assert server.stop() == 0
    assert "PLANTED" not in server.log()
    assert [line for line in log.read_text().splitlines() if not line.endswith(" []")] == []


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
def test_nor_do_those_of_a_package_that_others_could_change(folder: Path) -> None:
    """Where the folder of the application is root's alone, and the package in it is the workers' user's."""
    own = folder.with_name(f"{folder.name}-own")
    own.mkdir(mode=0o755)
    try:
        shutil.copy(folder / "app.py", own)
        folder.rename(own / "shop")
        for hooks in ("shop.hooks", "shop"):
            asked = ["check", "app:handle", "--hooks", hooks, "--user", "nobody", "--bind", "127.0.0.1:0"]
            done = run(*asked, cwd=own, env={})
            assert done.returncode == 2
            assert f"({own}/shop belongs to uid {NOBODY.pw_uid})" in done.stderr
    finally:
        (own / "shop").rename(folder)
        shutil.rmtree(own)


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


INHERITS = """\
import json, os, signal, subprocess

def handle(connection, address):
    connection.recv(1000)
    try:
        os.kill(os.getppid(), signal.SIGCONT)
        continued = True
    except PermissionError:
        continued = False
    limit = subprocess.run(["sh", "-c", "ulimit -Sn; ulimit -Hn"], capture_output=True, text=True).stdout.split()
    environment = {name: os.environ.get(name) for name in json.loads(os.environ["ASKED"])}
    answer = json.dumps([limit, continued, os.getsid(0) == os.getpid(), environment]).encode()
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n" + answer)
"""


@as_root
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit(1) lowers the soft limit here")
def test_what_workers_inherit_of_root(prefork_server: ServerFactory, folder: Path) -> None:
    (folder / "app.py").write_text(INHERITS)
    names = ("HOME", "USER", "LOGNAME", "SHELL", "XDG_RUNTIME_DIR")
    root = pwd.getpwuid(0)
    ours = {"HOME": root.pw_dir, "USER": "root", "LOGNAME": "root", "SHELL": "/somewhere/else", "XDG_RUNTIME_DIR": "/"}
    server = prefork_server(
        "app:handle",
        user="nobody",
        workers=1,
        app_dir=folder,
        options={"prefix": ["prlimit", "--nofile=500:2000"], "env": {**ours, "ASKED": json.dumps(names)}},
    )
    theirs = {"HOME": NOBODY.pw_dir, "USER": "nobody", "LOGNAME": "nobody", "SHELL": "/somewhere/else"}
    for generation in range(2):
        if generation:
            server.signal(signal.SIGUSR2)
            server.wait_for_log("generation 1 serves")
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (2000, 2000)
        found = json.loads(request(server.address).body)
        assert found == [["500", "2000"], False, True, {**theirs, "XDG_RUNTIME_DIR": None}]
    assert server.stop() == 0


@as_root
def test_a_rehearsal_as_another_user_ends_with_its_master(prefork_server: ServerFactory, folder: Path) -> None:
    """Whatever it is at: what the kernel was asked for is forgotten with the user."""
    server = prefork_server("app:handle", user="nobody", workers=1, options={"cwd": folder})
    (folder / "app.py").write_text(
        "import os, time\nwith open('rehearses', 'w') as file:\n    print(os.getpid(), file=file)\ntime.sleep(600)\n"
    )
    server.signal(signal.SIGUSR2)
    wait_for(lambda: (folder / "rehearses").exists() and (folder / "rehearses").read_text().endswith("\n"))
    rehearsal = psutil.Process(int((folder / "rehearses").read_text()))
    assert rehearsal.uids().effective == NOBODY.pw_uid
    try:
        server.signal(signal.SIGKILL)
        rehearsal.wait(TIMEOUT)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            rehearsal.kill()


def test_the_environment_of_a_user() -> None:
    """What is ours becomes the user's, and what was given stays; a number without a name has no name."""
    me = pwd.getpwuid(os.geteuid())
    ours = {"HOME": me.pw_dir, "USER": me.pw_name, "LOGNAME": me.pw_name, "SHELL": me.pw_shell}
    nobody = {"HOME": NOBODY.pw_dir, "USER": "nobody", "LOGNAME": "nobody", "SHELL": NOBODY.pw_shell}
    uid = NOBODY.pw_uid
    assert dict(identity._environment(uid, ours)) == dict(identity._environment(uid, {})) == nobody
    assert dict(identity._environment(54321, ours)) == dict.fromkeys(ours)
    assert dict(identity._environment(uid, {**ours, "HOME": "/srv/shop"})).keys() == {"USER", "LOGNAME", "SHELL"}
    assert dict(identity._environment(uid, {"XDG_RUNTIME_DIR": "/no/where"}))["XDG_RUNTIME_DIR"] is None
    assert "XDG_RUNTIME_DIR" not in dict(identity._environment(0, {"XDG_RUNTIME_DIR": "/"}))
