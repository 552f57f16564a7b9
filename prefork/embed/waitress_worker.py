"""waitress.

Its loop has no stop: ``run()`` ends by KeyboardInterrupt, and then drops what is in hand. So the loop is turned from
here, round by round, and when the worker leaves, each channel is closed once it has no request, not even a part of one,
and nothing to send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from prefork.embed.base import Embedded
from prefork.embed.marks import Marked
from prefork.embed.server_options import attributes

ROUND = 0.05
"""Seconds that a round of the loop may wait while channels are being closed."""

_LISTENS = "prefork listens; give the setting"


class WaitressWorker(Embedded):
    """Serves a WSGI application with waitress; the options are those of ``waitress.create_server``. WORKER."""

    server = "waitress"
    needs = ("waitress", "")
    reserved: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("listen", "host", "port", "ipv4", "ipv6", "sockets", "unix_socket", "unix_socket_perms", "backlog"), _LISTENS
    )

    def known_options(self) -> Mapping[str, object]:
        """As in `Embedded`."""
        return attributes(self.installed("waitress.adjustments", "waitress").Adjustments, casts=True)

    def init(self) -> None:
        """Make the server on inlets, and its threads."""
        super().init()
        waitress = self.installed("waitress")
        self._channels: dict[int, Any] = {}
        # select(2), which is the default, ends at descriptor 1023.
        options = {"asyncore_use_poll": True, **self.options}
        application, sockets = Marked(self.application(), self.busy), list(self.inlets(served=False))
        with self.options_tried():
            self._waitress = waitress.create_server(application, map=self._channels, sockets=sockets, **options)

    def run(self) -> None:
        """Turn the loop until it is time to leave, then until no channel is left."""
        adjustments = self._waitress.adj
        while not self.stopping:
            self._turn(adjustments.asyncore_loop_timeout)
        for pause in self.connections.unread():
            self._turn(pause)
        channel_class = self.installed("waitress.channel").HTTPChannel
        while channels := [channel for channel in self._channels.values() if isinstance(channel, channel_class)]:
            for channel in channels:
                if not (channel.request or channel.requests or channel.total_outbufs_len):
                    channel.will_close = True
            self._turn(ROUND)
        self._waitress.task_dispatcher.shutdown()

    def _turn(self, seconds: float) -> None:
        """One round of the loop, which waits so long at the most."""
        wasyncore = self.installed("waitress.wasyncore")
        wasyncore.loop(timeout=seconds, map=self._channels, use_poll=self._waitress.adj.asyncore_use_poll, count=1)
