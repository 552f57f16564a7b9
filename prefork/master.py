"""The master: it owns the listeners, forks the workers, learns of their deaths, and carries out what policy decides.

    facts (exits, records, signals, time) -> roster and goal -> policy.decide -> actions -> facts ...

It is one loop. Each turn asks :func:`prefork.supervisor.policy.decide` what is to be done, does it, and sleeps until
something happens or the moment that the decision named. It runs none of the application's code but the hooks that are
documented as its own, and never blocks.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterable

from prefork.accept.assignment import WorkerLog
from prefork.accept.offspring import guarded
from prefork.config import sources
from prefork.config.fields import located
from prefork.config.launch import Launch
from prefork.config.settings import Settings
from prefork.errors import ListenerLostError, ListenError, PreforkError
from prefork.hooks import Hooks
from prefork.net import tls
from prefork.net.listener import Listener
from prefork.scoreboard.events import Event, EventKind, Why
from prefork.scoreboard.layout import Fate, Order, State
from prefork.services import defaults
from prefork.supervisor import (
    allowance,
    environment,
    notifications,
    policy,
    resources,
    succession,
    upgrade,
)
from prefork.supervisor.bystander import Bystanders
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.drain import Phase, Stopping
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.executor import Executor
from prefork.supervisor.exits import Deaths
from prefork.supervisor.goal import Goal
from prefork.supervisor.handover import Handover, HandoverError
from prefork.supervisor.heir import Bequest
from prefork.supervisor.isolation import Isolated
from prefork.supervisor.pressure import Exhaustion, Pressure
from prefork.supervisor.recycle import Appetite, Growth
from prefork.supervisor.resources import ENTRIES_BEYOND, Holdings
from prefork.supervisor.roster import Member, Roster
from prefork.supervisor.service import ServerView, Service, Services
from prefork.supervisor.slots import Groups
from prefork.supervisor.spawner import Birth, End, Spawner
from prefork.supervisor.takeover import Takeover
from prefork.supervisor.upgrade import Upgrade
from prefork.supervisor.vacancy import StoppedError, Vacancy
from prefork.system import identity, limits
from prefork.system.backoff import chance
from prefork.system.child import Children
from prefork.system.descriptors import Spare
from prefork.system.identity import Identity
from prefork.system.need import needed
from prefork.worker import Worker

log = logging.getLogger("prefork")

_ENDS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


class Master:
    """MASTER. One server: ``Master(MyWorker, Settings(...)).run()``. Everything here runs in the master process.

    Args:
        worker: a subclass of :class:`~prefork.worker.Worker`, or any function that makes one; called in each worker
            process.
        settings: the settings; the defaults when None.
        hooks: functions to be called at points in the server's life.
        services: what attaches to it: control socket, pidfile ...; those that the settings ask for when None.
        load: loads what ``worker`` would load in a worker process; called in the rehearsal of an upgrade, to find out
            whether it can be loaded.
        folder: where relative paths of the settings begin; None for ``chdir``, or else the working directory.

    Attributes:
        settings: the settings.
        hooks: the hooks.
        listeners: the listening sockets, while it runs.
        goal: what is wanted of the workers at present.
        roster: who lives.
        deaths: what deaths have meant so far.
    """

    _loop: Loop
    _children: Children
    _spawner: Spawner
    _executor: Executor
    _stopping: Stopping
    _groups: Groups
    _pressure: Pressure
    _held: Holdings
    _upgrade: Upgrade
    _growth: Growth | None
    _identity: Identity | None
    _spare: Spare
    _bystanders: Bystanders
    _nofile: int

    def __init__(
        self,
        worker: Callable[[], Worker],
        settings: Settings | None = None,
        *,
        hooks: Hooks | None = None,
        services: Iterable[Service] | None = None,
        load: Callable[[], object] | None = None,
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
        self._folder = environment.folder_of(settings) if folder is None else folder
        self.settings = located(settings, self._folder)
        self.hooks = hooks
        self._hooks_of_workers = hooks if hooks.for_workers else None
        self.listeners: list[Listener] = []
        self.roster = Roster()
        start, smallest, largest = self.settings.size(limits.cpus())
        self.goal = Goal(size=start, smallest=smallest, largest=largest)
        self._services = Services(defaults.services_of(self.settings) if services is None else services)
        self._build = worker
        self._load = load
        self._launch = Launch.of_this_process()
        self._takeover: Takeover | None = None
        self._bequest: Bequest | None = None
        self._ran = False
        self.deaths = Deaths(self.goal, self.roster, self.settings)
        self._told_of_the_end = False

    # The run.

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
        settings = self.settings
        with contextlib.ExitStack() as stack:
            self._footing = stack.enter_context(environment.entered(settings))
            if sources.by_content():
                stack.callback(sources.by_time)
            self._identity = identity.resolve(settings.user, settings.group, settings.no_new_privs)
            self._tls = tls.context_of(settings)
            try:
                upgrade.rehearse(settings, self._load, self._identity)
            except HandoverError as error:
                raise PreforkError(str(error)) from None
            self._bystanders = Bystanders()
            stack.callback(self._bystanders.end)
            if self.hooks.for_master:
                self._bystanders.watch()
            with guarded():
                self.hooks.call("on_starting", self)
            stack.callback(self.hooks.call, "on_exit", self)
            try:
                with needed("what a server begins with"):
                    self._open(stack)
            except StoppedError:
                return 0
            self._supervise()
        if self.deaths.failure is not None:
            raise self.deaths.failure
        return 0

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Listen, and take what supervision needs; ``stack`` gives it back, last taken first."""
        settings = self.settings
        # First, so that a signal that comes meanwhile finds a server that can be stopped, and leaves no unix path.
        with needed("the master's loop", "epoll_create1(2), epoll_ctl(2), pipe2(2)"):
            self._loop = Loop()
        stack.callback(self._loop.close)
        asked = Isolated(self._loop, "what a signal asked for")
        for signum, callback in self._signal_table().items():
            (self._loop if signum in _ENDS else asked).on_signal(signum, callback)
        self._hearing = environment.Hearing(self._loop, stack)
        self._nofile = allowance.claim(settings)
        record = upgrade.received()
        entries = 2 * max(self.goal.size, self.goal.largest) + ENTRIES_BEYOND
        if record is None:
            self._hearing.begin()
            held = resources.make(
                settings, self._folder, self.goal.size, entries, stack, Vacancy(self._loop, _ENDS).wait
            )
        else:
            held = resources.adopt(settings, self._folder, record, entries, stack)
        self._held = held
        if settings.takeover and record is None:
            self._takeover = Takeover(Isolated(self._loop, "the takeover"), settings.takeover)
            stack.callback(self._takeover.close)
        if held.queue is not None and settings.reuse_port:
            self._bequest = Bequest(Isolated(self._loop, "the heir"), held.queue)
            stack.callback(self._bequest.close)
        self.listeners += held.listeners
        stack.callback(self.listeners.clear)
        self._spare = Spare()
        self._spare.take()
        stack.callback(self._spare.give)
        ours = self._bystanders.without(lambda: {*self._loop.descriptors, *self._helpers(), *held.descriptors})
        stack.enter_context(ours)
        self._children = Children(self._loop)
        self._spawner = Spawner(
            self._loop, self._children, held.board, held.events, held.go, self._helpers, self._exited
        )
        stack.callback(self._spawner.close)
        self._pressure = Pressure(
            self._loop, held.board, held.go, held.inert, self.goal, self.roster, self._exhausted, settings.backoff_max
        )
        self._executor = Executor(
            self._loop, self.goal, self.roster, self._spawner, self._pressure, self._prepare, self.deaths.excerpts
        )
        self._groups = Groups(self._loop, self.goal, self.roster, self.listeners)
        self._stopping = Stopping(self._loop, self.goal, self.roster, settings, self.listeners, self._spawner.accepts)
        if settings.preload and not gc.get_freeze_count():
            # What is loaded now stays where it is in every worker's memory: a full collection there would otherwise
            # write to each object's header, and so copy its page.
            gc.collect()
            gc.freeze()
            stack.callback(gc.unfreeze)
        self._growth, looks = None, Isolated(self._loop, "a look at the workers")
        if self.goal.smallest < self.goal.largest:
            self._growth = Growth(looks, settings, self.goal, self.roster, self._spawner, self.listeners, self.scale)
        if settings.max_memory or settings.max_fds:
            Appetite(Isolated(self._loop, "the look at workers"), settings, self.roster, self._spawner, self._nofile)
        self._loop.register(held.events.reader, self._read_events)
        self._loop.on_thaw(self._thawed)
        if os.getpid() == 1:
            self._loop.on_signal(signal.SIGCHLD, self._children.reap_strangers)
        stack.callback(self._services.detach)
        self._services.attach(self._view(), record.windows if record else None)
        self._upgrade = Upgrade(
            Isolated(self._loop, "the upgrade"),
            self._children,
            self._launch,
            self._record,
            lambda: self._services.kept,
            lambda: self.stopping,
            lambda reason: self._services.notify(notifications.UpgradeFailed(reason)),
            settings.boot_timeout,
        )
        stack.callback(self._upgrade.cancel)
        if record is not None:
            size = self.goal.size
            succession.read(record, self.goal, self.roster, self._spawner, held)
            self.scale(size)
            self._roll("upgrade")
            self._hearing.begin(record.mask)  # to what that image has blocked, so that none of it was lost
        allowance.check(settings, self.goal, self.roster, self.listeners)

    def _record(self, mask: Iterable[int]) -> Handover:
        saved = self._services.save()
        return succession.write(self.settings, self.goal, self.roster, self._spawner, self._held, mask, saved)

    def _view(self) -> ServerView:
        """What services are given."""
        return ServerView(
            settings=self.settings,
            loop=Isolated(self._loop, "a service"),
            goal=self.goal,
            roster=self.roster,
            listeners=self.listeners,
            spawner=self._spawner,
            children=self._children,
            pressure=self._pressure,
            deaths=self.deaths,
            stopping=lambda: self.stopping,
            reload=self.reload,
            upgrade=self.upgrade,
            scale=self.scale,
            stop=self.stop,
            quit=self.quit,
        )

    def _supervise(self) -> None:
        """The loop."""
        while True:
            now = self._loop.now
            self.deaths.look(now)
            if self.stopping and not self._told_of_the_end:
                self._told_of_the_end = True
                self._upgrade.cancel()
                self._spare.give()  # the end has files to remove and to look at, whatever the limit
                self._services.notify(notifications.Stopping())
            decision = policy.decide(self.settings, self.goal, self.roster, self._spawner.vital, now)
            self.goal.timing.scan_next(decision.scan_at)
            if self.goal.stop.order is not Order.RUN:  # before anybody hears of that
                self._held.board.fate = Fate.CLOSED if self._bequest is None else self._bequest.fate()
            self._executor.apply(decision.actions)
            if self.goal.stop.order is not Order.RUN and not len(self.roster):
                if self._bequest is not None:
                    self._bequest.finish()
                return
            self._loop.poll(decision.wake_at, watchful=self.stopping or self.roster.pressed)

    # What others may ask for. Each takes effect at the loop's next turn.

    def reload(self) -> bool:
        """Replace every worker by one of the next generation, each READY before its predecessor leaves (SIGHUP).

        Returns:
            False when the server stops and nothing was begun.
        """
        if self.stopping:
            return False
        if self.settings.preload:
            self._upgrade.begin()  # what was loaded before the fork is renewed only with the master
        else:
            self._roll("reload")
        return True

    def upgrade(self) -> bool:
        """Execute the new code in this process, then do as :meth:`reload` does (SIGUSR2).

        Returns:
            False when the server starts or stops and nothing was begun.
        """
        if self.stopping or not self.goal.ready:
            log.warning("upgrade: not while the server %s", "stops" if self.stopping else "starts")
            return False
        self._upgrade.begin()
        return True

    def _roll(self, what: str) -> None:
        self._hearing.call(self.hooks, "on_reload", self)
        self._tls = tls.renewed(self._tls, self.settings)
        policy.roll(self.goal, self.roster)
        log.info("%s: generation %d", what, self.goal.generation)
        self._services.notify(notifications.Reloading(self.goal.generation))

    def scale(self, size: int) -> int:
        """Run ``size`` workers from now on (SIGTTIN and SIGTTOU: one more, one less).

        Returns:
            How many are wanted now: at least one, at most what the scoreboard has room for.
        """
        size = max(1, min(size, self._spawner.most))
        if size != self.goal.size and not self.stopping:
            try:
                self._groups.resize(size)
            except ListenError as error:
                log.error("can't run %d workers: %s", size, error)
                return self.goal.size
            log.info("%d workers instead of %d", size, self.goal.size)
            self.goal.resize(size)
            self._services.notify(notifications.Scaled(size))
            self._look_for_completion()  # those who were waited for may be among those who leave
        return self.goal.size

    def stop(self) -> None:
        """End the server and lose nobody who has reached it (SIGTERM)."""
        self._stopping.gracefully()

    def quit(self) -> None:
        """End the server soon: only what is in hand is finished (SIGINT, SIGQUIT); the second time, at once."""
        self._stopping.quickly()

    @property
    def stopping(self) -> bool:
        """Whether the server is going to end."""
        return self._stopping.phase is not Phase.NONE or self.goal.stop.order is not Order.RUN

    def _signal_table(self) -> dict[int, Callable[[], object]]:
        return {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.quit,
            signal.SIGQUIT: self.quit,
            signal.SIGHUP: self.reload,
            signal.SIGUSR2: self.upgrade,
            signal.SIGTTIN: lambda: self.scale(self.goal.size + 1),
            signal.SIGTTOU: lambda: self.scale(self.goal.size - 1),
            signal.SIGCONT: self._loop.thawed,
        }

    def _prepare(self, spawn: policy.Spawn) -> Birth:
        """Prepare a worker to be forked."""
        slot, generation = spawn.slot, spawn.generation
        self._footing.follow()
        return self._spawner.prepare(
            self._build,
            None if self.hooks.pre_fork is None else lambda: self._hearing.call(self.hooks, "pre_fork", self, spawn),
            self._identity,
            self._services.after_fork,
            tuple(listener for listener in self.listeners if listener.reuse_port),
            self._held.inert,
            self._nofile,
            slot=slot,
            generation=generation,
            settings=self.settings,
            hooks=self._hooks_of_workers,
            sockets=tuple(listener.socket_for(slot) for listener in self.listeners),
            log=WorkerLog(slot, generation),
            queue=self._held.queue,
            limit=self.settings.requests(chance()),
            workers=self.goal.size,
            elastic=self._growth is not None,
            tls=self._tls,
            server=self,
        )

    def _helpers(self) -> list[int]:
        """Descriptors that are the master's alone, and not the loop's."""
        return [*self._spare.descriptors, *(fd for listener in self.listeners for fd in listener.helpers)]

    # Facts.

    def _read_events(self) -> None:
        events, overflowed = self._held.events.read()
        for event in events:
            member = self.roster.get(event.pid)
            if member is not None and member.entry == event.entry:
                self._told(member, event)
        if overflowed:
            for member in self.roster:
                self._pressure.reread(member)
                if member.starting and self._spawner.state(member) == State.SERVING:
                    self._ready(member)
                if (wish := self._spawner.wish(member)) and not member.wanted:
                    self._told(member, Event(EventKind.RECYCLE_ME, member.entry, member.pid, wish))

    def _told(self, member: Member, event: Event) -> None:
        """A worker has told something."""
        match event.kind:
            case EventKind.READY if member.starting:
                self._ready(member)
            case EventKind.RECYCLE_ME if member.order is Order.RUN and not member.wanted:
                why = Why(event.value) if event.value in list(Why) else Why.ASKED
                if why is Why.LISTENER_LOST and self._lost():
                    return
                reason = Reason(Cause.of_request(why))
                self.deaths.asked(member, reason)
                self.roster.wanted(member, reason)
            case EventKind.EXHAUSTED | EventKind.RELIEVED:
                self._pressure.told(member, event)
            case EventKind.LAST_IDLE if self._growth is not None:
                self._growth.look()
            case _:
                pass

    def _lost(self) -> bool:
        """A worker can't accept any more. If the reason is the master's too, no replacement can: end the server."""
        lost = [listener.name for listener in self.listeners if listener.lost]
        if lost and not self.stopping:
            failure = ListenerLostError(f"{', '.join(lost)}: nothing listens there any more; somebody has shut it down")
            log.critical("%s", failure)
            self.deaths.end_server(failure, self._loop.clock.monotonic(), order=Order.SEAL)
        return bool(lost)

    def _ready(self, member: Member) -> None:
        self.roster.ready(member, self._loop.clock.monotonic())
        self.deaths.booted()
        self._pressure.judge()
        self._groups.changed()
        self._services.notify(notifications.WorkerReady(member))
        self._look_for_completion()

    def _look_for_completion(self) -> None:
        """See whether the first generation, or one that is being reloaded, has all of its workers READY."""
        if not self._every_incumbent(lambda incumbent: not incumbent.starting):
            return
        if not self.goal.ready:
            self.goal.completed()
            if self._takeover is not None:
                self._takeover.complete(self._held)
            log.info("%s", self.describe())
            self._hearing.call(self.hooks, "when_ready", self)
            self._services.notify(notifications.Serving())
        if self.goal.rolling and self._every_incumbent(lambda incumbent: incumbent.generation == self.goal.generation):
            self.goal.rolled()
            log.info("reload: generation %d serves", self.goal.generation)
            self._services.notify(notifications.Reloaded(self.goal.generation))

    def _every_incumbent(self, fit: Callable[[Member], bool]) -> bool:
        """Whether every slot has an incumbent who is ``fit``."""
        # From the last slot, which is filled last: while there is something to wait for, one look is enough.
        for index in reversed(range(self.goal.size)):
            incumbent = self.roster.slot(index).incumbent
            if incumbent is None or not fit(incumbent):
                return False
        return True

    def describe(self) -> str:
        """What is served where, in one line."""
        names = ", ".join(listener.name for listener in self.listeners)
        return f"serving on {names} with {self.goal.size} workers, pid {os.getpid()}"

    def _exited(self, pid: int, taken: End) -> None:
        """A worker has ended."""
        member = self.roster.get(pid)
        if member is None:
            return
        now = self._loop.clock.monotonic()
        death = self.roster.exited(member, taken.exit, served=taken.finished, now=now)
        self._pressure.exited(pid)
        self._groups.changed()
        rolling = self.goal.rolling
        self.deaths.take(death, taken.report)
        self._hearing.call(self.hooks, "child_exit", self, death)
        self._services.notify(notifications.Died(death, taken.last))
        if rolling and not self.goal.rolling:
            self._services.notify(
                notifications.ReloadFailed(self.goal.generation, taken.report.strip() or str(death.exit))
            )

    def _exhausted(self, exhaustion: Exhaustion) -> None:
        """Descriptors or memory have run out, or that is over."""
        self._hearing.call(self.hooks, "on_pressure", self, exhaustion)
        self._services.notify(notifications.Exhausted(exhaustion))

    def _thawed(self, seconds: float) -> None:
        now = self._loop.clock.monotonic()
        self.roster.thawed(seconds)
        self.goal.thawed(seconds, now)
        self._stopping.thawed(seconds)
