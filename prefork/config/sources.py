"""The application's source is what runs: a cached compilation counts when it is of this very text.

Python believes a compiled file whose source has the size and the second of change that it noted (PEP 552). An edit
within the same second, a release whose files all bear one date, a link that points to another file: each may have both,
and a reload would go on with old code, for ever. So what is imported after `by_content` is cached under a hash of its
text, which the same PEP provides for and every interpreter checks by itself. What was installed is left alone, for
nobody edits it.

An image that is executed anew imports the modules of a program before anything of ours runs. If it could believe a
compiled file that it should not, it is told to believe none (`distrusting`), until it is under way (`trusting`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import stat
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from types import CodeType
from typing import TYPE_CHECKING, Final

from prefork.system.modules import having
from prefork.system.natives import os

if TYPE_CHECKING:
    from _typeshed.importlib import PathEntryFinderProtocol as PathEntryFinder

INSTALLED: Final = frozenset({"site-packages", "dist-packages"})

_BY_TIME, _BY_HASH_CHECKED = 0, 3  # the flags of a compiled file
_HEAD: Final = 16  # bytes: magic number, flags, then the hash, or the second and the size
_PREFIX: Final = "PYTHONPYCACHEPREFIX"
_NOWHERE: Final = "/dev/null/prefork"  # a folder that can't be
_PYTHON: Final = tuple(os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib"))


def is_installed(folder: str) -> bool:
    """Whether a folder belongs to Python or to what was installed, and not to somebody who edits it."""
    real = os.path.realpath(folder)
    return not INSTALLED.isdisjoint(real.split(os.sep)) or f"{real}{os.sep}".startswith(_PYTHON)


class Loader(SourceFileLoader):
    """Loads a module from its source, or from what that very text was compiled to."""

    def get_code(self, fullname: str) -> CodeType | None:
        """The code of the module; the cached one only when it is of this text, at this path."""
        path = self.get_filename(fullname)
        source = self.get_data(path)
        head = _head(_BY_HASH_CHECKED) + importlib.util.source_hash(source)
        try:
            cached = importlib.util.cache_from_source(path)
        except NotImplementedError:  # sys.implementation.cache_tag is None
            cached = ""
        if cached and (code := self._cached(cached, head)) is not None and code.co_filename == path:
            return code
        compiled: CodeType = self.source_to_code(source, path)
        if cached and not sys.dont_write_bytecode:
            with contextlib.suppress(OSError):  # the source is gone by now, for instance
                mode = stat.S_IMODE(os.stat(path).st_mode) | stat.S_IWUSR  # who may not read the source, may not this
                self.set_data(cached, head + marshal.dumps(compiled), _mode=mode)
        return compiled

    def _cached(self, path: str, head: bytes) -> CodeType | None:
        try:
            data = self.get_data(path)
            code = marshal.loads(data[_HEAD:]) if data.startswith(head) else None
        except (OSError, EOFError, ValueError, TypeError):  # none there, or half of one
            return None
        return code if isinstance(code, CodeType) else None


def by_content() -> bool:
    """From here on this process imports modules of the application by what their source says.

    Returns:
        False when it did so already.
    """
    if _hook in sys.path_hooks:
        return False
    sys.path_hooks.insert(0, _hook)
    _forget()
    return True


def by_time() -> None:
    """As Python does by itself."""
    sys.path_hooks.remove(_hook)
    _forget()


def _forget() -> None:
    for folder in [folder for folder in sys.path_importer_cache if not is_installed(folder)]:
        del sys.path_importer_cache[folder]


_finder = FileFinder.path_hook(
    (ExtensionFileLoader, EXTENSION_SUFFIXES), (Loader, SOURCE_SUFFIXES), (SourcelessFileLoader, BYTECODE_SUFFIXES)
)


def _hook(folder: str) -> PathEntryFinder:
    if is_installed(folder):
        raise ImportError(f"{folder} is not the application's")
    return _finder(folder)


def distrusting(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment for a new image of this program.

    Args:
        environ: as it would be otherwise.

    Returns:
        The same, or one in which no compiled file is found: one that this process imported from may be out of date, and
        a new image could not tell, because size and second are the same. A source that was there, unchanged and under
        that name, when it was compiled is not meant: the kernel notes when a file changes (inode(7), ctime), and nobody
        can set that.
    """
    if not any(map(_in_doubt, _imported())):
        return environ
    return {**environ, _PREFIX: _NOWHERE + environ.get(_PREFIX, "")}


def trusting() -> None:
    """The new image is under way: undo `distrusting`."""
    value = os.environ.get(_PREFIX, "")
    if value.startswith(_NOWHERE):
        before = value.removeprefix(_NOWHERE)
        sys.pycache_prefix = before or None
        if before:
            os.environ[_PREFIX] = before
        else:
            del os.environ[_PREFIX]


def _imported() -> Iterator[str]:
    """The sources of the application that this process has imported."""
    for _, spec in having("__spec__"):
        path = getattr(spec, "origin", None)
        if isinstance(path, str) and path.endswith(".py") and not is_installed(os.path.dirname(path)):
            yield path


def _in_doubt(path: str) -> bool:
    try:
        cached = importlib.util.cache_from_source(path)
        with open(cached, "rb") as file:
            head, compiled = file.read(_HEAD), os.fstat(file.fileno())
        source = os.stat(path)
        changed = max([source.st_ctime_ns, *(os.lstat(link).st_ctime_ns for link in _links(path))])
    except (OSError, NotImplementedError):
        return False  # nothing is cached, or there is no such source any more
    noted = b"".join((value & 0xFFFFFFFF).to_bytes(4, "little") for value in (int(source.st_mtime), source.st_size))
    return head == _head(_BY_TIME) + noted and changed >= compiled.st_mtime_ns


def _links(path: str) -> list[str]:
    """The symbolic links on the way to a file, itself included."""
    parts = os.path.abspath(path).split(os.sep)
    return [name for end in range(2, len(parts) + 1) if os.path.islink(name := os.sep.join(parts[:end]))]


def _head(flags: int) -> bytes:
    return importlib.util.MAGIC_NUMBER + flags.to_bytes(4, "little")
