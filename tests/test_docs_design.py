"""The diagrams are drawn from the tables, the table of a worker's life is what workers do, and each name exists."""

from __future__ import annotations

import errno
import importlib
import inspect
import re
import runpy
import signal
import tomllib
from pathlib import Path

import pytest

from prefork.accept import keepalive_acceptor, lanes, parked_connections, parking_thread, recovery
from prefork.accept.fd_leak import ROUND
from prefork.accept.recovery import TABLE
from prefork.cli.main import COMMANDS
from prefork.config import settings
from prefork.net import lingering, syn_gate
from prefork.scoreboard.events import EventKind
from prefork.scoreboard.layout import Order, State
from prefork.scoreboard.life import LIFE
from prefork.supervisor import policy
from prefork.system import signals
from prefork.testing import burst, request
from prefork.testing.faults import always, unavailable
from prefork.testing.plugin import ServerFactory
from prefork.wsgi import options
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


PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
NAMES = sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL).replace("``", "`"))))
FOREIGN = {"_clear_pending_signals", "close", "for", "gc.freeze()", "os._exit", "socket.accept"} | {
    f"tcpi_{name}" for name in ("last_data_recv", "total_retrans")
}
"""What Python, the kernel and HTTP call so."""


@pytest.mark.parametrize(
    "said",
    [
        f"a new registration every {ROUND} connections",
        f"looked at once in {ROUND} connections",
        "wakes it again, after {:g} ms, {:g} ms".format(*(policy.WAKE_UPS.delay(n, 0.0) * 1000 for n in (0, 1))),
        f"waited out for { {10.0: 'ten'}.get(recovery.PATIENCE) } seconds",
        f"the main thread passes it on, {lanes.STUCK * 1000:g} ms later",
        f"every {parking_thread.STUCK * 1000:g} ms while something is in hand",
        f"one epoll_wait(2) serves up to {parked_connections.AT_ONCE} of them",
        f"accepts for up to {keepalive_acceptor.IN_A_GO * 1000:g} ms without a look",
        f"for more than {lingering.SECONDS:g} seconds, or {lingering.BYTES >> 20} MiB",
        f"if the ACK takes longer than { {2.0: 'two'}.get(syn_gate.COOKIES) } seconds",
        f"policy.decide({', '.join(inspect.signature(policy.decide).parameters)})",
        f"events pipe ({', '.join(kind.name for kind in list(EventKind)[:3])} ...)",
        *(f"| {state.name} |" for state in State if state is not State.EMPTY),
    ],
)
def test_what_the_page_says_of_the_code_is_so(said: str) -> None:
    assert said in TEXT


def test_what_the_page_says_of_orders_and_of_the_wake_up_is_so() -> None:
    said = re.sub(r"\([^)]*\)", "", TEXT.split("Orders only grow:", 1)[1].split(". ", 1)[0])
    assert said.replace(" ", "") == ",".join(order.name for order in sorted(Order))
    assert "The wake-up is a real-time signal" in TEXT
    assert signals.WAKE_UP >= signal.SIGRTMIN


def test_each_way_out_of_a_state_is_in_the_table() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")]
    left = {row[0]: row[2] for row in rows if row[0] in State.__members__}
    ways = {state.name: set(following.values()) for state, following in LIFE.items() if state is not State.EMPTY}
    assert {name: set(filter(None, said.split("; "))) for name, said in left.items()} == ways


def test_what_is_optional_is_said() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    optional = {
        re.split(r"[>=<\[ ]", package)[0] for name, packages in extras.items() if name != "dev" for package in packages
    } - {"prefork"}  # an extra that names others
    said = TEXT.split("what is optional (", 1)[1].split(")", 1)[0]
    assert set(re.findall(r"`([^`]+)`", said)) == optional


@pytest.mark.parametrize("name", NAMES)
def test_each_name_on_the_page_is_one(name: str) -> None:
    """A path, a setting, with a value perhaps, a flag, an address, a module of ours or Python's, an extra."""
    name = name.partition(" = ")[0]
    extras = (ROOT / "pyproject.toml").read_text()
    known = (
        FOREIGN | {field.name for field in settings.fields() + options.fields()} | {"__init__", "size + reload_surge"}
    )
    if name in known or (ROOT / name).exists() or f'"{name}>=' in extras or name in {"fd://", "systemd:"}:
        return
    if name.startswith("--"):
        assert name.removeprefix("--").replace("-", "_") in known
        return
    if name.startswith("prefork "):
        assert name.removeprefix("prefork ") in {command.name for command in COMMANDS}
        return
    if " -> " in name:
        return  # a picture
    dotted = name.split("(", maxsplit=1)[0].removeprefix("_")
    places = [dotted, f"prefork.{dotted}", f"prefork.supervisor.{dotted}"]
    assert any(_exists(place) for place in places), name


def _exists(dotted: str) -> bool:
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for attribute in parts[count:]:
            found = getattr(found, attribute, None)
        return found is not None
    return False
