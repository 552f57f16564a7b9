"""The scoreboard: what master and workers know of each other, in shared memory.

The memory is a memfd of 64-bit words: a header, then one *entry* for each worker that can live at one moment. A slot is
a worker's stable index and outlives pids; an entry is where one life keeps its words. At a handover the incumbent of a
slot and its successor live side by side, each in an entry of its own: neither ever writes into the other's words.

The header, which is the master's, says what holds for all: how the memory is laid out, whether the workers hold because
the system is exhausted, who probes meanwhile, what is exhausted since when (:class:`ExhaustionState`), and whether the
server is fit for new clients (:class:`Readiness`).

Every word has one writer. The first line of an entry is the master's, the rest is the worker's:

word                  writer   meaning
PID SLOT GENERATION   master   whose entry it is; PID 0 = free
ORDER                 master   what the master wants of this worker (:class:`Order`)
BORN                  master   monotonic ns of the fork
STATE STATE_SINCE     worker   :class:`State` and the monotonic ns at which it was entered
LAST_ERRNO _AT        worker   errno of the last accept(2) that failed, monotonic ns
REFUSED               worker   connections shed
ACCEPTS               worker   how (:class:`Accepts`); 0 = in a loop of its own, on the sockets themselves
RECYCLE_WHY           worker   why it wants to be replaced (:class:`prefork.scoreboard.events.Why`); 0 = it does not
STANCE                worker   what it has to do with the next connection (:class:`prefork.scoreboard.lanes.Stance`)
ERRORS + place        worker   failed accepts, by errno (:func:`prefork.net.accept_errors.place`)
PARKED                worker   connections that it keeps, the one in hand included
REUSED                worker   times that it has served one that was kept before
HANDED_OVER           worker   kept connections that it has passed on
COLLECTING            worker   1 = it collects garbage between two connections
EXPIRED EVICTED LEFT  worker   kept connections that were closed: their time was over / to make room / by the client
lane BUSY_SINCE       worker   0 = idle, else monotonic ns at which the connection in hand was accepted
lane DEADLINE         worker   0 = by the settings, else the monotonic ns that a handler asked for
lane SERVED FAILED    worker   connections whose handler returned / raised
lane BUSY_TOTAL       worker   ns spent in handlers
lane BUSY_LONGEST     worker   ns, the longest of them
lane IDLE_SINCE       worker   monotonic ns at which the last connection was finished
lane THREAD           worker   what Python and faulthandler call its thread (threading.get_ident); 0 = the main one
lane HISTOGRAM + n    worker   handlers that took less than 2**n * 64 us (and not less than half of it)
lane WAITED_TOTAL     worker   ms that what was taken had waited for a worker
lane WAITED + n       worker   what had waited less than 2**n * 4 ms (and not less than half of it)
lane RECORD           worker   what is in hand, in words: :mod:`prefork.scoreboard.recorder`
lane RECORD_STAMP     worker   its last word: the BUSY_SINCE for which that holds

A store of an aligned 64-bit word does not tear (CPython copies it with one ``memcpy`` of eight bytes). A lane is one
thread that serves connections (:mod:`prefork.accept.lanes`); each writes its own words alone. The stance is the
process's: its lanes write it under a lock of theirs.

The memfd is sealed against growing and shrinking (fcntl(2), F_SEAL_SHRINK): a worker may run as another user than the
master, and an ``ftruncate`` by it would otherwise kill the master by SIGBUS. For the same reason the master takes no
word on trust: :meth:`Scoreboard.read` holds each to what is possible (a count to one in a microsecond of the worker's
life, a moment to that life), and no pid is ever read back from here.
"""

from __future__ import annotations

import ctypes
import enum
import fcntl
import mmap
from typing import NamedTuple

from prefork.scoreboard.bounds import counts, held, member, moment, most
from prefork.system.natives import os, time
from prefork.system.record import Record

SCOREBOARD = "prefork-scoreboard"
"""The name that the memory has in /proc/PID/maps, by which a worker is known; the same in `prefork.net.port_owner`."""

MAGIC = 0x6B726F66657270  # "prefork", little endian
LAYOUT = 4

HEADER_WORDS = 16
_MAGIC, _LAYOUT, _ENTRIES, _LANES, _STRIDE, HOLD, PROBER, ALL_EXHAUSTED = range(8)
EXHAUSTED_BY, EXHAUSTED_SINCE, EXHAUSTIONS, FATE, READINESS = range(8, 13)

MASTER_WORDS = 8
PID, SLOT, GENERATION, ORDER, BORN = range(5)

