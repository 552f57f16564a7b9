"""The other servers. Each answers with six bytes to whoever asks, and logs no requests; /slow takes 20 ms.

Options are those that its own documentation recommends for production; `ADVICE` says where it does. A server that forks
has two workers.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from pathlib import Path
from signal import SIGHUP, SIGQUIT, SIGUSR1, SIGWINCH

from bench.subject import Action, Command, Subject, by_signal, needs, port, split, where
from bench.workshop import APPS, PYTHON, SOCKETS, WORK, borrowed, certificate, found, libraries
from prefork.testing import Server

ADVICE = {
    "Apache": "manual, performance tuning and MPM common directives: as many processes (threads) as clients are to be "
    "served, no logs, sendfile",
    "Net::Server": "its POD: min_servers, max_servers and spare servers beside each other",
    "Puma": "README, clustered mode: -w, -t with equal numbers, the production environment",
    "bjoern": "README: listen, fork, run in each child",
    "cheroot": "its command with its defaults: 10 threads",
    "fastwsgi": "README: fastwsgi.run() with its defaults; TCP_NODELAY as its settings offer",
    "granian": "README, 'Processes and threads': a worker for each core, threads as they are by default, or "
    "fewer blocking ones where requests take 1 ms",
    "gunicorn": "FAQ: worker-tmp-dir on a tmpfs, sync behind a proxy, others where connections are kept; "
    "settings: backlog 2048, keep-alive above the proxy's",
    "prefork": "docs/howto/deploys.md: its defaults",
    "uWSGI": "'Things to know': master, need-app, http-socket behind a proxy, http where clients come by themselves; "
    "'The art of graceful reloading': lazy-apps and chain",
    "uvicorn": "deployment: workers, uvloop and httptools installed, no access log",
    "waitress": "its command with its defaults: 4 threads, poll instead of select",
}
"""The part of each one's documentation that its settings are from."""


def _gunicorn(kind: str, *flags: str, application: str = "application:application") -> Command:
    def build(address: str, workers: int) -> list[str]:
        for framework in ("django", "flask"):
            if framework in application:
                needs(framework)
        start = [found("gunicorn"), application, f"--bind={address}", f"--workers={workers}"]
        return [*start, f"--worker-class={kind}", "--worker-tmp-dir=/dev/shm", "--backlog=2048", *flags]

    return build


def gunicorn(
    name: str, title: str, kind: str, *flags: str, application: str = "application:application", transport: str = "tcp"
) -> Subject:
    """Gunicorn with a class of workers."""
    return Subject(
        name,
        title,
        "asgi" if kind == "asgi" else "wsgi",
        _gunicorn(kind, *flags, application=application),
        reload=by_signal(SIGHUP),
        supervises=True,
        transport=transport,
        keeps=kind != "sync",
    )


def gthread(
    name: str, title: str, *flags: str, application: str = "application:application", transport: str = "tcp"
) -> Subject:
    """Gunicorn with threads, which keep connections."""
    return gunicorn(
        name, title, "gthread", "--threads=4", "--keep-alive=75", *flags, application=application, transport=transport
    )


def _fifo(address: str) -> str:
    return str(WORK / f"uwsgi-{port(address).replace('/', '-')}.fifo")


def _to_uwsgi(letter: str) -> Action:
    def tell(server: Server) -> None:
        Path(_fifo(server.address)).write_text(letter)

    return tell


def uwsgi(
    name: str,
    title: str,
    *flags: str,
    http: str = "--http-socket",
    log: bool = False,
    application: str = "application:application",
    transport: str = "tcp",
) -> Subject:
    """Build uWSGI with a way to speak HTTP."""

    def build(address: str, workers: int) -> list[str]:
        quiet = [] if log else ["--disable-logging"]
        told = [] if "--http-keepalive=75" in flags else ["--add-header=Connection: close"]  # it closes, and says so
        return [
            *[found("uwsgi"), f"{http}={where(address)}", "--master", f"--processes={workers}", "--listen=2048"],
            *[*quiet, "--need-app", "--lazy-apps", f"--pythonpath={APPS}", f"--module={application}"],
            *[f"--master-fifo={_fifo(address)}", *told, *flags],
        ]

    return Subject(
        name,
        title,
        "wsgi",
        build,
        stop=_to_uwsgi("q"),
        reload=_to_uwsgi("c"),
        supervises=True,
        transport=transport,
        keeps="--http-keepalive=75" in flags,
    )


