"""The policy and the roster through everything that can happen to a server, in any order.

The rules below are the facts; what each action has to keep to stands in :mod:`tests.support.world`, where it is carried
out.
"""

from __future__ import annotations

from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from prefork.config.settings import Settings
from prefork.scoreboard.layout import Order
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.policy import Replace, Spawn
from prefork.system.process import EXHAUSTED
from tests.support.figures import full
from tests.support.world import SIGKILL, SIGSEGV, SIGTERM, Process, World

PICK = st.integers(0, 20)
GRACE = 5.0


class Server(RuleBasedStateMachine):
    """A server with up to six slots, in a world where anything goes wrong."""

    world: World

    @initialize(
        workers=st.integers(1, 4),
        more=st.integers(0, 2),
        surge=st.integers(1, 3),
        recycling=st.integers(1, 3),
        timeout=st.sampled_from([0.0, 2.0, 30.0]),
        slow_log=st.sampled_from([0.0, 0.5, 1.0]),
        boot_timeout=st.sampled_from([0.0, 3.0, 60.0]),
        max_age=st.sampled_from([0.0, 7.0]),
        jitter=st.sampled_from([0.0, 3.0]),
        grace=st.sampled_from([0.0, GRACE]),
        crash_limit=st.sampled_from([4, 1000]),
        on_crash_loop=st.sampled_from(["degrade", "degrade", "exit"]),
        patient=st.booleans(),
        complete=st.sampled_from([True, True, True, False]),
    )
    def begin(
        self,
        workers: int,
        more: int,
        surge: int,
        recycling: int,
        timeout: float,
        slow_log: float,
        boot_timeout: float,
        max_age: float,
        jitter: float,
        grace: float,
        crash_limit: int,
        on_crash_loop: Literal["degrade", "exit"],
        patient: bool,
        complete: bool,
    ) -> None:
        self.world = World(
            Settings(
                workers=workers,
                max_workers=workers + more,
                reload_surge=surge,
                max_recycling=recycling,
                timeout=timeout,
                slow_log=slow_log if timeout else 0.0,
                boot_timeout=boot_timeout,
                max_age=max_age,
                max_age_jitter=jitter if max_age else 0.0,
                graceful_timeout=grace,
                crash_limit=crash_limit,
                on_crash_loop=on_crash_loop,
            )
        )
        self.patient = patient
        self.world.turn()
        if complete:
            self.all_become_ready()

    def pick(self, among: list[Process], which: int) -> Process | None:
        return among[which % len(among)] if among else None

    # Workers.

    @rule(which=PICK)
    def becomes_ready(self, which: int) -> None:
        process = self.pick(self.world.booting, which)
        if process is not None:
            self.world.ready(process)
            self.world.turn()

    @rule()
    def all_become_ready(self) -> None:
        for process in self.world.booting:
            self.world.ready(process)
        self.world.turn()

    @rule(which=PICK, code=st.sampled_from([1, 3, 4, 70]))
    def fails_to_boot(self, which: int, code: int) -> None:
        """The next to boot does not; whoever served goes on."""
        process = self.pick(self.world.booting, which)
        if process is not None and (self.world.goal.ready or which == 0):
            served_before = {other.member.pid for other in self.world.serving}
            process.end(code)
            self.world.reap()
            self.world.turn()
            if self.world.judge.failure is None:
                assert {other.member.pid for other in self.world.serving} == served_before

    @rule(which=PICK, together=st.booleans())
    def is_exhausted_while_booting(self, which: int, together: bool) -> None:
        """For want of descriptors or memory: no failure of the application, once that has booted."""
        world = self.world
        world.reap()  # of those who ended before, other things are true
        world.turn()
        if world.goal.ready:
            rolling, loop = world.goal.rolling, len(world.goal.failures.young_deaths)
            for process in world.booting if together else world.booting[which % 3 :][:1]:
                process.end(EXHAUSTED)
            if world.reap() and world.goal.stop.order is Order.RUN:
                assert world.goal.rolling is rolling
                assert len(world.goal.failures.young_deaths) <= loop
            world.turn()

    @rule(which=PICK, signal=st.sampled_from([SIGKILL, SIGSEGV, SIGTERM]), reaped=st.booleans())
    def is_killed(self, which: int, signal: int, reaped: bool) -> None:
        process = self.pick(self.world.alive, which)
        if process is not None:
            process.end(signal=signal if self.world.goal.ready else SIGKILL)
            if reaped:
                self.world.reap()
            self.world.turn()

    @rule(which=PICK)
    def is_ready_and_dies_before_anybody_looks(self, which: int) -> None:
        process = self.pick(self.world.booting, which)
        if process is not None:
            self.world.ready(process)
            process.end(1)
            self.world.reap()
            self.world.turn()

    @rule(which=PICK)
    def ends_by_itself(self, which: int) -> None:
        """Also: obeys an order, whether it was reminded or not."""
        process = self.pick(self.world.alive, which)
        if process is not None and (self.world.goal.ready or not process.starting):
            process.end(0)
            self.world.reap()
            self.world.turn()

    @rule(which=PICK)
    def obeys_but_has_something_in_hand(self, which: int) -> None:
        process = self.pick([p for p in self.world.alive if p.member.order is not Order.RUN], which)
        if process is not None:
            process.obeying = True
            self.world.turn()

    @rule(which=PICK)
    def takes_a_connection(self, which: int) -> None:
        process = self.pick([p for p in self.world.alive if not p.starting and p.busy_since is None], which)
        if process is not None:
            process.busy_since = self.world.now
            self.world.turn()

    @rule(which=PICK)
    def finishes_a_connection(self, which: int) -> None:
        process = self.pick([p for p in self.world.alive if p.busy_since is not None], which)
        if process is not None:
            process.busy_since, process.asked = None, None
            process.served += 1

    @rule(which=PICK, part=st.floats(0.0, 1.0))
    def finishes_the_oldest_of_several(self, which: int, part: float) -> None:
        process = self.pick([p for p in self.world.alive if p.busy_since is not None], which)
        if process is not None and process.busy_since is not None:
            process.served += 1
            process.busy_since += part * (self.world.now - process.busy_since)
            self.world.turn()

    @rule(which=PICK, seconds=st.sampled_from([0.1, 3.0, 40.0]))
    def asks_for_more_time(self, which: int, seconds: float) -> None:
        process = self.pick([p for p in self.world.alive if p.busy_since is not None], which)
        if process is not None:
            process.asked = max(process.asked or 0.0, self.world.now + seconds)
            self.world.turn()

    @rule(which=PICK, again=st.booleans())
    def finishes_while_its_tracebacks_are_taken(self, which: int, again: bool) -> None:
        """And takes another connection perhaps."""
        self.world.advance(0.01)
        dumped = [p for p in self.world.alive if p.member.dumped_at is not None and p.member.aborted_at is None]
        process = self.pick(dumped, which)
        if process is not None and process.starting:
            self.world.ready(process)
            self.world.turn()
        elif process is not None and process.busy_since is not None:
            process.served += 1
            process.busy_since, process.asked = self.world.now if again else None, None
            self.world.turn()

    @rule(which=PICK)
    def asks_to_be_replaced(self, which: int) -> None:
        process = self.pick(self.world.serving, which)
        if process is not None:
            self.world.roster.wanted(process.member, Reason(Cause.ASKED))
            self.world.turn()

    @rule(which=PICK)
    def no_more_heeds_an_abort(self, which: int) -> None:
        process = self.pick(self.world.alive, which)
        if process is not None:
            process.stubborn = True

    # The system.

    @rule(fails=st.booleans())
    def forks_fail(self, fails: bool) -> None:
        self.world.fork_fails = fails
        self.world.turn()

    @rule(held=st.booleans())
    def the_system_is_exhausted(self, held: bool) -> None:
        (self.world.goal.forks.hold if held else self.world.goal.forks.release)()
        self.world.turn()

    @rule(short=st.booleans())
    def memory_is_short(self, short: bool) -> None:
        (self.world.goal.forks.lacks_memory if short else self.world.goal.forks.has_memory)()
        self.world.turn()

    @rule()
    def exits_are_learnt_of(self) -> None:
        self.world.reap()
        self.world.turn()

    @rule(seconds=st.one_of(st.floats(0.0, 3.0), st.sampled_from([10.0, 100.0])))
    def time_goes_on(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def time_goes_on_until_the_master_wakes(self) -> None:
        if self.world.wake_at is not None:
            self.world.advance(self.world.wake_at - self.world.now)

    @rule(seconds=st.floats(1.0, 100.0))
    def the_tree_is_frozen(self, seconds: float) -> None:
        """And nobody is killed for it."""
        world = self.world
        world.reap()
        world.turn()
        before = len(world.log)
        world.freeze(seconds)
        world.turn()
        assert all(isinstance(action, Spawn | Replace) or "WakeUp" in str(action) for action in world.log[before:])

    # The operator.

    @precondition(lambda self: self.world.goal.stop.order is Order.RUN)
    @rule(size=st.integers(1, 6), slowly=st.booleans())
    def is_resized(self, size: int, slowly: bool) -> None:
        goal = self.world.goal
        goal.let_go(range(size))
        if slowly:
            goal.keep(range(size, goal.size))
        self.world.resize(size)
        self.world.turn()

    @rule()
    def the_queues_of_the_slots_that_go_are_empty(self) -> None:
        self.world.goal.let_go(range(100))
        self.world.turn()

    @precondition(lambda self: self.world.goal.stop.order is Order.RUN)
    @rule()
    def is_reloaded(self) -> None:
        self.world.reload()
        self.world.turn()

    @rule(order=st.sampled_from([Order.SEAL, Order.DRAIN, Order.QUIT]), seconds=st.sampled_from([0.0, 2.0, GRACE]))
    def is_stopped(self, order: Order, seconds: float) -> None:
        if seconds == GRACE or len(self.world.log) > 60:  # seldom: nothing but leaving happens after it
            self.world.stop(order, seconds)
            self.world.turn()

    # And then all is well.

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.comes_back_to_full_strength()
            self.ends_in_time()

    def comes_back_to_full_strength(self) -> None:
        world = self.world
        world.goal.let_go(range(100))
        rolling, failed = world.goal.rolling, world.failed_reloads
        world.calm(60.0, lambda: world.goal.stop.order is not Order.RUN or (world.full and not world.goal.rolling))
        if world.goal.stop.order is Order.RUN:
            assert len(world.processes) == world.goal.size
            if rolling and world.failed_reloads == failed:
                assert {process.member.generation for process in world.alive} == {world.goal.generation}

    def ends_in_time(self) -> None:
        world = self.world
        world.stop(Order.DRAIN, GRACE)
        if not self.patient:
            world.turn()
            world.behave()
            world.turn()
            assert not world.processes
        world.advance(GRACE)
        assert not world.alive, "alive beyond the deadline of the server's end"


TestServer = Server.TestCase
TestServer.settings = settings(max_examples=100 if full() else 40, stateful_step_count=60)
