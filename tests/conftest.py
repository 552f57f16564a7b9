"""What holds for every test: where it runs says nothing, chance says nothing, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterator

import psutil
import pytest
from hypothesis import HealthCheck, settings

from prefork.config.load import PLATFORM
from prefork.testing import server
from prefork.testing.processes import children
from tests.support.figures import full
from tests.support.forked import SERVERS

# Started in the background, or by nohup, the tests would inherit ignored signals and hand them on to every server.
for _signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL)

# Nor the environment of whoever starts them: an interpreter that writes no bytecode, or warns of more, hides faults.
_OF_COMMANDS = ("PYTHON", "PREFORK_", "LISTEN_", "NOTIFY_SOCKET")
_FOR_THE_TESTS = ("PYTHONPATH", "PREFORK_TESTING_GRACE")
for _name in list(os.environ):
    if (_name.startswith(_OF_COMMANDS) or _name in PLATFORM) and _name not in _FOR_THE_TESTS:
        del os.environ[_name]

# Commands look for the only server that runs here, and a server for those that have died: none but the tests' own.
_control = tempfile.TemporaryDirectory(prefix="prefork-tests-")
os.environ["RUNTIME_DIRECTORY"] = _control.name

# How long an example takes is the machine's affair. CI tries the same examples each time, so that a run which fails has
# found something that the change did; `scripts/soak figures` goes on to others, and remembers what it has found.
_BY_CHANCE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "same", deadline=None, derandomize=True, database=None, print_blob=True, suppress_health_check=_BY_CHANCE
)
settings.register_profile("others", deadline=None, print_blob=True, suppress_health_check=_BY_CHANCE)
settings.load_profile("others" if full() else "same")


# Most servers are forked rather than executed, see `tests.support.forked`.
server.spawn = SERVERS.spawn_or(server.spawn)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """For its fixtures too, and those of its module that it is the first to ask for. What takes long saves nothing."""
    executed = "EXECUTED" in os.environ or any(map(item.get_closest_marker, ("executed", "long", "soak")))
    SERVERS.wanted = not executed
    try:
        return (yield)
    finally:
        SERVERS.wanted = False  # what begins outside of a test is executed


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Every test ends what it started: a server that survives its test would disturb all that follow."""
    before = _children()
    yield
    left = _children() - before
    assert not left, f"processes left by the test, or never waited for: {[psutil.Process(pid) for pid in left]}"


def _children() -> set[int]:
    """Those of this process, but fork servers, and theirs."""
    servers = SERVERS.pids
    return {pid for parent in (os.getpid(), *servers) for pid in children(parent)} - servers
