"""The children that hooks fork in the master: plain processes, as those that a worker's application forks.

Such a process is a copy of the master. It would hold the port after the master's death, and the lock on the pidfile;
clients that the kernel gives to its copy of a listener are nobody's; and if control came back to us there, it would be
a second master. So within the fork (os.register_at_fork) all that is the master's is taken from it, as
:mod:`prefork.accept.offspring` does in a worker's child, and when the hook comes back, it ends as any program does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from prefork.accept.offspring import replace_descriptor
from prefork.system import ending
from prefork.system.forks import HERE
from prefork.system.natives import os, signal, socket


class HookChildren:
    """What becomes of them."""

    def __init__(self) -> None:
        self._descriptors: Callable[[], Iterable[int]] = tuple
        self._master = os.getpid()
        self._watches = False

    @contextlib.contextmanager
    def without(self, descriptors: Callable[[], Iterable[int]]) -> Iterator[None]:
        """For the block: what ``descriptors`` tells is the master's, and not to be theirs."""
        self._descriptors = descriptors
        try:
            yield
        finally:
            self._descriptors = tuple

    def watch(self) -> None:
        """Be there at each fork from now on; for good, since Python has no way to take it back. Idempotent."""
        if not self._watches:
            self._watches = True
            os.register_at_fork(after_in_child=self._in_the_child)

    def end(self) -> None:
        """The master's run is over: what the host forks from now on is its own affair."""
        self._master = -1

    def _in_the_child(self) -> None:
        if HERE.forks_ours or os.getppid() != self._master:
            return
        HERE.foreign = True
        self._master = -1
        signal.set_wakeup_fd(-1)
        try:
            dead, peer = socket.socketpair()
        except OSError:  # no descriptors; then there are no numbers of ours that others could close by mistake
            for number in self._descriptors():
                os.close(number)
        else:
            with dead:
                peer.close()
                for number in self._descriptors():
                    replace_descriptor(dead.fileno(), number)
        ending.forget()
