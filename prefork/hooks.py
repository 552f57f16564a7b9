"""Functions of the user's that are called at points in the server's life: their names, who runs each, what it is given.

The names are gunicorn's where the meaning is, and so are the attributes `pid`, `ppid`, `age` and `log` of a worker,
`pid` and `log` of the server. A hook runs in the process that its description names, in the main thread. One
that raises is logged and harms nobody, unless it is one of `REFUSING` and raises a `BootError`. The master does nothing
else while one of its hooks runs, so one that takes more than `SLOW` seconds there is logged as well.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from prefork.errors import BootError, SettingsError
from prefork.system.clock import SYSTEM
from prefork.system.ending import OrderedEndError
from prefork.system.forks import HERE
from prefork.system.record import Described, Record, descriptions

SLOW: Final = 1.0
"""Seconds that a hook of the master's may take before that is worth a warning."""

REFUSING: Final = frozenset({"on_starting", "post_fork", "post_worker_init"})
"""Those that come before anything is served: by a `BootError` they refuse the start, or their worker's boot."""

RunsIn = Literal["master", "worker", "mold"]

_log = logging.getLogger("prefork")


def _hook(runs_in: RunsIn, arguments: str, text: str) -> Any:
    return Described(None, {"runs_in": runs_in, "arguments": tuple(arguments.split(", ")), "help": text})


class Hooks(Record, kw_only=True):
    """The hooks of one server; None where there is none. `described` says what each is for.

    ``server`` is the `Master`; in a worker it is the worker's copy of it, good for reading settings only. ``worker``
    is the `Worker`. Before there is one it is what that will be given (`pre_fork`, `post_fork`): with ``slot``,
    ``generation``, ``age``, ``log``, ``settings``, ``ppid`` and ``pid``, which is None in the master.

    Raises:
        SettingsError: A hook can't be called with its arguments. All problems are reported at once.
    """

    on_starting: Callable[[Any], object] | None = _hook(
        "master", "server", "Before anything else: nothing listens yet and no worker runs."
    )
    when_ready: Callable[[Any], object] | None = _hook(
        "master",
        "server",
        "When the first generation of workers is ready and serves; once more in each image of the master that an "
        "upgrade executes, for threads and sockets of the one before are gone.",
    )
    pre_fork: Callable[[Any, Any], object] | None = _hook("master", "server, worker", "Just before a worker is forked.")
    post_fork: Callable[[Any, Any], object] | None = _hook(
        "worker", "server, worker", "Just after the fork, before the application is loaded."
    )
    post_worker_init: Callable[[Any], object] | None = _hook(
        "worker", "worker", "When the application is loaded and init() has returned."
    )
    on_idle: Callable[[Any], object] | None = _hook(
        "worker",
        "worker",
        "Between two connections of the usual loop, when nobody waits for this worker; once a second at the most. "
        "With several threads, in one of them.",
    )
    warm: Callable[[Any], object] | None = _hook(
        "mold",
        "worker",
        "With preload, when the application is loaded: do what workers are not to do for the first time. The "
        "worker is one that never serves.",
    )
    worker_abort: Callable[[Any], object] | None = _hook(
        "worker",
        "worker",
        "When the worker is about to be ended for exceeding its timeout. One that hangs in C code can't run it.",
    )
    worker_exit: Callable[[Any, Any], object] | None = _hook(
        "worker",
        "server, worker",
        "After exit(), before threads are joined and atexit functions called. A killed worker doesn't get to it.",
    )
    child_exit: Callable[[Any, Any], object] | None = _hook(
        "master",
        "server, exit",
        "After a worker's death, with the record of how it ended; that has pid and log as a worker has.",
    )
    on_reload: Callable[[Any], object] | None = _hook(
        "master",
        "server",
        "When a reload (SIGHUP) begins, before the first worker of the new generation is forked.",
    )
    on_exit: Callable[[Any], object] | None = _hook(
        "master", "server", "Last, when all workers are gone and nothing listens any more."
    )
    on_pressure: Callable[[Any, Any], object] | None = _hook(
        "master",
        "server, pressure",
        "When descriptors or memory have run out, in a worker or in the system, and again when that is over.",
    )

    def __init__(self, **named: Callable[..., object] | None) -> None:
        super().__init__(**named)
        found = (_problem(hook, getattr(self, hook.name)) for hook in described())
        if problems := [problem for problem in found if problem]:
            raise SettingsError(problems)

    @classmethod
    def from_namespace(cls, namespace: object) -> Hooks:
        """The hooks among the attributes of a module or any other object, found by their names.

        Args:
            namespace: What has them. Attributes with other names, and those that are None, are left alone.

        Raises:
            SettingsError: It has none at all, or some can't be called with their arguments.

        What looks as if it were a hook, and is none, is told in the log.
        """
        found = {hook.name: getattr(namespace, hook.name, None) for hook in described()}
        if all(function is None for function in found.values()):
            shown = getattr(namespace, "__name__", type(namespace).__name__)
            raise SettingsError(f"hooks: {shown} has no function named as a hook; give one of {', '.join(found)}")
        from prefork.migration import answers

        hooks = cls(**found)
        for line in answers.strange_hooks(namespace, found):
            _log.warning("hooks: %s", line)
        return hooks

    @property
    def for_workers(self) -> bool:
        """Whether there is one for a worker, or its mold, to call."""
        return any(getattr(self, hook.name) is not None for hook in described() if hook.runs_in != "master")

    @property
    def for_master(self) -> bool:
        """Whether there is one for the master to call."""
        return any(getattr(self, hook.name) is not None for hook in described() if hook.runs_in == "master")

    def call(self, name: str, *arguments: object) -> None:
        """Run one hook, if it is set. What it raises is logged, whatever it is, and goes no further.

        Only in a process that the hook has forked it does (:attr:`prefork.system.forks.Here.foreign`).

        Args:
            name: Which.
            arguments: What it is given, as described.

        Raises:
            BootError: It refuses what is about to begin; one of `REFUSING` alone.
            OrderedEndError: The process was told to end meanwhile.
        """
        function = getattr(self, name)
        if function is None:
            return
        began = SYSTEM.monotonic()
        try:
            function(*arguments)
        except BaseException as error:  # sys.exit() in a hook must not end the server either
            if HERE.foreign or isinstance(error, OrderedEndError):
                raise  # out of a process that the hook has forked, or that is to end
            if name in REFUSING and isinstance(error, BootError):
                raise
            _log.exception("hook %s failed", name)
        took = SYSTEM.monotonic() - began
        if took > SLOW and _by_name()[name].runs_in == "master":
            _log.warning("hook %s kept the master from its work for %.1f s", name, took)


