"""bjoern.

Its loop and its accept are in C, on the listener itself: no inlet can be put in between. SIGINT stops it well: it
accepts no more, and returns when every connection has ended. But it takes the signal only once its loop runs, and lets
Python's handlers run ten times a second, within a request and when there is none. So:

* SIGINT is blocked beforehand. libev unblocks it when it has installed its handler, and a stop that comes before that
  waits until then.
* An order to leave arrives as SIGTERM, in Python's handler, which sends SIGINT to this process.
* After that, a thread ends the connections that are idle, since bjoern would wait for them.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from prefork.embed.base import Embedded, refuse_seqpacket
from prefork.embed.connections import hang_up, unread
from prefork.embed.marks import Marked
from prefork.system.waiting import readable


class BjoernWorker(Embedded):
    """Serves a WSGI application with bjoern; the option ``statsd`` is that of ``bjoern.server_run``. WORKER.

    It serves one address.
    """

    server = "bjoern"

    def init(self) -> None:
        """Import what is needed."""
        refuse_seqpacket(self.server, self.sockets)
        self._bjoern = self.installed("bjoern")
        self._listener = self.only(self.sockets)
        self._listener.setblocking(False)
        self._marked = Marked(self.application(), self, took=self.took)

    def run(self) -> None:
        """Serve until SIGINT has ended the loop and every connection has ended."""
        threading.Thread(target=self._end_idle, name="prefork-stop", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self.on_stop(lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            self._bjoern.server_run(self._listener, self._marked, **self.options)
        finally:
            # libev has given it the default action.
            signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))

    def _end_idle(self) -> None:
        """In a thread of its own."""
        readable(self.stop_fd, seconds=None)
        for waiting in (unread, hang_up):
            for pause in waiting(self.sockets):
                time.sleep(pause)  # while the loop goes on
