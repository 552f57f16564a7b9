"""The steps of the walk: what is done to a server.

Each is a method of `Steps` that does one thing, waits until its own effect is there, and returns how many losses it
may have cost: one for each worker that it killed, no more. What must hold of the server afterwards is looked at by the
walk. All choices come from the seed, and none from what the server happens to be at.
"""

from __future__ import annotations

import errno
import random
import resource
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from prefork.errors import ControlError
from prefork.services.control.client import Client
from prefork.status.model import Status
from prefork.testing import call_until, connect, request, wait_for
from prefork.testing.faults import Pattern, always, every, first
from prefork.testing.processes import freeze, is_gone, limited_descriptors, thaw
from tests.storm import rude
from tests.storm.arrangement import MOST, NOFILE, Arrangement
from tests.storm.codes import BROKEN, FORKS, MEDDLES, RAISES, TAKES
from tests.storm.crowd import Crowd
from tests.storm.site import PATIENCE, Site
from tests.storm.squall import Squall, kill
from tests.storm.truths import BrokenTruthError, Truths
from tests.support.midwives import await_midwife
from tests.support.tracing import traced

_OF_ACCEPT: Final = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOBUFS,
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.EAGAIN,
    errno.EPERM,
)
_OF_MASTER: Final = {
    "fork": (errno.EAGAIN, errno.ENOMEM),
    "pidfd_open": (errno.EMFILE, errno.ENOMEM),
    "pipe": (errno.EMFILE, errno.ENFILE),
    "epoll_add": (errno.ENOMEM, errno.ENOSPC),
}
"""What the master's system calls may fail with while it forks."""


