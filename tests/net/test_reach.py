"""Who can connect to a unix socket, and what the log says of it."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.net.reach import closed
from prefork.testing.plugin import ServerFactory
from tests.support.sockets import ROOT


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody gets into, as pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize(
    ("mode", "chosen", "open_to_all"),
    [(0o755, False, False), (0o775, False, False), (0o777, False, True), (0o666, False, True), (0o660, True, True)],
)
def test_modes(folder: Path, mode: int, chosen: bool, open_to_all: bool) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.chmod(mode)
        said = closed(str(path), chosen=chosen)
    assert (said == "") == open_to_all
    if said:
        assert f"can connect (mode {mode:04o}); for a proxy that is another user give --socket-group with" in said
        assert ("and group" in said) == bool(mode & 0o020)


def test_a_folder_on_the_way(folder: Path) -> None:
    inner = folder / "home" / "run"
    inner.mkdir(parents=True)
    inner.parent.chmod(0o750)
    path = inner / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.chmod(0o666)
        said = closed(str(path))
        assert f"can get into {inner.parent} (mode 0750); for a proxy that is another user bind elsewhere" in said
        # Who has chosen the socket's group has chosen that of the folder on the way, if they are the same.
        assert closed(str(path), chosen=True) == ""
        inner.parent.chmod(0o700)
        assert closed(str(path), chosen=True)
    assert closed(str(folder / "nowhere")) == ""


def test_the_log_says_it(prefork_server: ServerFactory, folder: Path) -> None:
    path = folder / "s"
    server = prefork_server("hello:handle", app_dir=ROOT / "examples", bind=f"unix:{path}", workers=1, umask="0022")
    server.wait_for_log(rf"INFO {server.pid} unix:{path}: only user .* can connect \(mode 0755\); for a proxy that is ")
    server.stop()
    server = prefork_server(
        "hello:handle", app_dir=ROOT / "examples", bind=f"unix:{path}", workers=1, socket_mode="0666"
    )
    assert "can connect" not in server.log()
