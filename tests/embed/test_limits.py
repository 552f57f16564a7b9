"""Embedded servers that can't accept, or are not to any more: those on inlets rest, and nobody is lost."""

from __future__ import annotations

import signal
import time

from prefork.testing import burst, measure
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import limited_descriptors
from tests.support.embed.servers import SUBJECTS, Subject, each, serve

SECONDS = 1.0  # at the limit
LOOPS = {"waitress", "cheroot", "bjoern", "gevent", "uvicorn", "tornado"}
SPINS = {"bjoern"}  # its accept is its own


@each(subject for subject in SUBJECTS if subject.name in LOOPS)
def test_at_the_limit_of_descriptors(prefork_server: ServerFactory, subject: Subject) -> None:
    server = serve(prefork_server, subject)
    served: set[bytes] = set()

    def both() -> bool:
        tally = burst(server.address, 4).wait()
        assert tally.lost == 0, tally
        served.update(tally.bodies)
        return len(served) == 2

    server.wait_for(both, message="both workers to have imported what they import with their first request")
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


@each(subject for subject in SUBJECTS if subject.name == "waitress")
def test_a_worker_that_leaves_does_not_spin(prefork_server: ServerFactory, subject: Subject) -> None:
    """Its inlets are silent, though they are open until its client has been heard out, and others are waiting."""
    server = serve(prefork_server, subject, workers=1)
    assert burst(server.address, 1).wait().lost == 0  # what is imported with the first request is imported
    waiting = burst(server.address, 1, payload=b"GET /?wait=2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    before = spent = measure.cpu_seconds(old := server.workers())
    server.signal(signal.SIGHUP)
    while not set(old).isdisjoint(server.workers()):
        spent = max(spent, measure.cpu_seconds(old))
        time.sleep(0.05)  # between two looks: what it has used is known for as long as it lives
    assert waiting.wait().answered == 1
    assert spent - before < 0.3  # a loop that spins takes more than twice as much
