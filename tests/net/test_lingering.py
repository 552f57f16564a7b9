"""Who still sends when he has been answered gets the answer, and nobody else waits for him."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prefork.config.settings import Settings
from prefork.net.tls import close, context_of, shake_hands
from prefork.testing import Server, connect, running_script
from prefork.testing.processes import limited_descriptors
from tests.support.held_up import unless_held_up
from tests.support.tls_clients import KEYS, client_context, secured

WITHIN = 30.0
TIMES = 1.9  # seconds: a client who has been answered is heard out for two
ANSWER = b"a" * 100_000
HANDLER = """
import logging, os, sys, threading
import prefork

def handle(connection, address):
    asked = connection.recv(1)
    if asked == b"f":  # a child, meanwhile
        child = os.fork()
        if not child:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        connection.sendall(b"forked")
    elif asked == b"?":
        held, threads = os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")
        connection.sendall(f"{os.getpid()} {len(held)} {len(threads)}".encode())
    else:
        connection.sendall(b"a" * 100_000)
        prefork.linger(connection)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    given = dict(item.split("=", 1) for item in sys.argv[1:])
    sys.exit(prefork.serve(handle, bind=given.pop("bind", "127.0.0.1:0"), workers=1, **given))
"""


@contextlib.contextmanager
def answering(*arguments: str) -> Iterator[Server]:
    with running_script(HANDLER, *arguments, within=WITHIN) as server:
        yield server


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


def told(server: Server) -> tuple[int, int, int]:
    """The worker's pid, and how many descriptors and threads it has."""
    with connect(server.address, timeout=WITHIN) as client:
        client.sendall(b"?")
        pid, descriptors, threads = map(int, read_all(client).split())
    return pid, descriptors, threads


def lingerer(server: Server) -> socket.socket:
    """One that has the answer and may go on sending."""
    client = connect(server.address, timeout=WITHIN)
    client.sendall(b"abc")
    return client


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_who_still_sends_gets_the_answer(tmp_path: Path, kind: str) -> None:
    with answering(*([f"bind=unix:{tmp_path}/s"] if kind == "unix" else [])) as server:

        def sends_on() -> None:
            with lingerer(server) as client:
                for _ in range(20):
                    client.sendall(b"z" * 10_000)
                    assert told(server)  # the one worker serves, meanwhile
                assert read_all(client) == ANSWER
                client.sendall(b"z" * 200_000)

        for _ in range(3):
            unless_held_up(TIMES, sends_on)


def test_nothing_is_left_of_them() -> None:
    """And nobody has a thread or a descriptor more than before who has not lingered for a while."""
    with answering() as server:
        _, usual, threads = told(server)
        assert threads == 1
        silent: list[socket.socket] = []

        def linger() -> None:
            silent.extend(lingerer(server) for _ in range(5))
            _, more, threads = told(server)
            assert more >= usual + 5
            assert threads == 2

        unless_held_up(TIMES, linger)
        server.wait_for(lambda: told(server)[2] == 1)
        assert told(server)[1] <= usual + 2, "what they are waited for with"
        for client in silent:
            client.close()


def test_forks_meet_no_thread_and_end_nobody() -> None:
    with answering() as server:

        def fork_beside_one() -> None:
            with lingerer(server) as client:
                assert told(server)[2] == 2
                with connect(server.address, timeout=WITHIN) as other:
                    other.sendall(b"f")
                    assert read_all(other) == b"forked"
                for _ in range(10):
                    client.sendall(b"z" * 10_000)
                assert told(server)[2] == 2
                assert read_all(client) == ANSWER

        unless_held_up(TIMES, fork_beside_one)
        assert "DeprecationWarning" not in server.log()


def test_few_descriptors_are_no_leak() -> None:
    """The oldest makes room, and the worker stays who it is."""
    with answering() as server:
        pid, used, _ = told(server)
        with limited_descriptors([pid], used + 40):
            crowd = [lingerer(server) for _ in range(100)]
            assert told(server)[0] == pid
            assert told(server)[1] < used + 25
            assert server.workers() == [pid]
        assert "leak" not in server.log()
        for client in crowd:
            client.close()


def test_a_stop_waits_for_them_and_not_for_long() -> None:
    with answering() as server, lingerer(server) as silent, lingerer(server) as client:
        assert told(server)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        for _ in range(10):
            client.sendall(b"z" * 10_000)
        assert read_all(client) == ANSWER
        client.close()
        assert server.wait() == 0
        assert time.monotonic() - began < 15
        assert read_all(silent) == ANSWER
        assert "kill" not in server.log()


def test_under_tls_handlers_leave_no_reset() -> None:
    """Their connections linger by themselves when records are left unread."""
    with answering(*(f"{name}={value}" for name, value in KEYS.items())) as server:
        for _ in range(3):
            with secured(server) as client:
                client.sendall(b"z" * 300_000)
                assert read_all(client) == ANSWER, "and close_notify behind it"


def test_close_notify_waits_for_room_and_nobody_for_that() -> None:
    """The buffers are full with what the client has not taken yet; it gets all of it, and then the end."""
    context = context_of(Settings(**KEYS))
    assert context is not None
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(WITHIN)
        plain.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with ThreadPoolExecutor(1) as pool:
            shaking = pool.submit(client_context().wrap_socket, plain, server_hostname="localhost")
            ours = shake_hands(accepted, context)
            theirs = shaking.result()
        ours.setblocking(False)
        for size in (1 << 16, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    socket.socket.send(ours, b"x" * size)  # below TLS: records would be cut
            time.sleep(0.2)  # until the kernel has sent what it can
        close(ours, whole=True)
        raw = b""
        with theirs:
            while piece := socket.socket.recv(theirs, 1 << 16):
                raw = (raw + piece)[-100:]
        assert raw[-25:-19] == b"x\x17\x03\x03\x00\x13", "an alert's record (RFC 8446, 5.2)"
