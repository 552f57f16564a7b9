"""What a server is given by whoever starts it, and what an application changes about the process."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import sys
import termios
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefork.testing import Options, Server, request
from prefork.testing.plugin import ServerFactory
from tests.support.probing import PATIENCE, ask, get
from tests.support.programs import run_program

LAUNCH = "import fcntl, os, signal, sys, termios\nfrom signal import *\n{}\nos.execvp(sys.argv[1], sys.argv[1:])"
"""What a parent does to itself before it becomes the server."""


def launch(what: str) -> list[str]:
    """The prefix that does ``what`` and then becomes the server."""
    return [sys.executable, "-c", LAUNCH.format(textwrap.dedent(what))]


ANSWERS = """
    import json, os, signal, socket, subprocess, sys
    def handle(connection, address):
        request = connection.recv(65536)
        path = request.split()[1].decode()
        body = json.dumps(answer(path)).encode()
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
"""


def application(folder: Path, text: str) -> None:
    """Write a module that answers with what ``answer(path)`` returns there, as JSON."""
    (folder / "app.py").write_text(textwrap.dedent(ANSWERS) + textwrap.dedent(text), encoding="utf-8")


# Signals.

SIGNALS = """
    def state(text):
        status = dict(line.split(":", 1) for line in text.splitlines())
        # 32 and 33 are the C library's own; its posix_spawn, by which a test's runner may have come, ignores them.
        return [int(status[name], 16) & ~(3 << 31) for name in ("SigBlk", "SigIgn")]
    def answer(path):
        ran = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True)
        return [state(open("/proc/self/status").read()), state(ran.stdout)]
"""

PYTHONS = sum(1 << (signum - 1) for signum in (signal.SIGPIPE, signal.SIGXFSZ))
"""What Python ignores, as /proc/pid/status has it."""


def test_signals_that_the_parent_blocks_or_ignores_are_heard_all_the_same(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    application(tmp_path, SIGNALS)
    everything = """
        for signum in valid_signals() - {SIGKILL, SIGSTOP}:
            signal(signum, SIG_IGN)
        pthread_sigmask(SIG_BLOCK, valid_signals())
    """
    server = prefork_server("app:handle", app_dir=tmp_path, workers=1, options={"prefix": launch(everything)})
    seen = json.loads(ask(server))
    assert seen == [[0, PYTHONS], [0, 0]]  # of the worker, and of what it executes
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload: generation 1 serves")
    server.wait_for(lambda: len(server.workers()) == 1, message="the older worker is gone")
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for_log("killed by SIGKILL")  # how it ended is known
    server.signal(signal.SIGUSR2)
    server.wait_for_log("generation 2 serves|upgrade: generation 2")
    server.wait_for_log("reload: generation 2 serves")
    assert json.loads(ask(server)) == seen
    assert server.stop() == 0


def test_a_hook_that_takes_the_master_s_signals_does_not_have_them_for_long(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    application(
        tmp_path,
        """
        import asyncio
        def answer(path):
            return "here"

        async def nothing():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)

        def when_ready(server):
            asyncio.run(nothing())
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, signal.SIGTERM])
        """,
    )
    server = prefork_server("app:handle", app_dir=tmp_path, workers=1, hooks="app")
    server.wait_for_log(r"hook when_ready has changed .*: SIGTERM, SIGHUP, wake-up descriptor, signal mask;")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload: generation 1 serves")
    assert server.stop() == 0


# A terminal.

TERMINAL = """
    def answer(path):
        if path == "/read":
            try:
                with open("/dev/tty") as terminal:
                    return terminal.read(1)
            except OSError as error:
                return error.strerror
        if path == "/write":
            print("written", file=open("/dev/tty", "w"))
        if path == "/program":
            return subprocess.run(["sh", "-c", "echo program >/dev/tty; read x </dev/tty"]).returncode != 0
        return "done"
