"""The master: the public face of a server. ``Master(MyWorker, Settings(...)).run()``.

What it does stands in :mod:`prefork.supervisor`; what attaches to it, in :mod:`prefork.services`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable

from prefork.accept.offspring import guarded
from prefork.config import sources
from prefork.config.fields import located
from prefork.config.launch import Launch
from prefork.config.preloading import OF_MOLD
from prefork.config.settings import Settings
from prefork.errors import BootError, PreforkError, SettingsError
from prefork.hooks import Hooks
from prefork.net import tls
from prefork.net.listener import Listener
from prefork.services import configured
from prefork.supervisor import environment, upgrade
from prefork.supervisor.handover import HandoverError
from prefork.supervisor.hook_children import HookChildren
from prefork.supervisor.plan import Plan
from prefork.supervisor.roster import Roster
from prefork.supervisor.service import Service
from prefork.supervisor.supervisor import Supervisor
from prefork.supervisor.vacancy import StoppedError
from prefork.system import identity
from prefork.system.natives import os
from prefork.system.need import needed
from prefork.worker import Worker


class Master:
    """One server: ``Master(MyWorker, Settings(...)).run()``. It lives in the master process, in its main thread.

    Args:
        worker: a subclass of :class:`~prefork.worker.Worker`, or any function that makes one; called in each worker
            process.
        settings: the settings; the defaults when None.
        hooks: functions to be called at points in the server's life.
        services: what attaches to it: control socket, pidfile ...; those that the settings ask for when None.
        load: loads what ``worker`` would load in a worker process, and returns what makes a worker of it. It is called
            in the rehearsal of an upgrade, to find out whether it can be loaded; and with ``preload`` in the mold, of
            which workers are forked then.
        folder: where relative paths of the settings begin; None for ``chdir``, or else the working directory.

    Attributes:
        settings: the settings.
        hooks: the hooks.
        log: the server's logger ("prefork"), for hooks.
        pid: of the master process; 0 before it runs.

    Raises:
        TypeError: an argument is not what it is to be.
        SettingsError: a setting speaks of a mold, and without ``load`` there is none.
    """

    def __init__(
        self,
        worker: Callable[[], Worker],
        settings: Settings | None = None,
        *,
        hooks: Hooks | None = None,
        services: Iterable[Service] | None = None,
        load: Callable[[], Callable[[], Worker]] | None = None,
        folder: str | None = None,
    ) -> None:
        settings = Settings() if settings is None else settings
        hooks = Hooks() if hooks is None else hooks
        if not callable(worker):
            raise TypeError(f"worker is {type(worker).__name__}, not a subclass of Worker or a function that makes one")
        if not isinstance(settings, Settings):
            raise TypeError(f"settings is {type(settings).__name__}, not Settings; give Settings(workers=4, ...)")
        if not isinstance(hooks, Hooks):
            raise TypeError(
                f"hooks is {type(hooks).__name__}, not Hooks; Hooks.from_namespace() makes some of a module"
            )
        if load is None:
            _refuse_of_mold(settings)
        self.log = logging.getLogger("prefork")
        self.pid = 0
        self._folder = environment.folder_of(settings) if folder is None else folder
        self.settings = located(settings, self._folder)
        self.hooks = hooks
        self._services = list(configured.services_of(self.settings) if services is None else services)
        self._build = worker
        self._load = load
        self._launch = Launch.of_this_process()
        self._ran = False
        self._supervisor: Supervisor | None = None

    def run(self) -> int:
        """Serve until a signal ends it. To be called in the main thread of the process that becomes the master.

        Returns:
            0, after a stop that was asked for.

        Raises:
            ListenError: an address can't be listened on.
            TargetError: what the workers were to serve is not there.
            BootError: the first generation of workers failed to boot, or there was a crash loop and
                ``on_crash_loop`` is "exit"; the application's traceback is in the log.
            ListenerLostError: somebody has shut a listening socket down, and nobody can accept from it any more.
            SettingsError: the system can't give what a setting asks for: a user, a folder, a pidfile, a certificate.
            RefusedError: the system refuses what a server can't be without.
            PreforkError: this is not the main thread, or this master has run before.
        """
        if self._ran:
            raise PreforkError("a Master runs once; make another")
        environment.check_threads()
        self._ran = True
        self.pid = os.getpid()
        with contextlib.ExitStack() as stack:
            plan = self._settle(stack)
            stack.callback(plan.hook_children.end)
            if self.hooks.for_master:
                plan.hook_children.watch()
            with guarded():
                self._call_on_starting()
            stack.callback(self.hooks.call, "on_exit", self)
            try:
                with needed("what a server begins with"):
                    self._supervisor = supervisor = Supervisor(plan, stack)
                    supervisor.begin(stack)
            except StoppedError:
                return 0
            supervisor.supervise()
        if supervisor.failure is not None:
            raise supervisor.failure
        return 0

    def _call_on_starting(self) -> None:
        """Call the hook. What it refuses is a start: in an image that is executed in another's place it is too late.

        Raises:
            BootError: it refuses.
        """
        try:
            self.hooks.call("on_starting", self)
        except BootError as error:
            if not upgrade.inherits():
                raise
            self.log.error("%s; it goes on all the same, in the place of the image before", error)

    def _settle(self, stack: contextlib.ExitStack) -> Plan:
        """Settle what depends on this process; ``stack`` puts back what is changed. A rehearsal ends here."""
        settings = self.settings
        environment.refuse_immortality(settings)
        footing = stack.enter_context(environment.entered(settings, self._folder))
        if sources.by_content():
            stack.callback(sources.by_time)
        who = identity.resolve(settings.user, settings.group, settings.no_new_privs)
        secured = tls.context_of(settings)
        try:
            upgrade.rehearse(settings, self._load, who)
        except HandoverError as error:
            raise PreforkError(str(error)) from None
        return Plan(
            server=self,
            build=self._build,
            load=self._load if settings.preload else None,
            settings=settings,
            hooks=self.hooks,
            services=self._services,
            folder=self._folder,
            footing=footing,
            identity=who,
            launch=self._launch,
            hook_children=HookChildren(),
            tls=secured,
        )

    # What there is, for hooks.

    @property
    def listeners(self) -> list[Listener]:
        """The listening sockets, while it runs."""
        return [] if self._supervisor is None else self._supervisor.listeners

    @property
    def roster(self) -> Roster:
        """Who lives."""
        return Roster() if self._supervisor is None else self._supervisor.roster

    @property
    def stopping(self) -> bool:
        """Whether the server is going to end."""
        return self._supervisor is not None and self._supervisor.stopping

    def describe(self) -> str:
        """What is served where, in one line."""
        return self._running.describe()

    # What hooks may ask for. Each takes effect at the next turn of the master's loop.

    def reload(self) -> bool:
        """Replace every worker by one of the next generation, each READY before its predecessor leaves (SIGHUP).

        Returns:
            False when the server stops and nothing was begun.
        """
        return self._running.reload()

    def upgrade(self) -> bool:
        """Execute the new code in this process, then do as :meth:`reload` does; False when it can't begin (SIGUSR2)."""
        return self._running.upgrade()

    def scale(self, size: int) -> int:
        """Run ``size`` workers from now on; returns how many are wanted now, at least one (SIGTTIN and SIGTTOU)."""
        return self._running.scale(size)

    def stop(self) -> None:
        """End the server and lose nobody who has reached it (SIGTERM)."""
        self._running.stop()

    def quit(self) -> None:
        """End the server soon: only what is in hand is finished (SIGINT, SIGQUIT); the second time, at once."""
        self._running.quit()

    @property
    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise PreforkError("the server does not run yet")
        return self._supervisor


def _refuse_of_mold(settings: Settings) -> None:
    """Refuse what says something of a mold, where the program has loaded by itself what it serves."""
    given = [name for name, default in OF_MOLD.items() if getattr(settings, name) != default]
    if given:
        raise SettingsError(
            f"{name}: this program has loaded the application by itself, and has no mold; leave it out"
            for name in given
        )
