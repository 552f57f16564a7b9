"""What can be asked for through the control socket, and how it is done.

Some things are done at once; others (a reload, a worker's tracebacks) take until they have happened, and are answered
then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from prefork.services.control.protocol import Request
from prefork.status.collector import StatusCollector
from prefork.supervisor import notifications, resources
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.death import Death
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.notifications import Notification
from prefork.supervisor.service import ServerView
from prefork.system.record import MutableRecord

log = logging.getLogger("prefork")

Done = Callable[[object], None]
Failed = Callable[[str], None]

DUMP_LOOK: Final = 0.05
"""Seconds between two looks at a worker's report; it is complete when it has not grown between two."""

DUMP_TIME: Final = 3.0
"""Seconds that a worker has for its tracebacks."""

_STOPS: Final = "the server stops"


class _Wait(MutableRecord):
    """Somebody who waits for a notification: ``hears`` answers him and returns True when it is his."""

    hears: Callable[[Notification], bool]
    failed: Failed


class Operations:
    """Carries requests out.

    Args:
        server: the master as services see it.
        collector: takes the status.
    """

    def __init__(self, server: ServerView, collector: StatusCollector) -> None:
        self._server = server
        self._collector = collector
        self._waits: list[_Wait] = []
        self._dumps: dict[int, _Tracebacks] = {}

    def carry_out(self, request: Request, done: Done, failed: Failed) -> None:
        """Carry ``request`` out; one of ``done`` and ``failed`` is called once, now or later."""
        operation: Callable[..., None] = getattr(self, f"_{request.do}")
        try:
            operation(done, failed, **request.arguments)
        except Exception:  # a defect here must not end the server
            log.exception("control: %s failed", request.do)
            failed("it failed by a defect of the server's; its log has the traceback")

    def notify(self, notification: Notification) -> None:
        """Something has happened; whoever waited for it is answered."""
        if isinstance(notification, notifications.Stopping):
            waits, self._waits = self._waits, []
            for wait in waits:
                wait.failed(_STOPS)
        self._waits = [wait for wait in self._waits if not wait.hears(notification)]

    def _health(self, done: Done, failed: Failed) -> None:  # noqa: ARG002  # every operation is given both
        done(self._collector.health())

    def _status(self, done: Done, failed: Failed, processes: bool) -> None:  # noqa: ARG002  # as above
        done(self._collector.status(processes=processes))

    def _stop(self, done: Done, failed: Failed, quick: bool) -> None:  # noqa: ARG002  # as above
        done({"state": "stopping"})
        (self._server.quit if quick else self._server.stop)()

    def _scale(self, done: Done, failed: Failed, workers: int) -> None:
        if self._server.stopping():
            failed(_STOPS)
            return
        before = self._server.goal.size
        problem = self._problem_of(workers)
        if problem:
            failed(f"{workers} workers can't be had: {problem} (there are {before})")
            return
        now = self._server.scale(workers)
        if now != workers:
            failed(f"{workers} workers can't be had; the log says why; there are {now}")
        else:
            done({"workers": now, "before": before})

    def _problem_of(self, workers: int) -> str:
        """Why so many workers can't be had, known before anything is done; "" when nothing speaks against it."""
        server = self._server
        if workers > server.spawner.most:
            return f"this server has room for {server.spawner.most}; set workers or max_workers and start it anew"
        more = workers - max(server.goal.size, len(server.roster))
        return resources.lack_of_descriptors(more) if more > 0 else ""

    def _reload(self, done: Done, failed: Failed, wait: bool) -> None:
        if not self._server.reload():
            failed(_STOPS)
            return
        if self._server.upgrades():
            self._await_upgrade(done, failed, wait)
            return
        generation = self._server.goal.coming

        def hears(notification: Notification) -> bool:
            match notification:
                case notifications.Reloaded(reached) if reached >= generation:
                    done({"generation": reached})
                case notifications.ReloadFailed(reached, reason) if reached >= generation:
                    last = reason.splitlines()[-1]
                    failed(f"generation {reached} failed to boot, the old one goes on: {last}")
                case _:
                    return False
            return True

        if wait:
            self._waits.append(_Wait(hears, failed))
        else:
            done({"generation": generation})

    def _upgrade(self, done: Done, failed: Failed, wait: bool) -> None:
        if self._server.upgrade():
            self._await_upgrade(done, failed, wait)
        else:
            failed(_STOPS if self._server.stopping() else "the server is still starting")

    def _await_upgrade(self, done: Done, failed: Failed, wait: bool) -> None:
        """An upgrade that fails is answered; one that succeeds ends the connection along with the image."""

        def hears(notification: Notification) -> bool:
            if isinstance(notification, notifications.UpgradeFailed):
                failed(f"{notification.reason}; the old code goes on")
                return True
            return False

        if wait:
            self._waits.append(_Wait(hears, failed))
        else:
            done({"generation": self._server.goal.next})

    def _recycle(self, done: Done, failed: Failed, slot: int, wait: bool) -> None:
        member = self._server.roster.incumbent(slot)
        if member is None or slot >= self._server.goal.size:
            failed(f"slot {slot} has no worker")
            return
        if self._server.stopping():
            failed(_STOPS)
            return
        old = member.pid
        self._server.recycle(old, Reason(Cause.RECYCLED))

        def failed_boot(death: Death) -> bool:
            return death.member.slot == slot and death.successor and self._server.boot_failed(death)

        def hears(notification: Notification) -> bool:
            match notification:
                case notifications.WorkerReady(new) if new.slot == slot and new.pid != old:
                    done({"slot": slot, "pid": new.pid, "before": old})
                case notifications.Died(death, _) if failed_boot(death):
                    failed(f"the replacement (pid {death.member.pid}) failed to boot; pid {old} goes on")
                case notifications.Scaled(size) if size <= slot:
                    failed(f"slot {slot} goes, for the server shrinks")
                case _:
                    return False
            return True

        if wait:
            self._waits.append(_Wait(hears, failed))
        else:
            done({"slot": slot, "before": old})

    def _dump(self, done: Done, failed: Failed, slot: int) -> None:
        member = self._server.roster.incumbent(slot)
        if member is None:
            failed(f"slot {slot} has no worker")
            return
        spawner, pid = self._server.spawner, member.pid

        def take() -> None:
            if member.dumped_at is None and member.slow_at is None:  # else it is the log's to take
                spawner.take_report(pid)

        def report() -> str | None:
            return spawner.report(pid) if self._server.roster.get(pid) is member else None

        answer: dict[str, object] = {"slot": slot, "pid": pid}
        self._ask_for_tracebacks(
            *(f"worker {slot} (pid {pid})", answer, lambda: spawner.ask_for_tracebacks(pid), report, take),
            asked=(done, failed),
        )

    def _dump_mold(self, done: Done, failed: Failed) -> None:
        molds = self._server.molds
        mold = molds.coming or molds.current
        if mold is None:
            failed("there is no mold")
            return
        pid = mold.pid
        self._ask_for_tracebacks(
            f"the mold (pid {pid})",
            {"generation": mold.generation, "pid": pid},
            lambda: molds.ask_for_tracebacks(pid),
            lambda: molds.report(pid),
            lambda: molds.take_report(pid),
            asked=(done, failed),
        )

    def _ask_for_tracebacks(
        self,
        who: str,
        answer: dict[str, object],
        ask: Callable[[], object],
        report: Callable[[], str | None],
        take: Callable[[], None],
        *,
        asked: tuple[Done, Failed],
    ) -> None:
        """Have somebody answered who asks for the tracebacks of a process, with all who ask meanwhile."""
        pid = answer["pid"]
        assert isinstance(pid, int)  # as it was put there
        under_way = self._dumps.get(pid)
        if under_way is None:
            under_way = self._dumps[pid] = _Tracebacks(self._server.loop, who, answer, ask, report, take)
            under_way.request(lambda: self._dumps.pop(pid))
        under_way.asked.append(asked)


