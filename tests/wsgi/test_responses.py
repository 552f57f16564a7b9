"""What the application answers, and what the client gets of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.system.forks import end_for_all
from prefork.system.peer import format_peer
from prefork.testing.client import connect
from prefork.testing.server import Server
from prefork.wsgi.channel import Channel, Pace
from tests.support.wsgi.apps import BAD_STARTS, CONTENT, NO_EXCEPTIONS
from tests.support.wsgi.harness import WITHIN, ask, assert_clean, exchange, get, parse, read_all, serving


def _one_dot_zero(target: str = "/") -> bytes:
    return get(target, version="1.0")


def _logged_traceback(server: Server, of: str) -> None:
    server.wait_for_log(f"(?s)ERROR the application failed on GET /.*Traceback.*{of}")


def test_length_given_by_the_application() -> None:
    with serving("hello", validate=False) as server:
        raw = exchange(server.address, get())
        reply = parse(raw)
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
        assert [name for name, _ in reply.headers] == ["content-type", "content-length", "date", "connection"]
        assert (reply["content-length"], reply["connection"], reply.body) == ("5", "close", b"hello")
        assert parse(exchange(server.address, _one_dot_zero())).body == b"hello"
        assert_clean(server)


def test_length_of_the_only_piece() -> None:
    with serving("unsized", validate=False) as server:
        for request in (get(), _one_dot_zero()):
            reply = ask(server, request)
            assert reply["content-length"] == "5"
            assert reply.body == b"hello"


def test_pieces_are_chunks_or_end_with_the_connection() -> None:
    """The validator hides that there is only one piece."""
    for validate in (True, False):
        with serving("pieces", validate=validate) as server:
            raw = exchange(server.address, get())
            reply = parse(raw)
            assert reply["transfer-encoding"] == "chunked"
            assert not reply.has("content-length")
            assert reply.body == b"one,two," + b"x" * 100_000
            assert b"\r\n\r\n4\r\none,\r\n4\r\ntwo,\r\n186a0\r\n" in raw
            raw = exchange(server.address, _one_dot_zero())
            reply = parse(raw)
            assert not reply.has("transfer-encoding")
            assert not reply.has("content-length")
            assert reply.body == b"one,two," + b"x" * 100_000
            assert_clean(server)


def test_pieces_are_not_held_back() -> None:
    """The first is there while the application has not yet made the second."""
    with serving("begin_then_read") as server, connect(server.address, timeout=WITHIN) as client:
        client.sendall(get("/", "Content-Length: 3", method="POST"))
        raw = b""
        while b"begun," not in raw:
            raw += client.recv(1 << 16)
        client.sendall(b"end")
        while piece := client.recv(1 << 16):
            raw += piece
        assert parse(raw).body == b"begun,end"
        assert_clean(server)


def test_no_pieces_at_all() -> None:
    with serving("nothing") as server:
        for request in (get(), _one_dot_zero()):
            reply = ask(server, request)
            assert reply["content-length"] == "0"
            assert reply.body == b""
        assert_clean(server)


def test_write() -> None:
    with serving("by_write") as server:
        assert ask(server, get()).body == b"written,returned"
        assert ask(server, _one_dot_zero()).body == b"written,returned"
        assert ask(server, get(method="HEAD")).body == b""
        assert_clean(server)


@pytest.mark.parametrize("app", ["hello", "unsized", "pieces", "nothing", "file_in_pieces"])
def test_head_has_no_body(app: str) -> None:
    with serving(app) as server:
        for version in ("1.1", "1.0"):
            raw = exchange(server.address, get(method="HEAD", version=version))
            assert raw.endswith(b"\r\n\r\n")
            assert raw.count(b"\r\n\r\n") == 1
            assert parse(raw, "HEAD").status == 200
        assert_clean(server)


def test_head_does_not_wait_for_the_end_of_a_body() -> None:
    """This one has none."""
    with serving("many", validate=False) as server:
        for kind in ("/chunked", "/length"):
            assert ask(server, get(kind, method="HEAD")).body == b""
        assert_clean(server)


def test_head_says_the_length_of_a_body_that_was_made() -> None:
    with serving("unsized", validate=False) as server:
        assert ask(server, get(method="HEAD"))["content-length"] == "5"
    with serving("nothing", validate=False) as server:
        assert not ask(server, get(method="HEAD")).has("content-length")
    with serving("file", validate=False) as server:
        reply = ask(server, get("/buffered", method="HEAD"))
        assert (reply["content-length"], reply.body) == (str(len(CONTENT)), b"")
        assert_clean(server)


# Each with what it says of its length: where the application says nothing, and where it says 5.
@pytest.mark.parametrize(("status", "lengths"), [("204", ["", ""]), ("205", ["0", "0"]), ("304", ["", "5"])])
def test_statuses_without_a_body(status: str, lengths: list[str]) -> None:
    with serving("status_of_path", validate=False) as server:
        for version in ("1.1", "1.0"):
            for method in ("GET", "HEAD"):
                for query in ("", "?piece", "?pieces", "?write", "?length"):
                    raw = exchange(server.address, get(f"/{status}{query}", version=version, method=method))
                    assert raw.startswith(b"HTTP/1.1 %s" % status.encode())
                    assert raw.endswith(b"\r\n\r\n")
                    assert b"\r\nX-Kept: yes\r\n" in raw
                    reply = parse(raw, method)
                    assert not reply.has("transfer-encoding")
                    said = lengths[query == "?length"]
                    assert [value for name, value in reply.headers if name == "content-length"] == [said] * bool(said)
    with serving("file", validate=False) as server:
        assert exchange(server.address, get(f"/buffered?{status}")).endswith(b"\r\n\r\n")


def test_the_validator_has_nothing_against_statuses_without_a_body() -> None:
    with serving("status_of_path") as server:
        for status in ("204", "304"):  # it wants a type of 205, which is to have no content either
            assert ask(server, get(f"/{status}"))["x-kept"] == "yes"
        assert_clean(server)


@pytest.mark.parametrize("status", ["201", "206", "302", "404", "500", "599", "999"])
def test_other_statuses(status: str) -> None:
    with serving("status_of_path", validate=False) as server:
        reply = ask(server, get(f"/{status}"))
        assert (reply.status, reply.reason) == (int(status), "Whatever")
        assert reply["content-length"] == "0"


@pytest.mark.parametrize("status", ["100", "101", "103", "199"])
def test_an_interim_answer_is_not_the_applications_to_give(status: str) -> None:
    with serving("status_of_path", validate=False, warnings="default") as server:
        assert ask(server, get(f"/{status}")).status == 500
        _logged_traceback(server, "not of the form")


def test_text_beyond_ascii_and_a_date_of_its_own() -> None:
    with serving("latin", validate=False) as server:
        raw = exchange(server.address, get())
        assert raw.startswith(b"HTTP/1.1 200 Sch\xf6n\r\n")
        assert b'\r\nX-Name: J\xf6rg\t"x"\r\n' in raw
        assert parse(raw)["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"


def test_a_status_needs_no_reason() -> None:
    with serving("reasonless", validate=False) as server:
        raw = exchange(server.address, get())
        assert raw.startswith(b"HTTP/1.1 404 \r\n")
        assert parse(raw).body == b"hello"


def test_fields_that_repeat_stay_apart() -> None:
    with serving("repeats") as server:
        reply = ask(server, get())
        assert [value for name, value in reply.headers if name == "set-cookie"] == ["a=b", "c=d"]


def test_exc_info_replaces_what_was_not_sent() -> None:
    with serving("exchanged") as server:
        reply = ask(server, get())
        assert (reply.status, reply.body) == (404, b"second")
        assert reply["x-second"] == "yes"
        assert_clean(server)


def test_exc_info_raises_when_the_head_was_sent() -> None:
    with serving("exchanged_late") as server:
        raw = exchange(server.address, get())
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
        assert raw.endswith(b"4\r\nsent\r\n"), "the last chunk must be missing"
        _logged_traceback(server, "ValueError: too late")


@pytest.mark.parametrize(
    ("app", "error"),
    [
        ("raises", "ZeroDivisionError: on purpose"),
        ("started_twice", "RuntimeError: start_response"),
        ("never_started", "RuntimeError: start_response"),
        ("not_bytes", "TypeError: the body of a response is bytes, not str"),
    ],
)
def test_the_applications_failure(app: str, error: str) -> None:
    with serving(app, validate=False) as server:
        for request in (get(), _one_dot_zero()):
            reply = ask(server, request)
            assert reply.status == 500
            assert b"Traceback" not in reply.body
            assert error.partition(":")[0].encode() not in reply.body
            _logged_traceback(server, error)
        assert exchange(server.address, get(method="HEAD")).endswith(b"\r\n\r\n")


@pytest.fixture(scope="module")
def bad_start() -> Iterator[Server]:
    with serving("bad_start", validate=False) as server:
        yield server


@pytest.mark.parametrize("what", BAD_STARTS)
def test_what_start_response_does_not_take(bad_start: Server, what: str) -> None:
    """A header injection is a 500, with nothing of it on the wire."""
    before = len(bad_start.log())
    raw = exchange(bad_start.address, get(f"/{what}"))
    assert parse(raw).status == 500
    assert b"Set-Cookie" not in raw
    assert b"X-A" not in raw
    bad_start.wait_for_log(
        rf"(?s)failed on GET /{what}\n.*Traceback.*(ValueError|TypeError|UnicodeEncodeError): ", after=before
    )


def test_a_failure_after_the_first_piece_cuts_the_response() -> None:
    with serving("closing") as server:
        assert ask(server, get("/0")).status == 500
        raw = exchange(server.address, get("/2"))
        assert raw.endswith(b"6\r\npiece,\r\n6\r\npiece,\r\n"), "the last chunk must be missing"
        # HTTP/1.0 ends a body with the connection: only a reset shows that it is not whole.
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(_one_dot_zero("/2"))
            with pytest.raises(ConnectionResetError):
                read_all(client)
        assert server.log().count("the iterable was closed") == 3


def test_a_cut_answer_is_reset_though_others_may_have_copies_of_its_connection() -> None:
    """As after a fork of the application's: who closes it ends it for them."""
    with socket.create_server(("127.0.0.1", 0)) as listener, connect(format_peer(listener.getsockname())) as client:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"cut")
            Channel(connection, Pace()).abort()
            end_for_all(connection)
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_a_worker_that_dies_leaves_no_answer_that_looks_whole() -> None:
    with serving("dies", validate=False) as server, connect(server.address, timeout=WITHIN) as client:
        client.sendall(_one_dot_zero())
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_an_application_that_leaves_nothing_of_the_environ() -> None:
    with serving("clears", validate=False, options={"access_log": "-"}) as server:
        assert ask(server, get()).status == 500
        server.wait_for_log("ERROR the application failed on None None")
        assert ask(server, get()).status == 500


