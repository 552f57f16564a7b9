"""A tracer at a process, as a debugger at its prompt is one: attached, and not waiting for its tracee."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

_TRACE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(0x4206, int(sys.argv[1]), None, None):  # PTRACE_SEIZE
    sys.exit(f"ptrace: {ctypes.get_errno()}")
print("attached", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def traced(pid: int) -> Iterator[subprocess.Popen[bytes] | None]:
    """Trace ``pid`` (ptrace(2), PTRACE_SEIZE) within the block; None when that is not allowed, or it is gone."""
    command = [sys.executable, "-I", "-c", _TRACE, str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tracer:
        try:
            assert tracer.stdout is not None
            yield tracer if tracer.stdout.readline() == b"attached\n" else None
        finally:
            tracer.kill()
