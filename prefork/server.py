"""Putting a server together: from what is to be served and the settings to a master that runs."""

from __future__ import annotations

import importlib
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefork.config import target
from prefork.config.fields import located
from prefork.config.interface import meant
from prefork.config.launch import absolute
from prefork.config.settings import Settings
from prefork.errors import BootError, PreforkError, RefusedError, SettingsError, TargetError
from prefork.hooks import Hooks
from prefork.master import Master
from prefork.net import tls
from prefork.services import configured
from prefork.supervisor import environment, fork_safety, resources, takeover
from prefork.system import child, custody, identity, process, systemd
from prefork.system.ending import OrderedEndError
from prefork.system.identity import Identity
from prefork.system.natives import os, signal, socket
from prefork.worker import Worker

log = logging.getLogger("prefork")

T = TypeVar("T")

Handle = Callable[[socket.socket, Any], object]


def serve(handle: Handle | None = None, /, *, main: Callable[[Worker], object] | None = None, **given: Any) -> int:
    """Serve ``handle`` until a signal ends it. Runs in the process that becomes the master, in its main thread.

    Args:
        handle: called in a worker process as ``handle(connection, address)`` for one connection at a time, or with
            ``threads`` for several, each in a thread of its own; it is closed afterwards, and an exception is logged.
        main: instead of ``handle``, a loop of one's own, called once in each worker as ``main(worker)``; it takes
            connections from ``worker.accept()`` or listens on ``worker.sockets`` until ``worker.stopping``.
        given: settings by name (see :class:`~prefork.config.settings.Settings`), and ``hooks``, a
            :class:`~prefork.hooks.Hooks`.

    Returns:
        0, after a stop that was asked for.

    Raises:
        TypeError: neither or both of ``handle`` and ``main`` were given, or what was given is not callable.
        PreforkError: as :meth:`prefork.master.Master.run` does; SettingsError for settings that can't be used.
    """
    if (handle is None) == (main is None):
        raise TypeError("serve() takes either handle(connection, address) or main(worker)")
    hooks = given.pop("hooks", None)
    if handle is not None:
        build = handling(handle)
    else:
        assert main is not None  # for the type checker: one of the two was given
        build = running(main)
    return Master(build, Settings.of(given), hooks=hooks).run()


def run(
    text: str,
    settings: Settings,
    *,
    app_dir: str = ".",
    make: Callable[[object, str], Callable[[], Worker]] | None = None,
    names: Sequence[str] = (),
    own: Callable[[], Worker] | None = None,
    hooks: Hooks | None = None,
    path: Sequence[str] = (),
) -> int:
    """Serve what ``module:attribute`` names: a handle function or a Worker subclass. MASTER.

    Args:
        text: the target.
        settings: the settings. With ``preload`` the target is loaded in a mold, else in each worker.
        app_dir: the folder that is put first on the import path.
        make: makes of the loaded target, and of its name, what makes a worker; :func:`worker_of` when None.
        names: the attributes that a module alone stands for.
        own: makes a worker that loads the target by itself, for when no mold does; by ``make`` when None.
        hooks: the hooks; those that the settings name when None.
        path: folders that are put on the import path behind that one, where the target is loaded and nowhere else.

    Returns:
        0, after a stop that was asked for.

    Raises:
        PreforkError: as :meth:`prefork.master.Master.run` does; TargetError when the target is not there; BootError
            when it fails to load.
    """
    app_dir = absolute(app_dir)
    folder = environment.folder_of(settings)  # while it is still what it was at the start
    settings = located(settings, folder)
    make = worker_of if make is None else make

    def imported() -> Callable[[], Worker]:
        return make(target.load(text, app_dir, names, path), text)

    def load() -> Callable[[], Worker]:
        return _loaded(imported, "the application failed to boot")

    if settings.app_metrics:
        from prefork.services import app_metrics

        app_metrics.prepare()  # no metric has been made yet
    with environment.entered(settings):
        who = identity.resolve(settings.user, settings.group, settings.no_new_privs)
        if hooks is None or settings.hooks:
            hooks = _loaded(lambda: hooks_of(settings, app_dir, who), f"hooks: {settings.hooks!r} failed to load")
    target.check(text, app_dir, names, path)
    if not identity.reaches(who, os.__file__):
        _lend()

    def build() -> Worker:
        return imported()()

    build = build if own is None else own
    services = configured.services_of(settings, sources=(app_dir, *path))
    return Master(build, settings, hooks=hooks, services=services, load=load, folder=folder).run()


def _lend() -> None:
    """Load what small applications import, for workers who become somebody that can't read the interpreter's library.

    One in root's home is such. What the master has loaded, workers have.
    """
    for name in ("argparse", "base64", "dataclasses", "datetime", "glob", "inspect", "shutil", "subprocess"):
        importlib.import_module(name)


