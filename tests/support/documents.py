"""README.md and the pages of docs/ as their reader follows them: files written, commands typed, answers compared.

A page is a session. Its fenced blocks are taken in order, in one folder that has the project's ``examples`` in it:

* ``python title="shop.py"`` is a file, which is written. If the project has a file of that name, the block is an
  excerpt of it.
* ``python`` without a title is a program that is a server: it is run, and has to answer a request.
* ``console``: what stands behind ``$`` is typed, and what stands below it has to come; ``...`` stands for anything. A
  command that serves goes on in the background, until the next one is started.
* Other languages are read by who understands them, see `READERS`.

Above a block that can't be run stands ``<!-- not run: REASON -->``; what can be checked of it is checked nevertheless.
The ports 8000 and 9199 become free ones.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import yaml

from prefork.testing import READY, Server, hold_port, request, running
from prefork.testing.waiting import TIMEOUT

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent

_BLOCK: Final = re.compile(
    r'^(?:<!-- not run: (?P<reason>[^\n]+) -->\n\n?)?^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n'
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_PORT: Final = re.compile(r"\b(?:8000|9199)\b")
_SERVES: Final = re.compile(r"prefork\.(?:serve|Master)\(")
_SERVING: Final = {"serve", "wsgi", "asgi", "gunicorn", "uwsgi"}
_NEVER_TYPED: Final = {"prefork top": "wants a terminal"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        where: The page and the line, for messages.
        language: What the fence says.
        title: The file that it is, "" for none.
        text: What stands in it.
        reason: Why it is not run; "" when it is.
    """

    where: str
    language: str
    title: str
    text: str
    reason: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start('language')) + 1}",
            match["language"],
            match["title"] or "",
            match["text"],
            match["reason"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]
    assert 2 * len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{page}: a fence was not understood"
    return found


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with what it is to answer."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, answer = part.replace("\\\n", "").partition("\n")
        yield re.sub(r"\s+# .*", "", command).strip(), answer


def expected(answer: str) -> re.Pattern[str]:
    """What an answer has to be: ``...`` is anything within a line, and as a line of its own any lines."""
    lines = []
    for line in answer.splitlines(keepends=True):
        is_open = line.strip() == "..."
        lines.append(r"(?:.*\n)*" if is_open else re.escape(line).replace(re.escape("..."), ".*"))
    return re.compile("".join(lines))


