"""What a worker does about each failure of accept(2), as data.

Theory
======

accept(2) fails for five reasons that have nothing to do with each other, and its errno tells them apart. A loop that
treats them alike either spins (at the descriptor limit), dies (of a client that hung up) or goes deaf (when its
listener is gone). The question behind each row is: *whose trouble is it, and what ends it?*

1. **Nobody's.** The queue is empty (EAGAIN) or a signal came (EINTR). Look at what is ordered, then go on.

2. **One connection's.** Linux reports errors that are pending on the *new* socket as errors of accept, where BSD hands
   over a dead socket: "for reliable operation the application should detect the network errors defined for the
   protocol after accept() and treat them like EAGAIN by retrying" (accept(2)). That connection is gone and the next
   may be fine: retry at once. Only a long row of them (`DEAD_IN_A_ROW`) asks for a pause: then it is the network
   that is ill, and the loop would spin.

3. **Exhaustion.** The kernel reserves the descriptor and the file *before* it looks at the queue, so at the limit
   accept fails at once even when nobody waits: a loop without backoff burns a core. Nothing is lost by waiting, the
   connections stay queued. EMFILE is this process's own limit, and its siblings are well; ENFILE, ENOBUFS, ENOMEM and
   ENOSR are the system's, and every worker had better hold still. EPERM is a firewall's or a security module's word,
   which may be taken back, and must be said loudly when it is not.

4. **The listener's.** It is no longer a listening socket, and no retry brings it back. EINVAL names this state, and
   EOPNOTSUPP may (it stands for a dead connection too), so SO_ACCEPTCONN (socket(7)) has to be asked. A seal makes
   the same state on purpose: a worker that was told to stop sees EINVAL and is done.

5. **Ours.** EBADF, ENOTSOCK and EFAULT, and EINVAL from a socket that does listen (it means the flags), come from a
   mistake in the program only, or from a descriptor that was taken away while the worker stops.

So a row has one reaction and up to two exceptions: once a stop is ordered, and when the socket turns out not to listen.
`resolve` applies them. What accept(2) does not list at all backs off: an errno that nobody foresaw must neither spin
nor kill.

Table
=====

====================================================  ===================  =================  ===================
errno                                                 reaction             a stop is ordered  it does not listen
====================================================  ===================  =================  ===================
EAGAIN (EWOULDBLOCK)                                  POLL                 STOP
EINTR, ERESTARTSYS                                    RETRY
ECONNABORTED, EPROTO, ENETDOWN, ENOPROTOOPT,          DEAD_CONNECTION
EHOSTDOWN, ENONET, EHOSTUNREACH, ENETUNREACH,
ETIMEDOUT
EOPNOTSUPP                                            DEAD_CONNECTION                         LISTENER_LOST
EMFILE                                                BACK_OFF_WORKER
ENFILE, ENOBUFS, ENOMEM, ENOSR                        BACK_OFF_SYSTEM
EPERM                                                 BACK_OFF_PERMISSION
ESOCKTNOSUPPORT, EPROTONOSUPPORT                      LISTENER_LOST
EINVAL                                                FATAL                STOP               LISTENER_LOST
EBADF, ENOTSOCK, EFAULT                               FATAL                STOP
any other                                             BACK_OFF
====================================================  ===================  =================  ===================
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from prefork.system.record import Record

ERESTARTSYS: Final = 512
"""The kernel's own errno for "restart this call"; it never leaves the kernel, but a trace shows it (accept(2))."""

DEAD_IN_A_ROW: Final = 64
"""How many `Reaction.DEAD_CONNECTION` without a success between them are retried at once; the next one backs off."""


class Reaction(enum.IntEnum):
    """What to do next."""

    RETRY = 0
    """Look at the order, then accept again at once."""
    POLL = 1
    """Nothing waits: sleep in poll(2) until the listener or an order wakes us, then accept again."""
    STOP = 2
    """A stop was ordered and nothing more comes to this worker: leave the loop."""
    DEAD_CONNECTION = 3
    """One client is gone: accept again at once, and back off after `DEAD_IN_A_ROW` of them."""
    BACK_OFF_WORKER = 4
    """This process is out of descriptors: wait, look for a leak, ask for a replacement."""
    BACK_OFF_SYSTEM = 5
    """The system is short: all workers wait, one probes, the master holds its forks."""
    BACK_OFF_PERMISSION = 6
    """Forbidden from outside: wait; when it persists, the listener is lost."""
    BACK_OFF = 7
    """Unknown: wait and try again."""
    LISTENER_LOST = 8
    """This is no listening socket any more: say so loudly, the worker can't go on."""
    FATAL = 9
    """A programming error: say so loudly, this worker ends and is replaced."""


class AcceptError(Record):
    """One errno of the table.

    Args:
        name: The errno's symbolic name, "other" for one that the table doesn't list.
        reaction: What holds while no stop is ordered and the listener listens.
        reason: When Linux gives it, in words that a log line can carry.
        stopping: What holds instead once a stop is ordered; None if that makes no difference.
        deaf: What holds instead when SO_ACCEPTCONN is not 1; None if that makes no difference and need not be asked.
    """

    name: str
    reaction: Reaction
    reason: str
    stopping: Reaction | None = None
    deaf: Reaction | None = None


_OURS: Final = {"reaction": Reaction.FATAL, "stopping": Reaction.STOP}


def _dead(name: str, reason: str) -> AcceptError:
    return AcceptError(name, Reaction.DEAD_CONNECTION, reason)


