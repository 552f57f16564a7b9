"""The walk: one episode, from a seed to what it has found."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.storm.arrangement import arrange
from tests.storm.crowd import Crowd, Loss
from tests.storm.odds import KEEP, LOSE, Step, choices
from tests.storm.site import Site
from tests.storm.steps import Steps
from tests.storm.truths import BrokenTruthError, Truths

RATE = 800.0
"""Arrivals a second."""

_TAIL = 20_000  # characters of a log that are shown


@dataclass
class Account:
    """What one or more episodes have come to."""

    episodes: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    answered: int = 0
    again: int = 0
    """On connections that had been used before."""
    closed: int = 0
    """Kept connections that servers have closed while nothing was under way on them."""
    lost: int = 0
    """As far as the steps could be judged: after the end of a server everybody is refused."""
    explained: int = 0
    """Connections that the processes which were killed may have had in hand."""
    starts: int = 0
    logged: int = 0
    """Bytes."""
    growth: int = 0
    """The most by which a master's memory has grown, bytes."""
    failed: list[int] = field(default_factory=list)
    """Seeds."""

    def add(self, other: Account) -> None:
        """Take another one's sums over."""
        self.episodes += other.episodes
        self.steps += other.steps
        self.connections += other.connections
        self.answered += other.answered
        self.again += other.again
        self.closed += other.closed
        self.lost += other.lost
        self.explained += other.explained
        self.starts += other.starts
        self.logged += other.logged
        self.growth = max(self.growth, other.growth)
        self.failed += other.failed

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "steps": {"all": self.steps.total(), **dict(self.steps.most_common())}}


def walk(
    seed: int,
    seconds: float,
    account: Account,
    tell: Callable[[str], object] = lambda _: None,
    begin: Sequence[Step] = (),
) -> None:
    """One episode.

    Args:
        seed: What to do.
        seconds: For how long.
        account: Where it is counted.
        tell: Is told what is done.
        begin: Steps that are taken first.

    Raises:
        BrokenTruthError: The server does not do as it promises.
        Exception: Whatever else shows it.
    """
    chance = random.Random(seed)
    arrangement = arrange(chance)
    tell(f"seed {seed}: {arrangement}")
    account.episodes += 1
    with ExitStack() as stack:
        site = Site(arrangement, stack)
        truths = Truths(site)
        crowd = Crowd(site.addresses, RATE, keeps=arrangement.keeps)
        site.start()
        truths.begin(0)
        crowd.start()
        stack.callback(crowd.end)
        steps = Steps(site, crowd, truths, chance)
        possible = choices(arrangement)
        done: list[str] = []
        end = time.monotonic() + seconds
        try:
            truths.hold(0)
            first = list(reversed(begin))
            judged = 0
            while first or time.monotonic() < end:
                [step] = [first.pop()] if first else chance.choices(list(possible), list(possible.values()))
                done.append(step.__name__)
                account.steps[step.__name__] += 1
                began = time.monotonic()
                closed = crowd.closed
                explained = step(steps)
                # Whoever met the step has been answered, or never will be.
                crowd.barrier()
                losses, closed = crowd.losses[judged:], crowd.closed - closed
                judged += len(losses)
                explained *= arrangement.in_hand
                if arrangement.keeps:
                    explained += _explained(step, losses, explained, newcomers=arrangement.parks_newcomers)
                account.lost += len(losses)
                account.explained += explained
                if len(losses) > explained:
                    said = "\n  ".join(map(str, losses))
                    raise BrokenTruthError(f"{len(losses)} lost, {explained} explained:\n  {said}")
                if closed and step in KEEP:
                    raise BrokenTruthError(f"{closed} kept connections closed, which nothing was under way on")
                truths.hold(crowd.answered)
                took = time.monotonic() - began
                tell(f"  {took:5.2f} s  {step.__name__}: {len(losses)} of {explained} lost, {crowd.slowest:.3f} s")
                crowd.slowest = 0.0
            steps.end()
        except BaseException as error:
            error.add_note(f"the end of the server's log:\n{site.server.log()[-_TAIL:]}")
            error.add_note(f"seed {seed}: {arrangement}\nsteps: {' '.join(done)}")
            error.add_note(f"to do it again: scripts/soak {seconds / 60:.2g} --seed {seed}")
            raise
        finally:
            account.connections += crowd.sent
            account.answered += crowd.answered
            account.again += crowd.again
            account.closed += crowd.closed
            account.starts += site.starts
            account.logged += truths.logged
            account.growth = max(account.growth, truths.growth)


def _explained(step: Step, losses: Sequence[Loss], killed: int, *, newcomers: bool) -> int:
    """How many losses on kept connections a step explains, beside those in the hand of who was killed.

    A killed worker's parked connections end with it, and so do requests that are on their way to it. Where descriptors
    run out, the oldest parked connections are closed, and that may meet a request, too. Parked are those as well that
    have not asked for anything yet, where the kernel does not wait for that.
    """
    return sum(loss.kept or newcomers for loss in losses) if killed or step in LOSE else 0
