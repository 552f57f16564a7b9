"""Lanes: the threads of one worker, each with a connection in hand; and its main thread, which looks after them.

A lane waits for the lead (`prefork.accept.lead`), takes a connection, and serves it as a worker with one lane does.
Each has its own words of the scoreboard: since when it is busy, its deadline, what it has served.

The main thread serves nobody. Signals are its affair alone, so orders are heard whatever the lanes are at. And while
something is in hand and no lane waits, it waits in their place: for the word that no process is idle any more, and for
parked connections that speak, which it passes to whoever is. It looks `STUCK` seconds after a lane has left the lead
vacant whether that is so, which is where what is quick has been served long since; while a lane waits it sleeps.

To the interpreter these threads are daemons: a boot that fails has none to join. To what handlers start in them they
are not, so that threads of an application are joined in the end as they are everywhere.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, Final

from prefork.accept.acceptor import Accepted
from prefork.accept.laned_acceptor import NOTHING, LanedAcceptor, LanedKeepaliveAcceptor
from prefork.accept.laned_parking import LanedParking
from prefork.accept.lead import LaneThread, Lead
from prefork.accept.offspring import leave
from prefork.accept.parked_connections import KEPT
from prefork.accept.strays import Strays
from prefork.accept.worker_context import WorkerContext
from prefork.errors import RefusedError
from prefork.net import accept_errors as table
from prefork.net.proxy_protocol import ProxyProtocolError
from prefork.net.tls import HandshakeError
from prefork.scoreboard.entry import Lane
from prefork.scoreboard.events import Why
from prefork.system.descriptors import readable
from prefork.system.forks import HERE
from prefork.system.natives import os, select, signal, socket, threading, time
from prefork.system.peer import format_peer

STUCK: Final = 0.005
"""Seconds that the lead may be vacant, with something in hand, until the main thread looks after it."""

_LONG: Final = 0.008  # seconds after which who speaks is passed on though nobody is idle: somebody will be sooner
_PAUSE: Final = 0.002  # seconds until another try when nobody can be passed on
_FIRST_LOOK: Final = 0.05  # seconds until the first look whether somebody waits whom no idle process comes for,
_LOOK_MOST: Final = 1.0  # and at the most
_MOST_WAKES: Final = 1 << 16  # bytes that a pipe holds

LaneHandle = Callable[[socket.socket, Any], object]


class Lanes:
    """The lanes of one worker.

    Args:
        given: what the worker is given.

    Attributes:
        acceptor: their common way to accept.

    Raises:
        OSError: no descriptor for what they need.
    """

    def __init__(self, given: WorkerContext) -> None:
        self._given, self._entry, self._log = given, given.entry, given.log
        self._awakened, self._wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # In a SO_REUSEPORT group each process has a queue of its own, which no other can empty.
        stances = given.entry.spread(given.settings.threads, shared=not given.settings.reuse_port)
        self._lead = Lead(given.entry, stances, self._rouse, self._ring)
        given.leaks.lanes_busy = lambda: self._lead.in_hand
        self._keeping: LanedKeepaliveAcceptor | None = None
        self.acceptor: LanedAcceptor | LanedKeepaliveAcceptor
        if given.queue is None:
            self.acceptor = LanedAcceptor(given, self._lead)
        else:
            self.acceptor = self._keeping = LanedKeepaliveAcceptor(given, given.queue, self._lead)
        self._ends = [self._awakened, given.entry.stop_fd]  # of each wait of the main thread
        self._poll = select.poll()
        for descriptor in self._ends:
            self._poll.register(descriptor, select.POLLIN)
        self._connections: Iterator[Accepted] = iter(())
        self._lanes = [LaneThread(number, marks) for number, marks in enumerate(given.entry.lanes)]
        self._threads: list[threading.Thread] = []
        self._running = set(self._lanes)
        self._handles: list[LaneHandle] = []
        self._told: list[Callable[[Any], object] | None] = []
        self._let_go: Callable[[socket.socket], object] = _nothing
        self._strays = Strays(given.log, given.entry.lanes)
        self._failure: BaseException | None = None
        self._taken = 0
        HERE.spread()
        given.offspring.parted.append(self._part)

    @property
    def parking(self) -> LanedParking | None:
        """The parked connections; None when none are kept."""
        return None if self._keeping is None else self._keeping.laned

    # What the main thread does.

    def start(self) -> None:
        """MAIN THREAD. Start the threads, which wait for :meth:`run`.

        Raises:
            RefusedError: there are not as many to be had.
        """
        for lane in self._lanes:
            thread = threading.Thread(target=self._run, args=(lane,), name=f"lane-{lane.number}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise RefusedError(
                    f"threads: {len(self._lanes)} can't be started in a worker, {lane.number} could (clone(2)): "
                    f"{error}; give fewer, or raise what limits them (TasksMax=, ulimit -u, pids.max)"
                ) from None
            self._threads.append(thread)

    def run(
        self,
        handle_of: Callable[[Lane], LaneHandle],
        told_of: Callable[[Lane], Callable[[Any], object] | None],
        let_go: Callable[[socket.socket], object],
    ) -> None:
        """MAIN THREAD. Serve until it is time to leave, and all lanes have finished.

        Args:
            handle_of: gives the handle of a lane, which is called with a connection and its peer's address.
            told_of: gives what is called with the peer's address of each connection that a lane has; None is nothing.
            let_go: called with a connection before it is closed.

        Raises:
            BaseException: what the acceptor has raised, or what is raised here again and again.
        """
        self._handles = [handle_of(marks) for marks in self._entry.lanes]
        self._told = [told_of(marks) for marks in self._entry.lanes]
        self._let_go = let_go
        self._connections = self.acceptor.connections()
        # A signal may come to any thread, and its handler is the main thread's, which has to hear of it in its sleep.
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        self._lead.open()
        while True:
            try:
                self._watch()
                while self._running:
                    self._sleep()
                for thread in self._threads:
                    thread.join()
                break
            except BaseException as error:  # noqa: BLE001  # a handler of the application's, of a signal, has raised it
                leave(error)
                self._strays.outlive(error)
                self._lead.heal()
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        """Look after the lead until nothing more is to be waited for."""
        lead, vacancies = self._lead, 0
        while not lead.over:
            if lead.leaving:
                if self._entry.stop_fd in self._ends:  # it is readable from now on
                    self._ends.remove(self._entry.stop_fd)
                    self._poll.unregister(self._entry.stop_fd)
                lead.give()  # the way that all have in common is to be gone to its end
                self._sleep()
            elif lead.needs_no_look(vacancies):
                self._sleep()
            else:
                turns, vacancies = lead.turns, lead.vacancies
                self._sleep(STUCK)
                if lead.vacant(turns):
                    self._look_after(turns)
                    lead.attended = False

    def _look_after(self, turns: int) -> None:
        """Nobody waits, and what is in hand is not quick: have a lane wait, or wait in its place."""
        lead, keeping = self._lead, self._keeping
        began, look = time.monotonic(), _FIRST_LOOK
        while lead.vacant(turns) and not lead.leaving:
            stands_by = lead.waits_for_the_bell()
            if not stands_by and lead.give():
                return
            passing = None if self._entry.serves_alone else keeping
            if not lead.attend(turns):
                return
            self._sleep(self._span(look if stands_by else None, passing), *self._what_comes(stands_by, passing))
            if stands_by and readable(self._given.bell):
                self._hear_the_bell()
                continue
            if passing is not None and (passing.laned.found or readable(passing.laned.fileno())):
                self._pass_some(passing, stands_by=stands_by, long=time.monotonic() - began >= _LONG)
            elif stands_by and time.monotonic() - began >= look:
                began, look = time.monotonic(), min(2 * look, _LOOK_MOST)
                if self.acceptor.waiting():
                    lead.at_once = True
                    lead.give()

    def _span(self, look: float | None, passing: LanedKeepaliveAcceptor | None) -> float | None:
        """Seconds to wait in the lanes' place: until the next look, a parked connection is due, or another try."""
        keeping = self._keeping
        if keeping is None:
            return look
        again = _LOOK_MOST if passing is None else _PAUSE if keeping.laned.found else None
        return min((span for span in (look, keeping.laned.expire(), again) if span is not None), default=None)

    def _what_comes(self, stands_by: bool, passing: LanedKeepaliveAcceptor | None) -> Iterator[int]:
        """What is waited for in the lanes' place: the bell, and those who speak if others can have them."""
        if stands_by:
            yield self._given.bell
        if passing is not None:
            yield passing.laned.fileno()

    def _pass_some(self, keeping: LanedKeepaliveAcceptor, *, stands_by: bool, long: bool) -> None:
        """Pass on who speaks on a parked connection, or have a lane of this process serve him."""
        idle = self._entry.idle_beside
        some = keeping.laned.take_speakers(len(keeping.laned) if long else idle)
        passed = keeping.pass_on(some)
        if (passed < len(some) or keeping.laned.found) and not (stands_by and self._lead.give()):
            self._sleep(_PAUSE)

    def _sleep(self, seconds: float | None = None, *descriptors: int) -> None:
        """Wait for one of ``descriptors``, until a lane or an order to leave ends it."""
        if descriptors:
            readable(*self._ends, *descriptors, seconds=seconds)
        else:
            self._poll.poll(None if seconds is None else seconds * 1000)
        try:
            os.read(self._awakened, _MOST_WAKES)
        except BlockingIOError:
            pass

    def _rouse(self) -> None:
        try:
            os.write(self._wakes, b"\0")
        except BlockingIOError:
            pass  # it is awake, and has not looked for long

    def _ring(self) -> None:
        """No process is idle any more: all that stand by are to wait for connections with another lane."""
        os.eventfd_write(self._given.bell, 1)

    def _hear_the_bell(self) -> None:
        try:
            os.eventfd_read(self._given.bell)
        except BlockingIOError:
            pass  # another process has

    # What a lane does.

    def _run(self, lane: LaneThread) -> None:
        threading.current_thread()._daemonic = False  # type: ignore[attr-defined]  # noqa: SLF001  # see above: there is no other way to be both
        assert lane.marks is not None
        self._entry.enter(lane.marks)
        stray: BaseException | None = None
        while True:
            try:
                if stray is not None:
                    self._outlive(lane, lane.marks, stray)
                    stray = None
                self._work(lane, lane.marks)
                break
            except BaseException as error:  # noqa: BLE001  # it is told, and raised by the main thread if it is the end
                if error is stray:
                    self._failure = self._failure or error
                    self._lead.finish()
                    break
                stray = error
        self._running.discard(lane)
        self._rouse()

    def _work(self, lane: LaneThread, marks: Lane) -> None:
        """Take and serve connections until it is time to leave."""
        lead, limit = self._lead, self._given.limit
        while True:
            if lane.accepted is None:  # else an exception has come since it was
                if not lead.await_lead(lane):
                    return None
                for lane.accepted in self._connections:  # no moment between the two: see prefork.accept.acceptor
                    break
                else:
                    return lead.finish()
                if lane.accepted is NOTHING:
                    lane.accepted = None
                    lead.stand_by(lane)
                    continue
                self._taken += 1
                if self._taken == limit:
                    self._entry.ask_to_be_recycled(Why.MAX_REQUESTS)
            began = marks.begin()  # before anybody else goes on: a worker that only hangs is ended
            lead.took(lane)
            self._serve(lane, marks, began)

    def _serve(self, lane: LaneThread, marks: Lane, began: int) -> None:
        """Serve what is in hand."""
        connection, address = lane.accepted
        HERE.copied = False
        failed = True
        try:
            told = self._told[lane.number]
            if told is not None:
                told(address)
            if self._handles[lane.number](connection, address) is KEPT:
                connection = KEPT
                lane.accepted = KEPT, address
            failed = False
        except (HandshakeError, ProxyProtocolError):
            pass  # it has been told
        except BaseException as error:  # noqa: BLE001  # the worker outlives whatever a handler does
            leave(error)
            self._log.exception("the handler failed on a connection from %s", format_peer(address))
            if errno.EMFILE in table.errnos(error):
                self.acceptor.exhausted = True
        finally:
            self._let_go(connection)
            connection.close()
            if connection.fileno() >= 0:
                # The handler keeps a file on it (makefile), and the client would wait for the end for as long.
                os.close(connection.detach())
            leave()  # out of a process that the handler has forked
            lane.accepted = None
            self._lead.done(lane, marks.end(began, failed))

    def _outlive(self, lane: LaneThread, marks: Lane, error: BaseException) -> None:
        """Go on after an exception that the application had raised in this thread while nothing was in hand.

        Raises:
            BaseException: ``error``, when it is ours, or when there is no end to it.
        """
        leave(error)
        if self.acceptor.given_up:
            raise error
        if marks.began:  # the end of what was in hand has been interrupted
            marks.end(marks.began, failed=True)
            if lane.accepted is not None:
                lane.accepted[0].close()
                lane.accepted = None
            if self._keeping is not None:
                self._keeping.laned.abandon()
        self._lead.recover(lane)
        if self._lead.leader is lane:
            self._connections = self.acceptor.connections()
        self._strays.outlive(error)

    def _part(self) -> None:
        """In a process that a handler has forked: have nothing of what the other lanes have in hand."""
        signal.set_wakeup_fd(-1)  # this thread is the main one here
        own = threading.current_thread()
        for lane, thread in zip(self._lanes, self._threads, strict=False):
            if thread is not own and lane.accepted is not None:
                lane.accepted[0].close()


BOTTOM: Final = Lanes._run.__code__  # noqa: SLF001  # of this module
"""What a lane's thread begins with, as its tracebacks show it."""


def _nothing(_: socket.socket) -> None:
    """Nothing: before there is a connection."""


def timed(handle: LaneHandle, seconds: float) -> LaneHandle:
    """A handle whose connections have a timeout."""

    def serve(connection: socket.socket, address: Any) -> None:
        connection.settimeout(seconds)
        handle(connection, address)

    return serve