"""


@contextmanager
def background() -> Iterator[tuple[int, list[str]]]:
    """A terminal with ``stty tostop``, and the prefix of a command that is a job in its background."""
    above, below = pty.openpty()
    modes = termios.tcgetattr(below)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(below, termios.TCSANOW, modes)
    prefix = launch(f"""
        fcntl.ioctl({below}, termios.TIOCSCTTY, 0)
        shell = os.getpid()
        if os.fork():
            # The shell: it has the terminal for itself, and waits for its job.
            signal(SIGTERM, SIG_IGN)
            code = os.waitstatus_to_exitcode(os.wait()[1])
            os._exit(code if code >= 0 else 128 - code)
        os.setpgid(0, 0)
    """)
    try:
        yield below, prefix
    finally:
        os.close(above)
        os.close(below)


@pytest.mark.long
def test_a_background_job_is_stopped_neither_by_reading_nor_by_writing_to_its_terminal(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    application(tmp_path, TERMINAL)
    with background() as (terminal, prefix):
        options: Options = {"prefix": prefix, "pass_fds": [terminal]}
        server = prefork_server("app:handle", app_dir=tmp_path, workers=2, options=options)
        for path, told in ("/read", "Input/output error"), ("/write", "done"), ("/program", True):
            assert json.loads(ask(server, path)) == told
        assert len(server.workers()) == 2
        server.signal(signal.SIGTTIN)  # somebody's, not the kernel's
        server.wait_for_log("3 workers instead of 2")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("reload: generation 1 serves")
        server.signal(signal.SIGTTOU)
        server.wait_for_log("2 workers instead of 3")
        for path, told in ("/read", "Input/output error"), ("/write", "done"):
            assert json.loads(ask(server, path)) == told
        assert "workers instead of 4" not in server.log()
        used = server.cpu_seconds()
        assert server.stop() == 0
        assert used < 30.0  # a call that is begun again for ever takes a processor for itself


# The log.

LOGGING = """
    import logging, logging.config
    logging.config.dictConfig({"version": 1, "root": {"level": "CRITICAL"}})
    logging.disable()
    logging.getLogger("prefork").handlers.clear()
    logging.getLogger("prefork").setLevel(60)
    logging.getLogger("prefork").addFilter(lambda record: 1 / 0)
    logging.setLogRecordFactory(lambda *args, **more: 1 / 0)
    def answer(path):
        if path == "/fail":
            raise ValueError("the needle")
        return "served"
"""


@pytest.mark.parametrize("preload", [False, True])
def test_an_application_that_configures_logging_does_not_silence_the_server(
    prefork_server: ServerFactory, tmp_path: Path, *, preload: bool
) -> None:
    application(tmp_path, LOGGING)
    server = prefork_server("app:handle", app_dir=tmp_path, workers=1, preload=preload)
    assert request(server.address, get("/fail"), timeout=PATIENCE).data == b""
    server.wait_for_log("ERROR .*the handler failed on a connection from(.|\\n)*ValueError: the needle")
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for_log("killed by SIGKILL")
    assert server.stop() == 0


def test_a_configuration_that_closes_all_handlers_does_not_close_the_log_file(tmp_path: Path) -> None:
    program = """
        import logging.config, sys
        from prefork.services import log as logs
        logs.configure("info", sys.argv[1])
        log = logging.getLogger("prefork")
        logging.config.dictConfig({"version": 1, "loggers": {"prefork": {"level": "ERROR"}}})
        log.info("one")
        logging.shutdown()
        log.debug("nothing")
        log.warning("two")
    """
    ended = run_program(program, str(tmp_path / "log"))
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["one", "two"]


# A deploy.

RELEASE = """
    import notes
    def answer(path):
        return [RELEASE, notes.TEXT, open("release").read(), os.environ["STARTED_BY"]]
"""
SCRIPT = f"""#!{sys.executable}
import os, sys
os.environ["STARTED_BY"] = RELEASE
from prefork.cli.main import main
sys.exit(main())
"""


class Deploy:
    """Releases in folders, and the link to one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.current = folder, folder / "current"

    def release(self, name: str) -> None:
        """Make a release and have the link lead there."""
        place = self.folder / name
        place.mkdir()
        (place / "release").write_text(name)
        (place / "notes.py").write_text(f"TEXT = {name!r}\n")
        application(place, f"RELEASE = {name!r}\n" + textwrap.dedent(RELEASE))
        script = place / "serve"
        script.write_text(SCRIPT.replace("RELEASE", repr(name)))
        script.chmod(0o755)
        link = self.folder / "new"
        link.symlink_to(name)
        link.replace(self.current)


