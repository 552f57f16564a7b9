"""What the application counts, in memory that all its processes share: no folder of files, and nothing to clean up.

A memfd of *regions*, one for each process that counts, and the first for all that have died. A process claims one by a
record lock (fcntl(2), F_SETLK), which the kernel gives back when it dies, writes its pid there, and then only values: a
value is one aligned word, so no reader sees half of it. When a process has died the MASTER adds what it counted to the
first region, as far as that outlives it, and gives its region back. A reader that meets the master at that begins anew.

What a value is called is a text of who counts (`prefork.prometheus`), and nothing here knows what it means; how the
value of a dead one is kept says who asks for it (`Keep`). The master takes nothing in a region on trust: processes may
be another user's.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from prefork.system.natives import os, time

REGION: Final = 1 << 20
"""Bytes of a region. Nothing of it takes memory before it is written to."""

_MAGIC: Final = 0x736369727465
_HEADER: Final = 4096  # bytes
_WORD: Final = 8
_REGION_WORDS: Final = REGION // _WORD
_MAGIC_AT, _COUNT_AT, _TURN_AT = range(3)  # words of the header
_PID_AT, _USED_AT, _FIRST = range(3)  # words of a region; USED counts words
_LENGTH: Final = struct.Struct("=II")  # of an entry in words, and of its name in bytes
_RETRIES: Final = 1000

Keep = Callable[[str, int], tuple[str, str] | None]
"""By the name of a value and the pid of who counted it: under which name it is kept, and how, as `MERGES` has it; None
drops it."""


class Counted(NamedTuple):
    """One value.

    Attributes:
        name: What it is called.
        pid: Who counts it; 0 for the dead.
        value: The value.
        at: A time that whoever has set it may have set along; 0.0 is none.
    """

    name: str
    pid: int
    value: float
    at: float


Valued = tuple[float, float]
"""A value and its time."""

MERGES: Final[Mapping[str, Callable[[Valued, Valued], Valued]]] = {
    "sum": lambda one, other: (one[0] + other[0], 0.0),
    "min": min,
    "max": max,
    "mostrecent": lambda one, other: other if other[1] > one[1] else one,
}
"""What two values come to, by how they are kept."""


class Region:
    """The part of one process. Nobody else writes to it, while it lives.

    Args:
        memory: Its bytes.
    """

    def __init__(self, memory: memoryview) -> None:
        self._bytes = memory
        self.words: memoryview[int] = memory.cast("Q")
        self.values: memoryview[float] = memory.cast("d")
        self._places: dict[str, int] = {}

    def place(self, name: str) -> int:
        """Where the value of that name stands among `values`, its time behind it; made when it is new.

        Raises:
            MemoryError: The region is full.
        """
        found = self._places.get(name)
        return self._add(name) if found is None else found

    def _add(self, name: str) -> int:
        encoded = name.encode("utf-8", "surrogatepass")
        begin = self.words[_USED_AT] or _FIRST
        length = 1 + -(-len(encoded) // _WORD) + 2
        if begin + length > len(self.words):
            raise MemoryError(f"there is no room for {name}: {len(self._places)} values have {REGION >> 20} MiB")
        at = begin * _WORD
        _LENGTH.pack_into(self._bytes, at, length, len(encoded))
        self._bytes[at + _WORD : at + _WORD + len(encoded)] = encoded
        value = begin + length - 2
        self.values[value] = self.values[value + 1] = 0.0
        self.words[_USED_AT] = begin + length  # last: nobody sees half an entry
        self._places[name] = value
        return value

    def learn(self) -> None:
        """Go on with what another image of this process has written."""
        self._places = dict(self._entries())

    def read(self) -> Iterator[Counted]:
        """All values. What can't be one ends it: whoever writes here may write anything."""
        pid = self.words[_PID_AT]
        for name, place in self._entries():
            yield Counted(name, pid, self.values[place], self.values[place + 1])

    def _entries(self) -> Iterator[tuple[str, int]]:
        used = min(self.words[_USED_AT], len(self.words))
        at = _FIRST
        while at < used:
            length, size = _LENGTH.unpack_from(self._bytes, at * _WORD)
            if length < 3 or at + length > used or size > (length - 3) * _WORD:
                return
            begin = (at + 1) * _WORD
            name = self._bytes[begin : begin + size].tobytes().decode("utf-8", "replace")
            yield name, at + length - 2
            at += length

    def clear(self) -> None:
        """Forget all of it."""
        self.words[_USED_AT] = self.words[_PID_AT] = 0
        self._places.clear()


