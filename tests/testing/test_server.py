from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from prefork.testing import (
    NotInTimeError,
    NotServingError,
    Outcome,
    hold_port,
    request,
    running,
    running_script,
    running_target,
)
from prefork.testing.processes import is_gone
from tests.support.programs import facts
from tests.support.testing_servers import FORKING, GOOD, PREAMBLE

pytestmark = pytest.mark.executed


def test_a_server_is_known_by_its_ready_line() -> None:
    with running_script(FORKING) as server:
        assert server.addresses == (server.address,)
        assert server.pid == server.process.pid
        assert len(server.workers()) == 3
        assert server.tree() == [server.pid, *server.workers()]
        assert request(server.address).outcome is Outcome.ANSWERED
        assert server.stop() == 7
        assert server.wait() == 7  # again and again
        assert server.survivors() == []
        with pytest.raises(ProcessLookupError):
            server.signal(signal.SIGTERM)
        with pytest.raises(ProcessLookupError):
            server.signal_group(signal.SIGTERM)
        assert "serving on" in server.log()


def test_several_addresses_are_read_from_the_line() -> None:
    source = (
        "import os; print('x serving on 127.0.0.1:1, [::1]:2, unix:/a b with 12 workers, pid', os.getpid()); input()"
    )
    with pytest.raises(NotServingError, match="EOF"), running_script(source, ready="never") as server:
        pytest.fail("it reads from /dev/null, so it ends")
    source = source.replace("input()", "import signal; signal.pause()")
    with running_script(source) as server:
        assert server.addresses == ("127.0.0.1:1", "[::1]:2", "unix:/a b")


def test_a_server_that_ends_at_its_start_is_shown_with_its_log_and_code() -> None:
    with (
        pytest.raises(NotServingError, match=r"exit code 3(.|\n)*cannot listen"),
        running_script("import sys; print('cannot listen'); sys.exit(3)"),
    ):
        pytest.fail("never ready")


def test_a_server_that_is_never_ready_is_shown_and_killed() -> None:
    with (
        pytest.raises(NotServingError, match=r"not ready after 2 s(.|\n)*pid") as caught,
        running(["sh", "-c", "echo pid $$; exec sleep 1000"], within=2),  # which begins at once, if anything does
    ):
        pytest.fail("never ready")
    assert is_gone(int(str(caught.value).split()[-1]))


def test_a_failed_test_carries_the_log() -> None:
    with pytest.raises(ZeroDivisionError) as caught, running_script(GOOD) as server:
        raise ZeroDivisionError
    assert f"pid {server.pid}" in caught.value.__notes__[0]
    assert "serving on" in caught.value.__notes__[0]


