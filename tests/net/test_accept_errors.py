"""The errno table is complete, says why, and leaves nothing open."""

from __future__ import annotations

import errno
import itertools
import re
import socket
from collections.abc import Callable

import pytest

from prefork.net import accept_errors as net
from prefork.net.accept_errors import (
    COUNTED,
    DEAD_IN_A_ROW,
    ERESTARTSYS,
    OTHER,
    TABLE,
    Reaction,
    lookup,
    place,
    reaction,
    resolve,
)
from prefork.scoreboard import layout

# Every symbol in the ERRORS and "Error Handling" sections of accept(2) and of IPSocket.accept.
ACCEPT_2 = re.findall(
    r"E\w+",
    """
    EAGAIN EWOULDBLOCK EBADF ECONNABORTED EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM ENOTSOCK EOPNOTSUPP EPROTO
    EPERM ENOSR ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT ERESTARTSYS
    ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH ENETUNREACH
    """,
)

STOPPING_OR_NOT = (False, True)
LISTENING = (False, True, None)


def number(name: str) -> int:
    return ERESTARTSYS if name == "ERESTARTSYS" else int(getattr(errno, name))


@pytest.mark.parametrize("name", ACCEPT_2)
def test_every_documented_errno_has_its_row(name: str) -> None:
    assert number(name) in TABLE


def test_the_table_holds_nothing_else() -> None:
    assert set(TABLE) == {number(name) for name in ACCEPT_2}
    assert len(TABLE) == 25  # EWOULDBLOCK is EAGAIN


def test_each_row_is_named_after_its_number() -> None:
    assert all(number(row.name) == key for key, row in TABLE.items())


def test_each_row_gives_a_reason_of_its_own() -> None:
    reasons = [row.reason for row in (*TABLE.values(), OTHER)]
    assert all(reasons)
    assert len(set(reasons)) == len(reasons)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TABLE[errno.EIO] = OTHER  # type: ignore[index]  # the point of the test


def test_what_nobody_foresaw_backs_off() -> None:
    unforeseen = set(errno.errorcode) - set(TABLE) | {0, -1, 4095}
    assert {reaction(n) for n in unforeseen} == {Reaction.BACK_OFF}
    assert lookup(errno.EIO) is OTHER


# The table of the design, once more and by hand: a second opinion, not a copy of the code's structure.
@pytest.mark.parametrize(
    ("names", "stopping", "listening", "expected"),
    [
        ("EAGAIN", False, True, Reaction.POLL),
        ("EAGAIN", True, True, Reaction.STOP),
        ("EINTR ERESTARTSYS", False, True, Reaction.RETRY),
        ("EINTR ERESTARTSYS", True, True, Reaction.RETRY),
        (
            "ECONNABORTED EPROTO ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH ENETUNREACH ETIMEDOUT",
            False,
            True,
            Reaction.DEAD_CONNECTION,
        ),
        ("ECONNABORTED ETIMEDOUT EOPNOTSUPP", True, True, Reaction.DEAD_CONNECTION),
        ("EOPNOTSUPP", False, True, Reaction.DEAD_CONNECTION),
        ("EOPNOTSUPP", False, False, Reaction.LISTENER_LOST),
        ("EOPNOTSUPP", False, None, Reaction.LISTENER_LOST),
        ("EMFILE", False, True, Reaction.BACK_OFF_WORKER),
        ("ENFILE ENOBUFS ENOMEM ENOSR", False, True, Reaction.BACK_OFF_SYSTEM),
        ("EPERM", False, True, Reaction.BACK_OFF_PERMISSION),
        ("ESOCKTNOSUPPORT EPROTONOSUPPORT", False, True, Reaction.LISTENER_LOST),
        ("EINVAL", False, True, Reaction.FATAL),
        ("EINVAL", False, False, Reaction.LISTENER_LOST),
        ("EINVAL", False, None, Reaction.LISTENER_LOST),
        ("EINVAL EBADF ENOTSOCK EFAULT", True, False, Reaction.STOP),
        ("EBADF ENOTSOCK EFAULT", False, None, Reaction.FATAL),
        ("EIO ENOSPC", False, True, Reaction.BACK_OFF),
    ],
)
def test_the_design_s_table(names: str, stopping: bool, listening: bool | None, expected: Reaction) -> None:
    for name in names.split():
        assert resolve(number(name), stopping=stopping, listening=listening) is expected, name


