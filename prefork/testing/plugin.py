"""The pytest plugin: a server in a fixture, its log beside a failure.

    def test_a_reload_loses_nothing(prefork_server):
        server = prefork_server("myserver:handle", workers=4)
        with Load(server.address, clients=8) as load:
            server.signal(signal.SIGHUP)
            load.wait_for(lambda tally: tally.answered > 1000)
        assert load.tally.lost == 0, load.tally

Every server is killed with all its processes when its test has ended. When the test fails, the report has each one's
log as a section of its own.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Unpack

import pytest

from prefork import testing

if TYPE_CHECKING:
    # Every pytest of the environment loads this module: the rest is loaded when a test asks for a server.
    from prefork.testing.faults import Injector
    from prefork.testing.server import Options, Server

_FACTORY: Final = pytest.StashKey["ServerFactory"]()


class ServerFactory:
    """Starts servers that live as long as the test; what the fixture `prefork_server` is."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.servers: list[Server] = []
        """Those started so far, in order."""

    def __call__(
        self,
        target: str,
        *,
        app_dir: str | os.PathLike[str] = ".",
        subcommand: str = "serve",
        options: Options | None = None,
        **settings: object,
    ) -> Server:
        """Run ``prefork serve TARGET``; see `running_target`."""
        return self._keep(
            self._stack.enter_context(
                testing.running_target(target, app_dir=app_dir, subcommand=subcommand, options=options, **settings)
            )
        )

    def script(self, source: str, *arguments: str, **options: Unpack[Options]) -> Server:
        """Run the text of a Python program that is a server; see `running_script`."""
        return self._keep(self._stack.enter_context(testing.running_script(source, *arguments, **options)))

    def command(self, command: Sequence[str], **options: Unpack[Options]) -> Server:
        """Run a command that is a server; see `running`."""
        return self._keep(self._stack.enter_context(testing.running(command, **options)))

    def faults(self, *names: str, interruptible: bool = False) -> Injector:
        """An injector for the server that is started next, as the option ``faults``; it outlives that server."""
        from prefork.testing.faults import Injector

        return self._stack.enter_context(Injector(*names, interruptible=interruptible))

    def _keep(self, server: Server) -> Server:
        self.servers.append(server)
        return server


@pytest.fixture
def prefork_server(request: pytest.FixtureRequest) -> Iterator[ServerFactory]:
    """Start servers: call it with "module:attribute" and settings, or use its methods ``script`` and ``command``."""
    with ExitStack() as stack:
        factory = ServerFactory(stack)
        request.node.stash[_FACTORY] = factory
        yield factory


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the logs of a failed test's servers into its report, and of one that failed in a fixture."""
    report = yield
    factory = item.stash.get(_FACTORY, None)
    if report.failed and factory is not None:
        for server in factory.servers:
            report.sections.append((f"log of the server, pid {server.pid}", server.log()))
    return report
