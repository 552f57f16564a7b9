"""Embedded servers at the limit of descriptors: those on inlets rest, and nobody is lost."""

from __future__ import annotations

import time

from prefork.testing import burst
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import limited_descriptors
from tests.embed.servers import SUBJECTS, Subject, each, serve

SECONDS = 1.0  # at the limit
LOOPS = {"waitress", "cheroot", "bjoern", "gevent", "uvicorn", "tornado"}
SPINS = {"bjoern"}  # its accept is its own


@each(subject for subject in SUBJECTS if subject.name in LOOPS)
def test_at_the_limit_of_descriptors(prefork_server: ServerFactory, subject: Subject) -> None:
    server = serve(prefork_server, subject)
    assert burst(server.address, 4).wait().lost == 0  # what is imported with the first request is imported
    with limited_descriptors(server.workers()):
        waiting = burst(server.address, 20)
        if subject.name not in SPINS:
            server.wait_for_log("a worker is out of descriptors")
        before, size = server.cpu_seconds(), server.log_size()
        time.sleep(SECONDS)  # in which nobody can be served
        spent, written = server.cpu_seconds() - before, server.log_size() - size
    assert waiting.wait().answered == 20, waiting.tally
    if subject.name not in SPINS:
        assert spent < 0.5 * SECONDS
        assert written < 10_000
