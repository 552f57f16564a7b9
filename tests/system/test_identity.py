"""Who workers are, and where: user, groups, capabilities, umask, working directory."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.supervisor.environment import entered
from prefork.system import identity
from prefork.testing import Server, call_until, connect, request, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import is_gone, kill
from tests.support.forked import SERVERS
from tests.support.programs import run_program

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
"""CI is root; on a machine where the tests are not, nothing here can be tried."""
setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv(1) takes capabilities away here")

NOBODY = pwd.getpwnam("nobody")
APP = """\
import os, sys
print("loaded by", os.getuid(), os.getgid(), sorted(os.getgroups()), flush=True)

def handle(connection, address):
    line = connection.recv(1000).split()[1].decode()
    if line == "/hold":
        connection.sendall(b"held")
        connection.recv(1)
        answer = "done"
    elif line.startswith("/write"):
        os.close(os.open(line.removeprefix("/write"), os.O_CREAT | os.O_WRONLY, 0o666))
        answer = "written"
    else:
        answer = os.getcwd()
    connection.sendall(f"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n{answer}".encode())
"""


ESCAPES = """\
import os, prefork

class Escapes(prefork.Worker):
    def init(self):
        os.setresuid(65534, 65534, 65534)

    def handle(self, connection, address):
        connection.sendall(b"held")
        connection.recv(1)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """An application's folder that everybody may read, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="prefork-test-"))
    made.chmod(0o755)
    (made / "app.py").write_text(APP)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def app(prefork_server: ServerFactory, folder: Path) -> Callable[..., Server]:
    def start(**settings: Any) -> Server:
        settings.setdefault("workers", 2)
        return prefork_server("app:handle", app_dir=folder, **settings)

    return start


def get(server: Server, path: str) -> str:
    answer = request(server.address, b"GET %b HTTP/1.1\r\n\r\n" % path.encode())
    assert answer.status == 200, answer
    return answer.body.decode()


def status_of(pid: int) -> dict[str, list[str]]:
    """/proc/PID/status (proc(5)): each line's words by its name."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


def free_low_port() -> int:
    for port in range(1023, 600, -1):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every low port is taken")


# Whole servers.


@as_root
def test_workers_are_nobody_and_the_master_stays_root(app: Callable[..., Server]) -> None:
    server = app(user="nobody", bind=f"127.0.0.1:{free_low_port()}")
    for _ in range(2):  # those of the start, and their replacements
        assert len(server.workers()) == 2
        # One that was forked a moment ago is still about to change; this is the last step.
        server.wait_for(lambda: all(status_of(pid)["NoNewPrivs"] == ["1"] for pid in server.workers()))
        for pid in server.workers():
            found = status_of(pid)
            assert found["Uid"] == [str(NOBODY.pw_uid)] * 4
            assert found["Gid"] == [str(NOBODY.pw_gid)] * 4
            assert sorted(map(int, found["Groups"])) == sorted(os.getgrouplist("nobody", NOBODY.pw_gid))
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(found[name][0], 16) == 0, name
        before = server.workers()
        kill(*before)
        server.wait_for(lambda before=before: len(server.workers()) == 2 and not {*before} & {*server.workers()})  # type: ignore[misc]  # mypy can't infer a lambda with a default
    master = status_of(server.pid)
    assert master["Uid"] == ["0"] * 4
    assert master["NoNewPrivs"] == ["0"]
    server.wait_for(lambda: [pid for pid in server.tree() if "0" in status_of(pid)["Uid"]] == [server.pid])
    server.wait_for_log(f"loaded by {NOBODY.pw_uid} {NOBODY.pw_gid} ")
    assert "loaded by 0" not in server.log()
    assert get(server, "/") == os.getcwd()
    assert server.stop() == 0


@as_root
def test_a_mold_is_nobody_before_it_loads_the_application(app: Callable[..., Server]) -> None:
    server = app(user="nobody", preload=True)
    before = server.workers()
    for pid in (*server.molds(), *before):
        assert set(status_of(pid)["Uid"]) == {str(NOBODY.pw_uid)}
        assert status_of(pid)["CapEff"] == ["0000000000000000"]
    assert set(status_of(server.pid)["Uid"]) == {"0"}
    os.kill(before[0], signal.SIGKILL)
    call_until(server.workers, lambda now: len(now) == 2 and before[0] not in now)
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload: generation 1 serves")
    server.wait_for(lambda: len(server.molds()) == 1, message="the older mold is gone")
    loaded = re.findall(r"^loaded by (\d+)", server.log(), re.MULTILINE)
    assert loaded == [str(NOBODY.pw_uid)] * 2
    assert server.stop() == 0
    assert server.survivors() == []


