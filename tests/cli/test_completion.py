"""What shells complete by: bash is asked, zsh and fish look at what they are given where they are installed."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from prefork.cli.completion import SHELLS, completion, flags_of
from prefork.cli.main import COMMANDS
from prefork.config import settings
from prefork.errors import SettingsError


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The script for each shell."""
    folder = tmp_path_factory.mktemp("completion")
    found = {}
    for shell in SHELLS:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert completion([shell]) == 0
        found[shell] = folder / f"prefork.{shell}"
        found[shell].write_text(said.getvalue())
    return found


def completed(script: Path, *words: str) -> list[str]:
    """What bash completes the last word to."""
    asks = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _prefork; echo "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", asks, "bash", script, *words], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("re",), ["reload", "recycle"]),
        (("wsgi", "--work"), ["--workers", "--worker-class", "--worker-options"]),
        (("asgi", "-k", "u"), ["uvicorn"]),
        (("wsgi", "--worker-class", "g"), ["gevent"]),
        (("serve", "--log-level", "e"), ["error"]),
        (("serve", "--no-pre"), ["--no-preload"]),
        (("stop", "--q"), ["--quick"]),
        (("status", "--j"), ["--json"]),
        (("gunicorn", "--keep"), ["--keep-alive"]),
        (("gunicorn", "--exp"), ["--explain"]),
        (("uwsgi", "--harakiri-v"), ["--harakiri-verbose"]),
        (("wsgi", "shop"), []),
    ],
)
def test_bash_completes(scripts: dict[str, Path], words: tuple[str, ...], found: list[str]) -> None:
    assert completed(scripts["bash"], "prefork", *words) == found


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_knows_each_command_and_setting(scripts: dict[str, Path], shell: str) -> None:
    text = scripts[shell].read_text()
    for command in COMMANDS:
        assert command.name in text
    for field in settings.fields():
        assert (field.flag if shell != "fish" else f"-l {field.flag[2:]} ") in text
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", scripts[shell]], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_flags_of_a_help_that_argparse_has_made() -> None:
    text = (
        "usage: x\n\noptions:\n  --json           print it as JSON, for programs\n"
        "  --timeout SECONDS\n                   how long. Or\n"
    )
    json, timeout = flags_of(text)
    assert (json.name, json.takes, json.about) == ("--json", False, "print it as JSON, for programs")
    assert (timeout.name, timeout.takes, timeout.about) == ("--timeout", True, "how long")


def test_another_shell_is_named() -> None:
    with pytest.raises(SettingsError, match="'csh' is no shell that prefork knows; give bash, zsh, fish"):
        completion(["csh"])