def test_a_listening_socket_with_no_stop_ordered_gets_the_plain_reaction() -> None:
    for key in (*TABLE, errno.EIO):
        assert resolve(key, stopping=False, listening=True) is reaction(key)


def test_exhaustion_does_not_end_a_worker_whatever_else_is_true() -> None:
    """A drain at the descriptor limit still has connections to serve: only waiting gets them answered."""
    for key, stopping, listening in itertools.product(TABLE, STOPPING_OR_NOT, LISTENING):
        if reaction(key).name.startswith("BACK_OFF"):
            assert resolve(key, stopping=stopping, listening=listening) is reaction(key)


def test_no_verdict_is_idle() -> None:
    reached = {
        resolve(key, stopping=stopping, listening=listening)
        for key, stopping, listening in itertools.product((*TABLE, errno.EIO), STOPPING_OR_NOT, LISTENING)
    }
    assert reached == set(Reaction)


def test_asking_so_acceptconn_pays_only_where_a_row_says_so() -> None:
    for key in TABLE:
        answers = {resolve(key, stopping=False, listening=listening) for listening in LISTENING}
        assert (len(answers) > 1) == (lookup(key).deaf is not None)


def test_every_errno_has_a_counter_of_its_own_and_all_others_share_one() -> None:
    assert [COUNTED[place(number)] for number in TABLE] == [found.name for found in TABLE.values()]
    assert {COUNTED[place(number)] for number in range(4096) if number not in TABLE} == {OTHER.name}
    assert len(COUNTED) <= layout.ERROR_PLACES


def test_a_row_of_dead_connections_is_bounded() -> None:
    assert DEAD_IN_A_ROW == 64


def test_the_docstring_s_table_is_the_code_s() -> None:
    documented: dict[str, list[str]] = {}
    rule, _, *rows = (net.__doc__ or "").split("Table\n=====\n\n")[1].splitlines()
    columns = [slice(*found.span()) for found in re.finditer("=+", rule)]
    in_docs: list[str] = []
    for line in rows:
        first, *rest = (line[column].strip() for column in columns)
        in_docs = rest if any(rest) else in_docs
        for name in re.findall(r"\bE[A-Z]+", first):
            documented[name] = in_docs
    assert set(documented) == set(ACCEPT_2)
    for name, cells in documented.items():
        found = TABLE[number(name)]
        in_code = ["" if v is None else v.name for v in (found.reaction, found.stopping, found.deaf)]
        assert cells == in_code, name


def test_the_kernel_gives_what_the_table_says_of_the_cheap_ones() -> None:
    """EAGAIN of an empty queue, EINVAL of a socket that does not listen, EOPNOTSUPP of one that can't, EBADF."""
    listener = socket.create_server(("127.0.0.1", 0))
    deaf = socket.socket()
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    listener.setblocking(False)
    with listener, deaf, datagrams:
        seen = []
        for sock in (listener, deaf, datagrams):
            listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            try:
                sock.accept()
            except OSError as error:
                seen.append(resolve(error.errno or 0, stopping=False, listening=listening))
    assert seen == [Reaction.POLL, Reaction.LISTENER_LOST, Reaction.LISTENER_LOST]


def _raised(raise_it: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # whatever it is, it is looked at
        raise_it()
    return caught.value


def test_the_errnos_of_an_error_are_those_of_all_that_it_came_from() -> None:
    def open_it() -> None:
        raise OSError(errno.EMFILE, "no descriptor")

    def explain() -> None:
        try:
            open_it()
        except OSError as error:
            raise RuntimeError("can't open it") from error

    def fail_again() -> None:
        try:
            explain()
        except RuntimeError:
            raise OSError(errno.ENOENT, "nor the other")  # noqa: B904  # the context is what is looked at

    assert net.errnos(_raised(open_it)) == {errno.EMFILE}
    assert net.errnos(_raised(explain)) == {errno.EMFILE}
    assert net.errnos(_raised(fail_again)) == {errno.EMFILE, errno.ENOENT}


@pytest.mark.parametrize(
    ("error", "found"),
    [(ValueError("x"), set()), (OSError("without a number"), {0}), (MemoryError(), {errno.ENOMEM})],
)
def test_an_error_without_an_errno_has_none_but_for_want_of_memory(error: Exception, found: set[int]) -> None:
    assert net.errnos(error) == found


def test_the_kernel_s_own_errno_is_told_by_its_name() -> None:
    assert lookup(512).name == "ERESTARTSYS"  # include/linux/errno.h
