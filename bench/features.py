"""What only some servers do: threads, TLS, unix sockets, PROXY, an access log, overload, frameworks, ASGI."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from bench import client, ours, peers, wrk
from bench.cost import Drive, sums
from bench.effort import Effort
from bench.rounds import FAILURES, Table, say, short
from bench.subject import PROXY, Subject, available
from prefork.testing import Server

LANES = 16
"""Threads of each of two processes."""

LANE_CLIENTS = 96
"""Thrice as many as there are lanes."""

OVERLOAD_WORKERS = 4
OVERLOAD = 2.0
"""Times what four workers can do, of requests that take 20 ms each."""

IN_TIME = 0.5
"""Seconds within which an answer is worth something to whoever waits: twice prefork's overload_target."""


def lanes(effort: Effort) -> Table:
    """Requests that wait for 20 ms, with 2 x 16 threads: CPU a request, and how many of 1,600 a second there are."""
    subjects = (
        ours.wsgi("prefork-lanes", "prefork, wsgi, 2 x 16 threads", f"--threads={LANES}"),
        peers.gunicorn(
            "gunicorn-lanes", "gunicorn, gthread, 2 x 16", "gthread", f"--threads={LANES}", "--keep-alive=75"
        ),
        peers.uwsgi("uwsgi-lanes", "uWSGI, 2 x 16", f"--threads={LANES}", "--enable-threads"),
        peers.granian("granian-lanes", "granian, WSGI, 2 x 16", f"--blocking-threads={LANES}"),
        peers.puma("puma-lanes", "Puma, Ruby, 2 x 16", LANES),
        peers.UVICORN,
    )
    drive = partial(client.load, kept=True, clients=LANE_CLIENTS, path="/slow")
    return _table(subjects, effort, drive)


def tls(effort: Effort) -> Table:
    """TLS 1.2 and 1.3 as both ends agree on: connections that are closed, with a handshake each, and kept ones."""
    subjects = (
        ours.with_certificate("prefork-tls", "prefork, wsgi"),
        peers.with_certificate("gunicorn-tls", "gunicorn, gthread, 4 threads", "gunicorn"),
        peers.with_certificate("granian-tls", "granian, WSGI", "granian"),
        peers.with_certificate("uvicorn-tls", "uvicorn, ASGI", "uvicorn"),
    )
    return _both(subjects, effort, partial(wrk.run, tls=True), partial(wrk.run, tls=True, kept=True))


def unix(effort: Effort) -> Table:
    """A unix socket, as between a proxy and a server on one host."""
    subjects = (
        ours.wsgi("prefork-unix", "prefork, wsgi", transport="unix"),
        peers.bjoern("bjoern-unix", "bjoern, forked", transport="unix"),
        peers.gunicorn("gunicorn-unix", "gunicorn, sync", "sync", transport="unix"),
        peers.uwsgi("uwsgi-unix", "uWSGI", transport="unix"),
        peers.granian("granian-unix", "granian, WSGI", transport="unix"),
        peers.uvicorn("uvicorn-unix", "uvicorn, ASGI", transport="unix"),
        peers.puma("puma-unix", "Puma, Ruby, 4 threads", 4, transport="unix"),
    )
    return _both(subjects, effort, client.load, partial(client.load, kept=True))


def proxy(effort: Effort) -> Table:
    """The PROXY protocol's header, of version 1, once a connection."""
    trusted = ("--proxy-protocol", "--proxy-allow-from=*")  # clients have addresses of 127.0.0.0/8
    subjects = (
        ours.wsgi(
            "prefork-proxy", "prefork, wsgi", "--proxy-protocol=v1", "--proxy-allow-ips=127.0.0.0/8", transport="proxy"
        ),
        peers.gunicorn("gunicorn-proxy", "gunicorn, sync", "sync", *trusted, transport="proxy"),
        peers.gthread("gthread-proxy", "gunicorn, gthread, 4 threads", *trusted, transport="proxy"),
    )
    closing, kept = partial(client.load, head=PROXY), partial(client.load, head=PROXY, kept=True)
    return _both(subjects, effort, closing, kept)


def log(effort: Effort) -> Table:
    """An access log, written to a file: each server without it and with it, connections closed."""
    pairs = (
        (ours.WSGI, ours.wsgi("prefork-log", "prefork, wsgi", f"--access-log={peers.log_file('prefork')}")),
        (
            peers.GUNICORN,
            peers.gunicorn("gunicorn-log", "gunicorn, sync", "sync", f"--access-logfile={peers.log_file('gunicorn')}"),
        ),
        (peers.UWSGI, peers.uwsgi("uwsgi-log", "uWSGI", log=True)),
        (peers.GRANIAN, peers.granian("granian-log", "granian, WSGI", "--access-log")),
        (peers.UVICORN, peers.uvicorn("uvicorn-log", "uvicorn, ASGI", "--access-log")),
    )
    table = _table([subject for pair in pairs for subject in pair], effort, wrk.run)
    rows = {
        on.name: {**on.row(), "without": table.rows[off.name], "with": table.rows[on.name]}
        for off, on in pairs
        if off.name in table.rows and on.name in table.rows
    }
    return Table(rows, table.missing)


