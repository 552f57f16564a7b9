"""The collector: one server's status, taken from what the master knows at that moment.

It costs a few microseconds a worker and a system call a listener. What only the system knows of processes is asked for
on demand, and at most twice a second, however many ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from prefork.net.accept_errors import lookup
from prefork.scoreboard.layout import EntryView, LaneView, Order, State
from prefork.scoreboard.recorder import InHand
from prefork.status.model import (
    Ended,
    Health,
    LaneStatus,
    Listening,
    MoldStatus,
    Process,
    RunningRequest,
    Status,
    Working,
)
from prefork.status.totals import Counters
from prefork.supervisor.death import Death
from prefork.supervisor.goal import Crashes
from prefork.supervisor.service import ServerView
from prefork.supervisor.views import ExitsView, MemberView
from prefork.system import usage
from prefork.system.natives import os, time
from prefork.system.process import proportional_memory

T = TypeVar("T")

FRESH = 0.5
"""Seconds for which what the system said of processes is not asked for again."""

_NOTHING = Process()


class StatusCollector:
    """Takes the status of one server.

    Args:
        server: the master as services see it.
        counters: the sums.
        version: the release that serves.
    """

    def __init__(self, server: ServerView, counters: Counters, version: str) -> None:
        self._server = server
        self._counters = counters
        self._version = version
        self._started = time.time()
        self._began = server.loop.clock.monotonic()
        self._processes: dict[int, Process] = {}
        self._processes_at = float("-inf")

    def save(self) -> object:
        """The sums so far, and since when, for the next image of this master."""
        return {"started": self._started, "began": self._began, "totals": self._counters.save()}

    def restore(self, saved: object) -> None:
        """Go on with the sums of the image before.

        Raises:
            ValueError: they can't be read.
        """
        if not isinstance(saved, dict) or not isinstance(saved.get("started"), float):
            raise ValueError("no sums")
        self._counters.restore(saved.get("totals"))
        # How long it has run is no difference between two times of day: the clock may have been set in between.
        if isinstance(saved.get("began"), float):
            self._began = min(self._began, saved["began"])
        self._started = saved["started"]

    def health(self) -> Health:
        """Whether the server is fit for work."""
        serving = sum(not member.starting and member.order is Order.RUN for member in self._server.roster)
        return Health(
            state=self._state(), serving=serving, size=self._server.goal.size, crash_loop=_loops(self._server.exits)
        )

    def status(self, *, processes: bool = False) -> Status:
        """Everything.

        Args:
            processes: whether to ask the system for memory, CPU time and descriptors.
        """
        server, now = self._server, self._server.loop.clock.monotonic()
        members = sorted(server.roster, key=lambda member: (member.slot, member.born))
        views = [server.spawner.view(member) for member in members]
        known = self._ask_system(members, now) if processes else {}
        cpu = sum(known[member.pid].cpu or 0.0 for member in members) if known else 0.0
        return Status(
            version=self._version,
            name=server.settings.name,
            pid=os.getpid(),
            state=self._state(),
            started=self._started,
            uptime=now - self._began,
            generation=server.goal.generation,
            size=server.goal.size,
            smallest=server.goal.smallest,
            largest=server.goal.largest,
            listeners=tuple(
                Listening(address=listener.name, waiting=listener.waiting(), backlog=listener.limit)
                for listener in server.listeners
            ),
            workers=tuple(
                _worker(member, view, now, known.get(member.pid, _NOTHING), server.spawner.in_hand(member))
                for member, view in zip(members, views, strict=True)
            ),
            molds=tuple(self._molds(now, processes=processes)),
            exhaustions=tuple(self._exhaustions(now)),
            crash_loop=_loops(server.exits),
            deaths=tuple(_ended(death, now) for death in reversed(server.exits.recent)),
            totals=self._counters.totals(views, cpu),
            process=known.get(os.getpid(), _NOTHING),
        )

    def _state(self) -> str:
        goal = self._server.goal
        if self._server.stopping():
            return "stopping"
        if not goal.ready:
            return "starting"
        return "reloading" if goal.reloads else "serving"

    def _molds(self, now: float, *, processes: bool) -> Iterator[MoldStatus]:
        """The molds, the one that is used first."""
        molds = self._server.molds
        found = [("ready", molds.current), ("loading", molds.coming), *(("former", mold) for mold in molds.former)]
        for state, mold in found:
            if mold is not None:
                yield MoldStatus(
                    pid=mold.pid,
                    generation=mold.generation,
                    state=state,
                    age=now - mold.born,
                    pss=proportional_memory(mold.pid) if processes else None,
                )

    def _exhaustions(self, now: float) -> list[str]:
        told = []
        for exhaustion in self._server.pressure.exhaustions.values():
            whose = "the master" if exhaustion.slot is None else f"worker {exhaustion.slot}"
            whose = "the system" if exhaustion.system else whose
            told.append(f"{whose}: {lookup(exhaustion.errno).name} for {now - exhaustion.since:.1f} s")
        return told

    def _ask_system(self, members: list[MemberView], now: float) -> dict[int, Process]:
        """What the system says of master and workers, no older than :data:`FRESH` for those known then."""
        pids = {os.getpid(), *(member.pid for member in members)}
        if now - self._processes_at >= FRESH:
            self._processes_at = now
            self._processes = {}
        for pid in pids - self._processes.keys():
            self._processes[pid] = _ask(pid)
        return self._processes


def _ask(pid: int) -> Process:
    return Process(rss=_told(usage.resident, pid), cpu=_told(usage.cpu, pid), descriptors=_told(usage.descriptors, pid))


def _told(question: Callable[[int], T], pid: int) -> T | None:
    """The system's answer; None when it keeps it to itself (a worker of another user) or the process is gone."""
    try:
        return question(pid)
    except OSError:
        return None