def replaced(server: Server, signum: int) -> None:
    """Send the signal and wait until other workers serve, alone."""
    before, begin = set(server.workers()), len(server.log())
    server.signal(signum)
    server.wait_for_log(r"generation \d+ serves", after=begin)
    server.wait_for(lambda: not before & set(server.workers()), message="the old workers' end")


@pytest.mark.long
@pytest.mark.parametrize("how", ["here", "chdir"])
def test_a_release_behind_a_link_is_found_by_a_reload_and_by_an_upgrade(
    prefork_server: ServerFactory, tmp_path: Path, how: str
) -> None:
    deploy = Deploy(tmp_path)
    deploy.release("one")
    command = ["serve", "app:handle", "--bind", "127.0.0.1:0", "--workers", "1", "--control", "off"]
    if how == "here":
        command, options = ["./serve", *command], Options(cwd=deploy.current, env={"PWD": str(deploy.current)})
    else:
        command = [f"{deploy.current}/serve", *command, "--chdir", str(deploy.current)]
        options = Options(cwd="/", env={"PWD": "/"})
    server = prefork_server.command(command, **options)
    assert json.loads(ask(server)) == ["one"] * 4
    deploy.release("two")
    replaced(server, signal.SIGHUP)
    assert json.loads(ask(server)) == ["two", "two", "two", "one"]
    shutil.rmtree(tmp_path / "one")
    deploy.release("three")
    shutil.rmtree(tmp_path / "two")
    replaced(server, signal.SIGUSR2)
    assert json.loads(ask(server)) == ["three"] * 4
    deploy.release("four")
    shutil.rmtree(tmp_path / "three")
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for(lambda: "killed by SIGKILL" in server.log())
    assert json.loads(ask(server)) == ["four", "four", "four", "three"]
    assert server.stop() == 0


# Modules, streams, folders.


def test_a_preloaded_application_may_go_where_there_is_nothing_any_more(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    (tmp_path / "gone.py").write_text(
        """
import os, tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)

def handle(connection, address):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""
    )
    server = prefork_server("gone:handle", app_dir=tmp_path, workers=1, preload=True)
    assert request(server.address).body == b"ok"
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    assert request(server.address).body == b"ok"
    assert server.stop() == 0


@pytest.mark.long
@pytest.mark.parametrize("extra", [{"preload": True}, {"bind": ["127.0.0.1:0", "127.0.0.1:0"]}], ids=["preload", "two"])
def test_an_application_may_patch_the_standard_library(
    prefork_server: ServerFactory, tmp_path: Path, extra: dict[str, Any]
) -> None:
    pytest.importorskip("gevent")
    application(
        tmp_path,
        """
        from gevent import monkey
        monkey.patch_all()
        def answer(path):
            return "patched"
        """,
    )
    server = prefork_server("app:handle", app_dir=tmp_path, workers=1, **extra)
    assert json.loads(ask(server)) == "patched"
    server.signal(signal.SIGHUP)
    server.wait_for_log("generation 1 serves")
    assert json.loads(ask(server)) == "patched"
    assert server.stop() == 0


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 1, 2)])
def test_standard_streams_are_streams_where_they_were_closed(tmp_path: Path, closed: tuple[int, ...]) -> None:
    program = f"""
        import os, sys
        for fd in {closed}:
            os.close(fd)
        code = ("import sys; said, sys.argv[1] = sys.argv[1], '--version'; from prefork.__main__ import main; main();"
                "sys.stderr.write('x'); sys.stdin.read();"
                "open(said, 'w').write(' '.join(str(s.fileno()) for s in (sys.stdin, sys.stdout, sys.stderr)))")
        os.execv(sys.executable, [sys.executable, "-c", code, sys.argv[1]])
    """
    assert run_program(program, str(tmp_path / "said")).returncode == 0
    assert (tmp_path / "said").read_text() == "0 1 2"
