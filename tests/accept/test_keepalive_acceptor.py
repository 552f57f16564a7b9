"""What a worker that keeps connections waits for, and when it looks."""

from __future__ import annotations

import time
from contextlib import ExitStack

from prefork.accept.keepalive_acceptor import IN_A_GO
from prefork.testing import connect
from prefork.testing.plugin import ServerFactory
from tests.support.probing import APPS, PATIENCE

CLIENTS = 40


def test_who_keeps_nobody_accepts_on_without_a_look(prefork_server: ServerFactory) -> None:
    server = prefork_server("looking:Looking", app_dir=APPS, workers=1, keepalive=75)
    with ExitStack() as stack:
        first, *others = [stack.enter_context(connect(server.address, timeout=PATIENCE)) for _ in range(CLIENTS + 1)]
        first.sendall(b"w")
        for client in others:
            client.sendall(b"x")
        assert first.recv(1) == b"w"  # it is in hand
        time.sleep(2 * IN_A_GO)  # the go in which it was accepted is over
        first.sendall(b"g")
        looks = [int(client.recv(16)) for client in (first, *others)]
        assert looks == sorted(looks)
        assert looks[-1] - looks[0] < CLIENTS  # one for each, if nothing else; some, on a busy machine
        assert looks[-1] > looks[0]  # for all the rest has its turn, too
    assert server.stop() == 0
