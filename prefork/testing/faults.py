"""Make a server's system calls fail, by pattern, in the kernel itself.

    with Injector("accept", "fork") as faults, running_target("hello:handle", options={"faults": faults}) as server:
        faults.fail("accept", first(100, errno.ENFILE))    # the next hundred calls, whoever makes them
        ...
        faults.fail("fork", always(errno.EAGAIN))          # until
        faults.release()
        assert faults.busiest("accept") <= 50              # calls a second of the busiest process

Any server will do, in any language, and no tracer or other tool is needed (seccomp_unotify(2), Linux 5.5). What is let
through runs as if nothing were there: a blocking accept(2) blocks, and a signal interrupts it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Final, Self

from prefork.system.natives import time
from prefork.testing import inject
from prefork.testing.patterns import Pattern, always, every, first, lasting, once, per_process

__all__ = ["NAMES", "Call", "Injector", "Pattern", "always", "every", "first", "lasting", "once", "per_process"]

_RECEIVE: Final = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV
_SEND: Final = 0xC0182101  # SECCOMP_IOCTL_NOTIF_SEND
_CONTINUE: Final = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE, Linux 5.5
_MOST: Final = 4095  # the kernel's MAX_ERRNO: what is beyond would be taken for a result
_NOTIFICATION: Final = struct.Struct("QIIiIQ6Q")  # struct seccomp_notif: id, pid, flags, and struct seccomp_data
_RESPONSE: Final = struct.Struct("QqiI")  # struct seccomp_notif_resp: id, value, error, flags

NAMES: Final = tuple(sorted({name for machine in inject.MACHINES.values() for name in machine.calls}))
"""What can be made to fail. A name stands for its newer kin too ("accept" for accept4(2), "open" for openat(2)), and
"fork" for the forks of a process, not for the starts of threads or subprocesses; "dup" for fcntl's F_DUPFD too;
"epoll_add" for EPOLL_CTL_ADD of epoll_ctl(2)."""


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that a process under injection made, and what it got.

    Args:
        name: One of `NAMES`.
        pid: The thread that made it; of a process with one thread, the process id.
        time: When it was answered, in seconds of ``time.monotonic()``.
        errno: What it failed with; 0 when it was let through.
    """

    name: str
    pid: int
    time: float
    errno: int