class Session:
    """One page, followed. Close it with ``with``.

    Args:
        page: Which.
    """

    def __init__(self, page: Path) -> None:
        self.page = page
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="docs-")))
        (self.folder / "examples").symlink_to(ROOT / "examples")
        self._ports = {
            port: self._stack.enter_context(hold_port(reuse_port=True)).rpartition(":")[2] for port in ("8000", "9199")
        }
        self.servers: list[Server] = []
        self._exporters: list[Server] = []
        self.environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PREFORK_CONTROL": str(self.folder / "control"),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self._stack.close()

    def follow(self) -> None:
        """Do all that the page says."""
        for block in blocks(self.page):
            assert block.language in READERS, f"{block.where}: nobody checks a block of {block.language!r}"
            try:
                READERS[block.language](self, block)
            except Exception as error:
                error.add_note(f"{block.where}, the block {block.title or block.language}")
                raise

    def ported(self, text: str) -> str:
        """The text with this session's port."""
        return _PORT.sub(lambda found: self._ports[found[0]], text)

    def write(self, block: Block) -> None:
        """Make the file that a block is, or hold it to the one that there is."""
        existing = ROOT / block.title
        if existing.exists():
            assert block.text in existing.read_text(encoding="utf-8"), f"is not what stands in {block.title}"
            return
        path = self.folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.ported(block.text), encoding="utf-8")

    def program(self, block: Block) -> None:
        """A Python block."""
        if block.title:
            self.write(block)
        if not (ROOT / block.title).is_file():  # of a file that is there, an excerpt is not always a program
            compile(block.text, block.where, "exec")
        if not block.title and not block.reason:
            logging = "import logging\nlogging.basicConfig(level=logging.INFO, format='%(message)s')\n"
            (self.folder / "program.py").write_text(logging + self.ported(block.text), encoding="utf-8")
            answer = request(self.start("python program.py").address)
            assert answer.status == 200, answer

    def console(self, block: Block) -> None:
        """A console block."""
        typed = list(commands(block.text))
        assert typed, "no line of it begins with $"
        for command, answer in typed:
            if block.reason:
                self.look_at(command)
            else:
                self.type(command, self.ported(answer))

    def look_at(self, command: str) -> None:
        """Hold a command that is not typed to what can be known of it."""
        try_flags(shlex.split(command))

    def type(self, command: str, answer: str) -> None:
        """Type one command and compare."""
        words = shlex.split(command)
        if words[0].startswith("scripts/"):
            assert os.access(ROOT / words[0], os.X_OK), f"{words[0]} can't be run"
        elif command in _NEVER_TYPED:
            self.look_at(command)
        elif self.serves(command):
            server = self.start(self.ported(command))
            if answer:
                server.wait_for(lambda: expected(answer).search(server.log()), message=f"{expected(answer).pattern}")
        else:
            said, code = self.run(self.ported(command))
            assert code == 0, f"$ {command}\n{said}"
            if answer:
                assert expected(answer).fullmatch(said), f"$ {command}\n{said}\nis not\n{answer}"
            if words[:2] == ["prefork", "stop"]:
                assert [server.wait() for server in self.servers] == [0] * len(self.servers)
                self.servers.clear()

    def serves(self, command: str) -> bool:
        """Whether a command goes on until it is stopped."""
        words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=.*|prlimit|--nofile=.*", word)]
        if words[:2] == ["prefork", "exporter"]:
            return True
        if words[:1] == ["python"]:
            return bool(_SERVES.search((self.folder / words[1]).read_text(encoding="utf-8")))
        told = {"--help", "--print-config", "--check", "--explain", "|", "&&", ";"}
        return words[:1] == ["prefork"] and words[1] in _SERVING and not told & set(re.split(r"\s|(;)", command))

    def start(self, command: str) -> Server:
        """Start a server, after those that were on its address; with ``--takeover`` it ends the one before itself."""
        exports = command.startswith("prefork exporter")
        if "--takeover" not in command and not exports:
            self.stop()
        typed = re.sub(r"^((?:[A-Z_]+=\S* )*)", r"\1exec ", command)
        log = re.search(r"--log-file (\S+)", command)
        path = self.folder / (log[1] if log else "")
        written = path.stat().st_size if log and path.exists() else 0
        ready = READY if log is None else ""
        server = self._stack.enter_context(
            running(["bash", "-c", typed], cwd=self.folder, env=self.environment, ready=ready)
        )
        if log is not None:
            server.wait_for(lambda: path.exists() and re.search(READY, path.read_text(encoding="utf-8")[written:]))
        if "--takeover" in command:
            assert [before.wait() for before in self.servers] == [0] * len(self.servers)
            self.servers.clear()
        (self._exporters if exports else self.servers).append(server)
        return server

    def stop(self) -> None:
        """Stop what serves; it has to end well."""
        for server in self._exporters + self.servers:
            assert server.stop() == 0, server.log()
        self._exporters.clear()
        self.servers.clear()

    def run(self, command: str) -> tuple[str, int]:
        """Run a command to its end: what it wrote, and its exit code."""
        words = shlex.split(command)
        if words[0] == "curl" and shutil.which("curl") is None:
            with urllib.request.urlopen(words[-1], timeout=TIMEOUT) as answer:
                return answer.read().decode(), 0
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * TIMEOUT,
            check=False,
        )
        return done.stdout, done.returncode


