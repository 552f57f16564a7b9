"""The command, as ``prefork`` and as ``python -m prefork``: Ctrl-C ends it without a word from its first line on."""

import _signal  # type: ignore[import-not-found]  # typeshed has no stub of a module that signal wraps
import sys

from prefork.system import ending
from prefork.system.importing import Importing
from prefork.system.natives import os


def main() -> int:
    """Import the command and run it, with the arguments of the process.

    Returns:
        The exit code (see `prefork.cli.main.main`).
    """
    # Nor is a server ended by an order that comes before it can obey; see `prefork.system.signals.EARLY`.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGUSR2))
    ending.begin()
    _fill_standard_numbers()
    try:
        with Importing():
            from prefork.cli import main as command
        return command.main()
    except KeyboardInterrupt:
        return 128 + 2  # what a shell reports for SIGINT


def _fill_standard_numbers() -> None:
    """Open what whoever started us has closed, before a library is loaded that keeps a descriptor, as libffi does."""
    try:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)
    except OSError:
        pass  # there are none to be had, which the command will say


if __name__ == "__main__":
    sys.exit(main())
