"""The record that passes over an exec: what the next image of this process needs to go on, encoded and decoded. Pure.

It is JSON, with the number of its format first, so that an image of another version can tell at once whether it reads
it. Decoding trusts nothing: a record that is not exactly what this version writes is refused, which the pre-flight
finds out before there is anything to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from prefork.net.listener import Snapshot
from prefork.system import codec
from prefork.system.codec import DecodeError
from prefork.system.natives import signal
from prefork.system.record import Record

SIGTERM = signal.SIGTERM

FORMAT = 6


class HandoverError(ValueError):
    """The record can't be read."""


class Life(Record):
    """One worker that goes on.

    Attributes:
        pid slot entry generation: as in the roster.
        born ready_at deadline: monotonic seconds, which go on over an exec.
        order wanted: as in the roster.
        cause detail: of its reason to go; None and "" when it has none. A cause may be one that only the writer knows.
        role: its place in its slot.
        pidfd report: descriptors; None where there is none.
        board: the descriptor of the scoreboard that it lives on.
        order_at: the index of its ORDER word there, which is all that an image with another layout needs.
        wake_up: the signal that makes it look there.
    """

    pid: int
    slot: int
    entry: int
    generation: int
    born: float
    ready_at: float | None
    deadline: float | None
    order: int
    cause: str | None
    detail: str
    wanted: bool
    role: Literal["incumbent", "successor", "retiring"]
    pidfd: int | None
    report: int | None
    board: int
    order_at: int
    wake_up: int


class MoldLife(Record):
    """One mold that goes on, for as long as its workers do.

    Attributes:
        pid generation: as the master knows it.
        born: monotonic seconds.
        control report pidfd: descriptors; None where there is none.
    """

    pid: int
    generation: int
    born: float
    control: int | None
    report: int | None
    pidfd: int | None


class Handover(Record):
    """All of it.

    Attributes:
        format: :data:`FORMAT`.
        pid: whose record it is: the exec keeps the pid.
        bind: the addresses as the settings gave them.
        listeners: what listens.
        layout: the layout of scoreboard and events (:data:`prefork.scoreboard.layout.LAYOUT`).
        board events go: descriptors.
        queue: the ends of the return queue; None when no connections are kept.
        generation size: of the workers.
        draining: slots that go.
        mask: the signal mask that the process had before its master ran, and has again in the end.
        services: what services pass on, for them alone to read.
        workers: who lives.
        molds: those of which they were made.
    """

    format: int
    pid: int
    bind: tuple[str, ...]
    listeners: tuple[Snapshot, ...]
    layout: int
    board: int
    events: tuple[int, int]
    go: int
    queue: tuple[int, int] | None
    generation: int
    size: int
    draining: tuple[int, ...]
    mask: tuple[int, ...]
    services: str
    workers: tuple[Life, ...]
    molds: tuple[MoldLife, ...]

    @property
    def descriptors(self) -> list[int]:
        """Every descriptor that has to come through the exec."""
        members = [fd for record in self.listeners for _, fd in record.members]
        lines = [fd for life in self.workers for fd in (life.pidfd, life.report) if fd is not None]
        lines += [fd for life in self.molds for fd in (life.control, life.report, life.pidfd) if fd is not None]
        boards = {self.board, *(life.board for life in self.workers)}
        return [*members, *boards, *self.events, self.go, *(self.queue or ()), *lines]

    def encode(self) -> bytes:
        """The record as bytes."""
        return codec.encoded(self).encode()

    @classmethod
    def decode(cls, data: bytes) -> Handover:
        """The record that ``data`` is.

        Raises:
            HandoverError: it is none, or one of another format.
        """
        try:
            return cls._decode(codec.parsed_object(data))
        except DecodeError as error:
            raise HandoverError(f"the hand-over record can't be read: {error}") from None

    @classmethod
    def _decode(cls, found: dict[str, Any]) -> Handover:
        said = found.get("format")
        if type(said) is int and said in _TO_THE_NEXT and isinstance(lives := found.get("workers"), list):
            for number in range(said, FORMAT):
                lives = [_TO_THE_NEXT[number](life) if isinstance(life, dict) else life for life in lives]
            found = {"services" if name == "windows" else name: value for name, value in found.items()}  # as the fifth
            found = {"queue": None, "molds": []} | found | {"format": FORMAT, "workers": lives}
        elif said != FORMAT:
            raise HandoverError(f"the hand-over record has format {said!r}; this version reads {FORMAT}")
        return codec.read(cls, found, exact=True)


def _second(life: dict[str, Any]) -> dict[str, Any]:
    """Images of the first format woke workers by SIGTERM, and so did not say by what."""
    return {**life, "bell": int(SIGTERM)}


def _third(life: dict[str, Any]) -> dict[str, Any]:
    """Those of the second called the entry a seat."""
    return {"entry" if name == "seat" else name: value for name, value in life.items()}


def _fourth(life: dict[str, Any]) -> dict[str, Any]:
    """Those of the third rang a bell, and said why a worker was to go as their log lines did."""
    life = {"wake_up" if name == "bell" else name: value for name, value in life.items()}
    said = life.get("reason")
    if not isinstance(said, str):
        return life
    del life["reason"]
    text, _, detail = said.partition(": ")
    if text in _PHRASES:
        return {**life, "cause": _PHRASES[text], "detail": detail}
    return {**life, "cause": "other" if said else None, "detail": said}


_TO_THE_NEXT: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _second,
    2: _third,
    3: _fourth,
    4: dict,
    5: dict,
}
"""What makes of a worker's record, in an older format, one in the format after it."""

_PHRASES = {
    "the server stops": "stop",
    "the server shrinks": "shrink",
    "replaced": "reload",
    "max_requests": "max_requests",
    "max_age": "max_age",
    "max_memory": "max_memory",
    "max_fds": "max_fds",
    "signalled by somebody else": "signalled",
    "it leaks descriptors": "leak",
    "its listener is lost": "listener_lost",
    "it asked for it": "asked",
    "recycled by hand": "recycled",
}
"""The values of :class:`prefork.supervisor.cause.Cause` by the phrases of format 3, which change no more."""


def locate(value: str) -> tuple[int, int]:
    """The descriptor and the pid that an environment variable names.

    Raises:
        HandoverError: it is not "FD:PID".
    """
    fd, _, pid = value.partition(":")
    if not (value.isascii() and fd.isdecimal() and pid.isdecimal() and len(fd) < 10 and len(pid) < 10):
        raise HandoverError(f"{value[:40]!r} does not name a hand-over record")
    return int(fd), int(pid)
