"""The form of a line of the access log: a template with gunicorn's atoms, which is compiled once.

``%(h)s "%(r)s" %(D)d`` and so on, as `ATOMS` lists them; ``%({x-request-id}i)s`` is a field of the request,
``%({content-type}o)s`` one of the response, ``%({wsgi.url_scheme}e)s`` an entry of the environ. A template asks for
nothing that it doesn't show. What comes from clients can end neither quotes nor lines: it is escaped, and in a template
that is an object of JSON as JSON has it, so that each line is one.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from prefork.errors import printable
from prefork.system.natives import os
from prefork.system.zone import broken_down, timestamp

if TYPE_CHECKING:
    from datetime import tzinfo

COMBINED: Final = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
"""Apache's Combined Log Format, which is gunicorn's default too."""

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ESCAPED: Final = re.compile(r"[^ !#-\[\]-~]")
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
_PLACE: Final = re.compile(
    r"%(?:%|\((?:(?P<atom>[A-Za-z])|\{(?P<name>[^{}]+)\}(?P<source>[ieo]))\)"
    r"(?P<form>[-#0 +]*[0-9]{0,3}(?:\.[0-9]{1,3})?[sdirfgexX]))"
)
_UNPREFIXED: Final = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})


class Answered(Protocol):
    """What a line tells of a response; `prefork.wsgi.response.Response` is one."""

    status: str
    sent: int

    def field(self, name: str) -> str | None:
        """The value of a header field of it; None when there is none."""
        ...


class AccessRecord(NamedTuple):
    """What a line is made of.

    Attributes:
        environ: The request's; it may lack what could not be read, and the application may have changed it.
        response: What was answered.
        seconds: From the accepted connection to the end of the response.
        now: The time of day, seconds since the epoch.
        zone: Whose, from `prefork.system.zone.find`.
    """

    environ: Mapping[str, Any]
    response: Answered
    seconds: float
    now: float
    zone: tzinfo | None


Render = Callable[[AccessRecord], str]
"""What makes a line, its end not included."""


def compiled(form: str) -> Render:
    """What writes lines in a form: "combined", "json", or a template.

    Raises:
        ValueError: A template is of no use; the message is a clause that says why.
    """
    if form == "json":
        return _json
    return _template(COMBINED if form == "combined" else form)


def _template(form: str) -> Render:
    getters: list[Callable[[AccessRecord], object]] = []
    of_json = form.lstrip().startswith("{")
    parts: list[str] = []
    at = 0
    for place in _PLACE.finditer(form):
        parts.append(_literal(form[at : place.start()]))
        at = place.end()
        if place[0] == "%%":
            parts.append("%%")
            continue
        getter = _getter(place)
        getters.append(_in_json(getter) if of_json else getter)
        parts.append("%" + place["form"])
    parts.append(_literal(form[at:]))
    template = "".join(parts)
    if not getters:
        raise ValueError('shows nothing of a request; give combined, json, or a template such as "%(h)s %(r)s %(s)s"')

    def render(record: AccessRecord) -> str:
        return template % tuple(getter(record) for getter in getters)

    try:
        render(_SAMPLE)
    except (TypeError, ValueError) as error:
        raise ValueError(f"writes an atom in a form that it does not have ({error}); give s for each") from None
    return render


def _in_json(getter: Callable[[AccessRecord], object]) -> Callable[[AccessRecord], object]:
    """The same, with escapes of JSON's: each backslash that :func:`escaped` leaves begins one of its own."""

    def get(record: AccessRecord) -> object:
        shown = getter(record)
        return _ESCAPE.sub(_escape_of_json, shown) if isinstance(shown, str) and "\\" in shown else shown

    return get


def _escape_of_json(match: re.Match[str]) -> str:
    units = chr(int(match[1] or match[2] or match[3], 16)).encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _literal(text: str) -> str:
    if "%" in text:
        shown = printable(text[text.index("%") :])[:12]
        raise ValueError(f"holds {shown!r}, which is no atom; give %(h)s and its like, and %% for a percent sign")
    return text


def _getter(place: re.Match[str]) -> Callable[[AccessRecord], object]:
    name, source = place["name"], place["source"]
    if source is None:
        getter = ATOMS.get(place["atom"])
        if getter is None:
            raise ValueError(f"holds %({place['atom']}), which is no atom; there are {' '.join(ATOMS)}")
        return getter
    if source == "i":
        key = name.upper().replace("-", "_")
        key = key if key in _UNPREFIXED else f"HTTP_{key}"
        return lambda record: escaped(record.environ.get(key))
    if source == "e":
        upper = name.upper()
        return lambda record: escaped(record.environ.get(name, record.environ.get(upper)))
    lower = name.lower()
    return lambda record: escaped(record.response.field(lower))


def escaped(value: object) -> str:
    """``value`` as it may stand within quotes: all that would end them, or the line, by its number."""
    if value is None or value == "":
        return "-"
    return _ESCAPED.sub(
        lambda match: f"\\x{ord(match[0]):02x}" if match[0] < "\u0100" else ascii(match[0])[1:-1], str(value)
    )


