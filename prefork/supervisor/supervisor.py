"""The supervisor: it owns the listeners, forks the workers, learns of their ends, and does what the policy decides.

    facts (exits, records, signals, time) -> roster and goal -> policy.decide -> actions -> facts ...

It is one loop. Each turn asks :func:`prefork.supervisor.policy.decide` what is to be done, does it, and sleeps until
something happens or the moment that the decision named. It runs none of the application's code but the hooks that are
documented as the master's own, and never blocks.
"""

from __future__ import annotations

import contextlib
import logging

from prefork.errors import ListenerLostError, ListenError, PreforkError
from prefork.net import tls
from prefork.scoreboard.layout import Fate, Order
from prefork.supervisor import environment, policy, recycle, reforks, resources, upgrade
from prefork.supervisor.autoscale import Autoscaler
from prefork.supervisor.blueprint import Blueprint
from prefork.supervisor.cause import Reason
from prefork.supervisor.drain import Drain
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.executor import Executor
from prefork.supervisor.exits import Exits
from prefork.supervisor.generations import Generations
from prefork.supervisor.goal import Goal
from prefork.supervisor.handover import Handover
from prefork.supervisor.heir import Bequest
from prefork.supervisor.isolation import Isolated
from prefork.supervisor.mold import Repeat
from prefork.supervisor.notifications import (
    Died,
    EventsLost,
    Exhausted,
    LastIdleTaken,
    Notifier,
    PressureTold,
    RecycleRequested,
    ReforkFailed,
    ReloadFailed,
    Scaled,
    Serving,
    Stopping,
    UpgradeFailed,
    WorkerReady,
)
from prefork.supervisor.nursery import Nursery, fork_mold
from prefork.supervisor.plan import Plan
from prefork.supervisor.pressure import Exhaustion, Pressure
from prefork.supervisor.readiness import ReadinessJudge
from prefork.supervisor.resources import ENTRIES_BEYOND, Resources
from prefork.supervisor.roster import Roster
from prefork.supervisor.service import ServerView, Services
from prefork.supervisor.slots import SlotSockets
from prefork.supervisor.spawner import Spawner
from prefork.supervisor.takeover import Takeover
from prefork.supervisor.upgrade import Upgrade
from prefork.supervisor.vacancy import Vacancy
from prefork.supervisor.worker_events import WorkerEvents
from prefork.supervisor.worker_line import Birth, End
from prefork.system import limits
from prefork.system.child import Children
from prefork.system.descriptors import SpareDescriptor
from prefork.system.natives import os, signal, socket
from prefork.system.need import needed

log = logging.getLogger("prefork")

_ENDS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