def test_whatever_an_application_raises_its_worker_lives_on() -> None:
    """The client is told, or notices; the log has the traceback and the URL."""
    with serving("raises_no_exception", validate=False) as server:
        for name, kind in NO_EXCEPTIONS.items():
            for request in (get(f"/{name}"), _one_dot_zero(f"/{name}")):
                assert ask(server, request).status == 500
            server.wait_for_log(rf"ERROR the application failed on GET /{name}\n(.+\n)*.*{kind.__name__}: on purpose")
            raw = exchange(server.address, get(f"/{name}?pieces"))
            assert raw.endswith(b"4\r\nsent\r\n"), "the last chunk must be missing"
            with connect(server.address, timeout=WITHIN) as client:
                client.sendall(_one_dot_zero(f"/{name}?pieces"))
                with pytest.raises(ConnectionResetError):
                    read_all(client)
            assert ask(server, get(f"/{name}?close")).body == b"sent"
            server.wait_for_log(rf"failed on GET /{name}.close\n(.+\n)*.*{kind.__name__}: on purpose")


def test_the_iterable_is_closed() -> None:
    with serving("closing") as server:
        assert ask(server, get()).body == b"piece," * 3
        server.wait_for_log("the iterable was closed")
        assert ask(server, get(method="HEAD")).body == b""
        server.wait_for(lambda: server.log().count("the iterable was closed") == 2)
        assert_clean(server)


