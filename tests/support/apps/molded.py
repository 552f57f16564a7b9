"""An application that knows where it was loaded; what it does then, a file beside the working directory may say."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

LOADED = os.getpid()
FOLDER = tempfile.TemporaryDirectory(prefix="prefork-test-molded-")

print("LOADED in", LOADED, "as", os.geteuid(), flush=True)
atexit.register(lambda: print("ENDED", os.getpid(), flush=True))

exec(Path(os.environ["MOLDED"]).read_text() if "MOLDED" in os.environ else "")  # as the test likes


def handle(connection: socket.socket, address: object) -> None:  # as handlers are called
    path = connection.recv(65536).split()[1].decode()
    if path == "/slow":
        time.sleep(0.3)  # long enough to be in hand when something happens
    body = f"{os.getpid()} {LOADED} {VERSION} {os.path.isdir(FOLDER.name)} {len(sys.modules)}".encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


VERSION = globals().get("VERSION", "0")
