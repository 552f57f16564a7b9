"""The kernel has no room for one more watch (epoll_ctl(2): ENOMEM, ENOSPC): what needed it waits, or is given up."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest

from prefork.services.control import Client
from prefork.testing import Server
from prefork.testing.faults import Injector, always, once, unavailable
from prefork.testing.plugin import ServerFactory
from tests.support.probing import ask, complaints, probe

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"no fault injection here: {unavailable()}")


@pytest.fixture
def faults(prefork_server: ServerFactory) -> Injector:
    return prefork_server.faults("epoll_add")


@pytest.fixture
def server(prefork_server: ServerFactory, faults: Injector, tmp_path: Path) -> Server:
    return probe(prefork_server, workers=2, control=tmp_path / "control", options={"faults": faults})


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC])
def test_who_asks_for_the_status_meanwhile_is_answered_later(
    server: Server, faults: Injector, tmp_path: Path, error: int
) -> None:
    faults.fail("epoll_add", once(error))
    with Client(tmp_path / "control", timeout=30.0) as client:
        assert client.status().size == 2
    assert faults.failed("epoll_add") == 1
    assert complaints(server) == []
    assert server.stop() == 0


@pytest.mark.long
def test_an_upgrade_that_can_not_be_watched_is_given_up(server: Server, faults: Injector) -> None:
    faults.fail("epoll_add", always(errno.ENOMEM))
    server.signal(signal.SIGUSR2)
    server.wait_for_log("upgrade: can't rehearse: .*; the old code goes on")
    server.wait_for(lambda: server.tree() == [server.pid, *server.workers()], message="nobody else")
    faults.release()
    ask(server)
    server.signal(signal.SIGUSR2)
    server.wait_for_log("generation 1 serves")
    assert server.stop() == 0
