"""What became of another server's configuration: settings of ours, and lines about what has no equal. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, NoReturn

from prefork.errors import SettingsError
from prefork.migration.foreign_setting import ForeignSetting

_SHOWN: Final = 80  # characters of a value that are repeated in the line about it
_WORDS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}

BIND: Final = "PREFORK_BIND"
"""The variable that says where to listen, whatever another server's configuration says."""

PASSED: Final = "systemd:"
"""What it says where a service manager has passed sockets."""

ServingName = Literal["wsgi", "asgi", "serve"]
"""The command of ours that serves it."""


AROUND: Final = frozenset({"access_log", "access_log_format", "forwarded_allow_ips", "script_name"})
"""Settings of requests that hold around whatever server runs a WSGI or ASGI application in the workers."""

OF_REQUESTS: Final = AROUND | {
    "limit_request_line",
    "limit_request_fields",
    "limit_request_field_size",
    "limit_request_body",
}
"""Settings of another server's that hold in `prefork wsgi` with a worker of its own."""


class Origin(NamedTuple):
    """A value as another server was given it, and where: a flag, a variable, a file's name."""

    value: Any
    origin: str


class Remark(NamedTuple):
    """A line about a setting that has no equal.

    Attributes:
        differs: Whether something behaves otherwise; else it is told for completeness.
        text: The line.
    """

    differs: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retelling:
    """Another server's configuration in our words.

    Attributes:
        source: Whose it was, as "gunicorn".
        command: The command of ours that serves it.
        target: What is served; None when nothing says it.
        values: Settings of ours by name, with their origins.
        remarks: What has no equal.
        hooks: Functions by the names of hooks.
        logging: What Python's logging is to be configured by, as dictConfig takes it; None for nothing.
        environment: Variables to set, and those to take away (None).
        path: Folders for the import path.
        lent: Folders for that of whoever loads the application alone; the command says which.
        asks: What is asked for beside serving: "check", "print-config", "explain".
    """

    source: str
    command: ServingName
    target: str | None
    values: Mapping[str, Origin]
    remarks: tuple[Remark, ...]
    hooks: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    logging: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    lent: tuple[str, ...] = ()
    asks: frozenset[str] = frozenset()


