"""A client of the control socket, for programs and for the commands."""

from __future__ import annotations

import errno
import stat
from types import TracebackType
from typing import Any, Self, TypeVar

from prefork.errors import ControlError, printable
from prefork.net import unixpath
from prefork.services.control import paths
from prefork.services.control.protocol import VERSION
from prefork.status.model import Health, Status
from prefork.system import codec
from prefork.system.codec import DecodeError
from prefork.system.natives import os, socket, time

T = TypeVar("T")

_LOOK = 0.05  # seconds
_SHORTLY = 1.0  # seconds, for a server that is only to be told of


class _GoneError(ControlError):
    """The connection has ended where an answer was expected."""


class Client:
    """A connection to one server. Every call waits for its answer; use one client in one thread.

    Args:
        path: the control socket; by default that of the only server that runs here.
        timeout: seconds that the server may take to answer, in all calls but those that say otherwise.

    Raises:
        ControlError: nobody listens there, we may not, or which server is meant is not clear. So does every call when
            the server does not answer in time, refuses, or is gone.
    """

    def __init__(self, path: str | os.PathLike[str] = "", *, timeout: float = 10.0) -> None:
        try:
            self.path = paths.find(os.fspath(path))
        except paths.SeveralServersError as error:
            raise paths.SeveralServersError({one: _who_listens(one) for one in error.paths}) from None
        self._shown = printable(self.path)
        self._timeout = timeout
        self._open()

    def _open(self) -> None:
        self._input = b""
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._sock.settimeout(self._timeout)
            unixpath.connect(self._sock, self.path)
            stranger = paths.stranger(self._sock, self.path)
        except OSError as error:
            self.close()
            raise ControlError(_why(self.path, error)) from None
        if stranger is not None:
            self.close()
            raise ControlError(f"{self._shown}: uid {stranger} listens there, which may not speak for a server there")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._sock.close()

    def who(self) -> str:
        """What the server is called, the pid of its master and where it listens: in a few words."""
        return who(self.status(processes=False))

    def health(self) -> Health:
        """Whether the server is fit for work."""
        return self._load(Health, self.ask("health"))

    def status(self, *, processes: bool = True) -> Status:
        """Everything that the server tells of itself.

        Args:
            processes: with what the system says of each process: memory, CPU time, descriptors.
        """
        return self._load(Status, self.ask("status", processes=processes))

    def reload(self, *, wait: bool = True, timeout: float | None = None) -> int:
        """Replace every worker; by an upgrade when a program has loaded by itself what it serves (with preload).

        Args:
            wait: until the new generation serves.
            timeout: seconds to wait for that; None waits as long as it takes.

        Returns:
            The new generation.

        Raises:
            ControlError: it failed to boot, and the old one goes on.
        """
        return self._renew("reload", wait, timeout)

    def upgrade(self, *, wait: bool = True, timeout: float | None = None) -> int:
        """Execute the new code in the master's process, and then replace every worker.

        Args:
            wait: until the new generation serves.
            timeout: seconds to wait for that; None waits as long as it takes.

        Returns:
            The new generation.

        Raises:
            ControlError: the new code did not start, and the old one goes on.
        """
        return self._renew("upgrade", wait, timeout)

    def _renew(self, do: str, wait: bool, timeout: float | None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        before = self.status(processes=False)
        try:
            result = self.ask(do, wait=wait, timeout=timeout if wait else self._timeout)
        except _GoneError:
            if not wait:
                raise
            return self._follow(before, deadline)
        return self._found(result, "generation", int)

    def _follow(self, before: Status, deadline: float | None) -> int:
        """The master has become another image of itself: find it again, and wait until its workers are there."""
        while True:
            try:
                self.close()
                self._open()
                now = self.status(processes=False)
            except ControlError as error:
                now = before
                if not isinstance(error, _GoneError) and not _lives(before.pid):
                    raise ControlError(f"the server (pid {before.pid}) has ended in the upgrade") from None
            if now.totals.failed_reloads > before.totals.failed_reloads:
                raise ControlError(f"generation {now.generation} failed to boot, the old one goes on; see the log")
            if now.state == "stopping":
                raise ControlError("the server stops")
            if now.generation > before.generation and now.state != "reloading":
                return now.generation
            if deadline is not None and time.monotonic() >= deadline:
                raise self._too_slow()
            time.sleep(_LOOK)  # the socket of the next image is not there yet; nothing tells when it is

    def scale(self, workers: int) -> int:
        """Run another number of workers.

        Returns:
            How many were wanted before.
        """
        return self._found(self.ask("scale", workers=workers), "before", int)

    def recycle(self, slot: int, *, wait: bool = True, timeout: float | None = None) -> int | None:
        """Replace one worker, without a gap.

        Args:
            slot: whose.
            wait: until the new one serves.
            timeout: seconds to wait for that; None waits as long as it takes.

        Returns:
            The pid of the new one; None without ``wait``.
        """
        result = self.ask("recycle", slot=slot, wait=wait, timeout=timeout if wait else self._timeout)
        return self._found(result, "pid", int) if wait else None

    def dump(self, slot: int) -> str:
        """The tracebacks of all threads of a worker, which goes on working."""
        return self._found(self.ask("dump", slot=slot), "text", str)

    def dump_mold(self) -> str:
        """The tracebacks of all threads of the mold, or of the one that is being made."""
        return self._found(self.ask("dump_mold"), "text", str)

    def stop(self, *, quick: bool = False, wait: bool = True, timeout: float | None = None) -> None:
        """End the server.

        Args:
            quick: finish only what is in hand, as SIGINT does; else serve all who are connected, as SIGTERM does.
            wait: until it has ended.
            timeout: seconds to wait for that; None waits as long as it takes.
        """
        self.ask("stop", quick=quick)
        if wait:
            deadline = None if timeout is None else time.monotonic() + timeout
            if self._line(deadline) is not None:
                raise ControlError(f"{self._shown}: the server answered what it was not asked")

    def ask(self, do: str, *, timeout: float | None = -1.0, **arguments: object) -> dict[str, Any]:
        """Send any request; the methods are made of it.

        Args:
            do: what is to be done.
            timeout: seconds to wait for the answer; None waits as long as it takes, a negative number is the client's.
            arguments: what the request has beside it.

        Returns:
            The result.
        """
        seconds = self._timeout if timeout is not None and timeout < 0 else timeout
        request = codec.encoded({"v": VERSION, "do": do, **arguments}) + "\n"
        try:
            self._sock.settimeout(self._timeout)
            self._sock.sendall(request.encode())
        except TimeoutError:
            raise self._too_slow() from None
        except OSError:
            pass  # it may have said why before it closed
        line = self._line(None if seconds is None else time.monotonic() + seconds)
        if line is None:
            raise _GoneError(f"{self._shown}: the server closed the connection")
        try:
            answer = codec.parsed_object(line)
            if answer["ok"]:
                result: dict[str, Any] = answer["result"]
                return result
            said = str(answer["error"])
        except (DecodeError, KeyError):
            raise self._strange() from None
        raise ControlError(said)

    def _found(self, result: object, name: str, kind: type[T]) -> T:
        value = result.get(name) if isinstance(result, dict) else None
        if not isinstance(value, kind):
            raise self._strange()
        return value

    def _strange(self) -> ControlError:
        return ControlError(f"{self._shown}: this is no answer of a prefork server")

    def _line(self, deadline: float | None) -> bytes | None:
        """The next line; None at the end of the connection."""
        while b"\n" not in self._input:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._too_slow()
            try:
                self._sock.settimeout(left)
                data = self._sock.recv(65536)
            except TimeoutError:
                raise self._too_slow() from None
            except OSError:
                data = b""
            if not data:
                return None
            self._input += data
        line, _, self._input = self._input.partition(b"\n")
        return line

    def _too_slow(self) -> ControlError:
        return ControlError(f"{self._shown}: the server does not answer in time; its master may be stopped")

    def _load(self, kind: type[T], result: object) -> T:
        try:
            return codec.read(kind, result)
        except DecodeError as error:
            raise ControlError(f"{self._shown}: a server of another release? {error}") from None


def who(status: Status) -> str:
    """The server that tells a status, in a few words. Pure."""
    name = [status.name] if status.name else []
    return printable(", ".join([*name, f"pid {status.pid}", *(listener.address for listener in status.listeners)]))


def _who_listens(path: str) -> str:
    """The same, of whoever has a control socket; "" when it doesn't tell."""
    try:
        with Client(path, timeout=_SHORTLY) as client:
            return client.who()
    except ControlError:
        return ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _why(path: str, error: OSError) -> str:
    """Why nobody answers there, in one line."""
    shown = printable(path)
    try:
        mode = os.stat(path).st_mode
    except OSError as unseen:
        error = unseen
    else:
        if not stat.S_ISSOCK(mode):
            return f"{shown} is not a socket; name a control socket with --control PATH"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"{shown} does not exist; the server has ended, or has its control socket elsewhere"
        case errno.ECONNREFUSED:
            return f"nobody listens at {shown}: the server that made it was killed"
        case errno.EACCES | errno.EPERM:
            return f"{shown}: uid {os.geteuid()} may not; be root or the user that the server runs as"
        case errno.EAGAIN:
            return f"{shown}: the server does not answer in time; its master may be stopped"
    return f"{shown}: {error.strerror or error}"
