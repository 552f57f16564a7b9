"""A unix path is taken from the dead only, and given up only while it is ours; the lock leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from prefork.config.address import Address
from prefork.errors import ListenError
from prefork.net import unixpath
from prefork.net.options import SocketOptions
from prefork.net.unixpath import FileId, give_up, take
from prefork.system import natives
from tests.support.sockets import closing, script

PLAIN = SocketOptions()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


def address(path: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> Address:
    return Address("unix", path=path, type=kind)


def dead_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def names(path: str) -> list[str]:
    return sorted(os.listdir(os.path.dirname(path)))


def refused(path: str, kind: socket.SocketKind = socket.SOCK_STREAM, options: SocketOptions = PLAIN) -> str:
    """The one line with which a path is refused; nothing has changed by it."""
    before = names(path)
    with pytest.raises(ListenError) as caught:
        take(address(path, kind), backlog=5, options=options)
    assert names(path) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize("left", ["nothing", "a dead socket", "all that a crash can leave"])
def test_a_free_path_is_taken_and_given_up(path: str, kind: socket.SocketKind, left: str) -> None:
    if left != "nothing":
        dead_socket(path)
    if left == "all that a crash can leave":
        dead_socket(path + ".new")
        Path(path + ".lock").touch()
    sock, file_id = take(address(path, kind), backlog=5, options=PLAIN)
    with sock, socket.socket(socket.AF_UNIX, kind) as client:
        assert names(path) == ["s"]
        client.connect(path)
        sock.standard_socket().accept()[0].close()
        assert give_up(path, file_id)
        assert names(path) == []
        assert not give_up(path, file_id)


@pytest.mark.parametrize("what", ["file", "folder", "link", "fifo"])
def test_what_is_not_a_socket_is_refused_and_left_alone(path: str, what: str) -> None:
    match what:
        case "file":
            Path(path).write_text("precious")
        case "folder":
            os.mkdir(path)
        case "fifo":
            os.mkfifo(path)
        case "link":
            dead_socket(path + "2")
            os.symlink(path + "2", path)
    before = os.lstat(path).st_ino
    assert refused(path) == f"bind: unix:{path}: the path is not a socket; remove it or choose another path"
    assert os.lstat(path).st_ino == before


def test_a_living_server_s_path_is_refused_by_its_name(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(5)
        line = refused(path)
        assert line.startswith(f"bind: unix:{path}: the address is in use by ")
        assert f"(pid {os.getpid()})" in line


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_somebody_s_socket_of_another_type_is_alive_too(path: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(path)
        if kind == socket.SOCK_SEQPACKET:
            other.listen()
        assert f"in use by {Path('/proc/self/comm').read_text().strip()[:3]}" in refused(path)


def test_a_full_queue_counts_as_alive(path: str) -> None:
    clients: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as server, closing(clients):
        server.bind(path)
        server.listen(0)
        full = 0
        while full != errno.EAGAIN:
            clients.append(client := socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            full = client.connect_ex(path)
        assert "the address is in use" in refused(path)


def test_what_lies_under_the_temporary_name_and_is_no_socket_is_not_removed(path: str) -> None:
    Path(path + ".new").write_text("precious")
    assert refused(path) == f"bind: unix:{path}: {path}.new is in the way; remove it"
    assert Path(path + ".new").read_text() == "precious"


def test_the_file_is_complete_before_it_has_its_name(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def check(source: str, target: str, **folders: int) -> None:
        assert (source, target) == ("s.new", "s")
        assert stat.S_IMODE(os.lstat(path + ".new").st_mode) == 0o642
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(path + ".new")
        rename(source, target, **folders)

    dead_socket(path)
    monkeypatch.setattr(natives.os, "rename", check)
    sock, _ = take(address(path), backlog=5, options=SocketOptions(mode=0o642))
    with sock:
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o642


def test_without_a_mode_the_umask_decides(path: str) -> None:
    before = os.umask(0o027)
    try:
        take(address(path), backlog=5, options=PLAIN)[0].close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize(("user", "group", "expected"), [("1234", "", (1234, 0)), ("nobody", "5678", (65534, 5678))])
def test_owner_and_group_by_name_or_number(path: str, user: str, group: str, expected: tuple[int, int]) -> None:
    take(address(path), backlog=5, options=SocketOptions(user=user, group=group))[0].close()
    found = os.lstat(path)
    assert (found.st_uid, found.st_gid) == expected


@pytest.mark.parametrize("setting", ["user", "group"])
@pytest.mark.parametrize("value", ["nobody there", "4294967295", "99999999999999"])
def test_an_unknown_owner_is_named(path: str, setting: str, value: str) -> None:
    options = SocketOptions(user=value) if setting == "user" else SocketOptions(group=value)
    line = f"socket_{setting}: {value!r} is no {setting} of this machine; give a name or a number"
    assert refused(path, options=options) == line


@pytest.mark.skipif(os.geteuid() != 0, reason="the test becomes nobody, which only root can")
def test_who_is_not_root_is_told_that_files_can_t_be_given_away(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    path = str(tmp_path / "s")
    # tmp_path lies in a folder that only root may enter: the script goes there first.
    answers = script(
        """
