"""Mold, midwife, master and workers are killed at any moment under load: nobody is left, and nobody else is lost.

A listener that the test itself holds outlives every master, so it can be counted who is lost: who was in the hand of a
worker that was killed. Every other server has a port of its own beside it, which the next one has to have at once.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import time
from collections import Counter
from contextlib import suppress

import pytest

from prefork.testing import Load, Outcome, Server, hold_port, request, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import is_gone
from tests.support.figures import count
from tests.support.midwives import await_midwife
from tests.support.probing import APPS, PATIENCE, get, zombies

SIZE = 4
KINDS = ("mold", "midwife", "master")

_LONGEST = 0.3
"""Seconds from what is begun to the kill, at the most: a mold of this application takes about as long to load."""


class Site:
    """One server after the other, each on the listener that outlives them.

    Args:
        factory: starts them.
        listener: what outlives them.
        port: a port that every other one binds beside it.
        seed: of what is done when.

    Attributes:
        server: the one that is there.
        killed: how many processes were killed, by what they were.
    """

    def __init__(self, factory: ServerFactory, listener: socket.socket, port: str, seed: int) -> None:
        self._factory = factory
        self._listener = listener
        self._ports = itertools.cycle([[], [port]])
        self.chance = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.server = self._start()

    def _start(self) -> Server:
        number, self._own = self._listener.fileno(), next(self._ports)
        return self._factory(
            "probe:Probe",
            app_dir=APPS,
            options={"pass_fds": [number]},
            bind=[f"fd://{number}", *self._own],
            preload=True,
            workers=SIZE,
            control="off",
            crash_limit=10_000,
        )

    # What is done.

    def kill(self, kind: str, *pids: int) -> None:
        """Kill those of them that are still there, and wait for their ends."""
        for pid in pids:
            if not is_gone(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed[kind] += 1
        for pid in pids:
            wait_for(lambda pid=pid: is_gone(pid), PATIENCE, f"the end of {pid}")  # type: ignore[misc]  # mypy can't infer a lambda with a default

    def some_workers(self) -> list[int]:
        """One worker or several, perhaps all."""
        workers = self.server.workers()
        return self.chance.sample(workers, self.chance.randint(min(1, len(workers)), len(workers)))

    def strike(self, kind: str) -> None:
        """Begin something, and kill one of a kind within it."""
        if self.chance.random() < 0.3:
            self.server.signal(signal.SIGHUP)
        if self.chance.random() < 0.8:
            self.kill("worker", *self.some_workers())
        moment = self.chance.choice([0.0, self.chance.uniform(0.0, _LONGEST / 10), self.chance.uniform(0.0, _LONGEST)])
        time.sleep(moment)  # the moment, which the seed chooses
        if kind == "midwife":
            midwife = await_midwife(self.server, lambda: self.kill("worker", *self.some_workers()))
            time.sleep(self.chance.choice([0.0, self.chance.uniform(0.0, 0.005)]))  # as above
            self.kill(kind, midwife)
        else:
            self.kill(kind, self.server.pid if kind == "master" else self.chance.choice(self.server.molds()))

    # What is to be true then.

    def restored(self) -> None:
        """Wait until all is as before; of a master that was killed that nobody is left, and start another."""
        if is_gone(self.server.pid):
            assert self.server.wait() == -signal.SIGKILL
            wait_for(lambda: not self.server.tree(), PATIENCE, "the end of the orphans")
            self.server.close()
            self.server = self._start()
        server = self.server
        server.wait_for(self._renewed, PATIENCE, "the end of the last reload")
        server.wait_for(
            lambda: (len(server.workers()), len(server.molds()), len(server.tree())) == (SIZE, 1, SIZE + 2),
            PATIENCE,
            "as many workers as before, one mold, and nobody else",
        )
        server.wait_for(lambda: not zombies(server.pid), PATIENCE, "no zombie")
        for address in self._own:
            answer = request(address, get("/pid"), timeout=PATIENCE)
            assert (answer.status, int(answer.body) in server.tree()) == (200, True), answer

    def _renewed(self) -> bool:
        """Whether the last reload has come to an end; of several that overtake each other one does."""
        _, begun, after = self.server.log().rpartition("reload: generation ")
        return not begun or any(word in after for word in (" serves", " failed to boot"))


@pytest.mark.long
def test_kills_of_any_process_at_any_moment_cost_what_workers_had_in_hand(prefork_server: ServerFactory) -> None:
    seed = random.randrange(1 << 32)
    with hold_port() as port, socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        site = Site(prefork_server, listener, port, seed)
        host, number = listener.getsockname()
        payload = get("/sleep/0.005")
        with Load(f"{host}:{number}", clients=6, payload=payload, bodies=False, timeout=2 * PATIENCE) as load:
            for _, kind in zip(range(count("killed-families", least=9)), itertools.cycle(KINDS), strict=False):
                site.strike(kind)
                site.restored()
                answered = load.tally.answered
                load.wait_for(lambda tally, before=answered: tally.answered > before + 20)  # type: ignore[misc]  # mypy can't infer a lambda with a default
        said = f"seed {seed}, killed {dict(site.killed)}, {load.tally}"
        print(said)
        assert min(site.killed[kind] for kind in KINDS) > 0, said
        assert load.tally.lost <= site.killed["worker"], said
        assert load.tally[Outcome.REFUSED] == 0, said
        assert site.server.stop() == 0
        assert site.server.survivors() == []
