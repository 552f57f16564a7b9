"""What in the documentation is made of the program itself: the tables of the reference, and what the site needs beside.

    .venv/bin/python scripts/pages.py            write the tables into the pages of docs/
    .venv/bin/python scripts/pages.py --check    say whether any is out of date; scripts/check does so

A page says ``<!-- made: NAME -->``, and ``<!-- end of NAME -->`` behind what is made, so that a reader on a code host
has all of it. As a hook of mkdocs (mkdocs.yml) this module adds README.md as the first page, puts the descriptions of
objects where a page has ``<!-- ::: OBJECT -->``, and has copy buttons copy commands without what they answer.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape, unescape
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from prefork import errors, hooks
from prefork.cli import metrics
from prefork.cli.serving import ServeOptions
from prefork.config import settings
from prefork.config.embedding import EMBEDDING
from prefork.config.fields import GROUPS, Field, table
from prefork.embed.command import ASGI, ASGIOptions
from prefork.migration import gunicorn_settings, uwsgi_settings
from prefork.net import accept_errors
from prefork.net.accept_errors import AcceptError
from prefork.status.model import Status
from prefork.wsgi import access_format, options
from prefork.wsgi.command import CommandOptions

ROOT: Final = Path(__file__).resolve().parent.parent

_MADE: Final = re.compile(r"^<!-- made: (\w+) -->\n(.*?)^<!-- end of \1 -->$", re.MULTILINE | re.DOTALL)
_OBJECT: Final = re.compile(r"^<!-- (::: (\S+)\n?.*?) -->$", re.MULTILINE | re.DOTALL)
_BLOCK: Final = re.compile(r'<div class="highlight">(?=<pre>)(.*?)</div>', re.DOTALL)
_TAG: Final = re.compile(r"<[^>]+>")
_MEMBERS: Final = re.compile(r"^ *members: \[([^\]]*)\]", re.MULTILINE)
_INHERITED: Final = re.compile(r"^ *inherited_members: \[([^\]]*)\]", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page that is README.md."""
    files.append(File.generated(config, "index.md", content=index()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the descriptions of objects where a page has them for the site alone."""
    return _OBJECT.sub(lambda found: found[1], markdown)


def on_page_content(html: str, **_: object) -> str:
    """Give each block of commands what its button is to copy: mkdocs-material looks for ``data-copy``."""
    return _BLOCK.sub(_copyable, html)


def _copyable(found: re.Match[str]) -> str:
    typed = commands(unescape(_TAG.sub("", found[1])))
    return f'<div class="highlight" data-copy="{escape(typed)}">{found[1]}</div>' if typed else found[0]


def commands(text: str) -> str:
    """What is typed in a block of a terminal, a command a line: without prompts and answers. Pure."""
    typed = []
    goes_on = False
    for line in text.splitlines():
        if goes_on or line.startswith("$ "):
            typed.append(line if goes_on else line.removeprefix("$ "))
            goes_on = line.endswith("\\")
    return "\n".join(typed)


def written(page: str) -> str:
    """A page with its tables as they have to be."""

    def made(found: re.Match[str]) -> str:
        name = found[1]
        lines = objects(page) if name == "objects" else MAKERS[name]()
        text = "\n".join(lines).strip("\n")
        return f"<!-- made: {name} -->\n\n{text}\n\n<!-- end of {name} -->"

    return _MADE.sub(made, page)


def main(arguments: list[str]) -> int:
    """Write the tables, or with ``--check`` say which pages are out of date."""
    stale = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        if (new := written(page)) != page:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in arguments:
                path.write_text(new, encoding="utf-8")
    if stale and "--check" in arguments:
        print(
            f"scripts/pages.py: {', '.join(stale)} out of date; run .venv/bin/python scripts/pages.py", file=sys.stderr
        )
        return 1
    return 0


def objects(page: str) -> Iterator[str]:
    """The objects that a page describes on the site, each with the first sentence of what it says of itself."""
    yield "| name | what it is |\n| --- | --- |"
    for found in _OBJECT.finditer(page):
        name = found[2]
        described: Any = pkgutil.resolve_name(f"{name.rpartition('.')[0]}:{name.rpartition('.')[2]}")
        yield _row(name, described)
        if isinstance(described, type | ModuleType):
            listed, inherited = _MEMBERS.search(found[1]), _INHERITED.search(found[1])
            wanted = _words(listed[1]) if listed else _public(described)
            wanted |= _words(inherited[1]) if inherited else set()
            for member in (one for one in dir(described) if one in wanted):
                yield _row(f"{name.rpartition('.')[2]}.{member}", inspect.getattr_static(described, member))


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",")}


def _public(described: Any) -> set[str]:
    return {
        name
        for name, member in vars(described).items()
        if not name.startswith("_") and inspect.getdoc(member) and _is_own(member, described)
    }


def _is_own(member: Any, described: Any) -> bool:
    if isinstance(described, ModuleType):
        return getattr(member, "__module__", "") == described.__name__
    return inspect.isroutine(member) or isinstance(member, property | classmethod | staticmethod)


def _row(name: str, described: Any) -> str:
    called = ""
    function = getattr(described, "__func__", described)
    if inspect.isfunction(function):
        names = [one for one in inspect.signature(function).parameters if one not in {"self", "cls"}]
        called = f"({', '.join(names)})"
    text = " ".join((inspect.getdoc(described) or "").split("\n\n")[0].split())
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("|", "\\|")
    return f"| `{name}{called}` | {plain} |"


def index() -> str:
    """README.md, with its links as they are from within docs/."""
    return (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")


def settings_of_all() -> Iterator[str]:
    """Every setting under its heading, and where ``prefork wsgi`` has another default."""
    return _groups(settings.fields(), GROUPS, options.DEFAULTS)


def settings_of_wsgi() -> Iterator[str]:
    """The settings that ``prefork wsgi`` has beside those."""
    return _groups(options.fields(), options.GROUPS, {})


def settings_of_embedding() -> Iterator[str]:
    """What chooses the server in the workers, of each command that has it."""
    rows = {"prefork wsgi": CommandOptions, "prefork asgi": ASGIOptions, "prefork serve": ServeOptions}
    yield "\n## Servers in the workers\n\n| command | `worker_class` | default |\n| --- | --- | --- |"
    for command, options_of in rows.items():
        row = next(field for field in table(options_of) if field.name == "worker_class")
        words = ", ".join(f"`{word}`" for word in row.kind.words)
        yield f"| `{command}` | {words} | `{row.default}` |"
    shown = [field for field in table(CommandOptions) if field.group == EMBEDDING]
    shown += [field for field in table(ASGIOptions) if field.group == ASGI]
    for field in shown:
        yield f"\n### `{field.name}`\n\n{_markdown(field.help)}\n\n{_flags(field)} · `{field.env}`\n"


def table_of_gunicorn() -> Iterator[str]:
    """Every setting of gunicorn's, and what becomes of it."""
    for group, rows in gunicorn_settings.GROUPS.items():
        yield f"\n### {group}\n\n| gunicorn | prefork | |\n| --- | --- | --- |"
        for row in rows:
            ours = row.ours or (row.name if row.takes == "function" and not row.note else "")
            flags = ", ".join(f"`{flag}`" for flag in row.flags)
            shown = f"`{row.name}`" + (f" {flags}" if flags else "")
            yield f"| {shown} | {f'`{ours}`' if ours else ''} | {_markdown(row.note)} |"


def table_of_uwsgi() -> Iterator[str]:
    """Every option of uWSGI's that is known, and what becomes of it."""
    yield "| uWSGI | prefork | |\n| --- | --- | --- |"
    for row in uwsgi_settings.ROWS:
        yield f"| `{row.name}` | {f'`{row.ours}`' if row.ours else ''} | {_markdown(row.note)} |"


def _groups(fields: Iterable[Field], groups: Iterable[str], wsgi: Mapping[str, object]) -> Iterator[str]:
    fields = list(fields)
    for group in groups:
        yield f"\n## {group}\n"
        for field in fields:
            if field.group == group:
                yield f"### `{field.name}`\n\n{_markdown(field.help)}\n\n{_flags(field)} · `{field.env}`"
                yield f"· default {_default(field, wsgi)}\n"


def _flags(field: Field) -> str:
    flags = [f"{field.flag} {field.kind.metavar}"]
    if field.kind.switch:
        flags = [field.flag, f"--no-{field.flag[2:]}"]
    if field.short:
        flags.append(field.short)
    return ", ".join(f"`{flag}`" for flag in flags)


def _default(field: Field, wsgi: Mapping[str, object]) -> str:
    shown = f"`{field.kind.show(field.default)}`" if field.default not in ("", None) else "none"
    return f"{shown} (`prefork wsgi`: `{field.kind.show(wsgi[field.name])}`)" if field.name in wsgi else shown


def _markdown(text: str) -> str:
    """Plain text, so that nothing in it is taken for markup."""
    return re.sub(r"([*<\[\]])", r"\\\1", text)


def table_of_hooks() -> Iterator[str]:
    """Every hook, with who runs it and what it is given."""
    yield "| hook | runs in | when |\n| --- | --- | --- |"
    for hook in hooks.described():
        yield f"| `{hook.name}({', '.join(hook.arguments)})` | {hook.runs_in} | {hook.help} |"


def table_of_exit_codes() -> Iterator[str]:
    """Every exit code that an error of ours makes."""
    yield "| code | error | when |\n| --- | --- | --- |\n| 0 | | It was stopped as asked. |"
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PreforkError)]
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        yield f"| {kind.exit_code} | `{kind.__name__}` | {(kind.__doc__ or '').partition(chr(10))[0]} |"


