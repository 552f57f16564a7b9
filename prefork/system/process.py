"""Processes: the only fork, the only kill, how a death reads, who dies with whom.

``fork`` is the package's one fork site and has one child exit. Signals are blocked across it until the child has put
its own handlers in place; what arrives in between waits.

What a child does right after the fork is written for a process in which every page is shared, and is copied when
something on it is written, a reference count for one (fork(2)). A name that is looked up in a module touches that
module, its dictionary and the name. So what is needed there is bound here, at import.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
from collections.abc import Callable, Iterable
from fcntl import F_SETFL, fcntl
from struct import pack
from typing import NoReturn

from prefork.errors import RefusedError
from prefork.system.forks import HERE, get_ident
from prefork.system.natives import os, select, signal, time
from prefork.system.need import refused
from prefork.system.record import Record

closerange = os.closerange
getpid = os.getpid
getppid = os.getppid
fork_process = os.fork
exit_now = os._exit  # noqa: SLF001  # its name since 1991, and documented
POLLIN = select.POLLIN
poll = select.poll

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

_TOLD_OF_HANGUP = os.O_NONBLOCK | os.O_ASYNC
_F_SETOWN_EX, _F_OWNER_TID = 15, 0

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_tgkill = getattr(_libc, "tgkill", None)  # glibc has it since 2.30

MOLD = "prefork: mold"
"""What a mold is called, by which it is told from workers."""

BIRTH = "prefork: birth"
"""What a midwife is called, and whom she forks before he is the master's: by it the master tells both from others."""

EXHAUSTED = 75
"""Exit code of a worker whose boot failed for want of descriptors or memory (EX_TEMPFAIL of sysexits.h)."""

SOFTWARE = 70
"""Exit code of a child whose own machinery, not the application, failed (EX_SOFTWARE of sysexits.h)."""


PUT_DOWN = 5.0
"""Seconds that a child has to die of SIGKILL; one that waits for a device takes longer, and is left."""

# Fields of proc_pid_stat(5), counted from the one after the name.
_STAT_STATE, _STAT_USER, _STAT_SYSTEM, _STAT_THREADS, _STAT_STATUS = 0, 11, 12, 17, 49
_TICKS = os.sysconf("SC_CLK_TCK")


class Exit(Record):
    """How a process ended, decoded from a wait status, with what it used."""

    code: int | None
    """Exit code; None when a signal killed it, or somebody else has taken the exit."""
    signal: int | None = None
    core: bool = False
    user: float = 0.0
    """User CPU time, seconds (getrusage(2))."""
    system: float = 0.0
    """System CPU time, seconds."""
    rss: int = 0
    """Largest resident set, bytes."""

    @classmethod
    def from_status(cls, status: int, user: float = 0.0, system: float = 0.0, rss: int = 0) -> Exit:
        """Decode ``status`` as wait(2) gives it."""
        if os.WIFSIGNALED(status):
            return cls(None, os.WTERMSIG(status), os.WCOREDUMP(status), user, system, rss)
        return cls(os.WEXITSTATUS(status), user=user, system=system, rss=rss)

    @property
    def clean(self) -> bool:
        """Whether it left by its own will and without complaint."""
        return self.code == 0

    def __str__(self) -> str:
        """The death as one reads it in a log line."""
        if self.code is not None:
            return f"exited with code {self.code}"
        if self.signal is None:
            return "ended, and somebody else's wait() took how"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            name = f"signal {self.signal}"
        return f"killed by {name}" + (", core dumped" if self.core else "")


def fork(child: Callable[..., int], *given: object) -> int:
    """MASTER. Fork; the child calls ``child`` with what is ``given`` and exits with what it returns.

    The caller has blocked the signals it handles (:func:`prefork.system.signals.blocked`); the child unblocks them.
    The standard streams are flushed on both sides, so that a line that was printed appears, and appears once.

    Returns:
        The child's pid, in the parent.

    Raises:
        OSError: EAGAIN or ENOMEM (fork(2)); nothing has happened.
    """
    flush()
    return fork_flushed(child, *given)


