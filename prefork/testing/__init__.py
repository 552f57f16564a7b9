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

`running`, `running_script` and `running_target` start a server, which is a `Server`; `request`, `burst` and `Load` are
its clients, and a `Tally` says what became of them. What else there is:

    prefork.testing.faults      make system calls of the server fail, by pattern, in the kernel
    prefork.testing.processes   freeze its processes, kill them, take their descriptors away
    prefork.testing.measure     what it costs: CPU, wake-ups, descriptors
    prefork.testing.plugin      the pytest fixture `prefork_server`
    prefork.testing.clock       a clock that a test moves
"""

from prefork.testing.client import ClientError, Load, burst, connect, request
from prefork.testing.exchange import GET, Outcome
from prefork.testing.server import (
    READY,
    NotServingError,
    Options,
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
    "Options",
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