def _exhausted(name: str, reason: str) -> AcceptError:
    return AcceptError(name, Reaction.BACK_OFF_SYSTEM, reason)


TABLE: Final[Mapping[int, AcceptError]] = MappingProxyType(
    {
        errno.EAGAIN: AcceptError(
            "EAGAIN", Reaction.POLL, "the listener is non-blocking and nothing waits", stopping=Reaction.STOP
        ),
        errno.EINTR: AcceptError("EINTR", Reaction.RETRY, "a signal came while nothing waited"),
        ERESTARTSYS: AcceptError("ERESTARTSYS", Reaction.RETRY, "a signal came; seen in traces only"),
        errno.ECONNABORTED: _dead("ECONNABORTED", "the client hung up before it was accepted"),
        errno.EPROTO: _dead("EPROTO", "a protocol error on the new connection"),
        errno.ENETDOWN: _dead("ENETDOWN", "the new connection's network is down"),
        errno.ENOPROTOOPT: _dead("ENOPROTOOPT", "the new connection's peer refused its protocol"),
        errno.EHOSTDOWN: _dead("EHOSTDOWN", "the new connection's peer is down"),
        errno.ENONET: _dead("ENONET", "the new connection's machine is off the network"),
        errno.EHOSTUNREACH: _dead("EHOSTUNREACH", "no route to the new connection's peer"),
        errno.ENETUNREACH: _dead("ENETUNREACH", "no route to the new connection's network"),
        errno.ETIMEDOUT: _dead("ETIMEDOUT", "the new connection timed out"),
        errno.EOPNOTSUPP: AcceptError(
            "EOPNOTSUPP",
            Reaction.DEAD_CONNECTION,
            "an error of the new connection, or the socket is of a type that can't accept",
            deaf=Reaction.LISTENER_LOST,
        ),
        errno.EMFILE: AcceptError("EMFILE", Reaction.BACK_OFF_WORKER, "this process is at its limit of descriptors"),
        errno.ENFILE: _exhausted("ENFILE", "the system is at its limit of open files"),
        errno.ENOBUFS: _exhausted("ENOBUFS", "the kernel has no memory for socket buffers"),
        errno.ENOMEM: _exhausted("ENOMEM", "the kernel has no memory"),
        errno.ENOSR: _exhausted("ENOSR", "the kernel is out of streams resources"),
        errno.EPERM: AcceptError("EPERM", Reaction.BACK_OFF_PERMISSION, "a firewall or security module forbids it"),
        errno.ESOCKTNOSUPPORT: AcceptError(
            "ESOCKTNOSUPPORT", Reaction.LISTENER_LOST, "the kernel does not know the listener's socket type"
        ),
        errno.EPROTONOSUPPORT: AcceptError(
            "EPROTONOSUPPORT", Reaction.LISTENER_LOST, "the kernel does not know the listener's protocol"
        ),
        errno.EINVAL: AcceptError(
            "EINVAL",
            Reaction.FATAL,
            "the socket does not listen, or accept was given bad flags",
            stopping=Reaction.STOP,
            deaf=Reaction.LISTENER_LOST,
        ),
        errno.EBADF: AcceptError("EBADF", reason="the listener's descriptor is not open", **_OURS),
        errno.ENOTSOCK: AcceptError("ENOTSOCK", reason="the listener's descriptor is not a socket", **_OURS),
        errno.EFAULT: AcceptError("EFAULT", reason="accept was given a bad address to write to", **_OURS),
    }
)
"""Every errno that accept(2) documents for Linux, by number. EWOULDBLOCK is EAGAIN on Linux."""

OTHER: Final = AcceptError("other", Reaction.BACK_OFF, "accept(2) does not document this error")
"""The row of every errno that is not in `TABLE`."""


COUNTED: Final = (*(found.name for found in TABLE.values()), OTHER.name)
"""What the scoreboard's counters of failed accepts are called, by their place."""

_PLACES: Final = {number: place for place, number in enumerate(TABLE)}


def place(number: int) -> int:
    """Where an errno is counted: its place in `COUNTED`. Pure."""
    return _PLACES.get(number, len(TABLE))


def lookup(number: int) -> AcceptError:
    """The row of an errno, `OTHER` when the table has none. Pure."""
    return TABLE.get(number, OTHER)


def reaction(number: int) -> Reaction:
    """What an errno means while no stop is ordered and the listener listens. Pure."""
    return lookup(number).reaction


def resolve(number: int, *, stopping: bool, listening: bool | None = None) -> Reaction:
    """What to do about a failed accept(2), with the facts that its errno alone does not tell. Pure.

    Args:
        number: The errno.
        stopping: Whether this worker has been ordered to stop, in whatever way.
        listening: What SO_ACCEPTCONN said; None when it could not be read, which counts as no. It matters, and so is
            worth its system call, only for rows whose ``deaf`` is not None.

    Returns:
        The reaction; never one that still depends on something.
    """
    found = lookup(number)
    if stopping and found.stopping is not None:
        return found.stopping
    if not listening and found.deaf is not None:
        return found.deaf
    return found.reaction


def errnos(error: BaseException) -> set[int]:
    """The errnos of ``error`` and of all that it came from."""
    found = set()
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError):
            found.add(link.errno or 0)
        elif isinstance(link, MemoryError):
            found.add(errno.ENOMEM)
        link = link.__cause__ or link.__context__
    return found