def flask(effort: Effort) -> Table:
    """A view of Flask's."""
    return _framework("site_flask:application", effort)


def django(effort: Effort) -> Table:
    """A view of Django's, with sessions, messages, authentication and a template."""
    return _framework("site_django:application", effort)


def _framework(application: str, effort: Effort) -> Table:
    subjects = (
        ours.wsgi("prefork-framework", "prefork, wsgi", application=application),
        peers.bjoern("bjoern-framework", "bjoern, forked", application),
        peers.gunicorn("gunicorn-framework", "gunicorn, sync", "sync", application=application),
        peers.uwsgi("uwsgi-framework", "uWSGI", application=application),
        peers.granian("granian-framework", "granian, WSGI", application=application),
    )
    return _both(subjects, effort, wrk.run, partial(wrk.run, kept=True))


def asgi(effort: Effort) -> Table:
    """ASGI: uvicorn in prefork's workers, in its own processes, and others."""
    subjects = (
        ours.ASGI,
        peers.UVICORN,
        peers.GUNICORN_ASGI,
        peers.granian("granian-asgi", "granian, ASGI", "--loop=uvloop", application="application:asgi"),
    )
    return _both(subjects, effort, wrk.run, partial(wrk.run, kept=True))


def _table(subjects: Sequence[Subject], effort: Effort, drive: Drive) -> Table:
    subjects = subjects if effort.peers else [one for one in subjects if one.name.startswith("prefork")]
    return sums(subjects, effort, drive, base=subjects[0], rounds=effort.feature_rounds)


def _both(subjects: Sequence[Subject], effort: Effort, closing: Drive, kept: Drive) -> Table:
    """Connections that bring one request, and connections that are kept."""
    keeping = [subject for subject in subjects if subject.keeps]
    tables = {"closing": _table(subjects, effort, closing), "kept": _table(keeping, effort, kept)}
    rows: dict[str, Any] = {}
    for subject in subjects:
        found = {way: table.rows[subject.name] for way, table in tables.items() if subject.name in table.rows}
        if found:
            rows[subject.name] = {**subject.row(), **found}
    return Table(rows, tables["closing"].missing | tables["kept"].missing)


def overload(effort: Effort) -> Table:
    """Twice the requests that four workers can answer: what becomes of them."""
    subjects = (
        ours.wsgi("prefork-shed", "prefork, wsgi, overload shed", "--overload=shed", "--keepalive=0"),
        ours.WSGI_CLOSING,
        peers.GUNICORN,
        peers.UWSGI,
        peers.BJOERN,
        peers.puma("puma-one", "Puma, Ruby, 1 thread", 1),
        peers.granian("granian-one", "granian, WSGI, 1 thread", "--blocking-threads=1"),
    )
    there, missing = available(subjects if effort.peers else subjects[:2])
    rows: dict[str, Any] = {}
    for subject in there:
        say(f"overload: {subject.name}")
        try:
            with subject.serving(OVERLOAD_WORKERS) as server:
                rows[subject.name] = {**subject.row(), **_overloaded(server, effort.overload_seconds)}
        except FAILURES as why:
            missing[subject.title] = f"failed: {short(why)}"
    return Table(rows, missing)


def _overloaded(server: Server, seconds: float) -> dict[str, Any]:
    rate = OVERLOAD * OVERLOAD_WORKERS / 0.02
    client.open_loop(server, rate / 4, 0.5, seed=1, slow_every=1)
    time.sleep(0.2)  # what was begun is to be over, and there is nothing to see it by
    found = client.open_loop(server, rate, seconds, seed=2, slow_every=1)
    waited = sorted(found.slow)
    in_time = sum(us <= IN_TIME * 1e6 for us in waited)
    return {
        "requests": sum(found.outcomes.values()),
        "answered": len(waited),
        "in time": in_time,
        "goodput": in_time / (seconds * OVERLOAD_WORKERS / 0.02),
        "shed": found.outcomes["shed"],
        "lost": found.lost,
        "p50": waited[len(waited) // 2] if waited else None,
        "p99": waited[int(len(waited) * 0.99)] if waited else None,
    }


TABLES = {
    "lanes": lanes,
    "tls": tls,
    "unix": unix,
    "proxy": proxy,
    "log": log,
    "overload": overload,
    "flask": flask,
    "django": django,
    "asgi": asgi,
}
