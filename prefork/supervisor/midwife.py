"""The midwife: a process between the mold and its workers, who forks a batch of them and ends.

A mold's workers are to be the master's children, as all others are, and not the mold's: so that the master has their
exits, and the mold can be replaced beside them. The mold forks a midwife, which is forgotten as soon as it has ended;
its children are given to the master (:mod:`prefork.system.orphans`). N workers take N + 1 forks. What is made for a
batch is made here, so the mold stays as it was.

What is asked for comes by one message: a :class:`BirthRequest`, and descriptors with it (unix(7), SCM_RIGHTS): the
line by which workers say that they are born, the sockets that all of them accept on, and for each worker its report
pipe and the sockets of its slot. The mold itself has no listening socket open.
"""

from __future__ import annotations

import array
import errno
from collections.abc import Sequence
from gc import disable, freeze
from typing import TYPE_CHECKING, Final, NamedTuple

from prefork.supervisor.blueprint import Blueprint, Newborn, start_of
from prefork.supervisor.forked import BORN, NOBODY, Adopted, live
from prefork.supervisor.resources import Resources
from prefork.system import codec, limits, process
from prefork.system.codec import DecodeError
from prefork.system.ending import forget
from prefork.system.natives import os, signal, socket
from prefork.system.orphans import acquaint
from prefork.system.record import Record, changed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

MOST_DESCRIPTORS: Final = 250
"""In one message, at the most (unix(7): SCM_MAX_FD is 253)."""

_BYTES: Final = 1 << 17
_INT: Final = array.array("i").itemsize


class BirthRequest(Record):
    """What a mold is asked for.

    Attributes:
        grouped: for each listener, whether each slot has a socket of its own in it.
        newborns: the workers.
    """

    grouped: tuple[bool, ...]
    newborns: tuple[Newborn, ...]


class Family(NamedTuple):
    """What the mold gives its midwives on their way, made once.

    Attributes:
        common: what all workers have in common, with what the application was loaded to.
        held: what workers share.
        tls: what connections are secured with; None leaves them plain.
        begin_life: what a worker is to call, with slot and generation.
        name: what its process is called.
        private: what is the mold's, and no worker's.
    """

    common: Blueprint
    held: Resources
    tls: ssl.SSLContext | None
    begin_life: tuple[Callable[[int, int], object], ...]
    name: str
    private: tuple[int, ...]


def most_at_once(grouped: Sequence[bool], wanted: int) -> int:
    """How many workers may be asked for by one message. Pure.

    Args:
        grouped: as in :class:`BirthRequest`.
        wanted: how many are wanted.

    Raises:
        OSError: not even one, with so many listeners (E2BIG).
    """
    own = sum(grouped)
    most = (MOST_DESCRIPTORS - 1 - len(grouped) + own) // (1 + own)
    if most < 1:
        raise OSError(errno.E2BIG, f"{len(grouped)} listeners are too many for a mold")
    return min(most, wanted)


def ask(control: socket.socket, request: BirthRequest, descriptors: Sequence[int]) -> None:
    """MASTER. Ask a mold for workers; never blocks.

    Args:
        control: the line to the mold.
        request: what is asked for.
        descriptors: the line for births, shared sockets, and each worker's own: its report pipe, then its sockets.

    Raises:
        OSError: there is no room for it now, or the mold is gone (sendmsg(2)).
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    control.sendmsg([codec.encoded(request).encode()], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _taken(control: socket.socket) -> tuple[bytes, list[int]]:
    """Take one message; descriptors that there was no room for are missing."""
    data, controls, _, _ = control.recvmsg(
        _BYTES, socket.CMSG_SPACE(MOST_DESCRIPTORS * _INT), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    )
    rights = array.array("i")
    for level, kind, bytes_ in controls:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            rights.frombytes(bytes_[: len(bytes_) - len(bytes_) % _INT])
    return data, rights.tolist()


def refuse(control: socket.socket, number: int) -> None:
    """MOLD. Take a request and answer that nobody is forked.

    Args:
        control: the line from the master.
        number: the errno that says why.
    """
    try:
        _, descriptors = _taken(control)
    except OSError:
        return
    if descriptors:
        _say(descriptors[0], number)
    for fd in descriptors:
        os.close(fd)


def _say(line: int, number: int) -> None:
    try:
        os.write(line, BORN.pack(NOBODY, number))
    except OSError:
        pass  # the master is gone, or expects nobody any more


def deliver(control: socket.socket, family: Family, mold: int) -> int:
    """MIDWIFE. Take a request and fork who is asked for, with the mold's signals blocked.

    Args:
        control: the line from the master.
        family: what is given on the way.
        mold: the mold's pid.

    Returns:
        The exit code.
    """
    process.die_with_parent(signal.SIGKILL, mold)
    disable()  # a collection here would copy the mold's pages, and each worker begins with its own setting
    process.call_itself(process.BIRTH.encode())
    nofile, _ = limits.raise_nofile(quietly=True)  # for all that come; workers have the mold's limit again
    data, descriptors = _taken(control)
    try:
        request = codec.read(BirthRequest, codec.parsed_object(data), exact=True)
    except DecodeError:
        return process.SOFTWARE
    own = 1 + sum(request.grouped)
    shared = len(request.grouped) - sum(request.grouped)
    if len(descriptors) != 1 + shared + own * len(request.newborns):
        if descriptors:
            _say(descriptors[0], errno.EMFILE)
        return process.EXHAUSTED
    line, *others = descriptors
    blueprint = changed(family.common, nofile=nofile)
    common = [_listening(fd) for fd in others[:shared]]
    midwife, name = os.getpid(), family.name.encode()
    births = []
    for number, one in enumerate(request.newborns):
        report, *fds = others[shared + number * own : shared + (number + 1) * own]
        in_turn, of_all = iter([_listening(fd) for fd in fds]), iter(common)
        start = start_of(
            one,
            blueprint,
            family.held,
            sockets=[next(in_turn if grouped else of_all) for grouped in request.grouped],
            report=report,
            tls=family.tls,
            after_fork=family.begin_life,
            adopted=Adopted(midwife, line, name, BORN.pack(one.entry, 0)),
        )
        births.append((start, fds))
    forget()  # as each of them would have to
    not_theirs = {*others[shared:], *family.private, control.fileno()}
    all_runs = process.runs(not_theirs)  # each keeps its report pipe by itself
    ready = [(start, process.runs(not_theirs.difference(fds)) if fds else all_runs) for start, fds in births]
    process.flush()
    acquaint()
    freeze()
    for start, private in ready:
        try:
            process.fork_flushed(live, start, private)
        except OSError as error:
            _say(line, error.errno or errno.EAGAIN)
            break
    return 0


def _listening(fd: int) -> socket.socket:
    """The standard socket on a descriptor, which blocks as that does, whatever the application has made the default."""
    blocking = os.get_blocking(fd)
    made = socket.socket(fileno=fd)
    if made.gettimeout() is not None:
        made.settimeout(None)
        os.set_blocking(fd, blocking)
    return made