def fork_flushed(child: Callable[..., int], *given: object) -> int:
    """MASTER. As :func:`fork`, for a caller who has flushed the streams already: who forks many flushes once.

    The child never returns from here, whatever ``child`` raises: ``os._exit`` stands in a ``finally``, so that no
    handler, no ``atexit`` and no test framework of the parent's runs twice.
    """
    HERE.ours = get_ident()
    try:
        pid = fork_process()
    finally:
        HERE.ours = 0
    if pid:
        return pid
    code = SOFTWARE
    try:
        code = _run(child, given)
    finally:
        # Nothing else stands here: whatever ran before could be left by an exception, a signal handler's for one, and
        # the child would go on as a second master.
        exit_now(code)


def _run(child: Callable[..., int], given: tuple[object, ...]) -> int:
    """The exit code of ``child``, with nothing left to be shown."""
    code = SOFTWARE
    try:
        code = child(*given) & 0xFF
    except SystemExit as end:
        code = exit_code(end)
    except BaseException:  # noqa: BLE001  # the last frame of this process: what is not shown here is lost
        traceback.print_exc()
    flush()
    return code


def leave(code: int) -> NoReturn:
    """In a child. End it here and now, with what the standard streams hold written out; see :func:`fork_flushed`."""
    try:
        flush()
    finally:
        exit_now(code)


