"""How much memory the cgroup of this process has, and how much of it is in use (cgroups(7), memory controller).

Version 1 and 2. What files occupy that nobody has used of late is not counted: the kernel takes it back by itself. An
ancestor's limit holds as well as one's own, so what is nearest to its limit counts. Version 2 has two of them: at
memory.max somebody is killed, and at memory.high, if that is less, whoever wants more is made to wait, two seconds at a
time, which ends a server as well.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final, NamedTuple

_MOUNT: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_UNLIMITED: Final = 1 << 60  # version 1 writes no limit as a number somewhat below 2**63
_VERSION_1: Final = ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"
_VERSION_2: Final = ("memory.max", "memory.high"), "memory.current", "inactive_file"


class MemoryUse(NamedTuple):
    """Bytes of memory of one cgroup.

    Attributes:
        used: In use, without what the kernel can take back at no cost.
        limit: How many may be.
    """

    used: int
    limit: int

    @property
    def share(self) -> float:
        """The part of the limit that is in use."""
        return self.used / self.limit


class _MemoryFiles(NamedTuple):
    folder: Path
    limits: tuple[str, ...]
    usage: str
    reclaimable: str


class CgroupMemory:
    """The memory of this process's cgroup, and of those around it.

    Args:
        mount: Where the cgroup file systems are mounted.
        membership: The file that names this process's cgroups.
    """

    def __init__(self, mount: Path = _MOUNT, membership: Path = _MEMBERSHIP) -> None:
        self._groups = [group for group in _groups(mount, membership) if _limit(group)]

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return bool(self._groups)

    def use(self) -> MemoryUse | None:
        """That of the cgroup which is nearest to its limit; None where there is none, or nothing can be read."""
        found = []
        for group in self._groups:
            limit = _limit(group)
            with contextlib.suppress(OSError, ValueError):
                if limit:
                    used = int((group.folder / group.usage).read_text(encoding="ascii"))
                    found.append(MemoryUse(max(0, used - _reclaimable(group)), limit))
        return max(found, key=lambda use: use.share, default=None)


def _groups(mount: Path, membership: Path) -> list[_MemoryFiles]:
    """The cgroup and its ancestors, of whichever version has the memory controller."""
    try:
        lines = membership.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            for top in (mount, mount / "unified"):
                found += [_MemoryFiles(folder, *_VERSION_2) for folder in _climb(top, path)]
        elif "memory" in controllers.split(","):
            found += [_MemoryFiles(folder, *_VERSION_1) for folder in _climb(mount / controllers, path)]
    return found


def _climb(top: Path, path: str) -> list[Path]:
    """The folders from the group ``path`` up to ``top``. In a container the path may lie outside of what is mounted."""
    here = top / path.lstrip("/")
    return [folder for folder in (here, *here.parents) if folder == top or top in folder.parents]


def _limit(group: _MemoryFiles) -> int:
    """Bytes, of the least; 0 where there is no limit."""
    return min(filter(None, (_limit_of(group.folder / name) for name in group.limits)), default=0)


def _limit_of(file: Path) -> int:
    try:
        text = file.read_text(encoding="ascii").strip()
        return 0 if text == "max" or int(text) >= _UNLIMITED else int(text)
    except (OSError, ValueError):
        return 0


def _reclaimable(group: _MemoryFiles) -> int:
    for line in (group.folder / "memory.stat").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == group.reclaimable:
            return int(value)
    return 0
