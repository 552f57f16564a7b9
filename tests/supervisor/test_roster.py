"""Each cell of the table in prefork.supervisor.roster, and how a death is judged."""

import itertools
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.scoreboard.layout import Order
from prefork.supervisor.cause import Cause, Reason
from prefork.supervisor.death import YOUNG, Death
from prefork.supervisor.member import Member
from prefork.supervisor.roster import Roster
from prefork.system.process import EXHAUSTED, Exit
from tests.support.world import knows_what_follows

EXIT = Exit(0)

LEAVES = Reason(Cause.STOP)


class Place:
    """One slot of a roster, and who was put there."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.now = 100.0
        self._pid = 10

    def forked(self) -> Member:
        self._pid += 1
        return self.roster.forked(slot=3, entry=self._pid - 10, pid=self._pid, generation=1, now=self.now)

    def serving(self) -> Member:
        member = self.forked()
        self.roster.ready(member, self.now)
        return member

    def retired(self, member: Member, order: Order = Order.SEAL) -> None:
        self.roster.retired(member, order, self.now + 30, LEAVES, self.now)

    def exited(self, member: Member) -> Death:
        return self.roster.exited(member, EXIT, served=0, now=self.now)

    @property
    def roles(self) -> tuple[Member | None, Member | None, list[Member]]:
        slot = self.roster.slot(3)
        assert sorted(member.pid for member in slot.members()) == sorted(member.pid for member in self.roster)
        return slot.incumbent, slot.successor, slot.retiring


@pytest.fixture
def place() -> Place:
    return Place()


# Forked.


def test_the_first_of_a_slot_is_its_incumbent(place: Place) -> None:
    first = place.forked()
    assert place.roles == (first, None, [])
    assert (first.slot, first.entry, first.generation, first.born, first.starting) == (3, 1, 1, 100.0, True)
    assert place.roster.get(first.pid) is first


def test_the_second_is_its_successor(place: Place) -> None:
    first, second = place.serving(), place.forked()
    assert place.roles == (first, second, [])


def test_there_is_no_third(place: Place) -> None:
    first, second = place.serving(), place.forked()
    with pytest.raises(ValueError, match="slot 3"):
        place.forked()
    assert place.roles == (first, second, [])
    assert len(place.roster) == 2


# Ready.


def test_an_incumbent_is_ready_and_replaces_nobody(place: Place) -> None:
    first = place.forked()
    assert place.roster.ready(first, 101.5) is None
    assert (first.ready_at, first.starting) == (101.5, False)
    assert place.roles == (first, None, [])


def test_a_successor_takes_the_place_when_it_is_ready(place: Place) -> None:
    first, second = place.serving(), place.forked()
    assert place.roster.ready(second, 102.0) is first
    assert place.roles == (second, None, [first])
    assert first.order is Order.RUN  # not told yet: that is the policy's affair


def test_ready_counts_once(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.roster.ready(second, 102.0)
    assert place.roster.ready(second, 103.0) is None
    assert place.roster.ready(first, 103.0) is None
    assert (first.ready_at, second.ready_at) == (100.0, 102.0)
    assert place.roles == (second, None, [first])


def test_who_was_told_to_leave_takes_no_place(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.retired(second)
    assert place.roster.ready(second, 102.0) is None
    assert second.ready_at == 102.0
    assert place.roles == (first, None, [second])


# Retired.


def test_an_incumbent_that_retires_leaves_the_slot_empty(place: Place) -> None:
    first = place.serving()
    place.retired(first)
    assert place.roles == (None, None, [first])


def test_an_incumbent_that_retires_leaves_the_slot_to_its_successor(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.retired(first)
    assert place.roles == (second, None, [first])


def test_a_successor_that_retires_leaves_the_incumbent(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.retired(second)
    assert place.roles == (first, None, [second])


def test_who_was_replaced_retires_once(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.roster.ready(second, 102.0)
    place.retired(first)
    assert place.roles == (second, None, [first])


@pytest.mark.parametrize(
    ("orders", "order"),
    [
        ([Order.SEAL, Order.QUIT], Order.QUIT),
        ([Order.QUIT, Order.SEAL], Order.QUIT),
        ([Order.DRAIN, Order.SEAL], Order.DRAIN),
    ],
)
def test_an_order_only_grows(place: Place, orders: list[Order], order: Order) -> None:
    first = place.serving()
    for each in orders:
        place.retired(first, each)
    assert first.order is order


@pytest.mark.parametrize(
    ("deadlines", "deadline"),
    [([5.0, 9.0], 5.0), ([9.0, 5.0], 5.0), ([None, 9.0], 9.0), ([9.0, None], 9.0), ([None, None], None)],
)
def test_a_deadline_only_shrinks(place: Place, deadlines: list[float | None], deadline: float | None) -> None:
    first = place.serving()
    for each in deadlines:
        place.roster.retired(first, Order.SEAL, each, LEAVES, place.now)
    assert first.deadline == deadline


def test_a_new_order_is_reminded_of_from_the_start(place: Place) -> None:
    first = place.serving()
    place.retired(first)
    place.roster.woken(first, 101.0)
    place.roster.woken(first, 102.0)
    assert (first.wake_ups, first.woken_at) == (2, 102.0)
    place.roster.retired(first, Order.QUIT, None, LEAVES, 103.0)
    assert (first.wake_ups, first.woken_at) == (0, 103.0)


def test_the_first_reason_to_replace_stays_until_there_is_one_to_leave(place: Place) -> None:
    first = place.serving()
    place.roster.wanted(first, Reason(Cause.MAX_AGE))
    place.roster.wanted(first, Reason(Cause.MAX_MEMORY))
    assert (first.wanted, first.reason) == (True, Reason(Cause.MAX_AGE))
    place.roster.retired(first, Order.QUIT, None, Reason(Cause.STOP), 1.0)
    assert first.reason == Reason(Cause.STOP)


# Exited.


def test_a_dead_incumbent_leaves_the_slot_empty(place: Place) -> None:
    first = place.serving()
    death = place.exited(first)
    assert place.roles == (None, None, [])
    assert (death.member, death.successor) == (first, False)
    assert place.roster.get(first.pid) is None


def test_a_dead_incumbent_leaves_the_slot_to_its_successor(place: Place) -> None:
    first, second = place.serving(), place.forked()
    assert not place.exited(first).successor
    assert place.roles == (second, None, [])
    assert place.roster.ready(second, 103.0) is None


def test_a_dead_successor_leaves_the_incumbent(place: Place) -> None:
    first, second = place.serving(), place.forked()
    assert place.exited(second).successor
    assert place.roles == (first, None, [])


def test_a_dead_one_that_retired_leaves_all_the_others(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.roster.ready(second, 102.0)
    third = place.forked()
    place.retired(first)
    assert not place.exited(first).successor
    assert place.roles == (second, third, [])


def test_who_was_replaced_by_one_that_died_at_once_has_its_place_back(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.roster.ready(second, 102.0)
    place.exited(second)
    assert place.roles == (first, None, [])
    assert first.wanted


def test_who_was_told_to_leave_has_its_place_for_good_no_more(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.roster.ready(second, 102.0)
    place.retired(first)
    place.exited(second)
    assert place.roles == (None, None, [first])


def test_who_was_replaced_does_not_push_a_successor_aside(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.roster.ready(second, 102.0)
    third = place.forked()
    place.exited(second)
    assert place.roles == (third, None, [first])


def test_nobody_dies_twice(place: Place) -> None:
    first = place.serving()
    place.exited(first)
    with pytest.raises(KeyError):
        place.exited(first)


# The whole.


def test_entries_are_those_of_the_living() -> None:
    roster = Roster()
    members = [roster.forked(slot=n, entry=n + 5, pid=n + 1, generation=0, now=0.0) for n in range(3)]
    assert roster.entries() == {5, 6, 7}
    roster.retired(members[0], Order.SEAL, None, LEAVES, 0.0)
    assert roster.entries() == {5, 6, 7}
    roster.exited(members[1], EXIT, served=0, now=0.0)
    assert roster.entries() == {5, 7}
    assert [member.pid for member in roster] == [1, 3]


def test_it_can_be_gone_through_while_workers_come_and_go() -> None:
    roster = Roster()
    for n in range(3):
        roster.forked(slot=n, entry=n, pid=n + 1, generation=0, now=0.0)
    for member in roster:
        roster.exited(member, EXIT, served=0, now=0.0)
        roster.forked(slot=member.slot, entry=member.entry, pid=member.pid + 10, generation=0, now=0.0)
    assert [member.pid for member in roster] == [11, 12, 13]


ABOUT_ONE: dict[str, Callable[[Roster, Member], object]] = {
    "ready": lambda roster, member: roster.ready(member, 2.0),
    "wanted": lambda roster, member: roster.wanted(member, LEAVES),
    "retired": lambda roster, member: roster.retired(member, Order.SEAL, 9.0, LEAVES, 2.0),
    "slowed": lambda roster, member: roster.slowed(member, 1.0, 2.0),
    "slowness_told": lambda roster, member: roster.slowness_told(member),
    "dumped": lambda roster, member: roster.dumped(member, 2.0),
    "spared": lambda roster, member: roster.spared(member),
    "exited": lambda roster, member: roster.exited(member, EXIT, served=0, now=3.0),
}

FACTS = {*ABOUT_ONE, "forked", "expect", "expect_no_more"}


@given(st.lists(st.sampled_from(["fork", "ready", "retire", "exit"]), max_size=40), st.randoms(use_true_random=False))
def test_everybody_is_somewhere_once_and_the_dead_nowhere(facts: list[str], random: Random) -> None:
    place = Place()
    alive: dict[int, Member] = {}
    for fact in facts:
        slot = place.roster.slot(3)
        if fact == "fork" and slot.successor is None:
            member = place.forked()
            alive[member.pid] = member
        elif alive and fact != "fork":
            member = random.choice(list(alive.values()))
            if fact == "ready":
                place.roster.ready(member, place.now)
            elif fact == "retire":
                place.retired(member)
            else:
                place.exited(member)
                del alive[member.pid]
        incumbent, successor, retiring = place.roles
        assert {member.pid for member in place.roster} == set(alive)
        assert successor is None or incumbent is not None
        assert successor is None or successor.starting
        assert all(member.order is Order.RUN for member in (incumbent, successor) if member is not None)
        assert len(retiring) == len({member.pid for member in retiring})
        knows_what_follows(place.roster, range(5))


@given(st.lists(st.tuples(st.sampled_from(sorted(FACTS)), st.integers(0, 3)), max_size=40), st.randoms())
def test_what_it_says_at_once_is_what_a_look_at_everybody_would_show(
    facts: list[tuple[str, int]], random: Random
) -> None:
    roster, pids = Roster(), itertools.count(1)
    for fact, index in facts:
        slot = roster.slot(index)
        if fact == "forked" and slot.successor is None:
            roster.forked(slot=index, entry=0, pid=next(pids), generation=0, now=1.0)
        elif fact == "expect" and not slot.expected:
            roster.expect(index)
        elif fact == "expect_no_more" and slot.expected:
            roster.expect_no_more(index)
        elif fact in ABOUT_ONE and (members := [*slot.members()]):
            ABOUT_ONE[fact](roster, random.choice(members))
        knows_what_follows(roster, range(5))
        again = Roster()
        for member in roster:
            again.restored(member, roster.role(member))
        for expecting in range(5):
            if roster.slot(expecting).expected:
                again.expect(expecting)
        knows_what_follows(again, range(5))
        assert {slot.index for slot in again.unsettled} == {slot.index for slot in roster.unsettled}


# From one image of the master to the next.


def test_a_roster_that_is_restored_role_by_role_is_the_same(place: Place) -> None:
    first, second = place.serving(), place.forked()
    place.roster.ready(second, 102.0)
    place.retired(first)
    third = place.forked()
    again = Roster()
    for member in place.roster:
        again.restored(member, place.roster.role(member))
    slot = again.slot(3)
    assert (slot.incumbent, slot.successor, slot.retiring) == (second, third, [first])
    assert [again.role(member) for member in (first, second, third)] == ["retiring", "incumbent", "successor"]
    assert [member.pid for member in again] == [member.pid for member in place.roster]
    assert again.entries() == place.roster.entries()
    assert again.get(third.pid) is third


# A freeze.


def test_a_freeze_moves_deadlines_and_nothing_that_has_happened(place: Place) -> None:
    first, second = place.serving(), place.forked()
    first.dumped_at = first.aborted_at = 90.0
    place.roster.retired(first, Order.SEAL, 130.0, LEAVES, 100.0)
    place.roster.slot(3).not_before = 99.0
    place.roster.thawed(7.0)
    assert (first.deadline, second.deadline) == (137.0, None)
    assert (first.born, first.ready_at, first.woken_at, first.dumped_at, first.aborted_at) == (100, 100, 100, 90, 90)
    assert place.roster.slot(3).not_before == 99.0


# How a death is judged.


def death(
    *,
    ready_at: float | None = None,
    order: Order = Order.RUN,
    exit: Exit = Exit(1),  # noqa: A002, B008  # the word is Exit's, and it is frozen
    at: float = 100.5,
    served: int = 0,
    aborted: bool = False,
) -> Death:
    member = Member(pid=1, slot=0, entry=0, generation=0, born=100.0, ready_at=ready_at, order=order)
    member.aborted_at = at - 0.1 if aborted else None
    return Death(member, exit, at, served, successor=False)


def test_its_age_is_counted_from_the_fork() -> None:
    assert death(ready_at=130.0, at=160.0).age == 60.0


@pytest.mark.parametrize("order", [Order.SEAL, Order.DRAIN, Order.QUIT])
@pytest.mark.parametrize("ready_at", [None, 100.4])
@pytest.mark.parametrize("aborted", [False, True])
def test_whoever_was_told_to_leave_neither_died_young_nor_failed_to_boot(
    order: Order, ready_at: float | None, aborted: bool
) -> None:
    ended = death(order=order, ready_at=ready_at, aborted=aborted, exit=Exit(None, 6))
    assert not ended.young
    assert not ended.boot_failed


@pytest.mark.parametrize(
    ("end", "aborted", "failed"),
    [
        pytest.param(Exit(0), False, True, id="left without a word"),
        pytest.param(Exit(4), False, True, id="exit code"),
        pytest.param(Exit(None, 11), False, True, id="SIGSEGV"),
        pytest.param(Exit(None, 6), False, True, id="SIGABRT"),
        pytest.param(Exit(None, 9), False, False, id="SIGKILL"),
        pytest.param(Exit(None, 15), False, False, id="SIGTERM"),
        pytest.param(Exit(None, 2), False, False, id="SIGINT"),
        pytest.param(Exit(None, 9), True, True, id="SIGKILL after boot_timeout"),
        pytest.param(Exit(None, 6), True, True, id="SIGABRT after boot_timeout"),
        pytest.param(Exit(None), False, True, id="taken by somebody else's wait"),
    ],
)
def test_a_boot_failed_by_the_worker_s_own_doing(end: Exit, aborted: bool, failed: bool) -> None:
    assert death(exit=end, aborted=aborted).boot_failed is failed
    assert death(exit=end, aborted=aborted).young
    assert not death(exit=end, aborted=aborted, ready_at=100.1).boot_failed


@pytest.mark.parametrize(
    ("code", "ready_at", "order", "exhausted"),
    [
        (EXHAUSTED, None, Order.RUN, True),
        (EXHAUSTED, 100.1, Order.RUN, False),
        (EXHAUSTED, None, Order.SEAL, False),
        (70, None, Order.RUN, False),
    ],
)
def test_a_boot_exhausted_when_the_worker_says_so(
    code: int, ready_at: float | None, order: Order, exhausted: bool
) -> None:
    assert death(exit=Exit(code), ready_at=ready_at, order=order).exhausted is exhausted


@pytest.mark.parametrize(
    ("lived", "served", "young"),
    [
        (0.0, 0, True),
        (YOUNG - 0.01, 0, True),
        (YOUNG, 0, False),
        (YOUNG - 0.01, 1, False),
        (1000.0, 0, False),
    ],
)
def test_who_has_served_nobody_within_a_second_of_its_boot_died_young(lived: float, served: int, young: bool) -> None:
    assert death(ready_at=130.0, at=130.0 + lived, served=served).young is young


def test_a_hung_worker_that_had_served_did_not_die_young() -> None:
    assert not death(ready_at=100.0, at=131.5, served=3, exit=Exit(None, 6), aborted=True).young