class Steps:
    """The steps of one episode.

    Args:
        site: Where the server is.
        crowd: Its clients.
        truths: Are told of another size.
        chance: Chooses.
    """

    def __init__(self, site: Site, crowd: Crowd, truths: Truths, chance: random.Random) -> None:
        self.site = site
        self.crowd = crowd
        self.truths = truths
        self.chance = chance
        self.arrangement: Arrangement = site.arrangement

    # Choices. Each takes as many random numbers whatever the server is at.

    def worker(self, status: Status | None = None) -> int:
        """The process id of a worker that serves."""
        return self.workers(1, status)[0]

    def workers(self, count: int, status: Status | None = None) -> list[int]:
        """The process ids of as many workers, or of all if there are fewer."""
        order = [self.chance.random() for _ in range(2 * MOST)]
        status = status or self.site.status()
        chosen = sorted(status.workers, key=lambda worker: order[worker.slot % len(order)])
        return [worker.pid for worker in chosen[:count]]

    def pause(self, least: float, most: float) -> None:
        """Let some time pass, in which the clients meet what was done."""
        time.sleep(self.chance.uniform(least, most))  # as said

    # New code.

    def reload(self) -> int:
        """SIGHUP, or the same by the control socket."""
        before = self.site.status().generation
        if self.chance.random() < 0.5:
            self.site.server.signal(signal.SIGHUP)
        else:
            with self.site.client() as client:
                client.ask("reload", wait=False)
        self._renewed(before, upgraded=False)
        return 0

    def upgrade(self) -> int:
        """SIGUSR2, or the same by the control socket."""
        before = self.site.status().generation
        if self.chance.random() < 0.5:
            self.site.server.signal(signal.SIGUSR2)
        else:
            with self.site.client() as client:
                client.ask("upgrade", wait=False)
        self._renewed(before, upgraded=True)
        return 0

    def _renewed(self, before: int, *, upgraded: bool) -> None:
        call_until(
            self.site.status,
            lambda now: now.generation > before and now.state == "serving",
            timeout=PATIENCE,
            message=f"a generation after {before}",
        )
        if upgraded and self.truths.size is not None:
            self.truths.size = self.arrangement.workers  # the next image has the size that it is configured with

    def reload_broken(self) -> int:
        """New code that does not boot: the old one goes on."""
        before = self.site.status()
        self.site.code.write_text(self.chance.choice(BROKEN) + "\n")
        try:
            self.site.server.signal(self.chance.choice([signal.SIGHUP, signal.SIGUSR2]))
            call_until(
                self.site.status,
                lambda now: now.totals.failed_reloads > before.totals.failed_reloads,
                timeout=PATIENCE,
                message="a reload that fails",
            )
        finally:
            self.site.code.unlink()
        return 0

    # Size.

    def scale(self) -> int:
        """Another number of workers: at once by the control socket, or one after the other by signals."""
        size, at_once = self.chance.randint(1, MOST), self.chance.random() < 0.5
        if at_once:
            with self.site.client() as client:
                client.scale(size)
        else:
            now = self.site.status().size
            while now != size:
                self.site.server.signal(signal.SIGTTIN if now < size else signal.SIGTTOU)
                now += 1 if now < size else -1
                # Two signals of a kind that come before the first was seen are one.
                call_until(self.site.status, lambda status, now=now: status.size == now, timeout=PATIENCE)  # type: ignore[misc]  # mypy can't infer a lambda with a default
        self.truths.size = size
        return 0

    # Deaths.

    def kill_worker(self) -> int:
        """A crash."""
        return self._kill(1)

    def kill_workers(self) -> int:
        """Several crashes, perhaps of all."""
        return self._kill(self.chance.randint(2, MOST))

    def _kill(self, count: int) -> int:
        signum = self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV])
        victims = self.workers(count)
        kill(victims, signum)
        self._gone(victims)
        return len(victims)

    def kill_traced(self) -> int:
        """A crash under a tracer, who holds the exit back until the slot has another worker."""
        victim = self.worker()
        with traced(victim):
            kill([victim], signal.SIGKILL)
            wait_for(lambda: victim not in self._pids(), PATIENCE, f"a server without {victim}")
            self.pause(0.0, 0.2)
        self._gone([victim])
        return 1

    def _pids(self) -> set[int]:
        return {worker.pid for worker in self.site.status().workers}

    def _gone(self, pids: Sequence[int]) -> None:
        for pid in pids:
            wait_for(lambda pid=pid: is_gone(pid), PATIENCE, f"the end of {pid}")  # type: ignore[misc]  # as above

    def terminate_worker(self) -> int:
        """A signal to a worker from somebody who is not its master: at the most it is replaced."""
        signum = self.chance.choice([signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
        pid = self.worker()
        kill([pid], signum)
        if signum != signal.SIGINT:
            self._gone([pid])
        return 0

    def kill_mold(self) -> int:
        """SIGKILL to what workers are made of, perhaps with a worker, or while another one loads for a reload."""
        victims = self.workers(1) if self.chance.random() < 0.5 else []
        reloads, moment = self.chance.random() < 0.3, self.chance.uniform(0.0, 0.3)
        if reloads:
            self.site.server.signal(signal.SIGHUP)
            time.sleep(moment)  # a moment of what was begun, which the seed chooses
        molds = self.site.facts().molds
        kill([*molds, *victims], signal.SIGKILL)
        self._gone(molds)
        return len(victims)

    def kill_midwife(self) -> int:
        """SIGKILL to who forks workers, while she does."""
        victims: list[int] = []

        def provoke() -> None:
            found = self.site.server.workers()[:1]
            kill(found, signal.SIGKILL)
            victims.extend(found)

        midwife = await_midwife(self.site.server, provoke)
        self.pause(0.0, 0.003)
        kill([midwife], signal.SIGKILL)
        return len(victims)

    def refork(self) -> int:
        """Workers have served so much that others of a mold that is warmed anew take their places."""
        self.reload()  # from then on their requests are counted, whatever reforks have failed before
        before = self.site.status().totals.reforks
        call_until(
            self.site.status,
            lambda now: now.totals.reforks > before and now.state == "serving",
            timeout=PATIENCE,
            message="a refork",
        )
        return 0

    def recycle(self) -> int:
        """A replacement by the control socket."""
        slot = self.chance.randrange(MOST)
        with self.site.client() as client:
            slots = client.status(processes=False).workers
            try:
                client.recycle(slots[slot % len(slots)].slot, timeout=PATIENCE)
            except ControlError as error:
                # The server has shrunk, of itself.
                if not any(said in str(error) for said in ("has no worker", "the server shrinks")):
                    raise
        return 0

    # Freezes. A host that is suspended stops CLOCK_MONOTONIC as well; the tree that is frozen sees it jump instead,
    # which is the harder case. Its offset can't be changed under a process that runs (time_namespaces(7)).

    def freeze_workers(self) -> int:
        """SIGSTOP, and SIGCONT soon after."""
        return self._freeze(self.workers(self.chance.randint(1, 3)))

    def freeze_master(self) -> int:
        """The same to the master; perhaps a worker dies meanwhile."""
        victims = self.workers(1) if self.chance.random() < 0.5 else []
        freeze([self.site.server.pid])
        kill(victims, signal.SIGKILL)
        self.pause(0.0, 0.3)
        thaw([self.site.server.pid])
        return len(victims)

    def suspend(self) -> int:
        """The same to all of them, as on a host that is suspended."""
        return self._freeze([self.site.server.pid, *self.workers(2 * MOST)], 1.5)

    def _freeze(self, pids: list[int], most: float = 0.3) -> int:
        freeze(pids)
        self.pause(0.0, most)
        thaw(pids)
        return 0

    def stop_job(self) -> int:
        """All of them, as a job that a shell stops and goes on with; perhaps a worker dies meanwhile."""
        victims = self.workers(1) if self.chance.random() < 0.5 else []
        self.site.server.signal_group(signal.SIGTSTP)
        self.site.server.signal_group(signal.SIGSTOP)  # a job of no shell is not stopped by the other
        kill(victims, signal.SIGKILL)
        self.pause(0.0, 1.0)
        self.site.server.signal_group(signal.SIGCONT)
        return len(victims)

    # Want.

    def exhaust_workers(self) -> int:
        """Workers meet the limit of descriptors."""
        with limited_descriptors(self.workers(self.chance.randint(1, MOST))):
            self.pause(0.05, 0.4)
        self._limits_back()
        return 0

    def exhaust_master(self) -> int:
        """The master meets it, and has a worker to replace."""
        victims = self.workers(1)
        with limited_descriptors([self.site.server.pid]):
            kill(victims, signal.SIGKILL)
            self.pause(0.0, 0.4)
        self._limits_back()
        return len(victims)

    def exhaust_all(self) -> int:
        """All of them meet it; perhaps a reload is asked for."""
        asks = self.chance.random() < 0.5
        with limited_descriptors(self.site.server.tree):
            if asks:
                self.site.server.signal(signal.SIGHUP)
            self.pause(0.05, 0.4)
        self._limits_back()
        return 0

    def _limits_back(self) -> None:
        """Whoever was forked meanwhile has inherited the limit, and the master has the usual one again."""
        for pid in self.site.server.tree():
            try:
                hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (NOFILE, hard))
            except ProcessLookupError:
                continue

    def fail_accepts(self) -> int:
        """accept(2) fails, as it does for many reasons."""
        return self._fail("accept", self.chance.choice(_OF_ACCEPT))

    def fail_forks(self) -> int:
        """What the master needs for a new worker fails, and there are workers to replace."""
        name = self.chance.choice(sorted(_OF_MASTER))
        error, victims = self.chance.choice(_OF_MASTER[name]), self.workers(self.chance.randint(1, 2))
        return self._fail(name, error, victims)

    def _fail(self, name: str, error: int, victims: Sequence[int] = ()) -> int:
        patterns: list[Pattern] = [always(error), first(self.chance.randint(1, 40), error), every(3, error)]
        pattern = self.chance.choice(patterns)
        faults = self.site.faults
        assert faults is not None
        faults.fail(name, pattern)
        kill(victims, signal.SIGKILL)
        self.pause(0.05, 0.5)
        faults.release()
        return len(victims)

    # More than it may have.

    def eat(self) -> int:
        """A worker grows beyond max_memory and is replaced."""
        return self._replaced(f"/eat/{self.chance.randint(100, 120)}")

    def leak(self) -> int:
        """A worker leaks descriptors and is replaced, at the latest at its limit."""
        return self._replaced(f"/leak/{self.chance.randint(225, 230)}")

    def _replaced(self, path: str) -> int:
        self._gone([self._asked(path)])
        return 0

    def _asked(self, path: str) -> int:
        """Who has done what ``path`` asks for."""
        address = self.chance.choice(self.site.addresses)
        answer = request(
            address, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode(), timeout=PATIENCE
        )
        if answer.status != 200:
            raise BrokenTruthError(f"{path}: {answer}")
        return int(answer.body)

    def hang(self) -> int:
        """A worker hangs in its handler, and is ended when ``timeout`` is over."""
        with connect(self.chance.choice(self.site.addresses), timeout=PATIENCE) as client:
            client.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            try:
                said = client.recv(1)
            except ConnectionResetError:
                said = b""
        if said:
            raise BrokenTruthError(f"a handler that hangs answered {said!r}")
        return 0

    # What applications do to the process that they believe to be theirs.

    def fork(self) -> int:
        """A handler forks, and its child ends, or doesn't; it is nobody's worker."""
        for _ in range(self.chance.randint(1, 3)):
            self._asked(f"/fork/{self.chance.choice(FORKS)}")
        return 0

    def take_signals(self) -> int:
        """A handler takes signals; whoever is to leave leaves all the same."""
        pid, slowly = self._asked(f"/take/{self.chance.choice(TAKES)}"), self.chance.random() < 0.5
        with self.site.client() as client:
            slots = [worker.slot for worker in client.status(processes=False).workers if worker.pid == pid]
            if slots and not slowly:
                with suppress(ControlError):  # it has left by itself
                    client.recycle(slots[0], timeout=PATIENCE)
        if slowly:
            self.reload()
        self._gone([pid])
        return 0

    def meddle(self) -> int:
        """New code that changes logging, the folder or signals where it is imported; then code that doesn't."""
        meddle = self.chance.choice(MEDDLES)
        self.site.code.write_text(meddle + "\n")
        try:
            self.reload()
            self.pause(0.0, 0.2)
        finally:
            self.site.code.unlink()
        told = len(self.site.server.log())
        self.reload()
        if len(self.site.server.log()) == told:
            raise BrokenTruthError(f"it logs nothing any more since {meddle!r}")
        return 0

    # Clients.

    def rude(self) -> int:
        """Rude clients come, and stay for a while."""
        visitors = rude.visit(self.site.addresses, self.chance.randint(1, 8), self.chance)
        self.pause(0.0, 0.3)
        for visitor in visitors:
            visitor.close()
        return 0

    def burst(self) -> int:
        """Many polite ones come at once."""
        rate, most = self.crowd.rate, self.crowd.most
        self.crowd.rate, self.crowd.most = 20_000.0, 150
        self.pause(0.05, 0.2)
        self.crowd.rate, self.crowd.most = rate, most
        return 0

    def look(self) -> int:
        """Tracebacks of a worker, by the control socket."""
        slot = self.chance.randrange(MOST)
        with self.site.client() as client:
            slots = client.status(processes=True).workers
            try:
                text = client.dump(slots[slot % len(slots)].slot)
            except ControlError as error:
                if not any(said in str(error) for said in ("has no worker", "ended meanwhile", "may be frozen")):
                    raise
            else:
                if "most recent call first" not in text:
                    raise BrokenTruthError(f"these are no tracebacks: {text!r}")
        return 0

    # Everything at once.

    def squall(self) -> int:
        """Several things in a row, none of which is waited for."""
        squall = Squall(self.site, resizes=self.truths.size is not None)
        for _ in range(self.chance.randint(3, 7)):
            squall.things[self.chance.choice(list(squall.things))](self._any_child())
            self.pause(0.0, 0.1)
        squall.over()
        if self.truths.size is not None:
            self.truths.size = self._settled_size()
        return len(squall.victims)

    def _any_child(self) -> int:
        """A child of the master, by the system's account: the master itself may be frozen; 0 when there is none."""
        chance = self.chance.random()
        children = self.site.server.workers()
        return children[int(chance * len(children))] if children else 0

    def _settled_size(self) -> int:
        """The size that is wanted when all signals have been seen, and what they began is done."""
        self.site.status()  # what was asked together with the signals may be answered before them
        self.site.server.wait_for(self._rehearsed, PATIENCE, "the end of the last upgrade")
        return self.site.status().size

    def _rehearsed(self) -> bool:
        """Whether every upgrade that was begun has led to a new image, or has failed."""
        log = self.site.server.log()
        ended = log.count("upgrade: generation") + log.count("the old code goes on")
        return log.count("upgrade: rehearsing") == ended

    # Ends and beginnings.

    def end(self) -> None:
        """The last stop: everybody has been served, and nothing is left."""
        self.crowd.pause()
        self.crowd.barrier()
        code = self.site.server.stop(PATIENCE)
        if code != 0:
            raise BrokenTruthError(f"the server ended with exit code {code}")
        self._nothing_is_left(clean=True)

    def stop(self) -> int:
        """The server stops and is started again; whoever has reached it is served."""
        return self._stop(self.chance.choice(["master", "master", "group", "control"]), 0.0)

    def stop_quick(self) -> int:
        """The same, but only what is in hand is finished: not who waits, in a queue or on a connection that is kept."""
        return self._stop("quick", 0.0)

    def stop_frozen(self) -> int:
        """The same, and the master is frozen within its stop."""
        return self._stop(self.chance.choice(["master", "group", "control"]), self.chance.uniform(0.1, 1.5))

    def _stop(self, how: str, frozen: float) -> int:
        begun = self.chance.choice([None, None, signal.SIGHUP, signal.SIGUSR2, signal.SIGTTOU, signal.SIGTTIN])
        delay = self.chance.uniform(0.0, 0.5) if begun is not None else 0.0
        fails = self.chance.random() < 0.15
        if begun is not None:
            self.site.server.signal(begun)
            time.sleep(delay)  # a moment of what was begun, which the seed chooses
        under_way = 0 if self.arrangement.outlives else self.crowd.pause()
        match how:
            case "master":
                self.site.server.signal(signal.SIGTERM)
            case "group":
                self.site.server.signal_group(signal.SIGTERM)
            case "control":
                self._stop_by_control()
            case _:
                self.site.server.signal(signal.SIGINT)
        if frozen:
            kill([self.site.server.pid], signal.SIGSTOP)
            time.sleep(frozen)  # how long the master is frozen within its stop, which the seed chooses
            kill([self.site.server.pid], signal.SIGCONT)
        code = self.site.server.wait(PATIENCE)
        if code != 0:
            raise BrokenTruthError(f"the server ended with exit code {code}")
        self._again(fails, clean=True)
        # Who waits in the queue is served by a stop, unless it is a quick one, and its listener is the server's own.
        return under_way if how == "quick" else 0

    def _stop_by_control(self) -> None:
        """Ask again when the master has become another image of itself meanwhile."""
        while not is_gone(self.site.server.pid):
            try:
                with Client(self.site.control) as client:
                    client.stop(wait=False)
            except ControlError:
                time.sleep(0.005)  # nothing tells when its socket is there again
            else:
                return

    def kill_master(self) -> int:
        """The master is killed, perhaps its workers with it; workers that live finish what they have in hand."""
        whole, fails = self.chance.random() < 0.3, self.chance.random() < 0.15
        under_way = 0 if self.arrangement.outlives else self.crowd.pause()
        victims = self.site.server.workers() if whole else []
        kill([self.site.server.pid, *victims], signal.SIGKILL)
        self.site.server.wait(PATIENCE)
        wait_for(lambda: not self.site.server.survivors(), PATIENCE, "the end of the orphans")
        self.site.clean()
        self._again(fails, clean=False)
        return len(victims) if self.arrangement.outlives else under_way

    def _nothing_is_left(self, *, clean: bool) -> None:
        self.truths.look_at_log()
        left = self.site.server.survivors()
        if left:
            raise BrokenTruthError(f"left by the server: {left}")
        files = self.site.files() if clean else set()
        if files:
            raise BrokenTruthError(f"files left by the server: {sorted(files)}")

    def _again(self, fails: bool, *, clean: bool) -> None:
        """After an end: a start, perhaps after one that fails."""
        self._nothing_is_left(clean=clean)
        self.site.ended()
        if fails:
            broken = self.chance.choice(RAISES if self.arrangement.preload else BROKEN)
            self.site.code.write_text(broken + "\n")
            try:
                code = self.site.fail_to_start()
            finally:
                self.site.code.unlink()
            if code not in {2, 4}:
                raise BrokenTruthError(f"a server that can't boot ended with exit code {code}")
        self.site.start()
        self.truths.begin(self.crowd.sent)
        self.crowd.resume()

    def take_over(self) -> int:
        """A successor starts beside the server."""
        self.truths.look_at_log()
        self.site.take_over()
        self.truths.begin(self.crowd.sent)
        return 0