@as_root
def test_orphans_of_another_user_finish_what_they_have_and_leave(app: Callable[..., Server]) -> None:
    """The parent-death signal is asked for after the change of credentials, which would have cleared it."""
    server = app(user="nobody")
    workers = server.workers()
    port = int(server.address.split(":")[1])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"GET /hold HTTP/1.1\r\n\r\n")
        assert client.recv(4) == b"held"
        os.kill(server.pid, signal.SIGKILL)
        client.sendall(b"g")
        assert client.makefile("rb").read().endswith(b"done")
    for pid in workers:
        wait_for(lambda pid=pid: is_gone(pid), message=f"the end of worker {pid}")  # type: ignore[misc]  # as above


@as_root
@pytest.mark.parametrize(
    ("settings", "uid", "gid", "groups"),
    [
        ({"user": "12345", "group": "23456"}, 12345, 23456, [23456]),
        ({"user": "nobody", "group": "daemon"}, NOBODY.pw_uid, 1, [1]),
        ({"user": str(NOBODY.pw_uid)}, NOBODY.pw_uid, NOBODY.pw_gid, [NOBODY.pw_gid]),
        ({"group": "daemon"}, 0, 1, [1]),
    ],
    ids=["numbers", "another-group", "number-of-a-name", "group-alone"],
)
def test_names_and_numbers(
    app: Callable[..., Server], settings: dict[str, str], uid: int, gid: int, groups: list[int]
) -> None:
    server = app(workers=1, **settings)
    (pid,) = server.workers()
    found = status_of(pid)
    assert found["Uid"] == [str(uid)] * 4
    assert found["Gid"] == [str(gid)] * 4
    assert sorted(map(int, found["Groups"])) == groups


@pytest.mark.parametrize(("value", "set_to"), [("yes", "1"), ("no", "0"), ("auto", "0")])
def test_no_new_privs_can_be_had_without_another_user(app: Callable[..., Server], value: str, set_to: str) -> None:
    server = app(workers=1, no_new_privs=value)
    (pid,) = server.workers()
    assert status_of(pid)["NoNewPrivs"] == [set_to]
    if os.geteuid() == 0:
        assert status_of(pid)["CapEff"] == status_of(server.pid)["CapEff"]


@as_root
def test_no_new_privs_can_be_declined(app: Callable[..., Server]) -> None:
    server = app(workers=1, user="nobody", no_new_privs="no")
    (pid,) = server.workers()
    assert status_of(pid)["NoNewPrivs"] == ["0"]
    assert status_of(pid)["CapBnd"] == ["0000000000000000"]


@pytest.mark.long
@as_root
def test_an_upgrade_s_rehearsal_loads_the_application_as_its_user_too(app: Callable[..., Server], folder: Path) -> None:
    (folder / "app.py").write_text(f"{APP}\nif os.getuid() == 0: raise RuntimeError('loaded as root')\n")
    server = app(workers=1, user="nobody")
    server.signal(signal.SIGUSR2)
    server.wait_for_log("generation 1 serves")
    (folder / "app.py").write_text(f"{APP}\nraise RuntimeError(f'loaded by {{os.getuid()}}')\n")
    server.signal(signal.SIGUSR2)
    server.wait_for_log(f"RuntimeError: loaded by {NOBODY.pw_uid}")


@as_root
def test_a_check_loads_the_application_as_its_user_too(folder: Path) -> None:
    done = run("check", "app:handle", "--app-dir", str(folder), "--user", "nobody")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"loaded by {NOBODY.pw_uid} {NOBODY.pw_gid} " in done.stdout


@as_root
def test_a_unix_socket_belongs_to_the_workers_user(app: Callable[..., Server], folder: Path) -> None:
    path = folder / "s"
    control = folder / "c"
    app(workers=1, user="nobody", bind=f"unix:{path}", socket_mode="0660", control=control)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY.pw_uid, NOBODY.pw_gid, 0o660)
    assert (control.stat().st_uid, stat.S_IMODE(control.stat().st_mode)) == (0, 0o600)


@as_root
def test_a_unix_socket_may_be_another_user_s(app: Callable[..., Server], folder: Path) -> None:
    app(workers=1, user="nobody", bind=f"unix:{folder / 's'}", socket_user="daemon", socket_group="root")
    found = (folder / "s").stat()
    assert (found.st_uid, found.st_gid) == (1, 0)


