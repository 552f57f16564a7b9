"""The servers of the standard library's `socketserver`, and those that are made of it: wsgiref's and werkzeug's.

Their own loop waits and accepts on a listener, and its ``shutdown()`` deadlocks in the thread that it runs in. It is
short, and public parts of a server do all of its work; so here is a loop in its place that takes connections from
``worker.accept()``, with a blocking accept and all that comes with it. The server finds them at its own listener's
accept, so that a ``get_request()`` of its own (for TLS, say) does its work.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from prefork.accept.offspring import leave
from prefork.embed.base import Embedded
from prefork.embed.marks import among_others
from prefork.embed.server_options import attributes, parameters
from prefork.errors import TargetError

_LISTENS = "prefork listens; give the setting"


class SocketserverWorker(Embedded):
    """Serves with a ``socketserver`` class; ``handler`` is its request handler class. WORKER.

    The other options become attributes of the server, before it is activated: ``max_children`` and the like. Threads
    are waited for, whatever ``daemon_threads`` says.
    """

    server = "socketserver"
    reserved: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("allow_reuse_address", "allow_reuse_port", "request_queue_size"), _LISTENS),
        **dict.fromkeys(("socket", "server_address", "address_family", "socket_type"), _LISTENS),
        "timeout": "prefork waits for connections; the time of one is the setting timeout",
    }

    def init(self) -> None:
        """Make the server on the listener.

        Raises:
            TargetError: The server can't serve it, or has a listener of another kind.
        """
        super().init()
        self._bound = _Bound(self.sockets[0])
        self._socketserver = self.make()
        self._look_at(self._socketserver, _Bound)

    def run(self) -> None:
        """Serve until it is time to leave, then wait for what is in hand."""
        server = self._socketserver
        forks = self._given.offspring.keeps = isinstance(server, socketserver.ForkingMixIn)
        if isinstance(server, socketserver.ThreadingMixIn):
            # Threads that are daemons are not waited for, and what they have in hand is lost.
            server.daemon_threads, server.block_on_close = False, True
            server.finish_request = self._marked(server.finish_request)  # type: ignore[attr-defined]  # a mix-in's
        else:
            server.process_request = self._marked(server.process_request)  # of one that forks, the fork
        if not forks:  # a child would copy the thread's locks
            self.on_stop(threading.Thread(target=self._end_idle, name="prefork-stop", daemon=True).start)
        while (accepted := self.accept()) is not None:
            self._bound.accepted = accepted
            self._serve(accepted[0])
            server.service_actions()
        server.server_close()

    def make(self) -> Any:
        """The server, bound and active on the first listener."""
        options = self.options
        server_class = self.application()
        server = server_class(self.sockets[0].getsockname(), options.pop("handler"), bind_and_activate=False)
        self.activate(server, options)
        return server

    def activate(self, server: Any, options: dict[str, Any]) -> None:
        """Let the server bind and activate, on a listener that is and does both."""
        for name, value in options.items():
            setattr(server, name, value)
        self._look_at(server, socket.socket)
        self.put_in_place(server)
        server.server_bind()
        server.server_activate()

    def put_in_place(self, server: Any) -> None:
        """Give the server our listener for its own."""
        server.socket.close()
        server.socket = self._bound

    def _look_at(self, server: Any, kind: type[socket.socket]) -> None:
        """Serve no plain text where the server has secured its listener (``ssl.SSLSocket``)."""
        if type(server.socket) is not kind:
            name, found = type(server).__name__, type(server.socket).__name__
            raise TargetError(f"{self.server}: {name} listens on its own {found}; let it wrap what get_request() gives")

    def _serve(self, connection: socket.socket) -> None:
        """What a server's own loop does with a connection (socketserver.BaseServer)."""
        server = self._socketserver
        try:
            request, address = server.get_request()
        except OSError:  # nothing is said there either: a handshake has failed, or the like
            connection.close()
            return
        try:
            if server.verify_request(request, address):
                server.process_request(request, address)
            else:
                server.shutdown_request(request)
        except BaseException as error:  # noqa: BLE001  # it is the server that says what is done about it
            leave(error)
            server.handle_error(request, address)
            server.shutdown_request(request)

    def _marked(self, method: Any) -> Any:
        def marked(*args: Any) -> None:
            with self.busy():
                method(*args)

        return marked

    def _end_idle(self) -> None:
        """In a thread of its own: a handler may wait for the next request of a connection that is kept alive."""
        for waiting in (self.connections.unread, self.connections.hang_up):
            for pause in waiting():
                time.sleep(pause)  # while the handlers go on


class WsgirefWorker(SocketserverWorker):
    """Serves a WSGI application with the standard library's ``wsgiref``. WORKER.

    ``server_class`` and ``handler_class`` are those of ``wsgiref.simple_server.make_server``.
    """

    server = "wsgiref"

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        from wsgiref.simple_server import WSGIServer

        if "server_class" in self.given.options:
            return {}  # it may know more
        return attributes(WSGIServer) | {"handler_class": type}

    def make(self) -> Any:
        """The server with its application."""
        from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

        options = self.options
        server_class = options.pop("server_class", WSGIServer)
        handler_class = options.pop("handler_class", WSGIRequestHandler)
        server = server_class(self.sockets[0].getsockname(), handler_class, bind_and_activate=False)
        self.activate(server, options)
        server.set_app(among_others(self.application()))
        return server


class WerkzeugWorker(SocketserverWorker):
    """Serves a WSGI application with werkzeug's development server. WORKER.

    The options are those of ``werkzeug.serving.make_server``: ``threaded``, ``processes``, ``request_handler``,
    ``passthrough_errors``.
    """

    server = "werkzeug"
    needs = ("werkzeug.serving", "werkzeug")
    reserved: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("host", "port", "fd"), _LISTENS),
        "ssl_context": "its handshake would keep the worker from accepting; use prefork wsgi, or a proxy in front",
    }

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        return parameters(self.installed("werkzeug.serving", "werkzeug").make_server)

    def make(self) -> Any:
        """The server with its application."""
        serving = self.installed("werkzeug.serving", "werkzeug")
        listener = self.sockets[0]
        name = listener.getsockname()
        host, port = name[:2] if isinstance(name, tuple) else (f"unix://{os.fsdecode(name)}", 0)
        application = among_others(self.application())
        with self.options_tried():
            server = serving.make_server(host, port, application, fd=listener.fileno(), **self.options)
        self.put_in_place(server)
        return server


class _Bound(socket.socket):
    """A listener that lets a server bind and listen, and does neither anew; and its accept gives what was accepted."""

    accepted: tuple[socket.socket, Any]

    def __init__(self, listener: socket.socket) -> None:
        # Told to be non-blocking, which changes nothing: a default timeout of the application's would make it so.
        kind = listener.type | socket.SOCK_NONBLOCK
        super().__init__(listener.family, kind, listener.proto, fileno=os.dup(listener.fileno()))

    def accept(self) -> tuple[socket.socket, Any]:
        """Give what the worker has accepted last."""
        return self.accepted

    def bind(self, address: Any, /) -> None:
        """Do nothing: it is bound."""

    def listen(self, backlog: int = 0, /) -> None:
        """Do nothing: it listens, and the length of its queue is a setting (``backlog``)."""

    def setsockopt(self, *_: Any) -> None:
        """Do nothing: its options are settings."""

    def setblocking(self, flag: bool, /) -> None:
        """Do nothing: all workers share the listener."""

    def settimeout(self, value: float | None, /) -> None:
        """Do nothing: all workers share the listener."""
