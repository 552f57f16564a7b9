"""The servers under measurement: how each is started, told to stop and to reload.

Each answers with six bytes to whoever asks, and logs no requests; a request for /slow takes 20 ms. Options are those
that its own documentation recommends for production. A server that forks has two workers.
"""

from __future__ import annotations

import contextlib
import grp
import importlib.util
import os
import pwd
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.workshop import APPS, PYTHON, WORK, MissingError, compiled, environment, found, unpacked
from prefork.system.immortal import lack
from prefork.testing import READY, Server, call_until, hold_port, request, running
from prefork.testing.processes import is_gone

WORKERS = 2

Action = Callable[[Server], object]


def by_signal(signum: int) -> Action:
    """To be told by a signal to its master."""
    return lambda server: server.signal(signum)


@dataclass(frozen=True)
class Subject:
    """One server.

    Attributes:
        name: short, for the command line and for plots.
        title: what it is, for tables.
        kind: what it is to be compared with: "handler" (bare connections), "wsgi", "asgi", "static", "echo".
        command: the program and its arguments, given the address and the number of workers.
        environment: changes to the environment.
        ready: the line that says that it serves and where; "" for a server that is given its port and asked.
        stop: how it is told to stop without losing anybody.
        reload: how it is told to replace its workers; None when it can't.
        supervises: whether a master replaces workers that die.

    """

    name: str
    title: str
    kind: str
    command: Callable[[str, int], list[str]]
    environment: Callable[[], dict[str, str]] = dict
    ready: str = ""
    stop: Action = field(default=by_signal(signal.SIGTERM))
    reload: Action | None = None
    supervises: bool = False

    @contextlib.contextmanager
    def serving(self, workers: int = WORKERS, address: str | None = None) -> Iterator[Server]:
        """Run it for the block.

        Args:
            workers: processes that accept (count).
            address: where; on a port that is free when None.

        Raises:
            MissingError: it is not on this machine.
            NotServingError: it didn't start.
        """
        with contextlib.ExitStack() as stack:
            if self.ready and address is None:
                address = "127.0.0.1:0"
            elif address is None:
                address = stack.enter_context(hold_port())
            command = self.command(address, workers)
            env = {**environment(), **self.environment()}
            server = stack.enter_context(running(command, ready=self.ready, env=env))
            if not self.ready:
                server.addresses = (address,)
            call_until(lambda: is_gone(server.process.pid) or _answers(self, server), message=f"{self.name} to answer")
            if self.supervises:
                call_until(lambda: len(server.tree()) > workers, message=f"all workers of {self.name}")
            yield server


def _answers(subject: Subject, server: Server) -> bool:
    if subject.kind == "echo":
        return request(server.address, b"x", expect=b"x", timeout=2.0).data == b"x"
    return request(server.address, timeout=2.0).status == 200


def available(subjects: Iterable[Subject]) -> tuple[list[Subject], dict[str, str]]:
    """Those that this machine can run, and for the others why it can't."""
    there, missing = [], {}
    for subject in subjects:
        try:
            subject.command("127.0.0.1:0", WORKERS)
            subject.environment()
        except MissingError as why:
            missing[subject.title] = str(why)
        else:
            there.append(subject)
    return there, missing


def _port(address: str) -> str:
    return address.rpartition(":")[2]


# prefork, and the least that there can be.


@cache
def _knows(command: str) -> bool:
    return not subprocess.run([PYTHON, "-m", "prefork", command, "--help"], capture_output=True, check=False).returncode


def _prefork(
    target: str, *flags: str, command: str = "serve", bind: int = 1, needs: Sequence[str] = ()
) -> Callable[[str, int], list[str]]:
    def build(address: str, workers: int) -> list[str]:
        if not _knows(command):
            raise MissingError(f"this prefork has no command {command!r}")
        for module in needs:
            _needs(module)
        binds = [f"--bind={address}", *["--bind=127.0.0.1:0"] * (bind - 1)]
        start = [PYTHON, "-m", "prefork", command, target, f"--app-dir={APPS}"]
        return [*start, f"--workers={workers}", *binds, *flags]

    return build


def prefork(name: str, title: str, kind: str, command: Callable[[str, int], list[str]]) -> Subject:
    """One way of prefork."""
    return Subject(name, title, kind, command, ready=READY, reload=by_signal(signal.SIGHUP), supervises=True)


def _floor(*flags: str) -> Callable[[str, int], list[str]]:
    return lambda _, workers: [compiled("floor.c"), *flags, str(workers)]


def _bare(handler: str) -> Callable[[str, int], list[str]]:
    return lambda _, workers: [PYTHON, str(APPS / "bare.py"), handler, str(workers)]


