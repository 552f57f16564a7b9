"""The memory of a cgroup, by either version's files, and of those around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefork.system.cgroup_memory import CgroupMemory

MIB = 1 << 20


def group(folder: Path, limit: object, usage: int, *, files: int = 0, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {files}\nshmem 7\n")


def memory(mount: Path, *lines: str) -> CgroupMemory:
    membership = mount / "membership"
    mount.mkdir(exist_ok=True)
    membership.write_text("".join(f"{line}\n" for line in lines))
    return CgroupMemory(mount, membership)


@pytest.mark.parametrize("top", ["", "unified"])
def test_version_2(tmp_path: Path, top: str) -> None:
    group(tmp_path / top / "a", 100 * MIB, 60 * MIB, files=20 * MIB)
    found = memory(tmp_path, "0::/a")
    assert found.limited
    assert found.use() == (40 * MIB, 100 * MIB)


@pytest.mark.parametrize(
    ("most", "high", "limit"),
    [(100 * MIB, 80 * MIB, 80), (100 * MIB, "max", 100), ("max", 80 * MIB, 80), (80 * MIB, 100 * MIB, 80)],
)
def test_at_memory_high_a_server_stands_still(tmp_path: Path, most: object, high: object, limit: int) -> None:
    group(tmp_path / "a", most, 60 * MIB)
    (tmp_path / "a" / "memory.high").write_text(f"{high}\n")
    found = memory(tmp_path, "0::/a")
    assert found.limited
    assert found.use() == (60 * MIB, limit * MIB)


def test_version_1(tmp_path: Path) -> None:
    group(tmp_path / "memory" / "a", 100 * MIB, 60 * MIB, files=20 * MIB, version=1)
    found = memory(tmp_path, "4:memory:/a", "1:cpu:/b", "0::/")
    assert found.use() == (40 * MIB, 100 * MIB)


def test_what_is_nearest_to_its_limit_counts(tmp_path: Path) -> None:
    group(tmp_path / "a" / "b", 100 * MIB, 60 * MIB)
    group(tmp_path / "a", 150 * MIB, 140 * MIB)
    group(tmp_path, "max", 10**12)
    use = memory(tmp_path, "0::/a/b").use()
    assert use == (140 * MIB, 150 * MIB)
    assert use.share == pytest.approx(0.933, abs=0.001)


def test_in_a_container_the_path_may_lie_outside(tmp_path: Path) -> None:
    group(tmp_path, 100 * MIB, 60 * MIB)
    assert memory(tmp_path, "0::/somewhere/else").use() == (60 * MIB, 100 * MIB)


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096, "", "much"])
def test_without_a_limit_there_is_nothing_to_watch(tmp_path: Path, limit: object) -> None:
    group(tmp_path / "a", limit, 60 * MIB)
    found = memory(tmp_path, "0::/a")
    assert not found.limited
    assert found.use() is None


def test_what_goes_away_is_not_told_of(tmp_path: Path) -> None:
    group(tmp_path / "a", 100 * MIB, 60 * MIB)
    found = memory(tmp_path, "0::/a")
    (tmp_path / "a" / "memory.current").unlink()
    assert found.use() is None
    assert memory(tmp_path / "none").use() is None


def test_here(tmp_path: Path) -> None:
    use = CgroupMemory().use()
    assert use is None or use.used >= 0
    assert CgroupMemory(tmp_path, tmp_path / "missing").use() is None