def test_the_iterable_is_closed_when_the_client_is_gone() -> None:
    with serving("many", validate=False) as server:
        for kind in ("/chunked", "/length", "/write"):
            with connect(server.address, timeout=WITHIN) as client:
                client.sendall(get(kind))
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
            server.wait_for(lambda: "no answer to" in server.log())
        assert_clean(server)
    with serving("closing", validate=False) as server:
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(get())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert ask(server, get()).body == b"piece," * 3
        assert_clean(server)


def test_an_iterable_that_fails_to_close() -> None:
    with serving("fails_to_close") as server:
        assert ask(server, get()).body == b"whole"
        _logged_traceback(server, "ZeroDivisionError")
        assert ask(server, get()).body == b"whole"


def test_less_than_the_length() -> None:
    with serving("wrong_length") as server:
        raw = exchange(server.address, get("/9"))
        assert raw.endswith(b"\r\n\r\nhello")
        assert b"Content-Length: 9\r\n" in raw
        _logged_traceback(server, "ValueError: the response is shorter than its Content-Length, by 4 bytes")


def test_more_than_the_length() -> None:
    with serving("wrong_length") as server:
        for length, sent in ((4, b"hell"), (2, b"he"), (1, b"h"), (0, b"")):
            reply = ask(server, get(f"/{length}"))
            assert reply.body == sent
            _logged_traceback(server, "ValueError: the response is longer than its Content-Length")


