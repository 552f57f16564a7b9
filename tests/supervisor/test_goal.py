"""What is wanted and who lives: each fact is written in one module, and what the methods make of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import prefork
from prefork.scoreboard.layout import Order
from prefork.supervisor import goal
from prefork.supervisor.death import Death
from prefork.supervisor.goal import FailureRecord, ForkGate, Goal, Renewal, Stop, Timing
from prefork.supervisor.member import Member, Slot
from prefork.system.record import fields_of

PACKAGE = Path(prefork.__file__).parent

OWNERS = {
    "supervisor/goal.py": (Goal, Stop, ForkGate, FailureRecord, Timing),
    "supervisor/roster.py": (Member, Slot, Death),
}
"""Which module alone writes the attributes of which classes."""

RECEIVERS = {
    "supervisor/goal.py": {"goal", "stop", "forks", "failures", "timing", "view"},
    "supervisor/roster.py": {"member", "incumbent", "successor", "old", "slot", "place", "replaced", "death", "worker"},
}
"""What such objects are called, as names or as attributes (less a leading underscore)."""

CHANGES = {"add", "append", "clear", "discard", "extend", "insert", "pop", "popleft", "remove", "update"}
"""Methods that change what an attribute holds."""


def written(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Each attribute that is assigned, deleted, or changed in place."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ctx=ast.Store() | ast.Del()):
                yield node
            case ast.Call(func=ast.Attribute(value=ast.Attribute() as held, attr=change)) if change in CHANGES:
                yield held


def called(node: ast.expr) -> str:
    """The last word of what an attribute is taken of: ``self._goal.stop`` is "stop"."""
    word = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return word.lstrip("_")


def strangers(name: str, source: str) -> list[str]:
    """Where a module writes what another one owns."""
    found = []
    for owner, classes in OWNERS.items():
        fields = {name for kind in classes for name in fields_of(kind)}
        found += [
            f"{name}:{node.lineno}: {ast.unparse(node)} is written by {owner} alone"
            for node in written(ast.parse(source))
            if name != owner and node.attr in fields and called(node.value) in RECEIVERS[owner]
        ]
    return found


@pytest.mark.parametrize(
    "line",
    [
        "self._goal.size = 3",
        "goal.stop.order = order",
        "self._goal.draining |= {1}",
        "goal.failures.young_deaths.append(1.0)",
        "member.killed_at = now",
        "slot.young_deaths, slot.not_before = 0, 0.0",
        "self.roster.slot(1).incumbent.wanted = True",
        "del member.reason",
    ],
)
def test_a_stranger_who_writes_is_found(line: str) -> None:
    assert len(strangers("supervisor/executor.py", line)) >= 1


@pytest.mark.long
def test_each_fact_is_written_in_one_module() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert set(OWNERS) <= set(sources)
    found = [line for name, path in sources.items() for line in strangers(name, path.read_text(encoding="utf-8"))]
    assert found == []


def test_the_order_to_stop_only_grows() -> None:
    stop = Stop()
    assert not stop.begun
    stop.begin(Order.DRAIN, 20.0)
    stop.begin(Order.SEAL, 30.0)
    assert (stop.begun, stop.order, stop.deadline) == (True, Order.DRAIN, 30.0)
    stop.hasten(10.0)
    stop.thawed(5.0)
    assert stop.deadline == 15.0


def test_forks_wait_while_the_system_is_exhausted_and_after_one_was_refused() -> None:
    gate = ForkGate()
    assert not gate.waits(0.0)
    gate.hold()
    assert gate.waits(0.0)
    gate.release()
    gate.fork_failed(1.0)
    assert gate.waits(1.0)
    assert not gate.waits(1.0 + goal.FORK_RETRY.delay(0, 0.0))
    gate.forked()
    assert not gate.waits(1.0)


def test_boots_that_are_exhausted_together_hold_forks_once() -> None:
    gate = ForkGate()
    gate.boot_exhausted(1.0)
    gate.boot_exhausted(1.01)
    assert (gate.exhausted_boots, gate.held_until) == (1, 1.0 + goal.FORK_RETRY.delay(0, 0.0))


def test_who_is_taken_over_is_of_a_server_that_serves() -> None:
    wanted = Goal(size=1, smallest=1, largest=4)
    wanted.took_over(3, 7, (5,))
    assert (wanted.size, wanted.generation, wanted.ready, wanted.slots) == (3, 7, True, [0, 1, 2, 5])
    assert wanted.next == 8
    wanted.took_over(3, 7, (), (7, 9, 6))  # the ninth was given up, and some of it serve
    assert wanted.load(Renewal.RELOAD) == wanted.next == 10


def test_a_generation_that_was_given_up_has_had_its_number() -> None:
    wanted = Goal(size=1, smallest=1, largest=1)
    wanted.roll()
    wanted.rolled()
    wanted.retreat(0)
    assert (wanted.generation, wanted.coming, wanted.load(Renewal.RELOAD), wanted.coming) == (0, 0, 2, 2)
    wanted.loaded()
    wanted.roll()
    assert (wanted.generation, wanted.next) == (2, 3)
