"""Before the kernel kills a worker for want of memory, the largest one leaves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefork.supervisor.member import Member
from prefork.supervisor.memory_guard import Holding, largest
from prefork.supervisor.policy import Spawn
from prefork.testing import Load, Server, Tally, connect, request, running, running_target
from prefork.testing.plugin import ServerFactory
from tests.support.cgroups import limited_memory
from tests.support.documents import BIN
from tests.support.figures import count
from tests.support.probing import LOGGING, PATIENCE, get, steady
from tests.support.world import done, serving

MIB = 1 << 20

SCRIPT = (
    LOGGING
    + """
import os, sys
from pathlib import Path
import prefork
from prefork.supervisor import recycle
from prefork.system.cgroup_memory import CgroupMemory

mount = Path(sys.argv[1])
recycle.CgroupMemory = lambda: CgroupMemory(mount, mount / "membership")
held = []

def handle(connection, address):
    size = int(connection.recv(65536).split()[1].rpartition(b"/")[2])
    held.append(b"x" * (size << 20))
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\n%10d" % os.getpid())
    while connection.recv(65536):  # until its client is gone
        pass

prefork.serve(handle, bind="127.0.0.1:0", workers=2, preload=True)
"""
)


def holdings(*sizes: tuple[int, int]) -> list[Holding]:
    return [Holding(Member(100 + n, n, n, 0, 0.0), now, then) for n, (now, then) in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "size", "pid"),
    [
        pytest.param([(50, 10), (70, 10), (60, 10)], 3, 101, id="the largest"),
        pytest.param([(50, 10), (70, 69)], 2, 100, id="of those that have grown"),
        pytest.param([(70, 69), (70, 70)], 2, None, id="nobody has grown"),
        pytest.param([(70, 10)], 3, None, id="the last of several"),
        pytest.param([(70, 10)], 1, 100, id="the only one"),
        pytest.param([], 1, None, id="nobody serves"),
    ],
)
def test_who_leaves(sizes: list[tuple[int, int]], size: int, pid: int | None) -> None:
    found = largest(holdings(*sizes), size)
    assert (None if found is None else found.member.pid) == pid


def test_nobody_is_forked_until_there_is_room() -> None:
    made = serving(2)
    before = len(done(made, Spawn))
    made.goal.forks.lacks_memory()
    made.of(made.slot(0).incumbent).end(signal=9)
    made.advance(60.0)
    assert len(done(made, Spawn)) == before
    made.goal.forks.has_memory()
    made.turn()
    assert len(done(made, Spawn)) == before + 1


def test_the_largest_leaves_and_another_comes_when_there_is_room(prefork_server: ServerFactory, tmp_path: Path) -> None:
    def use(mebibytes: int) -> None:
        written = tmp_path / "written"
        written.write_text(str(mebibytes * MIB))
        written.rename(tmp_path / "memory.current")

    (tmp_path / "membership").write_text("0::/\n")
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.stat").write_text("inactive_file 0\n")
    use(95)
    server = prefork_server.script(SCRIPT, str(tmp_path))
    # It is somebody else's as long as no worker has grown.
    server.wait_for_log("memory: 95 of 100 MiB of the cgroup are in use, and no worker has grown that could leave")
    before = steady(server, 2)
    with connect(server.address, timeout=PATIENCE) as client:
        client.sendall(get("/64"))
        with client.makefile("rb") as answer:
            while answer.readline().strip():
                pass
            pid = int(answer.read(10))
        server.wait_for_log(
            rf"memory: 95 of 100 MiB of the cgroup are in use; worker \d \(pid {pid}\), which holds \d+ MiB"
        )
        use(88)  # before it has left: too much for a fork, too little to ask who else could leave
    said = server.wait_for_log(rf"\(pid {pid}, generation 0\) exited.*")
    assert "its cgroup is short of memory: it holds" in said.group()
    (left,) = set(before) - {pid}
    assert int(request(server.address, get("/0"), timeout=PATIENCE).body) == left
    assert server.workers() == [left]
    use(50)
    server.wait_for_log("memory: there is room again")
    assert left in steady(server, 2)


LEAKY = """\
held = []

def application(environ, start_response):
    held.append(bytearray(b"x") * (1 << 18))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"hi"]
"""


def storm(server: Server) -> Tally:
    """25 MiB more wanted each second, by a new client every 10 ms, who hears nothing from a worker that is killed."""
    seconds = count("seconds-of-leaks", part=40)
    with Load(server.address, payload=get("/"), interval=0.01, count=100 * seconds, bodies=False) as load:
        return load.wait(seconds + 2 * PATIENCE)


@pytest.mark.long
def test_a_storm_of_leaks_is_weathered(tmp_path: Path) -> None:
    """The real thing, in 256 MiB: the kernel kills nobody, and nobody is lost."""
    (tmp_path / "leaky.py").write_text(LEAKY)
    with (
        limited_memory(256) as group,
        running_target(
            "leaky:application",
            app_dir=tmp_path,
            subcommand="wsgi",
            workers=4,
            log_format="text",
            options={"prefix": group.entering},
        ) as server,
    ):
        tally = storm(server)
        left = len(re.findall(r"memory: .* leaves, and nobody is forked until there is room", server.log()))
        print(f"prefork: {group.killed} killed by the kernel, {left} replaced before, {tally}")
        assert tally.lost == 0, tally
        assert group.killed == 0
        assert left >= max(1, tally.answered // 2_000)
        assert server.stop() == 0


@pytest.mark.long
def test_the_same_storm_where_nobody_guards(tmp_path: Path) -> None:
    """What it would be otherwise: the same application under gunicorn, which can't see it come."""
    (tmp_path / "leaky.py").write_text(LEAKY)
    command = [
        str(BIN / "gunicorn"),
        "leaky:application",
        "--workers=4",
        "--bind=127.0.0.1:0",
        "--worker-tmp-dir=/dev/shm",
        "--no-control-socket",  # which it would make in the home of whoever runs the test
    ]
    with (
        limited_memory(256) as group,
        running(
            command,
            cwd=tmp_path,
            prefix=group.entering,
            ready=r"Listening at: http://(?P<addresses>\S+) \((?P<pid>\d+)\)",
        ) as server,
    ):
        tally = storm(server)
        print(f"gunicorn: {group.killed} killed by the kernel, {tally}")
        assert group.killed > 0
