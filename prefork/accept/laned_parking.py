"""The parked connections of a worker with several lanes.

Each lane has one of them in hand, which is what `ParkedConnections.in_hand` is in its thread. Who has the lead looks
whether one speaks, and marks it as somebody's at once: it may be another lane that serves it. One that speaks while it
is in hand (the rest of a body, the next request) is looked away from until it is parked again.

All methods may be called by any lane, and some by the main thread; a lock makes them one after another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from prefork.accept.parked_connections import AT_ONCE, READ, SPEAKS, ParkedConnection, ParkedConnections
from prefork.config.keepalive import Keepalive
from prefork.scoreboard.layout import PARKED
from prefork.system.descriptors import readable
from prefork.system.natives import select, socket, threading

_WRITABLE: Final = int(select.EPOLLOUT)


class _HandOfThread(threading.local):
    """What the lane of this thread has in hand.

    Attributes:
        one: it.
        again: whether it is to be kept.
        last: whether it can't be, because it was taken when none was kept any more.
    """

    one: ParkedConnection | None = None
    again = False
    last = False


class LanedParking(ParkedConnections):
    """The parked connections of one worker with several lanes.

    Attributes:
        found: those that speak, and are nobody's yet.
        leaving: whether those that can be passed on are; of the others each request is the last.
        ended: whether none is kept any more, whatever its request has been told.
    """

    def __init__(self, settings: Keepalive, words: memoryview[int]) -> None:
        self._mine = _HandOfThread()
        self.lock = threading.RLock()
        self.found: deque[ParkedConnection] = deque()
        self.leaving = self.ended = False
        super().__init__(settings, words)

    @property
    def in_hand(self) -> ParkedConnection | None:
        """What the lane of this thread has in hand, or is to have at once."""
        return self._mine.one

    @in_hand.setter
    def in_hand(self, one: ParkedConnection | None) -> None:
        mine = self._mine
        if mine.one is not None:
            mine.one.serving = False
        if one is not None:
            one.serving = True
            mine.last = self.closing
        mine.one = one

    @property
    def _again(self) -> bool:
        return self._mine.again

    @_again.setter
    def _again(self, again: bool) -> None:
        self._mine.again = again

    def last(self) -> bool:
        """As `ParkedConnections.last`; who was told that the connection is kept, before an order came, has it kept."""
        one, mine = self.in_hand, self._mine
        if self.ended or one is None or mine.last or (self.leaving and one.bound):
            return True
        return one.requests + 1 >= self._requests

    def look_for_speakers(self, silent: float = 0.0) -> bool:
        """THE LEADER. See who speaks, for :attr:`found`; whether there is somebody.

        Args:
            silent: until when none of them had spoken, as far as it is known (monotonic seconds).
        """
        with self.lock:
            for fd, told in self.look(0, AT_ONCE) if self.members else ():
                one = self.members.get(fd)
                if one is None:
                    super().stranger(fd)
                    continue
                if one.serving:
                    self.look_away(one)
                    continue
                events = told & ~_WRITABLE
                if events != told:
                    self._wait_for(fd, READ)
                    if not (events or one.ready):
                        continue  # it has been served since
                if events == SPEAKS:
                    one.seen = silent
                elif super().gone(one):
                    continue
                one.serving = True
                self.turn.pop(fd, None)
                self.found.append(one)
        return bool(self.found)

    def speakers(self) -> Iterator[ParkedConnection]:
        """THE LEADER. Those that were found, and those that are ready by themselves, each once."""
        while True:
            with self.lock:
                if not self.found:
                    break
                one = self.found[0]
                self.in_hand = one  # before it is in no list any more: an exception may come
                self.found.popleft()
            yield one
        if not self.turn:
            return
        with self.lock:
            ready = [*self.turn.values()]
        for one in ready:
            with self.lock:
                if one.serving or self.turn.pop(one.fd, None) is not one:
                    continue
                self.in_hand = one
            yield one

    def tell_who_is_left(self) -> None:
        """Say of how many nobody has something in hand: these are still to be passed on."""
        with self.lock:
            self.words[PARKED] = sum(1 for _ in self._idle())

    def end(self) -> None:
        """Keep none any more, and close those that are nobody's."""
        self.ended = True
        with self.lock:
            idle = [*self._idle()]
        for one in idle:
            self.close(one)

    def take_speakers(self, most: int) -> list[ParkedConnection]:
        """MAIN THREAD. Those that speak and can be passed on, while no lane looks; they are the caller's."""
        self.look_for_speakers()
        with self.lock:
            some = [one for one in self.found if not one.bound][:most]
            for one in some:
                self.found.remove(one)
            return some

    def give_back(self, some: Sequence[ParkedConnection]) -> None:
        """MAIN THREAD. These could not be passed on."""
        with self.lock:
            self.found.extendleft(reversed(some))

    def _idle(self) -> Iterator[ParkedConnection]:
        return (one for one in self.members.values() if not one.serving)

    def over(self, given: socket.socket, *, failed: bool) -> bool:
        """As `ParkedConnections.over`."""
        with self.lock:
            kept = super().over(given, failed=failed)
            if kept and self.leaving:  # before its lane is idle: a worker that hangs is ended when nobody is left
                self.tell_who_is_left()
            return kept

    def as_new(self, one: ParkedConnection) -> ParkedConnection:
        """As `ParkedConnections.as_new`."""
        with self.lock:
            return super().as_new(one)

    def unasked(self) -> None:
        """As `ParkedConnections.unasked`."""
        with self.lock:
            super().unasked()

    def admit(self, one: ParkedConnection) -> bool:
        """As `ParkedConnections.admit`.

        Who is ready by himself has said all already, and the leader may sleep in another thread: it is waited for until
        he can be written to, which is now, or when his client has taken what he was sent.
        """
        with self.lock:
            admitted = super().admit(one)
            if admitted and one.ready:
                self._wait_for(one.fd, READ | _WRITABLE)
            return admitted

    def _wait_for(self, fd: int, events: int) -> None:
        with suppress(OSError):  # closed meanwhile
            self._epoll.modify(fd, events)

    def expire(self) -> float | None:
        """As `ParkedConnections.expire`."""
        with self.lock:
            return super().expire()

    def evict(self, count: int = 0) -> bool:
        """As `ParkedConnections.evict`."""
        with self.lock:
            return super().evict(count)

    def handed_over(self, some: Sequence[ParkedConnection]) -> None:
        """As `ParkedConnections.handed_over`."""
        with self.lock:
            super().handed_over(some)

    def close(self, one: ParkedConnection) -> None:
        """As `ParkedConnections.close`."""
        with self.lock:
            super().close(one)

    def abandon(self) -> None:
        """As `ParkedConnections.abandon`."""
        with self.lock:
            super().abandon()

    def begin_anew(self) -> None:
        """As `ParkedConnections.begin_anew`."""
        with self.lock:
            self._again = False
            for fd, one in self.members.items():
                if one.ready and not one.serving:
                    self.turn[fd] = one

    def last_served(self) -> list[ParkedConnection]:
        """The one that was served last, if it is nobody's, can be passed on and is silent; it is the caller's."""
        with self.lock:
            for one in reversed(self.members.values()):
                if not one.serving:
                    if one.bound or one.ready or readable(one.fd):
                        break
                    one.serving = True
                    return [one]
            return []

    def free(self, most: int) -> list[ParkedConnection]:
        """Some that are nobody's and can be passed on; they are the caller's."""
        with self.lock:
            some = [one for one in self._idle() if not one.bound][:most]
            for one in some:
                one.serving = True
            return some

    def release(self, some: Sequence[ParkedConnection]) -> None:
        """These could not be passed on: they are nobody's again."""
        for one in some:
            one.serving = False
