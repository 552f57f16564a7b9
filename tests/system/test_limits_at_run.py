import logging
import math
import os
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.system import limits, natives
from tests.support.programs import facts, run_program


class Host:
    """A made-up /sys/fs/cgroup and /proc/self/cgroup."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.root.mkdir()
        self.membership = folder / "membership"

    def member(self, *lines: str) -> None:
        self.membership.write_text("".join(f"{line}\n" for line in lines))

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    @property
    def cpus(self) -> float | None:
        return limits.cgroup_cpus(self.root, self.membership)

    @property
    def oom_kills(self) -> int | None:
        return limits.oom_kills(self.root, self.membership)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# CPUs, by version 2 of the cgroups.


@pytest.mark.parametrize(
    ("text", "quota"),
    [("150000 100000\n", 1.5), ("50000 100000\n", 0.5), ("max 100000\n", None), ("", None), ("max\n", None)],
)
def test_a_quota_of_version_2(host: Host, text: str, quota: float | None) -> None:
    host.member("0::/app")
    host.write("app/cpu.max", text)
    assert host.cpus == quota


def test_the_least_quota_on_the_way_up_counts(host: Host) -> None:
    host.member("0::/a/b/c")
    host.write("a/b/c/cpu.max", "max 100000")
    host.write("a/b/cpu.max", "400000 100000")
    host.write("a/cpu.max", "300000 100000")
    host.write("other/cpu.max", "100000 100000")
    assert host.cpus == 3.0
    host.write("cpu.max", "200000 100000")
    assert host.cpus == 2.0


@pytest.mark.parametrize("path", ["/", "/../../init.scope", "/../..", "/not/mounted/here"])
def test_a_path_that_lies_outside_of_what_is_mounted_is_climbed_up_to_the_mount(host: Host, path: str) -> None:
    """As in a container with a cgroup namespace."""
    host.member(f"0::{path}")
    assert host.cpus is None
    host.write("cpu.max", "200000 100000")
    assert host.cpus == 2.0


# CPUs, by version 1.


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("quota", "cpus"), [("250000", 2.5), ("-1", None), ("0", None), ("", None)])
def test_a_quota_of_version_1(host: Host, mount: str, quota: str, cpus: float | None) -> None:
    host.member("5:memory:/app", "4:cpu,cpuacct:/app", "1:name=systemd:/app")
    host.write(f"{mount}/app/cpu.cfs_quota_us", f"{quota}\n")
    host.write(f"{mount}/app/cpu.cfs_period_us", "100000\n")
    assert host.cpus == cpus


def test_a_quota_without_a_period_is_none(host: Host) -> None:
    host.member("4:cpu:/app")
    host.write("cpu/app/cpu.cfs_quota_us", "100000")
    assert host.cpus is None


def test_cpuset_is_not_cpu(host: Host) -> None:
    host.member("4:cpuset:/app")
    host.write("cpuset/app/cpu.cfs_quota_us", "100000")
    host.write("cpuset/app/cpu.cfs_period_us", "100000")
    assert host.cpus is None


def test_where_both_versions_are_mounted_the_least_counts(host: Host) -> None:
    host.member("4:cpu:/app", "0::/app")
    host.write("cpu/app/cpu.cfs_quota_us", "300000")
    host.write("cpu/app/cpu.cfs_period_us", "100000")
    assert host.cpus == 3.0
    host.write("app/cpu.max", "200000 100000")
    assert host.cpus == 2.0


def test_a_host_without_cgroups_has_no_quota(host: Host) -> None:
    assert host.cpus is None
    assert host.oom_kills is None


@given(st.text(max_size=100))
def test_no_membership_file_is_an_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        host.membership.write_text(text, encoding="utf-8")
        assert host.cpus is None
        assert host.oom_kills is None


def test_what_can_not_be_read_is_none(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "prefork")
    host.member("0::/app")
    (host.root / "app" / "cpu.max").mkdir(parents=True)
    assert host.cpus is None
    assert "Is a directory" in caplog.text


# All of it together.


@pytest.mark.parametrize(
    ("quota", "expected"), [(None, 3), (0.25, 1), (1.0, 1), (1.01, 2), (2.5, 3), (64.0, 3), (0.0001, 1)]
)
def test_the_quota_cuts_the_affinity_and_leaves_one(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(natives.os, "sched_getaffinity", lambda _: {0, 5, 7})
    monkeypatch.setattr(limits, "cgroup_cpus", lambda: quota)
    assert limits.cpus() == expected


def test_the_affinity_of_this_process_counts() -> None:
    program = """
        import json, os
        from prefork.system import limits
        limits.cgroup_cpus = lambda: None
        before = limits.cpus(), len(os.sched_getaffinity(0))
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
        print(json.dumps([before[0] == before[1], limits.cpus()]))
    """
    assert facts(program) == [True, 1]


def test_this_host_can_be_asked() -> None:
    quota = limits.cgroup_cpus()
    assert quota is None or 0 < quota < math.inf
    assert 1 <= limits.cpus() <= len(os.sched_getaffinity(0))
    assert (limits.oom_kills() or 0) >= 0


# Want of memory.

EVENTS = "low 0\nhigh 0\nmax 3\noom 2\noom_kill 7\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"


def test_the_kernel_s_kills_by_version_2(host: Host) -> None:
    host.member("0::/app")
    assert host.oom_kills is None
    host.write("app/memory.events", EVENTS)
    assert host.oom_kills == 7


@pytest.mark.parametrize("where", ["memory/app", "memory"])
def test_the_kernel_s_kills_by_version_1(host: Host, where: str) -> None:
    host.member("4:cpu:/app", "3:memory:/app", "0::/")
    assert host.oom_kills is None
    host.write(f"{where}/memory.oom_control", CONTROL)
    assert host.oom_kills == 4


def test_an_old_kernel_counts_no_kills(host: Host) -> None:
    host.member("3:memory:/app")
    host.write("memory/app/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")
    assert host.oom_kills is None


# Descriptors.


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    program = """
        import json, resource
        from prefork.system import limits
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
        facts = [limits.nofile(), limits.raise_nofile(), limits.nofile(), limits.raise_nofile()]
        print(json.dumps([*facts, resource.getrlimit(resource.RLIMIT_NOFILE)]))
    """
    assert facts(program) == [100, [100, 200], 200, [200, 200], [200, 200]]


def test_more_descriptors_than_before_can_be_had() -> None:
    program = """
        import json, os, resource
        from prefork.system import limits
        resource.setrlimit(resource.RLIMIT_NOFILE, (10, 50))

        def most():
            held = []
            try:
                while True:
                    held.append(os.dup(0))
            except OSError:
                pass
            for fd in held:
                os.close(fd)
            return max(held)

        before = most()
        limits.raise_nofile()
        print(json.dumps([before, most()]))
    """
    assert facts(program) == [9, 49]


def test_a_limit_that_can_not_be_raised_is_said_and_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As under a security module; the kernel itself lets everybody raise the soft limit to the hard one."""

    def refuse(what: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert limits.raise_nofile() == (100, 100)
    assert caplog.messages == [
        "can't raise the limit of descriptors from 100 to 200: not allowed to raise maximum limit"
    ]


def test_a_limit_that_is_high_enough_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 200))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: pytest.fail("touched"))
    assert limits.raise_nofile() == (200, 200)


@pytest.mark.parametrize(
    ("limit", "master", "worker", "named"),
    [
        (100, 100, 100, []),
        (100, 101, 100, ["the master", "101"]),
        (100, 100, 101, ["a worker", "101"]),
        (100, 500, 300, ["the master", "500", "a worker", "300"]),
    ],
)
def test_a_limit_that_is_too_small_is_named_with_who_needs_more(
    limit: int, master: int, worker: int, named: list[str]
) -> None:
    said = limits.shortfall(limit, master=master, worker=worker)
    assert bool(said) == bool(named)
    everything = {"the master", "a worker", str(master), str(worker)} - {"100"}
    assert {text for text in everything if text in said} == set(named)
    assert not said or ("100" in said and "ulimit -n" in said)


def test_importing_it_changes_no_limit() -> None:
    program = """
        import resource
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        import prefork.system.limits
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    """
    assert run_program(program).returncode == 0
