"""What a server needs of its process: set when it starts, and looked at again when the application may have changed it.

| what | at the start | looked at again |
| --- | --- | --- |
| signals blocked or ignored by whoever started us | :func:`prefork.system.signals.begin`, in commands | |
| the mask, for what the master handles | :class:`Hearing` | after each hook of the master's |
| handlers, wake-up descriptor | :class:`~prefork.system.signals.Recorder` | after each hook of the master's |
| SIGCHLD ignored | :func:`entered` | after each hook of the master's |
| mask and handlers of a worker | :func:`prefork.system.signals.become_worker` | |
| SIGTTIN, SIGTTOU at a terminal | :mod:`prefork.system.terminal` | |
| folder, umask | :func:`entered` | the folder by its name, before each fork |
| command, folder and environment for an upgrade | :meth:`prefork.config.launch.Launch.keep`, in commands | |
| the log | :class:`prefork.services.log.Journal`, in commands | |
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterable, Iterator

from prefork.accept.offspring import guarded
from prefork.config.launch import Footing, absolute, here
from prefork.config.settings import Settings
from prefork.errors import PreforkError, SettingsError
from prefork.hooks import Hooks
from prefork.supervisor.event_loop import Loop
from prefork.system import signals
from prefork.system.guarded_path import reach
from prefork.system.natives import os, signal, threading
from prefork.system.need import told

log = logging.getLogger("prefork")


def check_threads() -> None:
    """A master is the main thread, and had better be the only one. MASTER, before anything else.

    Raises:
        PreforkError: this is another thread.
    """
    thread = threading.current_thread()
    if thread is not threading.main_thread():
        raise PreforkError(f"run() was called in the thread {thread.name!r}; signals arrive in the main thread only")
    others = sorted(other.name for other in threading.enumerate() if other is not thread)
    if others:
        log.warning(
            "other threads run where workers are forked (%s): a lock that one of them holds stays locked in the "
            "workers; start threads in Worker.init()",
            ", ".join(others),
        )


def refuse_immortality(settings: Settings) -> None:
    """Refuse ``immortal`` where it was not checked.

    Raises:
        SettingsError: This interpreter is another one.
    """
    if settings.immortal:
        from prefork.system.immortal import lack

        if why := lack():
            raise SettingsError(f"immortal: True can't be had: {why}")


def folder_of(settings: Settings) -> str:
    """Where relative paths of settings begin: ``chdir``, or the working directory. MASTER, before the application runs.

    The application may change the working directory, and what a file's name means with it. So whoever starts a server
    asks for this first, and names the files by it from then on.

    The working directory has the name by which its next release is found (`prefork.config.launch.here`), unless root
    would believe another user by it.

    Raises:
        OSError: the working directory is gone.
    """
    folder = here()
    if os.geteuid() == 0 and folder != os.getcwd():
        try:
            with reach(folder) as spot:
                folder = os.getcwd() if spot.exposed else folder
        except OSError:
            folder = os.getcwd()
    return os.path.join(folder, settings.chdir)


@contextlib.contextmanager
def entered(settings: Settings, start: str | None = None) -> Iterator[Footing]:
    """Change to ``chdir`` and set ``umask`` for the block. MASTER, before it opens anything; workers inherit both.

    Yields what finds the folder anew.

    Args:
        settings: what the two are taken from.
        start: the folder of the start (:func:`folder_of`), for when a preloaded application has gone into another that
            is deleted by now; None where no application can have done so.

    Raises:
        SettingsError: the folder can't be entered.
        OSError: the working directory is gone.
    """
    with contextlib.ExitStack() as stack:
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            # By whoever started the host: the kernel would keep no exits for us (wait(2)).
            stack.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
        try:
            name = absolute(settings.chdir) if settings.chdir else here()
        except FileNotFoundError:
            if start is None:
                raise
            name = start
        if settings.chdir:
            before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, before)
            try:
                os.chdir(settings.chdir)
            except OSError as error:
                raise SettingsError(
                    f"chdir: {settings.chdir!r} can't be entered: {told(error, 'name another folder')}"
                ) from None
            stack.callback(os.fchdir, before)
        if settings.umask is not None:
            stack.callback(os.umask, os.umask(settings.umask))
        yield Footing(name)


def freeze(stack: contextlib.ExitStack) -> None:
    """What is loaded now stays where it is in every worker's memory. MASTER, where it has loaded what they serve.

    A full collection there would otherwise write to each object's header, and so copy its page.

    Args:
        stack: lets it go again.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)


class Hearing:
    """Lets in what the master handles, whatever mask it was given, for as long as its loop runs.

    Args:
        loop: whose handlers are in place.
        stack: puts the mask back that was there.

    Attributes:
        before: that mask.
    """

    def __init__(self, loop: Loop, stack: contextlib.ExitStack) -> None:
        self._loop = loop
        self.before: set[int] = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        stack.callback(lambda: signal.pthread_sigmask(signal.SIG_SETMASK, self.before))
        self._mask = (self.before - set(signals.ACROSS_FORKS)) | set(signals.stops())

    def let_in(self, before: Iterable[int] | None = None) -> None:
        """Let them in; what has waited comes now.

        Args:
            before: the mask that the image before this one was to put back; None without one.
        """
        if before is not None:
            self.before = set(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def call(self, hooks: Hooks, name: str, *given: object) -> None:
        """Call a hook of the master's, and put in place what it has taken away."""
        with guarded():
            hooks.call(name, *given)
        changed = self._loop.reclaim_signals()
        if signal.pthread_sigmask(signal.SIG_SETMASK, self._mask) != self._mask:
            changed.append("signal mask")
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            changed.append("SIGCHLD, which was ignored")
        if changed:
            log.warning(
                "hook %s has changed what the master needs, which takes it back: %s; leave the master's signals alone",
                name,
                ", ".join(changed),
            )
