"""``prefork wsgi`` and `prefork.wsgi.serve`: the service in workers, under a master."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork.testing.client import Load, connect
from prefork.testing.processes import limited_descriptors
from prefork.testing.server import Server, running, running_script
from prefork.testing.waiting import call_until
from prefork.wsgi.options import WSGIOptions
from tests.support.forked import SERVERS
from tests.support.held_up import unless_held_up
from tests.support.tls_clients import KEYS, client_context
from tests.support.wsgi.harness import ROOT, WITHIN, ask, assert_clean, get, parse, post, read_all

CREATE = """\
def create():
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"created"]
    return application

nothing = None
"""


def command(*arguments: str, before: str = "") -> list[str]:
    """What runs the command, behind a line of Python perhaps."""
    program = ["-c", f"{before}\nimport sys\nfrom prefork.cli.main import main\nsys.exit(main())"] if before else []
    return [sys.executable, *(program or ["-m", "prefork"]), "wsgi", *arguments]


@contextmanager
def serving(target: str, *flags: str, cwd: Path = ROOT) -> Iterator[Server]:
    with running(command(target, "--bind", "127.0.0.1:0", "--workers", "2", *flags), cwd=cwd, within=WITHIN) as server:
        yield server


def failed(*arguments: str, cwd: Path = ROOT, before: str = "") -> tuple[int, str]:
    """The exit code and the standard error of a command that does not come to serving."""
    done = SERVERS.run(command(*arguments, before=before), cwd=cwd, timeout=WITHIN)
    return done.returncode, done.stderr


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_requests_and_a_stop(preload: str) -> None:
    with serving("tests.support.wsgi.apps:show", preload) as server:
        environ = ask(server, post(b"hello", target="/a?b")).json()
        assert (environ["PATH_INFO"], environ["body.length"]) == ("/a", 5)
        assert environ["SERVER_PORT"] == server.address.rpartition(":")[2]
        assert ask(server, b"nonsense\r\n\r\n").status == 400
        assert server.stop() == 0
        assert_clean(server)


def test_a_factory(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(CREATE)
    with serving("shop:create()", cwd=tmp_path) as server:
        assert ask(server, get()).body == b"created"


def test_a_stop_with_a_request_in_hand() -> None:
    with (
        serving("tests.support.wsgi.apps:slow", "--workers", "1") as server,
        connect(server.address, timeout=WITHIN) as client,
    ):
        client.sendall(get("/700"))
        with connect(server.address, timeout=WITHIN) as waiting:
            waiting.sendall(get("/1"))
            server.signal(signal.SIGTERM)
            assert parse(read_all(client)).body == b"slow"
            assert parse(read_all(waiting)).body == b"slow"
        assert server.wait() == 0


def test_reloads_under_load_lose_nothing() -> None:
    with serving("tests.support.wsgi.apps:hello", "--no-preload") as server:
        with Load(server.address, clients=8) as load:
            for generation in range(1, 3):
                server.signal(signal.SIGHUP)
                server.wait_for_log(f"generation {generation} serves")
            load.wait_for(lambda tally: tally.answered > 200)
        assert load.tally.lost == 0, load.tally
        assert_clean(server)


def test_a_hang_ends_with_a_traceback() -> None:
    with serving("tests.support.wsgi.apps:slow", "--timeout", "2") as server:
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(get("/600000"))
            server.wait_for_log(r"in slow\b")  # the application's frame
            with pytest.raises((ConnectionResetError, AssertionError)):
                assert read_all(client)
        server.wait_for(lambda: len(server.workers()) == 2)
        assert ask(server, get("/1")).body == b"slow"


def test_a_slow_client_is_no_hang() -> None:
    """It takes twice the worker's timeout, which is the application's alone."""
    with serving("tests.support.wsgi.apps:echo", "--timeout", "1", "--min-rate", "5") as server:
        workers = server.workers()
        with connect(server.address, timeout=WITHIN) as client:
            request = post(b"a" * 50)
            client.sendall(request[:-50])
            stop = threading.Event()
            for at in range(50):
                client.sendall(request[-50:][at : at + 1])
                stop.wait(0.05)  # the client's slowness
            assert parse(read_all(client)).body == b"a" * 50
        assert server.workers() == workers
        assert_clean(server)


@pytest.mark.long
def test_a_client_without_limit_is_no_hang_and_the_application_is_still_one() -> None:
    flags = ["--timeout", "1", "--io-timeout", "0", "--header-timeout", "0"]
    with serving("tests.support.wsgi.apps:slow", "--workers", "1", *flags) as server:
        workers = server.workers()
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(get("/1")[:-1])
            time.sleep(2.5)  # more than the timeout, and the time that the master may take to see that
            client.sendall(b"\n")
            assert parse(read_all(client)).body == b"slow"
        assert server.workers() == workers
        with connect(server.address, timeout=WITHIN) as client:
            client.sendall(get("/600000")[:-1])
            time.sleep(0.1)  # so that it is waited for
            client.sendall(b"\n")
            server.wait_for_log(r"in slow\b")  # the application's frame


def test_who_can_not_be_served_is_told_when_to_come_again() -> None:
    flags = ["--exhausted", "shed", "--retry-after", "7", "--defer-accept", "0"]
    with serving("tests.support.wsgi.apps:hello", *flags) as server, limited_descriptors(server.workers()):
        reply = ask(server, get())
        while reply.status == 200:  # each worker has its next descriptor already
            reply = ask(server, get())
        assert (reply.status, reply["retry-after"]) == (503, "7")


def test_tls() -> None:
    flags = [f"--{name}={value}" for name, value in KEYS.items()]
    with serving("tests.support.wsgi.apps:show", *flags) as server:
        with client_context().wrap_socket(
            connect(server.address, timeout=WITHIN), server_hostname="localhost"
        ) as client:
            client.sendall(get())
            environ = parse(read_all(client)).json()
        assert environ["wsgi.url_scheme"] == "https"
        with pytest.raises(ssl.SSLError):
            ssl.create_default_context().wrap_socket(connect(server.address), server_hostname="localhost")
        server.wait_for_log("INFO .* no TLS with")


def test_a_first_request_needs_no_descriptor_beside_its_own() -> None:
    """Nothing of TLS is left to be imported, for which files would be opened."""
    flags = [f"--{name}={value}" for name, value in KEYS.items()]
    with serving("tests.support.wsgi.apps:hello", "--workers=1", *flags) as server:
        (worker,) = server.workers()
        own = min({*range(1000)} - {*map(int, os.listdir(f"/proc/{worker}/fd"))})
        with (
            limited_descriptors([worker], own + 1),
            client_context().wrap_socket(connect(server.address), server_hostname="localhost") as client,
        ):
            client.sendall(get())
            assert parse(read_all(client)).status == 200


def test_a_session_is_resumed_by_the_other_worker() -> None:
    """The keys of the tickets are made before the fork."""
    flags = [f"--{name}={value}" for name, value in KEYS.items()]
    context = client_context()
    with serving("tests.support.wsgi.apps:hello", *flags) as server:
        session, reused = None, 0
        for _ in range(10):
            with context.wrap_socket(
                connect(server.address, timeout=WITHIN), server_hostname="localhost", session=session
            ) as client:
                client.sendall(get())
                assert read_all(client)
                reused += bool(client.session_reused)
                session = client.session
        assert reused == 9


def test_a_certificate_that_is_not_there() -> None:
    code, said = failed("tests.support.wsgi.apps:hello", "--certfile", "missing.pem")
    remedy = "No such file or directory; give a PEM certificate and its key"
    assert (code, said) == (2, f"prefork: error: certfile: {ROOT}/missing.pem: {remedy}\n")


def test_several_addresses(tmp_path: Path) -> None:
    with serving("tests.support.wsgi.apps:show", "--bind", f"unix:{tmp_path}/socket") as server:
        names = set()
        for address in server.addresses:
            with connect(address, timeout=WITHIN) as client:
                client.sendall(get())
                environ = parse(read_all(client)).json()
                names.add((environ["SERVER_NAME"], environ["REMOTE_ADDR"]))
        assert names == {("127.0.0.1", "127.0.0.1"), ("localhost", "")}
        assert_clean(server)


def test_without_httptools() -> None:
    missing = "import sys; sys.modules['httptools'] = None\n"
    code, said = failed("tests.support.wsgi.apps:hello", before=missing)
    assert code == 1
    assert said == ("prefork: error: the WSGI server needs httptools; install it with: pip install 'prefork[wsgi]'\n")
    shown = subprocess.run(
        command("--help", before=missing), cwd=ROOT, capture_output=True, text=True, timeout=WITHIN, check=True
    )
    assert "--limit-request-body" in shown.stdout


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_what_is_no_application(tmp_path: Path, preload: str) -> None:
    (tmp_path / "shop.py").write_text(CREATE)
    code, said = failed("shop:nothing", "--bind", "127.0.0.1:0", preload, cwd=tmp_path)
    assert code == 2
    assert "shop:nothing is NoneType, which can't be called; name a WSGI application" in said
    assert "Traceback" not in said


def test_the_configuration() -> None:
    done = subprocess.run(
        command("--print-config", "--limit-request-line", "100"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=True,
        env={**os.environ, "PREFORK_LIMIT_REQUEST_BODY": "2M"},
    )
    assert "\nlimit_request_line = 100  # --limit-request-line\n" in done.stdout
    assert '\nlimit_request_body = "2M"  # PREFORK_LIMIT_REQUEST_BODY\n' in done.stdout
    assert "\ntimeout = 30.0  # default\n" in done.stdout
    code, said = failed("tests.support.wsgi.apps:hello", "--keyfile", "x", "--min-rate", "-1", "--workers", "0")
    assert code == 2
    assert said.count("prefork: error: ") == 3, said
    code, said = failed("tests.support.wsgi.apps:hello", "--keyfile", "x")
    assert (code, said.count("keyfile: 'x' has no use without certfile")) == (2, 1)


def test_the_example() -> None:
    with serving("wsgi_app:application", "--app-dir", "examples") as server:
        assert ask(server, get("/?name=you")).body == b"Hello, you!\n"
        assert ask(server, post(b"a" * 1000, target="/upload")).body.startswith(b"1000 bytes, sha256 41edece42d63e8d9b")
        assert ask(server, get("/source")).body == (ROOT / "examples" / "wsgi_app.py").read_bytes()
        assert ask(server, get("/nothing")).status == 404
        assert_clean(server)


def test_serve_from_python() -> None:
    script = """
        import logging, sys
        import prefork.wsgi

        def application(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [environ["wsgi.input"].read()]

        logging.basicConfig(level=logging.INFO)
        options = prefork.wsgi.WSGIOptions(limit_request_body=10)
        sys.exit(prefork.wsgi.serve(application, options=options, bind="127.0.0.1:0", workers=1))
    """
    with running_script(textwrap.dedent(script), within=WITHIN) as server:
        assert ask(server, post(b"hello")).body == b"hello"
        assert ask(server, post(b"hello, world")).status == 413
        assert server.stop() == 0


def test_serve_refuses_what_is_no_application() -> None:
    import prefork.wsgi

    with pytest.raises(TypeError, match="the application is int, which can't be called"):
        prefork.wsgi.serve(5)  # type: ignore[arg-type]  # that is the point
    assert json.dumps(sorted(prefork.wsgi.__all__))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        prefork.wsgi.nothing  # noqa: B018  # looking it up is the test


LEFT_UNREAD = """\
import sys

class Result:
    def __init__(self, path):
        self.path = path

    def __iter__(self):
        return iter([b"x" * 100])

    def close(self):
        if self.path == "/close":
            raise RuntimeError("teardown failed")
        if self.path == "/exit":
            sys.exit(0)

def application(environ, start_response):
    if environ["PATH_INFO"] == "/early":
        sys.exit(0)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "100")])
    return Result(environ["PATH_INFO"])