def _loaded(load: Callable[[], T], failed: str) -> T:
    """What ``load`` gives. That it raises is an error here as it is in a worker, and ``failed`` is how it is told."""
    try:
        return load()
    except (PreforkError, OrderedEndError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the application raises is why it can't start
        log.error("%s:\n%s", failed, traceback.format_exc().rstrip())
        said = "".join(traceback.format_exception_only(error)).strip().rpartition("\n")[2]
        raise BootError(f"{failed}: {said}") from None


def check(
    text: str,
    settings: Settings,
    *,
    app_dir: str = ".",
    make: Callable[[object, str], Callable[[], Worker]] | None = None,
    names: Sequence[str] = (),
    own: Callable[[], Worker] | None = None,  # noqa: ARG001  # as `run` takes it: here the target is loaded by us
    hooks: Hooks | None = None,
    path: Sequence[str] = (),
) -> int:
    """Find out whether :func:`run` would start, given the same; nothing listens, and no file is made.

    Who has an address or a file at the moment is no matter: that changes with who runs. What is the master's is asked
    of the parts that would do it, here; the target and the hooks are loaded in a process of its own that ends then.

    Args:
        text: the target.
        settings: the settings.
        app_dir: as for :func:`run`.
        make: as for :func:`run`.
        names: as for :func:`run`.
        own: as for :func:`run`.
        hooks: as for :func:`run`.
        path: as for :func:`run`.

    Returns:
        0.

    Raises:
        PreforkError: as :func:`run` would raise it. When the application fails to load, its traceback is on standard
            error.
    """
    app_dir = absolute(app_dir)
    folder = environment.folder_of(settings)
    settings = located(settings, folder)
    make = worker_of if make is None else make
    environment.refuse_immortality(settings)
    with environment.entered(settings):
        who = identity.resolve(settings.user, settings.group, settings.no_new_privs)
        if settings.app_metrics:
            from prefork.services import app_metrics

            app_metrics.prepare()
        tls.context_of(settings)
        if settings.takeover:
            takeover.check(settings.takeover)
        resources.check(settings, folder)
        for service in configured.services_of(settings, sources=(app_dir, *path)):
            service.check(settings)
        parent = os.getpid()

        def load() -> None:
            if hooks is None or settings.hooks:
                hooks_of(settings, app_dir, who)  # as the master would load them
            identity.assume(who)
            process.die_with_parent(signal.SIGKILL, parent)  # which the change of user has cleared
            systemd.be_silent(os.environ)
            refuses = settings.preload and settings.fork_safety == "refuse"
            before = fork_safety.open_before() if refuses else None
            worker = make(target.load(text, app_dir, names, path), text)()
            worker.__prefork_check__(settings)
            if refuses:
                fork_safety.judged(settings, before)

        _tried(load, parent)
    return 0


def _tried(load: Callable[[], object], parent: int) -> None:
    """Call ``load`` in a process of its own; what it raises is raised here."""

    def attempt(writer: int) -> int:
        try:
            process.die_with_parent(signal.SIGKILL, parent)
            load()
        except PreforkError as error:
            os.write(writer, str(error).encode(errors="backslashreplace"))
            return error.exit_code
        except BaseException:  # noqa: BLE001  # whatever the application raises is shown, and is why it can't start
            traceback.print_exc()
            return BootError.exit_code
        return 0

    said, ended = child.ask(attempt)
    if not ended.clean:
        error = next((kind for kind in (TargetError, RefusedError) if said and kind.exit_code == ended.code), BootError)
        raise error(said or f"the application failed to load: the process that tried {ended}")


def hooks_of(settings: Settings, app_dir: str, who: Identity | None = None) -> Hooks:
    """The hooks that the settings name. MASTER, whose code they are: with ``user`` they run with its privileges.

    Args:
        settings: the settings.
        app_dir: the folder that is put first on the import path, if the hooks are in it.
        who: what workers become. If that is somebody else, ``app_dir`` has to be a folder that is root's alone.

    Raises:
        TargetError: they are not there, or can't be imported.
        SettingsError: they are not functions as hooks are, or others than root could have changed them.
    """
    if not settings.hooks:
        return Hooks()
    try:
        if who is not None and who.uid is not None:
            if target.lies_in(settings.hooks, app_dir):
                _refuse_strangers(settings, app_dir)
            else:
                app_dir = ""
        found = target.load(settings.hooks, app_dir)
    except TargetError as error:
        raise TargetError(f"hooks: {error}") from None
    return Hooks.from_namespace(found)


def _refuse_strangers(settings: Settings, app_dir: str) -> None:
    stranger = next(filter(None, map(custody.stranger, target.folders(settings.hooks, app_dir))), "")
    if stranger:
        raise SettingsError(
            f"hooks: {settings.hooks!r} would run with the master's privileges, from a folder that is not root's alone "
            f"({stranger}); have root own it (chown, chmod go-w), or leave hooks or user out"
        )


def worker_of(found: object, name: str) -> Callable[[], Worker]:
    """What makes a worker of a loaded target.

    Raises:
        TargetError: it is neither a Worker subclass nor callable.
    """
    if isinstance(found, type) and issubclass(found, Worker):
        return found
    if problem := meant(found, name, "handle", "worker"):
        raise TargetError(problem)
    if callable(found):
        return handling(found)
    raise TargetError(f"{name} is {type(found).__name__}, which can't be called; name handle(connection, address)")


def handling(handle: Handle) -> Callable[[], Worker]:
    """What makes a worker that calls ``handle``."""
    if not callable(handle):
        raise TypeError(f"handle is {type(handle).__name__}, not a function of connection and address")

    def build() -> Worker:
        worker = Worker()
        worker.handle = handle  # type: ignore[assignment,method-assign]  # one call less a connection
        return worker

    return build


def running(main: Callable[[Worker], object]) -> Callable[[], Worker]:
    """What makes a worker whose loop is ``main``."""
    if not callable(main):
        raise TypeError(f"main is {type(main).__name__}, not a function of the worker")

    def build() -> Worker:
        worker = Worker()
        worker.run = lambda: main(worker)  # type: ignore[method-assign,assignment]  # its result is nobody's
        return worker

    return build
