"""The allowance: whether the limit of descriptors suffices for what is configured, told once, at the start.

All of it runs in the MASTER.
"""

from __future__ import annotations

import logging
from collections.abc import Sized

from prefork.accept.fd_leak import HEADROOM
from prefork.config.settings import Settings
from prefork.supervisor import policy
from prefork.supervisor.goal import Goal
from prefork.supervisor.roster import Roster
from prefork.system import limits
from prefork.system.descriptors import descriptors

log = logging.getLogger("prefork")

BESIDE_WORKERS = 4
"""Descriptors that the master needs for a moment: the other end of a pipe, a file of /proc, a client of a window."""

WORKER_DESCRIPTORS = 11
"""Descriptors of a worker beside its listeners and what the application opens: standard streams, scoreboard, events
pipe, ``go``, report pipe, the end of its waiting, the inert socket or epoll, the spare, a connection."""


def claim(settings: Settings) -> int:
    """Raise this process's limit as far as it may be. MASTER.

    Args:
        settings: whether to, and how much a worker needs.

    Returns:
        The soft limit for workers (count): the one that was given, or what one needs, if that is more.
    """
    given = limits.nofile()
    raised = limits.raise_nofile()[1] if settings.raise_nofile else given
    return min(max(given, of_worker(len(settings.addresses))), raised)


def of_worker(listeners: int) -> int:
    """How many descriptors a worker needs beside the application's own, with some to spare.

    Args:
        listeners: how many it listens on.
    """
    return listeners + WORKER_DESCRIPTORS + HEADROOM


def check(settings: Settings, goal: Goal, roster: Roster, listeners: Sized) -> None:
    """Warn when the limit is too small.

    Args:
        settings: what is configured.
        goal: how many workers there are to be.
        roster: who lives already.
        listeners: the listeners.
    """
    try:
        held = len(descriptors())
    except OSError:
        return  # no /proc
    tight = limits.shortfall(
        limits.nofile(),
        master=held + 2 * policy.limit(settings, goal, roster) + BESIDE_WORKERS,
        worker=of_worker(len(listeners)),
    )
    if tight:
        log.warning("%s", tight)


def lacking(more: int) -> str:
    """Why the master's limit is too small for so many workers more, in one line; "" when it is not, or nobody knows."""
    try:
        held = len(descriptors())
    except OSError:
        return ""  # no /proc
    return limits.shortfall(limits.nofile(), master=held + 2 * more + BESIDE_WORKERS, worker=0)
