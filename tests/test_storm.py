"""Everything at once, under load: one short storm of few things, and a piece of the long one (`tests.storm`)."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time

import pytest

from prefork.testing import Load, Outcome, Server
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import freeze, thaw
from tests.storm.odds import Step
from tests.storm.steps import Steps
from tests.storm.walk import Account, walk
from tests.support.figures import count, full
from tests.support.probing import probe, steady, told, zombies

FEWEST, MOST = 2, 8
RARE: tuple[Step, ...] = (
    Steps.kill_traced,
    Steps.stop_frozen,
    Steps.stop_quick,
    Steps.stop_job,
    Steps.fork,
    Steps.take_signals,
    Steps.meddle,
)
"""What the odds would hardly ever try in the time that there is."""

DESCRIPTORS_OF_A_WORKER = 2  # its pidfd, its report pipe


class Storm:
    """What is done to one server."""

    def __init__(self, server: Server, chance: random.Random) -> None:
        self.server = server
        self.chance = chance
        self.kills = 0
        self.size = len(server.workers())

    def strike(self) -> None:
        """Do one of it."""
        self.chance.choice([self.reload, self.resize, self.kill, self.freeze_master, self.freeze_worker])()

    def reload(self) -> None:
        self.server.signal(signal.SIGHUP)

    def reloaded(self) -> bool:
        """Whether the last reload has come to its end; of several signals that come together one is seen."""
        begun = told(self.server, r"reload: generation \d+$")
        return not begun or f"{begun[-1]} serves" in self.server.log()

    def resize(self) -> None:
        grow = self.size == FEWEST or (self.size < MOST and self.chance.random() < 0.5)
        self.size += 1 if grow else -1
        self.server.signal(signal.SIGTTIN if grow else signal.SIGTTOU)
        # Two signals of a kind that come before the first was seen are one.
        self.server.wait_for(lambda: self._sizes()[-1:] == [self.size], message=f"size {self.size}")

    def _sizes(self) -> list[int]:
        return [int(text) for text in re.findall(r"(\d+) workers instead of", self.server.log())]

    def kill(self) -> None:
        booted = {int(text.split()[2]) for text in told(self.server, r"^init \d+ \d+$")}
        victims = [pid for pid in self.server.workers() if pid in booted]
        if victims:
            with contextlib.suppress(ProcessLookupError):  # it may have left meanwhile
                os.kill(self.chance.choice(victims), signal.SIGKILL)
                self.kills += 1

    def freeze_master(self) -> None:
        self._freeze(self.server.pid)

    def freeze_worker(self) -> None:
        workers = self.server.workers()
        if workers:
            self._freeze(self.chance.choice(workers))

    def _freeze(self, pid: int) -> None:
        freeze([pid])
        time.sleep(self.chance.uniform(0.0, 0.1))  # how long it is frozen
        thaw([pid])


@pytest.mark.long
def test_a_storm_costs_no_more_than_its_kills(prefork_server: ServerFactory) -> None:
    seed = random.randrange(1 << 32) if full() else 1
    server = probe(prefork_server, workers=4, timeout=30, log_level="debug")
    per_worker = server.descriptors() - 4 * DESCRIPTORS_OF_A_WORKER
    storm = Storm(server, random.Random(seed))
    end = time.monotonic() + count("seconds-of-storm", least=6)
    with Load(server.address, clients=8, bodies=False) as load:
        while time.monotonic() < end:
            storm.strike()
            time.sleep(storm.chance.uniform(0.0, 0.1))  # until it strikes again
        server.wait_for(storm.reloaded, message="the last reload to be done")
        workers = steady(server, storm.size)
        load.wait_for(lambda tally, so_far=load.tally.answered: tally.answered > so_far + 200)  # type: ignore[misc]  # mypy can't infer a lambda with a default
    context = f"seed {seed}, {storm.kills} kills, {load.tally}"
    assert load.tally[Outcome.REFUSED] == 0, context
    assert load.tally.lost <= storm.kills, context
    server.wait_for(lambda: server.tree() == [server.pid, *server.workers()], message="nobody else")
    assert len(steady(server, storm.size)) == len(workers)
    assert zombies(server.pid) == []
    expected = per_worker + storm.size * DESCRIPTORS_OF_A_WORKER
    server.wait_for(lambda: server.descriptors() == expected, message=f"{expected} descriptors in the master")
    assert told(server, "Traceback|is killed: the server") == [], context
    assert server.stop() == 0
    assert server.survivors() == []


@pytest.mark.long
def test_a_random_walk_finds_nothing() -> None:
    """``scripts/soak MINUTES`` goes on for as long as one likes; what fails here tells how to do it again."""
    account, seed = Account(), random.randrange(1 << 32) if full() else 1
    walk(seed, count("seconds-of-walk", part=20), account, begin=random.Random(seed).sample(RARE, len(RARE)))
    assert all(account.steps[step.__name__] for step in RARE)
    assert account.lost <= account.explained
    assert account.answered == account.connections - account.lost
