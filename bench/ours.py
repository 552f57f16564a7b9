"""Prefork itself in all its ways, and the least that there can be: a loop in C, and one in Python."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from signal import SIGHUP

from bench.subject import Command, Subject, by_signal, needs
from bench.workshop import APPS, PYTHON, MissingError, certificate, compiled
from prefork.system.immortal import lack
from prefork.testing import READY


@cache
def _knows(command: str, flag: str = "") -> bool:
    """Whether this prefork has a command, or a flag of it: an older one can be measured, too."""
    done = subprocess.run([PYTHON, "-m", "prefork", command, "--help"], capture_output=True, text=True, check=False)
    return not done.returncode and flag in done.stdout


def _prefork(target: str, *flags: str, command: str = "serve", binds: int = 1, modules: Sequence[str] = ()) -> Command:
    def build(address: str, workers: int) -> list[str]:
        if not _knows(command):
            raise MissingError(f"this prefork has no command {command!r}")
        for flag in flags:
            if flag.startswith("--") and not _knows(command, flag.partition("=")[0]):
                raise MissingError(f"this prefork has no flag {flag}")
        for module in modules:
            needs(module)
        places = [f"--bind={address}", *["--bind=127.0.0.1:0"] * (binds - 1)]
        start = [PYTHON, "-m", "prefork", command, target, f"--app-dir={APPS}"]
        return [*start, f"--workers={workers}", *places, *flags]

    return build


def prefork(name: str, title: str, kind: str, command: Command, transport: str = "tcp") -> Subject:
    """One way of prefork."""
    return Subject(
        name, title, kind, command, ready=READY, reload=by_signal(SIGHUP), supervises=True, transport=transport
    )


def wsgi(
    name: str, title: str, *flags: str, application: str = "application:application", transport: str = "tcp"
) -> Subject:
    """``prefork wsgi`` with these flags."""
    modules = ["httptools"]
    modules += [framework for framework in ("django", "flask") if framework in application]
    return prefork(name, title, "wsgi", _prefork(application, *flags, command="wsgi", modules=modules), transport)


def asgi(name: str, title: str) -> Subject:
    """``prefork asgi``: uvicorn in prefork's workers."""
    command = _prefork("application:asgi", "--lifespan=off", command="asgi", modules=["uvicorn", "uvloop", "httptools"])
    return prefork(name, title, "asgi", command)


def _floor(*flags: str) -> Command:
    return lambda _, workers: [compiled("floor.c"), *flags, str(workers)]


def _bare(handler: str) -> Command:
    return lambda _, workers: [PYTHON, str(APPS / "bare.py"), handler, str(workers)]


FLOOR = Subject("floor", "C: fork, accept", "handler", _floor(), ready=READY)
BARE = Subject("bare", "Python: fork, accept", "handler", _bare("hello"), ready=READY)
HANDLER = prefork("prefork", "prefork, handler", "handler", _prefork("handlers:hello"))
MOLDED = prefork("prefork-molded", "prefork, handler, preload", "handler", _prefork("handlers:hello", "--preload"))
REUSE_PORT = prefork(
    "prefork-reuseport", "prefork, handler, SO_REUSEPORT", "handler", _prefork("handlers:hello", "--reuse-port")
)
TWO_LISTENERS = prefork(
    "prefork-two", "prefork, handler, two listeners", "handler", _prefork("handlers:hello", binds=2)
)
WSGI = wsgi("prefork-wsgi", "prefork, wsgi")
WSGI_CLOSING = wsgi("prefork-wsgi-closing", "prefork, wsgi, keepalive 0", "--keepalive=0")
ASGI = asgi("prefork-asgi", "prefork, asgi (uvicorn)")

ECHO_FLOOR = Subject("floor", FLOOR.title, "echo", _floor("-e"), ready=READY)
ECHO_BARE = Subject("bare", BARE.title, "echo", _bare("echo"), ready=READY)
ECHO_HANDLER = prefork("prefork", HANDLER.title, "echo", _prefork("handlers:echo"))

DJANGO = "site_django:application"


def _immortal(address: str, workers: int) -> list[str]:
    if why := lack():
        raise MissingError(f"immortal: {why}")
    flags = ("--preload", "--warmup=/", "--immortal")
    return _prefork(DJANGO, *flags, command="wsgi", modules=["httptools", "django"])(address, workers)


LOADED = (
    wsgi("prefork-each", "prefork, wsgi", application=DJANGO),
    wsgi("prefork-preload", "prefork, wsgi, preload", "--preload", application=DJANGO),
    wsgi("prefork-warm", "prefork, wsgi, preload and warmup", "--preload", "--warmup=/", application=DJANGO),
    prefork("prefork-immortal", "prefork, wsgi, preload, warmup and immortal", "wsgi", _immortal),
)
"""A Django application, loaded in each worker or before they are forked."""


def with_certificate(name: str, title: str) -> Subject:
    """``prefork wsgi`` that speaks TLS."""

    def build(address: str, workers: int) -> list[str]:
        chain, key = certificate()
        flags = [f"--certfile={chain}", f"--keyfile={key}"]
        return _prefork("application:application", *flags, command="wsgi", modules=["httptools"])(address, workers)

    return prefork(name, title, "wsgi", build, "tls")
