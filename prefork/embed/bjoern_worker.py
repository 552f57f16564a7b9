"""bjoern.

Its loop and its accept are in C, on the listener itself: no inlet can be put in between. SIGINT stops it well: it
accepts no more, and returns when every connection has ended. But whoever sends SIGINT before libev has installed its
handler is not heard, and bjoern waits for connections that are merely kept alive. So a thread beside it does both when
the order to leave has come: it sends SIGINT once the signal is caught, having seen to it that it was ignored until
then, and ends the connections that are idle.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping

from prefork.config.settings import Settings
from prefork.embed.base import Embedded
from prefork.embed.marks import Marked
from prefork.errors import SettingsError
from prefork.system.descriptors import readable

LOOK = 0.01
"""Seconds between two looks whether libev has installed its handler."""


class BjoernWorker(Embedded):
    """Serves a WSGI application with bjoern; the option ``statsd`` is that of ``bjoern.server_run``. WORKER.

    It serves one address.
    """

    server = "bjoern"
    needs = ("bjoern", "")
    one_address = True

    def __prefork_check__(self, settings: Settings) -> None:
        """As in `Worker`."""
        super().__prefork_check__(settings)
        _refuse_headers(settings)

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        return {"statsd": dict}

    def init(self) -> None:
        """Import what is needed.

        Raises:
            SettingsError: Something would have to be read before it.
        """
        super().init()
        _refuse_headers(self.settings)
        self._bjoern = self.installed("bjoern")
        (self._listener,) = self.sockets
        self._listener.setblocking(False)
        self._marked = Marked(self.application(), self.busy, took=self.took)

    def run(self) -> None:
        """Serve until SIGINT has ended the loop and every connection has ended."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._stop, name="prefork-stop", daemon=True).start()
        try:
            self._bjoern.server_run(self._listener, self._marked, **self.options)
        finally:
            # libev has given it the default action; and bjoern now raises it for Python, which finds an order.
            signal.signal(signal.SIGINT, before)

    def _stop(self) -> None:
        """In a thread of its own."""
        readable(self.stop_fd, seconds=None)
        while _is_ignored(signal.SIGINT):
            time.sleep(LOOK)  # until the loop runs
        os.kill(os.getpid(), signal.SIGINT)
        for waiting in (self.connections.unread, self.connections.hang_up):
            for pause in waiting():
                time.sleep(pause)  # while the loop goes on


def _refuse_headers(settings: Settings) -> None:
    if settings.proxy_protocol != "off":
        mode = settings.proxy_protocol
        raise SettingsError(
            f"proxy_protocol: {mode!r} can't be had with bjoern, which accepts in C; leave it out, or embed another"
        )


def _is_ignored(signum: int) -> bool:
    """Whether this process ignores a signal, as the kernel has it (proc_pid_status(5)): C code tells Python nothing."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            ignored = next(line for line in status if line.startswith("SigIgn"))
    except OSError:
        return False  # out of descriptors: then it serves
    return bool(int(ignored.split()[1], 16) >> (signum - 1) & 1)
