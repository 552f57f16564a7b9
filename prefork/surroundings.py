"""What a server needs of its process, and what it changes about it for as long as it runs."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from prefork.errors import PreforkError, SettingsError
from prefork.settings import Settings

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


@contextlib.contextmanager
def entered(settings: Settings) -> Iterator[None]:
    """Change to ``chdir`` and set ``umask`` for the block. MASTER, before it opens anything; workers inherit both.

    Raises:
        SettingsError: the folder can't be entered.
    """
    with contextlib.ExitStack() as stack:
        if settings.chdir:
            before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, before)
            try:
                os.chdir(settings.chdir)
            except OSError as error:
                raise SettingsError(f"chdir: {settings.chdir!r} can't be entered: {error.strerror}") from None
            stack.callback(os.fchdir, before)
        if settings.umask is not None:
            stack.callback(os.umask, os.umask(settings.umask))
        yield