@as_root
@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (
            "real = os.setresuid\nos.setresuid = lambda r, e, s: real(r, e, 0 if r >= 0 else s)",
            "user ids are (65534, 65534, 0)",
        ),
        (
            "identity._prctl(8, 1)\nidentity._drop_capabilities = lambda: None",  # PR_SET_KEEPCAPS
            "there are capabilities left",
        ),
        ("os.setgroups = lambda groups: None", "supplementary groups are [7, 8]"),
        (
            "real = identity._prctl\nidentity._prctl = lambda o, a=0: 0 if o == 38 else real(o, a)",
            "no_new_privs is not",
        ),
        ("os.setresgid = lambda *ids: None", "group ids are (0, 0, 0)"),
        ("def refuse(*ids): raise PermissionError(1, 'no')\nos.setresuid = refuse", "can't give up privileges: no"),
    ],
    ids=["saved-id", "capabilities", "groups", "no-new-privs", "group", "refused"],
)
def test_a_worker_that_could_come_back_does_not_start(folder: Path, sabotage: str, said: str) -> None:
    done = run_program(
        "import logging, prefork\nfrom prefork.system import identity\nfrom prefork.system.natives import os\n"
        "logging.basicConfig(level='INFO')\n"
        f"os.setgroups([7, 8])\n{sabotage}\n"
        "prefork.serve(lambda connection, address: None, bind='127.0.0.1:0', workers=1, user='65534', group='65534')\n"
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "the worker does not start" in done.stderr
    assert "BootError" in done.stderr.splitlines()[-1]


# What the settings ask for.


@as_root
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", "nosuchuser"], "user: 'nosuchuser' is no user of this machine; give a name or a number"),
        (["--user", "4294967295"], "user: '4294967295' is no user of this machine; give a name or a number"),
        (["--user", "root"], "user: 'root' is root and gives nothing up; name another user, or leave it out"),
        (["--user", "0"], "user: '0' is root and gives nothing up; name another user, or leave it out"),
        (["--user", "54321"], "user: '54321' has no entry in the user database; give group as well"),
        (["--user", "nobody", "--group", "nosuchgroup"], "group: 'nosuchgroup' is no group of this machine;"),
    ],
)
def test_what_can_t_be_had_is_one_line(folder: Path, arguments: list[str], said: str) -> None:
    for command in ("serve", "check"):
        done = run(command, "app:handle", "--app-dir", str(folder), "--bind=127.0.0.1:0", *arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"prefork: error: {said}")
        assert done.stderr.count("\n") == 1


