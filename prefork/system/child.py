"""Children: a child has a pidfd that tells of its death, and perhaps a pipe by which it speaks. Its exit is told once.

Who forks says so to :class:`Children`. When there is no pidfd to be had (EMFILE), the death is polled for until one can
be: a server at its limit of descriptors loses no child from sight.

While a tracer is attached (ptrace(2): gdb at its prompt, a strace that is stopped) a dead child is the tracer's first:
its pidfd is readable, and wait4(2) gives its parent nothing before the tracer has waited for it, or ends. The death is
a fact all the same, and is told; what stays is a process id that must not be forgotten, or it is a zombie for ever. So
it is looked at again from time to time, by a timer: whatever told of the death goes on telling, and would keep the loop
awake.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from prefork.system import process, signals
from prefork.system.natives import os, signal
from prefork.system.process import Exit

log = logging.getLogger("prefork")

POLL_WITHOUT_PIDFD: Final = 0.1
"""Seconds between two looks at a child for which there was no pidfd."""

LOOK: Final = 0.1
"""Seconds until the first look after the last child whose exit was held back; they double up to LOOK_MOST."""

LOOK_MOST: Final = 5.0

_CAPACITY: Final = 64 * 1024  # of a pipe (pipe(7)): one read empties it


class Watching(Protocol):
    """What is needed of an event loop."""

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``fd`` is readable; OSError if it can't be watched."""

    def unregister(self, fd: int) -> None:
        """Forget ``fd``. Idempotent."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> object:
        """Call ``callback`` once, ``seconds`` from now."""


class ReportPipe:
    """The reading end of a pipe by which a child speaks: what came last is kept. It never blocks.

    Args:
        loop: watches it.
        reader: the reading end, which is non-blocking, and ours from now on; -1 when the child has closed its own.
        most: how many bytes are kept.
        on_text: called when there are new ones.

    Attributes:
        reader: the reading end; -1 when there is nothing more to come.
        text: what has come. Whoever has read it may clear it.
        heard: how many bytes have come so far.

    Raises:
        OSError: it can't be watched; it is closed then.
    """

    __slots__ = ("_loop", "_most", "_on_text", "heard", "reader", "text")

    def __init__(self, loop: Watching, reader: int, most: int, on_text: Callable[[], object] | None = None) -> None:
        self._loop = loop
        self._most = most
        self._on_text = on_text
        self.reader = reader
        self.text = bytearray()
        self.heard = 0
        if reader >= 0:
            try:
                loop.register(reader, self.read)
            except BaseException:
                os.close(reader)
                raise

    @classmethod
    def made(cls, loop: Watching, most: int, on_text: Callable[[], object] | None = None) -> tuple[ReportPipe, int]:
        """A new pipe, to be made before the fork: that may fail, and what the loop watches is closed in the child.

        Args:
            loop: as above.
            most: as above.
            on_text: as above.

        Returns:
            The pipe, and the writing end, which is the child's: non-blocking, and to be closed here after the fork.

        Raises:
            OSError: there is none to be had, or it can't be watched; nothing is left.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return cls(loop, reader, most, on_text), writer
        except BaseException:
            os.close(writer)
            raise

    def read(self) -> None:
        """Take what has come."""
        if self.reader < 0:
            return
        try:
            data = os.read(self.reader, _CAPACITY)
        except BlockingIOError:
            return
        if not data:
            self.close()  # the child has closed its end, with or without dying
            return
        self.heard += len(data)
        self.text += data
        del self.text[: -self._most]
        if self._on_text is not None:
            self._on_text()

    def close(self) -> None:
        """Close the reading end. Idempotent."""
        if self.reader >= 0:
            self._loop.unregister(self.reader)
            os.close(self.reader)
            self.reader = -1


