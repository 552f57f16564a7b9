"""What is put off until nobody waits: collections of garbage, and the hook."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path

import pytest

from prefork.services.control import Client
from prefork.testing import Server, call_until, connect, request, running_target
from tests.support.probing import APPS, PATIENCE, get
from tests.support.programs import facts

ONE = """
    import gc, json, os
    from prefork.accept.idle_work import IdleWork
    from prefork.scoreboard.entry import Entry
    from prefork.scoreboard.events import EventsPipe
    from prefork.scoreboard.layout import LANE, PID, Scoreboard, STATE, State

    board = Scoreboard.create(3)
    for index in range(3):
        board.assign(index, slot=index, generation=0, born=0.0)
        board.entry(index)[PID] = 100 + index
        board.entry(index)[STATE] = State.SERVING
    entries = [Entry(board, index, EventsPipe(), -1, os.getppid(), records=True) for index in range(3)]
    said = []

    class Connections:
        waits = False

        def somebody_waits(self):
            return self.waits

        def withdraw(self):
            said.append("withdraws")

    def hook():
        said.append("hook")

    def collected(phase, info):
        if info["generation"] == 2:
            said.append(f"{phase} {bool(entries[0].lane.began)}")

    def fill():
        "Let the middle generation be collected often enough."
        for _ in range(wanted + 1):
            gc.collect(1)

    gc.disable()  # what happens is what is asked for here
    gc.callbacks.append(collected)
    wanted = gc.get_threshold()[2]
    connections = Connections()
"""


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        pytest.param("work.between(connections)", [], id="nothing is due"),
        pytest.param("fill(); work.between(connections)", ["withdraws", "start True", "stop True"], id="idle"),
        pytest.param(
            "entries[1].words[LANE] = entries[2].words[LANE] = 5; fill(); work.between(connections)",
            ["start True", "stop True"],
            id="no sibling is idle",
        ),
        pytest.param(
            "connections.waits = True; fill(); work._busy_at = 1e12; work.between(connections)", [], id="waited for"
        ),
        pytest.param(
            "connections.waits = True; fill(); work.between(connections)",
            ["withdraws", "start True", "stop True"],
            id="always waited for",
        ),
        pytest.param(
            "fill(); work._busy_at = 1e12; work.between(connections, beside=True)",
            [],
            id="a lane has something in hand",
        ),
        pytest.param(
            "fill(); [work.between(connections, beside=True) or setattr(work, '_due_since', 1.0) for _ in range(2)]",
            ["withdraws", "start True", "stop True"],
            id="a lane is always busy",
        ),
        pytest.param("entries[1].begin_collecting(1); fill(); work.between(connections)", [], id="a sibling collects"),
        pytest.param(
            "entries[1].begin_collecting(1); entries[1].end_collecting(); fill(); work.between(connections)",
            ["withdraws", "start True", "stop True"],
            id="a sibling has collected",
        ),
        pytest.param(
            "fill(); gc.collect(); said.clear(); work.between(connections)", [], id="the application collects"
        ),
        pytest.param(
            "fill(); work._idle_at = 1e12; work.between(connections)", [], id="it has taken its share of the time"
        ),
    ],
)
def test_when_the_oldest_generation_is_collected(steps: str, said: list[str]) -> None:
    program = (
        ONE
        + f"""
    work = IdleWork(entries[0], 1, collects=True, hook=None)
    {steps}
    print(json.dumps([said, entries[0].lane.began, gc.get_threshold()[2] > 1_000_000]))
"""
    )
    assert facts(program) == [said, 0, True]


def test_the_hook_is_called_when_nobody_waits_and_once_a_second() -> None:
    program = (
        ONE
        + """
    work = IdleWork(entries[0], 1, collects=False, hook=hook)
    connections.waits = True
    work.between(connections)
    connections.waits = False
    before = [*said]
    for _ in range(10):
        work.between(connections)
    first = [*said]
    work._call_at = 0.0
    work.between(connections)
    print(json.dumps([before, first, said, work.due, gc.get_threshold()[2] == wanted]))
"""
    )
    assert facts(program) == [[], ["hook"], ["hook", "hook"], True, True]


def counted(server: Server, requests: int) -> Counter[str]:
    """Collections that two workers have counted in the end."""
    found: dict[int, dict[str, int]] = {}
    for _ in range(requests):
        answer = json.loads(request(server.address, get("/"), timeout=PATIENCE).body)
        found[answer.pop("pid")] = answer
    return sum((Counter(each) for each in found.values()), Counter())


@pytest.mark.parametrize(("keepalive", "threads"), [(0, 1), (75, 1), (0, 2), (75, 2)])
def test_no_request_meets_a_collection_of_all(keepalive: int, threads: int) -> None:
    with running_target(
        "hoarding:application",
        app_dir=APPS,
        subcommand="wsgi",
        workers=2,
        gc="idle",
        hooks="hoarding",
        keepalive=keepalive,
        threads=threads,
        control="off",
    ) as server:
        found = counted(server, 60)
        assert found["within"] == 0
        found = call_until(lambda: counted(server, 5), lambda found: found["between"] > 0, timeout=PATIENCE)
        assert found["within"] == 0
        server.wait_for_log(r"worker \d: on_idle in \d+")


@pytest.mark.long
def test_a_process_with_something_in_hand_all_the_time_collects_all_the_same() -> None:
    with (
        running_target(
            "hoarding:application",
            app_dir=APPS,
            subcommand="wsgi",
            workers=1,
            threads=2,
            gc="idle",
            control="off",
        ) as server,
        connect(server.address, timeout=PATIENCE) as slow,
    ):
        slow.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")  # its body is still to come
        call_until(lambda: counted(server, 5), lambda found: found["between"] > 0, timeout=PATIENCE)
        slow.sendall(b"x")
        assert slow.recv(100).startswith(b"HTTP/1.1 200 ")


def test_kept_connections_pass_to_siblings_before_a_collection(tmp_path: Path) -> None:
    with (
        running_target(
            "hoarding:application",
            app_dir=APPS,
            subcommand="wsgi",
            workers=2,
            gc="idle",
            control=tmp_path / "control",
        ) as server,
        contextlib.ExitStack() as stack,
        Client(str(tmp_path / "control")) as control,
    ):
        kept = [stack.enter_context(connect(server.address, timeout=PATIENCE)) for _ in range(12)]

        def ask_all() -> int:
            for client in kept:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                answer = b""
                while b"}" not in answer:
                    piece = client.recv(1 << 16)
                    assert piece, "it was closed"
                    answer += piece
            return control.status(processes=False).totals.kept["handed_over"]

        assert call_until(ask_all, lambda passed: passed > 0, timeout=PATIENCE)
        ask_all()
        totals = control.status(processes=False).totals
        assert not totals.kept["evicted"]
        assert not totals.kept["expired"]


def test_without_the_setting_requests_meet_them() -> None:
    """The application above does what it is for."""
    with running_target("hoarding:application", app_dir=APPS, subcommand="wsgi", workers=1, control="off") as server:
        found = call_until(lambda: counted(server, 30), lambda found: found["within"] > 0, timeout=PATIENCE)
        assert found["within"] > 0


def test_a_loop_of_ones_own_is_never_known_to_be_idle() -> None:
    said = "gc: nobody knows when Looped, which has a loop of its own, is idle"
    with pytest.raises(AssertionError, match=said), running_target("looped:Looped", app_dir=APPS, gc="idle"):
        pass
