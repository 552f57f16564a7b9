from __future__ import annotations

import re

import pytest

from prefork.system.clock import Clock
from prefork.testing import Outcome, request
from prefork.testing.clock import FakeClock
from prefork.testing.faults import once, unavailable
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import is_gone
from tests.support.testing_servers import FORKING, GOOD

pytestmark = pytest.mark.executed

pytest_plugins = ["pytester"]


def test_a_test_may_have_several_servers(prefork_server: ServerFactory) -> None:
    one, other = prefork_server.script(GOOD), prefork_server.script(FORKING)
    assert request(one.address).body == str(one.pid).encode()
    assert int(request(other.address).body) in other.workers()
    assert prefork_server.servers == [one, other]


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_faults_outlive_the_server_they_are_for(prefork_server: ServerFactory) -> None:
    faults = prefork_server.faults("accept")
    server = prefork_server.script(GOOD, faults=faults)
    faults.fail("accept", once(4))  # EINTR, which Python hides
    assert request(server.address).outcome is Outcome.ANSWERED
    assert request(server.address).outcome is Outcome.ANSWERED
    assert faults.failed("accept") == 1


def test_a_failure_is_reported_with_the_logs_and_nothing_is_left(pytester: pytest.Pytester) -> None:
    # The plugin comes by its entry point, as for any project that has prefork installed.
    pytester.makepyfile(
        f"""
        import pytest, sys
        def test_fails(prefork_server):
            server = prefork_server.command([sys.executable, "-c", {FORKING!r}])
            print("tree", *server.tree())
            assert server.stop() != 7
        def test_fails_while_it_runs(prefork_server):
            server = prefork_server.script({GOOD!r})
            print("tree", *server.tree())
            raise ZeroDivisionError
        def test_fails_without_it(prefork_server):
            prefork_server.script({GOOD!r}).close()
            raise ZeroDivisionError
        @pytest.fixture
        def asked(prefork_server):
            prefork_server.script({GOOD!r})
            raise ZeroDivisionError
        def test_fails_in_a_fixture(asked):
            pass
        def test_passes(prefork_server):
            prefork_server.script({GOOD!r})
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=3, errors=1, passed=1)
    text = result.stdout.str()
    assert len(re.findall(r"log of the server, pid \d+ -*\nserving on 127.0.0.1:\d+ with", text)) == 4
    pids = [int(pid) for line in re.findall(r"^tree (.*)$", text, re.MULTILINE) for pid in line.split()]
    assert len(pids) == 5
    assert "assert 7 != 7" in text
    assert all(map(is_gone, pids))


def test_a_fake_clock_moves_when_it_is_told() -> None:
    fake = FakeClock()
    clock: Clock = fake
    began = clock.monotonic()
    assert clock.monotonic() == began > 0
    assert fake.advance(2.5) == clock.monotonic() == began + 2.5
    with pytest.raises(ValueError, match="does not go back by 1 s"):
        fake.advance(-1)
