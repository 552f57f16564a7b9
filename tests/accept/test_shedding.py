"""Shedding: while every worker is out of descriptors, connections are accepted and refused, so many a second."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest

from prefork.scoreboard.layout import State
from prefork.testing import Load, Outcome, Server, burst
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import limited_descriptors
from tests.support import figures
from tests.support.boards import board_of, living
from tests.support.probing import APPS, PATIENCE, ask, held, talk, wait_for_rest

WORKERS: Final = 2
RATE: Final = 20
"""Connections a second that are shed at the most."""

ARRANGEMENTS: Final[dict[str, dict[str, Any]]] = {
    "shared": {},
    "reuse-port": {"reuse_port": True},
    "several": {"bind": ("127.0.0.1:0", "127.0.0.1:0")},
}


def shedding(factory: ServerFactory, app: str = "Polite", **settings: Any) -> Server:
    """A server that sheds, every worker of which waits in accept."""
    server = factory(
        f"shedding:{app}",
        app_dir=APPS,
        **{"workers": WORKERS, "exhausted": "shed", "shed_rate": RATE, "control": "off", **settings},
    )
    wait_for_rest(server)
    return server


def exhaust(server: Server) -> None:
    """Have every worker at its limit be known to be."""
    with board_of(server) as board:
        # So many that in a SO_REUSEPORT group, where chance decides, it leaves no member out.
        knocking = Load(server.addresses, clients=10 * WORKERS, timeout=PATIENCE)
        with knocking:
            server.wait_for(lambda: board.all_exhausted, message="every worker to be exhausted")


def refused(server: Server) -> int:
    """How many connections the living workers have shed."""
    with board_of(server) as board:
        return sum(view.refused for view in living(board))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_who_is_shed_is_told_so_and_who_comes_later_is_served(prefork_server: ServerFactory, arrangement: str) -> None:
    server = shedding(prefork_server, **ARRANGEMENTS[arrangement])
    tree = server.tree()
    with limited_descriptors(server.workers):
        exhaust(server)
        seconds = figures.count("seconds-of-shedding", least=1)
        # Taken so that whatever holds this process up between two of them makes the time longer, never shorter.
        began = time.monotonic()
        before = refused(server)
        with Load(server.addresses, clients=20, timeout=PATIENCE) as load:
            load.wait_for(lambda _: time.monotonic() - began >= seconds and refused(server) - before >= 5)
            shed = refused(server) - before
            took = time.monotonic() - began
        print(f"{shed} of at most {RATE} a second shed in {took:.2f} s")
        assert load.tally.total == load.tally[Outcome.FAILED], load.tally
        assert {answer.status for answer in load.tally.losses} == {503}
        # Each worker may begin with one that it had saved up.
        assert shed <= RATE * took + WORKERS
        waiting = burst(server.addresses, 10, timeout=PATIENCE)
    tally = waiting.wait()
    assert tally.total == tally.answered + tally[Outcome.FAILED], tally
    server.wait_for_log("workers have descriptors again")
    after = refused(server)
    assert all(int(ask(server)) in tree for _ in range(10))
    assert refused(server) == after
    assert server.tree() == tree
    assert server.stop() == 0


def test_nobody_is_shed_while_one_worker_can_serve(prefork_server: ServerFactory) -> None:
    server = shedding(prefork_server)
    short, able = server.workers()
    with limited_descriptors([short]):
        with board_of(server) as board, Load(server.address, clients=4, timeout=PATIENCE) as load:
            server.wait_for(
                lambda: any(view.pid == short and view.state is State.BACKING_OFF for view in living(board)),
                message="one worker to be exhausted",
            )
            so_far = load.tally.total
            load.wait_for(lambda tally: tally.total >= so_far + figures.count("served-beside-want"))
        assert load.tally.lost == 0, load.tally
        assert set(load.tally.bodies) <= {str(short).encode(), str(able).encode()}
        assert refused(server) == 0
    assert server.stop() == 0


def test_a_worker_with_something_in_hand_is_exhausted_no_less(prefork_server: ServerFactory) -> None:
    """One is busy and can take nobody; the other has no descriptor. Who waits for the busy one is not turned away."""
    server = shedding(prefork_server)
    with held(server) as (connection,):
        (other,) = set(server.workers()) - {connection.pid}
        with limited_descriptors([other]):
            ask(server)  # with the descriptor that it held already
            waiting = burst(server.address, 1, timeout=PATIENCE)
            with board_of(server) as board:
                server.wait_for(
                    lambda: any(view.pid == other and view.state is State.BACKING_OFF for view in living(board)),
                    message="the other one to be exhausted",
                )
            assert waiting.tally.total == 0
            connection.finish()
            assert waiting.wait().bodies == {str(connection.pid).encode(): 1}
    assert refused(server) == 0
    assert server.stop() == 0


def test_without_an_answer_of_its_own_a_worker_closes(prefork_server: ServerFactory) -> None:
    server = prefork_server("probe:Probe", app_dir=APPS, workers=1, exhausted="shed", shed_rate=RATE, control="off")
    wait_for_rest(server)
    with limited_descriptors(server.workers):
        exhaust_one(server)
        tally = burst(server.address, 5, timeout=PATIENCE).wait()
        assert tally[Outcome.EMPTY] == 5, tally  # closed in order, not reset
    assert ask(server) == str(server.workers()[0])
    assert server.stop() == 0


def exhaust_one(server: Server) -> None:
    """Spend the descriptor that the only worker holds already."""
    ask(server)
    with board_of(server) as board:
        waiting = talk(server, "/")
        server.wait_for(lambda: board.all_exhausted, message="the worker to be exhausted")
        waiting.close()


def test_an_answer_that_fails_is_logged_and_the_worker_goes_on(prefork_server: ServerFactory) -> None:
    server = shedding(prefork_server, "Clumsy", workers=1)
    before = server.workers()
    with limited_descriptors(server.workers):
        exhaust_one(server)
        tally = burst(server.address, 3, timeout=PATIENCE).wait()
        assert tally.answered == 0, tally
        server.wait_for_log("RuntimeError: refused to refuse")
    assert ask(server) == str(before[0])
    assert server.workers() == before
    assert server.stop() == 0


def test_a_client_that_does_not_read_holds_nobody_up(prefork_server: ServerFactory) -> None:
    server = shedding(prefork_server, "Slow", workers=1)
    with limited_descriptors(server.workers):
        exhaust_one(server)
        with talk(server, "/"), talk(server, "/"):
            server.wait_for(lambda: refused(server) >= 3, message="both to be given up")
    assert ask(server) == str(server.workers()[0])
    assert server.stop() == 0


def test_who_waits_is_the_default(prefork_server: ServerFactory) -> None:
    server = shedding(prefork_server, exhausted="wait")
    with limited_descriptors(server.workers):
        for _ in range(WORKERS):
            ask(server)
        with board_of(server) as board:
            waiting = burst(server.address, 10, timeout=PATIENCE)
            server.wait_for(lambda: board.all_exhausted, message="every worker to be exhausted")
        assert refused(server) == 0
    assert waiting.wait().answered == 10
    assert server.stop() == 0
