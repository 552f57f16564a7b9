"""A fleet on one machine: three servers, HAProxy before them, clients, and a rolling deploy under their eyes.

    python examples/fleet/fleet.py
    python examples/fleet/fleet.py --top
    python examples/fleet/fleet.py --rate 500 --deploys 20 --close
    sudo python examples/fleet/fleet.py --namespaces

It needs haproxy(1) and what `prefork wsgi` needs. Each second has a line: what the clients were answered and what they
have lost, and what HAProxy knows of each server. It ends with 0 when nothing was lost and nothing was sent twice.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from clients import Clients
from deploy import DeployError, HAProxy, roll
from hosts import HERE, Host, Loopback, Namespaces

NAMES = ("one", "two", "three")
BEGIN = 30.0
"""Seconds in which HAProxy has to know all servers."""


class Fleet:
    """The hosts and HAProxy, from when it is entered to when it is left.

    Args:
        folder: For all that it writes; one folder each host.
        network: Where the hosts are.
        front: Where HAProxy takes the clients; port 0 is any that is free.
        proxied: Whether HAProxy says whose connections they are (the PROXY protocol).
        certfile: A certificate for TLS between HAProxy and the servers; "" for none.
        keyfile: Its key.
        settings: Flags for every server.
        agents: Whether HAProxy asks the servers what they can take.
        nginx: Whether nginx stands before HAProxy.
        kind: What is on the hosts.

    Attributes:
        hosts: By their names.
        haproxy: What HAProxy knows.
        front: The address for clients.
    """

    def __init__(
        self,
        folder: Path,
        network: Loopback,
        *,
        front: tuple[str, int] = ("127.0.0.1", 0),
        proxied: bool = True,
        certfile: str = "",
        keyfile: str = "",
        settings: Sequence[str] = (),
        agents: bool = True,
        nginx: bool = False,
        kind: type[Host] = Host,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.front = front
        self.haproxy = HAProxy(str(folder / "haproxy.sock"))
        self.hosts: dict[str, Host] = {}
        self._folder = folder
        self._network = network
        self._stack = ExitStack()
        self._left_out = [] if proxied else ["    default-server send-proxy-v2\n"]
        self._left_out += [] if agents else [" agent-check agent-port 8002 agent-inter 500ms"]
        self._tls = bool(certfile)
        self._settings = [*settings]
        if certfile:
            self._settings += ["--certfile", certfile, "--keyfile", keyfile]
        self._proxied = proxied
        self._nginx = nginx
        self._kind = kind

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._network)
            for number, name in enumerate(NAMES, 11):
                address = f"{self._network.net}.{number}"
                self._network.add(name, address)
                self.hosts[name] = host = self._kind(
                    name, self._network, address, self._folder / name, self._settings, proxied=self._proxied
                )
                stack.callback(host.kill)
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda host: host.start("version 1"), self.hosts.values()))
            front = stack.enter_context(socket.create_server(self.front))
            self.front = front.getsockname()
            behind = stack.enter_context(socket.create_server(("127.0.0.1", 0))) if self._nginx else front
            process = self._start_haproxy(behind.fileno())
            stack.callback(process.wait)
            stack.callback(process.kill)
            self._wait_until_all_are_up(process)
            if self._nginx:
                before = self._start_nginx(front, behind.getsockname())
                stack.callback(before.wait)
                stack.callback(before.terminate)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def configuration(self, front: str) -> str:
        """haproxy.cfg with this fleet's addresses.

        Args:
            front: What it binds.
        """
        text = (HERE / "haproxy.cfg").read_text(encoding="utf-8").replace("127.0.0.1:8000", front)
        text = re.sub(r"server (\w+) 127\.0\.0\.", rf"server \1 {self._network.net}.", text)
        for words in self._left_out:
            text = text.replace(words, "")
        if self._tls:
            text = text.replace("default-server weight", "default-server ssl verify none weight")
        return self._kind.balanced(text)

    def _start_nginx(self, front: socket.socket, behind: tuple[str, int]) -> subprocess.Popen[bytes]:
        folder = self._folder / "nginx"
        folder.mkdir()
        text = (HERE / "nginx.conf").read_text(encoding="utf-8")
        for written, meant in (("127.0.0.1:8080", behind), ("127.0.0.1:8000", self.front)):
            text = text.replace(written, "{}:{}".format(*meant))
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        own = ["-g", "user root;"] if os.geteuid() == 0 else []  # the folder is nobody else's
        with open(folder / "log", "wb") as log:
            return subprocess.Popen(
                [_program("nginx"), "-p", str(folder), "-e", "stderr", "-c", "nginx.conf", *own],
                env={**os.environ, "NGINX": f"{front.fileno()};"},  # it takes what it is to listen on
                stdout=log,
                stderr=log,
                pass_fds=[front.fileno()],
            )

    def _start_haproxy(self, front: int) -> subprocess.Popen[bytes]:
        path = self._folder / "haproxy.cfg"
        path.write_text(self.configuration(f"fd@{front}"), encoding="utf-8")
        with open(self._folder / "haproxy.log", "wb") as log:
            return subprocess.Popen(
                [*self._network.into(""), _program("haproxy"), "-db", "-f", str(path)],
                env={**os.environ, "FLEET_RUN": str(self._folder)},
                stdout=log,
                stderr=log,
                pass_fds=[front],
            )

    def _wait_until_all_are_up(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + BEGIN
        while True:
            try:
                if all(server.status == "UP" for server in self.haproxy.servers().values()):
                    return
            except OSError:
                pass  # it has not begun
            if process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError((self._folder / "haproxy.log").read_text(encoding="utf-8"))
            time.sleep(0.05)


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def show(fleet: Fleet, clients: Clients, over: threading.Event) -> None:
    """A line a second, until it is over."""
    began, answered = time.monotonic(), 0
    while not over.wait(1):
        servers = " | ".join(f"{name} {seen.status} {seen.weight:3}" for name, seen in fleet.haproxy.servers().items())
        served, lost = clients.answered, len(clients.lost)
        print(
            f"{time.monotonic() - began:4.0f} s  {served - answered:5} answered, {lost} lost, "
            f"99 of 100 within {1000 * clients.slowest():.0f} ms | {servers}",
            flush=True,
        )
        answered = served


def show_tops(fleet: Fleet, clients: Clients, said: list[str], over: threading.Event) -> None:
    """What prefork top shows of every host, each second on the whole screen, until it is over."""
    from rich.live import Live
    from tops import Tops

    tops = Tops({name: str(host.control) for name, host in fleet.hosts.items()})
    with Live(screen=True, auto_refresh=False) as live:
        while not over.wait(1):
            tops.look()
            last = f"{clients.answered} answered, {len(clients.lost)} lost | {said[-1]}"
            size = os.get_terminal_size()
            live.update(tops.picture(fleet.haproxy.servers(), last, size.columns, size.lines), refresh=True)


def deploy(
    fleet: Fleet, clients: Clients, count: int, *, upgrade: bool, weight: int, say: Callable[[str], object]
) -> None:
    """So many rolling deploys.

    Args:
        fleet: The fleet.
        clients: Its clients, who are asking; they have stopped at the end.
        count: How many times each server is replaced.
        upgrade: By itself (prefork upgrade), rather than stopped and started.
        weight: As `deploy.roll` has it.
        say: Told what is done.

    Raises:
        DeployError: A server did not come back.
    """
    for number in range(2, 2 + count):
        version = f"version {number}"

        def replace(name: str, version: str = version) -> None:
            host = fleet.hosts[name]
            (host.upgrade if upgrade else host.restart)(version)

        def tell(text: str, version: str = version) -> None:
            say(f"{version}: {text}")

        roll(fleet.haproxy, replace, weight=weight, say=tell)
    clients.stop()


def total(fleet: Fleet, clients: Clients, count: int) -> int:
    """What became of the clients in so many deploys, printed; how many requests were lost, or had to be sent again."""
    again = sum(server.errors + server.again for server in fleet.haproxy.servers().values())
    for answer, times in sorted(clients.by.items()):
        print(f"{times:7} {answer}")
    for loss in clients.lost[:20]:
        print(f"lost: {loss}")
    print(f"{count} deploys: {clients.answered} answered, {len(clients.lost)} lost, {again} sent again or failed")
    return len(clients.lost) + again


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--deploys", type=int, default=1, help="how many times each server is replaced")
    parser.add_argument("--upgrade", action="store_true", help="replace servers by prefork upgrade: no stop, no start")
    parser.add_argument("--weight", type=int, default=50, help="per cent that a server has before the next is replaced")
    parser.add_argument("--close", action="store_true", help="clients keep no connection")
    parser.add_argument("--plain", action="store_true", help="without the PROXY protocol")
    parser.add_argument("--certfile", default="", help="TLS between HAProxy and the servers")
    parser.add_argument("--keyfile", default="", help="its key")
    parser.add_argument("--nginx", action="store_true", help="nginx before HAProxy")
    parser.add_argument("--namespaces", action="store_true", help="each host in a network namespace; needs root")
    parser.add_argument("--net", default="127.0.0", help="what the hosts' addresses begin with, on the loopback")
    parser.add_argument("--front", default="127.0.0.1:8000", metavar="HOST:PORT", help="where HAProxy takes clients")
    parser.add_argument("--quiet", action="store_true", help="no line a second")
    parser.add_argument("--top", action="store_true", help="what prefork top shows of each host, on the whole screen")
    said = parser.parse_args()
    if said.top and not sys.stdout.isatty():
        parser.error("--top needs a terminal")
    host, _, port = said.front.rpartition(":")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        try:
            fleet = stack.enter_context(
                Fleet(
                    folder,
                    Namespaces() if said.namespaces else Loopback(said.net),
                    front=(host, int(port)),
                    proxied=not said.plain,
                    certfile=said.certfile,
                    keyfile=said.keyfile,
                    nginx=said.nginx,
                )
            )
            print(("nginx" if said.nginx else "HAProxy") + " takes clients on {}:{}".format(*fleet.front))
            for each in fleet.hosts.values():
                print(f"{each.name}: prefork top --control {each.control}", flush=True)
            clients = stack.enter_context(Clients(fleet.front, said.rate, keep=not said.close))
            over, told = threading.Event(), ["nothing is replaced yet"]
            if said.top:
                watch = threading.Thread(target=show_tops, args=(fleet, clients, told, over))
            else:
                watch = threading.Thread(target=show, args=(fleet, clients, over))
            with ExitStack() as watching:
                if not said.quiet:
                    watch.start()
                    watching.callback(watch.join)
                watching.callback(over.set)
                say = told.append if said.top else partial(print, flush=True)
                deploy(fleet, clients, said.deploys, upgrade=said.upgrade, weight=said.weight, say=say)
            return min(1, total(fleet, clients, said.deploys))
        except (DeployError, OSError, subprocess.CalledProcessError) as error:
            print(f"fleet: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
