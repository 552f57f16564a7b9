"""A setting of one command that another is given is told as such, wherever it comes from."""

from __future__ import annotations

import json
from pathlib import Path

from prefork.cli.siblings import of_sibling
from tests.support.programs import facts

PROGRAM = """
import contextlib, io, json, os, sys
from prefork.cli.main import main

found = []
for words, variable in json.loads(sys.argv[1]):
    os.environ.pop("PREFORK_WARMUP", None)
    if variable:
        os.environ["PREFORK_WARMUP"] = variable
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(words)
    found.append([code, next(line for line in said.getvalue().splitlines() if "a setting of" in line)])
print(json.dumps(found))
"""


def test_each_name_has_its_commands() -> None:
    assert of_sibling("warmup", "asgi") == "it is a setting of prefork wsgi alone; leave it out"
    assert of_sibling("lifespan", "wsgi") == "it is a setting of prefork asgi alone; leave it out"
    assert of_sibling("access_log", "serve") == "it is a setting of prefork wsgi and prefork asgi alone; leave it out"
    assert of_sibling("worker_class", "wsgi") == "it is a setting of prefork serve and prefork asgi alone; leave it out"
    assert of_sibling("warmpu", "asgi") == ""


def test_flags_variables_and_files_are_answered(tmp_path: Path) -> None:
    (tmp_path / "file.toml").write_text("warmup = '/'\n")
    asked = [
        (["asgi", "shop", "--warmup", "/"], ""),
        (["serve", "shop:handle", "--warmup=/"], ""),
        (["asgi", "shop"], "/"),
        (["asgi", "shop", "--config", str(tmp_path / "file.toml")], ""),
        (["serve", "shop:handle", "--no-check-client-connection"], ""),
    ]
    remedy = "it is a setting of prefork wsgi alone; leave it out"
    *said, switch = facts(PROGRAM, json.dumps(asked))
    assert said == [
        [2, f"prefork: error: '--warmup' is not a flag; {remedy}"],
        [2, f"prefork: error: '--warmup' is not a flag; {remedy}"],
        [2, f"prefork: error: PREFORK_WARMUP: is not a variable of prefork's; {remedy}"],
        [2, f"prefork: error: warmup: is not a setting; {remedy} (from {tmp_path / 'file.toml'})"],
    ]
    assert "prefork wsgi alone" in switch[1]
