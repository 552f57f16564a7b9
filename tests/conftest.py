from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

# Started in the background, or by nohup, the tests would inherit ignored signals and hand them on to every server.
for _signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Every test ends what it started: a server that survives its test would disturb all that follow."""
    before = set(psutil.Process().children())
    yield
    left = set(psutil.Process().children()) - before
    assert not left, f"processes left by the test, or never waited for: {left}"
