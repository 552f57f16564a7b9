"""The command, as ``prefork`` and as ``python -m prefork``: Ctrl-C ends it without a word from its first line on."""

# signal itself imports enum first, which takes long enough for somebody to press Ctrl-C.
import _signal  # type: ignore[import-not-found]  # typeshed has no stub of a module that signal wraps
import sys


def main() -> int:
    """Import the command and run it, with the arguments of the process.

    Returns:
        The exit code (see `prefork.cli.main`).
    """
    # Half of what a short command takes is the import of its modules, where KeyboardInterrupt would be a traceback.
    # Whoever ignores SIGINT, as a shell's background job does, keeps ignoring it.
    usual = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if usual:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from prefork import cli

    try:
        if usual:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        return cli.main()
    except KeyboardInterrupt:
        return cli.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
