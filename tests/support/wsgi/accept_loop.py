"""A server of one process around `prefork.wsgi.Gateway`: ``python -m tests.support.wsgi.accept_loop APP JSON``.

The JSON object: ``bind`` (an address), ``validate`` (false runs the application bare), ``io_timeout``, ``timeout`` (of
the accepted socket, as a worker may set one), ``waits`` (true logs what the gateway says before each wait), ``shed``
(true refuses everybody), ``tmpdir`` (where temporary files go), ``options`` (those of `WSGIOptions`, and the
settings of TLS).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
from typing import Any
from wsgiref.validate import validator

from prefork.config.address import parse
from prefork.config.fields import TLS
from prefork.config.settings import Settings, fields
from prefork.net.tls import context_of
from prefork.system.peer import format_peer
from prefork.wsgi.gateway import Gateway
from prefork.wsgi.options import WSGIOptions
from tests.support.wsgi import apps


def listen(text: str) -> socket.socket:
    address = parse(text)
    if address.kind == "inet":
        return socket.create_server((address.host, address.port), backlog=512)
    if address.kind == "inet6":
        return socket.create_server((address.host, address.port), family=socket.AF_INET6, backlog=512)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address.path or f"\0{address.name}")
    listener.listen(512)
    return listener


def main(name: str, text: str) -> None:
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(message)s")
    given: dict[str, Any] = json.loads(text)
    tempfile.tempdir = given.get("tmpdir")
    listener = listen(given.get("bind", "127.0.0.1:0"))
    application: Any = getattr(apps, name)
    options = given.get("options", {})
    of_tls = {field.name: options.pop(field.name) for field in fields() if field.group == TLS and field.name in options}
    gateway = Gateway(
        validator(application) if given.get("validate", True) else application,
        WSGIOptions(**options),
        sockets=[listener] if given.get("named", True) else [],
        io_timeout=given.get("io_timeout", 30.0),
        tls=context_of(Settings(**of_tls)),
        waiting=(lambda seconds: print(f"waiting {seconds:.3f}", flush=True)) if given.get("waits") else None,
    )
    print(f"serving on {format_peer(listener.getsockname())} with 1 workers, pid {os.getpid()}", flush=True)
    while True:
        connection, address = listener.accept()
        with connection:
            if "timeout" in given:
                connection.settimeout(given["timeout"])
            if given.get("shed"):
                gateway.refuse(connection)
            else:
                gateway.serve_connection(connection, address)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "{}")