@pytest.fixture(scope="module")
def files() -> Iterator[Server]:
    with serving("file", validate=False) as server:
        yield server


@pytest.mark.parametrize(
    ("kind", "length", "content"),
    [
        ("buffered", True, CONTENT),
        ("raw", True, CONTENT),
        ("unflushed", True, CONTENT[-100:-6] + b"end" + CONTENT[-3:]),
        ("offset", True, CONTENT[1000:]),
        ("end", True, b""),
        ("short", True, CONTENT[:1000]),
        ("memory", False, CONTENT),
        ("gzip", False, CONTENT),
        ("gzip-in-file", False, CONTENT),
        ("pipe", False, b"from a pipe"),
    ],
)
def test_file_wrapper(files: Server, kind: str, length: bool, content: bytes) -> None:
    for request in (get(f"/{kind}"), _one_dot_zero(f"/{kind}")):
        reply = ask(files, request)
        assert reply.has("content-length") == length
        assert reply.body == content
    assert_clean(files)


def test_file_wrapper_of_a_file_without_a_size(files: Server) -> None:
    assert ask(files, get("/proc")).body.split(b"\0")[0].rpartition(b"/")[2].startswith(b"python")


def test_file_wrapper_after_a_write() -> None:
    with serving("file_after_write", validate=False) as server:
        assert ask(server, get()).body == b"written," + CONTENT
        assert_clean(server)


def test_file_wrapper_within_middleware() -> None:
    with serving("file_in_pieces") as server:
        assert ask(server, get()).body == CONTENT
        server.wait_for_log("the iterable was closed")
        assert_clean(server)


def test_a_file_shorter_than_the_length() -> None:
    with serving("file", validate=False) as server:
        raw = exchange(server.address, get("/long"))
        assert raw.endswith(CONTENT)
        _logged_traceback(server, "ValueError: the response is shorter than its Content-Length")


def test_a_file_that_shrinks_on_its_way() -> None:
    with serving("big_file", validate=False) as server, connect(server.address, timeout=WITHIN) as client:
        client.sendall(get("/?300"))
        received = client.recv(1)  # and no more until the file is short
        server.wait_for_log("the file is short")
        while piece := client.recv(1 << 20):
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"Content-Length: 1073741824" in head
        assert len(body) < 1 << 30
        _logged_traceback(server, "ValueError: the response is shorter than its Content-Length")


@pytest.mark.parametrize("path", ["/sys/class/net/lo/mtu", "/proc/version", "/proc/config.gz"])
def test_files_that_the_kernel_makes_up(path: str) -> None:
    """Their sizes are not true, or sendfile(2) knows nothing of them."""
    if not Path(path).exists():
        pytest.skip(f"no {path} here")
    with serving("any_file") as server:
        assert ask(server, get(f"/?{path}")).body == Path(path).read_bytes()
        assert_clean(server)


def test_a_filesystem_without_sendfile() -> None:
    """Its bytes are copied, and counted as if they were not."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/proc/self/environ", "rb") as file:
        with pytest.raises(OSError, match="Invalid argument"):
            os.sendfile(ours.fileno(), file.fileno(), 0, 10)
        expected = file.read()
        assert Channel(ours, Pace()).sendfile(file.fileno(), 0, len(expected) + 10) == len(expected)
        assert theirs.recv(len(expected) + 10) == expected