class Supervisor:
    """The supervision of one server. Each part is made of those above it.

    Args:
        plan: what is to be supervised.
        stack: gives back what is taken here, last taken first.

    Attributes:
        listeners: the listening sockets, while it runs.
        roster: who lives.

    Raises:
        PreforkError: an address can't be listened on, or the system refuses what a server can't be without.
        StoppedError: a signal has ended the server before it began.
        OSError: no descriptors, no memory.
    """

    def __init__(self, plan: Plan, stack: contextlib.ExitStack) -> None:
        settings = plan.settings
        start, smallest, largest = settings.size(limits.cpus())
        self._plan = plan
        self._tls = plan.tls
        self._told_of_the_end = False
        self._goal = goal = Goal(size=start, smallest=smallest, largest=largest)
        self.roster = roster = Roster()
        self._notifier = notifier = Notifier()
        self._exits = Exits(goal, roster, settings, notifier)
        self._generations = Generations(goal, roster, notifier)
        # A signal that comes while the addresses are taken finds a server that can be stopped, and leaves no unix path.
        self._loop = loop = _loop(stack)
        self._children = children = Children(loop)
        self._take_signals()
        self._hearing = environment.Hearing(loop, stack)
        self._nofile = resources.claim_descriptors(settings)
        self._before = upgrade.received()
        self._held = held = self._take_resources(stack)
        self._takeover = self._begin_takeover(stack)
        self._bequest = self._begin_bequest(stack)
        self.listeners = listeners = list(held.listeners)
        stack.callback(listeners.clear)
        self._spare = SpareDescriptor()
        self._spare.take()
        stack.callback(self._spare.give)
        stack.enter_context(plan.hook_children.without(self._own_descriptors))
        self._spawner = spawner = Spawner(loop, children, held, self._helpers, self._exited)
        stack.callback(spawner.close)
        self._pressure = Pressure(
            loop, held.board, held.go, held.inert, goal, roster, self._exhausted, settings.backoff_max
        )
        self._nursery = nursery = Nursery(
            *(loop, children, settings, goal, roster, self._generations, listeners),
            molded=plan.load is not None,
            fork=self._fork_mold,
            born=lambda pid, birth: self._executor.born(pid, birth),  # noqa: PLW0108  # it is made below
            unborn=lambda births, error: self._executor.unborn(births, error),  # noqa: PLW0108  # as above
            fatal=lambda failure: self._exits.end_server(failure, loop.clock.monotonic()),
        )
        stack.callback(nursery.close)
        self._executor = Executor(
            *(loop, goal, roster, spawner, self._pressure, self._prepare, self._exits.excerpts),
            ask=nursery.ask if nursery.molded else None,
        )
        self._slot_sockets = SlotSockets(loop, goal, roster, listeners)
        self._drain = Drain(loop, goal, roster, settings, listeners, spawner.accepts)
        self._readiness = ReadinessJudge(held.board, goal, self._drain, settings, notifier, self._fate)
        if settings.preload and not nursery.molded:
            environment.freeze(stack)
        looks = Isolated(loop, "a look at the workers")
        self._autoscaler = None
        if smallest < largest:
            self._autoscaler = Autoscaler(looks, settings, goal, roster, spawner, listeners, self.scale)
        recycle.watch(looks, settings, goal, roster, spawner, self._nofile)
        reforks.watch(looks, settings, goal, roster, spawner, notifier, nursery)
        WorkerEvents(loop, held.events, roster, spawner, notifier, nursery.settle, self._listener_lost)
        self._services = Services(plan.services)
        self._upgrade = Upgrade(
            Isolated(loop, "the upgrade"),
            children,
            plan.launch,
            self._record,
            lambda: self._services.kept,
            lambda: self.stopping,
            lambda reason: notifier.notify(UpgradeFailed(reason)),
            nursery.pause,
            settings.boot_timeout,
        )
        self._blueprint = Blueprint(
            build=plan.build,
            settings=settings,
            hooks=plan.hooks if plan.hooks.for_workers else None,
            server=plan.server,
            identity=plan.identity,
            nofile=self._nofile,
            elastic=self._autoscaler is not None,
            master=os.getpid(),
        )
        self._subscribe()

    def _take_signals(self) -> None:
        """Handle what is sent to the master. What ends the server is not isolated: nothing else may be relied upon."""
        asked = Isolated(self._loop, "what a signal asked for")
        self._loop.on_signal(signal.SIGTERM, self.stop)
        self._loop.on_signal(signal.SIGINT, self.quit)
        self._loop.on_signal(signal.SIGQUIT, self.quit)
        asked.on_signal(signal.SIGHUP, self.reload)
        asked.on_signal(signal.SIGUSR2, self.upgrade)
        asked.on_signal(signal.SIGTTIN, lambda: self.scale(self._goal.size + 1))
        asked.on_signal(signal.SIGTTOU, lambda: self.scale(self._goal.size - 1))
        asked.on_signal(signal.SIGCONT, self._loop.thawed)
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            asked.on_signal(signal.SIGUSR1, _nothing_to_reopen)
        if os.getpid() == 1:
            self._loop.on_signal(signal.SIGCHLD, self._children.reap_strangers)

    def _take_resources(self, stack: contextlib.ExitStack) -> Resources:
        """Listen, or take over what the image before this one held."""
        settings, folder, goal = self._plan.settings, self._plan.folder, self._goal
        entries = 2 * max(goal.size, goal.largest) + ENTRIES_BEYOND
        if self._before is not None:
            return resources.adopt(settings, folder, self._before, entries, stack)
        self._hearing.let_in()  # what has waited comes now: it may be the end
        return resources.make(settings, folder, goal.size, entries, stack, Vacancy(self._loop, _ENDS).wait)

    def _begin_takeover(self, stack: contextlib.ExitStack) -> Takeover | None:
        """The takeover from the server whose pidfile is given; after an upgrade it is long over."""
        pidfile = self._plan.settings.takeover
        if not pidfile or self._before is not None:
            return None
        takeover = Takeover(Isolated(self._loop, "the takeover"), pidfile)
        stack.callback(takeover.close)
        return takeover

    def _begin_bequest(self, stack: contextlib.ExitStack) -> Bequest | None:
        """What becomes of kept connections when a successor takes over; None when there can be none."""
        queue = self._held.queue
        if queue is None or not self._plan.settings.reuse_port:
            return None
        bequest = Bequest(Isolated(self._loop, "the heir"), queue)
        stack.callback(bequest.close)
        return bequest

    def _subscribe(self) -> None:
        """Who is told what, in this order: first who keeps the facts, then hooks, then services."""
        on, call = self._notifier.subscribe, self._call_hook
        on(WorkerReady, lambda _: self._exits.booted())
        on(WorkerReady, lambda _: self._pressure.judge())
        on(WorkerReady, lambda _: self._slot_sockets.changed())
        on(RecycleRequested, lambda told: self._exits.asked(told.member, told.reason))
        on(PressureTold, lambda told: self._pressure.told(told.member, told.event))
        on(EventsLost, lambda _: self._pressure.reread())
        if self._autoscaler is not None:
            look = self._autoscaler.look_at_load
            on(LastIdleTaken, lambda _: look())
        on(Died, lambda told: self._pressure.exited(told.death.member.pid))
        on(Died, lambda _: self._slot_sockets.changed())
        on(Died, lambda told: self._exits.judge(told.death, told.report))
        on(Died, lambda told: call("child_exit", told.death))
        on(Died, lambda told: self._nursery.bereaved(told.death))
        on(Exhausted, lambda told: call("on_pressure", told.exhaustion))
        on(ReloadFailed, self._nursery.retreat)
        on(ReforkFailed, self._nursery.retreat)
        on(UpgradeFailed, lambda _: self._nursery.go_on())
        on(Stopping, lambda _: self._upgrade.cancel())
        on(Stopping, lambda _: self._nursery.stop())
        on(Stopping, lambda _: self._spare.give())  # the end has files to remove and to look at, whatever the limit
        if self._takeover is not None:
            takeover = self._takeover
            on(Serving, lambda _: takeover.complete(self._held))
        on(Serving, lambda _: log.info("%s", self.describe()))
        on(Serving, lambda _: resources.tell_who_can_not_connect(self._plan.settings, self._plan.folder))
        on(Serving, lambda _: call("when_ready"))
        self._notifier.subscribe_to_all(self._services.notify)
        self._generations.watch()
        self._loop.on_thaw(self.roster.thawed)
        self._loop.on_thaw(lambda seconds: self._goal.thawed(seconds, self._loop.clock.monotonic()))
        self._loop.on_thaw(self._drain.thawed)

    # The run.

    def begin(self, stack: contextlib.ExitStack) -> None:
        """Attach the services, and go on with the workers of the image before this one, if there was one.

        Args:
            stack: gives back what is taken, last taken first.

        Raises:
            PreforkError: a service can't do its work.
            OSError: no descriptors, no memory.
        """
        before = self._before
        stack.callback(self._services.detach)
        self._services.attach(self._view(), None if before is None else before.services)
        stack.callback(self._upgrade.cancel)
        if before is not None:
            size = self._goal.size
            upgrade.take_over(before, self._goal, self.roster, self._spawner, self._held, self._nursery.molds)
            self.scale(size)
            self._roll("upgrade")
            self._hearing.let_in(before.mask)  # to what that image has blocked, so that none of it was lost
            self._call_hook("when_ready")  # it serves; what that hook had begun in this process ended with the image
        else:
            self._nursery.load()
        resources.check_descriptors(self._plan.settings, self._goal, self.roster, self.listeners)

    def supervise(self) -> None:
        """The loop, until the last worker has left.

        Raises:
            PreforkError: the server has ended for a reason that is an error.
        """
        settings, goal, roster, loop = self._plan.settings, self._goal, self.roster, self._loop
        while True:
            now = loop.now
            self._exits.recheck_crash_loop(now)
            if self.stopping and not self._told_of_the_end:
                self._told_of_the_end = True
                self._notifier.notify(Stopping())
            decision = policy.decide(settings, goal, roster, self._spawner.vital, now)
            goal.timing.scan_next(decision.scan_at)
            self._readiness.tell()
            if goal.stop.begun:  # before anybody hears of that
                self._held.board.fate = self._fate()
            self._executor.apply(decision.actions)
            if goal.stop.begun and not len(roster) and self._nursery.ended():
                if self._bequest is not None:
                    self._bequest.finish()
                break
            loop.poll(decision.wake_at, watchful=self.stopping or roster.pressed)

    @property
    def failure(self) -> PreforkError | None:
        """Why the server ends, if that is an error."""
        return self._exits.failure

    # What others may ask for. Each takes effect at the loop's next turn.

    def reload(self) -> bool:
        """Replace every worker by one of the next generation, each READY before its predecessor leaves (SIGHUP).

        Returns:
            False when the server stops and nothing was begun.
        """
        if self.stopping:
            return False
        if not self._plan.settings.preload or self._nursery.molded:
            self._roll("reload")
        elif self._goal.ready:
            self._upgrade.rehearse()  # what the program has loaded by itself is renewed only with the master
        else:
            log.info("reload: begins when the server serves")  # of which the next image would not tell anybody
            self._notifier.subscribe(Serving, lambda _: self._upgrade.rehearse())
        return True

    def upgrade(self) -> bool:
        """Execute the new code in this process, then do as :meth:`reload` does (SIGUSR2).

        Returns:
            False when the server starts or stops and nothing was begun.
        """
        if self.stopping or not self._goal.ready:
            log.warning("upgrade: not while the server %s", "stops" if self.stopping else "starts")
            return False
        self._upgrade.rehearse()
        return True

    def scale(self, size: int) -> int:
        """Run ``size`` workers from now on (SIGTTIN and SIGTTOU: one more, one less).

        Returns:
            How many are wanted now: at least one, at most what the scoreboard has room for.
        """
        goal, size = self._goal, max(1, min(size, self._spawner.most))
        if size != goal.size and not self.stopping:
            try:
                self._slot_sockets.resize(size)
            except ListenError as error:
                log.error("can't run %d workers: %s", size, error)
                return goal.size
            log.info("%d workers instead of %d", size, goal.size)
            goal.resize(size)
            self._notifier.notify(Scaled(size))
        return goal.size

    def stop(self) -> None:
        """End the server and lose nobody who has reached it (SIGTERM)."""
        self._drain.gracefully()

    def quit(self) -> None:
        """End the server soon: only what is in hand is finished (SIGINT, SIGQUIT); the second time, at once."""
        self._drain.quickly()

    @property
    def stopping(self) -> bool:
        """Whether the server is going to end."""
        return self._drain.begun

    def describe(self) -> str:
        """What is served where, in one line."""
        names = ", ".join(listener.name for listener in self.listeners)
        return f"serving on {names} with {self._goal.size} workers, pid {os.getpid()}"

    # What the parts ask of the whole.

    def _call_hook(self, name: str, *given: object) -> None:
        if getattr(self._plan.hooks, name) is None:
            return
        self._nursery.passing(lambda: self._hearing.call(self._plan.hooks, name, self._plan.server, *given))

    def _roll(self, what: str) -> None:
        self._call_hook("on_reload")
        self._tls = tls.renewed(self._tls, self._plan.settings)
        if self._nursery.molded:
            self._nursery.renew(what)
        else:
            self._generations.roll(what)

    def _fork_mold(self, generation: int, control: socket.socket, report: int, repeat: Repeat) -> int:
        """Fork a mold, in the folder that has the server's name for it now."""
        assert self._plan.load is not None  # or there would be none
        self._plan.footing.follow()
        return fork_mold(
            *(self._plan.load, self._blueprint, self._held, self._tls, self._services),
            *(generation, control, report, repeat),
            private={*self._loop.descriptors, *self._helpers()},
        )

    def _prepare(self, spawn: policy.Spawn) -> Birth:
        """Prepare a worker to be forked."""
        if not self._nursery.molded:
            self._plan.footing.follow()
        hook = self._plan.hooks.pre_fork
        return self._spawner.prepare(
            spawn,
            self._blueprint,
            after_fork=self._services.after_fork,
            announce=None if hook is None else lambda worker: self._call_hook("pre_fork", worker),
            workers=self._goal.size,
            tls=self._tls,
            waits=self._takeover is not None and not self._goal.ready,
            molded=self._nursery.molded,
        )

    def _helpers(self) -> list[int]:
        """Descriptors that are the master's alone, and not the loop's."""
        return [*self._spare.descriptors, *(fd for listener in self.listeners for fd in listener.helpers)]

    def _own_descriptors(self) -> set[int]:
        """Descriptors that are the server's, and nobody's whom a hook forks."""
        return {*self._loop.descriptors, *self._helpers(), *self._held.descriptors}

    def _exited(self, pid: int, taken: End) -> None:
        """A worker has ended."""
        member = self.roster.get(pid)
        if member is not None:
            now = self._loop.clock.monotonic()
            death = self.roster.exited(member, taken.exit, served=taken.finished, now=now, in_hand=taken.in_hand)
            self._notifier.notify(Died(death, taken.last, taken.report))

    def _exhausted(self, exhaustion: Exhaustion) -> None:
        """Descriptors or memory have run out, or that is over."""
        self._notifier.notify(Exhausted(exhaustion))

    def _listener_lost(self) -> bool:
        """A worker can't accept any more. If the reason is the master's too, no replacement can: end the server."""
        lost = [listener.name for listener in self.listeners if listener.lost]
        if lost and not self.stopping:
            failure = ListenerLostError(f"{', '.join(lost)}: nothing listens there any more; somebody has shut it down")
            log.critical("%s", failure)
            self._exits.end_server(failure, self._loop.clock.monotonic(), order=Order.SEAL)
        return bool(lost)

    def _record(self) -> Handover:
        """What the next image of this process is given."""
        saved = self._services.save()
        return upgrade.record_of(
            *(self._plan.settings, self._goal, self.roster, self._spawner, self._held, self._nursery.molds),
            mask=self._hearing.before,
            services=saved,
        )

    def _fate(self) -> Fate:
        """What becomes of kept connections now that the server ends."""
        return Fate.CLOSED if self._bequest is None else self._bequest.fate()

    def _recycle(self, pid: int, reason: Reason) -> None:
        member = self.roster.get(pid)
        if member is not None:
            self.roster.wanted(member, reason)

    def _view(self) -> ServerView:
        """What services are given."""
        return ServerView(
            settings=self._plan.settings,
            loop=Isolated(self._loop, "a service"),
            goal=self._goal,
            roster=self.roster,
            listeners=self.listeners,
            spawner=self._spawner,
            molds=self._nursery.molds,
            children=self._children,
            pressure=self._pressure,
            exits=self._exits,
            stopping=lambda: self.stopping,
            readiness=lambda: self._readiness.readiness,
            boot_failed=lambda death: self._goal.failures.boot_failed(self._plan.settings, death),
            recycle=self._recycle,
            reload=self.reload,
            upgrades=lambda: self._plan.settings.preload and not self._nursery.molded,
            upgrade=self.upgrade,
            scale=self.scale,
            stop=self.stop,
            quit=self.quit,
        )


def _loop(stack: contextlib.ExitStack) -> Loop:
    with needed("the master's loop", "epoll_create1(2), epoll_ctl(2), pipe2(2)"):
        loop = Loop()
    stack.callback(loop.close)
    return loop


def _nothing_to_reopen() -> None:
    """For SIGUSR1 where no log is opened by name, or not yet: rotation means no harm, the signal's default does."""
