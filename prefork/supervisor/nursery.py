"""The nursery: where workers come from when the application is loaded in a mold. It joins molds and births.

Without one (no ``preload``, or a program that has loaded by itself what it serves) the master forks workers by itself.
All of it runs in the MASTER.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from prefork.config.settings import Settings
from prefork.errors import PreforkError
from prefork.net.listener import Listener
from prefork.supervisor.births import Births
from prefork.supervisor.blueprint import Blueprint
from prefork.supervisor.death import Death
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.generations import Generations
from prefork.supervisor.goal import Goal, Renewal
from prefork.supervisor.mold import MoldStart, Repeat, live_as_mold
from prefork.supervisor.molds import Molds
from prefork.supervisor.notifications import ReforkFailed, ReloadFailed
from prefork.supervisor.resources import Resources
from prefork.supervisor.roster import Roster
from prefork.supervisor.service import Services
from prefork.supervisor.worker_line import Birth
from prefork.system import process, signals
from prefork.system.child import Children
from prefork.system.natives import socket
from prefork.system.need import needed
from prefork.system.orphans import Adoption

if TYPE_CHECKING:
    import ssl
from prefork.worker import Worker

log = logging.getLogger("prefork")


class Nursery:
    """The molds of one server, and the births of their workers.

    Args:
        loop: for what both say.
        children: tells of their ends.
        settings: boot_timeout, crash_limit, graceful_timeout.
        goal: which generation is wanted.
        roster: whose workers live.
        generations: is told what becomes of a mold of new code.
        listeners: what workers accept on.
        molded: whether there are to be molds. If not, those of an image before this one are ended.
        fork: forks a mold of a generation, given its end of the line and of its report pipe, and what it is to have in
            common with one before it; returns the pid.
        born: called with the pid of a worker that is a child of ours.
        unborn: called with those that will not be, and what the system had not enough of, if so.
        fatal: called with the reason when the server can't begin.

    Attributes:
        molds: the molds.
        molded: as above.

    Raises:
        RefusedError: the system does not give orphans to who asks for them.
    """

    def __init__(
        self,
        loop: Loop,
        children: Children,
        settings: Settings,
        goal: Goal,
        roster: Roster,
        generations: Generations,
        listeners: Sequence[Listener],
        *,
        molded: bool,
        fork: Callable[[int, socket.socket, int, Repeat], int],
        born: Callable[[int, Birth], object],
        unborn: Callable[[Sequence[Birth], OSError | None], object],
        fatal: Callable[[PreforkError], object],
    ) -> None:
        self.molded = molded
        self.molds = Molds(
            *(loop, children, settings, goal, roster),
            fork=fork,
            ready=self._ready,
            failed=generations.fail,
            fatal=fatal,
        )
        self._loop = loop
        self._goal = goal
        self._generations = generations
        self._adoption = Adoption(children)
        if molded and settings.immortal:
            from prefork.system.immortal import immortalize

            immortalize()  # in a mold it would copy each page of what it has from here
        if molded:
            with needed("that the workers of a mold are given to their master", "prctl(2)"):
                self._adoption.open()
            self._adoption.close()

        def born_of_it(pid: int, birth: Birth) -> None:
            self.molds.proved()
            born(pid, birth)

        self._births = Births(loop, self._adoption, listeners, born_of_it, unborn)

    def load(self) -> None:
        """Have the application loaded for the first time, if it is a mold that does."""
        if self.molded:
            self.molds.forge(self._goal.generation)

    def renew(self, what: str) -> None:
        """Have new code loaded, and then every worker replaced; ``what`` is why, for the log."""
        self.molds.forge(self._generations.announce(what))

    def refork(self, what: str, paths: tuple[str, ...]) -> None:
        """Have the same code loaded and warmed once more, and then every worker replaced.

        Args:
            what: why, for the log.
            paths: what has been asked for most.
        """
        self.molds.forge(self._generations.announce(what, Renewal.REFORK), paths, same=True)

    def _ready(self) -> None:
        """A mold is READY: if it is of a new generation, that begins."""
        mold = self.molds.current
        if mold is not None and mold.generation > self._goal.generation:
            self._generations.renew()

    def ask(self, births: Sequence[Birth]) -> None:
        """Have workers forked by the mold."""
        mold = self.molds.current
        if mold is None or mold.control is None:
            self._births.refuse(births)
        else:
            self._births.ask(mold.control, births, lambda: self.molds.hung(mold))

    def settle(self) -> None:
        """Take note of who has been born by now."""
        self._births.settle()

    def bereaved(self, death: Death) -> None:
        """A worker has ended: its mold may have no other; and where there is no mold, nobody takes its place yet."""
        goal, slot = self._goal, death.member.slot
        if self.molded and goal.forks.without_mold and goal.ready and not goal.stop.begun and slot < goal.size:
            log.warning("worker %d: another one is forked when there is a mold again", slot)
        self.molds.let_go()

    def stop(self) -> None:
        """The server is going to end: no new code any more."""
        if self.molds.current is not None:
            self.molds.abandon()
            self._goal.loaded()

    def ended(self) -> bool:
        """Nobody is wanted any more: end the molds; whether none is left. To be asked again and again."""
        if not self._births.under_way:
            return self.molds.end()
        deadline = self._goal.stop.deadline
        if deadline is not None and self._loop.clock.monotonic() >= deadline and self.molds.current is not None:
            log.warning("%s is killed: it was still to make workers", self.molds.current)
            self.molds.close()
        return False

    def pause(self) -> bool:
        """Right before an exec: the next image makes a mold of its own; whether no births are under way."""
        if self._births.under_way:
            return False
        loading = self._goal.loading
        self.molds.give_up()
        if loading is not None:
            self._generations.fail(loading, "it was given up for an upgrade")
        return True

    def retreat(self, failed: ReloadFailed | ReforkFailed) -> None:
        """Workers of a generation fail to boot, or there is none: those to come are made as those before."""
        before = self.molds.retreat(failed.generation)
        if before is not None:
            self._goal.retreat(before)
            log.info("workers to come are of generation %d, by its mold", before)

    def go_on(self) -> None:
        """There was no exec: make a mold if there is none. Idempotent."""
        if self.molded:
            self.molds.go_on()

    def passing(self, hook: Callable[[], object]) -> None:
        """Call a hook of the master's."""
        self._adoption.passing(hook)

    def close(self) -> None:
        """Kill whatever is left; for the end of a run that failed. Idempotent."""
        self._births.close()
        self.molds.close()


def fork_mold(
    load: Callable[[], Callable[[], Worker]],
    common: Blueprint,
    held: Resources,
    tls: ssl.SSLContext | None,
    services: Services,
    generation: int,
    control: socket.socket,
    report: int,
    repeat: Repeat,
    private: Iterable[int],
) -> int:
    """Fork a mold.

    Args:
        load: loads the application in it.
        common: what workers have in common.
        held: what they share.
        tls: what connections are secured with; None leaves them plain.
        services: say what is to be called there, and in each worker.
        generation: of its workers.
        control: its end of the line to it.
        report: the writing end of its report pipe.
        repeat: what it is to have in common with one before it.
        private: the descriptors that are the master's alone.

    Returns:
        Its pid.

    Raises:
        OSError: EAGAIN or ENOMEM (fork(2)).
    """
    calls = services.after_fork, services.begin_life
    start = MoldStart(load, common, held, tls, control, report, generation, repeat, *calls, process.name_of("self"))
    runs = process.runs({*private, report})
    with signals.blocked():
        return process.fork(live_as_mold, start, runs)
