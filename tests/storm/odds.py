"""How often each step is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.storm.arrangement import Arrangement
from tests.storm.steps import Steps

Step = Callable[[Steps], int]

EVERYWHERE: Final[dict[Step, int]] = {
    Steps.reload: 6,
    Steps.upgrade: 3,
    Steps.reload_broken: 3,
    Steps.kill_worker: 8,
    Steps.kill_workers: 3,
    Steps.terminate_worker: 4,
    Steps.recycle: 4,
    Steps.freeze_workers: 6,
    Steps.freeze_master: 4,
    Steps.suspend: 1,
    Steps.stop_job: 1,
    Steps.exhaust_workers: 5,
    Steps.exhaust_master: 4,
    Steps.exhaust_all: 3,
    Steps.eat: 1,
    Steps.leak: 3,
    Steps.fork: 4,
    Steps.take_signals: 3,
    Steps.meddle: 3,
    Steps.rude: 8,
    Steps.burst: 6,
    Steps.look: 3,
    Steps.squall: 8,
    Steps.kill_traced: 1,
    Steps.stop: 4,
    Steps.stop_quick: 1,
    Steps.stop_frozen: 2,
    Steps.kill_master: 3,
}
"""How often each is chosen, in proportion."""


KEEP: Final[frozenset[Step]] = frozenset(
    {
        Steps.reload,
        Steps.upgrade,
        Steps.reload_broken,
        Steps.terminate_worker,
        Steps.recycle,
        Steps.eat,
        Steps.scale,
        Steps.freeze_workers,
        Steps.suspend,
        Steps.fork,
        Steps.take_signals,
        Steps.meddle,
        Steps.burst,
        Steps.look,
        Steps.take_over,
        Steps.refork,
    }
)
"""What costs nobody his kept connection."""

LOSE: Final[frozenset[Step]] = frozenset(
    {
        Steps.exhaust_workers,
        Steps.exhaust_master,
        Steps.exhaust_all,
        Steps.fail_accepts,
        Steps.leak,
        Steps.hang,
        Steps.squall,
        Steps.kill_master,
        Steps.stop_quick,
    }
)
"""What may end a kept connection at just the moment at which a request is sent on it, beside what kills a worker."""


def choices(arrangement: Arrangement) -> dict[Step, int]:
    """The steps that an arrangement allows, and how often each is to be chosen."""
    found = dict(EVERYWHERE)
    if not arrangement.elastic:
        found[Steps.scale] = 8
    if arrangement.preload:
        found[Steps.kill_mold] = 8
        found[Steps.kill_midwife] = 4
    if arrangement.reforks:
        found[Steps.refork] = 6
    if arrangement.impatient:
        found[Steps.hang] = 1
    if arrangement.injected:
        found[Steps.fail_accepts] = 8
        found[Steps.fail_forks] = 8
    if arrangement.listening == "reuse_port":
        found[Steps.take_over] = 5
    return found