def test_nothing_is_left_whatever_the_server_did_to_get_away() -> None:
    getaway = (
        PREAMBLE
        + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not os.fork():          # a grandchild, whose parent ends: init adopts it
    if not os.fork():
        signal.pause()
    os._exit(0)
os.wait()
if not os.fork():          # a child in a session of its own
    os.setsid()
    signal.pause()
if not os.fork():          # a child that is stopped
    os.kill(os.getpid(), signal.SIGSTOP)
ready(address)
signal.pause()
"""
    )
    with running_script(getaway) as server:
        server.wait_for(lambda: len(server.tree()) == 4)
        tree = server.tree()
        assert len(server.workers()) == 2
        with pytest.raises(NotInTimeError, match=r"still running(.|\n)*serving on"):
            server.stop(timeout=0.05)
    assert all(is_gone(pid) for pid in tree)


def test_orphans_are_found_after_the_master_is_gone() -> None:
    with running_script(FORKING) as server:
        workers = server.workers()
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        assert server.tree() == workers
        assert len(server.survivors()) == 3
        server.signal_group(signal.SIGTERM)
        server.wait_for(lambda: not server.survivors(), message="the end of the orphans")


def test_the_log_can_be_waited_for_in_order() -> None:
    talkative = (
        PREAMBLE
        + """
ready(address)
signal.signal(signal.SIGUSR1, lambda *_: print("rang", file=sys.stderr, flush=True))
while True:
    signal.pause()
"""
    )
    with running_script(talkative) as server:
        size = server.log_size()
        server.signal(signal.SIGUSR1)
        first = server.wait_for_log("^rang\n")  # print writes the end of the line by itself
        assert server.log_size() == size + 5
        server.signal(signal.SIGUSR1)
        second = server.wait_for_log("^rang\n", after=first.end())
        assert second.start() == first.end()
        with pytest.raises(NotInTimeError, match=r"'rung' in the log(.|\n)*its log:\nserving on"):
            server.wait_for_log("rung", timeout=0.05)


def test_a_master_behind_a_launcher_is_found_by_the_line() -> None:
    source = GOOD.replace("\n", "\n    ")
    with running_script(f"import os\nif os.fork():\n    os.wait()\nelse:\n    {source}") as server:
        assert server.pid != server.process.pid
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: is_gone(server.pid))


def test_a_pid_of_another_namespace_is_not_believed() -> None:
    source = PREAMBLE + "os.getpid = lambda: 1\nready(address)\nsignal.pause()"
    with running_script(source) as server:
        assert server.pid == server.process.pid != 1


def test_the_environment_and_folder_are_the_tests_affair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFORK_WORKERS", "7")
    monkeypatch.setenv("LISTEN_FDS", "1")
    source = (
        PREAMBLE
        + """
print(sorted(k for k in os.environ if k.startswith(("PREFORK", "LISTEN", "MINE", "HOME"))), os.getcwd())
ready(address)
signal.pause()
"""
    )
    with running_script(source, env={"MINE": "1", "HOME": None}, cwd=tmp_path) as server:
        assert f"['MINE'] {tmp_path}\n" in server.log()


def test_a_prefix_runs_the_command() -> None:
    with running([sys.executable, "-c", GOOD], prefix=["env", "-u", "HOME"]) as server:
        assert request(server.address).outcome is Outcome.ANSWERED


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_held_port_can_be_listened_on_again_and_again(host: str) -> None:
    with hold_port(host) as address:
        port = int(address.rpartition(":")[2])
        for _ in range(3):
            with running_script(GOOD, address) as server:
                assert server.address == address
                assert request(address).outcome is Outcome.ANSWERED
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind((host, port))


def test_a_held_port_can_be_shared() -> None:
    with hold_port(reuse_port=True) as address:
        host, port = address.split(":")
        members = [socket.socket() for _ in range(2)]
        for member in members:
            with_both = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
            for option in with_both:
                member.setsockopt(socket.SOL_SOCKET, option, 1)
            member.bind((host, int(port)))
            member.listen()
        for member in members:
            member.close()


def test_cpu_seconds_count_the_living_and_the_reaped() -> None:
    burner = (
        PREAMBLE
        + """
def burn():
    while time.process_time() < 0.3: pass
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ready(address)
signal.sigwait([signal.SIGUSR1])
burn()
if not os.fork():
    burn()
    os._exit(0)
os.wait()
if not os.fork():
    burn()
    print("burnt", flush=True)
    signal.pause()
signal.pause()
"""
    )
    with running_script(burner) as server:
        server.signal(signal.SIGUSR1)
        server.wait_for_log("burnt")
        assert 0.87 <= server.cpu_seconds() < 1.5  # three times 0.3, a tick less for the one that was reaped


def test_voluntary_switches_count_wake_ups_of_every_thread() -> None:
    sleepers = (
        PREAMBLE
        + """
import threading
def nap():
    for _ in range(50):
        time.sleep(0.001)  # each one is a wake-up
def nap_too():
    nap()
    print("slept", flush=True)
    signal.pause()  # an ended thread counts no more
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ready(address)
signal.sigwait([signal.SIGUSR1])
nap()
threading.Thread(target=nap_too).start()
signal.pause()
"""
    )
    with running_script(sleepers) as server:
        before = server.voluntary_switches()
        server.signal(signal.SIGUSR1)
        server.wait_for_log("slept")
        assert 100 <= server.voluntary_switches() - before < 200


def test_descriptors_are_the_masters() -> None:
    with running_script(GOOD) as server:
        assert server.descriptors() == psutil.Process(server.pid).num_fds() == len(os.listdir(f"/proc/{server.pid}/fd"))


def test_settings_become_flags(tmp_path: Path) -> None:
    package = tmp_path / "prefork"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys; print(*sys.argv[1:], sep='|')", encoding="utf-8")
    with (
        pytest.raises(NotServingError) as caught,
        running_target(
            "hello:handle",
            app_dir="apps",
            workers=3,
            max_requests=10,
            preload=True,
            nodelay=False,
            bind=["127.0.0.1:0", "unix:a"],
            options={"env": {"PYTHONPATH": str(tmp_path)}, "cwd": tmp_path},
        ),
    ):
        pytest.fail("it only prints its arguments")
    assert (
        "serve|hello:handle|--app-dir|apps|--bind=127.0.0.1:0|--bind=unix:a|--workers=3|--max-requests=10|--preload|--no-nodelay"
        in str(caught.value)
    )


def test_a_server_that_is_closed_reaches_no_other(tmp_path: Path) -> None:
    """The next server's descriptors have the numbers that the closed one's had."""
    with running_script(GOOD) as closed:
        closed.close()
        size = closed.log_size()
        assert closed.log().startswith("serving on")
        assert size == len(closed.log())
        with running_script(GOOD) as other:
            for signal_it in (closed.signal, closed.signal_group, lambda signum: closed.stop(signum=signum)):
                with pytest.raises(ProcessLookupError):
                    signal_it(signal.SIGTERM)
            assert closed.tree() == []
            assert closed.wait() == -signal.SIGKILL
            assert request(other.address).outcome is Outcome.ANSWERED


@pytest.mark.parametrize("ready", ["^listening on (?P<addresses>.+)$", "listening on (?P<addresses>.+)"])
def test_a_ready_line_is_a_whole_line(ready: str) -> None:
    source = """
    import signal, sys, time
    print("hello")
    sys.stdout.write("listening on 127.0.0.1")
    sys.stdout.flush()
    time.sleep(0.1)  # the test looks more often than that
    sys.stdout.write(":1\\n")
    sys.stdout.flush()
    signal.pause()
    """
    with running_script(source, ready=ready) as server:
        assert server.address == "127.0.0.1:1"


def test_what_is_found_in_the_log_is_not_half_of_what_will_be_there() -> None:
    source = """
    import signal, time
    print("it is of one", end="", flush=True)
    time.sleep(0.3)  # the test looks more often than that
    print(" piece", flush=True)
    signal.pause()
    """
    with running_script(source, ready="") as server:
        assert server.wait_for_log("is of")[0] == "is of"
        assert server.wait_for_log("of (.*)")[1] == "one piece"


def test_a_server_that_the_test_has_no_descriptor_for_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before = psutil.Process().children()

    def out_of_descriptors(pid: int) -> int:
        raise OSError(errno.EMFILE, pid)

    monkeypatch.setattr(os, "pidfd_open", out_of_descriptors)
    with pytest.raises(OSError, match="24"), running_script(GOOD):
        pytest.fail("it can't be watched")
    assert psutil.Process().children() == before


def test_a_mold_that_ends_between_two_looks_is_no_worker() -> None:
    body = """
import ctypes, json, os, signal, sys, types
from prefork.testing import Server

said, saying = os.pipe()
mold = os.fork()
if not mold:
    ctypes.CDLL(None).prctl(15, b"prefork: mold", 0, 0, 0)
    os.write(saying, b".")
    signal.pause()
os.read(said, 1)
begun = types.SimpleNamespace(pid=os.getpid())
seen = [Server.molds(begun) == [mold], Server.workers(begun) == []]

def end(event, given):
    if event == "open" and given[0] == f"/proc/{mold}/comm":
        os.kill(mold, signal.SIGKILL)
        os.waitpid(mold, 0)

sys.addaudithook(end)
print(json.dumps([*seen, Server.workers(begun)]))
os.kill(mold, signal.SIGKILL)
"""
    assert facts(body) == [True, True, []]