class _Tracebacks:
    """The tracebacks of one process, on their way: the answer to all who ask before they are there.

    Args:
        loop: for looks at what it reports.
        who: what it is called where it gives none.
        answer: what is answered beside the text.
        ask: asks it for them.
        report: what it has reported and nobody has taken yet; None when it has ended.
        take: takes it.

    Attributes:
        asked: those who are to be answered.
    """

    def __init__(
        self,
        loop: Loop,
        who: str,
        answer: dict[str, object],
        ask: Callable[[], object],
        report: Callable[[], str | None],
        take: Callable[[], None],
    ) -> None:
        self.asked: list[tuple[Done, Failed]] = []
        self._loop = loop
        self._ask = ask
        self._who = who
        self._answer = answer
        self._report = report
        self._take = take
        self._late = False

    def request(self, on_end: Callable[[], object]) -> None:
        """Ask for them; ``on_end`` is called before those who have asked are answered."""
        self._on_end = on_end
        self._deadline = self._loop.call_later(DUMP_TIME, self._is_late)  # a timer: the master may be frozen meanwhile
        self._take()
        self._before = len(self._report() or "")  # the report of a hang is on its way, and the log's to take
        self._ask()
        self._look_again(self._before)

    def _is_late(self) -> None:
        self._late = True

    def _look_again(self, seen: int) -> None:
        self._loop.call_later(DUMP_LOOK, lambda: self._look(seen))

    def _look(self, seen: int) -> None:
        report = self._report()
        if report is None:
            self._fail("ended meanwhile")
        elif len(report) > self._before and len(report) == seen:
            self._take()
            text = report[self._before :]
            self._deadline.cancel()
            self._on_end()
            for done, _ in self.asked:
                done({**self._answer, "text": text})
        elif self._late:
            self._fail(f"gave no traceback within {DUMP_TIME:g} s; it may be frozen")
        else:
            self._look_again(len(report))

    def _fail(self, why: str) -> None:
        self._deadline.cancel()
        self._on_end()
        for _, failed in self.asked:
            failed(f"{self._who} {why}")
