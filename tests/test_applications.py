"""Real applications through ``prefork wsgi``: one of Flask and one of Django do the same things, in two workers."""

from __future__ import annotations

import hashlib
import http.cookiejar
import importlib.util
import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from prefork.testing import Load, Server, connect
from prefork.testing.plugin import ServerFactory

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MEBIBYTE = 1 << 20
TIMEOUT = 30.0
BOUNDARY = "a-boundary-that-is-nowhere-in-the-file"


@dataclass(frozen=True)
class Site:
    """One application.

    Args:
        module: What has to be installed for it.
        target: What ``prefork wsgi`` is given.
    """

    module: str
    target: str

    @property
    def folder(self) -> Path:
        return EXAMPLES / f"{self.module}_app"


SITES = [Site("flask", "app:application"), Site("django", "notes.site:application")]


class Browser:
    """Keeps cookies, and knows the token that a Django form wants; follows no redirects by itself but those of GET."""

    def __init__(self, server: Server) -> None:
        self.base = f"http://{server.address}"
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def get(self, path: str) -> tuple[dict[str, str], bytes]:
        """Headers and body of an answer."""
        with self._opener.open(self.base + path, timeout=TIMEOUT) as answer:
            return {name.lower(): value for name, value in answer.headers.items()}, answer.read()

    def post(self, path: str, fields: dict[str, str]) -> bytes:
        """The page that a form leads to."""
        with self._opener.open(self.base + path, urlencode({**fields, **self.token()}).encode(), TIMEOUT) as answer:
            body: bytes = answer.read()
        return body

    def token(self) -> dict[str, str]:
        """What a form of the front page carries beside its fields."""
        found = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', self.get("/")[1])
        return {"csrfmiddlewaretoken": found[1].decode()} if found else {}

    def multipart(self, content: bytes) -> tuple[bytes, bytes]:
        """The head and the body of a request that uploads a file."""
        parts = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in self.token().items()
        ]
        disposition = 'form-data; name="file"; filename="file.bin"'
        parts.append(f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\nContent-Type: text/plain\r\n\r\n")
        body = "".join(parts).encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)
        head = (
            "POST /upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"Cookie: {cookies}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode(), body


Start = Callable[..., Server]


@pytest.fixture(params=SITES, ids=lambda site: str(site.module))
def site(request: pytest.FixtureRequest) -> Site:
    """Each application, where its framework is installed."""
    found: Site = request.param
    if importlib.util.find_spec(found.module) is None:
        pytest.skip(f"{found.module} is not installed")
    return found


@pytest.fixture
def server(prefork_server: ServerFactory, site: Site, tmp_path: Path) -> Server:
    environment = {"SECRET_KEY": "of the tests", "SESSION_FILE_PATH": str(tmp_path)}
    return prefork_server(
        site.target, app_dir=site.folder, subcommand="wsgi", options={"env": environment}, workers=2, reload_surge=2
    )


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def answered(data: bytes) -> dict[str, object]:
    """What an upload is answered with."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), data[:2000]
    found: dict[str, object] = json.loads(body)
    return found


def test_a_session_is_the_same_in_both_workers(server: Server) -> None:
    """Forms, redirects and cookies; what one worker has been told, the other knows."""
    browser, other = Browser(server), Browser(server)
    for number in range(6):
        assert f"note {number} &amp; more" in browser.post("/", {"note": f"note {number} & more"}).decode()
    processes = set()

    def both_know() -> bool:
        page = browser.get("/")[1].decode()
        assert re.findall(r"<li>note (\d)", page) == [*"012345"]
        processes.update(re.findall(r"process (\d+)", page))
        return len(processes) == 2

    server.wait_for(both_know, message="both to have answered")
    assert b"<li>" not in other.get("/")[1]


def test_an_upload_of_20_mebibytes(server: Server) -> None:
    content = bytes(range(256)) * (20 * MEBIBYTE // 256)
    head, body = Browser(server).multipart(content)
    with connect(server.address) as client:
        client.sendall(head + body)
        found = answered(read_all(client))
    assert found == {"name": "file.bin", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_an_upload_outlives_a_reload(server: Server) -> None:
    """It is in the old worker's hands, which stays for it."""
    content = b"0123456789abcdef" * (4 * MEBIBYTE // 16)
    head, body = Browser(server).multipart(content)
    before = server.workers()
    with connect(server.address) as client:
        client.sendall(head + body[: len(body) // 2])
        with Load(server.address, clients=2) as load:
            server.signal(signal.SIGHUP)
            server.wait_for_log("generation 1 serves")
        assert load.tally.lost == 0, load.tally
        client.sendall(body[len(body) // 2 :])
        found = answered(read_all(client))
    assert found["size"] == len(content)
    server.wait_for(lambda: not set(before) & set(server.workers()))


def test_a_download_is_streamed(server: Server) -> None:
    """Of a hundred million lines the first come at once; nobody waits for the last, and the worker goes on."""
    before = server.workers()
    with connect(server.address) as client:
        client.sendall(b"GET /lines/100000000 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        begin = b""
        while b"line 9\n" not in begin:
            begin += client.recv(65536)
        assert b"chunked" in begin.lower()
    headers, body = Browser(server).get("/lines/100000")
    assert headers["content-type"].startswith("text/plain")
    assert body == b"".join(b"line %d\n" % number for number in range(100_000))
    assert server.workers() == before


def test_static_files(server: Server, site: Site) -> None:
    file = next(site.folder.rglob("style.css"))
    browser = Browser(server)
    page = browser.get("/")[1].decode()
    link = re.search(r'href="([^"]+)"', page)
    assert link is not None
    headers, body = browser.get(link[1])
    assert body == file.read_bytes()
    assert headers["content-type"].startswith("text/css")
    assert int(headers["content-length"]) == len(body)
    again = urllib.request.Request(browser.base + link[1], headers={"If-Modified-Since": headers["last-modified"]})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(again, timeout=TIMEOUT)
    with caught.value as unchanged:
        assert (unchanged.code, unchanged.read()) == (304, b"")


def test_what_is_not_there_and_what_is_not_allowed(server: Server) -> None:
    browser = Browser(server)
    for path, codes in (("/nowhere", {404}), ("/upload", {405}), ("/static/../app.py", {400, 404})):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(browser.base + path, timeout=TIMEOUT)
        with caught.value as refused:
            assert refused.code in codes, path
    assert server.stop() == 0
    assert "Traceback" not in server.log()
