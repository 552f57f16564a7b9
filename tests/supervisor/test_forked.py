"""What a worker is told with: a signal that applications leave alone, and SIGTERM from those who know no other."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest

from prefork.testing import Load, request
from prefork.testing.plugin import ServerFactory
from tests.support.probing import APPS, LOGGING, get

TAKING = (
    LOGGING
    + """
import asyncio, os, signal, time
import prefork

def by_default():
    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, print)
        loop.remove_signal_handler(signal.SIGTERM)  # which leaves the default action behind
    asyncio.run(main())

def of_its_own():
    signal.signal(signal.SIGTERM, lambda signum, frame: print("HEARD", flush=True))

def ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

def handle(connection, address):
    slow = b"slow" in connection.recv(1000)
    take()
    if slow:
        print("SLOW", flush=True)
        time.sleep(0.5)  # until the master has told it to leave
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%d" % (len(str(os.getpid())), os.getpid()))

take = {"by_default": by_default, "of_its_own": of_its_own, "ignored": ignored}[os.environ["TAKE"]]
prefork.serve(handle, bind="127.0.0.1:0", workers=1)
"""
)


@pytest.mark.parametrize("take", ["by_default", "of_its_own", "ignored"])
def test_an_application_that_takes_sigterm_is_told_all_the_same(prefork_server: ServerFactory, take: str) -> None:
    server = prefork_server.script(TAKING, env={"TAKE": take})
    first = request(server.address).body
    slow: list[bytes] = []
    asking = threading.Thread(target=lambda: slow.append(request(server.address, get("/slow")).body))
    asking.start()
    server.wait_for_log("SLOW")
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"exited with code 0 .*\(replaced\)")
    asking.join()
    assert slow == [first]
    assert request(server.address).body != first
    assert server.stop() == 0
    assert "SIGKILL" not in server.log()
    assert "SIGTERM" not in server.log()
    assert "HEARD" not in server.log()


OLDER = """
import json, pathlib, signal, sys
from prefork.supervisor import handover
from prefork.system import signals

if not pathlib.Path({flag!r}).exists():
    encode = handover.Handover.encode

    def as_it_was(self):
        record = json.loads(encode(self)) | {{"format": 1}}
        record["windows"] = record.pop("services")
        for life in record["workers"]:
            assert life.pop("wake_up") == signal.SIGTERM
            del life["cause"], life["detail"]
            life["seat"], life["reason"] = life.pop("entry"), ""
        return json.dumps(record).encode()

    handover.Handover.encode = as_it_was
    signals.WAKE_UP = int(signal.SIGTERM)

from prefork.cli.main import main

sys.exit(main())
"""


@pytest.mark.long
def test_workers_that_know_no_wake_up_but_sigterm_are_told_by_it(prefork_server: ServerFactory, tmp_path: Path) -> None:
    """What an older image has forked knows of no other wake-up."""
    main, flag = tmp_path / "older.py", tmp_path / "newer"
    main.write_text(OLDER.format(flag=str(flag)))
    server = prefork_server.command(
        [sys.executable, str(main), "serve", "probe:Probe", "--app-dir", str(APPS), "--bind", "127.0.0.1:0"]
    )
    before = len(server.workers())
    with Load(server.address, clients=4) as load:
        flag.touch()
        server.signal(signal.SIGUSR2)
        server.wait_for_log("generation 1 serves")
        server.wait_for(lambda: len(server.workers()) == before, message="the older workers are gone")
    assert load.tally.lost == 0, load.tally
    assert "SIGKILL" not in server.log()
    assert server.stop() == 0


TAKEN = (
    LOGGING
    + """
import os, signal
import prefork

def handle(connection, address):
    connection.recv(1000)
    if os.environ["WHEN"] == "later":
        take()
    connection.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")

def take():
    signal.signal(int(signal.SIGRTMIN) + 1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [int(signal.SIGRTMIN) + 2])

class Taking(prefork.Worker):
    def init(self):
        if os.environ["WHEN"] == "boot":
            take()
    def handle(self, connection, address):
        handle(connection, address)

grace = 1 if os.environ["WHEN"] == "later" else 60  # it is killed at the end of that
prefork.Master(Taking, prefork.Settings(bind="127.0.0.1:0", workers=1, graceful_timeout=grace)).run()
"""
)


@pytest.mark.parametrize("when", ["boot", "later"])
def test_what_the_application_takes_of_ours_is_told(prefork_server: ServerFactory, when: str) -> None:
    server = prefork_server.script(TAKEN, env={"WHEN": when})
    assert request(server.address).status == 204
    server.signal(signal.SIGHUP)
    if when == "boot":
        server.wait_for_log(r"exited with code 0 .*\(replaced\)")
        server.wait_for_log(r"taken signal \d+; tracebacks of a hang will be missing")
        server.wait_for_log(r"blocked signal \d+, by which workers are told to leave; it is let in")
    else:
        server.wait_for_log(r"is killed: replaced; the application has blocked signal \d+")
    assert server.stop() == 0