def granian(
    name: str, title: str, *flags: str, application: str = "application:application", transport: str = "tcp"
) -> Subject:
    """granian, WSGI or ASGI."""
    kind = "asgi" if application.endswith(":asgi") else "wsgi"
    place = "--uds={path}" if transport == "unix" else "--port={port}"
    command = split(
        *["granian", f"--interface={kind}", "--no-ws", "--workers={workers}", place, "--log-level=warning"],
        *["--respawn-failed-workers", *flags, application],
        modules=[framework for framework in ("django", "flask") if framework in application],
    )
    return Subject(name, title, kind, command, reload=by_signal(SIGHUP), supervises=True, transport=transport)


def bjoern(name: str, title: str, application: str = "application:application", transport: str = "tcp") -> Subject:
    """Build bjoern, in several processes."""

    def build(address: str, workers: int) -> list[str]:
        needs("bjoern")
        place = port(address) if transport == "tcp" else address
        return [PYTHON, str(APPS / "bjoern_server.py"), place, str(workers), application]

    return Subject(name, title, "wsgi", build, transport=transport)


def uvicorn(name: str, title: str, *flags: str, transport: str = "tcp") -> Subject:
    """Build uvicorn, with processes of its own."""
    place = "--uds={path}" if transport == "unix" else "--port={port}"
    quiet = [] if "--access-log" in flags else ["--no-access-log", "--log-level=warning"]
    command = split(
        *["uvicorn", "--workers={workers}", place, *quiet, "--lifespan=off"],
        *[flag for flag in flags if flag != "--access-log"],
        "application:asgi",
    )
    return Subject(name, title, "asgi", command, reload=by_signal(SIGHUP), supervises=True, transport=transport)


def _fastwsgi(address: str, _workers: int) -> list[str]:
    needs("fastwsgi")
    return [PYTHON, str(APPS / "fastwsgi_server.py"), port(address)]


def puma(name: str, title: str, threads: int, transport: str = "tcp") -> Subject:
    """Puma of Debian's, with a Rack application that does the same."""

    def build(address: str, workers: int) -> list[str]:
        root = borrowed("puma")
        place = f"unix://{where(address)}" if transport == "unix" else f"tcp://{address}"
        program = str(next(root.glob("usr/bin/ruby[0-9]*")))
        start = [program, "-e", 'require "puma/cli"; Puma::CLI.new(ARGV).run', "--", "--environment=production"]
        return [
            *start,
            f"--workers={workers}",
            f"--threads={threads}:{threads}",
            f"--bind={place}",
            str(APPS / "config.ru"),
        ]

    return Subject(
        name,
        title,
        "rack",
        build,
        environment=_ruby,
        reload=by_signal(SIGUSR1),
        supervises=True,
        transport=transport,
    )


def _ruby() -> dict[str, str]:
    """An interpreter that is not where it was made for looks for its libraries where it is told to."""
    root = borrowed("puma")
    if root == Path("/"):
        return {}
    patterns = (
        "usr/lib/ruby/[0-9]*",
        "usr/lib/ruby/vendor_ruby",
        "usr/lib/*/ruby/[0-9]*",
        "usr/lib/*/ruby/vendor_ruby/*",
    )
    folders = [str(folder) for pattern in patterns for folder in root.glob(pattern) if folder.is_dir()]
    gems = [str(one) for place in ("usr/share", "usr/lib/*") for one in root.glob(f"{place}/rubygems-integration/*")]
    return {**libraries(root), "RUBYLIB": ":".join(folders), "GEM_PATH": ":".join(gems)}


_NOBODY = 65534


def _apache(template: str, package: str = "apache2-bin") -> Command:
    def build(address: str, workers: int) -> list[str]:
        root = borrowed(package)
        words = {
            "ROOT": str(root / "usr/lib/apache2"),
            "PORT": port(address),
            "WORKERS": str(workers),
            "THREADS": str(16 * workers),
            "WORK": str(WORK / "apache"),
            # It refuses to serve as root.
            "USER": pwd.getpwuid(os.getuid() or _NOBODY).pw_name,
            "GROUP": grp.getgrgid(os.getgid() or _NOBODY).gr_name,
        }
        configuration = re.sub(r"\$\{(\w+)\}", lambda match: words[match[1]], (APPS / template).read_text())
        file = WORK / f"{Path(template).stem}-{port(address)}.conf"
        file.parent.mkdir(exist_ok=True)
        file.write_text(configuration)
        return [found("apache2", package), "-f", str(file), "-DFOREGROUND"]

    return build


