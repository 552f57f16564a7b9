"""Immortal objects (PEP 683): what this process has now is never freed, so nobody counts who refers to it.

Whoever looks at an object of Python's writes into it, for it counts its references; so a forked process copies the page
that it is on (fork(2)). An immortal object's count is a number that no reference changes (Include/object.h of CPython
3.12 and 3.13: all 32 bits of it set, which adding to or taking from leaves as it is). CPython has None, small numbers
and its own types so. Nothing of the language marks others; here the number is written where the count stands.

That is a fact of an implementation: `lack` says where it was not checked, and there nothing is marked. 3.14 has another
number, a free-threaded build another place for it.
"""

from __future__ import annotations

import gc
import sys
from _io import _IOBase
from ctypes import c_uint32, c_void_p, pythonapi, sizeof
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType, TracebackType
from typing import Final

from prefork.system.natives import socket

CHECKED: Final = ((3, 12), (3, 13))

_FOR_EVER: Final = (1 << 32) - 1
_IMMORTAL: Final = 1 << 31  # from here on it counts as immortal
_ENDING: Final = frozenset(
    {FrameType, TracebackType, GeneratorType, CoroutineType, AsyncGeneratorType, _IOBase, socket.socket.__base__}
)
"""What has something to do in the end: to close a descriptor, to leave a block."""


def lack() -> str:
    """Why nothing can be marked in this interpreter, in words behind a colon; "" when it can."""
    usual = sys.abiflags == "" and sizeof(c_void_p) == 8 and sys.byteorder == "little"
    if sys.implementation.name == "cpython" and sys.version_info[:2] in CHECKED and usual:
        return ""
    known = " and ".join(f"{major}.{minor}" for major, minor in CHECKED)
    here = f"{sys.implementation.name} {'.'.join(map(str, sys.version_info[:3]))}{sys.abiflags}"
    return f"it was checked on CPython {known} of 64 bits, and this is {here}; leave it out, or run one of those"


def immortalize() -> int:
    """Have all that there is live for ever, but for what does something in its end; returns how much that is.

    What has a method ``__del__``, files, sockets, generators and frames are counted as before, and what is frozen is
    looked at only where something else refers to it. Only where there is no `lack`, and in a process that has one
    thread.
    """
    assert not lack()
    gc.collect()
    marked = 0
    ending: dict[int, bool] = {}  # by types; nothing of theirs is asked that could be code of somebody's
    found = gc.get_objects()
    fresh: list[object] = []
    while found:
        fresh = []
        for one in found:
            count = c_uint32.from_address(id(one))
            if count.value >= _IMMORTAL:
                continue
            kind = type(one)
            if id(kind) not in ending:
                ending[id(kind)] = _does_something_in_the_end(kind)
            if not ending[id(kind)]:
                count.value = _FOR_EVER
                fresh.append(one)
        marked += len(fresh)
        found = gc.get_referents(*fresh)
        for one in fresh:
            if type(one) is CodeType:  # of which the collector knows nothing
                found += (one.co_consts, one.co_names, one.co_filename, one.co_name, one.co_qualname)
                found += (one.co_linetable, one.co_exceptiontable)
    del found, fresh
    if hasattr(pythonapi, "malloc_trim"):  # of glibc alone
        pythonapi.malloc_trim(0)  # what these lists were in; it would be copied with what lies beside it
    return marked


def _does_something_in_the_end(kind: type) -> bool:
    return any(base in _ENDING or "__del__" in base.__dict__ for base in kind.__mro__)
