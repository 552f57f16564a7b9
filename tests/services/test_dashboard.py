"""The dashboard: who is answered with what, what the page is given, and that it works in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork import SettingsError
from prefork.config.settings import Settings
from prefork.services.dashboard import answer
from prefork.status.model import Status
from prefork.system import codec
from prefork.testing import Server, connect, hold_port, request, running_target, wait_for
from prefork.testing.exchange import parse_http
from tests.support.browser import CHROMIUM, browser
from tests.support.programs import run_program
from tests.support.wsgi.harness import ROOT

STATUS = b'{"version": "1"}'


def told(head: str, *, local: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of an answer."""
    reply = answer(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n", lambda: STATUS, local=local)
    parsed = parse_http(reply)
    assert parsed is not None
    lines = reply.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    fields = dict(line.lower().split(": ", 1) for line in lines)
    return parsed.status, fields, parsed.body


def test_the_page_is_found_in_an_archive(tmp_path: Path) -> None:
    """Of a program that is one file (zipapp), or of which something else than a folder is on the import path."""
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", ROOT, "prefork")
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from prefork.services import dashboard
        assert dashboard.__file__.startswith(sys.argv[1])
        print(dashboard.answer(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n", bytes)[:15].decode())
    """
    assert run_program(program, archive).stdout == "HTTP/1.1 200 OK\n"


# Who is answered with what.


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:9000", "shop.localhost:9000", "127.0.0.1:9000", "127.9.9.9", "[::1]:9000", "[::1]"],
)
def test_this_machine_is_answered(host: str) -> None:
    assert told(f"GET /status.json HTTP/1.1\nHost: {host}")[::2] == (200, STATUS)


@pytest.mark.parametrize(
    "fields",
    [
        "\nHost: evil.example",
        "\nHost: evil.example:9000",
        "\nHost: localhost.evil.example",
        "\nHost: evillocalhost",
        "\nHost: 127.0.0.1.evil.example",
        "\nHost: 10.0.0.1:9000",
        "\nHost: 0.0.0.0:9000",
        "\nHost: [::]:9000",
        "\nHost: 2130706433",
        "\nHost:",
        "",
        "\nX-Host: localhost",
        "\nHost: localhost\nHost: evil.example",
        "\nHost: evil.example\nhost: localhost",
    ],
)
def test_a_rebound_name_is_refused(fields: str) -> None:
    for path in ("/", "/status.json", "/else"):
        assert told(f"GET {path} HTTP/1.1{fields}")[0] == 403
    assert told(f"GET /status.json HTTP/1.1{fields}", local=True)[0] == 200  # by a proxy, which has a name of its own


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET / HTTP/1.1", 200),
        ("GET /?a=b HTTP/1.0", 200),
        ("GET /status.json?1 HTTP/1.1", 200),
        ("GET /status HTTP/1.1", 404),
        ("GET /../etc/passwd HTTP/1.1", 404),
        ("GET //evil.example/ HTTP/1.1", 404),
        ("POST / HTTP/1.1", 405),
        ("DELETE /status.json HTTP/1.1", 405),
        ("OPTIONS / HTTP/1.1", 405),
        ("get / HTTP/1.1", 400),
        ("GET / HTTP/2", 400),
        ("GET /", 400),
        ("", 400),
    ],
)
def test_there_is_nothing_but_to_look(line: str, status: int) -> None:
    found, fields, _ = told(f"{line}\nHost: localhost\nOrigin: http://evil.example")
    assert found == status
    assert fields.get("allow", "") == ("get, head" if status == 405 else "")
    assert not [name for name in fields if name.startswith("access-control")]
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["cross-origin-resource-policy"] == "same-origin"


def test_half_a_request_is_told_so() -> None:
    assert answer(b"GET / HTTP/1.1\r\nHost: localhost\r\n", lambda: STATUS).startswith(b"HTTP/1.1 400 ")


def test_head_is_told_the_length_alone() -> None:
    for path in ("/", "/status.json", "/else"):
        _, fields, body = told(f"GET {path} HTTP/1.1\nHost: localhost")
        reply = answer(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), lambda: STATUS)
        assert reply.endswith(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}\r\n".encode() in reply
        assert fields["content-length"] == str(len(body))


def test_the_page_is_whole_and_runs_nothing_but_itself() -> None:
    _, fields, body = told("GET / HTTP/1.1\nHost: localhost")
    text = body.decode()
    policy = fields["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest.lower()}'" in policy
    assert not re.findall(r"""\b(?:src|href)=["'](?!data:,)""", text)  # nothing of anybody else's
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bon\w+=|\bstyle=", text)


# The setting.


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("0.0.0.0:9000", "could be reached from other machines; give 127.0.0.1:PORT or unix:/path"),
        (":9000", "could be reached from other machines"),
        ("9000", "could be reached from other machines"),
        ("[::]:9000", "could be reached from other machines"),
        ("10.1.2.3:9000", "could be reached from other machines"),
        ("shop.example:9000", "could be reached from other machines"),
        ("seqpacket:/run/dash", "is no address of our own making"),
        ("fd://3", "is no address of our own making"),
        ("127.0.0.1", "has no port"),
        (9000, "is not an address"),
    ],
)
def test_an_address_for_others_is_refused(value: object, problem: str) -> None:
    with pytest.raises(SettingsError, match=rf"^dashboard: .*{re.escape(problem)}"):
        Settings(dashboard=value)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    "value", ["", "127.0.0.1:0", "127.1.1.1:9000", "localhost:9000", "[::1]:9000", "unix:/run/dash", "unix:@dash"]
)
def test_an_address_of_this_machine_is_taken(value: str) -> None:
    assert Settings(dashboard=value).dashboard == value


