"""What a request becomes: the environ of PEP 3333, or a refusal."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.errors import PreforkError
from prefork.testing.client import connect
from prefork.testing.server import Server
from prefork.wsgi import parser
from prefork.wsgi.environ import base_environ, server_name
from prefork.wsgi.gateway import Gateway
from prefork.wsgi.options import WSGIOptions
from prefork.wsgi.parser import _key, transfer_length
from prefork.wsgi.refusal import RequestError
from tests.support.wsgi import apps
from tests.support.wsgi.harness import ask, assert_clean, exchange, get, parse, post, read_all, serving


@pytest.fixture(scope="module")
def show() -> Iterator[Server]:
    with serving("show") as server:
        yield server
        assert_clean(server)


def test_environ(show: Server) -> None:
    environ = ask(
        show,
        post(
            b"hello",
            "Host: example.org:8000",
            "Content-Type: text/x-test; a=b",
            "X-Two: a",
            "x-two:   b \t",
            "Cookie: a=b",
            "Cookie: c=d",
            "X_Under: forged",
            "Content_Length: 7",
            "Proxy: http://forged/",
            "X-Latin: \xe9",
            target="/a%20b/%C3%A9%2f?c=%20d&e",
        ),
    ).json()
    host, _, port = show.address.rpartition(":")
    remote_port = environ.pop("REMOTE_PORT")
    assert 0 < int(remote_port) < 65536
    assert environ.pop("pid")
    assert environ.pop("SERVER_SOFTWARE").startswith("prefork/")
    assert environ.pop("body.sha256") == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert environ == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/\xc3\xa9/",
        "QUERY_STRING": "c=%20d&e",
        "RAW_URI": "/a%20b/%C3%A9%2f?c=%20d&e",
        "REQUEST_URI": "/a%20b/%C3%A9%2f?c=%20d&e",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": "5",
        "CONTENT_TYPE": "text/x-test; a=b",
        "HTTP_HOST": "example.org:8000",
        "HTTP_X_TWO": "a,b",
        "HTTP_COOKIE": "a=b; c=d",
        "HTTP_X_LATIN": "\xe9",
        "wsgi.url_scheme": "http",
        "body.length": 5,
    }


def test_what_a_server_says_of_itself() -> None:
    environ = base_environ(tls=False)
    assert (environ["wsgi.version"], environ["wsgi.url_scheme"]) == ((1, 0), "http")
    assert environ["wsgi.multiprocess"] is environ["wsgi.input_terminated"] is True
    assert environ["wsgi.multithread"] is environ["wsgi.run_once"] is False


@pytest.mark.parametrize(
    ("method", "target", "path", "query", "host"),
    [
        ("GET", "/", "/", "", "test"),
        ("GET", "//a//b", "//a//b", "", "test"),
        ("GET", "/?", "/", "", "test"),
        ("GET", "/a?b?c", "/a", "b?c", "test"),
        ("GET", "/%00%zz%4", "/\0%zz%4", "", "test"),
        ("GET", "/;a=b/../c", "/;a=b/../c", "", "test"),
        ("OPTIONS", "*", "", "", "test"),
        ("GET", "http://other:81/a?b=http://c/", "/a", "b=http://c/", "other:81"),
        ("GET", "HTTPS://other", "/", "", "other"),
        ("GET", "http://other?q", "/", "q", "other"),
        ("OPTIONS", "http://other", "", "", "other"),
        ("OPTIONS", "http://[::1]:80/", "/", "", "[::1]:80"),
        ("PATCH", "/", "/", "", "test"),
    ],
)
def test_targets(show: Server, method: str, target: str, path: str, query: str, host: str) -> None:
    environ = ask(show, get(target, method=method)).json()
    assert environ["REQUEST_METHOD"] == method
    assert (environ["PATH_INFO"], environ["QUERY_STRING"], environ["HTTP_HOST"]) == (path, query, host)
    assert environ["REQUEST_URI"] == target
    assert environ["wsgi.url_scheme"] == "http"


def test_methods_that_the_standard_library_does_not_know() -> None:
    with serving("show", validate=False) as server:
        for method in ("M-SEARCH", "PROPFIND", "REPORT", "PURGE", "BAN", "LABEL", "VERSION-CONTROL", "BREW", "get"):
            assert ask(server, get(method=method)).json()["REQUEST_METHOD"] == method
        assert_clean(server)


def test_http_1_0_needs_no_host(show: Server) -> None:
    environ = ask(show, b"GET / HTTP/1.0\r\n\r\n").json()
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert "HTTP_HOST" not in environ


def test_empty_lines_before_the_request(show: Server) -> None:
    for count in (1, 2, 100):
        assert ask(show, b"\r\n" * count + get("/a")).json()["PATH_INFO"] == "/a"
    assert ask(show, b"\r", b"\n" + get("/b")).json()["PATH_INFO"] == "/b"
    assert ask(show, b"\r\n", b"\r\n\r", b"\n" + get("/c")).json()["PATH_INFO"] == "/c"


def test_nothing_but_empty_lines_is_no_request(show: Server) -> None:
    with connect(show.address) as connection:
        connection.sendall(b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""


def test_a_request_that_comes_in_small_pieces(show: Server) -> None:
    request = post(b"hello", "Host: here", "X-A: b", target="/pieces")
    for cut in (1, 4, len(request) - 7, len(request) - 6, len(request) - 5, len(request) - 1):
        environ = ask(show, request[:cut], request[cut:]).json()
        assert environ["PATH_INFO"] == "/pieces"
        assert environ["HTTP_X_A"] == "b"
        assert environ["body.length"] == 5
    with connect(show.address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            connection.send(bytes([byte]))
        assert parse(read_all(connection)).json()["body.length"] == 5


def test_an_upgrade_is_not_taken(show: Server) -> None:
    environ = ask(show, get("/", "Connection: Upgrade", "Upgrade: websocket")).json()
    assert environ["HTTP_UPGRADE"] == "websocket"


G = b"GET / HTTP/1.1\r\nHost: a\r\n"
P = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = P + b"Transfer-Encoding: chunked\r\n"
REFUSED = {
    "bare LF everywhere": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF after the request line": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "bare LF in a value": (400, G + b"A: b\nC: d\r\n\r\n"),
    "bare LF at the end": (400, G + b"\n\r\n"),
    "bare CR in a value": (400, G + b"A: b\rC: d\r\n\r\n"),
    "bare CR in the request line": (400, b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CR CR LF": (400, G + b"A: b\r\r\n\r\n"),
    "NUL in a value": (400, G + b"A: b\0c\r\n\r\n"),
    "NUL in a name": (400, G + b"A\0: b\r\n\r\n"),
    "NUL in the target": (400, b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "DEL in a value": (400, G + b"A: \x7f\r\n\r\n"),
    "folded with a space": (400, G + b"A: b\r\n c\r\n\r\n"),
    "folded with a tab": (400, G + b"A: b\r\n\tc\r\n\r\n"),
    "a space before the first field": (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "a space before the colon": (400, G + b"A : b\r\n\r\n"),
    "a tab before the colon": (400, G + b"A\t: b\r\n\r\n"),
    "no colon": (400, G + b"A\r\n\r\n"),
    "no name": (400, G + b": b\r\n\r\n"),
    "a name that is no token": (400, G + b"A(b): c\r\n\r\n"),
    "a name beyond ASCII": (400, G + b"\xc4: c\r\n\r\n"),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "an empty Host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "two Hosts": (400, G + b"Host: a\r\n\r\n"),
    "two Hosts in HTTP/1.0": (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    "a Host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "a Host with a space": (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "a Host with a user": (400, b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    "a Host with a wordy port": (400, b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    "a Host with half a bracket": (400, b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    "a bad Host in HTTP/1.0": (400, b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n"),
    "no target": (400, b"GET  HTTP/1.1\r\nHost: a\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "two spaces before the target": (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "two spaces after the target": (400, b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a space after the version": (400, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    "a tab for a space": (400, b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target that is no path": (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target with a fragment": (400, b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target beyond ASCII": (400, b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target with another scheme": (400, b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target with a user": (400, b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target without a host": (400, b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "GET of an asterisk": (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a version of letters": (400, b"GET / HTTP/x.y\r\nHost: a\r\n\r\n"),
    "a version in small letters": (400, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    "another protocol": (400, b"GET / RTSP/1.0\r\nHost: a\r\n\r\n"),
    "too many empty lines": (400, b"\r\n" * 101 + G + b"\r\n"),
    "two bare LFs before it": (400, b"\n\n" + G + b"\r\n"),
    "a space before it": (400, b" " + G + b"\r\n"),
    "CR before it": (400, b"\r" + G + b"\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "an empty Content-Length": (400, P + b"Content-Length:\r\n\r\n"),
    "a negative Content-Length": (400, P + b"Content-Length: -1\r\n\r\n"),
    "a Content-Length with a plus": (400, P + b"Content-Length: +1\r\n\r\na"),
    "a hexadecimal Content-Length": (400, P + b"Content-Length: 0x1\r\n\r\na"),
    "a Content-Length with an underscore": (400, P + b"Content-Length: 1_0\r\n\r\n"),
    "a Content-Length with a point": (400, P + b"Content-Length: 1.0\r\n\r\na"),
    "two numbers in a Content-Length": (400, P + b"Content-Length: 1 1\r\n\r\na"),
    "a list in a Content-Length": (400, P + b"Content-Length: 1, 1\r\n\r\na"),
    "two Content-Lengths": (400, P + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na"),
    "the same Content-Length twice": (400, P + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na"),
    "a huge Content-Length": (400, P + b"Content-Length: 99999999999999999999999\r\n\r\n"),
    "a Content-Length of 19 digits": (400, P + b"Content-Length: 1000000000000000000\r\n\r\n"),
    "length and coding": (400, P + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "coding and length": (400, CHUNKED + b"Content-Length: 1\r\n\r\n"),
    "coding in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "an empty coding": (400, P + b"Transfer-Encoding:\r\n\r\n"),
    "chunked twice": (400, P + b"Transfer-Encoding: chunked, chunked\r\n\r\n"),
    "two codings": (400, CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n"),
    "chunked not last": (400, P + b"Transfer-Encoding: chunked, gzip\r\n\r\n"),
    "a vertical tab in the coding": (400, P + b"Transfer-Encoding: \x0bchunked\r\n\r\n"),
    "an unknown expectation": (417, P + b"Content-Length: 1\r\nExpect: wonders\r\n\r\na"),
    "gzip": (501, P + b"Transfer-Encoding: gzip\r\n\r\n"),
    "gzip, chunked": (501, P + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "identity": (501, P + b"Transfer-Encoding: identity\r\n\r\n"),
    "a method of RTSP": (501, b"DESCRIBE / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a method that is no token": (400, b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT": (501, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "the preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9 with a version": (505, b"GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
    "a chunk size that is empty": (400, CHUNKED + b"\r\n\r\n"),
    "a chunk size of letters": (400, CHUNKED + b"\r\ng\r\n"),
    "a negative chunk size": (400, CHUNKED + b"\r\n-1\r\n"),
    "a chunk size with a plus": (400, CHUNKED + b"\r\n+1\r\na\r\n0\r\n\r\n"),
    "a chunk size with 0x": (400, CHUNKED + b"\r\n0x1\r\na\r\n0\r\n\r\n"),
    "a chunk size with an underscore": (400, CHUNKED + b"\r\n1_0\r\n"),
    "a chunk size with a space": (400, CHUNKED + b"\r\n1 \r\na\r\n0\r\n\r\n"),
    "a space before a chunk size": (400, CHUNKED + b"\r\n 1\r\na\r\n0\r\n\r\n"),
    "a huge chunk size": (400, CHUNKED + b"\r\n" + b"f" * 17 + b"\r\n"),
    "a chunk size that overflows": (400, CHUNKED + b"\r\n1000000000000000a\r\n0123456789\r\n"),
    "a chunk size with a bare LF": (400, CHUNKED + b"\r\n1\na\r\n0\r\n\r\n"),
    "a bare CR in a chunk extension": (400, CHUNKED + b"\r\n1;a=\rb\r\na\r\n0\r\n\r\n"),
    "a NUL in a chunk extension": (400, CHUNKED + b"\r\n1;a=\0\r\na\r\n0\r\n\r\n"),
    "a long chunk extension": (431, CHUNKED + b"\r\n1;" + b"a" * 8200 + b"\r\na\r\n0\r\n\r\n"),
    "a chunk longer than it says": (400, CHUNKED + b"\r\n1\r\nab\r\n0\r\n\r\n"),
    "a chunk that ends with LF": (400, CHUNKED + b"\r\n1\r\na\n0\r\n\r\n"),
    "a trailer without a colon": (400, CHUNKED + b"\r\n0\r\nA\r\n\r\n"),
    "a trailer with a space": (400, CHUNKED + b"\r\n0\r\nA : b\r\n\r\n"),
    "a trailer with a bare LF": (400, CHUNKED + b"\r\n0\r\nA: b\n\r\n"),
    "too many trailers": (431, CHUNKED + b"\r\n0\r\n" + b"A: b\r\n" * 101 + b"\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(show: Server, name: str) -> None:
    status, request = REFUSED[name]
    reply = parse(exchange(show.address, request))
    assert reply.status == status, reply.body
    assert reply["connection"] == "close"
    assert reply.body.startswith(f"{status} ".encode())


def test_what_is_refused_even_if_httptools_lets_it_pass() -> None:
    with pytest.raises(RequestError, match="both Content-Length and Transfer-Encoding"):
        transfer_length({"CONTENT_LENGTH": "1", "HTTP_TRANSFER_ENCODING": "chunked", "SERVER_PROTOCOL": "HTTP/1.1"})
    with pytest.raises(RequestError, match="not a token"):
        _key(b"A(b)")


def test_an_httptools_that_is_too_lenient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parser.check_strictness.cache_clear()  # another test may have had it look before
    monkeypatch.setattr(parser, "_LAX", {"good requests": (get("/", "A: b"),)})
    with pytest.raises(PreforkError, match="accepts good requests in requests, which is not safe"):
        Gateway(apps.hello)


def test_what_is_refused_is_refused_before_its_end_when_it_can_be(show: Server) -> None:
    chunk = CHUNKED + b"\r\n1\n"
    for part in (b"GET / HTTP/1.1\n", b"\x16\x03\x01", b"\n", b" ", b"\r\n" * 101, b"\r\n\0", chunk):
        assert parse(exchange(show.address, part)).status == 400


def test_an_end_within_the_request(show: Server) -> None:
    """Who only ends its sending side is told what was wrong; who sent nothing is not."""
    assert ask(show, G, half_close=True).status == 400
    assert ask(show, P + b"Content-Length: 2\r\n\r\na", half_close=True).status == 400
    assert ask(show, CHUNKED + b"\r\n5\r\nabc", half_close=True).status == 400
    assert exchange(show.address, b"", half_close=True) == b""


def test_many_fields_of_one_name_take_no_longer_than_as_many_of_others() -> None:
    """Where so many are let in: 30 MB of them took ten seconds."""
    values = [f"{number:05}" + "v" * 3000 for number in range(9_900)]
    fields = ["B: c", "Cookie: e", *(f"A: {value}" for value in values), "Cookie: f", "B: d"]
    environ: dict[str, Any] = {}
    began = time.process_time()
    parser.parse_head(get("/", *fields), environ, WSGIOptions(limit_request_fields=10_000))
    assert time.process_time() - began < 3
    assert environ["HTTP_A"] == ",".join(values)
    assert (environ["HTTP_B"], environ["HTTP_COOKIE"]) == ("c,d", "e; f")


@pytest.fixture(scope="module")
def limited() -> Iterator[Server]:
    options = {
        "limit_request_line": 50,
        "limit_request_fields": 3,
        "limit_request_field_size": 40,
        "limit_request_body": 100,
    }
    with serving("show", options=options) as server:
        yield server
        assert_clean(server)


def _line(length: int) -> str:
    return "/" + "a" * (length - len("GET / HTTP/1.1"))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get(_line(50)), 200),
        (get(_line(51)), 414),
        (get(_line(5000)), 414),
        (b"GET /" + b"a" * 48, 414),  # without its end
        (b"a" * 53, 414),
        (get("/", "A: b", "C: d"), 200),
        (get("/", "A: b", "C: d", "E: f"), 431),
        (get("/", *["A:"] * 10_000), 431),
        (get("/", "A: " + "b" * 37), 200),
        (get("/", "A: " + "b" * 38), 431),
        (get("/", "A: " + "b" * 10_000), 431),
        (get("/", "A" * 41 + ":"), 431),
        (G + b"A: " + b"b" * 300, 431),  # without its end
        (post(b"a" * 100), 200),
        (post(b"a" * 101), 413),
        (get("/", "Content-Length: 999999999999", method="POST"), 413),
        (CHUNKED + b"\r\n64\r\n" + b"a" * 100 + b"\r\n0\r\n\r\n", 200),
        (CHUNKED + b"\r\n63\r\n" + b"a" * 99 + b"\r\n2\r\nbb\r\n0\r\n\r\n", 413),
        (CHUNKED + b"\r\nfffff\r\n", 413),
        (CHUNKED + b"\r\n0\r\nA: " + b"b" * 38 + b"\r\n\r\n", 431),
        (CHUNKED + b"\r\n0\r\nA: b\r\nA: b\r\nA: b\r\n\r\n", 200),
        (CHUNKED + b"\r\n0\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n", 431),
    ],
)
def test_limits(limited: Server, request_: bytes, status: int) -> None:
    assert parse(exchange(limited.address, request_)).status == status


@pytest.mark.parametrize(("bind", "host", "name"), [("0.0.0.0", "127.0.0.1", "127.0.0.1"), ("[::]", "[::1]", "::1")])
def test_the_name_of_a_server_on_every_address(bind: str, host: str, name: str) -> None:
    """SERVER_NAME is then the address that the client has reached."""
    with serving("show", bind=f"{bind}:0") as server:
        port = server.address.rpartition(":")[2]
        environ = parse(exchange(f"{host}:{port}", get())).json()
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)


def test_the_name_when_there_are_several_listeners() -> None:
    with serving("show", named=False) as server:
        environ = ask(server, get()).json()
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == tuple(server.address.split(":"))


def test_ipv6() -> None:
    with serving("show", bind="[::1]:0") as server:
        environ = ask(server, get()).json()
        assert environ["SERVER_NAME"] == environ["REMOTE_ADDR"] == "::1"
        assert f"[::1]:{environ['SERVER_PORT']}" == server.address
        assert_clean(server)


def test_unix_socket() -> None:
    with serving("show", bind=f"unix:@prefork-wsgi-{os.getpid()}") as server:
        environ = ask(server, get()).json()
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")
        assert environ["REMOTE_ADDR"] == ""
        assert "REMOTE_PORT" not in environ
        assert_clean(server)
    assert server_name("", tls=True)["SERVER_PORT"] == "443"


def test_script_name() -> None:
    with serving("show", options={"script_name": "/shop"}) as server:
        for target, script, path in [
            ("/shop/a%2Fb?c", "/shop", "/a/b"),
            ("/shop", "/shop", ""),
            ("/sh%6fp/", "/shop", "/"),
            ("/a%2Fb", "/shop", "/a/b"),  # of a proxy that leaves the mount out
            ("/shopping", "/shop", "/shopping"),
            ("/", "/shop", "/"),
        ]:
            environ = ask(server, get(target)).json()
            assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script, path), target
        assert_clean(server)


@pytest.mark.parametrize("given", ["/a-caf\xe9", "/a-caf%C3%A9"])
def test_script_name_beyond_ascii(given: str) -> None:
    with serving("show", options={"script_name": given}) as server:
        environ = ask(server, get("/a-caf%c3%a9/menu")).json()
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/a-caf\xc3\xa9", "/menu")
        assert_clean(server)


def test_errors_of_the_application_go_to_standard_error() -> None:
    with serving("tell") as server:
        assert ask(server, get("/error")).body == b"told"
        assert re.search(r"^a word of the application$", server.log(), re.MULTILINE)
