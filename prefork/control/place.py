"""Where the control socket lies: what ``control`` = "auto" stands for, and how a command finds a server.

The folder is the one that the service manager made for the service (``RUNTIME_DIRECTORY``), for root ``/run/prefork``,
for anybody else a folder of his own. The file has the name of the pidfile, or else the master's pid.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from prefork.errors import ControlError
from prefork.natives import socket

SUFFIX = ".control"

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
    """The place of a new control socket; its folder is made. MASTER.

    Args:
        pidfile: the setting; its name without ending becomes the socket's.
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
    return where / f"{Path(pidfile).stem if pidfile else os.getpid()}{SUFFIX}"


def sockets(where: Path) -> list[Path]:
    """The control sockets in a folder, living and dead; none when the folder can't be read."""
    try:
        return sorted(path for path in where.iterdir() if path.suffix == SUFFIX and path.is_socket())
    except OSError:
        return []


def alive(path: Path) -> bool:
    """Whether somebody listens there, or it can't be told."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
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
    living = [path for path in sockets(where) if alive(path)]
    if not living:
        raise ControlError(f"no server has a control socket in {where}; name one with --control PATH")
    if len(living) > 1:
        raise ControlError("\n".join(_several(living)))
    return os.fspath(living[0])


def _several(living: list[Path]) -> Iterator[str]:
    yield "several servers run here; name one with --control PATH:"
    for path in living:
        yield f"  {path}"
