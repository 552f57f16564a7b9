"""What a server changes about its process for as long as it runs: the working directory, the mask of file modes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from prefork.errors import SettingsError
from prefork.settings import Settings


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