import json, os, sys
from prefork.config.address import Address
from prefork.errors import ListenError
from prefork.net.options import SocketOptions
from prefork.net.unixpath import take
os.chdir(os.path.dirname(sys.argv[1]))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    take(Address("unix", path="s"), backlog=5, options=SocketOptions(user="root"))
except ListenError as error:
    print(json.dumps([str(error), os.listdir(".")]))
""",
        path,
    )
    assert answers == [
        (
            "bind: unix:s: only root may give a file to another user or group; "
            "leave socket_user and socket_group out, or start as root"
        ),
        [],
    ]


@pytest.mark.parametrize("length", [103, 104, 107])
def test_the_longest_path_that_a_socket_can_have(tmp_path: Path, length: int) -> None:
    """Its temporary name is too long to bind to."""
    folder = tmp_path / ("f" * (length - len(str(tmp_path)) - 4))
    folder.mkdir()
    path = str(folder / "ab")
    assert len(path) == length
    sock, file_id = take(address(path), backlog=5, options=PLAIN)
    with sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert names(path) == ["ab"]
        assert give_up(path, file_id)
        assert names(path) == []


def test_a_file_that_is_not_ours_any_more_stays(path: str) -> None:
    sock, file_id = take(address(path), backlog=5, options=PLAIN)
    with sock:
        os.unlink(path)
        successor, its_id = take(address(path), backlog=5, options=PLAIN)
        with successor:
            assert its_id != file_id  # an inode in use is not given out twice
            assert not give_up(path, file_id)
            assert names(path) == ["s"]
            assert give_up(path, its_id)


def test_a_file_that_has_gone_with_its_folder_is_gone(tmp_path: Path) -> None:
    """It was a warning that it can't be removed, at the stop and once more."""
    folder = tmp_path / "a"
    folder.mkdir()
    sock, file_id = take(address(str(folder / "s")), backlog=5, options=PLAIN)
    with sock:
        shutil.rmtree(folder)
        assert not give_up(str(folder / "s"), file_id)
        folder.touch()
        assert not give_up(str(folder / "s"), file_id)


def test_a_missing_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        take(address(str(tmp_path / "none" / "s")), backlog=5, options=PLAIN)


def test_whoever_waits_for_the_lock_gives_up_in_the_end(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unixpath, "_LOCK_SECONDS", 0.05)
    with Path(path + ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        line = f"another process holds {path}.lock; end it, or remove that file when none does"
        assert refused(path) == f"bind: unix:{path}: {line}"
        with pytest.raises(ListenError, match="another process holds"):
            give_up(path, FileId(0, 0))
    sock, file_id = take(address(path), backlog=5, options=PLAIN)
    sock.close()
    assert give_up(path, file_id)


def test_a_lock_that_is_a_link_is_not_followed(path: str) -> None:
    os.symlink(path + "2", path + ".lock")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        take(address(path), backlog=5, options=PLAIN)
    assert names(path) == ["s.lock"]


@pytest.mark.long
def test_of_many_that_start_at_once_one_wins_and_nothing_is_left(path: str) -> None:
    """Six processes, twenty times; the loser's line is the one for a living server."""
    winners, lines, left = script(
        """
import json, os, socket, sys
from prefork.config.address import Address
from prefork.errors import ListenError
from prefork.net.options import SocketOptions
from prefork.net.unixpath import give_up, take
path = sys.argv[1]
winners, lines = [], set()
for _ in range(20):
    start, go = os.pipe()
    told, tell = os.pipe()
    done, end = os.pipe()
    children = []
    for _ in range(6):
        children.append(os.fork())
        if not children[-1]:
            os.close(go); os.close(end)
            os.read(start, 1)
            try:
                sock, file_id = take(Address("unix", path=path), backlog=5, options=SocketOptions())
            except ListenError as error:
                os.write(tell, str(error).split(" by ")[0].encode() + b"\\n")
                os._exit(0)
            os.write(tell, b"won\\n")
            os.read(done, 1)
            os._exit(0 if give_up(path, file_id) else 1)
    for fd in (start, tell, done, go):
        os.close(fd)
    answers = b""
    while answers.count(b"\\n") < 6:
        answers += os.read(told, 1000)
    os.close(end); os.close(told)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    winners.append(answers.decode().split("\\n").count("won"))
    lines |= set(answers.decode().split("\\n")) - {"won", ""}
print(json.dumps([winners, sorted(lines), os.listdir(os.path.dirname(path))]))
""",
        path,
    )
    assert winners == [1] * 20
    assert lines == [f"bind: unix:{path}: the address is in use"]
    assert left == []


def test_a_lock_whose_file_comes_and_goes_is_still_held_by_one_alone(path: str) -> None:
    """Four processes enter 300 times each; inside, each makes a file that must not be there."""
    answers = script(
        """
import json, os, sys
from prefork.net.unixpath import _locked
path = sys.argv[1]
children = []
for _ in range(4):
    children.append(os.fork())
    if not children[-1]:
        code = 1
        try:
            for _ in range(300):
                with _locked(path):
                    os.close(os.open(path + ".inside", os.O_CREAT | os.O_EXCL))
                    os.unlink(path + ".inside")
            code = 0
        finally:
            os._exit(code)
print(json.dumps([[os.waitpid(child, 0)[1] for child in children], os.listdir(os.path.dirname(path))]))
""",
        path,
    )
    assert answers == [[0, 0, 0, 0], []]
