"""What the workers of servers on asyncio have in common: the loop, its marks, when it is told to stop.

asyncio accepts on any listening socket, so it is given inlets. uvloop accepts in C, on a descriptor that must be the
listener's own; there a loop of ours accepts in libuv's place and hands uvloop the connections.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import importlib.util
import selectors
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from prefork.accept.loop_listener import Inlet
from prefork.accept.offspring import leave
from prefork.config.settings import Settings
from prefork.embed.base import Embedded
from prefork.errors import TargetError
from prefork.net.proxy_reader import ProxiedSocket
from prefork.system.natives import socket, threading

BEATS = 4
"""Under uvloop: how many times in ``timeout`` seconds a loop says that it lives."""


class AsyncioWorker(Embedded):
    """A worker whose loop is asyncio's, or uvloop's. WORKER.

    Attributes:
        loop: Which, unless the option ``loop`` says so: "asyncio", "uvloop", or "auto", uvloop where it is installed.
    """

    loop: ClassVar[str] = "asyncio"

    @property
    def options(self) -> dict[str, Any]:
        """The server's own options; a copy."""
        return {name: value for name, value in super().options.items() if name != "loop"}

    async def boot(self) -> None:
        """Start the server on inlets; they are silent before the worker is READY."""

    async def serve(self) -> None:
        """Serve until `told_to_leave`, then finish what is in hand."""
        raise TypeError(f"{type(self).__name__} does not say how it serves")

    def init(self) -> None:
        """Make the loop and boot in it."""
        super().init()
        self._runner = asyncio.Runner(loop_factory=self._make_loop)
        self._given.offspring.parted.append(functools.partial(_end_loop, self._runner, threading.get_ident()))
        self._runner.run(self.boot())

    def run(self) -> None:
        """Run the loop until the server has ended.

        A task that raises SystemExit or KeyboardInterrupt ends the run of a loop of asyncio, and so does whoever calls
        its stop(). What else is in hand there is not to be lost: it is run on, until there is a replacement.
        """
        serving = self._runner.run(_begun(self.serve()))
        while True:
            try:
                self._runner.run(_end_of(serving))
                break
            except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
                leave(error)
                if serving.done():
                    break
                if self._runner.get_loop().is_closed():
                    raise
                self.outlive(error)
        serving.result()

    def exit(self) -> None:
        """Close the loop."""
        self._runner.close()

    def open_inlets(self) -> tuple[Inlet, ...]:
        """What the server is to accept on."""
        return self.inlets(one_at_a_time=True)

    async def told_to_leave(self) -> None:
        """Wait for the order to leave, and then until every client has been heard."""
        loop, told = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.remove_reader(self.stop_fd)
            told.set()

        loop.add_reader(self.stop_fd, tell)
        await told.wait()
        for pause in self.connections.unread():
            await asyncio.sleep(pause)

    def __prefork_check__(self, settings: Settings) -> None:
        """As in `Worker`."""
        super().__prefork_check__(settings)
        if self._wanted_loop() == "uvloop":
            self.installed("uvloop")

    def _wanted_loop(self) -> str:
        wanted: str = self.given.options.get("loop", self.loop)
        if wanted == "auto":
            wanted = "asyncio" if importlib.util.find_spec("uvloop") is None else "uvloop"
        if wanted not in {"asyncio", "uvloop"}:
            raise TargetError(f"{self.server}: loop is {wanted!r}; give asyncio, uvloop or auto")
        return wanted

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        if self._wanted_loop() == "uvloop":
            return self._make_uvloop()
        return asyncio.SelectorEventLoop(_Selector(self.idle()))

    def _make_uvloop(self) -> asyncio.AbstractEventLoop:
        uvloop = self.installed("uvloop")

        class AcceptingLoop(uvloop.Loop):  # type: ignore[misc,name-defined]  # uvloop is imported at run time
            """uvloop, with an accept that knows inlets."""

            async def create_server(
                self, protocol_factory: Callable[[], Any], *args: Any, sock: socket.socket | None = None, **options: Any
            ) -> asyncio.AbstractServer:
                if isinstance(sock, Inlet):
                    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
                    return _InletServer(self, protocol_factory, sock, tls)
                server: asyncio.AbstractServer = await super().create_server(
                    protocol_factory, *args, sock=sock, **options
                )
                return server

        loop: asyncio.AbstractEventLoop = AcceptingLoop()
        if self.settings.timeout:
            self._beat(loop, self.idle())
        return loop

    def _beat(self, loop: asyncio.AbstractEventLoop, pause: AbstractContextManager[None]) -> None:
        """Say that the loop lives, and that it will again; uvloop has no place where its wait could be marked."""
        timeout = self.settings.timeout
        with pause:
            loop.call_later(timeout / BEATS, self._beat, loop, pause)
        self.extend_deadline(timeout + timeout / BEATS)


