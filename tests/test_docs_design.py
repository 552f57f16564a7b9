"""The diagrams are drawn from the tables, and the table of a worker's life is what real workers do."""

from __future__ import annotations

import errno
import re
import runpy
import signal
from pathlib import Path

import pytest

from prefork.accept.recovery import TABLE
from prefork.scoreboard.layout import LIFE, State
from prefork.testing import burst, request
from prefork.testing.faults import always, unavailable
from prefork.testing.plugin import ServerFactory
from tests.support.documents import ROOT

STATES = runpy.run_path(str(ROOT / "scripts" / "states.py"))

TRACED = """
import logging, os, sys
import prefork
from prefork.scoreboard.layout import STATE, State
from prefork.scoreboard.entry import Entry

enter = Entry.say_state

def traced(entry, state):
    before = State(entry.words[STATE])
    enter(entry, state)
    os.write(2, f"step {before.name} {state.name}\\n".encode())

Entry.say_state = traced

class Traced(prefork.Worker):
    def init(self):
        if os.path.exists(sys.argv[1]):
            raise RuntimeError("not while this file is there")

    def run(self):
        while (accepted := self.accept()) is not None:
            with self.busy(), accepted[0] as connection:
                if b"leave" in connection.recv(65536):
                    return
                connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")

logging.basicConfig(level=logging.INFO, format="%(message)s")
prefork.Master(Traced, prefork.Settings(bind="127.0.0.1:0", workers=2)).run()
"""

SELDOM = {(State.STARTING, State.STOPPING), (State.BACKING_OFF, State.LEAVING)}
"""Steps that a test can't have at will: an order at the last moment of a boot; a listener lost while accept rests."""


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_the_steps_are_those_that_workers_take(prefork_server: ServerFactory, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    faults = prefork_server.faults("accept")
    server = prefork_server.script(TRACED, str(broken), faults=faults)
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    broken.touch()
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 2 failed to boot")
    broken.unlink()
    request(server.address, b"leave\n")
    server.wait_for_log("step SERVING LEAVING")
    faults.fail("accept", always(errno.EMFILE))
    waiting = burst(server.address, 4)
    server.wait_for_log("step SERVING BACKING_OFF")
    faults.release()
    assert waiting.wait().answered == 4, waiting.tally
    relieved = server.wait_for_log("step BACKING_OFF SERVING")
    faults.fail("accept", always(errno.EMFILE))
    waiting = burst(server.address, 4)
    server.wait_for_log("step SERVING BACKING_OFF", after=relieved.end())
    server.signal(signal.SIGINT)  # SIGTERM would wait for those who can't be accepted
    assert server.wait() == 0
    waiting.wait()
    seen = {(State[one], State[other]) for one, other in re.findall(r"step (\w+) (\w+)", server.log())}
    steps = {(before, after) for before, following in LIFE.items() for after in following}
    assert {step for step in seen if step[0] is not step[1]} == steps - SELDOM


def test_every_state_is_drawn_and_the_drawings_are_up_to_date() -> None:
    life, recovery = STATES["life"](), STATES["recovery"]()
    assert set(life.places) == set(LIFE) == set(State)
    assert set(recovery.places) == set(TABLE)
    for path, machine in STATES["MACHINES"].items():
        assert path.read_text() == machine.drawing(), "run scripts/states.py"