def _request(record: AccessRecord) -> str:
    environ = record.environ
    method, uri = environ.get("REQUEST_METHOD"), environ.get("REQUEST_URI")
    return escaped(f"{method} {uri} {environ.get('SERVER_PROTOCOL')}" if method and uri else "")


def _user(record: AccessRecord) -> str:
    """Who the application says it is, else who the client claims to be (RFC 7617)."""
    user = record.environ.get("REMOTE_USER")
    if user is None:
        scheme, _, given = str(record.environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        if scheme.lower() == "basic":
            try:
                user = base64.b64decode(given.strip(), validate=True).decode("utf-8").partition(":")[0]
            except (binascii.Error, UnicodeDecodeError, ValueError):
                user = None
    return escaped(user)


_stamp: tuple[int, tzinfo | None, str] = (
    -1,
    None,
    "",
)  # a pure cache: any thread may replace it by one that is as right


def _time(record: AccessRecord) -> str:
    global _stamp
    second = int(record.now)
    if _stamp[0] != second or _stamp[1] is not record.zone:
        at, ahead = broken_down(second, record.zone)
        # Not by strftime, which would write the month in whatever language the application has set.
        day = f"{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}"
        text = f"[{day}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} {ahead}]"
        _stamp = (second, record.zone, text)
    return _stamp[2]


def _of_environ(name: str) -> Callable[[AccessRecord], str]:
    return lambda record: escaped(record.environ.get(name))


def _query(record: AccessRecord) -> str:
    text = record.environ.get("QUERY_STRING")
    return "" if text == "" else escaped(text)


def _queue_time(record: AccessRecord) -> str:
    waited = record.environ.get("prefork.queue_time")
    return f"{waited:.3f}" if isinstance(waited, float) else "-"


ATOMS: Final[Mapping[str, Callable[[AccessRecord], object]]] = {
    "h": _of_environ("REMOTE_ADDR"),
    "l": lambda _: "-",
    "u": _user,
    "t": _time,
    "r": _request,
    "m": _of_environ("REQUEST_METHOD"),
    "U": _of_environ("PATH_INFO"),
    "q": _query,
    "H": _of_environ("SERVER_PROTOCOL"),
    "s": lambda record: record.response.status[:3] or "-",
    "b": lambda record: str(record.response.sent or "-"),
    "B": lambda record: record.response.sent,
    "f": _of_environ("HTTP_REFERER"),
    "a": _of_environ("HTTP_USER_AGENT"),
    "T": lambda record: int(record.seconds),
    "D": lambda record: int(record.seconds * 1_000_000),
    "M": lambda record: int(record.seconds * 1000),
    "L": lambda record: f"{record.seconds:.6f}",
    "p": lambda _: f"<{os.getpid()}>",
    "Q": _queue_time,
}
"""What each atom shows. B, T, D and M are numbers, the others texts."""

MEANINGS: Final[Mapping[str, str]] = {
    "h": "the client's address",
    "l": "always -",
    "u": "the user: `REMOTE_USER` of the environ, else whom the client claims to be (Basic)",
    "t": "the time of day, in brackets; of which zone says `log_timezone`",
    "r": "the request line",
    "m": "the method",
    "U": "the path, without the query",
    "q": "the query",
    "H": "the protocol",
    "s": "the status code",
    "b": "bytes of the body, - for none",
    "B": "bytes of the body, a number",
    "f": "Referer",
    "a": "User-Agent",
    "T": "the time it took, whole seconds",
    "D": "microseconds",
    "M": "milliseconds",
    "L": "seconds with six decimals",
    "p": "the worker's process id, in angle brackets",
    "Q": "how long it had waited for a worker, seconds with three decimals, - where that is not known",
}
"""The same in words."""


class _Nothing:
    status = "200"
    sent = 0

    def field(self, name: str) -> str | None:  # noqa: ARG002  # it has none
        return None


_SAMPLE: Final = AccessRecord({}, _Nothing(), 0.0, 0.0, None)


def _json(record: AccessRecord) -> str:
    environ, code = record.environ, record.response.status[:3]
    return json.dumps(
        {
            "time": timestamp(record.now, record.zone),
            "pid": os.getpid(),
            "remote_addr": environ.get("REMOTE_ADDR"),
            "remote_user": environ.get("REMOTE_USER"),
            "scheme": environ.get("wsgi.url_scheme"),
            "host": environ.get("HTTP_HOST"),
            "method": environ.get("REQUEST_METHOD"),
            "uri": environ.get("REQUEST_URI"),
            "protocol": environ.get("SERVER_PROTOCOL"),
            "status": int(code) if code else None,
            "bytes": record.response.sent,
            "seconds": round(record.seconds, 6),
            "queue_seconds": environ.get("prefork.queue_time"),
            "referer": environ.get("HTTP_REFERER"),
            "user_agent": environ.get("HTTP_USER_AGENT"),
        },
        separators=(",", ":"),
        default=str,
    )
