"""Where a command's words go may be full, closed or gone: an exit code and at most one line, from every command."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork.testing import running_target
from tests.support.probing import APPS

TIMEOUT = 60


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The control socket of a server."""
    path = tmp_path_factory.mktemp("control") / "s"
    with running_target("probe:Probe", app_dir=APPS, workers=1, control=path):
        yield path


@contextmanager
def full() -> Iterator[int]:
    with open("/dev/full", "w") as device:
        yield device.fileno()


@contextmanager
def unread() -> Iterator[int]:
    """A pipe whose reader went away, as head(1) does."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


@contextmanager
def hung_up() -> Iterator[int]:
    """A terminal that is gone."""
    ours, theirs = pty.openpty()
    os.close(ours)
    try:
        yield theirs
    finally:
        os.close(theirs)


COMMANDS = {
    "--version": ["--version"],
    "--help": ["--help"],
    "nothing": [],
    "serve --help": ["serve", "--help"],
    "wsgi --help": ["wsgi", "--help"],
    "--print-config": ["serve", "--print-config"],
    "--check": ["serve", "probe:Probe", "--app-dir", str(APPS), "--check"],
    "broken": ["check", "chatters:handle", "--app-dir", "{here}"],
    "a mistake": ["scale", "none"],
    "status": ["status", "--control", "{control}"],
    "status --json": ["status", "--json", "--control", "{control}"],
    "dump": ["dump", "0", "--control", "{control}"],
    "scale": ["scale", "1", "--control", "{control}"],
    "live": ["check", "--live", "--control", "{control}"],
    "reload": ["reload", "--control", "{control}"],
    "top --help": ["top", "--help"],
    "top": ["top", "--control", "{control}"],
}

MEET_A_RELOAD = {"dump", "live"}
"""All run at once, and these two may find a worker that the reload has just replaced, and say so."""


@pytest.mark.long
@pytest.mark.parametrize("where", [full, unread, hung_up])
def test_standard_output_that_takes_nothing(control: Path, tmp_path: Path, where: object) -> None:
    (tmp_path / "chatters.py").write_text("print('hello')\n1 / 0\n")
    running = {}
    with where() as output:  # type: ignore[operator]  # one of the three above
        for name, words in COMMANDS.items():
            command = [word.format(control=control, here=tmp_path) for word in words]
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "prefork", *command],
                stdin=output if where is hung_up else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
            )
    told = {name: process.communicate(timeout=TIMEOUT)[1] for name, process in running.items()}
    for name, process in running.items():
        said = told[name]
        assert process.returncode in {0, 1, 2, 4}, f"{name}: {said}"
        assert "Exception ignored" not in said, name
        if name == "nothing":
            assert said.startswith("usage: ")
        elif name == "broken":
            assert said.endswith(
                "\nprefork: error: the application failed to load: the process that tried exited with code 4\n"
            )
        else:
            assert said.count("\n") <= 1, f"{name}: {said}"
            assert not said or said.startswith("prefork: error: "), f"{name}: {said}"
        if where is unread and name not in {"nothing", "broken", "a mistake", "top", *MEET_A_RELOAD}:
            assert (process.returncode, said) == (0, ""), name


@pytest.mark.long
@pytest.mark.parametrize("command", ["top", "status", "scale none"])
def test_standard_streams_that_are_closed(control: Path, command: str) -> None:
    line = f"$0 -m prefork {command} --control {control}"
    for redirection in ("<&- >&- 2>&-", "<&-", ">&-", "2>&-", ">/dev/full 2>&1"):
        done = subprocess.run(
            ["sh", "-c", f"{line} {redirection}", sys.executable],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode in {0, 1, 2}, redirection
        assert done.stderr.count("\n") <= 1, redirection
        assert "Traceback" not in done.stderr + done.stdout


def test_what_the_application_leaves_in_a_broken_pipe_changes_no_exit_code(tmp_path: Path) -> None:
    (tmp_path / "chatters.py").write_text(
        "import os, signal\n"
        "def handle(connection, address): pass\n"
        "def when_ready(master):\n"
        "    print('ready')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    words = ["serve", "chatters:handle", "--app-dir", str(tmp_path), "--hooks", "chatters", "--bind", "127.0.0.1:0"]
    with unread() as output:
        done = subprocess.run(
            [sys.executable, "-m", "prefork", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert (done.returncode, "Exception ignored" in done.stderr) == (0, False), done.stderr
