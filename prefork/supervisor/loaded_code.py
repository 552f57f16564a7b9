"""What code a process has loaded, in so few bytes that another one can tell whether it has loaded the same. MOLD.

A mold that is to repeat another loads the application anew, from files that somebody may have changed meanwhile. New
code is brought by a reload, when the operator says so, and by nothing else: least of all by a count of requests, in the
midst of a deployment. So a mold tells what its modules look like, and one that repeats it compares.
"""

from __future__ import annotations

from _blake2 import blake2b  # hashlib would load OpenSSL, whose relocations are half a mebibyte of each process
from typing import Final

from prefork.system.modules import having
from prefork.system.natives import os

MOST: Final = 2048
"""Modules that are compared; of more, always the same ones."""

_BYTES: Final = 8  # of each hash
_ENTRY: Final = 2 * _BYTES
_READ: Final = 1 << 20  # what is larger is no source, and is told by its size and its time


def census() -> bytes:
    """What has been loaded: hashes of names, each with that of the content of its file."""
    found = sorted(_hash(name.encode()) + content for name, content in _modules())
    return b"".join(found[:MOST])


def changed(before: bytes) -> str:
    """The name of a module that is not as it was then; "" when all that were loaded then and are now are the same.

    Args:
        before: a `census`, of another process perhaps.
    """
    known = {before[at : at + _BYTES]: before[at + _BYTES : at + _ENTRY] for at in range(0, len(before), _ENTRY)}
    return min(
        (name for name, content in _modules() if known.get(_hash(name.encode()), content) != content), default=""
    )


def _modules() -> list[tuple[str, bytes]]:
    found = []
    for name, path in having("__file__"):
        if isinstance(path, str):
            try:
                found.append((name, _content(path)))
            except OSError:
                continue  # of an archive, or made without a file
    return found


def _content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        about = os.fstat(file.fileno())
        if about.st_size > _READ:
            return _hash(f"{about.st_size} {about.st_mtime_ns}".encode())
        return _hash(file.read())


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=_BYTES).digest()
