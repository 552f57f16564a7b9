"""Behind nginx and HAProxy, which keep their connections to the server: whatever that does, they notice nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from prefork.testing import wait_for
from prefork.testing.client import connect
from prefork.testing.server import running
from tests.support.figures import count
from tests.support.kept import Crowd, renew
from tests.support.wsgi.harness import ROOT

WITHIN: Final = 60.0  # seconds; for what takes less than one on an idle machine
CLIENTS: Final = 16

_NGINX: Final = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/errors warn;
events {{ worker_connections 512; }}
http {{
    log_format short '$status $upstream_status $upstream_addr';
    access_log {folder}/requests short;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream server {{ server {address}; keepalive 32; keepalive_requests 1000000; }}
    server {{
        listen unix:{folder}/front;
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
    }}
}}
"""
_HAPROXY: Final = """\
global
    log stdout format raw local0
defaults
    mode http
    log global
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    retries 0
    log-format "%ST %rc %tsc"
frontend front
    bind unix@{folder}/front
    default_backend back
backend back
    http-reuse always
    server one {address}
"""


def nginx(folder: Path, address: str) -> list[str]:
    text = _NGINX.format(folder=folder, address=address, user="user root;" if os.geteuid() == 0 else "")
    (folder / "nginx.conf").write_text(text)
    return ["nginx", "-p", str(folder), "-e", str(folder / "errors"), "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, address: str) -> list[str]:
    text = _HAPROXY.format(folder=folder, address=address.replace("unix:", "unix@"))
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


Proxy = Callable[[Path, str], list[str]]


def found(proxy: Proxy) -> str | None:
    """Where its program is."""
    return shutil.which(proxy.__name__, path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def in_front(proxy: Proxy, folder: Path, address: str) -> Iterator[str]:
    """The address of a proxy in front of ``address``; what it has to say is in ``requests``."""
    command = proxy(folder, address)
    command[0] = found(proxy) or command[0]
    front = f"unix:{folder}/front"
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)

    def listens() -> bool:
        assert process.poll() is None, (folder / "said").read_text()
        try:
            connect(front).close()
        except OSError:
            return False
        return True

    try:
        wait_for(listens, WITHIN, f"{command[0]} to listen")
        yield front
    finally:
        process.terminate()
        process.wait(WITHIN)


@pytest.mark.long  # a reload takes a second
@pytest.mark.parametrize("way", ["tcp", "unix"])
@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_a_proxy_that_keeps_its_connections_notices_nothing(proxy: Proxy, way: str, tmp_path: Path) -> None:
    if found(proxy) is None:
        pytest.skip(f"{proxy.__name__} is not installed")
    folder = tmp_path / "p"
    folder.mkdir()
    bind = "127.0.0.1:0" if way == "tcp" else f"unix:{folder}/back"
    command = [sys.executable, "-m", "prefork", "wsgi", "tests.support.wsgi.apps:echo", "--workers=2", "--bind", bind]
    with running(command, cwd=ROOT, within=WITHIN) as server, in_front(proxy, folder, server.address) as front:
        crowd = Crowd(front, clients=CLIENTS, think=0.01)
        for _ in range(count("proxied-reloads", part=10)):
            renew(server, signal.SIGHUP)
        for _ in range(count("proxied-upgrades", part=5)):
            renew(server, signal.SIGUSR2)
        requests = count("proxied-requests", part=100)
        server.wait_for(lambda: crowd.counts["answered"] >= requests, 10 * WITHIN, f"{requests} requests")
        crowd.stop()
        assert (crowd.counts["lost"], crowd.losses, crowd.counts["connections"]) == (0, [], CLIENTS)
        assert server.stop() == 0
    if proxy is nginx:
        assert (folder / "errors").read_text() == ""
        lines = (folder / "requests").read_text().splitlines()
        assert {tuple(line.split(" ")[:2]) for line in lines} == {("200", "200")}
        assert not any("," in line for line in lines), "none was repeated"
    else:
        lines = [line for line in (folder / "said").read_text().splitlines() if line[:3].isdigit()]
        assert {line.split(" ")[0] for line in lines if not line.endswith(" CR--")} <= {"200"}
        assert {line.split(" ")[1] for line in lines} == {"0"}, "none was repeated"
    assert len(lines) >= requests
