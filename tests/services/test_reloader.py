"""``--reload``: an edit is served, one that can't be imported replaces nothing, and nobody outlives the master."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from prefork.services import file_watcher
from prefork.system import natives
from prefork.testing import Server, request
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import is_gone, kill
from tests.support.programs import ROOT, TIMEOUT

HANDLE = """\
from parts.words import WORD


def handle(connection, address):
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(WORD), WORD))
"""
APPLICATION = """\
from parts.words import WORD


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [WORD]
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the source of an application, which says one word."""
    folder = tmp_path / "source"
    (folder / "parts").mkdir(parents=True)
    (folder / "shop.py").write_text(HANDLE)
    (folder / "site_of_it.py").write_text(APPLICATION)
    say(folder, "one")
    return folder


def say(source: Path, word: str) -> None:
    (source / "parts" / "words.py").write_text(f"WORD = b{word!r}\n")


def watching(server: Server) -> Server:
    """A server that will notice the next edit."""
    server.wait_for_log("reload: watching the Python source in ")
    return server


def said(server: Server) -> str:
    return request(server.address).body.decode()


def serve(factory: ServerFactory, source: Path, **settings: object) -> Server:
    return watching(factory("shop:handle", app_dir=source, workers=1, reload=True, **settings))  # type: ignore[arg-type]  # none of them is called options


def watchers(server: Server) -> list[int]:
    return [process.pid for process in psutil.Process(server.pid).children() if watches(process)]


def watches(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
        return file_watcher.__name__ in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_edits_are_served_and_broken_ones_are_not(prefork_server: ServerFactory, source: Path) -> None:
    server = serve(prefork_server, source)
    assert said(server) == "one"
    say(source, "two")  # in the same second, perhaps, and of the same size
    server.wait_for(lambda: said(server) == "two")
    end = len(server.log())
    (source / "parts" / "words.py").write_text("WORD = (\n")
    server.wait_for_log("SyntaxError", after=end)
    server.wait_for_log("failed to boot; the old one goes on", after=end)
    assert said(server) == "two"
    say(source, "six")
    server.wait_for(lambda: said(server) == "six")
    assert server.stop() == 0
    assert server.survivors() == []
    assert "Warning" not in server.log()


def test_a_wsgi_application(prefork_server: ServerFactory, source: Path) -> None:
    server = watching(
        prefork_server("site_of_it:application", app_dir=source, subcommand="wsgi", workers=2, reload=True)
    )
    (source / "site_of_it.py").write_text(APPLICATION.replace("[WORD]", "[b'new']"))
    server.wait_for(lambda: said(server) == "new")


@pytest.mark.long
def test_what_is_preloaded_comes_by_another_mold(prefork_server: ServerFactory, source: Path) -> None:
    server = serve(prefork_server, source, preload=True)
    first, molds = watchers(server), server.molds()
    say(source, "two")
    server.wait_for(lambda: said(server) == "two")
    server.wait_for(lambda: len(server.molds()) == 1, message="the older mold is gone")
    assert not set(molds) & set(server.molds())
    assert watchers(server) == first
    assert server.stop() == 0
    assert server.survivors() == []


@pytest.mark.long
def test_a_program_that_serves_is_executed_anew(prefork_server: ServerFactory) -> None:
    server = prefork_server.script(
        """
        import logging
        import prefork

        def handle(connection, address):
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\none")

        if __name__ == "__main__":
            logging.basicConfig(level=logging.INFO)
            prefork.serve(handle, bind="127.0.0.1:0", workers=1, reload=True)
        """
    )
    watching(server)
    assert isinstance(server.process.args, list)
    program = Path(server.process.args[1])
    program.write_text(program.read_text().replace("one", "two"))
    server.wait_for(lambda: said(server) == "two")
    assert server.stop() == 0


PROGRAM = """\
import logging
import os
import time
from pathlib import Path

import prefork
from words import WORD


def hold(name):
    Path(f"at-{name}").touch()
    while Path(f"hold-{name}").exists():
        time.sleep(0.01)


class Shop(prefork.Worker):
    def init(self):
        hold("boot")
        self.log.info("has %s", WORD)

    def handle(self, connection, address):
        pass


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    for name in ("REHEARSAL", "HANDOVER"):
        if f"_PREFORK_{name}" in os.environ:
            hold(name)
    assert len(WORD) == 3
    prefork.Master(Shop, prefork.Settings(bind="127.0.0.1:0", workers=1, reload=True)).run()
