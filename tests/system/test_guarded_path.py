"""Names in folders where others may write: what root makes there, and that nothing of root's is lost by it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefork.config.address import Address
from prefork.errors import ListenError
from prefork.net.options import SocketOptions
from prefork.net.unixpath import give_up, take
from prefork.system import content, custody, guarded_path, lockfile, natives
from prefork.system.guarded_path import reach
from prefork.system.logfile import append
from tests.support.figures import count

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has files that others would like to have")
NOBODY = 65534
OWNER = (NOBODY, NOBODY)
NOBODY_IN_PARTICULAR = 2**32 - 1  # of an entry that is the owner's, the group's, the mask or all others'


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder of ours that all may enter, and nobody but us may write to."""
    folder = Path(tempfile.mkdtemp(prefix="prefork-test-"))
    folder.chmod(0o755)
    (folder / "theirs").mkdir()
    os.chown(folder / "theirs", *OWNER)
    (folder / "ours").mkdir()
    (folder / "secret").write_text("root's")
    (folder / "secret").chmod(0o600)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def link(path: Path, target: str | Path, owner: int) -> None:
    path.symlink_to(target)
    os.chown(path, owner, owner, follow_symlinks=False)


def share(folder: Path, uid: int) -> None:
    """Let a user write to a folder by its access control list, as setfacl(1) would."""
    entries = [(0x01, 7, NOBODY_IN_PARTICULAR), (0x02, 7, uid)]
    entries += [(tag, bits, NOBODY_IN_PARTICULAR) for tag, bits in ((0x04, 5), (0x10, 7), (0x20, 5))]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(folder, "system.posix_acl_access", packed)
    except OSError as error:
        pytest.skip(f"no access control lists in {folder}: {error.strerror}")


def opened(path: Path, owner: tuple[int, int] | None = OWNER) -> str:
    """The file that was opened as a log, or why none was."""
    before = set(os.listdir("/proc/self/fd"))
    try:
        fd = append(str(path), owner)
    except OSError as error:
        said = str(error.strerror)
        left = set(os.listdir("/proc/self/fd"))
    else:
        said = os.readlink(f"/proc/self/fd/{fd}")
        os.close(fd)
        left = set(os.listdir("/proc/self/fd"))
    assert left == before
    return said


def untouched(secret: Path) -> bool:
    found = secret.stat()
    return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), secret.read_text()) == (0, 0, 0o600, "root's")


@as_root
def test_a_log_in_a_folder_of_the_workers_user_becomes_theirs(top: Path) -> None:
    path = top / "theirs" / "log"
    for _ in range(2):
        assert opened(path) == str(path)
        assert (path.stat().st_uid, path.stat().st_gid) == OWNER


@as_root
@pytest.mark.parametrize("what", ["secret", "missing", "/dev/null", "ours", "theirs/../secret"])
def test_a_link_of_another_s_is_not_followed_out_of_his_folder(top: Path, what: str) -> None:
    before = os.stat("/dev/null")
    link(top / "theirs" / "log", top / what, NOBODY)
    link(top / "theirs" / "folder", top / "ours", NOBODY)
    for path in (top / "theirs" / "log", top / "theirs" / "folder" / "log"):
        assert opened(path).startswith(f"on its way is a symbolic link of uid {NOBODY}'s, who could change it")
    assert untouched(top / "secret")
    assert not (top / "missing").exists()
    assert not list((top / "ours").iterdir())
    assert os.stat("/dev/null").st_uid == before.st_uid


@as_root
@pytest.mark.parametrize("use", [lambda path: append(path, OWNER), content.read, lockfile.read])
def test_a_descriptor_of_another_s_process_is_not_opened_anew(top: Path, use: Callable[[str], object]) -> None:
    """He could have there what he may only name, not open (O_PATH); and root would open it anew, as root."""
    held = os.open(top / "secret", os.O_PATH)
    with subprocess.Popen(["sleep", "60"], stdin=held, user=NOBODY, group=NOBODY, extra_groups=[]) as process:
        try:
            os.close(held)
            link(top / "theirs" / "log", f"/proc/{process.pid}/fd/0", NOBODY)
            with pytest.raises(OSError, match=f"on its way is a descriptor of a process of uid {NOBODY}'s"):
                use(str(top / "theirs" / "log"))
        finally:
            process.kill()
    assert untouched(top / "secret")


