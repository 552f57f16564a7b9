"""Launch: how this process was started, so that it can be started again; and the folder that it stands in, by its name.

A deploy often is a symbolic link (``current``) that is changed to another release. A process that was started in a
folder which it reached through the link stands in the release itself (getcwd(3)); by what name it came there only its
environment tells, in ``PWD``, as the shell sets it. By that name the next release is found, and by the other not even
the old one, once that has been deleted.

All of it runs in the MASTER, or before there is one.
"""

from __future__ import annotations

import contextlib
import sys
from typing import ClassVar

from prefork.config import sources
from prefork.errors import SettingsError
from prefork.system import limits, process, safepath, signals
from prefork.system.natives import os
from prefork.system.record import Record

HANDOVER = "_PREFORK_HANDOVER"
"""The environment variable that names the record of an upgrade to the next image: "FD:PID"."""

REHEARSAL = "_PREFORK_REHEARSAL"
"""The same for a pre-flight, whose process is a child of the one that the record is of."""

_NOT_INHERITED = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", HANDOVER, REHEARSAL)


def begin() -> bool:
    """What a command that serves begins with, before any configuration is read or executed.

    Returns:
        Whether the image before this one has blocked our signals for us, so that they stay so until they are handled.

    Raises:
        SettingsError: as :func:`check_folder`.
    """
    masked = HANDOVER in os.environ
    signals.begin(masked=masked)
    check_folder()
    return masked


def check_folder() -> None:
    """See whether the current folder is one to serve from.

    Raises:
        SettingsError: there is none any more, or this user may not search it: another's, in which sudo(8) was called.
    """
    try:
        os.getcwd()
        os.stat(".")
    except OSError as error:
        raise SettingsError(f"the current folder can't be used: {error.strerror}; start in another") from None


def here() -> str:
    """The current folder, by the name in ``PWD`` if that leads there, else as getcwd(3) has it.

    Raises:
        OSError: it has been deleted, or can't be reached.
    """
    found = os.getcwd()
    named = os.environ.get("PWD", "")
    if named.startswith("/") and not {".", ".."} & set(named.split("/")):
        with contextlib.suppress(OSError):
            if os.path.samefile(named, found):
                return named
    return found


def absolute(path: str) -> str:
    """``path`` from the root on, through the name of the current folder; ``..`` is left to the kernel."""
    if ".." in path.split("/"):
        return path if os.path.isabs(path) else os.path.join(here(), path)
    return os.path.normpath(path if os.path.isabs(path) else os.path.join(here(), path))


def name_the_path() -> None:
    """Have the import path say :func:`here` where it says the same by the folder's other name. For commands.

    What is the interpreter's own stays as it is, a virtual environment in that folder as well: new packages come with
    an upgrade, not with a reload.
    """
    found, named = os.getcwd(), here()
    if found == named:
        return
    own = (sys.prefix, sys.base_prefix)
    for index, entry in enumerate(sys.path):
        within = entry == found or entry.startswith(f"{found.rstrip('/')}/")
        if within and not any(entry.startswith(f"{prefix}/") for prefix in own):
            sys.path[index] = named + entry[len(found) :]


class Footing:
    """MASTER. The folder that a server runs in, found anew by its name.

    Args:
        path: its name.

    Raises:
        OSError: the current folder can't be looked at.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._entered = os.stat(".")

    def follow(self) -> None:
        """If another folder has the name by now, change to it. Who has left the folder meanwhile stays where he is."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat("."), self._entered) and not os.path.samestat(
                os.stat(self._path), self._entered
            ):
                os.chdir(self._path)
                self._entered = os.stat(".")


class Launch(Record):
    """How this process was started, so that it can be started again."""

    executable: str
    arguments: tuple[str, ...]
    folder: str
    environment: dict[str, str]
    nofile: int
    """The soft limit of descriptors."""

    _kept: ClassVar[Launch | None] = None

    @classmethod
    def keep(cls) -> None:
        """For a command, before any of the application's code runs here: remember how it was started."""
        cls._kept = None
        cls._kept = cls.of_this_process()

    @classmethod
    def of_this_process(cls) -> Launch:
        """As it was kept, else as it is now; then to be called before anything changes folder or environment."""
        if cls._kept is not None:
            return cls._kept
        sources.trusting()
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        command, *arguments = sys.orig_argv
        if _is_script(arguments[:1]):
            return cls(arguments[0], tuple(arguments), here(), environment, limits.nofile())
        executable = sys.executable
        if "/" in command and not os.path.isabs(command):
            named = os.path.join(here(), command)
            with contextlib.suppress(OSError):
                executable = named if os.path.samefile(named, executable) else executable
        safe = ["-P"] if safepath.LEFT else []
        return cls(executable, (command, *safe, *arguments), here(), environment, limits.nofile())

    def execute(self, variable: str, value: str) -> None:
        """Become that command, with one variable more; returns only by an exception.

        Raises:
            OSError: the folder or the interpreter is gone, or there is no memory (execve(2)).
        """
        process.flush()
        os.chdir(self.folder)
        environment = {**sources.distrusting(self.environment), variable: value}
        with limits.lowered_nofile(self.nofile):  # what is executed would take the raised one for the given one
            os.execve(self.executable, self.arguments, environment)


def _is_script(first: list[str]) -> bool:
    """Whether that is a script whose first line names our interpreter: as what it may have been started itself.

    The script of the next release says by its own first line which interpreter is that release's.
    """
    if not first or first[0].startswith("-") or not os.access(first[0], os.X_OK):
        return False
    try:
        with open(first[0], "rb") as script:
            line = script.readline(512)
        return line.startswith(b"#!") and os.path.samefile(line[2:].strip(), sys.executable)
    except OSError:
        return False