"""


class Program:
    """A program that serves, and whose master has imported what is edited: it is renewed by upgrades.

    Args:
        factory: Runs it.
        folder: Where it is.
        held: What waits from its beginning.
    """

    def __init__(self, factory: ServerFactory, folder: Path, held: str = "") -> None:
        self.folder = folder
        (folder / "program.py").write_text(PROGRAM)
        self.say("one")
        if held:
            self.hold(held)
        self.server = factory.command([sys.executable, "program.py"], cwd=folder, ready="reload: watching")

    def say(self, word: str) -> None:
        """Edit."""
        (self.folder / "words.py").write_text(f"WORD = {word!r}\n")

    def hold(self, name: str) -> None:
        """Have whoever comes there wait."""
        (self.folder / f"hold-{name}").touch()

    def wait_until_held(self, name: str) -> None:
        """Somebody has come there."""
        self.server.wait_for((self.folder / f"at-{name}").exists)

    def release(self, name: str) -> None:
        """Let them go on."""
        (self.folder / f"hold-{name}").unlink()


@pytest.mark.long
def test_an_edit_while_the_server_starts_comes_when_it_serves(prefork_server: ServerFactory, tmp_path: Path) -> None:
    program = Program(prefork_server, tmp_path, "boot")
    program.wait_until_held("boot")
    program.say("two")
    program.server.wait_for_log("reload: changed: .*words.py")
    program.release("boot")
    program.server.wait_for_log("has two")
    assert program.server.stop() == 0


@pytest.mark.long
def test_an_edit_while_a_rehearsal_is_about_to_fail_is_tried_next(
    prefork_server: ServerFactory, tmp_path: Path
) -> None:
    program = Program(prefork_server, tmp_path)
    program.server.wait_for_log("has one")
    program.hold("REHEARSAL")
    program.say("broken")
    program.wait_until_held("REHEARSAL")
    program.say("two")
    program.server.wait_for(lambda: program.server.log().count("reload: changed: ") > 1)
    program.release("REHEARSAL")
    program.server.wait_for_log("has two")
    assert program.server.stop() == 0


@pytest.mark.long
def test_an_edit_between_an_exec_and_the_next_watch_is_seen(prefork_server: ServerFactory, tmp_path: Path) -> None:
    """The image after an upgrade has imported what it serves before it has a watcher of its own."""
    program = Program(prefork_server, tmp_path)
    program.server.wait_for_log("has one")
    program.hold("HANDOVER")
    program.say("two")
    program.wait_until_held("HANDOVER")
    program.say("six")
    time.sleep(0.5)  # whoever watches tells of it within that time, and to nobody yet
    program.release("HANDOVER")
    program.server.wait_for_log("has six")
    program.server.wait_for(lambda: len(watchers(program.server)) == 1, message="the others have been dismissed")
    assert program.server.stop() == 0


def test_the_watcher_dies_with_the_master(prefork_server: ServerFactory, source: Path) -> None:
    server = serve(prefork_server, source)
    (watcher,) = watchers(server)
    server.signal(signal.SIGKILL)
    server.wait_for(lambda: is_gone(watcher))
    server.wait_for(lambda: server.survivors() == [])


def test_what_is_sent_to_the_group_is_for_the_master(prefork_server: ServerFactory, source: Path) -> None:
    server = serve(prefork_server, source)
    server.signal_group(signal.SIGTERM)
    assert server.wait() == 0
    assert server.survivors() == []
    assert "nobody watches" not in server.log()


def test_a_server_outlives_its_watcher(prefork_server: ServerFactory, source: Path) -> None:
    server = serve(prefork_server, source)
    kill(*watchers(server))
    server.wait_for_log("ERROR .*nobody watches files any more")
    assert said(server) == "one"
    assert server.stop() == 0


def test_what_a_watcher_should_not_say_harms_nobody(prefork_server: ServerFactory, source: Path) -> None:
    """The source is on its import path, and what is called sitecustomize there is run before anything else (site)."""
    (source / "sitecustomize.py").write_text("print('hello'); print('1'); print('{}')\n")
    server = serve(prefork_server, source)
    say(source, "two")
    server.wait_for(lambda: said(server) == "two")
    assert server.stop() == 0


def test_without_watchfiles(source: Path) -> None:
    program = (
        "import sys; sys.modules['watchfiles'] = None; from prefork.cli import main; sys.exit(main.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "shop:handle", "--app-dir", source, "--reload"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "prefork: error: reload: watchfiles is not installed; pip install 'prefork[reload]', or leave it out\n"
    )


def test_which_folders_of_the_import_path_are_meant(tmp_path: Path) -> None:
    """Those with somebody's source in them, each once; nothing that belongs to Python or was installed."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine / "inner", other, tmp_path / "lib" / "site-packages"):
        folder.mkdir(parents=True)
    given = [mine / "inner", mine, other, mine, tmp_path / "nowhere", tmp_path / "lib" / "site-packages", os.__file__]
    path = [*map(str, given), os.path.dirname(os.__file__)]
    assert file_watcher.roots(path) == [str(mine), str(other)]