def _apache_environment() -> dict[str, str]:
    folder = WORK / "apache"
    (folder / "htdocs").mkdir(parents=True, exist_ok=True)
    (folder / "htdocs" / "index.html").write_text("hello\n")
    slow = folder / "slow.sh"
    slow.write_text("#!/bin/sh\nsleep 0.02\nprintf 'Content-Type: text/plain\\n\\nhello\\n'\n")
    slow.chmod(0o755)
    return libraries(borrowed("apache2-bin"))


def _net_server(*flags: str) -> Command:
    def build(address: str, workers: int) -> list[str]:
        return [found("perl"), str(APPS / "net_server.pl"), port(address), str(workers), *flags]

    return build


def _perl_environment() -> dict[str, str]:
    root = borrowed("libnet-server-perl")
    return {} if root == Path("/") else {"PERL5LIB": str(root / "usr/share/perl5")}


GUNICORN = gunicorn("gunicorn", "gunicorn, sync", "sync")
GTHREAD = gthread("gunicorn-gthread", "gunicorn, gthread, 4 threads")
GUNICORN_ASGI = gunicorn("gunicorn-asgi", "gunicorn, asgi", "asgi", "--keep-alive=75", application="application:asgi")
UWSGI = uwsgi("uwsgi", "uWSGI")
UWSGI_KEPT = uwsgi(
    "uwsgi-kept", "uWSGI, http-keepalive", "--http-keepalive=75", "--add-header=Connection: Keep-Alive", http="--http"
)
BJOERN = bjoern("bjoern", "bjoern, forked")
FASTWSGI = Subject("fastwsgi", "fastwsgi, 1 process", "wsgi", _fastwsgi)
WAITRESS = Subject(
    "waitress",
    "waitress, 1 process",
    "wsgi",
    split("waitress-serve", "--listen={address}", "--asyncore-use-poll", "application:application"),
)
CHEROOT = Subject(
    "cheroot", "cheroot, 1 process", "wsgi", split("cheroot", "--bind={address}", "application:application")
)
GRANIAN = granian("granian", "granian, WSGI")
UVICORN = uvicorn("uvicorn", "uvicorn, ASGI")
PUMA = puma("puma", "Puma, Ruby, 4 threads", 4)
NET_SERVER = Subject(
    "net-server",
    "Net::Server::PreFork, Perl",
    "handler",
    _net_server(),
    environment=_perl_environment,
    stop=by_signal(SIGQUIT),
    reload=by_signal(SIGHUP),
    supervises=True,
)
APACHE = Subject(
    "apache",
    "Apache prefork, static",
    "static",
    _apache("httpd.conf"),
    environment=_apache_environment,
    stop=by_signal(SIGWINCH),
    reload=by_signal(SIGUSR1),
    supervises=True,
)
APACHE_EVENT = Subject(
    "apache-event",
    "Apache event, static",
    "static",
    _apache("httpd-event.conf"),
    environment=_apache_environment,
    stop=by_signal(SIGWINCH),
    reload=by_signal(SIGUSR1),
    supervises=True,
)
NET_SERVER_ECHO = Subject("net-server", NET_SERVER.title, "echo", _net_server("echo"), environment=_perl_environment)


def with_certificate(name: str, title: str, kind: str) -> Subject:
    """gunicorn, uvicorn or granian that speaks TLS."""

    def build(address: str, workers: int) -> list[str]:
        chain, key = certificate()
        if kind == "uvicorn":
            return uvicorn(name, title, f"--ssl-certfile={chain}", f"--ssl-keyfile={key}").command(address, workers)
        if kind == "granian":
            flags = [f"--ssl-certificate={chain}", f"--ssl-keyfile={key}"]
            return granian(name, title, *flags).command(address, workers)
        return _gunicorn("gthread", "--threads=4", "--keep-alive=75", f"--certfile={chain}", f"--keyfile={key}")(
            address, workers
        )

    return Subject(name, title, "asgi" if kind == "uvicorn" else "wsgi", build, supervises=True, transport="tls")


def log_file(name: str) -> str:
    """Where a server that is to log its requests writes them."""
    return str(SOCKETS / f"{name}.log")
