"""The documentation is true: every page is followed as its reader would, and names nothing that is not there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from prefork.cli.main import COMMANDS, main
from tests.support.documents import ROOT, Session, blocks, commands, try_flags

OF_THE_SERVERS = {"embed.md", "wsgi.md"}
"""Pages whose programs are those of examples/, run by tests/embed and tests/wsgi: only what they name is looked at."""

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FOLLOWED = [page for page in PAGES if page.name not in OF_THE_SERVERS]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in FOLLOWED if blocks(page)], ids=name)
def test_a_reader_succeeds(page: Path) -> None:
    with Session(page) as session:
        session.follow()


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in OF_THE_SERVERS], ids=name)
def test_what_is_not_followed_would_be_understood(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, block.where, "exec")
        elif block.language == "console":
            for command, _ in commands(block.text):
                try_flags(shlex.split(command))
        else:
            pytest.fail(f"{block.where}: nobody checks a block of {block.language!r} here")


OF_OTHERS = {"--access-logfile", "--all", "--check-config", "--nofile", "--strict"}
"""Flags in our text that are of other programs."""


def test_every_flag_in_the_text_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert main([command.name, "--help"]) == 0
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) | OF_OTHERS
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        prose = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", prose))
        assert named <= known, f"{name(page)} names {named - known}"
