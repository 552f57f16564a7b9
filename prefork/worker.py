"""The worker: what users subclass. Everything here runs in the WORKER process.

The life of that process is :mod:`prefork.supervisor.forked`. What it asks of a worker beyond what subclasses know, it
is given by ``__prefork__``, a name that none of them has by accident.
"""

from __future__ import annotations

import contextlib
import copy
import errno
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from prefork.accept.acceptor import Acceptor, Blocking, Exclusive
from prefork.accept.dialogue import Dialogue
from prefork.accept.keepalive_acceptor import KeepaliveAcceptor
from prefork.accept.keepalive_handle import KeepaliveHandle
from prefork.accept.keeping import Keeping
from prefork.accept.lanes import Lanes, timed
from prefork.accept.loop_listener import Inlet, Intake, inlet_on
from prefork.accept.offspring import leave
from prefork.accept.parked_connections import KEPT
from prefork.accept.strays import Strays
from prefork.accept.worker_context import MoldContext, WorkerContext, WorkerControls
from prefork.accept.worker_facts import WorkerFacts
from prefork.accept.worker_marks import WorkerMarks
from prefork.config.rules import refuse_loop
from prefork.config.settings import Settings
from prefork.errors import RefusedError, TargetError
from prefork.net import accept_errors as table
from prefork.net.proxy_protocol import ProxyHeader, ProxyProtocolError
from prefork.net.proxy_reader import PATIENCE, Proxied, ProxyReader
from prefork.net.tls import Behind, HandshakeError
from prefork.scoreboard.entry import Entry, Lane
from prefork.scoreboard.events import EventKind, Why
from prefork.scoreboard.layout import Accepts, Order, State
from prefork.system.descriptors import readable
from prefork.system.forks import HERE
from prefork.system.natives import os, signal, socket
from prefork.system.need import refused
from prefork.system.peer import format_peer

eventfd = os.eventfd
eventfd_write = os.eventfd_write

# Bound once: what an enum's class is asked for costs several pages in a process that has just been forked.
_RUN, _SERVING, _STOPPING, _READY = Order.RUN, State.SERVING, State.STOPPING, EventKind.READY
_ASKED, _USUAL = Accepts.ASKED, Accepts.USUAL
_STOP_FLAGS = os.EFD_CLOEXEC | os.EFD_NONBLOCK