@as_root
def test_links_that_users_have(top: Path) -> None:
    """A log's name of today that its writer links to in its own folder; folders elsewhere, by an operator's link."""
    link(top / "theirs" / "log", "log-2026", NOBODY)
    assert opened(top / "theirs" / "log") == str(top / "theirs" / "log-2026")
    link(top / "var", top / "theirs", 0)
    assert opened(top / "var" / "log") == str(top / "theirs" / "log-2026")
    link(top / "abroad", "ours/../ours/./", 0)
    assert opened(top / "abroad" / "log") == str(top / "ours" / "log")
    link(top / "ours" / "dangling", "new", 0)
    assert opened(top / "ours" / "dangling") == str(top / "ours" / "new")
    link(top / "loop", "loop", 0)
    assert opened(top / "loop") == os.strerror(errno.ELOOP)
    # What lies in our folder nobody can change, whoever made it.
    link(top / "ours" / "copied", top / "ours" / "log", NOBODY)
    assert opened(top / "ours" / "copied") == str(top / "ours" / "log")


@as_root
def test_what_is_not_ours_in_a_folder_of_another_s_is_left_alone(top: Path) -> None:
    theirs = top / "theirs"
    os.link(top / "secret", theirs / "hard")
    (theirs / "moved").write_text("root's")
    (theirs / "empty").touch()
    (theirs / "third").touch()
    os.chown(theirs / "third", 1, 1)
    os.mknod(theirs / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(theirs / "fifo")
    assert opened(theirs / "hard") == "others may write to its folder, and the file has another name as well"
    assert opened(theirs / "moved").endswith(f"and the file is root's; give it to uid {NOBODY}")
    assert opened(theirs / "moved", None) == str(theirs / "moved")  # as the log that root itself wrote there before
    assert opened(theirs / "third") == "others may write to its folder, and the file is uid 1's"
    assert opened(theirs / "null") == "others may write to its folder, and it is not a plain file"
    assert opened(theirs / "fifo") == "it is a FIFO that nobody reads"
    assert opened(theirs / "empty") == str(theirs / "empty")
    assert (theirs / "empty").stat().st_uid == NOBODY
    assert {(theirs / name).stat().st_uid for name in ("hard", "moved", "null", "fifo")} == {0}
    assert untouched(top / "secret")


@as_root
def test_a_sticky_folder_keeps_each_from_the_others_files(top: Path) -> None:
    (top / "ours").chmod(0o1777)
    assert opened(top / "ours" / "log") == str(top / "ours" / "log")
    link(top / "ours" / "trap", top / "secret", NOBODY)
    assert opened(top / "ours" / "trap").startswith("on its way is a symbolic link")
    link(top / "ours" / "mine", top / "theirs" / "log", 0)
    assert opened(top / "ours" / "mine") == str(top / "theirs" / "log")
    with reach(str(top / "ours" / "log")) as found:
        assert found.exposed  # it is the workers' user's by now
    with reach(str(top / "ours" / "none")) as found:
        assert not found.exposed


@as_root
@pytest.mark.parametrize(("mode", "group", "exposed"), [(0o775, 0, False), (0o775, 50, True), (0o757, 0, True)])
def test_who_may_write_to_a_folder(top: Path, mode: int, group: int, exposed: bool) -> None:
    (top / "ours").chmod(mode)
    os.chown(top / "ours", 0, group)
    with reach(str(top / "ours" / "log")) as found:
        assert found.exposed is exposed


@as_root
def test_an_access_control_list_lets_others_in_whatever_the_group_is(top: Path) -> None:
    folder, log = top / "ours", top / "ours" / "log"
    share(folder, NOBODY)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o775
    assert folder.stat().st_gid == 0
    log.symlink_to(top / "secret")
    os.chown(log, *OWNER, follow_symlinks=False)
    assert opened(log).startswith(f"on its way is a symbolic link of uid {NOBODY}'s, who could change it")
    assert untouched(top / "secret")
    assert custody.stranger(str(folder)) == f"{folder} has an access control list, by which others may write it"
    folder.chmod(0o755)  # the list's mask, by which nobody named in it may write any more
    with reach(str(folder / "none")) as found:
        assert not found.exposed


@as_root
def test_a_second_name_is_not_believed_in_a_folder_where_all_may_make_names(top: Path) -> None:
    (top / "ours").chmod(0o1777)
    os.link(top / "secret", top / "ours" / "log")  # as anybody may where fs.protected_hardlinks is 0 (proc(5))
    assert opened(top / "ours" / "log") == "others may write to its folder, and the file has another name as well"
    assert untouched(top / "secret")


def test_a_device_keeps_its_owner_and_a_name_of_a_descriptor_is_that_descriptor(tmp_path: Path) -> None:
    before = os.stat("/dev/null")
    os.close(append("/dev/null", OWNER))
    after = os.stat("/dev/null")
    assert (before.st_uid, before.st_mode) == (after.st_uid, after.st_mode)
    one, other = socket.socketpair()
    with one, other:
        fd = append(f"/dev/fd/{one.fileno()}", OWNER)  # no open(2) opens a socket
        os.write(fd, b"x")
        os.close(fd)
        assert other.recv(10) == b"x"
    reader = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(OSError, match="it is not open for writing"):
        append(f"/proc/self/fd/{reader}")
    os.close(reader)


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "Is a directory"), ("none/log", "No such file or directory"), ("file/log", "Not a directory")],
)
def test_what_is_no_file_is_told_as_the_kernel_tells_it(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    assert opened(tmp_path / name) == said


def test_a_path_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert opened(Path("log")) == str(tmp_path / "log")
    assert opened(Path("../") / tmp_path.name / "log") == str(tmp_path / "log")


def test_without_numbers_of_their_own_those_outside_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace the root of the machine has the number that stands for all who have none."""
    guarded_path._outside.cache_clear()
    content = {"/proc/self/uid_map": b"0 1000 1\n", "/proc/sys/kernel/overflowuid": b"65534\n"}
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda path: content[str(path)])
        assert guarded_path._outside() == {65534}
        guarded_path._outside.cache_clear()
        content["/proc/self/uid_map"] = b"0 0 4294967295\n"
        assert not guarded_path._outside()
    guarded_path._outside.cache_clear()


# Races: a process of the workers' user exchanges what the name means, as fast as it can.


@contextlib.contextmanager
def attacker(*turns: Callable[[], object]) -> Iterator[None]:
    """A process of nobody's that takes these turns for as long as the block lasts."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            signal.alarm(60)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            while True:
                for turn in turns:
                    with contextlib.suppress(OSError):
                        turn()
        os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@as_root
def test_a_log_that_is_exchanged_all_the_time_is_never_root_s_file(top: Path) -> None:
    log, other = top / "theirs" / "log", top / "theirs" / "other"
    secret = top / "secret"
    with attacker(
        lambda: os.symlink(secret, other),
        lambda: os.rename(other, log),
        lambda: os.mkfifo(other),
        lambda: os.rename(other, log),
        lambda: os.close(os.open(other, os.O_CREAT | os.O_WRONLY)),
        lambda: os.rename(other, log),
        lambda: os.unlink(log),
    ):
        had = tries = 0
        end = time.monotonic() + 30
        # The other may stand still for long, and what it has put there last be nothing that is opened.
        while tries < 1000 or (not had and time.monotonic() < end):
            tries += 1
            with contextlib.suppress(OSError):
                fd = append(str(log), OWNER)
                had += 1
                os.write(fd, b"a line\n")
                os.close(fd)
    assert untouched(secret)
    assert had


@as_root
def test_a_socket_that_is_exchanged_all_the_time_gives_nothing_of_root_s_away(top: Path) -> None:
    path = top / "theirs" / "s"
    secret, target = top / "secret", f"{path}.new"
    options = SocketOptions(mode=0o666, user=str(NOBODY), group=str(NOBODY))
    with attacker(
        lambda: os.unlink(target),
        lambda: os.symlink(secret, target),
        lambda: os.unlink(target),
        lambda: os.rename(target, f"{path}.away"),
        lambda: os.rmdir(f"{path}.away"),
        lambda: os.symlink(top / "ours", target),
    ):
        for _ in range(count("exchanged-sockets")):
            with contextlib.suppress(OSError, ListenError):
                sock, file_id = take(Address("unix", path=str(path)), backlog=5, options=options)
                sock.close()
                give_up(str(path), file_id)
            with contextlib.suppress(OSError):
                os.unlink(path)
    assert untouched(secret)
    assert stat.S_IMODE((top / "ours").stat().st_mode) == 0o755
    assert not list((top / "ours").iterdir())


@as_root
def test_a_socket_in_a_folder_of_another_s_is_made_where_only_we_may_enter(top: Path) -> None:
    path = top / "theirs" / "s"
    options = SocketOptions(mode=0o660, user=str(NOBODY), group="")
    (top / "theirs" / "s.new").mkdir(0o700)  # as kill -9 leaves it
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(top / "theirs" / "s.new" / "s"))
    sock, file_id = take(Address("unix", path=str(path)), backlog=5, options=options)
    with sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        found = path.lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (NOBODY, 0o660)
        assert os.listdir(path.parent) == ["s"]
    assert give_up(str(path), file_id)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_socket_has_its_mode_from_the_beginning_whatever_the_umask(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a mode that comes later is a moment in which others may connect")

    monkeypatch.setattr(natives.os, "chmod", never)
    before = os.umask(umask)
    try:
        sock, _ = take(Address("unix", path=str(tmp_path / "s")), backlog=5, options=SocketOptions(mode=0o626))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    sock.close()
    assert stat.S_IMODE((tmp_path / "s").lstat().st_mode) == 0o626