def table_of_metrics() -> Iterator[str]:
    """Every metric, as the collector makes it."""
    suffixes = {"counter": "_total", "info": "_info"}
    yield "| metric | type | labels | |\n| --- | --- | --- | --- |"
    for family in metrics.families(Status(version="", pid=0, state="")):
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        shown = ", ".join(f"`{label}`" for label in labels)
        name = family.name + suffixes.get(family.type, "")
        yield f"| `{name}` | {family.type} | {shown} | {family.documentation} |"


def table_of_atoms() -> Iterator[str]:
    """The atoms of the access log's templates."""
    yield "| atom | shows |\n| --- | --- |"
    for atom, meaning in access_format.MEANINGS.items():
        yield f"| `%({atom})s` | {meaning} |"


def theory_of_errnos() -> Iterator[str]:
    """What stands above the table in net.accept_errors."""
    yield (accept_errors.__doc__ or "").split("======\n", 1)[1].split("Table\n=====", 1)[0].strip()


def table_of_errnos() -> Iterator[str]:
    """The table of net.accept_errors."""
    yield "| errno | when Linux gives it | reaction | once a stop is ordered | when it does not listen |"
    yield "| --- | --- | --- | --- | --- |"
    for row in (*accept_errors.TABLE.values(), accept_errors.OTHER):
        yield f"| {row.name} | {row.reason} | {' | '.join(_reactions(row))} |"


def _reactions(row: AcceptError) -> list[str]:
    return [f"`{found.name}`" if found is not None else "" for found in (row.reaction, row.stopping, row.deaf)]


def table_of_reactions() -> Iterator[str]:
    """What each reaction means: the docstrings below the members. Python doesn't keep these, the source does."""
    source = Path(accept_errors.__file__).read_text(encoding="utf-8")
    yield "| reaction | what the worker does |\n| --- | --- |"
    for found in accept_errors.Reaction:
        text = source.split(f'\n    {found.name} = {int(found)}\n    """', 1)[1].split('"""', 1)[0]
        yield f"| `{found.name}` | {' '.join(text.split())} |"


MAKERS: Final[Mapping[str, Callable[[], Iterator[str]]]] = {
    "settings": settings_of_all,
    "wsgi_settings": settings_of_wsgi,
    "embedding": settings_of_embedding,
    "gunicorn": table_of_gunicorn,
    "uwsgi": table_of_uwsgi,
    "hooks": table_of_hooks,
    "exit_codes": table_of_exit_codes,
    "metrics": table_of_metrics,
    "atoms": table_of_atoms,
    "theory": theory_of_errnos,
    "errnos": table_of_errnos,
    "reactions": table_of_reactions,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
