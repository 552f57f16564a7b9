"""A rolling deploy: one server of HAProxy's after the other is replaced, and none before the last one has its clients.

    python deploy.py --haproxy /run/haproxy.sock --backend shop -- ssh {server} sudo systemctl restart shop

The command is run for each server, with its name in place of {server}. When it has ended well, the server has to come
back: HAProxy has it UP with half of its weight, so that the next one is not taken from the clients while this one is
still cold. If it does not, the deploy ends there, and the servers that are left serve the old code.

Nothing else is asked of the command but that it stops and starts the server: prefork tells HAProxy by itself.
"""

from __future__ import annotations

import argparse
import csv
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


class DeployError(Exception):
    """A server was not replaced, or did not come back."""


@dataclass(frozen=True)
class Seen:
    """What HAProxy knows of a server.

    Attributes:
        status: UP, DOWN, DRAIN ...
        weight: Its share of the clients, in parts of its configured weight (per cent of 100).
        errors: Connections that could not be made, and answers that were none.
        again: Connections that were made once more, to this server or to another.
    """

    status: str
    weight: int
    errors: int
    again: int


class HAProxy:
    """HAProxy, asked through its stats socket.

    Args:
        path: The socket.
        backend: Whose servers are meant.
    """

    def __init__(self, path: str, backend: str = "shop") -> None:
        self._path = path
        self._backend = backend

    def servers(self) -> dict[str, Seen]:
        """The servers by name, in the order of the configuration.

        Raises:
            OSError: It does not answer.
        """
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(10)
            asked.connect(self._path)
            asked.sendall(b"show stat\n")
            text = b"".join(iter(lambda: asked.recv(65536), b"")).decode()
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return {
            row["svname"]: Seen(
                row["status"].partition(" ")[0],
                int(row["weight"]),
                int(row["econ"]) + int(row["eresp"]),
                int(row["wretr"]) + int(row["wredis"]),
            )
            for row in rows
            if row["pxname"] == self._backend and row["svname"] not in {"FRONTEND", "BACKEND"}
        }


def roll(
    haproxy: HAProxy,
    replace: Callable[[str], object],
    *,
    servers: Iterable[str] = (),
    weight: int = 50,
    within: float = 120.0,
    say: Callable[[str], object] = print,
) -> None:
    """Replace one server after the other.

    Args:
        haproxy: Who knows whether a server is back.
        replace: Replaces the server of a name, and returns when it is there again.
        servers: Which; all by default.
        weight: What share a server has to have before the next one is replaced, in per cent.
        within: Seconds that it has for that.
        say: Told what is done.

    Raises:
        DeployError: A server did not come back; those behind it were left alone.
    """
    for name in servers or haproxy.servers():
        say(f"replacing {name}")
        began = time.monotonic()
        replace(name)
        while not _is_back(haproxy.servers()[name], weight):
            if time.monotonic() - began > within:
                raise DeployError(f"{name} is {haproxy.servers()[name]} after {within:g} s; the others were left alone")
            time.sleep(0.1)
        say(f"{name} is back after {time.monotonic() - began:.1f} s")


def _is_back(server: Seen, weight: int) -> bool:
    return server.status == "UP" and server.weight >= weight


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haproxy", required=True, metavar="SOCKET", help="HAProxy's stats socket")
    parser.add_argument("--backend", default="shop")
    parser.add_argument("--server", action="append", default=[], help="one to replace; all of them by default")
    parser.add_argument("--weight", type=int, default=50, metavar="PERCENT", help="what a server is back with")
    parser.add_argument("--within", type=float, default=120.0, metavar="SECONDS", help="how long it may take")
    parser.add_argument("command", nargs="+", help="replaces the server that {server} stands for")
    said = parser.parse_args()

    def replace(name: str) -> None:
        done = subprocess.run([word.replace("{server}", name) for word in said.command], check=False)
        if done.returncode:
            raise DeployError(f"{name}: the command ended with {done.returncode}; the others were left alone")

    haproxy = HAProxy(said.haproxy, said.backend)
    try:
        roll(haproxy, replace, servers=said.server, weight=said.weight, within=said.within)
    except (DeployError, OSError) as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
