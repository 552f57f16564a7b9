"""The application of the fleet: it says which version of it has answered, and where; /?work=2 takes 2 seconds.

Each host has a folder of its own, in which it is started, with the name of the version in the file ``version``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

VERSION = Path("version").read_text(encoding="utf-8").strip()
HOST = Path.cwd().name
WORK = float(os.environ.get("SHOP_WORK", "0.002"))
"""Seconds that a request takes: what a database is waited for."""


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer one request, in a worker process."""
    time.sleep(float(dict(parse_qsl(environ["QUERY_STRING"])).get("work", WORK)))
    body = f"{VERSION} on {HOST}, asked by {environ['REMOTE_ADDR']}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
