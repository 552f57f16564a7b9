"""cheroot.

It binds by itself; a server whose ``bind`` gives it the inlet believes that it has. Its ``prepare()`` would set the
listener's backlog anew, and its ``stop()`` would connect to the listener to wake itself, for a sibling to accept: with
an inlet the first does nothing, and the second finds it closed.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from prefork.embed.base import Embedded
from prefork.embed.marks import Marked
from prefork.embed.server_options import parameters
from prefork.system.descriptors import readable


class CherootWorker(Embedded):
    """Serves a WSGI application with cheroot; the options are those of ``cheroot.wsgi.Server``. WORKER.

    It serves one address. ``ssl_adapter`` is taken as an option too.
    """

    server = "cheroot"
    needs = ("cheroot.wsgi", "cheroot")
    one_address = True
    reserved: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("bind_addr", "wsgi_app", "reuse_port", "request_queue_size"), "prefork listens; give the setting"
    )

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        return parameters(self.installed("cheroot.wsgi", "cheroot").Server) | {"ssl_adapter": object}

    def init(self) -> None:
        """Make the server on the inlet, and its threads."""
        super().init()
        wsgi = self.installed("cheroot.wsgi", "cheroot")
        os.environ.pop("LISTEN_PID", None)  # cheroot takes descriptor 3 for its own where it sees this
        (self._inlet,) = self.inlets(served=False)
        options = {"shutdown_timeout": self.settings.graceful_timeout, **self.options}
        tls = options.pop("ssl_adapter", None)
        name = self.sockets[0].getsockname()
        address, application = name[:2] if isinstance(name, tuple) else name, Marked(self.application(), self.busy)
        with self.options_tried():
            server = self._cheroot = wsgi.Server(address, application, **options)
        server.ssl_adapter = tls
        server.bind = server.bind_unix_socket = self._bind
        server.prepare()

    def run(self) -> None:
        """Serve until it is time to leave, then let cheroot finish."""
        stopper = threading.Thread(target=self._stop, name="prefork-stop", daemon=True)
        stopper.start()
        self._cheroot.serve()
        if self.stopping:
            stopper.join()

    def _bind(self, *_: Any) -> socket.socket:
        """What cheroot does in its place is to bind."""
        self._cheroot.socket = self._inlet
        self._cheroot.bind_addr = self._cheroot.resolve_real_bind_addr(self._inlet)
        return self._inlet

    def _stop(self) -> None:
        """In a thread of its own: cheroot's stop waits for the loop to end, which it could not do from within."""
        readable(self.stop_fd, seconds=None)
        for pause in self.connections.unread():
            time.sleep(pause)  # while the loop goes on
        self._inlet.close()
        self._cheroot.stop()
