"""New code in the same master process: same pid, nobody lost, and code that is broken costs nothing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from prefork.testing import Load, Server, call_until, request, running
from prefork.testing.faults import always, unavailable
from prefork.testing.plugin import ServerFactory
from tests.support.figures import count
from tests.support.probing import held, probe, wait_gone

pytestmark = pytest.mark.long

APPLICATION = """
import os
VERSION = {version!r}
def handle(connection, address):
    if connection.recv(65536):
        body = VERSION.encode()
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
"""


class Code:
    """An application that changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = 0
        self.write()

    def write(self, broken: str = "") -> None:
        self.version += 1
        text = APPLICATION.format(version=str(self.version)) + f"{broken}\n"
        (self.folder / "application.py").write_text(text)


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path)


ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "preload": {"preload": True},
    "reuse_port": {"reuse_port": True},
    "unix and tcp": {"bind": ("unix:{tmp}/socket", "127.0.0.1:0")},
}


def serve(factory: ServerFactory, code: Code, name: str = "plain", **more: Any) -> Server:
    settings: dict[str, Any] = {"workers": 3, **ARRANGEMENTS[name], **more}
    if isinstance(settings.get("bind"), tuple):
        settings["bind"] = tuple(text.format(tmp=code.folder) for text in settings["bind"])
    return factory("application:handle", app_dir=code.folder, **settings)


def upgraded(server: Server, signum: int = signal.SIGUSR2) -> None:
    """Upgrade, and wait until the new generation serves alone."""
    before, begin = set(server.workers()), len(server.log())
    server.signal(signum)
    server.wait_for_log(r"generation \d+ serves", after=begin)
    call_until(server.workers, lambda now: len(now) == len(before) and not before & set(now))


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_upgrades_under_load_lose_nobody(prefork_server: ServerFactory, code: Code, name: str) -> None:
    server = serve(prefork_server, code, name)
    descriptors = server.descriptors()
    with Load(list(server.addresses), clients=8) as load:
        for _ in range(count("upgrades", least=3)):
            code.write()
            upgraded(server)
        answered = load.tally.answered
        load.wait_for(lambda tally: tally.answered > answered + 100)
    assert load.tally.lost == 0, load.tally
    assert set(load.tally.bodies) >= {str(n).encode() for n in (1, code.version)}
    # At its first look the master may have been about to close what a boot was reported by.
    server.wait_for(lambda: server.descriptors() <= descriptors, message=f"at most {descriptors} descriptors")
    assert server.stop() == 0  # of the same pid: it is our child
    assert server.survivors() == []


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize(
    "broken",
    [
        "1 / 0",
        "import nothing_of_that_name",
        "import os; os._exit(7)",
        "import os; os._exit(0)",
        "import sys; sys.exit()",
        "def handle(",
        "del handle",
    ],
)
def test_broken_code_costs_nothing(prefork_server: ServerFactory, code: Code, preload: bool, broken: str) -> None:
    server = serve(prefork_server, code, preload=preload)
    workers = server.workers()
    with Load(server.address, clients=4) as load:
        code.write(broken)
        server.signal(signal.SIGUSR2)
        server.wait_for_log("the old code goes on")
        load.wait_for(lambda tally: tally.answered > 100)
        assert server.workers() == workers
        code.write()
        upgraded(server)
    assert load.tally.lost == 0, load.tally
    assert server.stop() == 0


def test_a_rehearsal_that_hangs_is_given_up(prefork_server: ServerFactory, code: Code) -> None:
    server = serve(prefork_server, code, boot_timeout=1)
    code.write("import time; time.sleep(600)")
    server.signal(signal.SIGUSR2)
    server.wait_for_log("it took longer than boot_timeout; the old code goes on")
    assert server.stop() == 0
    assert server.survivors() == []


CHILDLESS = """
import logging, signal, sys
logging.basicConfig(level=logging.INFO)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
import prefork
def handle(connection, address):
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
sys.exit(prefork.serve(handle, bind="127.0.0.1:0", workers=1, control="off"))
"""


def test_a_host_that_ignores_its_children_is_upgraded_all_the_same(prefork_server: ServerFactory) -> None:
    """The kernel would throw their exits away (wait(2)), and with them what the rehearsal says."""
    server = prefork_server.script(CHILDLESS)
    upgraded(server)
    assert request(server.address, b"GET / HTTP/1.1\r\n\r\n").status == 200
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for_log("killed by SIGKILL")
    assert server.stop() == 0
    assert server.survivors() == []