def test_a_place_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "prefork", "serve", "examples.hello:handle", f"--dashboard={address}", "-b:0"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3
    assert re.search(rf"^prefork: error: dashboard: '?{re.escape(address)}", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr


# A server that is looked at.


HOSTILE = "<img/src=x/onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def shown() -> Iterator[Server]:
    with running_target(
        "tests.support.wsgi.apps:echo",
        app_dir=ROOT,
        subcommand="wsgi",
        workers=2,
        threads=2,
        dashboard="127.0.0.1:0",
        name=HOSTILE,
    ) as server:
        yield server


def place(server: Server) -> str:
    return server.wait_for_log(r"dashboard: (\S+)$")[1]


def asked(address: str, path: str) -> bytes:
    reply = request(address, f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
    assert reply.status == 200
    return reply.body


def served(address: str) -> int:
    """How many connections the server has counted."""
    found: int = json.loads(asked(address, "/status.json"))["totals"]["served"]
    return found


def test_a_server_shows_what_it_does(shown: Server) -> None:
    address = place(shown)
    before = served(address)
    assert request(shown.address).status == 200
    assert asked(address, "/").startswith(b"<!doctype html>")
    status = codec.read(Status, json.loads(asked(address, "/status.json")))
    assert (status.state, status.size, status.name, status.pid) == ("serving", 2, HOSTILE, shown.pid)
    assert {worker.pid for worker in status.workers} == set(shown.workers())
    assert all(worker.process.rss for worker in status.workers)
    wait_for(lambda: served(address) > before)


def test_who_takes_nothing_holds_up_nobody(shown: Server) -> None:
    address = place(shown)
    silent = [connect(address) for _ in range(70)]
    for client in silent[-20:]:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert asked(address, "/status.json")
    assert request(shown.address).status == 200
    for client in silent:
        client.close()


@pytest.mark.long
def test_an_upgrade_is_seen_as_the_same_server() -> None:
    with running_target("examples.hello:handle", app_dir=ROOT, workers=2, dashboard="127.0.0.1:0") as server:
        address = place(server)
        assert request(server.address).status == 200
        before = json.loads(asked(address, "/status.json"))
        server.signal(signal.SIGUSR2)
        server.wait_for_log(r"generation 1 serves|reloaded")
        after = json.loads(asked(address, "/status.json"))
        assert (after["pid"], after["started"]) == (before["pid"], before["started"])
        wait_for(lambda: served(address) == 1)


# In a browser.


@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_a_browser_shows_it(shown: Server) -> None:
    with browser() as page, connect(shown.address) as client:
        head = f"POST /{HOSTILE} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
        client.sendall(head.encode())  # without its body: it is in hand
        page.open(f"http://{place(shown)}/")
        page.wait_for("document.querySelectorAll('#workers tr').length === 2")
        page.wait_for("document.getElementById('live').textContent === 'live'")
        rows = page.value("document.getElementById('workers').innerText")
        assert all(str(pid) in rows for pid in shown.workers())
        page.wait_for(f"document.getElementById('workers').innerText.includes({f'POST /{HOSTILE}'!r})")
        client.sendall(b"hello")
        page.wait_for("document.querySelectorAll('figure svg path[d^=M]').length >= 3")
        assert page.value("document.title") == f"prefork [{HOSTILE}]"  # text, and no markup
        assert page.value("document.querySelectorAll('img').length") == 0
        labels = page.value("[...document.querySelectorAll('svg[role=img]')].map(one => one.ariaLabel)")
        assert [label.partition(":")[0] for label in labels] == [
            "Workers by state",
            "Throughput",
            "Queue time",
            "Memory of the workers",
        ]
        assert page.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.complaints == []


@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_a_browser_outlives_the_server() -> None:
    with hold_port() as address, browser() as page:
        where = {"app_dir": ROOT, "workers": 1, "dashboard": address}
        with running_target("examples.hello:handle", **where) as server:  # type: ignore[arg-type]  # as they are
            page.open(f"http://{address}/")
            page.wait_for("document.getElementById('live').textContent === 'live'")
            assert server.stop() == 0
        page.wait_for("document.getElementById('live').textContent.startsWith('disconnected since ')")
        with running_target("examples.hello:handle", **where) as server:  # type: ignore[arg-type]  # as they are
            page.wait_for("document.getElementById('live').textContent === 'live'")
            page.wait_for(f"document.getElementById('about').textContent.includes('pid {server.pid}')")
        assert page.complaints == []