FLOOR = Subject("floor", "C: fork, accept", "handler", _floor(), ready=READY)
BARE = Subject("bare", "Python: fork, accept", "handler", _bare("hello"), ready=READY)
HANDLER = prefork("prefork", "prefork, handler", "handler", _prefork("handlers:hello"))
MOLDED = prefork("prefork-molded", "prefork, handler, preload", "handler", _prefork("handlers:hello", "--preload"))
REUSE_PORT = prefork(
    "prefork-reuseport", "prefork, handler, SO_REUSEPORT", "handler", _prefork("handlers:hello", "--reuse-port")
)
TWO_LISTENERS = prefork("prefork-two", "prefork, handler, two listeners", "handler", _prefork("handlers:hello", bind=2))
WSGI = prefork(
    "prefork-wsgi", "prefork, wsgi", "wsgi", _prefork("application:application", command="wsgi", needs=["httptools"])
)
WSGI_CLOSING = prefork(
    "prefork-wsgi-closing",
    "prefork, wsgi, keepalive 0",
    "wsgi",
    _prefork("application:application", "--keepalive=0", command="wsgi", needs=["httptools"]),
)

# Peers.


def _needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingError(f"the Python package {module} is not installed")


def _gunicorn(kind: str, *flags: str, application: str = "application:application") -> Callable[[str, int], list[str]]:
    def build(address: str, workers: int) -> list[str]:
        if "django" in application:
            _needs("django")
        start = [found("gunicorn"), application, f"--bind={address}", f"--workers={workers}"]
        return [*start, f"--worker-class={kind}", "--worker-tmp-dir=/dev/shm", "--backlog=2048", *flags]

    return build


def _uwsgi_fifo(address: str) -> str:
    return str(WORK / f"uwsgi-{_port(address)}.fifo")


def _uwsgi(address: str, workers: int) -> list[str]:
    plugins = next(unpacked("uwsgi-plugin-python3").rglob("python3*_plugin.so"))
    return [
        *[found("uwsgi"), f"--plugin-dir={plugins.parent}", f"--plugin={plugins.name.removesuffix('_plugin.so')}"],
        *[f"--http-socket={address}", "--master", f"--processes={workers}", "--listen=2048", "--disable-logging"],
        *["--need-app", "--lazy-apps", f"--pythonpath={APPS}", "--module=application:application"],
        *[f"--master-fifo={_uwsgi_fifo(address)}"],
    ]


def _to_uwsgi(letter: str) -> Action:
    def tell(server: Server) -> None:
        Path(_uwsgi_fifo(server.address)).write_text(letter)

    return tell


_NOBODY = 65534


def _apache_environment() -> dict[str, str]:
    folder = WORK / "apache"
    (folder / "htdocs").mkdir(parents=True, exist_ok=True)
    (folder / "htdocs" / "index.html").write_text("hello\n")
    slow = folder / "slow.sh"
    slow.write_text("#!/bin/sh\nsleep 0.02\nprintf 'Content-Type: text/plain\\n\\nhello\\n'\n")
    slow.chmod(0o755)
    return {}


def _apache(address: str, workers: int) -> list[str]:
    found("apache2")
    words = {
        "PORT": _port(address),
        "WORKERS": str(workers),
        "WORK": str(WORK / "apache"),
        # It refuses to serve as root.
        "USER": pwd.getpwuid(os.getuid() or _NOBODY).pw_name,
        "GROUP": grp.getgrgid(os.getgid() or _NOBODY).gr_name,
    }
    configuration = re.sub(r"\$\{(\w+)\}", lambda match: words[match[1]], (APPS / "httpd.conf").read_text())
    file = WORK / f"httpd-{_port(address)}.conf"
    file.parent.mkdir(exist_ok=True)
    file.write_text(configuration)
    return [found("apache2"), "-f", str(file), "-DFOREGROUND"]


def _perl_environment() -> dict[str, str]:
    root = unpacked("libnet-server-perl")
    return {"PERL5LIB": str(root / "usr/share/perl5")}


def _net_server(*flags: str) -> Callable[[str, int], list[str]]:
    def build(address: str, workers: int) -> list[str]:
        return [found("perl"), str(APPS / "net_server.pl"), _port(address), str(workers), *flags]

    return build


def _split(*arguments: str) -> Callable[[str, int], list[str]]:
    """A command whose arguments hold {port}, {address} and {workers}."""

    def build(address: str, workers: int) -> list[str]:
        words = [word.format(port=_port(address), address=address, workers=workers) for word in arguments]
        return [found(words[0]), *words[1:]]

    return build


