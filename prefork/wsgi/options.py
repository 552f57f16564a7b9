"""What the WSGI server is told beyond `prefork.config.settings.Settings`: limits, proxies, the access log.

One table, of the same `Field` entries as the settings, so that flags, environment, TOML, help and documentation can
derive from it. Where gunicorn has a setting of the same meaning, its name is used.
"""

from __future__ import annotations

import functools
from typing import Any, Final, Literal

from prefork.config import kinds, rules
from prefork.config.fields import Field, SettingsTable, setting, table
from prefork.config.kinds import Kind
from prefork.config.networks import DEFAULT_ALLOWED, networks
from prefork.system.record import changed

LIMITS: Final = "Limits of a request"
BODIES: Final = "Request bodies"
PROXIES: Final = "Proxies"
LOGGING: Final = "Access log"
WARMTH: Final = "Warm-up"
GROUPS: Final = (LIMITS, BODIES, WARMTH, PROXIES, LOGGING)
"""The headings, in the order in which help and documentation show them."""

DEFAULTS: Final = {"timeout": 30.0, "io_timeout": 30.0, "defer_accept": 5, "keepalive": 75.0}
"""Where a WSGI server's defaults differ from those of `prefork.config.settings.Settings`.

HTTP clients speak first. With TCP_DEFER_ACCEPT a connection comes to a worker together with its request, so that no
worker waits a second time for what is not there yet. A silent one is handed over after some seconds, and closed then.
Load balancers keep idle connections for 60 seconds; the server's time is the longer one.
"""

_LONGEST_WAIT: Final = 2_000_000.0  # seconds; what poll(2) can wait for is 2**31 - 1 milliseconds
_BIGGEST_HEAD: Final = 1 << 24
_MOST_FIELDS: Final = 100_000


def _limited(noun: str, *, least: int, most: int, metavar: str = "COUNT") -> Kind[int]:
    """A whole number that limits something; 0, which is no limit to gunicorn either, is the greatest that there is."""
    kind = kinds.whole(noun, least=least, most=most, metavar=metavar)
    return changed(kind, check=lambda value: kind.check(most if _is_zero(value) else value))


