"""An application that has patched the standard library: what prefork looks up there is not what it was.

Each of its modules below raises when a module of prefork's takes anything callable from it, and says so. Everybody else
gets what there was: the standard library could not do without.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from types import ModuleType
from typing import Any


def asking() -> str:
    """The module that looks a name up; "" for the interpreter itself, at its end."""
    try:
        return str(sys._getframe(2).f_globals.get("__name__", ""))  # there is no public way
    except ValueError:
        return ""


class Patched(ModuleType):
    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        asks = asking()
        if callable(found) and not name.startswith("_") and asks.startswith("prefork."):
            whole = f"LOOKED UP {super().__getattribute__('__name__')}.{name} by {asks}"
            print(whole, file=sys.stderr, flush=True)
            raise RuntimeError(whole)
        return found


for module in (os, select, signal, socket, subprocess, threading, time):
    module.__class__ = Patched


def work() -> None:
    """What an application may do, in a child too."""
    child = os.fork()
    if not child:
        time.sleep(0.01)  # as an application does
        os._exit(0)
    os.waitpid(child, 0)


def handle(connection: socket.socket, address: Any) -> None:
    connection.recv(65536)
    work()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    work()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