GUNICORN = Subject(
    "gunicorn", "gunicorn, sync", "wsgi", _gunicorn("sync"), reload=by_signal(signal.SIGHUP), supervises=True
)
GTHREAD = Subject(
    "gunicorn-gthread",
    "gunicorn, gthread, 4 threads",
    "wsgi",
    _gunicorn("gthread", "--threads=4"),
    reload=by_signal(signal.SIGHUP),
    supervises=True,
)
UWSGI = Subject("uwsgi", "uWSGI", "wsgi", _uwsgi, stop=_to_uwsgi("q"), reload=_to_uwsgi("r"), supervises=True)


def _bjoern(address: str, workers: int) -> list[str]:
    _needs("bjoern")
    return [PYTHON, str(APPS / "bjoern_server.py"), _port(address), str(workers)]


BJOERN = Subject(
    "bjoern",
    "bjoern, forked",
    "wsgi",
    _bjoern,
)
WAITRESS = Subject(
    "waitress", "waitress, 1 process", "wsgi", _split("waitress-serve", "--listen={address}", "application:application")
)
CHEROOT = Subject(
    "cheroot", "cheroot, 1 process", "wsgi", _split("cheroot", "--bind={address}", "application:application")
)
GRANIAN = Subject(
    "granian",
    "granian, WSGI",
    "wsgi",
    _split(
        "granian",
        "--interface=wsgi",
        "--no-ws",
        "--workers={workers}",
        "--port={port}",
        "--log-level=warning",
        "--respawn-failed-workers",
        "application:application",
    ),
    reload=by_signal(signal.SIGHUP),
    supervises=True,
)
UVICORN = Subject(
    "uvicorn",
    "uvicorn, ASGI",
    "asgi",
    _split(
        "uvicorn",
        "--workers={workers}",
        "--port={port}",
        "--no-access-log",
        "--log-level=warning",
        "--lifespan=off",
        "application:asgi",
    ),
    reload=by_signal(signal.SIGHUP),
    supervises=True,
)
NET_SERVER = Subject(
    "net-server",
    "Net::Server::PreFork, Perl",
    "handler",
    _net_server(),
    environment=_perl_environment,
    stop=by_signal(signal.SIGQUIT),
    reload=by_signal(signal.SIGHUP),
    supervises=True,
)
APACHE = Subject(
    "apache",
    "Apache prefork, static",
    "static",
    _apache,
    environment=_apache_environment,
    stop=by_signal(signal.SIGWINCH),
    reload=by_signal(signal.SIGUSR1),
    supervises=True,
)

HELLO = (
    FLOOR,
    BARE,
    HANDLER,
    REUSE_PORT,
    TWO_LISTENERS,
    NET_SERVER,
    WSGI,
    WSGI_CLOSING,
    BJOERN,
    GUNICORN,
    GTHREAD,
    UWSGI,
    WAITRESS,
    CHEROOT,
    GRANIAN,
    UVICORN,
    APACHE,
)
"""Everything that answers a request."""

KEPT = (WSGI, BJOERN, GTHREAD, WAITRESS, CHEROOT, GRANIAN, UVICORN)
"""What keeps connections for the next request."""

ECHO_FLOOR = Subject("floor", FLOOR.title, "echo", _floor("-e"), ready=READY)
ECHO = (
    ECHO_FLOOR,
    Subject("bare", BARE.title, "echo", _bare("echo"), ready=READY),
    prefork("prefork", HANDLER.title, "echo", _prefork("handlers:echo")),
    Subject("net-server", NET_SERVER.title, "echo", _net_server("echo"), environment=_perl_environment),
)
"""Everything that gives back what it gets."""


def _immortal(address: str, workers: int) -> list[str]:
    if why := lack():
        raise MissingError(f"immortal: {why}")
    flags = ("--preload", "--immortal", "--warmup", "/")
    return _prefork("site_django:application", *flags, command="wsgi", needs=["httptools", "django"])(address, workers)


PRELOADED = (
    prefork(
        "prefork-preload",
        "prefork, wsgi, preload",
        "wsgi",
        _prefork("site_django:application", "--preload", command="wsgi", needs=["httptools", "django"]),
    ),
    prefork(
        "prefork-warm",
        "prefork, wsgi, preload and warmup",
        "wsgi",
        _prefork(
            "site_django:application", "--preload", "--warmup", "/", command="wsgi", needs=["httptools", "django"]
        ),
    ),
    prefork(
        "prefork-immortal",
        "prefork, wsgi, preload, warmup and immortal",
        "wsgi",
        _immortal,
    ),
    Subject(
        "gunicorn-preload",
        "gunicorn, sync, preload",
        "wsgi",
        _gunicorn("sync", "--preload", application="site_django:application"),
        supervises=True,
    ),
)
"""A Django application, loaded before the workers are forked."""
