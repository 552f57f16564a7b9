"""Handlers of a file of logging.config: what one raises costs no server, and none is led to a file of root's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.testing import Outcome, hold_port, request, running, wait_for
from tests.support.probing import replaced
from tests.support.programs import ROOT, run_program

NOBODY = 65534


def configuration(path: Path, **handler: Any) -> dict[str, Any]:
    return {
        "formatters": {"plain": {"format": "%(message)s"}},
        "handlers": {"log": {"filename": str(path), "formatter": "plain", **handler}},
        "loggers": {"prefork": {"handlers": ["log"], "level": "DEBUG"}},
    }


RAISING = """\
import logging, os


class Raising(logging.Handler):
    def __init__(self, filename):
        super().__init__()
        self.filename = filename

    def emit(self, record):
        open(self.filename, "a").close()


def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"hi"]
"""


@pytest.mark.parametrize(
    "handler",
    [
        {"class": "logging.FileHandler", "delay": True},
        {"class": "logging.handlers.WatchedFileHandler"},
        {"class": "raising.Raising"},
    ],
    ids=lambda handler: handler["class"],
)
def test_a_handler_that_raises_ends_no_server(tmp_path: Path, handler: dict[str, Any]) -> None:
    (tmp_path / "raising.py").write_text(RAISING)
    folder = tmp_path / "logs"
    folder.mkdir()
    source = tmp_path / "log.json"
    source.write_text(json.dumps(configuration(folder / "log", **handler)))
    with hold_port() as address:
        command = [sys.executable, "-P", "-m", "prefork", "wsgi", "raising:application", "--bind", address]
        command += ["--workers", "1", "--logconfig", str(source), "--control", "off"]
        with running(command, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, ready="") as server:
            wait_for(lambda: request(address).outcome is Outcome.ANSWERED)
            before = server.workers()
            shutil.rmtree(folder)
            server.signal(signal.SIGHUP)
            replaced(server, before)
            assert request(address).outcome is Outcome.ANSWERED
            assert server.stop() == 0


USES = """
import json, logging, os, sys
from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.services import configured
log = logging.getLogger("prefork")
file, target, when = sys.argv[1:4]
def lead():
    if os.path.lexists(file):
        os.unlink(file)
    os.symlink(target, file)
    os.lchown(file, 65534, 65534)
for source in sys.argv[4:]:
    if os.path.lexists(file):
        os.unlink(file)
    try:
        if when != "later":
            lead()
        if when == "check":
            configured.check_log(Settings(logconfig=source), (65534, 65534))
        configured.configure_log(Settings(logconfig=source), (65534, 65534))
        log.info("first")
        lead()
        log.output._looked = 0  # as it is a second later
        log.info("second")
    except SettingsError as error:
        print(error)
"""
KINDS: list[dict[str, Any]] = [
    {"class": "logging.FileHandler"},
    {"class": "logging.FileHandler", "mode": "w"},
    {"class": "logging.handlers.WatchedFileHandler"},
    {"class": "logging.handlers.RotatingFileHandler", "maxBytes": 10, "backupCount": 1},
    {"class": "logging.handlers.TimedRotatingFileHandler"},
]


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder of ours that all may enter, with one of another's in it."""
    folder = Path(tempfile.mkdtemp(prefix="prefork-test-"))
    folder.chmod(0o755)
    (folder / "theirs").mkdir()
    os.chown(folder / "theirs", NOBODY, NOBODY)
    (folder / "secret").write_text("root's")
    (folder / "secret").chmod(0o600)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files that others would like to have")
@pytest.mark.parametrize(("when", "target"), [("check", "secret"), ("before", "missing"), ("later", "secret")])
def test_root_is_not_led_out_of_the_folder_of_another(top: Path, target: str, when: str) -> None:
    file, secret, sources = top / "theirs" / "log", top / "secret", []
    for number, handler in enumerate(KINDS):
        sources.append(top / f"{number}.json")
        sources[-1].write_text(json.dumps(configuration(file, **handler)))
    done = run_program(USES, str(file), str(top / target), when, *map(str, sources))
    assert done.returncode == 0, done
    refused = done.stdout.count(f"on its way is a symbolic link of uid {NOBODY}'s, who could change it")
    assert refused == (0 if when == "later" else len(KINDS)), done
    assert not (top / "missing").exists()
    assert secret.read_text() == "root's"
    assert (secret.stat().st_uid, stat.S_IMODE(secret.stat().st_mode)) == (0, 0o600)


