"""The counts behind every figure, in one table: CI runs a tenth of each or less, ``scripts/soak figures`` all."""

from __future__ import annotations

import os

_FULL = {
    "reloads": 100,
    "mold-reloads": 100,
    "killed-families": 300,
    "seconds-of-kills": 20,
    "seconds-of-storm": 30,
    "seconds-of-walk": 200,
    "spoilt-scoreboards": 1_000,
    "preloaded-mebibytes": 160,
    "idle-seconds": 10,
    "masters-killed-idle": 50,
    "killed-masters": 30,
    "resizes": 20,
    "killed-queues": 20,
    "alternating-connections": 8_000,
    "stops-in-an-upgrade": 30,
    "upgrades": 100,
    "takeover-arrivals": 10_000,
    "takeovers": 30,
    "lossless-stops": 20,
    "mutated-requests": 10_000,
    "mutated-proxy-headers": 100_000,
    "sequential-connections": 8_000,
    "embedded-requests": 1_000,
    "embedded-reloads": 5,
    "mutated-messages": 5_000,
    "start-stop-cycles": 300,
    "burst-of-failures": 100,
    "seconds-of-want": 4,
    "workers-in-want": 50,
    "seconds-of-shedding": 10,
    "served-beside-want": 5_000,
    "leaking-requests": 5_000,
    "stops-at-random-moments": 500,
    "milliseconds-of-hostility": 60_000,
    "kept-requests": 100_000,
    "kept-reloads": 100,
    "kept-upgrades": 30,
    "kept-takeovers": 30,
    "kept-recyclings": 100,
    "kept-stops": 100,
    "parked-connections": 10_000,
    "proxied-requests": 100_000,
    "proxied-reloads": 20,
    "proxied-upgrades": 5,
    "exchanged-sockets": 3_000,
    "kills-in-hand": 1_000,
    "rolling-deploys": 20,
    "laned-stops": 30,
    "laned-requests": 10_000,
    "seconds-of-leaks": 600,
    "laned-upgrades": 10,
    "laned-takeovers": 10,
    "laned-recyclings": 30,
}


def count(figure: str, *, least: int = 1, part: int = 10) -> int:
    """How often to do what ``figure`` counts: all of it under ``FIGURES=full``, else a tenth, or another part."""
    of_all = _FULL[figure]
    return of_all if full() else max(least, of_all // part)


def full() -> bool:
    """Whether all of every figure is wanted."""
    return os.environ.get("FIGURES") == "full"


def bound(figure: float) -> float:
    """The most that may be measured: the figure itself; in CI, where others use the machine, ten times it."""
    return figure if full() else 10 * figure