def private() -> Region:
    """A region that nobody shares: of a process that has none, yet or any more."""
    return Region(memoryview(bytearray(REGION)))


class AppMetrics:
    """The memory.

    Args:
        fd: Its descriptor; taken over.

    Raises:
        ValueError: It is none.
        OSError: It can't be mapped.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        size = os.fstat(fd).st_size
        if size < _HEADER + REGION or (size - _HEADER) % REGION:
            raise ValueError(f"{size} bytes are no memory of metrics")
        self._memory = memoryview(mmap.mmap(fd, size))
        self._header: memoryview[int] = self._memory[:_HEADER].cast("Q")
        count = (size - _HEADER) // REGION
        if self._header[_MAGIC_AT] != _MAGIC or self._header[_COUNT_AT] != count:
            raise ValueError("not a memory of metrics of this layout")
        self.regions: list[Region] = [
            Region(self._memory[_HEADER + n * REGION : _HEADER + (n + 1) * REGION]) for n in range(count)
        ]
        self.regions[0].learn()

    @classmethod
    def create(cls, processes: int) -> AppMetrics:
        """MASTER. Make it.

        Args:
            processes: How many can count at one moment.

        Raises:
            OSError: No descriptor or no memory for it.
        """
        fd = os.memfd_create("prefork-metrics", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _HEADER + (processes + 1) * REGION)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            os.pwrite(fd, struct.pack("=QQ", _MAGIC, processes + 1), 0)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def claim(self) -> Region | None:
        """WORKER. A region of one's own, for life; None when all are taken."""
        for number, region in enumerate(self.regions[1:], 1):
            if region.words[_PID_AT]:
                continue
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError:
                continue
            if not region.words[_PID_AT]:
                region.words[_PID_AT] = os.getpid()
                return region
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, number)
        return None

    def bury(self, pid: int, keep: Keep) -> None:
        """MASTER. Keep what a process that has died had counted, as ``keep`` has it, and give its region back."""
        for region in self.regions[1:]:
            if region.words[_PID_AT] == pid:
                with self._turn():
                    try:
                        self._keep(region, pid, keep)
                    finally:
                        region.clear()

    def _keep(self, region: Region, pid: int, keep: Keep) -> None:
        dead = self.regions[0]
        for counted in region.read():
            kept = keep(counted.name, pid)
            if kept is None:
                continue
            name, how = kept
            before = dead.words[_USED_AT]
            try:
                place = dead.place(name)
            except MemoryError:
                continue  # the dead have counted more things than there is room for
            if dead.words[_USED_AT] != before:
                dead.values[place], dead.values[place + 1] = counted.value, counted.at
                continue
            both = (dead.values[place], dead.values[place + 1]), (counted.value, counted.at)
            dead.values[place], dead.values[place + 1] = MERGES[how](*both)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        self._header[_TURN_AT] += 1  # odd: who reads now begins anew
        try:
            yield
        finally:
            self._header[_TURN_AT] += 1

    def read(self) -> list[Counted]:
        """Any process. All values of the living and of the dead, each once."""
        found: list[Counted] = []
        for _ in range(_RETRIES):
            turn = self._header[_TURN_AT]
            found = [counted for region in self.regions for counted in region.read()]
            if turn % 2 == 0 and self._header[_TURN_AT] == turn:
                return found
            time.sleep(0.001)  # the master is at it
        return found

    def close(self) -> None:
        """MASTER. Close the descriptor; the memory is unmapped with the last of its users. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