def test_which_files_matter(tmp_path: Path) -> None:
    names = {
        "app.py": True,
        "parts/words.py": True,
        "parts/deeper/words.py": True,
        "app.pyc": False,
        "app.py~": False,
        ".#app.py": False,
        ".git/hooks/hook.py": False,
        "__pycache__/app.py": False,
        "node_modules/thing.py": False,
        "environment/pyvenv.cfg": False,
        "environment/lib/thing.py": False,
        "lib/site-packages/thing.py": False,
    }
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = file_watcher.sources(file_watcher.folders([str(tmp_path)]))
    assert {os.path.relpath(file, tmp_path) for file in found} == {name for name, matters in names.items() if matters}


def test_what_is_another_file_now_whatever_its_date_says(tmp_path: Path) -> None:
    """What changes before the watches stand is found so: a file that was moved or unpacked here bears an old date."""
    for name in ("edited.py", "unpacked.py", "kept.py", "gone.py", "elsewhere", "other"):
        (tmp_path / name).write_text("one")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "broken.py").symlink_to("nowhere")
    (tmp_path / "link.py").symlink_to("elsewhere")
    before = file_watcher.sources([str(tmp_path)])
    (tmp_path / "edited.py").write_text("two, longer")  # two of one size may fall into one tick of the kernel's clock
    (tmp_path / "gone.py").unlink()
    (tmp_path / "link.py").unlink()
    (tmp_path / "link.py").symlink_to("other")
    (tmp_path / "new").write_text("two")
    (tmp_path / "new").rename(tmp_path / "unpacked.py")
    for name in ("edited.py", "unpacked.py"):
        os.utime(tmp_path / name, (0, 0))
    after = file_watcher.sources([str(tmp_path)])
    assert {Path(file).name for file, _ in before.items() ^ after.items()} == {
        "edited.py",
        "gone.py",
        "link.py",
        "unpacked.py",
    }
    assert str(tmp_path / "broken.py") not in after


def test_a_clock_that_was_set_back_hides_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel notes when a file changes by a clock that may be set: by an hour back, as this program sees it."""
    clock = natives.time.time
    monkeypatch.setattr(natives.time, "time", lambda: clock() + 3600)
    (tmp_path / "edited.py").write_text("one")
    (tmp_path / "gone.py").write_text("one")
    walk = file_watcher.folders

    def edited_meanwhile(tops: Iterable[str]) -> Iterator[str]:
        """As they are, and once they have been looked through somebody edits, before the watches stand."""
        yield from walk(tops)
        monkeypatch.setattr(file_watcher, "folders", walk)
        (tmp_path / "edited.py").write_text("two, longer")
        (tmp_path / "gone.py").unlink()

    monkeypatch.setattr(file_watcher, "folders", edited_meanwhile)
    changes = file_watcher.changes([str(tmp_path)])
    assert next(changes) == {str(tmp_path / "edited.py"), str(tmp_path / "gone.py")}
    changes.close()


def test_changes_in_folders_old_and_new(tmp_path: Path) -> None:
    """A folder that comes into being is watched like those that were there."""
    (tmp_path / "old.py").write_text("one")
    changes = file_watcher.changes([str(tmp_path)])
    assert next(changes) == set()

    def told_of(name: str) -> bool:
        """Whether it comes; what has been told before may come along."""
        file = str(tmp_path / name)
        return any(file in files for _, files in zip(range(10), changes, strict=False))

    (tmp_path / "old.py").write_text("two")
    assert told_of("old.py")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "first.py").write_text("one")
    assert told_of("new/first.py")
    (tmp_path / "new" / "second.py").write_text("one")
    assert told_of("new/second.py")
    (tmp_path / "new" / "second.py").unlink()
    assert told_of("new/second.py")
    changes.close()