def _loops(exits: ExitsView) -> bool:
    return exits.crashes is not Crashes.NONE


def doing(member: MemberView, view: EntryView, now: float) -> tuple[str, float]:
    """What a worker does, in a word or two, and for how many seconds it has. Pure."""
    busy = [lane.busy_since for lane in view.lanes if lane.busy_since]
    since = max(view.state_since, *(lane.idle_since for lane in view.lanes)) / 1e9
    if member.starting:
        state, since = "starting", member.born
    elif member.order is not Order.RUN:
        state = "leaving"
    elif view.state is State.BACKING_OFF:
        state = "backing off"
    elif busy:
        state = "busy"
    else:
        state = "idle"
    if busy:
        since = min(busy) / 1e9
    return state, max(0.0, now - since)


def _worker(member: MemberView, view: EntryView, now: float, process: Process, in_hand: tuple[InHand, ...]) -> Working:
    lanes, finished = view.lanes, sum(lane.served + lane.failed for lane in view.lanes)
    state, seconds = doing(member, view, now)
    return Working(
        slot=member.slot,
        pid=member.pid,
        generation=member.generation,
        state=state,
        seconds=seconds,
        age=now - member.born,
        served=sum(lane.served for lane in lanes),
        failed=sum(lane.failed for lane in lanes),
        refused=view.refused,
        parked=view.parked,
        mean=sum(lane.busy_total for lane in lanes) / finished / 1e9 if finished else 0.0,
        longest=max(lane.busy_longest for lane in lanes) / 1e9,
        lanes=tuple(_lane(lane, now) for lane in lanes) if len(lanes) > 1 else (),
        reason=str(member.reason or ""),
        error=lookup(view.last_errno).name if state == "backing off" else "",
        requests=tuple(
            RunningRequest(
                label=one.label, peer=one.peer, seconds=max(0.0, now - one.since), waited=one.waited, lane=one.lane
            )
            for one in in_hand
        ),
        process=process,
    )


def _lane(lane: LaneView, now: float) -> LaneStatus:
    finished = lane.served + lane.failed
    return LaneStatus(
        busy=max(0.0, now - lane.busy_since / 1e9) if lane.busy_since else None,
        served=lane.served,
        failed=lane.failed,
        mean=lane.busy_total / finished / 1e9 if finished else 0.0,
        longest=lane.busy_longest / 1e9,
    )


def _ended(death: Death, now: float) -> Ended:
    member = death.member
    return Ended(
        slot=member.slot,
        pid=member.pid,
        generation=member.generation,
        how=str(death.exit),
        reason=str(member.reason or ""),
        age=death.age,
        served=death.served,
        ago=now - death.at,
        in_hand="" if death.in_order else death.unfinished,
    )