WORKER_WORDS = 48
STATE, STATE_SINCE, LAST_ERRNO, LAST_ERRNO_AT, REFUSED, ACCEPTS, RECYCLE_WHY = range(MASTER_WORDS, MASTER_WORDS + 7)
STANCE = MASTER_WORDS + 7
ERRORS = MASTER_WORDS + 8
ERROR_PLACES = 32
PARKED, REUSED, HANDED_OVER, EXPIRED, EVICTED, LEFT = range(ERRORS + ERROR_PLACES, ERRORS + ERROR_PLACES + 6)
COLLECTING = LEFT + 1

LANE = MASTER_WORDS + WORKER_WORDS
LANE_WORDS = 80
BUSY_SINCE, DEADLINE, SERVED, FAILED, BUSY_TOTAL, BUSY_LONGEST, IDLE_SINCE, THREAD = range(8)
HISTOGRAM = 8
BUCKETS = 20
BUCKET_SHIFT = 16  # the first bucket ends at 2**16 ns = 65.5 us
WAITED_TOTAL = 28
RECORD, RECORD_WORDS = 32, 32
RECORD_STAMP = RECORD + RECORD_WORDS - 1
WAITED, WAIT_BUCKETS = 64, 16
WAIT_SHIFT = 2  # the first bucket ends at 4 ms: no finer is the kernel's clock, where it ticks 250 times a second

AT_ONCE = 1 << 16
"""Connections that one worker has in hand at one moment, at the very most: each has a descriptor."""

_LARGEST_PID = 1 << 22  # PID_MAX_LIMIT, linux/threads.h
_LARGEST = (1 << 32) - 1  # of what the master counts one by one
_EVER = (1 << 63) - 1

_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_OWN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
_MAP_FAILED = ctypes.c_void_p(-1).value
_WORD = 8
_MAX_ERRNO = 4095  # what the kernel can return


class Order(enum.IntEnum):
    """What the master wants of a worker; it stands in the entry before the signal that points to it is sent."""

    RUN = 0
    """Accept and serve."""
    SEAL = 1
    """Accept no more, finish what is in hand, leave. The accept queue is somebody else's."""
    DRAIN = 2
    """The server stops: accept until the queue is empty, finish, leave."""
    QUIT = 3
    """As SEAL, in a hurry."""


class Accepts(enum.IntEnum):
    """How a worker takes connections."""

    UNKNOWN = 0
    """In a loop of its own, on the sockets themselves; or it has not begun."""
    ASKED = 1
    """By Worker.accept() or an inlet, as many at one moment as it likes."""
    USUAL = 2
    """In the usual loop: one at a moment in each lane."""


class Fate(enum.IntEnum):
    """What becomes of the parked connections of a worker that leaves."""

    SIBLINGS = 0
    """They pass to those who serve on, through the return queue."""
    CLOSED = 1
    """The server ends: they are answered for the last time, and closed."""
    HEIR = 2
    """The server ends, and they pass to its successor, through the return queue."""


class Readiness(enum.IntEnum):
    """Whether the server is fit for new clients, as its master sees it."""

    STARTING = 0
    """Its first generation is not complete."""
    READY = 1
    DELAYED = 2
    """It has been told to stop and serves on for ``drain_delay``; kept connections are told to go elsewhere."""
    STOPPING = 3
    EXHAUSTED = 4
    """All workers are out of descriptors or memory."""
    RELOAD_FAILED = 5
    """The last reload has failed; the generation before it serves."""


class State(enum.IntEnum):
    """Where a worker is in its life, in its own words."""

    EMPTY = 0
    """Nothing said yet (forked, not yet running)."""
    STARTING = 1
    SERVING = 2
    BACKING_OFF = 3
    """Out of the kernel's wait queue after a failed accept."""
    STOPPING = 4
    """The order to stop has been seen and acted on."""
    LEAVING = 5
    """Past its accept loop."""
    FAILED_TO_BOOT = 6


class LaneView(Record):
    """What one accepting thread of a worker says of itself. Times are monotonic ns."""

    busy_since: int
    deadline: int
    served: int
    failed: int
    busy_total: int
    busy_longest: int
    idle_since: int
    histogram: tuple[int, ...]
    waited_total: int = 0
    waited: tuple[int, ...] = (0,) * WAIT_BUCKETS
    thread: int = 0

    @property
    def accepted(self) -> int:
        """Connections taken from the accept queue: finished ones and the one in hand."""
        return self.served + self.failed + (1 if self.busy_since else 0)


class EntryView(Record):
    """One entry as the master read it, with every word that can't be true replaced."""

    pid: int
    slot: int
    generation: int
    order: Order
    born: int
    state: State
    state_since: int
    last_errno: int
    last_errno_at: int
    refused: int
    parked: int
    reused: int
    handed_over: int
    expired: int
    evicted: int
    left: int
    accepts: Accepts
    errors: tuple[int, ...]
    lanes: tuple[LaneView, ...]