"""


def test_no_answer_is_reset_with_a_body_unread(tmp_path: Path) -> None:
    """Whatever becomes of the application: what was sent, or the 500 in its place, arrives."""
    (tmp_path / "shop.py").write_text(LEFT_UNREAD)
    with serving("shop:application", cwd=tmp_path) as server:

        def status(path: str, version: str) -> tuple[int, float]:
            """What the answer was, 0 for a reset, and how long it took to send it all."""
            began = time.monotonic()
            with connect(server.address, timeout=WITHIN) as client, contextlib.suppress(ConnectionError):
                client.sendall(get(path, "Content-Length: 200000", method="POST", version=version))
                for _ in range(20):
                    client.sendall(b"z" * 10_000)
                    time.sleep(0.002)  # so that it is still being sent when the answer has been
                return parse(read_all(client)).status, 0.0
            return 0, time.monotonic() - began

        for path, version in itertools.product(("/plain", "/close", "/exit", "/early"), ("1.1", "1.0")):
            # Nobody is heard out for longer than two seconds, so a client whom something holds up is none to judge by.
            found, _ = call_until(lambda: status(path, version), lambda seen: seen[1] < 1.5)  # noqa: B023  # called at once
            assert found == (500 if path == "/early" else 200)


def test_who_lingers_holds_nobody() -> None:
    """Each of these had a worker for itself for 2 seconds: the last but one waited for 20."""
    ways = (b"x y\r\n\r\n", get() + get("/second"), post(b"a" * 100_000)[:-50_000])
    with serving("tests.support.wsgi.apps:ignore_body") as server, contextlib.ExitStack() as stack:
        late = 0
        for number in range(60):
            client = stack.enter_context(connect(server.address, timeout=WITHIN))
            client.sendall(ways[number % len(ways)])
            if number % 3 == 2:
                began = time.monotonic()
                assert ask(server, get()).body == b"ignored"
                late += time.monotonic() - began > 1.5
        assert late <= 5  # somebody may have been held up by the machine
        assert_clean(server)


def test_who_lingers_under_tls_holds_nobody() -> None:
    flags = [f"--{name}={value}" for name, value in KEYS.items()]
    context = client_context()
    with serving("tests.support.wsgi.apps:ignore_body", *flags) as server, contextlib.ExitStack() as stack:
        crowd = []
        for number in range(12):
            client = connect(server.address, timeout=WITHIN)
            if number % 3:
                client = context.wrap_socket(client, server_hostname="localhost")
            client.sendall(get() + get("/second") if number % 3 else get() + b"a" * 100_000)  # plain text, one in three
            crowd.append(stack.enter_context(client))
        began = time.monotonic()
        with context.wrap_socket(connect(server.address, timeout=WITHIN), server_hostname="localhost") as other:
            other.sendall(get())
            assert parse(read_all(other)).body == b"ignored"
        assert time.monotonic() - began < 6, "12 seconds, when two workers wait for all of them"
        for number, client in enumerate(crowd):
            if number % 3:
                assert parse(read_all(client)).body == b"ignored"


def test_who_is_silent_beyond_defer_accept_holds_nobody() -> None:
    """The kernel keeps such a connection for some seconds and hands it over all the same."""
    with serving("tests.support.wsgi.apps:hello", "--defer-accept=1", "--header-timeout=60") as server:
        with contextlib.ExitStack() as stack:
            crowd = [stack.enter_context(connect(server.address, timeout=WITHIN)) for _ in range(6)]
            for client in crowd:
                assert read_all(client) == b""
        assert ask(server, get()).body == b"hello"

        def slowly() -> None:
            with connect(server.address, timeout=WITHIN) as client:
                client.sendall(get()[:5])
                time.sleep(1.2)  # somebody slow is none who is silent
                client.sendall(get()[5:])
                assert parse(read_all(client)).body == b"hello"

        unless_held_up(2, slowly)  # of which he may be silent for one, before he begins


@pytest.mark.long
@pytest.mark.parametrize("way", ["chunked", "read"])
def test_a_fast_upload_is_no_hang(way: str) -> None:
    """Its client is never slower than the worker, which so never waits, and takes longer than the timeout."""
    with serving("tests.support.wsgi.apps:count_body", "--timeout=3", "--workers=1", "--spool-limit=0") as server:
        workers = server.workers()
        with connect(server.address, timeout=WITHIN) as client:
            if way == "chunked":
                client.sendall(get("/", "Transfer-Encoding: chunked", method="POST"))
                piece, last = b"1\r\nx\r\n" * 5_000, b"0\r\n\r\n"
            else:
                client.sendall(get("/", f"Content-Length: {1 << 40}", method="POST"))
                piece, last = b"x" * (1 << 16), b""
            end = time.monotonic() + 7.5  # the timeout, and the time that the master may take to see that
            while time.monotonic() < end:
                client.sendall(piece)
            client.sendall(last)
            if last:
                assert parse(read_all(client)).status == 200
        assert server.workers() == workers
        assert "Traceback" not in server.log().replace("ended within its body", ""), server.log()


def test_what_a_request_makes_the_server_store_is_limited() -> None:
    chunk = b"10000\r\n" + b"z" * 0x10000 + b"\r\n"
    head = get("/", "Transfer-Encoding: chunked", method="POST")
    for flags, status in ((["--spool-limit=1M"], 413), (["--spool-limit=4M"], 200), (["--spool=none"], 200)):
        with serving("tests.support.wsgi.apps:count_body", *flags) as server:
            reply = ask(server, head + chunk * 20 + b"0\r\n\r\n")
            assert reply.status == status
            if status == 413:
                assert b"stores" in reply.body
    assert 0 < WSGIOptions().spool_limit <= 1 << 30, "finite unless somebody says otherwise"
