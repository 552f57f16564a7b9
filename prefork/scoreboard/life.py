"""The life of a worker, as a table of its states. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from prefork.scoreboard.layout import State

LIFE: Mapping[State, Mapping[State, str]] = MappingProxyType(
    {
        State.EMPTY: {State.STARTING: "forked"},
        State.STARTING: {
            State.SERVING: "READY",
            State.FAILED_TO_BOOT: "boot failed",
            State.STOPPING: "order",
        },
        State.SERVING: {
            State.BACKING_OFF: "accept fails",
            State.STOPPING: "order",
            State.LEAVING: "by itself",
        },
        State.BACKING_OFF: {
            State.SERVING: "relief",
            State.STOPPING: "order",
            State.LEAVING: "listener lost",
        },
        State.STOPPING: {State.LEAVING: "loop ended"},
        State.LEAVING: {},
        State.FAILED_TO_BOOT: {},
    }
)
"""The life of a worker: from each state, those that may follow and why. docs/states.svg is drawn from it
(scripts/states.py)."""
