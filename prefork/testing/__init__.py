"""What an embedder tests a server with: run it, load it, break it, count what became of the clients.

The package's own tests use nothing else. Everything runs against real processes, sockets and signals, in the test's
own process, and no other room imports it.

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

TYPE_CHECKING = False  # as in typing, whose import costs more than all of this
if TYPE_CHECKING:
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
    from prefork.testing.tally import Answer, ClientPhase, Tally
    from prefork.testing.waiting import NotInTimeError, call_until, wait_for

__all__ = [
    "GET",
    "READY",
    "Answer",
    "ClientError",
    "ClientPhase",
    "Load",
    "NotInTimeError",
    "NotServingError",
    "Options",
    "Outcome",
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

_HOMES = {
    **dict.fromkeys(("ClientError", "Load", "burst", "connect", "request"), "prefork.testing.client"),
    **dict.fromkeys(("GET", "Outcome"), "prefork.testing.exchange"),
    **dict.fromkeys(("READY", "NotServingError", "Options", "Server", "hold_port"), "prefork.testing.server"),
    **dict.fromkeys(("running", "running_script", "running_target"), "prefork.testing.server"),
    **dict.fromkeys(("Answer", "ClientPhase", "Tally"), "prefork.testing.tally"),
    **dict.fromkeys(("NotInTimeError", "call_until", "wait_for"), "prefork.testing.waiting"),
}


def __getattr__(name: str) -> object:
    """Import a public name from where it is defined, as `prefork` itself does: the plugin needs none of them.

    Raises:
        AttributeError: there is none of that name.
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