def test_with_preload_a_reload_brings_new_code(prefork_server: ServerFactory, code: Code) -> None:
    server = serve(prefork_server, code, preload=True)
    code.write()
    upgraded(server, signal.SIGHUP)
    with Load(server.address, clients=2, count=20) as load:
        load.wait()
    assert set(load.tally.bodies) == {b"2"}
    assert server.stop() == 0


BOOTING = """
import logging, pathlib, sys, time
import prefork

class Slow(prefork.Worker):
    def init(self):
        logging.info("it boots")
        while not pathlib.Path(sys.argv[1]).exists():
            time.sleep(0.02)

    def handle(self, connection, address):
        connection.sendall(b"ok")

logging.basicConfig(level=logging.INFO)
settings = prefork.Settings(bind="127.0.0.1:0", workers=1, preload=True, control="off")
prefork.Master(Slow, settings, hooks=prefork.Hooks(when_ready=lambda server: logging.info("it is told"))).run()
"""


def test_a_reload_by_an_upgrade_waits_for_a_start_to_be_told(prefork_server: ServerFactory, tmp_path: Path) -> None:
    """The next image would take the server for one that has been READY long ago: nobody would ever hear that it is."""
    server = prefork_server.script(BOOTING, str(tmp_path / "go"), ready="it boots")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload: begins when the server serves")
    (tmp_path / "go").touch()
    server.wait_for_log("it is told")
    server.wait_for_log("generation 1 serves")
    assert server.stop() == 0


TELLING = """
import logging, os, socket, sys, threading
import prefork

def answer(listener):
    while True:
        listener.accept()[0].sendall(b"told by a thread of the master's")

def when_ready(server):
    if os.path.exists("told"):
        os.unlink("told")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("told")
    listener.listen()
    threading.Thread(target=answer, args=(listener,), daemon=True).start()
    logging.info("it is told")

def handle(connection, address):
    connection.sendall(b"ok")

logging.basicConfig(level=logging.INFO)
prefork.serve(handle, bind="127.0.0.1:0", workers=1, control="off", hooks=prefork.Hooks(when_ready=when_ready))
"""


def test_what_a_hook_has_begun_in_the_master_begins_again_with_the_next_image(tmp_path: Path) -> None:
    """A server of metrics, say, which those who come from gunicorn start when it is ready."""
    (tmp_path / "telling.py").write_text(TELLING)
    with running([sys.executable, "telling.py"], cwd=tmp_path) as server:
        for generation in range(3):
            server.wait_for(lambda told=generation + 1: server.log().count("it is told") == told)  # type: ignore[misc]  # see above
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "told"))
                assert client.recv(100) == b"told by a thread of the master's"
            server.signal(signal.SIGUSR2)
            server.wait_for_log(f"generation {generation + 1} serves")
        assert "has changed" not in server.log()
        assert server.stop() == 0


def test_ten_at_once_are_as_good_as_one(prefork_server: ServerFactory, code: Code) -> None:
    server = serve(prefork_server, code)
    with Load(server.address, clients=8) as load:
        code.write()
        for _ in range(10):
            server.signal(signal.SIGUSR2)
        server.wait_for_log(r"generation \d+ serves")
        answered = load.tally.answered
        load.wait_for(lambda tally: tally.answered > answered + 100)
    assert load.tally.lost == 0, load.tally
    assert server.stop() == 0


def test_a_stop_at_any_moment_of_an_upgrade_loses_nobody(prefork_server: ServerFactory, code: Code) -> None:
    for number in range(count("stops-in-an-upgrade", least=6)):
        server = serve(prefork_server, code)
        with Load(server.address, clients=8, count=100_000) as load:
            load.wait_for(lambda tally: tally.answered > 50)
            server.signal(signal.SIGUSR2)
            # Spread over the rehearsal, the exec, the start of the new image, and what comes after.
            server.wait_for_log("rehearsing")
            threshold = load.tally.answered + number * 250 + 1
            load.wait_for(lambda tally, threshold=threshold: tally.answered >= threshold)  # type: ignore[misc]  # mypy can't infer a lambda with a default
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            load.stop()
        tally = load.tally
        # The loop goes on after the stop: who comes then is refused, or waits for a retry that nobody answers.
        assert all(answer.phase.value == "connecting" for answer in tally.losses), tally
        assert server.survivors() == []