def _is_zero(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == 0


def _form() -> Kind[str]:
    def check(value: object) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise kinds.refusal(value, "is not a form; give combined, json or a template")
        if value.lower() in {"combined", "json"}:
            return value.lower()
        from prefork.wsgi.access_format import compiled

        try:
            compiled(value)
        except ValueError as error:
            raise kinds.refusal(value, str(error)) from None
        return value

    return Kind("combined|json|TEMPLATE", str.strip, check)


class WSGIOptions(SettingsTable, kw_only=True):
    """How requests are read and answered. Immutable; checked as a whole when it is made.

    Sizes are bytes, times are seconds; each field is described in the table below.

    Raises:
        SettingsError: With all problems of all fields at once.
    """

    limit_request_line: int = setting(
        4094,
        LIMITS,
        _limited("a length of the request line", least=16, most=_BIGGEST_HEAD, metavar="BYTES"),
        "The longest request line: method, target and version. A longer one is answered 414. 0 means 16 MiB.",
    )
    limit_request_fields: int = setting(
        100,
        LIMITS,
        _limited("a count of header fields", least=1, most=_MOST_FIELDS),
        "The most header fields of a request. More are answered 431. 0 means 100000.",
    )
    limit_request_field_size: int = setting(
        8190,
        LIMITS,
        _limited("a length of a header field", least=16, most=_BIGGEST_HEAD, metavar="BYTES"),
        "The longest header field, name and value together; also the longest trailer field, and the longest line "
        "before a chunk, extensions included. A longer one is answered 431. 0 means 16 MiB.",
    )
    limit_request_body: int = setting(
        0,
        LIMITS,
        kinds.size(least=1),
        "The longest request body. A longer one is answered 413. 0 means no limit.",
    )
    header_timeout: float = setting(
        10.0,
        LIMITS,
        kinds.number("a number of seconds", most=_LONGEST_WAIT),
        "How long a client may take to send the whole head of its request, and for the TLS handshake before that. "
        "Beyond it the answer is 408. 0 means no limit.",
    )
    min_rate: float = setting(
        240.0,
        LIMITS,
        kinds.number("a number of bytes per second", most=1e9, metavar="BYTES/S"),
        "A client that takes or sends a body slower than this is cut once io_timeout has been used up waiting for it. "
        "0 means that any progress within io_timeout is enough.",
    )
    check_client_connection: bool = setting(
        True,
        LIMITS,
        kinds.switch(),
        "Before the application runs, skip a request whose client has closed the connection while it waited.",
    )
    overload: Literal["queue", "shed"] = setting(
        "queue",
        LIMITS,
        kinds.choice("queue", "shed"),
        "When more requests come than can be served: queue has all of them wait; shed answers 503 to those that have "
        "waited for longer than overload_target, once all have for as long. Under TLS a new connection is closed "
        "before its handshake instead, unless health_path is given. Not on unix sockets, of which the kernel doesn't "
        "tell.",
    )
    overload_target: float = setting(
        0.25,
        LIMITS,
        kinds.number("a number of seconds", least=0.01, most=3600.0),
        "For how long a request may wait for a worker while overload=shed sheds.",
    )
    retry_after: int = setting(
        1,
        LIMITS,
        kinds.whole("a whole number of seconds", most=86_400, metavar="SECONDS"),
        "What Retry-After says in the 503 to a client that is shed.",
    )

    spool: Literal["chunked", "all", "none"] = setting(
        "chunked",
        BODIES,
        kinds.choice("chunked", "all", "none"),
        "Which request bodies are received whole before the application runs, and so have a CONTENT_LENGTH: chunked "
        "ones, all, or none. Any other is received as the application reads it.",
    )
    spool_size: int = setting(
        1 << 20,
        BODIES,
        kinds.size(least=1),
        "A body that is received whole is kept in memory up to this size and in a temporary file beyond it. 0 keeps "
        "all of it in memory.",
    )

    spool_limit: int = setting(
        1 << 28,
        BODIES,
        kinds.size(least=1),
        "The longest body that is received whole before the application runs, and the most that one request makes the "
        "server store. A longer one is answered 413. 0 means no limit but limit_request_body.",
    )

    warmup: tuple[str, ...] = setting(
        (),
        WARMTH,
        kinds.several(
            r"/[^\s#]*", "is not a path; give one such as /shop, or //shop.example/shop with a host", metavar="PATH"
        ),
        "With preload: what the application is asked for (GET) in the mold, before workers are forked of it, so that "
        "their first requests cost what all others do. //HOST/PATH names the host as well. May be given several times.",
    )

    forwarded_allow_ips: str = setting(
        DEFAULT_ALLOWED,
        PROXIES,
        networks(),
        "The proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses or networks with commas "
        'between them, private for all that are not of the internet, "*" for everybody. A proxy on a unix socket is '
        "always believed.",
    )
    forwarded: Literal["auto", "trusted", "keep", "drop"] = setting(
        "auto",
        PROXIES,
        kinds.choice("auto", "trusted", "keep", "drop"),
        "Whose fields by which proxies speak of their clients (X-Forwarded-Proto and its like; the WSGI page lists "
        "them) the application sees: trusted, those of forwarded_allow_ips alone; keep, everybody's, which only the "
        "application may believe then; drop, nobody's, and nobody is believed. auto is as trusted, but as long as "
        "forwarded_allow_ips is what it is by default, also those of private addresses, where an unnamed proxy is.",
    )
    health_path: str = setting(
        "",
        PROXIES,
        kinds.text(r"/[^\s?#]*", "is not a path; give one such as /healthz", metavar="PATH"),
        "Answer requests for this path by 200 while the server is fit, and by 503 with the reason while it is not, "
        "as with health_bind. A worker answers, the application isn't asked, and the access log leaves it out.",
    )

    script_name: str = setting(
        "",
        PROXIES,
        kinds.text(r"(/[^/\s?#]+)+", "is not a path without its last slash; give one such as /shop", metavar="PATH"),
        "The path under which the application is mounted: it is SCRIPT_NAME, and leaves PATH_INFO unless the proxy has "
        "taken it away before.",
    )

    access_log: str = setting(
        "",
        LOGGING,
        kinds.text(
            r"[^\0]+",
            "is not a file's name; give a path, or - for standard output",
            metavar="FILE",
            locate=kinds.path_in("-", "logger"),
        ),
        "Write one line for each request to this file, - for standard output; logger gives it to the logger "
        "prefork.access, which is part of the log unless logconfig says otherwise. A file that was moved away is "
        "opened anew within a second of the next request.",
    )
    access_log_format: str = setting(
        "combined",
        LOGGING,
        _form(),
        "The form of those lines: combined (Apache's Combined Log Format), json (an object), or a template with "
        "gunicorn's atoms, such as '%(h)s \"%(r)s\" %(s)s %(D)s %({x-request-id}i)s'; the WSGI page lists them.",
    )

    def settle(self) -> None:
        """Check the values, each by itself and all together, and give each its proper type.

        Raises:
            SettingsError: With all problems at once.
        """
        rules.settle(self, {field.name: field for field in fields()})

    @property
    def limit_head(self) -> int:
        """The longest head in bytes that none of the limits of its parts forbids; what is kept of one in memory."""
        fields = min(self.limit_request_fields * (self.limit_request_field_size + 2), _BIGGEST_HEAD)
        return self.limit_request_line + 2 + fields + 2


def again(name: str) -> Any:
    """The same setting once more, as a row of another table.

    Args:
        name: Its name.
    """
    row = next(row for row in fields() if row.name == name)
    return setting(row.default, row.group, row.kind, row.help)


@functools.cache
def fields() -> tuple[Field, ...]:
    """All options, in the order of the table."""
    return table(WSGIOptions)
