"""Where the control socket lies: what ``control`` = "auto" stands for, and how a command finds a server.

The folder is the one that the service manager made for the service (``RUNTIME_DIRECTORY``), for root ``/run/prefork``,
for anybody else a folder of his own. The file has the name of the pidfile, or else the master's pid.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from prefork.errors import ControlError, printable
from prefork.net import unixpath
from prefork.system.natives import os, socket

SUFFIX = ".control"


class SeveralServersError(ControlError):
    """Which server is meant is not clear.

    Args:
        found: the control sockets, each with what it leads to, if that is known.

    Attributes:
        paths: the control sockets.
    """

    def __init__(self, found: Sequence[str] | Mapping[str, str]) -> None:
        self.paths = list(found)
        told = found if isinstance(found, Mapping) else dict.fromkeys(found, "")
        lines = [f"  {printable(path)}  {who}".rstrip() for path, who in told.items()]
        super().__init__("\n".join(["several servers run here; name one with --control PATH:", *lines]))


_ROOTS = Path("/run/prefork")


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of control sockets, which need not be there.

    Args:
        environ: the environment.
    """
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return _ROOTS
    own = environ.get("XDG_RUNTIME_DIR")
    return Path(own, "prefork") if own else Path(f"/tmp/prefork-{os.geteuid()}")  # made 0700, checked below


def default(pidfile: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The place of a new control socket; its folder is made.

    Args:
        pidfile: the setting; its name without ending becomes the socket's, unless it is too long for one.
        environ: the environment.

    Raises:
        OSError: the folder can't be made, or is somebody else's.
    """
    where = folder(environ)
    where.mkdir(mode=0o755 if where == _ROOTS else 0o700, parents=True, exist_ok=True)
    found = where.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{where} is not a folder of uid {os.geteuid()}'s own")
    for dead in (path for path in sockets(where) if not alive(path)):
        dead.unlink(missing_ok=True)
    called = where / f"{Path(pidfile).stem if pidfile else os.getpid()}{SUFFIX}"
    return called if unixpath.fits(os.fspath(called)) else where / f"{os.getpid()}{SUFFIX}"


def sockets(where: Path) -> list[Path]:
    """The control sockets in a folder, living and dead; none when the folder can't be read."""
    try:
        return sorted(path for path in where.iterdir() if path.suffix == SUFFIX and path.is_socket())
    except OSError:
        return []


_CREDENTIALS: Final = struct.Struct("=iII")  # unix(7), SO_PEERCRED


def stranger(connection: socket.socket, path: str) -> int | None:
    """Client. Whose server it is that we are connected with, if what it says is not to be believed (unix(7)).

    Whoever was first to make a path in a folder of everybody's could answer as he likes. So it is root's, our own, or,
    where root asks, that of the user whom the folder belongs to.

    Args:
        connection: with the server.
        path: of its socket.

    Raises:
        OSError: the folder can't be looked at.
    """
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(data)[1]
    if uid in {0, os.geteuid()}:
        return None
    trusted = os.geteuid() == 0 and os.stat(os.path.dirname(os.path.abspath(path))).st_uid == uid
    return None if trusted else uid


def _refuse_strangers(path: Path, kind: Callable[[int], bool], what: str) -> None:
    """Refuse what somebody else has made where a control socket is looked for unasked.

    Raises:
        ControlError: it is somebody else's, or no such thing.
    """
    try:
        found = path.lstat()
    except OSError:
        return  # there is none, or whoever connects is told why not
    if not kind(found.st_mode) or found.st_uid not in {0, os.geteuid()}:
        raise ControlError(
            f"{printable(str(path))} is not {what} of root's or of uid {os.geteuid()}'s own, so what it says is not "
            "believed; name a control socket with --control PATH"
        )


def alive(path: Path) -> bool:
    """Whether somebody listens there, or it can't be told."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            unixpath.connect(probe, os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def find(control: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """The control socket of the server that is meant.

    Args:
        control: its path, when it was given. Else ``PREFORK_CONTROL``, else the only server that runs here.
        environ: the environment.

    Raises:
        ControlError: there is none, or more than one, or it was said that none is wanted.
    """
    given = control or environ.get("PREFORK_CONTROL", "")
    if given == "off":
        raise ControlError("control: off is the server's word for no control socket; name one with --control PATH")
    if given and given != "auto":
        return given
    where = folder(environ)
    named = bool(environ.get("RUNTIME_DIRECTORY"))  # by a service manager, for the user of the service
    if not named:
        _refuse_strangers(where, stat.S_ISDIR, "a folder")
    living = [path for path in sockets(where) if alive(path)]
    for path in living if not named else ():
        _refuse_strangers(path, stat.S_ISSOCK, "a socket")
    if not living:
        raise ControlError(f"no server has a control socket in {where}; name one with --control PATH")
    if len(living) > 1:
        raise SeveralServersError([os.fspath(path) for path in living])
    return os.fspath(living[0])
