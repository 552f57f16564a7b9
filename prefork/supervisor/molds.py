"""Molds: the processes that have loaded the application, one for each generation of workers that lives.

    forge -> loading -> READY: current, and with it a new generation -> no worker of it is left -> ended
                     -> failed, hung, killed: what was before goes on
    current, and its workers fail to boot -> what was before is current again

With one that serves as a pattern there is no need to execute the master anew for new code: a reload is a mold of new
code beside the one before, whose workers are replaced when it is READY. Nothing has changed if it never is.

A mold that dies is made anew, after a pause that grows. Its workers know nothing of it and serve on; those to come
wait, since whoever would load the application for himself would not be faster. One that has gone out of use stays until
its last worker has gone: what it has registered to be done in the end (atexit, temporary folders) is the workers' too.

All of it runs in the MASTER, and its code is the only one there that knows of molds by their processes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from prefork.config.settings import Settings
from prefork.errors import PreforkError
from prefork.supervisor import tracebacks
from prefork.supervisor.event_loop import Loop, Timer
from prefork.supervisor.exits import boot_error
from prefork.supervisor.goal import Goal
from prefork.supervisor.handover import MoldLife
from prefork.supervisor.mold import READY, Repeat
from prefork.supervisor.roster import Roster
from prefork.supervisor.worker_line import own_frames
from prefork.system import process, signals
from prefork.system.backoff import Backoff
from prefork.system.child import Child, Children, ReportPipe
from prefork.system.natives import os, signal, socket
from prefork.system.record import MutableRecord
from prefork.system.throttle import Excerpts

log = logging.getLogger("prefork")

ANEW: Final = Backoff(initial=0.1, factor=2.0, maximum=30.0, jitter=0.0)
"""How long it takes until a mold that has died is made anew: longer each time in a row."""

ENDING: Final = 2.0
"""Seconds that a mold which is not wanted any more has for its end."""

_REPORT_BYTES: Final = 64 * 1024
_READY_BYTES: Final = 64 * 1024
_DUMP_TIME: Final = 0.5
_FROM_OUTSIDE: Final = frozenset({9, 15, 2})  # somebody's doing, unlike SIGSEGV


class Mold(MutableRecord):
    """One mold.

    Attributes:
        generation: of its workers.
        control: the line to it; None once it is told to end.
        born: when it was forked, monotonic seconds.
        pipe: by which it reports.
        child: its process.
        ready_at: when it was READY; None before.
        deadline: when its time is over, to load or to end.
        late: whether it was.
        paths: what it was warmed with beside what the settings say.
        code: what it has loaded, as it says; b"" when nobody asks.
        adopted: whether an earlier image has made it, so that it is not to be asked for anything.
    """

    generation: int
    control: socket.socket | None
    born: float
    pipe: ReportPipe
    child: Child | None = None
    ready_at: float | None = None
    deadline: Timer | None = None
    late: bool = False
    paths: tuple[str, ...] = ()
    code: bytes = b""
    adopted: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return 0 if self.child is None else self.child.pid

    def frames(self) -> str:
        """The tracebacks among what it has reported so far, but for the frames that are ours."""
        self.pipe.read()
        return own_frames(self.pipe.text.decode(errors="replace"))

    def __str__(self) -> str:
        """As log lines name it."""
        return f"mold (pid {self.pid}, generation {self.generation})"


class Molds:
    """The molds of one server.

    Args:
        loop: for what they say, and deadlines.
        children: tells of their ends.
        settings: boot_timeout, crash_limit.
        goal: whether forks wait for one.
        roster: whose workers live.
        fork: forks one of a generation, which has the two descriptors, and what it is to have in common with one before
            it; returns its pid, or raises OSError.
        ready: called when one of a new generation is READY.
        failed: called with the generation and the reason when one of a new generation will not be.
        fatal: called with the reason when the server can't begin for it.

    Attributes:
        current: the one of which workers are made; None while there is none.
        coming: one that loads.
        former: those that are not used any more, and whose workers may live.
    """

    def __init__(
        self,
        loop: Loop,
        children: Children,
        settings: Settings,
        goal: Goal,
        roster: Roster,
        *,
        fork: Callable[[int, socket.socket, int, Repeat], int],
        ready: Callable[[], object],
        failed: Callable[[int, str], object],
        fatal: Callable[[PreforkError], object],
    ) -> None:
        self._loop = loop
        self._children = children
        self._settings = settings
        self._goal = goal
        self._roster = roster
        self._fork = fork
        self._ready = ready
        self._failed = failed
        self._fatal = fatal
        self._excerpts = Excerpts()
        self._deaths = 0
        self._again: Timer | None = None
        self.current: Mold | None = None
        self.coming: Mold | None = None
        self.former: list[Mold] = []

    # Making one.

    def forge(self, generation: int, paths: tuple[str, ...] = (), *, same: bool = False) -> None:
        """Make one of the code that is there now; another one that is being made is given up.

        Args:
            generation: of its workers.
            paths: what it is to be warmed with, beside what the settings say.
            same: whether it is of no use if that code is not the current one's.
        """
        self.abandon()
        if self.current is None:
            self._goal.forks.await_mold()
        code = None
        if self._settings.refork_after:
            code = self.current.code if same and self.current is not None else b""
        try:
            self.coming = self._forge(generation, Repeat(paths, code))
        except OSError as error:
            self._not_made(generation, f"no process is to be had for it: {error}", "", 0, killed=True)

    def _forge(self, generation: int, repeat: Repeat) -> Mold:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pipe, writer = ReportPipe.made(self._loop, _REPORT_BYTES)
            except OSError:
                ours.close()
                raise
            mold = Mold(generation, ours, self._loop.clock.monotonic(), pipe, paths=repeat.paths)
            try:
                ours.setblocking(False)
                self._loop.register(ours.fileno(), lambda: self._hear(mold))
                pid = self._fork(generation, theirs, writer, repeat)
            except BaseException:
                self._loop.unregister(ours.fileno())
                ours.close()
                pipe.close()
                raise
            finally:
                os.close(writer)
        self._watch(mold, pid)
        if self._settings.boot_timeout:
            mold.deadline = self._loop.call_later(self._settings.boot_timeout, lambda: self._too_long(mold))
        log.debug("%s loads the application", mold)
        return mold

    def _watch(self, mold: Mold, pid: int) -> None:
        mold.child = self._children.watch(pid, "mold", mold.pipe, lambda ended: self._ended(mold, ended))

    def _hear(self, mold: Mold) -> None:
        """It is READY, or has closed the line."""
        if mold.control is None:
            return
        try:
            said = mold.control.recv(_READY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._wait_for_its_end(mold)
        elif mold is self.coming:
            mold.code = said.removeprefix(READY)
            self._take(mold)

    def _wait_for_its_end(self, mold: Mold) -> None:
        """It has closed its line, as a process that ends does: its exit tells the rest. Without it it is no mold."""
        self._hang_up(mold)
        if mold.deadline is not None:
            mold.deadline.cancel()
        mold.deadline = self._loop.call_later(ENDING, lambda: self._is_deaf(mold))

    def _is_deaf(self, mold: Mold) -> None:
        log.error("%s has closed its line to the master, and lives on; it is killed", mold)
        process.kill(mold.pid, signal.SIGKILL)

    def _take(self, mold: Mold) -> None:
        """Use ``mold`` from now on."""
        self.coming = None
        if mold.deadline is not None:
            mold.deadline.cancel()
        mold.ready_at = self._loop.clock.monotonic()
        log.info("%s has loaded the application in %.1f s", mold, mold.ready_at - mold.born)
        if self.current is not None:
            self.former.append(self.current)
        self.current = mold
        self._goal.forks.mold_ready()
        self._ready()
        self.let_go()

    def retreat(self, generation: int) -> int | None:
        """Workers of a generation can't be had. If the mold of those before is still there, use that again.

        Returns:
            Its generation; None when there is no such mold, or that generation has never had one.
        """
        failing = self.current
        current = self._goal.generation if failing is None else failing.generation
        usable = [
            one for one in self.former if one.ready_at is not None and one.control is not None and not one.adopted
        ]
        if current != generation or not usable:
            return None
        if failing is None and (self.coming is None or self.coming.generation == generation):
            self.abandon()
        self.current = max(usable, key=lambda one: one.generation)
        self.former.remove(self.current)
        if failing is not None:
            self.former.append(failing)
        self._deaths = 0
        self._goal.forks.mold_ready()
        self.let_go()
        return self.current.generation

    # Ends.

    def _ended(self, mold: Mold, ended: process.Exit) -> None:
        """It is dead."""
        self._hang_up(mold)
        if mold.deadline is not None:
            mold.deadline.cancel()
        report = mold.pipe.text.decode(errors="replace").strip()
        if mold is self.coming:
            self.coming = None
            self._not_loaded(mold, ended, report)
        elif mold is self.current:
            self.current = None
            self._died(mold, ended, report)
        else:
            self.former.remove(mold)
            log.debug("%s %s", mold, ended)
            if mold.late:
                log.warning("%s did not end; it was killed", mold)

    def _not_loaded(self, mold: Mold, ended: process.Exit, report: str) -> None:
        """One that was loading is dead."""
        how = f"{ended} before it was ready"
        if mold.late:
            report, how = "", f"ended, for it was not ready within boot_timeout ({self._settings.boot_timeout:g} s)"
        killed = ended.signal in _FROM_OUTSIDE and not mold.late
        self._not_made(mold.generation, report, how, ended.code or 0, killed=killed)

    def _not_made(self, generation: int, report: str, how: str, code: int, *, killed: bool) -> None:
        """There is no mold for a generation.

        Args:
            generation: which.
            report: what the process said: one line, or a traceback; "" when there is nothing.
            how: what became of it.
            code: its exit code.
            killed: whether that may be somebody's doing, and not the application's.
        """
        self._deaths += 1
        begun = self._goal.ready
        error = boot_error(code, report, f"the mold was {how}")
        fatal = not begun and not (killed and self._deaths < self._settings.crash_limit)
        if not fatal or "\n" in report:
            said = self._excerpts.of(report) or f"it was {how}"
            log.error("the mold of generation %d failed to load the application: %s", generation, said)
        if fatal:
            self._fatal(error)
            return
        if begun and generation > self._goal.generation:
            self._failed(generation, report or f"the mold was {how}")
        if self.current is None:
            self._make_anew(generation)

    def _died(self, mold: Mold, ended: process.Exit, report: str) -> None:
        self._deaths += 1
        self._goal.forks.await_mold()
        log.error(
            "%s %s%s; its workers go on, and those to come wait for another",
            mold,
            ended,
            f": {self._excerpts.of(report)}" if report else "",
        )
        if self._deaths >= self._settings.crash_limit:
            self._barren(mold, ended, report)
        if self.coming is None and self.current is None:
            self._make_anew(mold.generation, mold.paths)

    def _barren(self, mold: Mold, ended: process.Exit, report: str) -> None:
        """It loads, and so many in a row have died before a worker was made of them: as a boot that fails is that."""
        how = f"the mold ended ({ended}), as {self._deaths} in a row did, before a worker was made of it"
        if not self._goal.ready:
            self._fatal(boot_error(ended.code or 0, report, how))
        elif self._goal.rolling and mold.generation == self._goal.generation:
            self._failed(mold.generation, report or how)

    def _make_anew(self, generation: int, paths: tuple[str, ...] = ()) -> None:
        if self._goal.stop.begun:
            return
        seconds = ANEW.delay(self._deaths - 1, 0.0)
        self._again = self._loop.call_later(seconds, lambda: self.forge(generation, paths))

    def _too_long(self, mold: Mold) -> None:
        """It has been loading for too long: have it say where, and end it."""
        log.error("%s has been loading the application for %.1f s", mold, self._settings.boot_timeout)
        mold.late = True
        self._ask(mold)
        mold.deadline = self._loop.call_later(_DUMP_TIME, lambda: self._put_down(mold))

    def _put_down(self, mold: Mold) -> None:
        log.error("%s: %s", mold, self._excerpts.of_frames(mold.frames().strip()) or "it gave no traceback")
        mold.pipe.text.clear()
        process.kill(mold.pid, signal.SIGKILL)

    def proved(self) -> None:
        """A worker has been born of the current one: no death speaks against those to come."""
        self._deaths = 0

    def hung(self, mold: Mold) -> None:
        """It does not do what it was asked for; one that has ended meanwhile has told the reason."""
        if mold not in self._all():
            return  # its pid may be another's by now
        log.error("%s does not fork workers; it is killed", mold)
        process.kill(mold.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Give up the one that loads, or waits to be made. Idempotent."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        mold, self.coming = self.coming, None
        if mold is not None:
            log.info("%s is given up", mold)
            process.kill_main_thread(mold.pid, signals.WAKE_UP)
            self.former.append(mold)
            self._tell_to_end(mold, ENDING)

    def give_up(self) -> None:
        """As `abandon`, and wait for the end, which takes a moment: the next image of this process is not told."""
        mold = self.coming
        self.abandon()
        if mold is not None and mold.child is not None:
            if mold.deadline is not None:
                mold.deadline.cancel()
            self.former.remove(mold)
            mold.child.put_down()

    def go_on(self) -> None:
        """What the one that loads, or waits to be made, was given up for has come to nothing. Idempotent."""
        if self.current is None and self.coming is None and self._again is None:
            self._make_anew(self._goal.generation)

    def let_go(self) -> None:
        """End those whose last worker has gone."""
        lived = {member.generation for member in self._roster} if self.former else ()
        for mold in self.former:
            if mold.control is not None and mold.generation not in lived:
                self._tell_to_end(mold, self._settings.graceful_timeout)

    def _tell_to_end(self, mold: Mold, seconds: float) -> None:
        """Close its line; in ``seconds``, or by the deadline of a stop, it has ended or is killed."""
        if mold.deadline is not None:
            mold.deadline.cancel()
        self._hang_up(mold)
        stop = self._goal.stop
        if stop.begun and stop.deadline is not None:
            seconds = min(seconds, max(ENDING, stop.deadline - self._loop.clock.monotonic()))
        mold.deadline = self._loop.call_later(seconds, lambda: self._kill(mold))

    def _kill(self, mold: Mold) -> None:
        mold.late = True
        process.kill(mold.pid, signal.SIGKILL)

    def _hang_up(self, mold: Mold) -> None:
        if mold.control is not None:
            self._loop.unregister(mold.control.fileno())
            mold.control.close()
            mold.control = None

    def end(self) -> bool:
        """The workers are gone: end all of them; whether none is left. To be asked again and again."""
        self.abandon()
        if self.current is not None:
            self.former.append(self.current)
            self.current = None
        self.let_go()
        return not self.former

    def close(self) -> None:
        """Kill whatever is left; for the end of a run that failed."""
        if self._again is not None:
            self._again.cancel()
        for mold in self._all():
            self._hang_up(mold)
            if mold.child is not None:
                mold.child.put_down()
        self.coming = self.current = None
        self.former.clear()

    def report(self, pid: int) -> str | None:
        """What one has reported and nobody has taken yet; None when there is no such one."""
        for mold in self._all():
            if mold.pid == pid:
                return mold.frames()
        return None

    def ask_for_tracebacks(self, pid: int) -> None:
        """Have one report the tracebacks of its threads."""
        for mold in self._all():
            if mold.pid == pid:
                self._ask(mold)

    def _ask(self, mold: Mold) -> None:
        tracebacks.ask(self._loop, mold.pid, mold.pipe, lambda: mold in self._all())

    def take_report(self, pid: int) -> None:
        """Forget it, unless it is what the log is going to have."""
        for mold in self._all():
            if mold.pid == pid and not mold.late:
                mold.pipe.text.clear()

    def _all(self) -> list[Mold]:
        return [mold for mold in (self.current, self.coming, *self.former) if mold is not None]

    # Over an exec.

    def lives(self) -> tuple[MoldLife, ...]:
        """What the next image of this process has to know of them; it makes its own, and ends these."""
        molds = [mold for mold in (self.current, *self.former) if mold is not None and mold.child is not None]
        return tuple(
            MoldLife(
                pid=mold.pid,
                generation=mold.generation,
                born=mold.born,
                control=None if mold.control is None else mold.control.fileno(),
                report=mold.pipe.reader if mold.pipe.reader >= 0 else None,
                pidfd=mold.child.pidfd if mold.child is not None else None,
            )
            for mold in molds
        )

    def adopt(self, lives: tuple[MoldLife, ...]) -> None:
        """Take over those of an earlier image; they are not used any more."""
        for life in lives:
            control = None if life.control is None else socket.socket(fileno=life.control)
            pipe = ReportPipe(self._loop, -1 if life.report is None else life.report, _REPORT_BYTES)
            mold = Mold(life.generation, control, life.born, pipe, ready_at=life.born, adopted=True)
            if life.pidfd is not None:
                os.close(life.pidfd)
            if control is not None:
                control.setblocking(False)
                self._loop.register(control.fileno(), lambda mold=mold: self._hear(mold))  # type: ignore[misc]  # mypy can't infer a lambda with a default
            self._watch(mold, life.pid)
            self.former.append(mold)
        self.let_go()
