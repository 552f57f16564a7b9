"""The documentation is true: every page is followed as its reader would, and names nothing that is not there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

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
        made = r"<!-- made: (\w+) -->.*?<!-- end of \1 -->"  # by the program, which knows what others' flags are called
        prose = re.sub(rf"{made}|^```.*?^```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", prose))
        assert named <= known, f"{name(page)} names {named - known}"


def pages() -> Any:
    """The module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "scripts" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_made_is_current() -> None:
    """A reader on a code host sees the files as they are; scripts/pages.py writes them."""
    written = pages().written
    made = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made += text.count("<!-- made: ")
        if "<!-- made: " in text:
            assert written(text) == text, f"{name(page)}: run .venv/bin/python scripts/pages.py"
            assert written(re.sub(r"(?<= -->\n)\n\|.*?(?=<!-- end of)", "", text, flags=re.DOTALL)) == text
    assert made > 10


def test_a_copy_button_copies_commands_alone() -> None:
    html = (
        '<div class="highlight"><pre><span></span><code><span class="gp">$ </span>echo<span> </span>&quot;a&quot;'
        '\n<span class="go">a</span>\n<span class="gp">$ </span>one<span class="w"> </span><span class="se">\\</span>\n'
        "<span>    two</span>\n<span>...</span>\n</code></pre></div>"
    )
    copied = re.search(r'data-copy="([^"]*)"', pages().on_page_content(html))
    assert copied is not None
    assert unescape(copied[1]) == 'echo "a"\none \\\n    two'
    plain = '<div class="highlight"><pre><code>import prefork</code></pre></div>'
    assert pages().on_page_content(plain) == plain