def _end_loop(runner: asyncio.Runner, thread: int) -> None:
    """In a process that the application has forked: end it once it comes back to the loop, before all else there."""
    if threading.get_ident() == thread:
        loop = runner.get_loop()
        loop.call_soon(leave)
        ready = getattr(loop, "_ready", None)
        if isinstance(ready, collections.deque):
            ready.rotate(1)


async def _begun(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task for it, with the context variables that the boot has set."""
    return asyncio.create_task(coroutine)


async def _end_of(task: asyncio.Task[None]) -> None:
    await asyncio.wait((task,))


class _Selector(selectors.EpollSelector):
    """The selector of an asyncio loop: the loop is idle while it waits here, and busy all the rest of its time."""

    def __init__(self, pause: AbstractContextManager[None]) -> None:
        super().__init__()
        self._pause = pause

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        with self._pause:
            return super().select(timeout)


class _InletServer(asyncio.AbstractServer):
    """A server on an inlet, for a loop that can't accept on one. Serves from the start."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol_factory: Callable[[], Any], inlet: Inlet, tls: dict[str, Any]
    ) -> None:
        self._loop = loop
        self._factory = protocol_factory
        self._tls = tls
        self._inlet: Inlet | None = inlet
        self._starting: set[asyncio.Task[Any]] = set()
        loop.add_reader(inlet.fileno(), self._accept, inlet)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What it listens on."""
        return () if self._inlet is None else (self._inlet,)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it has not been closed."""
        return self._inlet is not None

    async def start_serving(self) -> None:
        """Do nothing: it serves."""

    async def serve_forever(self) -> None:
        """Wait until cancelled, then close."""
        try:
            await self._loop.create_future()
        finally:
            self.close()

    def close(self) -> None:
        """Take no more connections; those that were taken go on."""
        if self._inlet is not None:
            self._loop.remove_reader(self._inlet.fileno())
            self._inlet.close()
            self._inlet = None

    async def wait_closed(self) -> None:
        """Wait until every connection that was taken has its protocol."""
        if self._starting:
            await asyncio.wait(self._starting)

    def _accept(self, inlet: Inlet) -> None:
        try:
            connection, _ = inlet.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        factory = self._factory
        if isinstance(connection, ProxiedSocket):
            factory = functools.partial(_introduced, factory, connection)
        task = self._loop.create_task(self._start(factory, connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self, factory: Callable[[], Any], connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(factory, connection, **self._tls)
        except OSError:  # a TLS handshake that fails is the client's affair, as it is to asyncio
            connection.close()


def _introduced(factory: Callable[[], Any], connection: ProxiedSocket) -> Any:
    """A protocol whose transport names the true peer: libuv asks the kernel."""
    protocol = factory()
    made, peer = protocol.connection_made, connection.getpeername()
    protocol.connection_made = lambda transport: made(_ProxiedTransport(transport, connection, peer))
    return protocol


class _ProxiedTransport:
    """A transport in everything but who the peer is."""

    def __init__(self, transport: asyncio.Transport, connection: ProxiedSocket, peer: Any) -> None:
        self._transport = transport
        self._own = {"socket": connection, "peername": peer}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection."""
        return self._own[name] if name in self._own else self._transport.get_extra_info(name, default)
