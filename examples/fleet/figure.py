"""What rolling deploys cost clients, in every way in which they and the servers may talk, and gunicorn's count beside.

    python examples/fleet/figure.py
    python examples/fleet/figure.py --deploys 2 --rate 50 --only kept,HTTP --servers prefork

For each way three servers are started behind HAProxy, each is stopped and started with other code as many times as
there are deploys, and clients ask all the while. Nobody tells HAProxy that gunicorn is about to stop: it checks the
port, and finds out. gunicorn reads the PROXY protocol's header within TLS, so there is no row of it for both.

It ends with 0 when prefork has lost nothing, and nothing was sent twice. A deploy takes some 12 seconds of prefork's,
two of them drain_delay of each host, and 5 of gunicorn's: the whole takes 50 minutes; --deploys 5 a quarter of that.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from clients import Clients
from deploy import DeployError, roll
from fleet import Fleet
from hosts import HERE, PORT, Host, Loopback

CERTS = HERE.parents[1] / "tests" / "support" / "wsgi" / "certs"
WAYS = [
    f"{kept}, {secure}, {proxied}"
    for proxied in ("PROXY", "no PROXY")
    for secure in ("HTTP", "TLS")
    for kept in ("kept", "closed")
]


class Gunicorn(Host):
    """One host with gunicorn: as many processes, four threads each, so that it can keep connections."""

    server = "gunicorn"
    serves = r"Booting worker with pid[\s\S]*Booting worker with pid"

    def command(self) -> list[str]:
        """As `Host.command`."""
        flags = ["--pythonpath", str(HERE), "--bind", f"{self.address}:{PORT}", "--workers=2", "--threads=4"]
        flags += ["--graceful-timeout=30", "--worker-class=gthread"]
        if self.proxied:
            flags += ["--proxy-protocol=auto", "--proxy-allow-from=*"]
        return ["gunicorn", "shop:application", *flags]

    @staticmethod
    def balanced(text: str) -> str:
        """Its own port is checked, as a client would see it; nobody says what it can take."""
        text = re.sub(r"^ +default-server agent-check.*\n", "", text, flags=re.MULTILINE)
        return text.replace(" check port 8001", " check").replace(" send-proxy-v2", " send-proxy-v2 check-send-proxy")


def figures(ways: list[str], kinds: list[type[Host]], deploys: int, rate: float, net: str) -> Iterator[tuple[str, int]]:
    """A row for each, and how many prefork has lost or had sent again."""
    for way in ways:
        for kind in kinds:
            if kind is Gunicorn and way.endswith("TLS, PROXY"):
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
                lost, again, served, note = _roll(way, kind, deploys, rate, Path(folder), net)
            took = f"{time.monotonic() - began:.0f} s{note}"
            row = f"| {way} | {kind.server} | {deploys} | {served} | {lost} | {again} | {took} |"
            yield row, lost + again if kind is Host else 0


def _roll(way: str, kind: type[Host], deploys: int, rate: float, folder: Path, net: str) -> tuple[int, int, int, str]:
    kept, secure, proxied = way.split(", ")
    certfile, keyfile = (str(CERTS / name) if secure == "TLS" else "" for name in ("server.pem", "server.key"))
    fleet = Fleet(
        folder / "fleet",
        Loopback(net),
        proxied=proxied == "PROXY",
        certfile=certfile,
        keyfile=keyfile,
        kind=kind,
    )
    note = ""
    with fleet, Clients(fleet.front, rate, keep=kept == "kept") as clients:
        try:
            for number in range(2, 2 + deploys):

                def replace(name: str, version: str = f"version {number}") -> None:
                    fleet.hosts[name].restart(version)

                roll(fleet.haproxy, replace, weight=10, say=lambda _: None)
        except (DeployError, TimeoutError) as error:
            note = f", ended: {error}"
        clients.stop()
        again = sum(server.errors + server.again for server in fleet.haproxy.servers().values())
        for loss in clients.lost[:5] if kind is Host else ():
            print(f"lost: {loss}", file=sys.stderr, flush=True)
    return len(clients.lost) + bool(note), again, clients.answered, note


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deploys", type=int, default=20, help="how many times each server is replaced (20)")
    parser.add_argument("--rate", type=float, default=500, help="requests a second (500)")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="as kept,TLS,no PROXY: the ways of which all are true"
    )
    parser.add_argument("--servers", default="prefork,gunicorn", help="which, with a comma between them")
    parser.add_argument("--net", default="127.0.0", help="what the hosts' addresses begin with, on the loopback")
    said = parser.parse_args()
    wanted = {word.strip() for word in said.only.split(",") if word.strip()}
    ways = [way for way in WAYS if wanted <= set(way.split(", "))]
    kinds = [kind for kind in (Host, Gunicorn) if kind.server in said.servers.split(",")]
    if not ways or not kinds:
        parser.error("nothing is left to be tried")
    print("| clients, servers | | deploys | answered | lost | sent again or failed | took |", flush=True)
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |", flush=True)
    bad = 0
    for row, lost in figures(ways, kinds, said.deploys, said.rate, said.net):
        print(row, flush=True)
        bad += lost
    return min(1, bad)


if __name__ == "__main__":
    sys.exit(main())
