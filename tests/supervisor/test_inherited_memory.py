"""What the master had loaded before the fork stays shared with its workers, whatever they collect."""

from __future__ import annotations

import pytest

from prefork.testing import request, running_script

pytestmark = pytest.mark.executed

PROGRAM = """
    import gc
    import logging
    import os

    import psutil

    import prefork

    loaded = [{"number": number, "list": [number]} for number in range(200_000)]


    def handle(connection, address):
        connection.recv(100)
        gc.collect()
        memory = psutil.Process().memory_full_info()
        connection.sendall(b"%d %d %d\\n" % (os.getpid(), memory.uss, memory.rss))


    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prefork.serve(handle, bind="127.0.0.1:0", workers=2)
"""


def test_a_full_collection_in_a_worker_copies_nothing_that_was_loaded_before_the_fork() -> None:
    with running_script(PROGRAM) as server:
        owned: dict[int, tuple[int, int]] = {}

        def both_have_answered() -> bool:
            answer = request(server.address, b"how much?", expect=lambda data: data.endswith(b"\n"))
            pid, uss, rss = map(int, answer.data.split())
            owned[pid] = (uss, rss)
            return len(owned) == 2

        server.wait_for(both_have_answered)
        for uss, rss in owned.values():
            assert rss > 60 * 2**20  # else there was nothing to be copied
            assert uss < 15 * 2**20
        assert server.stop() == 0
