"""What workers are forked from has gone their way to READY before them, and nothing is left of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.programs import facts

PROGRAM = """
import contextlib, dis, gc, json, os, resource, sys, threading
from prefork.accept import acceptor, fd_leak, keepalive_acceptor
from prefork.config.settings import Settings
from prefork.scoreboard import entry, events
from prefork.supervisor import forked, resources
from prefork.supervisor.drill import drill
from prefork.system.descriptors import descriptors
from prefork.worker import Worker

def state():
    names = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in descriptors()}
    return names, threading.active_count(), gc.get_threshold(), len(gc.callbacks), gc.isenabled()

def rewritten(function):
    names = {one.opname for one in dis.get_instructions(function, adaptive=True)} - set(dis.opmap)
    return sorted(name for name in names if name.startswith("LOAD_ATTR_") and "ADAPTIVE" not in name)

settings = Settings.of(json.loads(sys.argv[1]))
with contextlib.ExitStack() as stack:
    held = resources.make(settings, os.getcwd(), 2, 4, stack)
    words, same = held.board.words.tobytes(), True
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for room in json.loads(sys.argv[2]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1 + room, hard))
        before = state()
        drill(settings, held)
        same = same and state() == before
    way = [Worker.__prefork__, Worker._accepted, fd_leak.LeakFinder.learn_what_is_usual, entry.Entry.say_state]
    way += [entry.Entry.send_event, events.EventsPipe.send]
    if settings.keepalive:
        way += [keepalive_acceptor.KeepaliveAcceptor.__init__, acceptor.Exclusive.__init__]
    told = {
        "same": same and words == held.board.words.tobytes(),
        "events": [str(one) for one in held.events.read()[0]],
        "not": [one.__qualname__ for one in way if not rewritten(one)],
    }
print(json.dumps(told))
"""


def drilled(*room: int, **settings: object) -> dict[str, Any]:
    """What is found after drills with room for so many descriptors, in a process of its own."""
    return cast("dict[str, Any]", facts(PROGRAM, json.dumps({"bind": ["127.0.0.1:0"], **settings}), json.dumps(room)))


def test_what_runs_until_ready_has_been_rewritten_and_nothing_else_has_changed() -> None:
    """The interpreter shows what it has made of a function (PEP 659)."""
    assert drilled(100, keepalive=0) == {"same": True, "events": [], "not": []}


def test_the_same_of_workers_that_keep_connections_and_have_several_listeners(tmp_path: Path) -> None:
    binds = ["127.0.0.1:0", f"unix:{tmp_path}/here.sock"]
    assert drilled(100, keepalive=5, bind=binds, gc="idle") == {"same": True, "events": [], "not": []}


def test_where_there_are_no_descriptors_for_it_it_is_left_out() -> None:
    """However far it has come: what it has opened is closed."""
    found = drilled(*range(1, 16), keepalive=5)
    assert found["same"]
    assert not found["events"]


def test_threads_are_not_drilled() -> None:
    found = drilled(100, keepalive=5, threads=2)
    assert found["same"]
    assert "Worker._accepted" in found["not"]


ORDERED = """
import contextlib, json, os, sys
from prefork.config.settings import Settings
from prefork.supervisor import resources
from prefork.supervisor.drill import drill
from prefork.supervisor.mold import MoldSignals
from prefork.system import ending, signals
from prefork.system.descriptors import descriptors

settings = Settings.of({"bind": ["127.0.0.1:0"], "keepalive": int(sys.argv[1])})
found = []
with contextlib.ExitStack() as stack:
    held = resources.make(settings, os.getcwd(), 2, 4, stack)
    before = descriptors()
    for moment in range(0, 2000, 97):
        meanings = MoldSignals(-1)
        signals.become_worker(meanings.dispositions)
        calls = 0

        def order(frame, event, arg):
            global calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signals.WAKE_UP)

        sys.setprofile(order)
        drill(settings, held)
        sys.setprofile(None)
        try:
            meanings.begin_loading()
        except ending.OrderedEndError:
            found.append(moment)
        assert descriptors() == before
print(json.dumps([found, calls]))
"""


@pytest.mark.parametrize("keepalive", [0, 5])
def test_an_order_to_leave_meanwhile_is_obeyed_when_the_application_would_be_loaded(keepalive: int) -> None:
    """What is drilled outlives whatever is raised in it, as a worker does."""
    found, calls = facts(ORDERED, str(keepalive))
    assert calls > 2000
    assert found == [*range(97, 2000, 97)]
