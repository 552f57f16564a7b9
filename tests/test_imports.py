"""What an import of the package costs whoever needs only a part of it, and how the command starts."""

from __future__ import annotations

import importlib
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import prefork
import prefork.testing
from prefork.cli import main as cli

START = """
import os, signal, sys

from prefork.__main__ import main

left = int(sys.argv.pop(1))
seen = 0

def hook(event, arguments):
    global seen
    if event == "import":
        seen += 1
        if seen == left:
            os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(hook)
code = main()
print(seen, file=sys.stderr)
sys.exit(code)
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def modules_after(statement: str) -> list[str]:
    found = run(f"import sys\n{statement}\nprint(*sys.modules)")
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


@cache
def _of_python() -> frozenset[str]:
    """What logging itself loads: of CPython 3.14 dataclasses and inspect, to colour tracebacks."""
    return frozenset(modules_after("import logging"))


def needless(modules: set[str], *names: str) -> set[str]:
    """Which of these were loaded, and not by Python's own doing."""
    return modules.intersection(names) - _of_python()


def of_prefork(modules: list[str]) -> list[str]:
    return [name for name in modules if name.partition(".")[0] == "prefork"]


def test_the_errors_are_imported_without_the_house() -> None:
    assert len(of_prefork(modules_after("import prefork.errors"))) <= 5


def test_other_servers_in_the_workers_need_nothing_of_the_wsgi_server() -> None:
    modules_after(
        "sys.modules['httptools'] = None\nimport prefork.wsgi.command, prefork.embed.command, prefork.wsgi.access"
    )


def loaded_by(command: str, *arguments: str) -> set[str]:
    """The modules that a command has loaded when it ends well."""
    program = "import sys\nfrom prefork.cli.main import main\ncode = main(sys.argv[1:])\n"
    found = run(f"{program}print(*sys.modules, file=sys.stderr)\nsys.exit(code)", command, *arguments)
    assert found.returncode == 0, found.stderr
    return set(found.stderr.split())


def test_a_server_starts_without_what_it_does_not_use() -> None:
    modules = set(modules_after("import prefork.server, prefork.wsgi.worker"))
    assert "prefork.supervisor.supervisor" in modules
    assert not needless(modules, "_hashlib", "asyncio", "dataclasses", "inspect", "psutil", "ssl")


@pytest.mark.parametrize("command", ["serve", "wsgi"])
def test_who_comes_from_nowhere_pays_nothing_for_those_who_do(command: str) -> None:
    """Nor for a mistake that was not made, a help that was not asked for, a class that is compiled."""
    modules = loaded_by(command, "--print-config")
    assert "prefork.config.load" in modules
    assert not [
        name for name in modules if name.startswith(("prefork.migration", "prefork.embed", "prefork.cli.retold"))
    ]
    assert not needless(
        modules, "argparse", "asyncio", "dataclasses", "inspect", "psutil", "ssl", "subprocess", "tomllib"
    )


@pytest.mark.parametrize("command", ["status", "reload", "stop", "check"])
def test_who_asks_a_server_loads_nothing_that_serves(command: str) -> None:
    modules = loaded_by(command, "--help")
    assert "prefork.cli.main" in modules
    assert not [name for name in modules if name.startswith(("prefork.supervisor", "prefork.accept", "prefork.server"))]
    assert not needless(modules, "asyncio", "dataclasses", "inspect", "psutil", "ssl")


def test_a_foreign_pytest_loads_little_of_the_package_for_its_plugin() -> None:
    modules = modules_after("import prefork.testing.plugin")
    assert len(of_prefork(modules)) <= 10, of_prefork(modules)
    assert "psutil" not in modules


@pytest.mark.parametrize("name", ["prefork", "prefork.testing"])
def test_every_public_name_is_there_and_listed(name: str) -> None:
    public = importlib.import_module(name).__all__
    program = f"import {name} as package\nfor public in {public!r}: assert public in dir(package), public\n"
    checked = run(program + f"from {name} import *\nassert all(public in globals() for public in {public!r})")
    assert checked.returncode == 0, checked.stderr


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    for package in (prefork, prefork.testing):
        with pytest.raises(AttributeError, match="no attribute 'Sever'"):
            package.Sever  # noqa: B018  # that is what the test is for


PRINTS = ("serve", "--print-config")
"""What imports all that serves, and ends."""


def imports_of_the_start() -> int:
    whole = run(START, "0", *PRINTS)
    assert whole.returncode == 0, whole.stderr
    return int(whole.stderr)


@pytest.mark.long
def test_ctrl_c_at_any_moment_of_the_start_shows_no_traceback() -> None:
    count = imports_of_the_start()
    assert count > 100
    for moment in sorted({1, 2, 3, *range(4, count, max(1, count // 12)), count}):
        ended = run(START, str(moment), *PRINTS)
        assert ended.stderr in {"", f"{count}\n"}, (moment, ended.stderr)
        assert ended.returncode in {-signal.SIGINT, 128 + signal.SIGINT}, (moment, ended)


EARLY = """
import os, signal, sys, time

from prefork.__main__ import main

signum, left = int(sys.argv.pop(1)), int(sys.argv.pop(1))
seen = 0

def hook(event, arguments):
    global seen
    if event == "import":
        seen += 1
        if seen == left:
            os.kill(os.getpid(), signum)
            if signum != signal.SIGTERM:
                os.kill(os.getpid(), signal.SIGTERM)

sys.addaudithook(hook)
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("signum", "moment"),
    [(signal.SIGTERM, 1), (signal.SIGTERM, 40), (signal.SIGHUP, 40), (signal.SIGUSR1, 40), (signal.SIGUSR2, 40)],
)
def test_an_order_that_comes_before_the_handlers_stand_is_obeyed(tmp_path: Path, signum: int, moment: int) -> None:
    """Nor is anybody lost whom a socket that was given to the server holds already."""
    (tmp_path / "app.py").write_text("def handle(connection, address):\n    connection.sendall(b'hi')\n")
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname(), timeout=30) as client:
        flags = ["--workers=1", f"--bind=fd://{listener.fileno()}", f"--app-dir={tmp_path}", "--control=off"]
        with subprocess.Popen(
            [sys.executable, "-c", EARLY, str(int(signum)), str(moment), "serve", "app:handle", *flags],
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as started:
            listener.close()  # as by an exec: nobody but the server holds it
            try:
                said = started.communicate(timeout=60)[1]
            finally:
                started.kill()
        assert started.returncode == 0, said
        assert "Traceback" not in said
        assert client.recv(16) == b"hi"


def test_the_command_called_as_a_function_leaves_no_signal_blocked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--print-config"]) == 0
    assert "workers" in capsys.readouterr().out
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
