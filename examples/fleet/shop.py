"""The application of the fleet: it says which version of it has answered, and where; /?work=2 takes 2 seconds.

Each host has a folder of its own, in which it is started, with the name of the version in the file ``version``, and the
seconds that a request takes in ``work``: what a database is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

VERSION = Path("version").read_text(encoding="utf-8").strip()
HOST = Path.cwd().name
WORK = float(Path("work").read_text(encoding="utf-8"))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer one request, in a worker process."""
    time.sleep(float(dict(parse_qsl(environ["QUERY_STRING"])).get("work", WORK)))
    body = f"{VERSION} on {HOST}, asked by {environ['REMOTE_ADDR']}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