BEHIND = """
import logging, os, sys
from prefork.config.settings import Settings
from prefork.services import configured
file, target, *sources = sys.argv[1:]
log = logging.getLogger("prefork")
for source in sources:
    if os.path.lexists(file):
        os.unlink(file)
    configured.configure_log(Settings(logconfig=source), (65534, 65534))
    if os.path.lexists(file):
        os.unlink(file)
    os.symlink(target, file)
    os.lchown(file, 65534, 65534)
    log.info("is held back")
    log.info("goes on to a handler of a file")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files that others would like to have")
def test_nor_is_a_handler_that_stands_behind_another(top: Path) -> None:
    """It opens its file with its first record, or anew by itself: when nothing of the configuration runs any more."""
    file, secret, sources = top / "theirs" / "log", top / "secret", []
    for number, handler in enumerate([*KINDS, {"class": "logging.FileHandler", "delay": True}]):
        told = configuration(file, **handler)
        told["handlers"]["held"] = {"class": "logging.handlers.MemoryHandler", "capacity": 2, "target": "log"}
        told["loggers"]["prefork"]["handlers"] = ["held"]
        sources.append(top / f"{number}.json")
        sources[-1].write_text(json.dumps(told))
    done = run_program(BEHIND, str(file), str(secret), *map(str, sources))
    assert done.returncode == 0, done
    assert secret.read_text() == "root's"
    assert (secret.stat().st_uid, stat.S_IMODE(secret.stat().st_mode)) == (0, 0o600)


CLOSED = """
import logging, logging.config, sys
from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.services import configured
try:
    configured.configure_log(Settings(logconfig=sys.argv[1]))
except SettingsError as error:
    print("refused")
else:
    log = logging.getLogger("prefork")
    log.output.after_fork(0, 0)
    log.info("first")
    logging.config.dictConfig({"version": 1})
    log.info("second")
"""


@pytest.mark.parametrize("mode", ["a", "w", "x"])
def test_a_file_is_opened_as_its_handler_says_and_closed_by_nobody_else(tmp_path: Path, mode: str) -> None:
    source, file = tmp_path / "log.json", tmp_path / "log"
    source.write_text(json.dumps(configuration(file, **{"class": "logging.FileHandler", "mode": mode})))
    said = [run_program(CLOSED, str(source)) for _ in range(2)]
    assert [(done.stdout, done.stderr) for done in said] == [("", ""), ("refused\n" if mode == "x" else "", "")]
    assert file.read_text() == "first\nsecond\n" * (2 if mode == "a" else 1)


HOSTILE = """
import logging, sys
from prefork.config.settings import Settings
from prefork.services import configured
configured.configure_log(Settings(logconfig=sys.argv[1]))
log = logging.getLogger("prefork")
forged = "failed\\n[root] says so \\x1b]0;title\\x07"
log.error("%s, %d", forged, 7)
try:
    raise ValueError(forged)
except ValueError:
    log.exception("a request")
log.info("%d", "no number")
log.info("plain")
"""


def test_no_message_can_be_taken_for_a_record_or_steer_a_terminal(tmp_path: Path) -> None:
    source, file = tmp_path / "log.json", tmp_path / "log"
    told = configuration(file, **{"class": "logging.FileHandler"})
    told["formatters"]["plain"] = {"format": "[%(name)s] %(message)s"}
    source.write_text(json.dumps(told))
    done = run_program(HOSTILE, str(source))
    assert done.returncode == 0, done
    assert "TypeError: %d format" in done.stderr  # as logging tells of it
    said = "failed\n  [root] says so \\x1b]0;title\\x07"
    first, *trace, last = file.read_text().split("\n[prefork] ")
    assert first == f"[prefork] {said}, 7"
    assert last == "plain\n"
    (told_of,) = trace
    assert told_of.startswith("a request\nTraceback (most recent call last):\n    File")
    assert told_of.endswith(f"\n  ValueError: {said}")


def test_what_is_held_back_is_written_in_the_end(tmp_path: Path) -> None:
    source, file = tmp_path / "log.json", tmp_path / "log"
    told = configuration(file, **{"class": "logging.FileHandler"})
    told["handlers"]["held"] = {"class": "logging.handlers.MemoryHandler", "capacity": 100, "target": "log"}
    told["loggers"]["prefork"]["handlers"] = ["held"]
    source.write_text(json.dumps(told))
    done = run_program(CLOSED, str(source))
    assert (done.returncode, done.stderr, file.read_text()) == (0, "", "first\nsecond\n")