@as_root
@setpriv
def test_who_could_not_stop_its_workers_does_not_start(folder: Path) -> None:
    """Root in a container that was left the capabilities to change its user, and no other."""
    left = "-all,+setuid,+setgid,+setpcap,+dac_override"
    done = subprocess.run(
        [
            *["setpriv", f"--bounding-set={left}", f"--inh-caps={left}", sys.executable, "-m", "prefork", "serve"],
            *["app:handle", "--app-dir", str(folder), "--bind=127.0.0.1:0", "--user=nobody"],
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "user: without the capability CAP_KILL nobody can stop the workers of 'nobody'" in done.stderr


@as_root
@setpriv
def test_a_worker_that_can_not_be_signalled_ends_no_master(prefork_server: ServerFactory, folder: Path) -> None:
    (folder / "escapes.py").write_text(ESCAPES)
    server = prefork_server(
        "escapes:Escapes",
        app_dir=folder,
        workers=1,
        control="off",
        graceful_timeout=1,
        options={"prefix": ["setpriv", "--bounding-set=-kill"]},
    )
    with connect(server.address) as client:
        assert client.recv(4) == b"held"
        server.signal(signal.SIGTERM)
        server.wait_for_log("can't be killed: it is another user's now")
    assert server.wait() == 0


def test_nobody_becomes_another_without_root() -> None:
    done = run_program(
        """
        import os, pwd
        from prefork.errors import SettingsError
        from prefork.system import identity
        if os.geteuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        me, mine = str(os.getuid()), str(os.getgid())
        assert identity.resolve("", "", "auto") is None
        assert identity.resolve(me, mine, "no") is None
        found = identity.resolve(me, mine, "auto")
        assert found == identity.Identity(None, None, None, True), found
        identity.assume(found)
        identity.assume(None)
        for asked in (("1", "1", "auto"), ("", "1", "auto"), (me, "1", "auto")):
            try:
                identity.resolve(*asked)
            except SettingsError as error:
                assert "only root can become '1'; start as root, or leave it out" in str(error), error
            else:
                raise AssertionError(asked)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@as_root
def test_who_is_that_user_already_gives_up_the_capabilities_he_was_given() -> None:
    """As a unit with User= and AmbientCapabilities= has it (systemd.exec(5)), for a port below 1024."""
    done = run_program(
        """
        import os, pathlib
        from prefork.system import identity
        identity._prctl(8, 1)  # PR_SET_KEEPCAPS
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        bind = 1 << 10  # CAP_NET_BIND_SERVICE
        identity._capability_call(identity._libc.capset, identity._Sets(bind, bind, bind))
        assert identity._libc.prctl(47, 2, 10, 0, 0) == 0  # PR_CAP_AMBIENT_RAISE

        def has():
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            return {line.split()[1] for line in lines if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb"))}

        assert has() == {f"{bind:016x}"}
        for no_new_privs in ("auto", "no"):
            found = identity.resolve("65534", "65534", no_new_privs)
            assert found == identity.Identity(65534, None, None, no_new_privs == "auto"), found
        pid = os.fork()
        if not pid:
            identity.assume(found)
            os._exit(0 if has() == {"0" * 16} else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert has() == {f"{bind:016x}"}
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


# Working directory and umask.


def test_the_application_is_found_in_the_folder_that_is_changed_to(
    prefork_server: ServerFactory, folder: Path, tmp_path: Path
) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "other.py").write_text(APP)
    server = prefork_server("app:handle", workers=1, chdir=folder, options={"cwd": tmp_path})
    assert get(server, "/") == str(folder)
    server = prefork_server("other:handle", workers=1, app_dir="inner", chdir=folder, options={"cwd": tmp_path})
    assert get(server, "/") == str(folder)
    server.signal(signal.SIGUSR2)
    server.wait_for_log("generation 1 serves")
    assert get(server, "/") == str(folder)


def test_a_folder_that_is_none_is_told_of_with_all_else(folder: Path) -> None:
    done = run("serve", "nonsense:handle", "--chdir", str(folder / "no"), "--workers=0")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"prefork: error: chdir: '{folder / 'no'}' is not a folder; name one",
        'prefork: error: workers: 0 is not a count of processes; give 1 or more, or "auto" (from --workers)',
    ]


def test_the_umask_holds_for_what_master_and_workers_make(app: Callable[..., Server], folder: Path) -> None:
    pidfile = folder / "p"
    server = app(workers=1, umask="027", bind=f"unix:{folder / 's'}", pidfile=pidfile)
    assert get(server, f"/write{folder / 'w'}") == "written"
    modes = [stat.S_IMODE((folder / name).stat().st_mode) for name in ("p", "s", "w")]
    assert modes == [0o640, 0o750, 0o640]


def test_a_host_has_its_own_back_afterwards(tmp_path: Path) -> None:
    before = os.getcwd()
    mask = os.umask(0o022)
    try:
        with entered(Settings(chdir=str(tmp_path), umask=0o077)):
            assert os.getcwd() == str(tmp_path)
            assert os.umask(0o077) == 0o077
        assert os.getcwd() == before
        assert os.umask(0o022) == 0o022
        with pytest.raises(
            SettingsError,
            match=r"^chdir: '/no/where' can't be entered: No such file or directory; name another folder$",
        ):
            entered(Settings(chdir="/no/where")).__enter__()
        assert os.getcwd() == before
    finally:
        os.umask(mask)


def test_who_is_asked_for_nothing_changes_nothing() -> None:
    assert identity.resolve("", "", "auto") is None
    assert identity.resolve("", "", "no") is None
    identity.assume(None)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFORK_")}
    return SERVERS.run([sys.executable, "-m", "prefork", *arguments], env=environment)


def test_what_workers_may_read_is_told_by_the_modes_on_the_way() -> None:
    """Root's home, where an interpreter may lie, is closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "os.py")
        Path(path).touch(0o644)
        others, mine = os.geteuid() + 1, os.getegid()
        stranger = identity.Identity(others, mine + 1, (), False)
        sibling = identity.Identity(others, mine + 1, (mine,), False)
        owner = identity.Identity(os.geteuid(), mine + 1, (), False)
        for mode, readers in ((0o755, 3), (0o711, 3), (0o750, 2), (0o700, 1)):
            os.chmod(folder, mode)
            told = [identity.reaches(who, path) for who in (owner, sibling, stranger)]
            assert told == [number < readers for number in range(3)], oct(mode)
        os.chmod(path, 0o600)
        assert identity.reaches(owner, path)
        assert not identity.reaches(sibling, path)
        assert identity.reaches(None, path)