class Child:
    """One child that lives, or has not been told to have ended; made by :meth:`Children.watch`.

    Attributes:
        pid: its process id.
        pidfd: tells of its death; None while there is none to be had.
        pipe: by which it speaks; None when it does not.
    """

    __slots__ = ("_children", "_loop", "_name", "_on_exit", "_over", "pid", "pidfd", "pipe")

    def __init__(
        self,
        children: Children,
        loop: Watching,
        pid: int,
        name: str,
        pipe: ReportPipe | None,
        on_exit: Callable[[Exit], object],
    ) -> None:
        self._children = children
        self._loop = loop
        self._name = name
        self._on_exit = on_exit
        self._over = False
        self.pid = pid
        self.pidfd: int | None = None
        self.pipe = pipe
        self._watch()

    def _watch(self) -> None:
        """Have the death told: by a pidfd, or by looking until there is one. Never told by this call."""
        self.pidfd = process.open_pidfd(self.pid)
        if self.pidfd is not None:
            try:
                self._loop.register(self.pidfd, self.look)
            except OSError as error:
                log.debug("can't watch %s %d: %s", self._name, self.pid, error)
                os.close(self.pidfd)
                self.pidfd = None
        if self.pidfd is None:
            self._loop.call_later(POLL_WITHOUT_PIDFD, self._poll)

    def _poll(self) -> None:
        self.look()
        if not self._over:
            self._watch()

    def look(self) -> None:
        """If it has ended, take its exit, close what is its own, and tell."""
        if self._over:
            return
        ended = self._exit()
        if ended is not None:
            if self.pipe is not None:
                self.pipe.read()
            self._close()
            self._on_exit(ended)

    def _exit(self) -> Exit | None:
        """How it ended; None while it lives."""
        try:
            ended, held = process.take(self.pid, self.pidfd)
        except ChildProcessError:
            log.error("the exit of %s %d was taken by somebody else's wait()", self._name, self.pid)
            return Exit(None)
        if held:
            log.warning("%s %d is dead, and a tracer (ptrace) holds back its exit", self._name, self.pid)
            self._children.leave(self.pid)
        return ended

    def put_down(self) -> None:
        """Kill it, take its exit and close what is its own; nobody is told. Idempotent."""
        if not self._over:
            process.put_down(self.pid)
            self._close()

    def _close(self) -> None:
        self._over = True
        self._children.forget(self)
        if self.pidfd is not None:
            self._loop.unregister(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None
        if self.pipe is not None:
            self.pipe.close()


class Children:
    """The children of this process that somebody here has asked to be told of.

    Args:
        loop: for looks at those whose exit is held back, and at whoever names no other.
    """

    def __init__(self, loop: Watching) -> None:
        self._loop = loop
        self._known: dict[int, Child] = {}
        self._held_back: set[int] = set()
        self._pause = LOOK
        self._looking = False

    def watch(
        self,
        pid: int,
        name: str,
        pipe: ReportPipe | None,
        on_exit: Callable[[Exit], object],
        loop: Watching | None = None,
    ) -> Child:
        """Have the end of a child told.

        Args:
            pid: the child, which has been forked and not been waited for.
            name: what it is, for the log.
            pipe: by which it speaks. It is read to its end before the exit is told, and closed then.
            on_exit: called once, with how it ended, from the loop and never by this call.
            loop: watches it.
        """
        child = Child(self, self._loop if loop is None else loop, pid, name, pipe, on_exit)
        self._known[pid] = child
        return child

    def forget(self, child: Child) -> None:
        """Its exit has been taken."""
        self._known.pop(child.pid, None)

    def leave(self, pid: int) -> None:
        """``pid``, a child of ours, is dead, and its exit can't be taken now."""
        self._held_back.add(pid)
        self._pause = LOOK
        if not self._looking:
            self._look_later()

    def inherit(self) -> None:
        """After an exec: those whose exit was held back from the image before. Whoever lives is watched already."""
        for pid in pids_of_children():
            if process.remains(pid) is not None and pid not in self._known:
                self.leave(pid)

    def look_after(self, pid: int) -> None:
        """Take the exit of a child of ours that nobody has forked here, when it ends; nobody is told but the log."""
        if pid not in self._known and pid not in self._held_back:
            self.watch(
                pid, "process", None, lambda ended: log.debug("process %d, which was left to us, %s", pid, ended)
            )

    def reap_strangers(self) -> None:
        """As pid 1: take the exits of processes that were left to us when their parents died, or they stay zombies.

        Whoever is known here is told of.
        """
        while (pid := process.any_ended()) is not None:
            child = self._known.get(pid)
            if child is not None:
                child.look()
            else:
                log.debug("process %d, which was left to pid 1, %s", pid, process.reap(pid))

    def _look_later(self) -> None:
        self._looking = True
        self._loop.call_later(self._pause, self._look)
        self._pause = min(2 * self._pause, LOOK_MOST)

    def _look(self) -> None:
        self._looking = False
        for pid in list(self._held_back):
            try:
                ended = process.reap(pid)
            except ChildProcessError:
                ended = Exit(None)  # somebody else's wait() was faster, or SIGCHLD is ignored (wait(2))
            if ended is not None:
                self._held_back.discard(pid)
                log.debug("the exit of process %d can be taken now: it %s", pid, ended)
        if self._held_back:
            self._look_later()


def ask(child: Callable[[int], int]) -> tuple[str, Exit]:
    """Fork a child, and block until it has ended.

    Args:
        child: called in the child with the writing end of a pipe; what it returns is the exit code. Ctrl-C ends it,
            without a word.

    Returns:
        What it wrote there, and how it ended.

    Raises:
        OSError: no pipe or no process is to be had (pipe(2), fork(2)).
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def begin() -> int:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return child(writer)

    try:
        try:
            # What a handler raises within os.fork() is lost in its hooks (logging has some).
            with signals.blocked() as mask:
                pid = process.fork(begin)
        finally:
            os.close(writer)
        said = bytearray()
        with signals.alert() as wait:
            while data := _read(reader, wait):
                said += data
    finally:
        os.close(reader)
    text = said.decode(errors="replace")
    try:
        return text, Exit.from_status(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return text, Exit(None)


def _read(reader: int, wait: Callable[[int], object]) -> bytes:
    wait(reader)
    return os.read(reader, _CAPACITY)


def pids_of_children() -> list[int]:
    """Our children, those that were given to us included (proc_pid_task(5)); none where the kernel does not tell."""
    try:
        return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()]
    except OSError:
        return []