class Hook(NamedTuple):
    """What is known of one hook.

    Attributes:
        name: The name of the function.
        runs_in: The process that calls it.
        arguments: The names of what it is given, in order.
        help: When it is called.
    """

    name: str
    runs_in: RunsIn
    arguments: tuple[str, ...]
    help: str


@functools.cache
def described() -> tuple[Hook, ...]:
    """All hooks there are."""
    return tuple(Hook(name=name, **about) for name, about in descriptions(Hooks).items())


@functools.cache
def _by_name() -> dict[str, Hook]:
    return {hook.name: hook for hook in described()}


def _problem(hook: Hook, function: object) -> str | None:
    """Why ``function`` can't be ``hook``, in one line; None when it can."""
    if function is None:
        return None
    usage = f"{hook.name}({', '.join(hook.arguments)})"
    if not callable(function):
        return f"hooks: {hook.name} is {type(function).__name__}, not a function; define {usage}"
    import inspect

    if inspect.iscoroutinefunction(function):
        return f"hooks: {hook.name} is a coroutine function, which nobody would await; define plain {usage}"
    try:
        inspect.signature(function).bind(*hook.arguments)
    except TypeError as error:
        return f"hooks: {hook.name} can't be called with ({', '.join(hook.arguments)}): {error}; define {usage}"
    except ValueError:
        return None  # a built-in that doesn't say what it takes
    return None