def flush() -> None:
    """Any process. Write out what the standard streams hold, as far as that can be done."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001  # closed, replaced, never there: it is the host's, and so is its trouble
            pass


def exit_code(end: SystemExit) -> int:
    """The exit code that ``end`` asks for, as the interpreter would read it (sys.exit)."""
    if end.code is None:
        return 0
    return end.code & 0xFF if isinstance(end.code, int) else 1


def open_pidfd(pid: int) -> int | None:
    """MASTER. A descriptor that becomes readable when ``pid``, a child of ours, ends (pidfd_open(2)).

    Returns:
        The descriptor; None when there is none to be had now (EMFILE, ENFILE, ENOMEM) or ever (a sandbox without that
        system call): use :func:`ended` to poll.
    """
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def reap(pid: int) -> Exit | None:
    """MASTER. Take the exit of ``pid``, one child of ours and no other; never blocks.

    Returns:
        How it ended; None while it lives.

    Raises:
        ChildProcessError: it is no child of ours, or somebody else has taken its exit (a SIGCHLD handler of the
            host's that waits for every child, SIGCHLD ignored).
    """
    done, status, usage = os.wait4(pid, os.WNOHANG)
    if not done:
        return None
    return Exit.from_status(status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)


def ended(pid: int) -> bool:
    """MASTER. Whether ``pid``, a child of ours, has ended; its exit stays to be taken (waitid(2), WNOWAIT).

    One that a tracer holds back (:func:`remains`) has ended too.

    Raises:
        ChildProcessError: as :func:`reap` does.
    """
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None or remains(pid) is not None


def remains(pid: int) -> Exit | None:
    """MASTER. How ``pid``, a child of ours, ended, if it is dead and a tracer keeps its exit from us (ptrace(2)).

    :func:`reap` gives nothing then, until the tracer has waited for it or ends. What can be known stands in
    proc_pid_stat(5): the state, how many threads are left, the wait status (0 as well where it is kept from us).

    Returns:
        How it ended; None while it lives, or when /proc can't be read.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if words[_STAT_STATE] not in {b"Z", b"X"} or int(words[_STAT_THREADS]) > 1:
        return None
    user, system = (int(words[place]) / _TICKS for place in (_STAT_USER, _STAT_SYSTEM))
    return Exit.from_status(int(words[_STAT_STATUS]), user, system)


def gone(pid: int, pidfd: int | None) -> Exit | None:
    """MASTER. How ``pid``, a child of ours whose exit :func:`reap` does not give, ended; None while it lives.

    Args:
        pid: the child.
        pidfd: of that child; readable, it proves the death where /proc can't be read. None = there is none.
    """
    found = remains(pid)
    if found is None and pidfd is not None:
        poller = poll()
        poller.register(pidfd, POLLIN)
        if poller.poll(0):
            return Exit(None)
    return found


def take(pid: int, pidfd: int | None = None) -> tuple[Exit | None, bool]:
    """MASTER. Take the exit of ``pid``, a child of ours, as far as it can be had; never blocks.

    Args:
        pid: the child.
        pidfd: as :func:`gone` wants it.

    Returns:
        How it ended, None while it lives; whether it is dead and a tracer keeps its exit from us.

    Raises:
        ChildProcessError: as :func:`reap` does.
    """
    taken = reap(pid)
    if taken is None and (dead := gone(pid, pidfd)) is not None:
        taken = reap(pid)  # it may have died between the two
        return (dead, True) if taken is None else (taken, False)
    return taken, False


def put_down(pid: int) -> None:
    """MASTER. Kill a child of ours and take its exit, as far as that can be had: a tracer may hold it back.

    Blocks for as long as the child takes to die, at the most :data:`PUT_DOWN` seconds.
    """
    deadline, pause = time.monotonic() + PUT_DOWN, 0.001
    try:
        ended(pid)  # raises when it is none of ours any more: its pid may be another's
        kill(pid, signal.SIGKILL)
        while take(pid)[0] is None and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
    except ChildProcessError:
        pass  # somebody else's wait() was faster, or SIGCHLD is ignored (wait(2))


def any_ended() -> int | None:
    """MASTER, as pid 1 only. The pid of some child that has ended; its exit stays to be taken (waitid(2), WNOWAIT).

    As pid 1 we are given every orphan of the pid namespace (pid_namespaces(7)), and nobody else can wait for those. A
    child that a hook has started can't be told from them.
    """
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def kill(pid: int, signum: int) -> bool:
    """MASTER. Send ``signum`` to ``pid``, a child of ours that has not been reaped (so the pid can't be another's).

    Returns:
        False when it has ended already, or has become another user whom we may not signal.
    """
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_main_thread(pid: int, signum: int) -> bool:
    """MASTER. As `kill`, but it is the main thread of ``pid`` that meets the signal, and Python calls its handler.

    One that is for the process may be met by any thread: the kernel passes over one that was sent another and does not
    run yet (signal(7)). Python only takes a note of it there, and the main thread sleeps on in accept(2).
    """
    # Where too many real-time signals wait for a user's processes (setrlimit(2), RLIMIT_SIGPENDING), this is refused
    # and kill(2) is not, which tells all else, too.
    return (_tgkill is not None and _tgkill(pid, pid, signum) == 0) or kill(pid, signum)


def _masks(pid: int) -> dict[str, int]:
    """Any process. What the kernel has of the signals of ``pid`` (proc_pid_status(5)); nothing when nobody knows."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            return {
                line[:6]: int(line[8:], 16) for line in status if line.startswith(("Sig", "Shd")) and line[6] == ":"
            }
    except (OSError, ValueError):
        return {}


def has_taken(pid: int, signum: int, *, and_catches: int) -> bool:
    """Any process. Whether a signal that ``pid`` was sent waits for it no longer, and another one would be caught.

    One that waits has not been met: the process is stopped, or blocks it.
    """
    masks = _masks(pid)
    waiting, caught = masks.get("ShdPnd", 0) | masks.get("SigPnd", 0), masks.get("SigCgt", 0)
    return not waiting >> (signum - 1) & 1 and bool(caught >> (and_catches - 1) & 1)


def would_end(pid: int, signum: int) -> bool:
    """Any process. Whether a signal is known to meet its default action in ``pid``, whatever that is."""
    masks = _masks(pid)
    met = masks.get("SigCgt", -1) | masks.get("SigIgn", -1)
    return not met >> (signum - 1) & 1


def deaf(pid: int, signum: int) -> str:
    """Any process. Why ``pid`` does nothing about a signal, as the kernel has it.

    Returns:
        What follows a sentence; empty when it is caught, or when nobody knows.
    """
    masks = _masks(pid)
    bit = 1 << (signum - 1)
    if masks.get("SigBlk", 0) & bit:
        return f"; the application has blocked signal {signum}, by which it is told to leave"
    if not masks.get("SigCgt", bit) & bit:
        return f"; the application has taken the handler of signal {signum} away, by which it is told to leave"
    return ""


def die_with_parent(signum: int, parent: int) -> bool:
    """WORKER. Ask the kernel for ``signum`` when the thread that forked us ends (prctl(2), PR_SET_PDEATHSIG).

    To be called after every change of credentials, which clears the request.

    Args:
        signum: the signal.
        parent: the pid that getppid(2) gives while the parent lives.

    Returns:
        False when the parent is gone already, so that the signal will never come.

    Raises:
        RefusedError: a sandbox forbids it.
    """
    if _prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        error = OSError(number, os.strerror(number))
        raise RefusedError(refused("that a process ends with who has forked it", "prctl(2)", error)) from error
    return getppid() == parent


def call_itself(name: bytes) -> None:
    """Any process. Give it a name, which ps(1) and top(1) show and its children inherit (prctl(2), PR_SET_NAME).

    Args:
        name: at most 15 bytes count.
    """
    _prctl(_PR_SET_NAME, name, 0, 0, 0)


def name_of(pid: int | str) -> str:
    """Any process. What a process is called, dead or alive (proc_pid_comm(5)); "" where the kernel does not tell.

    Args:
        pid: its id; "self" for this one.
    """
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def proportional_memory(pid: int) -> int | None:
    """MASTER. The share of memory of a process, bytes (PSS, proc_pid_smaps(5)); None when that is not to be had.

    The kernel walks all of its pages for it: some milliseconds.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:")), None)
    except (OSError, ValueError, IndexError):
        return None


def announce_hangup(writer: int) -> None:
    """WORKER. Have SIGIO sent when nobody holds the reading end of a pipe any more (fcntl(2), O_ASYNC).

    It may come at other times as well: `hung_up` tells. It is for the main thread alone (F_SETOWN_EX), since the
    parent-death signal follows at once, and another thread would take both: see `kill_main_thread`.

    Args:
        writer: the writing end, which is non-blocking.
    """
    fcntl(writer, _F_SETOWN_EX, pack("ii", _F_OWNER_TID, getpid()))
    fcntl(writer, F_SETFL, _TOLD_OF_HANGUP)


def hung_up(writer: int) -> bool:
    """Whether nobody holds the reading end of a pipe any more (POLLERR, poll(2))."""
    poller = poll()
    poller.register(writer, 0)
    return bool(poller.poll(0))


Runs = tuple[tuple[int, int], ...]
"""Runs of neighbouring numbers: the first of each, and the number after its last."""


def runs(descriptors: Iterable[int]) -> Runs:
    """Any process. The numbers of ``descriptors`` as runs, the lowest first. Pure."""
    found: list[tuple[int, int]] = []
    for fd in sorted(set(descriptors)):
        if found and found[-1][1] == fd:
            found[-1] = (found[-1][0], fd + 1)
        else:
            found.append((fd, fd + 1))
    return tuple(found)


def close(private: Runs, but: int = -1) -> None:
    """WORKER. Close descriptors, a run by one call or two; those that are closed already don't matter.

    Args:
        private: which.
        but: one of them that stays open.
    """
    for first, end in private:
        if first <= but < end:
            closerange(first, but)
            closerange(but + 1, end)
        else:
            closerange(first, end)
