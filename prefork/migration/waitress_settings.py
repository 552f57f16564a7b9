"""The flags of waitress-serve, and what each is called here: for the answers that a command gives to one of them.

There is no command that retells them, for waitress reads no file. A test holds the table against the waitress that is
installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prefork.migration.foreign_setting import ForeignSetting


def _rows(flags: str, ours: str = "", note: str = "") -> Iterator[ForeignSetting]:
    for flag in flags.split():
        yield ForeignSetting(name=flag.removeprefix("--").replace("-", "_"), flags=(flag,), ours=ours, note=note)


_BUFFERS: Final = "a worker sends and receives by itself; --spool says which bodies are taken first"
_LOOP: Final = "there is no such loop; each worker serves one request, or --threads of them"
_OTHERS: Final = "--forwarded says what becomes of the fields of others"

ROWS: Final = (
    *_rows("--listen", "bind", "HOST:PORT, and :PORT where the host is *"),
    *_rows("--host --port", "bind", "HOST:PORT"),
    *_rows("--unix-socket", "bind", "unix:PATH"),
    *_rows("--unix-socket-perms", "socket_mode", "what the umask leaves, unless it is given"),
    *_rows("--ipv4 --no-ipv4 --ipv6 --no-ipv6", "bind", "0.0.0.0:PORT is IPv4, [::]:PORT both, and with --v6only IPv6"),
    *_rows("--sockets", "bind", "fd://NUMBER, or systemd:"),
    *_rows("--call", note="name it as MODULE:FACTORY()"),
    *_rows("--url-prefix", "script_name", "the path under which the application is mounted"),
    *_rows("--url-scheme", note="X-Forwarded-Proto of a proxy in --forwarded-allow-ips says it"),
    *_rows("--server-name", note="Host of the request says it"),
    *_rows("--ident", note="answers have no Server of ours; have the application or the proxy add it"),
    *_rows("--trusted-proxy", "forwarded_allow_ips", "addresses and networks; X-Forwarded-For and -Proto are read"),
    *_rows("--trusted-proxy-count", "forwarded_allow_ips", "name all that are passed on the way"),
    *_rows("--trusted-proxy-headers", note="X-Forwarded-For and X-Forwarded-Proto are those that are read"),
    *_rows("--clear-untrusted-proxy-headers --no-clear-untrusted-proxy-headers", "forwarded", "trusted, keep or drop"),
    *_rows("--log-untrusted-proxy-headers --no-log-untrusted-proxy-headers", note=_OTHERS),
    *_rows("--channel-timeout", "keepalive", "and --io-timeout while something is sent or received"),
    *_rows("--max-request-header-size", "limit_request_field_size", "of each; --limit-request-fields is of how many"),
    *_rows("--max-request-body-size", "limit_request_body"),
    *_rows("--connection-limit", "max_parked", "of connections that are kept; others wait in the backlog"),
    *_rows("--recv-bytes --send-bytes --outbuf-overflow --outbuf-high-watermark --inbuf-overflow", note=_BUFFERS),
    *_rows("--asyncore-loop-timeout --asyncore-use-poll --no-asyncore-use-poll --cleanup-interval", note=_LOOP),
    *_rows("--channel-request-lookahead", "check_client_connection", "a request is skipped whose client has gone"),
    *_rows("--expose-tracebacks --no-expose-tracebacks", note="tracebacks are in the log alone"),
    *_rows("--log-socket-errors --no-log-socket-errors", note="a client that went away is no error"),
)
"""All rows; what is the same here, as --threads, has none."""
