"""What a host that has become slow costs the clients, by how HAProxy balances and what it is told.

    python examples/fleet/slow.py
    python examples/fleet/slow.py --loads 40 --seconds 20 --only roundrobin

Three hosts with two workers each, and clients at random moments. A request takes 50 ms, on one of the hosts five times
as long. A row has what 50, 95 and 99 of 100 requests were answered within, and how many were sent to the slow host. The
loads are per cent of what three hosts could do that are all well; with one of them slow there is room for 73.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from clients import Clients
from fleet import NAMES, Fleet
from hosts import Host, Loopback

WORK = 0.05
"""Seconds that a request takes on a host that is well."""
SLOWER = 5
WORKERS = 2
SETTLING = 15.0
"""Seconds in which the weights become what they are in the end."""


class Way(NamedTuple):
    """How HAProxy gives requests to hosts.

    Attributes:
        balance: By what, as haproxy.cfg has it.
        weight: Of each host, before the agent has spoken.
        agents: Whether it asks the hosts what they can take.
        settings: What these are told.
    """

    balance: str
    weight: int = 100
    agents: bool = True
    settings: tuple[str, ...] = ()


TOLD = ("--agent-request-time", "0.06")
WAYS = {
    "leastconn, no agent": Way("leastconn", agents=False),
    "leastconn, the agent": Way("leastconn"),
    "leastconn, the agent, agent_request_time": Way("leastconn", settings=TOLD),
    "roundrobin, the agent, agent_request_time": Way("roundrobin", 256, settings=TOLD),
}


def kind_of(way: Way, slow: str) -> type[Host]:
    """Hosts for HAProxy to balance in a way.

    Args:
        way: The way.
        slow: The name of the one that is slow; "" for none.
    """

    class Unequal(Host):
        """One of three, of which one is slow."""

        def start(self, version: str) -> None:
            """As `Host.start`."""
            self.work = WORK * (SLOWER if self.name == slow else 1)
            super().start(version)

        @staticmethod
        def balanced(text: str) -> str:
            """haproxy.cfg for the way."""
            text = text.replace("balance leastconn", f"balance {way.balance}")
            return text.replace("default-server weight 100", f"default-server weight {way.weight}")

    return Unequal


def measure(way: Way, load: float, seconds: float, slow: str, folder: Path, net: str) -> tuple[list[float], float, int]:
    """Seconds that 50, 95 and 99 of 100 requests took at most, the share of the slow host, and how many were lost."""
    kind = kind_of(way, slow)
    fleet = Fleet(
        folder, Loopback(net), proxied=False, agents=way.agents, settings=["--workers=2", *way.settings], kind=kind
    )
    rate = load * len(NAMES) * WORKERS / WORK
    with fleet, Clients(fleet.front, rate, at_random=True) as clients:
        time.sleep(SETTLING)
        clients.forget()
        time.sleep(seconds)
        clients.stop()
    met = sum(count for answer, count in clients.by.items() if answer.endswith(f"on {slow}"))
    return [clients.slowest(share) for share in (0.5, 0.95, 0.99)], met / clients.answered, len(clients.lost)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="40,60,70", help="per cent of what three could do (40,60,70)")
    parser.add_argument("--seconds", type=float, default=60, help="for how long each is measured (60)")
    parser.add_argument("--only", default="", metavar="WORDS", help="the ways that have them in their name")
    parser.add_argument("--well", action="store_true", help="with no slow host: what the balancing itself costs")
    parser.add_argument("--net", default="127.0.0", help="what the hosts' addresses begin with, on the loopback")
    said = parser.parse_args()
    ways = {name: way for name, way in WAYS.items() if said.only in name}
    if not ways:
        parser.error("nothing is left to be tried")
    print("| | load | 50 of 100 | 95 | 99 within | sent to the slow one | lost |", flush=True)
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    bad = 0
    for load in map(float, said.loads.split(",")):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
                slow = "" if said.well else NAMES[1]
                times, share, lost = measure(way, load / 100, said.seconds, slow, Path(folder) / "run", said.net)
            took = " | ".join(f"{1000 * one:.0f} ms" for one in times)
            print(f"| {name} | {load:g} % | {took} | {100 * share:.1f} % | {lost} |", flush=True)
            bad += lost
    return min(1, bad)


if __name__ == "__main__":
    sys.exit(main())
