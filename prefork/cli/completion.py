"""``prefork completion``: what a shell needs to complete commands, flags and the words that flags take.

It is made of the tables of settings, of what each command says of itself (``--help``), and for gunicorn's and uWSGI's
flags of the tables in `prefork.migration`; so it is as current as the command that prints it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prefork.cli.main import COMMANDS, Command, call, write
from prefork.config import settings
from prefork.config.fields import table
from prefork.errors import SettingsError
from prefork.system.record import Record

_HELP: Final = """\
usage: prefork completion bash|zsh|fish

Print what makes this shell complete prefork's commands, their flags and the words that these take.

Examples:
  prefork completion bash > ~/.local/share/bash-completion/completions/prefork
  prefork completion zsh > "${fpath[1]}/_prefork"
  prefork completion fish > ~/.config/fish/completions/prefork.fish
"""

_ENTRY: Final = re.compile(
    r"^ {2}(?=-)(?P<names>[^\n]*?)(?:\s{2,}(?P<first>\S[^\n]*))?\n(?P<more>(?: {3,}[^\n]*\n)*)", re.MULTILINE
)
_LONGEST: Final = 70  # characters of what is said of a flag


class CompletedFlag(Record):
    """A flag.

    Attributes:
        name: With its hyphens.
        words: What it takes, where that is one of a few words.
        takes: Whether it takes anything.
        about: What it is for, in short.
    """

    name: str
    words: tuple[str, ...]
    takes: bool
    about: str


def completion(argv: Sequence[str]) -> int:
    """``prefork completion``.

    Args:
        argv: The shell's name.

    Returns:
        The exit code.

    Raises:
        SettingsError: It is not known.
    """
    if not argv or argv[0] in {"-h", "--help"}:
        write(_HELP)
        return 0 if argv else 2
    if len(argv) > 1 or argv[0] not in SHELLS:
        raise SettingsError(f"{' '.join(argv)!r} is no shell that prefork knows; give {', '.join(SHELLS)}")
    write("".join(f"{line}\n" for line in SHELLS[argv[0]](_known())))
    return 0


def _known() -> dict[str, list[CompletedFlag]]:
    """The flags of each command."""
    return {command.name: list(_flags(command)) for command in COMMANDS}


def _flags(command: Command) -> Iterator[CompletedFlag]:
    seen = set()
    for flag in [*_of_table(command), *flags_of(_help(command)), *_of_another_server(command.name)]:
        if flag.name not in seen:
            seen.add(flag.name)
            yield flag


def _help(command: Command) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        call(command.function, ["--help"])
    return said.getvalue()


def _of_table(command: Command) -> Iterator[CompletedFlag]:
    """The settings of a command that serves."""
    if not command.options:
        return
    module, _, name = command.options.partition(":")
    own = table(getattr(importlib.import_module(module), name))
    for field in (*settings.fields(), *own):
        about = _short(field.help)
        for flag in filter(None, (field.short, field.flag)):
            yield CompletedFlag(flag, field.kind.words, not field.kind.switch, about)
        if field.kind.switch:
            yield CompletedFlag(f"--no-{field.flag.removeprefix('--')}", (), False, about)


def _short(text: str) -> str:
    """The first of what is said of a flag."""
    return re.split(r"(?<=[.:;]) ", text)[0].rstrip(".:;")[:_LONGEST]


def flags_of(text: str) -> Iterator[CompletedFlag]:
    """The flags that a help tells of. Pure."""
    for entry in _ENTRY.finditer(text):
        names = re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", entry["names"])
        value = entry["names"].rpartition(names[-1])[2].strip()
        about = " ".join([entry["first"] or "", *(line.strip() for line in entry["more"].splitlines())]).strip()
        for name in names:
            yield CompletedFlag(name, (), bool(value), _short(about))


def _of_another_server(name: str) -> Iterator[CompletedFlag]:
    if name not in {"gunicorn", "uwsgi"}:
        return
    from prefork.migration import gunicorn_settings, uwsgi_settings

    for row in gunicorn_settings.ROWS if name == "gunicorn" else uwsgi_settings.ROWS:
        for flag in row.flags:
            yield CompletedFlag(flag, (), row.takes not in {"true", "false"}, row.note[:_LONGEST])


def _bash(known: Mapping[str, Sequence[CompletedFlag]]) -> Iterator[str]:
    yield "# bash completion for prefork, made by: prefork completion bash"
    yield "_prefork() {"
    yield "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words="
    yield "    COMPREPLY=()"
    yield '    if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f"        COMPREPLY=($(compgen -W '{' '.join(known)}' -- \"$word\"))"
    yield "        return"
    yield "    fi"
    yield "    case $before in"
    for flag, words in _choices(known).items():
        yield f"        {flag}) COMPREPLY=($(compgen -W '{' '.join(words)}' -- \"$word\")); return ;;"
    yield "    esac"
    yield "    case ${COMP_WORDS[1]} in"
    for command, flags in known.items():
        yield f"        {command}) words='{' '.join(flag.name for flag in flags)}' ;;"
    yield "    esac"
    yield '    case $word in -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;; esac'
    yield "}"
    yield "complete -o default -F _prefork prefork"


def _zsh(known: Mapping[str, Sequence[CompletedFlag]]) -> Iterator[str]:
    yield "#compdef prefork"
    yield "# made by: prefork completion zsh"
    yield "_prefork() {"
    yield "    local -a said"
    yield "    if (( CURRENT == 2 )); then"
    yield f"        said=({' '.join(_quoted(f'{command.name}:{command.summary}') for command in COMMANDS)})"
    yield "        _describe command said"
    yield "        return"
    yield "    fi"
    yield "    case $words[CURRENT-1] in"
    for flag, choice in _choices(known).items():
        yield f"        {flag}) compadd -- {' '.join(choice)}; return ;;"
    yield "    esac"
    yield "    case $words[2] in"
    for command, flags in known.items():
        shown = " ".join(_quoted(f"{flag.name}:{flag.about}") for flag in flags)
        yield f"        {command}) said=({shown}) ;;"
    yield "    esac"
    yield "    if [[ $PREFIX == -* ]]; then _describe -o flag said; else _files; fi"
    yield "}"
    yield '_prefork "$@"'


def _fish(known: Mapping[str, Sequence[CompletedFlag]]) -> Iterator[str]:
    yield "# fish completion for prefork, made by: prefork completion fish"
    for command in COMMANDS:
        yield f"complete -c prefork -n __fish_use_subcommand -f -a {command.name} -d {_quoted(command.summary)}"
    for name, flags in known.items():
        for flag in flags:
            kind = "-l" if flag.name.startswith("--") else "-s" if len(flag.name) == len("-x") else "-o"
            takes = f" -x -a {_quoted(' '.join(flag.words))}" if flag.words else " -r" if flag.takes else ""
            yield (
                f"complete -c prefork -n '__fish_seen_subcommand_from {name}' {kind} {flag.name.lstrip('-')}{takes} "
                f"-d {_quoted(flag.about)}"
            )


def _choices(known: Mapping[str, Sequence[CompletedFlag]]) -> dict[str, list[str]]:
    """What each flag takes that takes one of a few words, in any command."""
    found: dict[str, list[str]] = {}
    for flags in known.values():
        for flag in flags:
            if flag.words:
                found[flag.name] = list(dict.fromkeys([*found.get(flag.name, []), *flag.words]))
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"


SHELLS: Final[Mapping[str, Callable[[Mapping[str, Sequence[CompletedFlag]]], Iterator[str]]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
"""What writes the completion of each shell."""
