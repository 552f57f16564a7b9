"""A cgroup of a test's own, with a limit of memory: version 2, or 1 where the memory controller is there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from prefork.testing import wait_for

_MOUNT: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class LimitedGroup:
    """A cgroup.

    Attributes:
        folder: Where the kernel shows it.
        limit: The file of its limit.
        events: The file that counts what the kernel has killed.
    """

    folder: Path
    limit: str
    events: str

    @property
    def entering(self) -> list[str]:
        """What runs a command inside, put before it."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh"]

    @property
    def killed(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        found = re.search(r"^oom_kill (\d+)$", (self.folder / self.events).read_text(), re.MULTILINE)
        if found is None:
            pytest.skip(f"the kernel doesn't count what it kills ({self.events})")
        return int(found[1])


@contextlib.contextmanager
def limited_memory(mebibytes: int) -> Iterator[LimitedGroup]:
    """A cgroup that may have so much, for the block; skips the test where none can be made."""
    name = f"prefork-test-{os.getpid()}"
    if (_MOUNT / "memory").is_dir():
        group = LimitedGroup(_MOUNT / "memory" / name, "memory.limit_in_bytes", "memory.oom_control")
    else:
        group = LimitedGroup(_MOUNT / name, "memory.max", "memory.events")
    try:
        group.folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        try:
            (group.folder / group.limit).write_text(str(mebibytes << 20))
            group.killed  # noqa: B018  # skips where that isn't known
        except OSError as error:
            pytest.skip(f"no cgroup can be given a limit of memory here: {error}")
        with contextlib.suppress(OSError):
            (group.folder / "memory.swap.max").write_text("0")
        yield group
    finally:
        wait_for(lambda: _removed(group.folder), message="the cgroup to be empty")


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
