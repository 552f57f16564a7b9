"""Importing: how the command loads what it consists of. Most of what a short one takes is that."""

# signal itself imports enum first, which takes long enough for somebody to press Ctrl-C.
import _signal  # type: ignore[import-not-found]  # typeshed has no stub of a module that signal wraps
import gc


class Importing:
    """A block in which modules are imported: Ctrl-C ends it without a word, and nobody looks for garbage.

    KeyboardInterrupt would be a traceback there, in the import system's own callbacks even one that nobody can catch.
    Whoever ignores SIGINT, as a shell's background job does, keeps ignoring it. And a tenth of the time would be spent
    looking for garbage among modules, which are none. In another thread than the main one only that is done.
    """

    def __enter__(self) -> None:
        self._collects = gc.isenabled()
        gc.disable()
        self._usual = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
        if self._usual:
            self._usual = self._handle(_signal.SIG_DFL)

    def __exit__(self, *_: object) -> None:
        if self._collects:
            gc.enable()
        if self._usual:
            self._handle(_signal.default_int_handler)

    def _handle(self, handler: object) -> bool:
        try:
            _signal.signal(_signal.SIGINT, handler)
        except ValueError:
            return False  # this is not the main thread
        return True
