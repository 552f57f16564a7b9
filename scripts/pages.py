"""What the documentation is built from beside docs/: README.md as its first page, and the tables of the reference.

A hook of mkdocs (mkdocs.yml). Where a page says ``<!-- made: NAME -->``, the build puts a table that is made of what
the program itself uses, so that none can be out of date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from prefork import errors, hooks
from prefork.cli import metrics
from prefork.cli.main import ServeOptions
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

_MADE: Final = re.compile(r"^<!-- made: (\w+) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page that is README.md."""
    files.append(File.generated(config, "index.md", content=index()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the tables where a page wants them."""
    return _MADE.sub(lambda found: "\n".join(MAKERS[found[1]]()), markdown)


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
        words = ", ".join(f"`{word}`" for word in row.kind.metavar.split("|"))
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