class Teller:
    """Collects what a configuration becomes, setting by setting.

    Args:
        given: Each setting that was given, by the other server's name.

    Attributes:
        command: The command of ours that is to serve.
        values: Settings of ours by name.
        remarks: What has no equal.
        complaints: What can't be served at all, a line each.
        environment: Variables to set.
        path: Folders for the import path.
        logging: What Python's logging is to be configured by.
    """

    def __init__(self, given: Mapping[str, Origin]) -> None:
        self.given = given
        self.command: ServingName = "wsgi"
        self.values: dict[str, Origin] = {}
        self.remarks: list[Remark] = []
        self.complaints: list[str] = []
        self.environment: dict[str, str] = {}
        self.path: list[str] = []
        self.logging: Mapping[str, Any] | None = None

    def put(self, name: str, value: object, origin: str) -> None:
        """A setting of ours is to have a value."""
        self.values[name] = Origin(value, origin)

    def option(self, text: str, origin: str) -> None:
        """The server in the workers is to have an option, as NAME=VALUE."""
        before = self.values.get("worker_options")
        self.put("worker_options", text if before is None else f"{before.value},{text}", origin)

    def tell(self, name: str, text: str, *, differs: bool) -> None:
        """Say of a setting what is different."""
        self.remarks.append(Remark(differs, f"{self._said(name)}: {text}"))

    def remark(self, text: str, *, differs: bool) -> None:
        """Add a line that is about no single setting."""
        self.remarks.append(Remark(differs, text))

    def refuse(self, name: str, text: str) -> None:
        """Say of a setting why nothing can be served with it."""
        self.complaints.append(f"{self._said(name)}: {text}")

    def plainly(self, row: ForeignSetting) -> None:
        """What a row says without more ado."""
        value, origin = self.given[row.name]
        try:
            value = converted(row, value)
        except ValueError as error:
            self.complaints.append(f"{row.name}: {error} (from {origin})")
            return
        if row.ours:
            if value is not None:
                self.put(row.ours, value, origin)
        elif row.weight != "same" and value not in (row.default, None, False, "", [], {}, ()):
            if row.weight == "refused":
                self.refuse(row.name, row.note)
            else:
                self.tell(row.name, row.note, differs=row.weight == "warning")

    def settle_reach(self) -> None:
        """Say of settings that another server in the workers has no use for them, or another meaning."""
        if self.command == "wsgi" and "worker_class" not in self.values:
            return
        server = self.values["worker_class"].value if "worker_class" in self.values else "uvicorn"
        for name in [name for name in self.values if name in OF_REQUESTS]:
            if self.command == "serve" or name not in AROUND:
                value, origin = self.values.pop(name)
                self.remark(
                    f"{name} = {value!r} ({origin}): {server} reads requests and answers them by itself, "
                    "and has settings of its own for that",
                    differs=True,
                )
        if "keepalive" in self.values and server != "uvicorn":
            value, origin = self.values.pop("keepalive")
            self.remark(f"keepalive = {value} ({origin}): {server} keeps connections as long as it likes", differs=True)
        if "max_requests" in self.values and self.values["max_requests"].value:
            value, origin = self.values["max_requests"]
            self.remark(
                f"max_requests = {value} ({origin}): with {server} it counts connections, each of which may bring many "
                "requests",
                differs=True,
            )

    def settle_use(self) -> None:
        """Leave out what has no use beside the other settings: other servers pass over it, and ours would not start."""
        bind = self.values.get("bind")
        texts = () if bind is None else (bind.value,) if isinstance(bind.value, str) else bind.value
        useless = {
            "reuse_port": bool(texts) and all(text.startswith(("unix:", "fd://")) for text in texts),
            "keyfile": "certfile" not in self.values,
            "ca_certs": "certfile" not in self.values,
        }
        for name in [name for name in useless if useless[name] and name in self.values]:
            value, origin = self.values.pop(name)
            if value:
                needed = "a TCP address" if name == "reuse_port" else "certfile"
                self.remark(f"{name} = {value!r} ({origin}): it has no effect without {needed}", differs=False)

    def value(self, name: str, default: object = None) -> Any:
        """What a setting of the other server's was given."""
        return self.given[name].value if name in self.given else default

    def raise_if_wrong(self) -> None:
        """Raise every complaint at once.

        Raises:
            SettingsError: There are some.
        """
        if self.complaints:
            raise SettingsError(self.complaints)

    def _said(self, name: str) -> str:
        value, origin = self.given[name]
        shown = f"{name} = {value!r}"
        return f"{shown[:_SHOWN]} ({origin})"


def is_stream(name: str) -> bool:
    """Whether a log goes to a stream of the command's, or a device, and not into a file of its own."""
    return name == "-" or name.startswith(("/dev/", "/proc/"))


def converted(row: ForeignSetting, value: Any) -> Any:
    """A value as the row takes it; None stays None.

    Raises:
        ValueError: It is of another kind; the message begins with it.
    """
    if value is None:
        return None
    match row.takes:
        case "whole":
            return whole(value)
        case "true" | "false":
            return yes(value)
        case "list":
            return listed(value)
        case "dict":
            return value if isinstance(value, Mapping) else _refused(value, "dictionary; give one")
        case "text":
            return value if isinstance(value, str) or not isinstance(value, int | float) else str(value)
    return value


def listed(value: object) -> list[Any]:
    """Several of what a setting takes, or one text, which is a list of one.

    Raises:
        ValueError: It is neither; the message begins with it.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        return list(value)
    return _refused(value, "list; give one, or a text")


def _refused(value: object, wanted: str) -> NoReturn:
    raise ValueError(f"{value!r} is no {wanted}")


def whole(value: object) -> int:
    """A whole number, or the text of one, octal with a leading 0 too.

    Raises:
        ValueError: It is none; the message begins with it.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            return int(text, 8) if text.startswith("0") and text.isdecimal() else int(text, 0)
        except ValueError:
            pass
    elif isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise ValueError(f"{value!r} is not a whole number; give one")


def yes(value: object) -> bool:
    """Yes or no, or the word for it.

    Raises:
        ValueError: It is neither; the message begins with it.
    """
    found = _WORDS.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"{value!r} is neither yes nor no; give true or false")
    return found