class Injector:
    """Decides about the chosen system calls of one server and all its processes, from a thread of the test.

    Hand it to `running` as the option ``faults``. Its ``with`` encloses the server's: were it closed first, each chosen
    call that the server still makes would fail with ENOSYS.

    A chosen call costs a round trip to the test, some tens of microseconds, failed or not; all others cost nothing.

    Args:
        *names: The calls to decide about, of `NAMES`.
        interruptible: Let a signal interrupt a call before its answer has come, as kernels before 5.19 always do: it
            ends with EINTR and the program makes it again, or doesn't expect that (fork(2)). Otherwise a signal takes
            effect when the answer is there.

    Raises:
        ValueError: When a name is not one of `NAMES`.
        NotImplementedError: On a machine whose system call numbers are not known here; see `unavailable`.
    """

    def __init__(self, *names: str, interruptible: bool = False) -> None:
        if not names or not set(NAMES).issuperset(names):
            raise ValueError(f"not calls that can be made to fail: {names}; there are {', '.join(NAMES)}")
        machine = inject.MACHINES.get(os.uname().machine)
        if machine is None:
            raise NotImplementedError(_unknown_machine())
        self._names = names
        self._name_of = {number: name for name in names for number in machine.calls[name]}
        self._interruptible = interruptible
        self._patterns: dict[str, Pattern] = {}
        self._owed: dict[tuple[str, int], int] = {}
        self._error: Exception | None = None
        self.interrupted = 0
        """How many calls a signal took back before they were answered: none, unless ``interruptible``."""
        self._calls: list[Call] = []
        self._failed: Counter[str] = Counter()
        self._ours, self._theirs = socket.socketpair()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="prefork-testing-faults", daemon=True)

    # What a test says and asks

    def fail(self, name: str, pattern: Pattern) -> None:
        """Decide about a call by this pattern from now on.

        Args:
            name: One of the calls this injector was made for.
            pattern: `once`, `every`, `first`, `lasting`, `always`, `per_process`, or a function of one's own: given
                the caller's pid it returns an errno, or 0. It runs in the injector's thread and holds up the
                server while it runs. If it raises, or returns anything else, the call is let through, and the
                injector's block ends with the error.

        Raises:
            ValueError: When the injector was not made for this call.
        """
        if name not in self._names:
            raise ValueError(f"this injector decides about {', '.join(self._names)}, not {name}")
        self._patterns[name] = pattern

    def release(self, *names: str) -> None:
        """Let calls through again.

        Args:
            *names: Which; all when none is given.
        """
        for name in names or self._names:
            self._patterns.pop(name, None)
            for key in [key for key in tuple(self._owed) if key[0] == name]:  # the injector's thread adds to it
                self._owed.pop(key, None)

    def calls(self, name: str) -> list[Call]:
        """The calls that were decided about, in order.

        Args:
            name: Which.

        Returns:
            A new list.
        """
        return [call for call in self._calls if call.name == name]

    def failed(self, name: str) -> int:
        """How many of these calls were made to fail.

        Args:
            name: Which.

        Returns:
            The count.
        """
        return self._failed[name]

    def busiest(self, name: str, window: float = 1.0, *, since: float = 0.0) -> int:
        """The most calls that one process made within any stretch of time: what a backoff is held to.

        Args:
            name: Which.
            window: The stretch, in seconds.
            since: Leave out what came before, in seconds of ``time.monotonic()``.

        Returns:
            The count.
        """
        recent: defaultdict[int, deque[float]] = defaultdict(deque)
        most = 0
        for call in self.calls(name):
            if call.time < since:
                continue
            times = recent[call.pid]
            times.append(call.time)
            while times[0] <= call.time - window:
                times.popleft()
            most = max(most, len(times))
        return most

    # What starts a server under it

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that becomes ``command`` under injection; it needs `pass_fds`.

        Args:
            command: The server's.

        Returns:
            The launcher's.

        Raises:
            RuntimeError: When it has served a start, or its block has not begun: nobody would answer the server.
        """
        if not self._thread.is_alive() or self._theirs.fileno() < 0:
            raise RuntimeError("an injector serves one start, within its block: with Injector(...) as faults")
        # -I -S: neither the environment's nor the site's modules, so that it starts quickly and alike everywhere.
        launcher = [sys.executable, "-I", "-S", inject.__file__, str(self._theirs.fileno()), ",".join(self._names)]
        return [*launcher, *(["interruptible"] if self._interruptible else []), "--", *command]

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """The descriptors that the launcher must inherit."""
        return (self._theirs.fileno(),)

    def started(self) -> None:
        """Tell that the launcher runs; `running` does. An injector serves one start."""
        self._theirs.close()

    # Its life

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._theirs.close()
        os.eventfd_write(self._wakeup, 1)
        try:
            self._ours.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the launcher's end is closed already
        self._thread.join()
        self._ours.close()
        os.close(self._wakeup)
        if self._error is not None and kind is None:
            raise self._error

    # Its thread

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the test's are its main thread's affair
        _, fds, _, _ = socket.recv_fds(self._ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if not fds:
            return  # the launcher failed (its words are in the server's log), or there never was one
        try:
            self._answer_all(fds[0])
        finally:
            os.close(fds[0])

    def _answer_all(self, channel: int) -> None:
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            events = dict(poll.poll())
            if self._wakeup in events:
                return
            if events[channel] & select.POLLIN:
                self._answer(channel)
            else:
                return  # POLLHUP: no process is left under the filter

    def _answer(self, channel: int) -> None:
        buffer = bytearray(_NOTIFICATION.size)  # all zero, or the kernel refuses it
        try:
            fcntl.ioctl(channel, _RECEIVE, buffer)
        except FileNotFoundError:
            return  # a signal took the caller away between poll and here
        cookie, pid, _, number, *_ = _NOTIFICATION.unpack(buffer)
        name = self._name_of[number]
        error = self._decide(name, pid)
        response = _RESPONSE.pack(cookie, 0, -error, 0 if error else _CONTINUE)
        now = time.monotonic()
        try:
            fcntl.ioctl(channel, _SEND, response)
        except FileNotFoundError:
            # A signal interrupted the caller: this call never got its answer. The one that replaces it gets the same,
            # or a pattern like `once` would have failed none.
            self.interrupted += 1
            if error:
                self._owed[name, pid] = error
            return
        self._calls.append(Call(name, pid, now, error))
        if error:
            self._failed[name] += 1

    def _decide(self, name: str, pid: int) -> int:
        owed = self._owed.pop((name, pid), 0)
        pattern = self._patterns.get(name)
        if owed or pattern is None:
            return owed
        try:
            error = pattern(pid)
            if not 0 <= error <= _MOST:
                raise ValueError(f"no errno that a pattern may return: {error}")
            return error
        except Exception as problem:  # noqa: BLE001  # raised in the test's thread; here callers would go unanswered
            self._error = problem
            return 0


def _unknown_machine() -> str:
    return f"the numbers of system calls are known for {', '.join(inject.MACHINES)}, not for {os.uname().machine}"


@cache
def unavailable() -> str | None:
    """Why injection can't work here; for ``pytest.mark.skipif``.

    Returns:
        The reason in one line, None when it works.
    """
    if os.uname().machine not in inject.MACHINES:
        return _unknown_machine()
    with Injector("accept") as injector:
        done = subprocess.run(
            injector.command(["true"]), pass_fds=injector.pass_fds, capture_output=True, text=True, check=False
        )
    return None if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]
