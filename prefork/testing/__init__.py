"""What an embedder tests a server with: run it, load it, break it, count what became of the clients.

The package's own tests use nothing else. Everything runs against real processes, sockets and signals.

    from prefork.testing import Load, running_target

    def test_a_reload_loses_nothing():
        with running_target("myserver:handle", workers=4) as server:
            with Load(server.address, clients=8) as load:
                server.signal(signal.SIGHUP)
                load.wait_for(lambda tally: tally.answered > 1000)
            assert load.tally.lost == 0, load.tally
            assert server.stop() == 0

`running`, `running_script` and `running_target` start a server (`Server`); `request`, `burst` and `Load` are clients;
`prefork.testing.faults` injects errors into system calls, limits descriptors, freezes and kills;
`prefork.testing.plugin` has the pytest fixtures.
"""

from prefork.testing.client import ClientError, Load, burst, connect, request
from prefork.testing.exchange import GET, Outcome
from prefork.testing.server import (
    READY,
    NotServingError,
    Server,
    hold_port,
    running,
    running_script,
    running_target,
)
from prefork.testing.tally import Answer, Phase, Tally
from prefork.testing.waiting import NotInTimeError, call_until, wait_for

__all__ = [
    "GET",
    "READY",
    "Answer",
    "ClientError",
    "Load",
    "NotInTimeError",
    "NotServingError",
    "Outcome",
    "Phase",
    "Server",
    "Tally",
    "burst",
    "call_until",
    "connect",
    "hold_port",
    "request",
    "running",
    "running_script",
    "running_target",
    "wait_for",
]