class Worker(WorkerFacts, WorkerMarks, Dialogue, Keeping):
    """One process of the server; subclass it and override :meth:`handle`, or :meth:`run` for a loop of your own.

    A subclass that defines ``__init__`` takes no arguments there.

    Attributes:
        handshakes: whether the usual loop does that before it calls :meth:`handle`. A subclass that says False does it
            by itself, with ``tls``; one with a loop of its own has to, or ``certfile`` fails the boot.
        timeouts: whether the usual loop sets ``io_timeout`` as the timeout of each connection.
    """

    handshakes: ClassVar[bool] = True
    timeouts: ClassVar[bool] = True

    _usual: Blocking | None
    _entry: Entry
    _ready = False
    _taken = 0
    _acceptor: Acceptor | None = None
    _connections: Iterator[tuple[socket.socket, Any]] | None = None
    _accepted_one: tuple[socket.socket, Any] | None = None
    _strays: Strays | None = None
    _lanes: Lanes | None = None
    _proxies: ProxyReader | None = None
    _known: socket.socket | None = None
    _intakes: list[Intake]
    _callbacks: list[Callable[[], object]]

    # What a subclass may override.

    def init(self) -> None:
        """Prepare this worker; called once, before it is READY. An exception ends the boot."""

    def warm(self) -> None:
        """With ``preload``, in the mold: do what workers are not to do for the first time.

        Called once there, on a worker of which neither :meth:`init` nor anything else is called; it has
        :attr:`settings` and :attr:`log`. Workers are forked of that process afterwards. An exception ends the load.
        """

    def run(self) -> None:
        """Serve until it is time to leave.

        A loop of one's own takes connections from :meth:`accept`, or gives :meth:`inlets` to another server and ends
        that one through :meth:`on_stop` or :attr:`stop_fd`.
        """
        if self._lanes is not None:
            return self._lanes.run(self._handle_of, self._told_of_connections, self._let_go)
        handle = self._handle_of(self._entry.lane)
        stray: BaseException | None = None
        while True:
            try:
                if stray is not None:
                    self._outlive(stray)
                    stray = None
                return self._contend(handle)
            except BaseException as error:
                if error is stray:  # it is not to be outlived
                    raise
                stray = error

    def _handle_of(self, lane: Lane) -> Callable[[socket.socket, Any], object]:
        """What the usual loop calls for a connection of one lane: handle(), behind whatever comes before it."""
        handle: Callable[[socket.socket, Any], object] = self.handle
        put_off = self._put_off if self._given.settings.timeout else None
        proxies = self._proxies if self._lanes is None else copy.copy(self._proxies)  # what it is at is one lane's
        if self._given.tls is not None and self.handshakes:
            handle = Behind(handle, self._given.tls, self._given.log, put_off)
        timeout = self._given.settings.io_timeout if self.timeouts else 0.0
        if isinstance(self._acceptor, KeepaliveAcceptor):
            handle = KeepaliveHandle(handle, self._acceptor, lane, timeout, proxies, put_off).serve
        elif proxies is not None:
            handle = Proxied(handle, proxies, put_off, timeout)
        elif timeout:  # kept ones have theirs, and those with a header when it is read: each call with one is two
            handle = timed(handle, timeout)
        return handle

    def _contend(self, handle: Callable[[socket.socket, Any], object]) -> None:
        """Accept and serve until it is time to leave."""
        lane, limit, short = self._entry.lane, self._given.limit, False
        told = self._told_of_connections(lane)
        for connection, address in self._accepted(one_at_a_time=True):
            began = lane.begin()
            failed = True
            try:
                if told is not None:
                    told(address)
                if handle(connection, address) is KEPT:
                    connection = KEPT  # noqa: PLW2901  # it is the parking's from here on
                failed = False
            except (HandshakeError, ProxyProtocolError):
                pass  # it has been told
            except BaseException as error:  # the worker outlives whatever a handler does
                leave(error)
                self.log.exception("the handler failed on a connection from %s", format_peer(address))
                short = errno.EMFILE in table.errnos(error)
            finally:
                if HERE.copied or self._parts:
                    self._part(connection)
                connection.close()
                if connection.fileno() >= 0:
                    # The handler keeps a file on it (makefile), and the client would wait for the end for as long.
                    os.close(connection.detach())
                lane.end(began, failed)
            if short and self._acceptor is not None:
                short = False
                self._acceptor.handler_exhausted()
            if limit and lane.served + lane.failed >= limit:
                limit = 0
                self.recycle(Why.MAX_REQUESTS)

    def handle(self, connection: socket.socket, address: Any) -> None:
        """Serve one connection. It is closed afterwards, whatever happens.

        What it raises is logged with its traceback, and the worker goes on: SystemExit, KeyboardInterrupt and all
        others that are no Exception too, since a library may mean its caller by them and not the process. A worker that
        wants to be replaced calls :meth:`recycle`.

        A connection that is closed with bytes unread, or whose client is still sending, is reset, and the client may
        lose the answer (tcp(7)). Who answers early gives it to :func:`prefork.linger`; with ``certfile`` that is done
        where records are left unread.

        Args:
            connection: the accepted socket, blocking, or with ``io_timeout`` as its timeout; with ``certfile`` an
                ``ssl.SSLSocket`` after its handshake.
            address: the peer's address as accept(2) gives it; with ``proxy_protocol`` the true peer's.
        """
        raise NotImplementedError

    def refuse(self, connection: socket.socket) -> None:
        """Answer a connection that is shed because all workers are out of descriptors; it is closed afterwards.

        Not called with ``certfile``: a handshake costs more than there is.
        """

    def exit(self) -> None:
        """Clean up; called once, after :meth:`run` returned or raised."""

    # What a subclass may call.

    def accept(self) -> tuple[socket.socket, Any] | None:
        """Wait for a connection and take it; backs off by itself when the system call fails.

        Returns:
            The connection and the peer's address; None when it is time to leave.

        Raises:
            ListenerLostError: the listener is no listening socket any more.
            BaseException: what the application has had raised here, by a signal's handler or from another thread. No
                connection is lost by it: the next call gives what this one has accepted.
        """
        try:
            while True:
                if self._accepted_one is None:
                    connections = self._accepted(one_at_a_time=False)
                    for self._accepted_one in connections:  # no moment between the two: see prefork.accept.acceptor
                        break
                    else:
                        return None
                if self._proxies is None or self._introduced(self._proxies, *self._accepted_one):
                    break
        except BaseException:
            self._begin_anew()
            raise
        self.took()
        accepted, self._accepted_one, self._known = self._accepted_one, None, None
        return accepted

    def proxy_of(self, connection: socket.socket) -> ProxyHeader | None:
        """What a proxy has said of a connection; with ``proxy_protocol``.

        Args:
            connection: one that :meth:`handle` or :meth:`accept` has given, or that was accepted from an inlet.

        Returns:
            Its header (:mod:`prefork.net.proxy_protocol`): the address that the client has connected to, and TLVs.
            None for a connection that came without.
        """
        return None if self._proxies is None else self._proxies.headers.get(connection.fileno())

    @property
    def _proxy_reader(self) -> type[ProxyReader]:
        """What reads proxies' headers."""
        return ProxyReader

    @property
    def _header_patience(self) -> float:
        """Seconds that a proxy's header may take."""
        return self._given.settings.io_timeout or PATIENCE

    def _introduced(self, proxies: ProxyReader, connection: socket.socket, address: Any) -> bool:
        """Whether the connection that was accepted has said whose it is; else it is closed."""
        if self._known is connection:
            return True  # an exception has come since
        try:
            self._accepted_one = connection, proxies.read(connection, address)
        except ProxyProtocolError:
            self._accepted_one = None
            connection.close()
            return False
        self._known = connection
        return True

    def inlets(self, *, one_at_a_time: bool = False, served: bool = True) -> tuple[Inlet, ...]:
        """Listening sockets for somebody else's event loop, one for each of :attr:`sockets`.

        They are ``socket.socket`` objects to wait on and to accept from without blocking; see
        :mod:`prefork.accept.loop_listener` for what they leave out. They are silent until this worker is READY and once
        it has been told to leave. Nothing more is accepted then; what becomes of the connections in hand is the
        server's affair.

        Args:
            one_at_a_time: for a loop that accepts until nothing waits: give it one connection at a turn, so that its
                siblings get some of a burst.
            served: count each connection as served when it is taken, because nobody tells when it has ended. False
                for a server that marks what it serves with :meth:`busy`.

        Raises:
            OSError: no descriptors to be had.
        """
        self._entry.say_accepts(_ASKED)
        given = self._given
        given.leaks.learn_what_is_usual(self.sockets)
        given.shedder.refuse = self._refuse
        given.offspring.keeps = False
        taken = self._took_and_served if served else self.took
        proxies = self._proxies
        made = [
            inlet_on(listener, given, one_at_a_time=one_at_a_time, taken=taken, proxies=proxies)
            for listener in self.sockets
        ]
        for intake, _ in made:
            self._intakes.append(intake)
            if self._ready:
                intake.open()
        return tuple(inlet for _, inlet in made)

    def ready(self) -> None:
        """Say that this worker serves. Called by itself after :meth:`init`; idempotent."""
        if not self._ready:
            self._ready = True
            self._entry.say_state(_SERVING)
            self._entry.send_event(_READY)
            # In a takeover nobody accepts before all are ready. Else there is no wait: a sibling could empty what is
            # waited for.
            while self._given.waits and not self.stopping and not readable(self._entry.go):
                readable(self._entry.go, self._entry.stop_fd, seconds=None)
            for intake in self._intakes:
                intake.open()

    @property
    def stopping(self) -> bool:
        """Whether this worker has been told to leave."""
        return self._entry.obeyed is not _RUN

    @property
    def stop_fd(self) -> int:
        """A descriptor that becomes readable when this worker is told to leave, and stays so."""
        return self._entry.stop_fd

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` once when this worker is told to leave, in a signal handler in the main thread.

        If it has been told already, the call is made at once.
        """
        self._callbacks.append(callback)
        if self.stopping:
            self._run_callbacks()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """For a loop of one's own: mark this worker busy with one connection for the ``with`` block.

        Several threads or tasks may be in such a block at once: the worker is busy since the oldest of them began.
        """
        crowd = self._entry.crowd
        token, failed = crowd.begin(), True
        raised: BaseException | None = None
        try:
            if self._given.elastic:
                self._entry.tell_when_nobody_is_idle()
            yield
            failed = False
        except BaseException as error:
            raised = error
            raise
        finally:
            if HERE.foreign:
                leave(raised)
            crowd.end(token, failed)

    def took(self) -> None:
        """For a loop that accepts on :attr:`sockets` by itself: say that it has taken a connection.

        :meth:`accept` and :meth:`inlets` do it; ``max_requests`` counts what was taken.
        """
        self._taken += 1
        if self._taken == self._given.limit:
            self.recycle(Why.MAX_REQUESTS)

    def recycle(self, why: Why = Why.ASKED) -> None:
        """Ask the master for a replacement; this worker goes on serving until the replacement is READY."""
        self._entry.ask_to_be_recycled(why)

    # The life of the process.

    def __prefork_mold__(self, given: MoldContext) -> None:
        """Be warmed in a mold, with what there is of a worker's context."""
        self._given = given  # type: ignore[assignment]  # nothing else is asked of it there
        self.warm()

    def __prefork__(self, given: WorkerContext, acceptor: Blocking | None) -> WorkerControls:
        """Begin the life of this worker; called once, after its construction, by its process alone.

        Args:
            given: all that it works with.
            acceptor: how it accepts in the usual way; None when each worker needs descriptors of its own first.

        Raises:
            RefusedError: the system has no descriptor for it.
        """
        self._given, self._entry, self._usual = given, given.entry, acceptor
        try:
            self._entry.stop_fd = eventfd(0, _STOP_FLAGS)
        except OSError as error:
            raise RefusedError(refused("a worker the word to stop", "eventfd2(2)", error)) from error
        self._intakes, self._callbacks = [], []
        settings = given.settings
        if settings.proxy_protocol != "off":
            kind, patience = self._proxy_reader, self._header_patience
            self._proxies = kind(settings.proxy_protocol, settings.proxy_allow_ips, given.log, patience)
        return WorkerControls(self._prepare, self._obey, self._woken, lambda: self._obey(Order.SEAL), self._aborted)

    def __prefork_check__(self, settings: Settings) -> None:
        """In place of a life: raise the PreforkError that a boot by these settings would fail with; make nothing."""
        name = type(self).__name__
        if getattr(self.run, "__func__", None) is not Worker.run:
            refuse_loop(name, settings, handshakes=self.handshakes)
        elif getattr(self.handle, "__func__", None) is Worker.handle:
            raise TargetError(f"{name} overrides neither handle() nor run(): it would serve nothing")

    def _prepare(self) -> None:
        """Take what the usual loop needs before READY is said: if it can't be had, it is the boot that has failed."""
        Worker.__prefork_check__(self, self.settings)  # what a subclass adds it meets by itself
        if getattr(self.run, "__func__", None) is Worker.run:
            try:
                if self.settings.threads > 1:
                    self._lanes = Lanes(self._given)
                self._accepted(one_at_a_time=True)
            except OSError as error:  # written out: a context manager costs a boot twenty pages
                what, calls = "a worker what it waits for connections with", "epoll_create1(2), epoll_ctl(2), dup(2)"
                raise RefusedError(refused(what, calls, error)) from error
            if self._lanes is not None:
                self._lanes.start()

    def _accepted(self, *, one_at_a_time: bool) -> Iterator[tuple[socket.socket, Any]]:
        """The one generator of this worker's connections; who asks first says how many it has in hand."""
        if self._connections is None:
            given = self._given
            given.leaks.learn_what_is_usual(() if one_at_a_time else given.sockets)
            given.shedder.refuse = self._refuse
            acceptor: Acceptor | None = self._usual
            if self._lanes is not None:
                acceptor = self._lanes.acceptor
                self._parking = self._lanes.parking
            elif given.queue is not None and one_at_a_time:
                acceptor = keeping = KeepaliveAcceptor(given, given.queue)
                self._parking = keeping.parking
            elif acceptor is None:
                acceptor = Exclusive(given)
            self._acceptor = acceptor
            if one_at_a_time:
                acceptor.idle = self._idle_work()
            if given.entry.obeyed is not _RUN:  # after that: the order may come between the two
                acceptor.obey()
            given.entry.say_accepts(_USUAL if one_at_a_time else _ASKED)
            self._connections = acceptor.connections()
        return self._connections

    def _begin_anew(self) -> None:
        """After an exception: it has ended the generator of connections, unless that had given up by itself."""
        if self._acceptor is not None and not self._acceptor.given_up:
            self._connections = self._acceptor.connections()

    def _outlive(self, error: BaseException) -> None:
        """Go on after an exception that the application had raised while nothing was in hand.

        Raises:
            BaseException: ``error``, when it is ours, or when there is no end to it.
        """
        leave(error)
        if self._acceptor is None or self._acceptor.given_up:
            raise error
        lane = self._entry.lane
        if lane.began:  # the end of what was in hand has been interrupted
            lane.end(lane.began, failed=True)
            if self._parking is not None:
                self._parking.abandon()
        self._begin_anew()
        self._strays = self._strays or Strays(self.log, [lane])
        self._strays.outlive(error)

    def _refuse(self, connection: socket.socket) -> None:
        if self.tls is None:
            self.refuse(connection)

    def _put_off(self, seconds: float) -> None:
        """Let ``timeout`` begin anew in ``seconds``: until then it is a client that is waited for."""
        self._entry.extend_deadline(seconds + self._given.settings.timeout)

    def _took_and_served(self) -> None:
        self._entry.lane.count()
        self.took()

    def _obey(self, order: Order) -> None:
        """Carry out an order to leave; runs in a signal handler."""
        entry = self._entry
        # No call between the two: another signal's handler could come in it, and the lesser order would be the last.
        if order <= entry.obeyed:
            return
        entry.obeyed = order
        if self._acceptor is not None:
            self._acceptor.obey()
        eventfd_write(entry.stop_fd, 1)
        entry.say_state(_STOPPING)
        self._run_callbacks()  # last: one may end the application's loop by an exception

    def _run_callbacks(self) -> None:
        while self._callbacks:
            callback, *self._callbacks = self._callbacks  # no call: a greater order may come in it, and take them all
            try:
                callback()
            except Exception:  # an exception here would fly out of a signal handler, anywhere
                self.log.exception("on_stop callback failed")

    def _woken(self, signum: int) -> None:
        """Somebody has woken this process; runs in a signal handler."""
        order = self._entry.order
        if order is not _RUN:
            self._obey(order)
        elif signum != signal.SIGINT:
            self.recycle(Why.SIGNALLED)

    def _aborted(self) -> None:
        """The master ends this process, after this; runs in a signal handler."""
        if self._given.hooks is not None:
            self._given.hooks.call("worker_abort", self)