def try_flags(words: list[str]) -> None:
    """Whether a command of prefork's would be understood; of others nothing is known here."""
    if not words or Path(words[0]).name != "prefork":
        return
    line = [sys.executable, "-m", "prefork", *words[1:]]
    if words[1] not in {"serve", "wsgi", "check"} or "--live" in words:
        told = subprocess.run([*line, "--help"], capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
        for word in words:
            assert not word.startswith("--") or word.partition("=")[0] in told, f"{word} is not in\n{told}"
        return
    if words[1] == "check":
        line[3:4] = [] if words[2] in {"serve", "wsgi"} else ["serve"]
    if not line[4].startswith("-"):
        del line[4]  # what is to be served is not here
    if "--chdir" in line:
        line[line.index("--chdir") + 1] = "/"  # nor is its folder
    line.append("--print-config")
    done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


# Who reads what.


def _json(session: Session, block: Block) -> None:
    for line in [block.text] if block.text.startswith("{\n") else block.text.splitlines():
        json.loads(line)


def _toml(session: Session, block: Block) -> None:
    session.write(block)
    tomllib.loads(block.text)


def _yaml(session: Session, block: Block) -> None:
    def look(node: object) -> None:
        if isinstance(node, list) and node[:1] == ["prefork"]:
            try_flags([str(word) for word in node])
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            look(child)

    for document in yaml.safe_load_all(block.text):
        assert isinstance(document, dict)
        look(document)


def _unit(session: Session, block: Block) -> None:
    """A unit of systemd: by systemd itself where it is, and the command that it runs by us; or a file of others."""
    session.write(block)
    if block.text.startswith(("[uwsgi]\n", "[newrelic]\n")):
        return
    settings = re.findall(r"^(\w+)=((?:.*\\\n)*.*)$", block.text, re.MULTILINE)
    for name, value in settings:
        if name.startswith("Exec"):
            try_flags(shlex.split(value.replace("\\\n", "")))
    verify(session.folder / block.title if not (ROOT / block.title).exists() else ROOT / block.title)


def verify(unit: Path) -> None:
    """Have systemd read a unit, where it is installed."""
    if shutil.which("systemd-analyze") is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        for sibling in unit.parent.glob(f"{unit.stem}.*"):
            # The programs of a unit have to be there, for systemd-analyze(1) looks.
            text = re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", sibling.read_text(encoding="utf-8"), flags=re.MULTILINE)
            Path(folder, sibling.name).write_text(text, encoding="utf-8")
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(Path(folder, unit.name))],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    # Older ones than 253 don't know the type that the unit's own comment speaks of.
    about = [line for line in done.stderr.splitlines() if unit.name in line and "notify-reload" not in line]
    assert not about, done.stderr


def _dockerfile(session: Session, block: Block) -> None:
    known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "CMD", "HEALTHCHECK", "STOPSIGNAL", "ENV", "EXPOSE"}
    for line in block.text.replace("\\\n", "").splitlines():
        if not line or line.startswith("#"):
            continue
        assert line.split()[0] in known, line
        command = re.search(r"\[.*\]$", line)
        if command:
            try_flags(json.loads(command[0]))


def _procfile(session: Session, block: Block) -> None:
    session.write(block)
    for line in block.text.splitlines():
        kind, separator, command = line.partition(": ")
        assert separator, line
        assert kind.isalnum(), line
        try_flags(shlex.split(command))


def _nginx(session: Session, block: Block) -> None:
    if block.title:
        session.write(block)
    depth = 0
    seen: set[tuple[int, str]] = set()
    for line in block.text.splitlines():
        code = line.partition("#")[0].strip()
        if code:
            assert (depth, code) not in seen or code == "}", f"{line} is there twice"
            seen = {(level, text) for level, text in seen if level <= depth} | {(depth, code)}
            assert code[-1] in "{};", line
            depth += code.count("{") - code.count("}")
            assert depth >= 0, line
    assert depth == 0


def _haproxy(session: Session, block: Block) -> None:
    for line in block.text.splitlines():
        if line and not line.startswith((" ", "#")):
            assert line.split()[0] in {"global", "defaults", "frontend", "backend", "listen"}, line


def _as_it_is(session: Session, block: Block) -> None:
    """Text for people."""


READERS: Final[Mapping[str, Callable[[Session, Block], None]]] = {
    "python": Session.program,
    "console": Session.console,
    "json": _json,
    "toml": _toml,
    "yaml": _yaml,
    "ini": _unit,
    "dockerfile": _dockerfile,
    "procfile": _procfile,
    "nginx": _nginx,
    "haproxy": _haproxy,
    "text": _as_it_is,
    "house": _as_it_is,  # scripts/import_order.py reads it
}
"""Who reads a block, by its language."""