def test_whoever_says_stop_again_and_again_ends_nothing_before_its_end(prefork_server: ServerFactory) -> None:
    """What was kept from the first image when its master had ended is kept from this one as well."""
    server = probe(prefork_server, workers=1)
    server.signal(signal.SIGUSR2)
    server.wait_for_log("generation 1 serves")
    with suppress(ProcessLookupError):
        while server.process.poll() is None:
            server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_workers_get_no_record_and_a_child_of_theirs_none_either(prefork_server: ServerFactory, code: Code) -> None:
    (code.folder / "application.py").write_text(
        "import os\n"
        "def handle(connection, address):\n"
        "    connection.recv(65536)\n"
        "    names = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')"
        " if os.path.lexists(f'/proc/self/fd/{fd}')]\n"
        "    found = [n for n in names if 'handover' in n] + [n for n in os.environ if 'PREFORK' in n]\n"
        "    connection.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b' %"
        " (len(repr(found)), repr(found).encode()))\n"
    )
    server = serve(prefork_server, code)
    upgraded(server)
    with Load(server.address, clients=2, count=20) as load:
        load.wait()
    assert set(load.tally.bodies) == {b"[]"}
    assert server.stop() == 0


def test_a_worker_that_is_busy_at_the_exec_finishes(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    with held(server) as [connection]:
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgrade: generation 1")
        connection.finish()
        server.wait_for_log("generation 1 serves")
        wait_gone(connection.pid)
    assert server.stop() == 0


def test_the_death_of_an_adopted_worker_is_noticed(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    with held(server) as [connection]:
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgrade: generation 1")
        os.kill(connection.pid, signal.SIGKILL)
        server.wait_for_log(rf"pid {connection.pid}, generation 0\) killed by SIGKILL")
    assert server.stop() == 0


def test_another_bind_is_refused_in_the_rehearsal(prefork_server: ServerFactory, code: Code, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('bind = "127.0.0.1:0"\n')
    server = prefork_server.command(
        [*python_m_prefork(code), "--config", str(config)],
    )
    config.write_text('bind = ["127.0.0.1:0", "unix:@prefork-test-upgrade"]\n')
    server.signal(signal.SIGUSR2)
    server.wait_for_log("bind: .* takes a restart or a takeover, not an upgrade; the old code goes on")
    assert server.stop() == 0


def test_a_worker_of_another_layout_is_served_to_its_end(prefork_server: ServerFactory, code: Code) -> None:
    # The new image has another layout: what the first one wrote must not be read as if it had that.
    main = code.folder / "other_layout.py"
    main.write_text(
        "import pathlib, sys\n"
        "import prefork.scoreboard.layout, prefork.supervisor.resources, prefork.supervisor.upgrade\n"
        f"flag = pathlib.Path({str(code.folder)!r}, 'other')\n"
        "if flag.exists():\n"
        "    for module in (prefork.scoreboard.layout, prefork.supervisor.resources, prefork.supervisor.upgrade):\n"
        "        module.LAYOUT = 4711\n"
        "from prefork.cli.main import main\n"
        "sys.exit(main())\n"
    )
    server = prefork_server.command(
        [sys.executable, str(main), *python_m_prefork(code)[3:], "--bind", "127.0.0.1:0", "--workers", "3"]
    )
    with Load(server.address, clients=8) as load:
        (code.folder / "other").touch()
        upgraded(server)
        upgraded(server)  # and from that one to itself
        (code.folder / "other").unlink()
        upgraded(server)
    assert load.tally.lost == 0, load.tally
    assert "the running workers keep their own scoreboard" in server.log()
    assert server.stop() == 0


@pytest.mark.skipif(unavailable() is not None, reason=f"no fault injection here: {unavailable()}")
@pytest.mark.parametrize("call", ["pipe", "fork"])
def test_what_a_rehearsal_can_not_have_costs_nothing(prefork_server: ServerFactory, call: str) -> None:
    faults = prefork_server.faults(call)
    server = probe(prefork_server, workers=1, options={"faults": faults})
    descriptors = server.descriptors()
    faults.fail(call, always(errno.EAGAIN))
    server.signal(signal.SIGUSR2)
    server.wait_for_log("upgrade: can't rehearse: .*; the old code goes on")
    server.wait_for(lambda: server.descriptors() <= descriptors, message="no more descriptors than before")
    faults.release()
    upgraded(server)
    server.wait_for(lambda: server.descriptors() <= descriptors, message="no more descriptors than before")
    assert server.stop() == 0


def python_m_prefork(code: Code) -> list[str]:
    return [sys.executable, "-m", "prefork", "serve", "application:handle", "--app-dir", str(code.folder)]
