"""What an interpreter does at its end, for processes that end by ``os._exit``.

A process that was forked must not run what was registered for its parent's end, and has to do the rest as any program
does: threads that are no daemons are joined, executors and pools end, what ``atexit`` was given is called, children
that are daemons are ended, logs and buffers are flushed. So a worker forgets, right after its fork, what it has
inherited of that; and in the end does what is left, as the interpreter would.

What the standard library registers once in a process is called in the end whether or not it stood before the fork:
``multiprocessing``, ``logging``. What is of an object's own (``weakref.finalize``, a temporary folder for one) is left
to the process that made the object.

And what was registered before the command began is every process's of the server: by a module sitecustomize, that is,
as opentelemetry-instrument, ddtrace-run and newrelic-admin have one, or by coverage, which executes the command. They
measure whoever serves, and send or write in the end what they still hold.
"""

from __future__ import annotations

import math
import sys
import traceback
from atexit import _clear, _run_exitfuncs, unregister
from collections.abc import Callable
from faulthandler import dump_traceback_later
from sys import modules
from types import ModuleType
from typing import NoReturn
from weakref import finalize

from prefork.system.natives import signal, threading

_of_the_parent = 0
_everybodys: tuple[object, ...] = ()


class OrderedEndError(SystemExit):
    """Raised wherever a process is while it loads or boots, by an order to end: nothing has failed."""


def break_off() -> NoReturn:
    """In a signal's handler: end what the process is loading, without a word.

    Python shows a traceback where it lets no exception through: in a destructor, in a callback within an import. Of
    this one none is shown; what was to end goes on, and is told once more.

    Raises:
        OrderedEndError: always.
    """
    show = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is not OrderedEndError:
            show(unraisable)

    sys.unraisablehook = hook
    raise OrderedEndError(0)


class _Asked:
    """Is compared with each function that is registered, which is all that atexit tells of them.

    Args:
        removes: Whether one is to be removed.
    """

    __slots__ = ("_removes",)
    __hash__ = None  # type: ignore[assignment]  # as of anything that has an equality of its own

    def __init__(self, removes: Callable[[object], bool]) -> None:
        self._removes = removes

    def __eq__(self, registered: object) -> bool:
        return self._removes(registered)


def begin() -> None:
    """For a command, before it has registered anything: what stands there is everybody's whom it forks."""
    global _everybodys  # it is the process's, as the registry is
    found: list[object] = []

    def note(registered: object) -> bool:
        found.append(registered)
        return False

    unregister(_Asked(note))  # type: ignore[arg-type]  # it is compared, and never called
    _everybodys = tuple(found)


def forget() -> None:
    """Right after a fork, in the child: what was registered before is the parent's, but for what is everybody's."""
    global _of_the_parent  # it is the process's, as the registries are
    if _everybodys:
        unregister(_Asked(lambda registered: all(registered is not one for one in _everybodys)))  # type: ignore[arg-type]  # see above
    else:
        _clear()
    processes = modules.get("multiprocessing.process")
    if processes is not None:
        processes._children = set()  # type: ignore[attr-defined]  # noqa: SLF001  # what its own children do after a fork
    if finalize._registered_with_atexit:  # type: ignore[attr-defined]  # noqa: SLF001  # as in the module's __init__
        finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # noqa: SLF001  # the next one registers it
        _of_the_parent = next(finalize._index_iter)  # type: ignore[attr-defined]  # noqa: SLF001  # they are numbered


BOUNDED = "Timeout ("
"""How that begins which :func:`bound` has faulthandler say."""


def bound(seconds: float, report: int) -> None:
    """In a child's main thread: let the end last no longer than this, and say then what lasts so long.

    That takes a thread. Where none is to be had (pids.max, ulimit -v), the kernel ends the process, without a word.

    Args:
        seconds: how long.
        report: the descriptor to which the tracebacks go.
    """
    try:
        dump_traceback_later(seconds, exit=True, file=report)
    except RuntimeError:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.alarm(math.ceil(seconds))


def end() -> None:
    """Do what the interpreter does before it ends. What fails is shown, and the rest is done."""
    _attempt(lambda: threading._shutdown())  # type: ignore[attr-defined]  # noqa: PLW0108, SLF001  # gevent replaces it
    for info in list(finalize._registry.values()):  # type: ignore[attr-defined]  # noqa: SLF001  # see above
        if info.index < _of_the_parent:
            info.atexit = False
    _attempt(_run_exitfuncs)
    if "multiprocessing.util" in modules:
        _attempt(modules["multiprocessing.util"]._exit_function)  # noqa: SLF001  # it is given to atexit at the import
    if "logging" in modules and _has_handlers(modules["logging"]):
        _attempt(modules["logging"].shutdown)


def _has_handlers(logging: ModuleType) -> bool:
    """Whether there is more to flush than the handler of last resort, which keeps nothing; asking copies no page."""
    return len(logging._handlerList) > 1  # noqa: SLF001  # what shutdown() goes through; it would write to each object


def _attempt(call: object) -> None:
    try:
        call()  # type: ignore[operator]  # it is one of the above
    except BaseException:  # noqa: BLE001  # whatever it is, the process ends
        traceback.print_exc(file=sys.stderr)