class ExhaustionState(NamedTuple):
    """Whether descriptors or memory are exhausted, as the master said it last."""

    errno: int
    """What fails for want of something; 0 = nothing is exhausted."""
    since: int
    """Monotonic ns at which it began; 0 likewise."""
    exhaustions: int
    """How many there have been since the start, this one included."""


class Scoreboard:
    """Shared memory with a header and a fixed number of entries.

    Made by the master before the first fork and inherited by every worker; ``fd`` survives an exec when it is made
    inheritable, and :meth:`attach` maps it again.
    """

    def __init__(self, fd: int, memory: mmap.mmap) -> None:
        self.fd = fd
        self._memory = memory
        self.words: memoryview[int] = memoryview(memory).cast("Q")
        self.entries = self.words[_ENTRIES]
        self.lanes = self.words[_LANES]
        self._stride = self.words[_STRIDE]

    @classmethod
    def create(cls, entries: int, lanes: int = 1) -> Scoreboard:
        """MASTER. Make and seal a scoreboard.

        Args:
            entries: how many workers can live at one moment, retiring ones included (count).
            lanes: accepting threads a worker has at the most (count).

        Raises:
            OSError: no descriptor or no memory for it (memfd_create(2)).
        """
        stride = LANE + lanes * LANE_WORDS
        size = (HEADER_WORDS + entries * stride) * _WORD
        fd = os.memfd_create(SCOREBOARD, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            memory = mmap.mmap(fd, size)
        except BaseException:
            os.close(fd)
            raise
        with memoryview(memory).cast("Q") as words:
            words[_ENTRIES], words[_LANES], words[_STRIDE] = entries, lanes, stride
            words[_LAYOUT] = LAYOUT
            words[_MAGIC] = MAGIC
        return cls(fd, memory)

    @classmethod
    def attach(cls, fd: int) -> Scoreboard:
        """MASTER, after an exec. Map a scoreboard that another image made; takes ``fd`` over.

        Raises:
            ValueError: the memory is not a scoreboard, or one of another layout.
            OSError: ``fd`` can't be mapped.
        """
        size = os.fstat(fd).st_size
        if size < HEADER_WORDS * _WORD or size % _WORD:
            raise ValueError(f"{size} bytes are no scoreboard")
        memory = mmap.mmap(fd, size)
        with memoryview(memory).cast("Q") as words:
            known = words[_MAGIC] == MAGIC and words[_LAYOUT] == LAYOUT
            lanes, stride = words[_LANES], words[_STRIDE]
            # The workers could write here: a stride that isn't ours would have entries overlap or end outside.
            whole = lanes > 0 and stride == LANE + lanes * LANE_WORDS
            whole = whole and len(words) == HEADER_WORDS + words[_ENTRIES] * stride
        if not (known and whole):
            memory.close()
            raise ValueError("not a scoreboard of this layout")
        return cls(fd, memory)

    def detach(self) -> None:
        """MASTER. Unmap, and leave the descriptor open: somebody else goes on with it."""
        self.words.release()
        self._memory.close()

    def part(self) -> None:
        """In a process that a worker's application has forked: go on with memory of one's own, all zeros (mmap(2)).

        Whoever holds words of it may still write there.
        """
        start = ctypes.c_char.from_buffer(self._memory)
        place = _mmap(ctypes.addressof(start), len(self._memory), mmap.PROT_READ | mmap.PROT_WRITE, _OWN, -1, 0)
        if place == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "the scoreboard can't be parted with")
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """MASTER. Unmap and close. Idempotent. While somebody still holds an entry's words, the memory stays mapped."""
        if self.fd >= 0:
            self.words.release()
            try:
                self._memory.close()
            except BufferError:
                pass
            os.close(self.fd)
            self.fd = -1

    @property
    def hold(self) -> int:
        """The errno for which every worker holds its accepts (the system is exhausted); 0 = none."""
        return self.words[HOLD]

    @hold.setter
    def hold(self, errno: int) -> None:
        self.words[HOLD] = errno

    @property
    def prober(self) -> int:
        """The entry whose worker alone goes on trying while the others hold."""
        return self.words[PROBER]

    @prober.setter
    def prober(self, entry: int) -> None:
        self.words[PROBER] = entry

    @property
    def all_exhausted(self) -> bool:
        """Whether every worker that serves is out of descriptors or memory."""
        return bool(self.words[ALL_EXHAUSTED])

    @all_exhausted.setter
    def all_exhausted(self, all_exhausted: bool) -> None:
        self.words[ALL_EXHAUSTED] = all_exhausted

    @property
    def fate(self) -> Fate:
        """What becomes of parked connections whose worker leaves."""
        return _FATES.get(self.words[FATE], Fate.SIBLINGS)  # a worker may have written it

    @fate.setter
    def fate(self, fate: Fate) -> None:
        self.words[FATE] = fate

    @property
    def readiness(self) -> Readiness:
        """Whether the server is fit."""
        return _READINESS.get(self.words[READINESS], Readiness.READY)

    @readiness.setter
    def readiness(self, readiness: Readiness) -> None:
        self.words[READINESS] = readiness

    @property
    def exhaustion(self) -> ExhaustionState:
        """What is exhausted."""
        return ExhaustionState(self.words[EXHAUSTED_BY], self.words[EXHAUSTED_SINCE], self.words[EXHAUSTIONS])

    @exhaustion.setter
    def exhaustion(self, exhaustion: ExhaustionState) -> None:
        self.words[EXHAUSTED_BY], self.words[EXHAUSTED_SINCE], self.words[EXHAUSTIONS] = exhaustion

    def entry(self, index: int) -> memoryview[int]:
        """The words of entry ``index``, for its writers and for readers of a single word.

        Raises:
            IndexError: there is no such entry.
        """
        if not 0 <= index < self.entries:
            raise IndexError(f"entry {index} of {self.entries}")
        start = HEADER_WORDS + index * self._stride
        return self.words[start : start + self._stride]

    def column(self, word: int) -> memoryview[int]:
        """One word of every entry, to be looked at together: an entry that is free has 0 there."""
        return self.words[HEADER_WORDS + word :: self._stride]

    def index(self, entry: int, word: int) -> int:
        """Where ``word`` of ``entry`` stands among all words."""
        return HEADER_WORDS + entry * self._stride + word

    def blank(self) -> memoryview[int]:
        """The words of an entry about which nothing is known, outside the shared memory."""
        return memoryview(bytearray(self._stride * _WORD)).cast("Q")

    def assign(self, index: int, *, slot: int, generation: int, born: float) -> None:
        """MASTER, before the fork. Clear entry ``index`` and give it to a worker to come."""
        words = self.entry(index)
        start = (HEADER_WORDS + index * self._stride) * _WORD
        self._memory[start : start + self._stride * _WORD] = bytes(self._stride * _WORD)
        words[SLOT] = slot
        words[GENERATION] = generation
        words[BORN] = int(born * 1e9)

    def view(self, index: int) -> EntryView:
        """MASTER. Read entry ``index``; see :meth:`read`."""
        return self.read(self.entry(index))

    def read(self, words: memoryview[int], born: int = 0) -> EntryView:
        """MASTER. Read the words of an entry, and take no word on trust.

        What can't be true reads as 0, and so does a sum of it; a moment after now as now, one before the fork as that.

        Args:
            words: of the entry.
            born: monotonic ns of the fork, as the master knows it; 0 = the boot of the host.
        """
        errno = words[LAST_ERRNO]
        now = time.monotonic_ns()
        often = most(born, now)
        lanes = tuple(_lane(words, LANE + n * LANE_WORDS, born, now) for n in range(self.lanes))
        return EntryView(
            pid=held(words[PID], _LARGEST_PID),
            slot=held(words[SLOT], _LARGEST),
            generation=held(words[GENERATION], _LARGEST),
            order=member(Order, words[ORDER], Order.RUN),
            born=min(words[BORN], now),
            state=member(State, words[STATE], State.EMPTY),
            state_since=moment(words[STATE_SINCE], born, now),
            last_errno=held(errno, _MAX_ERRNO),
            last_errno_at=moment(words[LAST_ERRNO_AT], born, now),
            refused=held(words[REFUSED], often),
            parked=held(words[PARKED], _LARGEST),
            reused=held(words[REUSED], often),
            handed_over=held(words[HANDED_OVER], often),
            expired=held(words[EXPIRED], often),
            evicted=held(words[EVICTED], often),
            left=held(words[LEFT], often),
            accepts=member(Accepts, words[ACCEPTS], Accepts.UNKNOWN),
            errors=counts(words[ERRORS : ERRORS + ERROR_PLACES], often),
            lanes=lanes,
        )


_FATES = {int(fate): fate for fate in Fate}
_READINESS = {int(readiness): readiness for readiness in Readiness}


def _lane(words: memoryview[int], at: int, born: int, now: int) -> LaneView:
    age, often = max(0, now - born), most(born, now)
    return LaneView(
        busy_since=moment(words[at + BUSY_SINCE], born, now),
        deadline=held(words[at + DEADLINE], _EVER),
        served=held(words[at + SERVED], often),
        failed=held(words[at + FAILED], often),
        busy_total=held(words[at + BUSY_TOTAL], age * AT_ONCE),
        busy_longest=held(words[at + BUSY_LONGEST], age),
        idle_since=moment(words[at + IDLE_SINCE], born, now),
        histogram=counts(words[at + HISTOGRAM : at + HISTOGRAM + BUCKETS], often),
        waited_total=held(words[at + WAITED_TOTAL], age * AT_ONCE),
        waited=counts(words[at + WAITED : at + WAITED + WAIT_BUCKETS], often),
    )
