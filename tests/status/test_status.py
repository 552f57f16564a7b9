"""What a server tells of itself: the data, its JSON, its text, the sums that outlive workers."""

from __future__ import annotations

import json
import types
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.net.accept_errors import COUNTED
from prefork.scoreboard.events import Why
from prefork.scoreboard.layout import BUCKETS, ERROR_PLACES, Accepts, EntryView, LaneView, Order, State
from prefork.status import text as report
from prefork.status.collector import StatusCollector
from prefork.status.model import Ended, Health, Listening, MoldStatus, Process, RunningRequest, Status, Totals, Working
from prefork.status.totals import BOUNDS, Counters
from prefork.supervisor import notifications
from prefork.supervisor.cause import TEXTS, Cause, Reason
from prefork.supervisor.death import Death
from prefork.supervisor.member import Member
from prefork.supervisor.pressure import Exhaustion
from prefork.system import codec
from prefork.system.process import Exit
from prefork.testing.clock import FakeClock
from tests.support.figures import full

NUMBERS = st.floats(min_value=0, max_value=1e12, allow_nan=False)
COUNTS = st.integers(min_value=0, max_value=2**64)
KINDS: list[type] = [Process, Listening, RunningRequest, Working, Ended, Totals, Status, Health]


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a class of `status`, deep."""
    plain = {int: COUNTS, float: NUMBERS, str: st.text(max_size=20), bool: st.booleans()}
    if kind in plain:
        return plain[kind]
    if kind.__class__ is type:
        return st.builds(kind, **{name: strategy(hint) for name, hint in codec.types_of(kind).items()})
    inner = strategy([argument for argument in kind.__args__ if argument not in {..., type(None)}][-1])
    if typing.get_origin(kind) in {types.UnionType, typing.Union}:  # which are one from Python 3.14 on
        return st.none() | inner
    if kind.__origin__ is dict:
        return st.dictionaries(st.text(max_size=9), inner, max_size=3)
    return st.lists(inner, max_size=3).map(tuple)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100 if full() else 25)  # one of `Status` holds some of each of the others
@given(data=st.data())
def test_what_is_written_is_read_back(kind: type, data: st.DataObject) -> None:
    thing = data.draw(strategy(kind))
    line = codec.encoded(thing)
    assert "\n" not in line
    assert codec.read(kind, json.loads(line)) == thing


def test_a_reader_of_an_older_release_leaves_out_what_it_does_not_know() -> None:
    data = {"state": "serving", "serving": 3, "mood": "good", "size": 3}
    assert codec.read(Health, data) == Health(state="serving", serving=3, size=3)


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (Health, {}, "Health: something is missing"),
        (Health, [], "Health: list where an object was expected"),
        (Health, {"state": 3}, "Health.state: int where str was expected"),
        (Health, {"state": "serving", "serving": True}, "Health.serving: bool where int was expected"),
        (Working, {"slot": 0, "pid": 1, "age": True}, "Working.age: bool where float was expected"),
        (
            Status,
            {"version": "1", "pid": 1, "state": "", "workers": {}},
            "Status.workers: dict where tuple was expected",
        ),
        (
            Status,
            {"version": "1", "pid": 1, "state": "", "workers": [{"slot": "a"}]},
            "Status.workers.slot: str where int was expected",
        ),
    ],
)
def test_what_is_of_another_type_is_refused(kind: type, data: object, said: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is compared as a whole
        codec.read(kind, data)
    assert str(error.value).startswith(said)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_any_json_is_a_status_or_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"^Status"):
        codec.read(Status, data)


@pytest.mark.parametrize(
    ("state", "serving", "ready"),
    [
        ("serving", 1, True),
        ("reloading", 1, True),
        ("serving", 0, False),
        ("starting", 1, False),
        ("stopping", 4, False),
    ],
)
def test_ready_is_who_takes_connections_and_means_to_go_on(state: str, serving: int, ready: bool) -> None:
    assert Health(state=state, serving=serving).ready is ready


# Text.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0us"),
        (0.0000874, "87us"),
        (0.0009996, "1.0ms"),
        (0.00874, "8.7ms"),
        (0.0996, "100ms"),
        (0.9994, "999ms"),
        (0.9996, "1.0s"),
        (1.24, "1.2s"),
        (59.4, "59s"),
        (60.0, "1m00"),
        (3599.0, "59m59"),
        (7980.0, "2h13"),
        (86400.0 * 5 + 3600 * 3, "5d3h"),
        (86400.0 * 400, "400d"),
    ],
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


@given(st.floats(min_value=0, max_value=86400 * 9999.0))
def test_a_duration_fits_its_column(seconds: float) -> None:
    assert len(report.duration(seconds)) <= 5


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (1000, "1.0K"), (19 << 20, "19M"), (1200 << 20, "1.2G"), (5 << 40, "5.0T")],
)
def test_a_size_is_short(count: int | None, text: str) -> None:
    assert report.size(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999_999, "999999"), (1_234_567, "1.23M"), (999.6e6, "1G"), (5e9, "5G"), (7.1e12, "7.1T")],
)
def test_a_number_is_short(count: float, text: str) -> None:
    assert report.number(count) == text


@pytest.mark.parametrize(
    ("histogram", "text"),
    [
        ((1000, 0, 0), "less than 4.0ms"),
        ((990, 10, 0), "less than 4.0ms"),
        ((989, 11, 0), "less than 8.0ms"),
        ((0, 1, 0), "less than 8.0ms"),
        ((0, 0, 1), "more than 8.0ms"),
    ],
)
def test_what_99_of_a_hundred_have_waited(histogram: tuple[int, ...], text: str) -> None:
    assert report.waited((0.004, 0.008), histogram) == text


def test_the_requests_in_hand() -> None:
    long = RunningRequest(label="GET /a", peer="192.0.2.1", seconds=61.0, waited=0.5)
    found = Status(
        version="1.0",
        pid=7,
        state="serving",
        workers=(
            Working(slot=0, pid=100, state="busy", requests=(RunningRequest(seconds=0.002), long)),
            Working(
                slot=1, pid=4194304, state="busy", requests=(RunningRequest(label="job 7", seconds=2, waited=0.0),)
            ),
            Working(slot=2, pid=102, state="idle"),
        ),
    )
    assert report.requests(found).splitlines() == [
        "SLOT     PID   FOR WAITED FROM      REQUEST",
        "   0     100  1m01  500ms 192.0.2.1 GET /a",
        "   1 4194304  2.0s     0s -         job 7",
        "   0     100 2.0ms      - -         -",
    ]
    assert report.requests(Status(version="1.0", pid=7, state="serving")) == "nothing runs\n"


def test_a_sparkline_shows_whatever_is_more_than_nothing() -> None:
    assert report.sparkline([0, 0.01, 50, 100]) == " ▁▄█"
    assert report.sparkline([]) == ""
    assert report.sparkline([0, 0]) == "  "
    assert report.sparkline([3], most=6) == "▄"


def test_the_page() -> None:
    found = Status(
        version="1.0",
        pid=77,
        state="serving",
        uptime=7980,
        generation=2,
        size=2,
        smallest=1,
        largest=4,
        listeners=(Listening(address="127.0.0.1:8000", waiting=3, backlog=128), Listening(address="unix:/run/a")),
        workers=(
            Working(slot=0, pid=100, state="idle", seconds=1.5, age=90, served=12, mean=0.0021, longest=0.5),
            Working(slot=1, pid=4194304, state="backing off", error="EMFILE", process=Process(rss=19 << 20, cpu=1.5)),
        ),
        molds=(MoldStatus(pid=78, generation=2, state="ready", age=90, pss=45 << 20),),
        exhaustions=("worker 1: EMFILE for 2.0 s",),
        crash_loop=True,
        deaths=(
            Ended(slot=1, pid=99, how="exited with code 3", reason="max_age", age=2, served=9, ago=61),
            Ended(slot=1, pid=98, how="killed by SIGKILL", age=2, served=9, ago=61, in_hand="GET /a for 2 s"),
        ),
        totals=Totals(
            served=2,
            failed=1,
            interrupted=2,
            busy=22.0,
            waited=(22, 0),
            waited_bounds=(0.004,),
            accept_errors={"EINTR": 4},
        ),
    )
    assert report.page(found).splitlines() == [
        "prefork 1.0, pid 77: serving, up 2h13, generation 2",
        "  127.0.0.1:8000  3 waiting of 128",
        "  unix:/run/a     0 waiting",
        "  mold of generation 2, pid 78: ready, up 1m30, 45M of memory",
        "  2 workers wanted (1 to 4): 1 backing off, 1 idle",
        "  2 served, 1 failed, 2 interrupted, 7.3s each, 99 % waited less than 4.0ms, accept failed 4 times with EINTR",
        "  EXHAUSTED: worker 1: EMFILE for 2.0 s",
        "  CRASH LOOP: workers die young again and again; see the log",
        "",
        "SLOT     PID GEN STATE               FOR  AGE SERVED FAIL  MEAN   MAX RSS  CPU FDS",
        "   0     100   0 idle               1.5s 1m30     12    0 2.1ms 500ms   -    -   -",
        "   1 4194304   0 backing off EMFILE  0us  0us      0    0     -     - 19M 1.5s   -",
        "",
        "last deaths:",
        "  1m01 ago worker 1 (pid 99, generation 0) exited with code 3 after 2.0s, 9 served (max_age)",
        "  1m01 ago worker 1 (pid 98, generation 0) killed by SIGKILL after 2.0s, 9 served; in hand: GET /a for 2 s",
    ]


def test_a_server_without_workers_has_a_page_too() -> None:
    assert report.page(Status(version="1.0", pid=1, state="starting", size=1)).splitlines() == [
        "prefork 1.0, pid 1: starting, up 0us, generation 0",
        "  1 worker wanted: none lives",
        "  0 served, 0 failed",
    ]


def test_the_mean_is_that_of_all_handlers() -> None:
    assert report.sums(Totals(failed=2, busy=4.0)) == "0 served, 2 failed, 2.0s each"


# The counters.


def death(
    *,
    order: Order = Order.RUN,
    reason: Reason | None = None,
    ready: bool = True,
    aborted: bool = False,
    killed: bool = False,
    exit: Exit | None = None,  # noqa: A002  # Exit's word
) -> Death:
    member = Member(7, 0, 0, 0, 1.0, ready_at=1.0 if ready else None, order=order, reason=reason)
    member.aborted_at = 2.0 if aborted else None
    member.killed_at = 3.0 if killed else None
    return Death(member, exit or Exit(0), 9.0, 5, successor=False)


def view(lane: LaneView | None = None, *, refused: int = 0, errors: dict[str, int] | None = None) -> EntryView:
    counted = [0] * ERROR_PLACES
    for name, count in (errors or {}).items():
        counted[COUNTED.index(name)] = count
    return EntryView(
        pid=7,
        slot=0,
        generation=0,
        order=Order.RUN,
        born=0,
        state=State.SERVING,
        state_since=0,
        last_errno=0,
        last_errno_at=0,
        refused=refused,
        parked=0,
        reused=0,
        handed_over=0,
        expired=0,
        evicted=0,
        left=0,
        accepts=Accepts.USUAL,
        errors=tuple(counted),
        lanes=(lane or lane_of(),),
    )


def lane_of(*, served: int = 0, failed: int = 0, busy: bool = False, total: int = 0) -> LaneView:
    histogram = [0] * BUCKETS
    histogram[3] = served + failed
    return LaneView(
        busy_since=55 if busy else 0,
        deadline=0,
        served=served,
        failed=failed,
        busy_total=total,
        busy_longest=0,
        idle_since=0,
        histogram=tuple(histogram),
    )


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (death(order=Order.DRAIN, reason=Reason(Cause.STOP)), "stop"),
        (death(order=Order.SEAL, reason=Reason(Cause.RELOAD)), "reload"),
        (death(order=Order.SEAL, reason=Reason(Cause.MAX_MEMORY, "it holds 300 MiB")), "max_memory"),
        (death(order=Order.SEAL, reason=Reason(Cause.MAX_AGE), killed=True), "graceful_timeout"),
        (death(order=Order.SEAL, reason=Reason(Cause.OTHER)), "other"),
        (death(ready=False, exit=Exit(4)), "boot"),
        (death(exit=Exit(None, 9)), "crash"),
        (death(exit=Exit(None, 6), aborted=True), "timeout"),
        (death(exit=Exit(None, 9), killed=True), "timeout"),
        (death(exit=Exit(3)), "exit"),
        (death(exit=Exit(0)), "exit"),
    ],
)
def test_every_death_has_a_cause(found: Death, word: str) -> None:
    assert found.cause == word


def test_whatever_a_worker_asks_a_replacement_for_is_a_cause() -> None:
    causes = {death(order=Order.SEAL, reason=Reason(Cause.of_request(why))).cause for why in Why}
    assert len(causes) == len(Why)
    assert Cause.OTHER not in causes


def test_every_cause_has_a_text_of_its_own() -> None:
    assert set(TEXTS) == set(Cause)
    assert len(set(TEXTS.values())) == len(TEXTS)
    assert str(Reason(Cause.LEAK)) == TEXTS[Cause.LEAK]
    assert str(Reason(Cause.MAX_FDS, "it holds 17 descriptors")) == "max_fds: it holds 17 descriptors"


def test_the_dead_count_with_the_living() -> None:
    sums = Counters(FakeClock())
    sums.notify(
        notifications.Died(
            death(exit=Exit(None, 9, user=1.5, system=0.25)),
            view(lane_of(served=5, failed=2, busy=True, total=4_000_000_000), refused=3, errors={"EMFILE": 4}),
        )
    )
    living = view(lane_of(served=10, total=1_000_000_000), refused=1, errors={"EMFILE": 1, "ECONNABORTED": 2})
    found = sums.totals([living], cpu=0.5)
    assert (found.served, found.failed, found.interrupted, found.refused) == (15, 2, 1, 4)
    assert (found.busy, found.cpu) == (5.0, 2.25)
    assert found.accept_errors == {"EMFILE": 5, "ECONNABORTED": 2}
    assert found.deaths == {"crash": 1}
    assert found.histogram[3] == sum(found.histogram) == 17
    assert len(found.histogram) == len(found.bounds) + 1


def test_the_bounds_are_those_of_the_lane_s_places() -> None:
    for bound, place in zip(BOUNDS, range(BUCKETS), strict=False):
        nanoseconds = round(bound * 1e9)
        assert (nanoseconds - 1 >> 16).bit_length() == place
        assert (nanoseconds >> 16).bit_length() == place + 1


def test_time_under_pressure_counts_once_and_while_it_lasts() -> None:
    clock = FakeClock()
    sums = Counters(clock)

    def short(*, system: bool, over: bool = False) -> None:
        sums.notify(notifications.Exhausted(Exhaustion(23, system, 0, 0.0, over=over)))

    short(system=False)
    clock.advance(2)
    short(system=True)
    clock.advance(3)
    short(system=False, over=True)
    clock.advance(4)
    assert sums.totals([]).pressure == 9
    short(system=True, over=True)
    clock.advance(100)
    assert sums.totals([]).pressure == 9
    short(system=True)
    clock.advance(1)
    assert sums.totals([]).pressure == 10


def test_what_happened_is_counted() -> None:
    sums = Counters(FakeClock())
    for notification in (
        notifications.WorkerReady(death().member),
        notifications.WorkerReady(death().member),
        notifications.Serving(),
        notifications.Reloading(1),
        notifications.Reloaded(1),
        notifications.ReloadFailed(2, "no"),
        notifications.Reforked(3),
        notifications.Reforked(4),
        notifications.ReforkFailed(5, "no"),
        notifications.Stopping(),
    ):
        sums.notify(notification)
    found = sums.totals([])
    assert (found.forks, found.reloads, found.failed_reloads) == (2, 1, 1)
    assert (found.reforks, found.failed_reforks) == (2, 1)
    again = Counters(FakeClock())
    again.restore(sums.save())
    assert again.totals([]) == found


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=20))
def test_totals_never_go_down(steps: list[tuple[bool, int, int, bool]]) -> None:
    sums = Counters(FakeClock())
    served = failed = 0
    before = sums.totals([])
    for dies, more, worse, busy in steps:
        served, failed = served + more, failed + worse
        entry = view(lane_of(served=served, failed=failed, busy=busy, total=served))
        if dies:
            sums.notify(notifications.Died(death(), entry))
            served = failed = 0
        now = sums.totals([] if dies else [entry])
        for name in ("served", "failed", "interrupted", "refused", "busy", "cpu"):
            assert getattr(now, name) >= getattr(before, name)
        assert all(new >= old for new, old in zip(now.histogram, before.histogram, strict=True))
        before = now


@given(data=st.data())
def test_sums_outlive_an_upgrade(data: st.DataObject) -> None:
    sums = Counters(FakeClock())
    for _ in range(data.draw(st.integers(0, 4))):
        entry = view(
            lane_of(served=data.draw(st.integers(0, 99)), failed=1, busy=data.draw(st.booleans()), total=10**9),
            refused=2,
            errors={"EMFILE": 3},
        )
        sums.notify(notifications.Died(death(exit=Exit(1, user=0.5)), entry))
        sums.notify(notifications.WorkerReady(death().member))
    sums.notify(notifications.Reloaded(1))
    sums.notify(notifications.UpgradeFailed("no"))
    again = Counters(FakeClock())
    again.restore(json.loads(json.dumps(sums.save())))
    assert again.totals([]) == sums.totals([])


@pytest.mark.parametrize("saved", [None, [], {"served": "many"}])
def test_sums_that_are_none_are_refused(saved: object) -> None:
    with pytest.raises(ValueError, match="Totals"):
        Counters(FakeClock()).restore(saved)


def test_sums_of_another_release_are_taken_as_far_as_they_are_known() -> None:
    sums = Counters(FakeClock())
    sums.restore({"served": 5, "accept_errors": {"EMFILE": 2, "ENEW": 1}, "bounds": [1.0], "histogram": [1, 2], "x": 1})
    found = sums.totals([])
    assert (found.served, found.accept_errors, sum(found.histogram)) == (5, {"EMFILE": 2}, 0)


def test_the_names_of_the_causes_are_words_for_labels() -> None:
    assert all(word.isidentifier() and word.islower() for word in Cause)


def test_how_long_it_has_run_does_not_depend_on_the_time_of_day() -> None:
    """The clock may be set between two images; the later one goes on with the moment at which the first began."""

    def collector(seconds: float) -> StatusCollector:
        clock = FakeClock(seconds)
        return StatusCollector(types.SimpleNamespace(loop=types.SimpleNamespace(clock=clock)), Counters(clock), "1")  # type: ignore[arg-type]  # all of it that is asked for

    saved = collector(100.0).save()
    assert isinstance(saved, dict)
    assert saved["began"] == 100.0
    for step in (-86_400.0, 0.0, 86_400.0):
        later = collector(150.0)
        later.restore(saved | {"started": saved["started"] + step})
        assert later.save() == saved | {"started": saved["started"] + step}
