"""The flags of uvicorn, and what each is called here: for the answers that a command gives to one of them.

There is no command that retells them, for there is no file of uvicorn's to be read. A test holds the table against the
uvicorn that is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prefork.migration.foreign_setting import ForeignSetting


def _rows(flags: str, ours: str = "", note: str = "") -> Iterator[ForeignSetting]:
    for flag in flags.split():
        yield ForeignSetting(name=flag.removeprefix("--").replace("-", "_"), flags=(flag,), ours=ours, note=note)


def _option(flags: str) -> Iterator[ForeignSetting]:
    """Those that uvicorn is given as it is."""
    for flag in flags.split():
        name = flag.removeprefix("--").replace("-", "_")
        yield from _rows(flag, note=f"say it to uvicorn, --worker-options {name}=VALUE")


_ENVIRONMENT: Final = "set what is in it in the environment of the command"

ROWS: Final = (
    *_rows("--host --port", "bind", "HOST:PORT"),
    *_rows("--uds", "bind", "unix:PATH"),
    *_rows("--fd", "bind", "fd://NUMBER"),
    *_rows("--reload-dir --reload-include --reload-exclude", note="--reload watches Python files of the import path"),
    *_rows("--reload-delay", note="--reload waits for an end of the changes by itself"),
    *_rows("--env-file", note=_ENVIRONMENT),
    *_rows("--log-config", "logconfig", "the loggers are prefork and prefork.access"),
    *_rows("--no-access-log", "access_log", "without it there is none"),
    *_rows("--use-colors --no-use-colors", note="the log has no colours"),
    *_rows("--proxy-headers", note="forwarded_allow_ips says whose are believed"),
    *_rows("--no-proxy-headers", "forwarded", "drop"),
    *_rows("--root-path", "script_name", "the path under which the application is mounted"),
    *_rows(
        "--limit-max-requests", "max_requests", "a worker is replaced by one that is ready, and it counts connections"
    ),
    *_rows("--limit-max-requests-jitter", "max_requests_jitter"),
    *_rows("--timeout-keep-alive", "keepalive"),
    *_rows("--timeout-graceful-shutdown", "graceful_timeout"),
    *_rows("--timeout-worker-healthcheck", note="there is no heartbeat; --timeout finds a loop that is blocked"),
    *_rows("--ssl-keyfile", "keyfile"),
    *_rows("--ssl-certfile", "certfile"),
    *_rows("--ssl-ca-certs", "ca_certs", "asks each client for a certificate"),
    *_rows(
        "--ssl-cert-reqs", note="with --ca-certs each client has to have a certificate, else nobody is asked for one"
    ),
    *_rows("--ssl-keyfile-password", note="a key without a passphrase is what a server can read"),
    *_rows("--ssl-version", "ssl_minimum_version", "the oldest that is spoken"),
    *_rows("--ssl-ciphers", note="they are those of OpenSSL's configuration (openssl.cnf)"),
    *_rows("--factory", note="name it as MODULE:FACTORY()"),
    *_rows("--interface", note="prefork asgi serves ASGI applications, prefork wsgi others"),
    *_rows("--header", note="have the application or the proxy add it"),
    *_rows("--http2", note="HTTP/1.1 is spoken; a proxy in front speaks HTTP/2 with clients"),
    *_option(
        "--http --ws --ws-max-queue --ws-ping-interval --ws-ping-timeout --ws-per-message-deflate --limit-concurrency "
        "--h11-max-incomplete-event-size --reset-contextvars"
    ),
    *(
        ForeignSetting(name=name, flags=flags, note=f"say it to uvicorn, --worker-options {name}=false")
        for name, flags in (
            ("server_header", ("--server-header", "--no-server-header")),
            ("date_header", ("--date-header", "--no-date-header")),
        )
    ),
)
"""All rows; what is the same here, as --workers, has none."""
