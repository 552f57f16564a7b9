"""Clients of whom the kernel remembers nothing but a SYN cookie: the gate waits until none has come for a while."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from prefork.net.filters import may_gate
from prefork.net.queue import Cookies, Diag
from prefork.net.reuseport import syn_gate
from prefork.net.reuseport.group import SHARED, Group
from prefork.net.reuseport.syn_gate import SynGate
from prefork.testing import wait_for

QUIET = 0.5


class Counted(Diag):
    """Says what a test wants of cookies, which the kernel sends only when a queue of handshakes is full."""

    told = Cookies(7, 3)

    def cookies(self) -> Cookies:
        return self.told


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syn_gate, "COOKIES", QUIET)
    monkeypatch.setattr(syn_gate, "COOKIES_MOST", 4 * QUIET)


def closed(listener: socket.socket, diag: Counted, now: Cookies) -> SynGate:
    """A gate that was made at seven cookies, and closes at ``now``."""
    if not may_gate(listener):
        pytest.skip("the kernel lets this user attach no filter")
    made = SynGate(Group({SHARED: listener}, diag), diag)
    diag.told = now
    made.close([SHARED])
    return made


def test_where_no_cookie_was_sent_nobody_waits() -> None:
    diag = Counted()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = closed(listener, diag, Cookies(7, 3))
        assert not made.pending([SHARED])
    diag.close()


@pytest.mark.usefixtures("quick")
def test_a_cookie_that_was_sent_is_awaited_until_none_comes_back() -> None:
    diag = Counted()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = closed(listener, diag, Cookies(8, 3))
        assert made.pending([SHARED])
        began = time.monotonic()
        time.sleep(QUIET / 2)  # a part of the quiet time, so that what comes back then begins it anew
        diag.told = Cookies(8, 4)
        assert made.pending([SHARED])
        wait_for(lambda: not made.pending([SHARED]))
        assert time.monotonic() - began >= 1.5 * QUIET
        made.open([SHARED], defer_accept=0)
        made.close([SHARED])
        assert made.pending([SHARED]), "one that closes again waits again"
    diag.close()


@pytest.mark.usefixtures("quick")
def test_other_listeners_cookies_hold_up_no_stop_for_ever() -> None:
    diag = Counted()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = time.monotonic()
        made = closed(listener, diag, Cookies(8, 3))

        def over() -> bool:
            diag.told = Cookies(8, diag.told.received + 1)
            return not made.pending([SHARED])

        wait_for(over)
        assert time.monotonic() - began >= 4 * QUIET
    diag.close()


def test_the_kernel_s_counters_are_read() -> None:
    diag = Diag()
    names, values = re.findall(r"^TcpExt: (.*)$", Path("/proc/net/netstat").read_text("ascii"), re.MULTILINE)
    found = dict(zip(names.split(), map(int, values.split()), strict=True))
    read = diag.cookies()
    assert (read.sent - found["SyncookiesSent"], read.received - found["SyncookiesRecv"]) >= (0, 0)
    diag.close()
    assert diag.cookies() == Cookies(0, 0)
    assert diag.descriptors == ()
