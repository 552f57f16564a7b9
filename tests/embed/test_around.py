"""What holds around an application that another server runs: proxies, the path of its mount, the access log."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from prefork.embed.around import AroundASGI, AroundWSGI
from prefork.embed.command import ASGIOptions
from prefork.scoreboard.layout import Readiness
from prefork.wsgi.health import HealthCheck
from prefork.wsgi.options import WSGIOptions


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    names = ("REMOTE_ADDR", "wsgi.url_scheme", "SCRIPT_NAME", "PATH_INFO", "HTTP_X_FORWARDED_FOR", "HTTP_X_MINE")
    return [json.dumps([environ.get(name) for name in names]).encode()]


def ask_wsgi(options: WSGIOptions, peer: str, path: str = "/shop/a") -> list[Any]:
    environ = {
        "REMOTE_ADDR": peer,
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": path,
        "QUERY_STRING": "q=1",
        "wsgi.url_scheme": "http",
        "HTTP_X_FORWARDED_FOR": "9.9.9.9",
        "HTTP_X_FORWARDED_PROTO": "https",
        "HTTP_X_MINE": "kept",
    }
    result = AroundWSGI(wsgi, options)(environ, lambda *_: None)
    body = b"".join(result)
    found: list[Any] = json.loads(body)
    return found


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    fields = {name.decode(): value.decode() for name, value in scope["headers"]}
    told = [scope["client"], scope["scheme"], scope["root_path"], scope["path"], fields, scope["raw_path"].decode()]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def ask_asgi(options: ASGIOptions, peer: str | None, *, kind: str = "http", path: str = "/shop/a b") -> list[Any]:
    scope = {
        "type": kind,
        "client": None if peer is None else (peer, 5),
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": quote(path).encode(),
        "root_path": "",
        "query_string": b"q=1",
        "http_version": "1.1",
        "method": "GET",
        "headers": [(b"x-forwarded-for", b"9.9.9.9"), (b"x-forwarded-proto", b"https"), (b"x-mine", b"kept")],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(AroundASGI(asgi, options)(scope, _nothing, send))
    found: list[Any] = json.loads(sent[1]["body"])
    return found


async def _nothing() -> dict[str, Any]:
    return {}


def test_a_trusted_proxy_is_believed() -> None:
    assert ask_wsgi(WSGIOptions(), "127.0.0.1") == ["9.9.9.9", "https", None, "/shop/a", "9.9.9.9", "kept"]
    client, scheme, root, path, fields, _ = ask_asgi(ASGIOptions(), "127.0.0.1")
    assert (client, scheme, root, path) == (["9.9.9.9", 0], "https", "", "/shop/a b")
    assert set(fields) == {"x-forwarded-for", "x-forwarded-proto", "x-mine"}
    assert ask_asgi(ASGIOptions(), "127.0.0.1", kind="websocket")[1] == "wss"
    assert ask_asgi(ASGIOptions(), None)[0] == ["9.9.9.9", 0]  # a unix socket


def test_nobody_else_is_and_his_fields_are_left_out() -> None:
    assert ask_wsgi(WSGIOptions(), "8.8.8.8") == ["8.8.8.8", "http", None, "/shop/a", None, "kept"]
    client, scheme, _, _, fields, _ = ask_asgi(ASGIOptions(), "8.8.8.8")
    assert (client, scheme, set(fields)) == (["8.8.8.8", 5], "http", {"x-mine"})
    assert ask_wsgi(WSGIOptions(forwarded="keep"), "8.8.8.8")[4] == "9.9.9.9"


def test_the_path_of_the_mount() -> None:
    options = WSGIOptions(script_name="/shop")
    assert ask_wsgi(options, "8.8.8.8")[2:4] == ["/shop", "/a"]
    assert ask_wsgi(options, "8.8.8.8", "/shopping")[2:4] == ["/shop", "/shopping"]
    assert ask_wsgi(options, "8.8.8.8", "/a")[2:4] == ["/shop", "/a"]  # of a proxy that leaves the mount out


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("mount", "path", "root", "whole"),
    [
        ("/shop", "/shop/a b", "/shop", "/shop/a b"),
        ("/shop", "/shop", "/shop", "/shop"),
        ("/shop", "/a b", "/shop", "/shop/a b"),  # of a proxy that leaves the mount out
        ("/shop", "/", "/shop", "/shop/"),
        ("/shop", "/shopping", "/shop", "/shop/shopping"),
        ("/caf%C3%A9", "/caf\xe9/a b", "/caf\xe9", "/caf\xe9/a b"),
        ("/caf\xe9", "/a b", "/caf\xe9", "/caf\xe9/a b"),
    ],
)
def test_the_path_of_the_mount_of_an_asgi_application(kind: str, mount: str, path: str, root: str, whole: str) -> None:
    told = ask_asgi(ASGIOptions(script_name=mount), "8.8.8.8", kind=kind, path=path)
    assert (told[2], told[3], told[5]) == (root, whole, quote(whole))


def test_the_access_log_has_the_path_as_it_came(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    options = WSGIOptions(script_name="/shop", access_log=str(log))
    ask_wsgi(options, "8.8.8.8", "/a")
    ask_wsgi(options, "8.8.8.8", "/shop/a")
    assert re.findall(r'"GET (\S+) ', log.read_text()) == ["/a?q=1", "/shop/a?q=1"]


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_the_access_log_is_the_same(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    if kind == "wsgi":
        size = len(json.dumps(ask_wsgi(WSGIOptions(access_log=str(log)), "8.8.8.8", "/shop/a b")))
    else:
        size = len(json.dumps(ask_asgi(ASGIOptions(access_log=str(log)), "8.8.8.8")))
    line = log.read_text()
    assert line.startswith("8.8.8.8 - - [")
    assert line.endswith(f'] "GET /shop/a%20b?q=1 HTTP/1.1" 200 {size} "-" "-"\n')


def test_what_fails_is_in_the_access_log_too(tmp_path: Path) -> None:
    def fails(environ: object, start_response: object) -> Iterable[bytes]:
        raise ValueError("of the application")

    log = tmp_path / "access.log"
    around = AroundWSGI(fails, WSGIOptions(access_log=str(log), access_log_format="json"))
    with pytest.raises(ValueError, match="of the application"):
        list(around({"PATH_INFO": "/", "REQUEST_METHOD": "GET"}, lambda *_: None))
    assert json.loads(log.read_text())["status"] is None


@pytest.mark.parametrize(
    ("method", "readiness", "status", "body"),
    [
        ("GET", Readiness.READY, 200, b"ready\n"),
        ("HEAD", Readiness.READY, 200, b"ready\n"),  # which the server leaves out
        ("GET", Readiness.STOPPING, 503, b"stopping\n"),
        ("GET", Readiness.DELAYED, 503, b"stopping\n"),
        ("GET", Readiness.EXHAUSTED, 503, b"all workers are out of descriptors or memory\n"),
        ("POST", Readiness.READY, 405, b"GET and HEAD alone\n"),
    ],
)
def test_health_is_told_below_the_application(method: str, readiness: Readiness, status: int, body: bytes) -> None:
    health = HealthCheck("/health%7a", lambda: readiness)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/healthz", "raw_path": b"/health%7a", "headers": []}
    asyncio.run(AroundASGI(_asked, ASGIOptions(), health=health)(scope, None, send))  # type: ignore[arg-type]  # it asks for nothing
    assert sent[0]["status"] == status
    assert (b"content-length", b"%d" % len(body)) in sent[0]["headers"]
    assert sent[1]["body"] == body

    told: list[Any] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": "/healthz"}
    around = AroundWSGI(_asked, WSGIOptions(), health=health)
    assert b"".join(around(environ, lambda *given: told.extend(given))) == body
    assert int(told[0][:3]) == status


def _asked(*_: Any) -> Any:
    raise AssertionError("the application was asked")


def test_what_lies_beside_the_health_path_is_the_application_s() -> None:
    health = HealthCheck("/healthz", lambda: Readiness.READY)
    for path in ("/", "/healthz/", "/healthzz", "/Healthz"):
        with pytest.raises(AssertionError, match="was asked"):
            b"".join(AroundWSGI(_asked, WSGIOptions(), health=health)({"PATH_INFO": path}, lambda *_: None))
