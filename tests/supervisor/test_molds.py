"""Molds that come to an end in an unusual way: by somebody's hand, without a line, for an upgrade that is none."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from prefork.config.settings import Settings
from prefork.errors import PreforkError
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.goal import Goal
from prefork.supervisor.mold import READY
from prefork.supervisor.molds import Mold, Molds
from prefork.supervisor.roster import Roster
from prefork.system.child import Children

PATIENCE = 20.0
STAY = "import sys; sys.stdin.read()"
BARREN = "the mold ended (killed by SIGKILL), as 2 in a row did, before a worker was made of it"


class Forge:
    """The molds of a server, each a process that does nothing."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.loop = Loop()
        stack.callback(self.loop.close)
        self.goal = Goal(size=1, smallest=1, largest=1)
        self.goal.completed()
        self.roster = Roster()
        self.lines: list[socket.socket] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.failed: list[tuple[int, str]] = []
        self.fatal: list[PreforkError] = []
        self.molds = Molds(
            *(self.loop, Children(self.loop), Settings(boot_timeout=0, crash_limit=2), self.goal, self.roster),
            fork=lambda generation, control, report, repeat: self.fork(control),  # noqa: ARG005  # called with all four
            ready=lambda: None,
            failed=lambda generation, reason: self.failed.append((generation, reason)),
            fatal=self.fatal.append,
        )
        stack.callback(self.close)

    def fork(self, control: socket.socket) -> int:
        self.lines.append(control.dup())
        process = subprocess.Popen([sys.executable, "-S", "-c", STAY], stdin=subprocess.PIPE)
        self.processes.append(process)
        return process.pid

    def close(self) -> None:
        self.molds.close()
        for line in self.lines:
            line.close()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
            process.poll()  # whose exit has been taken

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline
            self.loop.poll(min(deadline, time.monotonic() + 0.5))

    def ready(self, generation: int = 0) -> Mold:
        """One that is READY."""
        self.molds.forge(generation)
        made = self.molds.coming
        self.lines[-1].send(READY)
        self.until(lambda: self.molds.current is made)
        assert made is not None
        return made


@pytest.fixture
def forge() -> Iterator[Forge]:
    with contextlib.ExitStack() as stack:
        yield Forge(stack)


def test_what_was_given_up_for_an_upgrade_is_made_after_all_when_that_fails(forge: Forge) -> None:
    os.kill(forge.ready().pid, signal.SIGKILL)
    forge.until(lambda: forge.molds.current is None and forge.molds.coming)  # it is dead, and another one loads
    forge.molds.give_up()
    forge.molds.go_on()
    forge.molds.go_on()
    forge.until(lambda: forge.molds.coming)
    forge.lines[-1].send(READY)
    forge.until(lambda: forge.molds.current)
    assert not forge.goal.forks.shut
    assert len(forge.processes) == 3


def test_the_mold_before_is_used_again_when_workers_fail_to_boot(forge: Forge) -> None:
    before = forge.ready()
    forge.roster.forked(slot=0, entry=0, pid=1, generation=0, now=0.0)  # for whom it stays
    failing = forge.ready(1)
    assert forge.molds.retreat(2) is None  # of whom nobody has been made
    assert forge.molds.retreat(1) == 0
    assert (forge.molds.current, forge.molds.former) == (before, [failing])
    forge.until(lambda: not forge.molds.former or failing.control is None)
    assert before.control is not None
    assert forge.molds.retreat(0) is None


def die(forge: Forge) -> None:
    """The current one dies before it has made a worker, as one whose forks crash does."""
    forge.until(lambda: forge.molds.coming or forge.molds.current)
    if forge.molds.coming is not None:
        forge.lines[-1].send(READY)
        forge.until(lambda: forge.molds.current)
    assert forge.molds.current is not None
    os.kill(forge.molds.current.pid, signal.SIGKILL)
    forge.until(lambda: forge.molds.current is None or forge.failed)


def test_a_reload_whose_molds_die_before_a_worker_is_made_fails(forge: Forge) -> None:
    before = forge.ready()
    forge.roster.forked(slot=0, entry=0, pid=1, generation=0, now=0.0)
    forge.ready(1)
    forge.goal.roll()
    die(forge)
    assert forge.failed == []
    die(forge)
    assert forge.failed == [(1, BARREN)]
    assert forge.molds.retreat(1) == 0
    assert (forge.molds.current, forge.molds.coming, forge.goal.forks.shut) == (before, None, False)
    made = len(forge.processes)
    forge.loop.poll(time.monotonic() + 1)
    assert len(forge.processes) == made, "another one of the code that can't be used"


def test_a_start_whose_molds_die_before_a_worker_is_made_fails(forge: Forge) -> None:
    forge.goal.ready = False
    forge.ready()
    die(forge)
    assert forge.fatal == []
    die(forge)
    assert [str(error) for error in forge.fatal] == [f"the application failed to boot: {BARREN}"]


def test_a_mold_of_an_earlier_image_is_not_used_again(forge: Forge) -> None:
    before = forge.ready()
    forge.roster.forked(slot=0, entry=0, pid=1, generation=0, now=0.0)
    before.adopted = True
    failing = forge.ready(1)
    assert forge.molds.retreat(1) is None
    assert forge.molds.current is failing


def test_a_mold_that_has_closed_its_line_and_lives_on_is_ended(forge: Forge, caplog: pytest.LogCaptureFixture) -> None:
    mold = forge.ready()
    forge.lines[-1].close()
    forge.until(lambda: forge.molds.current is None)
    assert f"{mold} has closed its line to the master, and lives on; it is killed" in caplog.messages
    forge.until(lambda: forge.molds.coming)  # those to come have another


def test_a_server_ends_beside_a_mold_that_has_closed_its_line(forge: Forge) -> None:
    forge.ready()
    forge.lines[-1].close()
    forge.loop.poll(time.monotonic())
    forge.until(forge.molds.end)


def test_a_mold_that_has_ended_is_not_killed_for_what_it_has_not_done(forge: Forge) -> None:
    mold = forge.ready()
    os.kill(mold.pid, signal.SIGKILL)
    forge.until(lambda: forge.molds.current is None)
    with subprocess.Popen([sys.executable, "-S", "-c", STAY], stdin=subprocess.PIPE) as stranger:
        assert mold.child is not None
        mold.child.pid = stranger.pid  # as if the number had been given to another
        forge.molds.hung(mold)
        stranger.communicate()
    assert stranger.returncode == 0
