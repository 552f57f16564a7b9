"""What a setting is: its name, what it means, the heading it stands under, and its place in a table of settings.

The kind of value that it takes is one of `prefork.config.kinds`. All of it is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from prefork.config.kinds import Kind
from prefork.system.record import Described, Record, descriptions, fields_of

S = TypeVar("S", bound="SettingsTable")

LISTENING: Final = "Where to listen"
SOCKETS: Final = "Socket options"
TLS: Final = "TLS"
PROXYING: Final = "PROXY protocol"
PROBING: Final = "Health checks"
WORKERS: Final = "Workers"
TIMES: Final = "Time limits"
KEEPING: Final = "Kept connections"
RECYCLING: Final = "Replacing workers"
FAILURES: Final = "When things fail"
STOPPING: Final = "Stopping"
APPLICATION: Final = "Application"
OPERATIONS: Final = "Operations"
REPORTING: Final = "Log"
GROUPS: Final = (
    LISTENING,
    WORKERS,
    APPLICATION,
    TIMES,
    KEEPING,
    RECYCLING,
    STOPPING,
    PROBING,
    OPERATIONS,
    REPORTING,
    FAILURES,
    SOCKETS,
    TLS,
    PROXYING,
)
"""The headings, in the order in which help and documentation show them."""


class Field(Record, kw_only=True):
    """One setting, described once; flags, environment, TOML, help and documentation derive from it.

    Args:
        name: Its name in Python and in TOML.
        default: Its value when nobody gives one.
        kind: The values it takes.
        group: The heading it stands under.
        help: What it does, in sentences.
        short: Its one-letter flag, with the hyphen; "" for none.
    """

    name: str
    default: Any
    kind: Kind[Any]
    group: str
    help: str
    short: str = ""

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable."""
        return "PREFORK_" + self.name.upper()

    def parse(self, text: str) -> Any:
        """The value that ``text`` means, its bounds not yet checked; ValueError with a whole line."""
        return self._named(self.kind.parse, text)

    def check(self, value: object) -> Any:
        """``value`` in its proper type; ValueError with a whole line when it can't be used."""
        return self._named(self.kind.check, value)

    def _named(self, convert: Callable[[Any], Any], value: object) -> Any:
        try:
            return convert(value)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None


def setting(default: object, group: str, kind: Kind[Any], help: str, short: str = "") -> Any:  # noqa: A002  # the word that argparse and Field use
    """One row of a table of settings; the arguments are those of `Field`."""
    return Described(default, {"group": group, "kind": kind, "help": help, "short": short})


class SettingsTable(Record, kw_only=True):
    """A table of settings: each field is a row, made by `setting`. What is given by name is checked."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.settle()

    def settle(self) -> None:
        """Check the values, and give each its proper type; for those who have rules for that.

        Raises:
            SettingsError: With all problems at once.
        """


def table(settings: type[SettingsTable]) -> tuple[Field, ...]:
    """The rows of a table of settings, in its order."""
    about = descriptions(settings)
    return tuple(Field(name=name, default=getattr(settings, name), **about[name]) for name in fields_of(settings))


def made(kind: type[S], values: Mapping[str, Any]) -> S:
    """A table of settings of values that have been checked, all of them.

    Args:
        kind: The table.
        values: Each value in its proper type, by the name of its setting.
    """
    settings = kind.__new__(kind)
    vars(settings).update(values)
    return settings


def located(settings: S, folder: str, fields: Iterable[Field] | None = None) -> S:
    """A table of settings with every file that it names by its absolute path.

    Args:
        settings: The table.
        folder: Where relative paths begin.
        fields: What it consists of, where that is not told by the table itself.
    """
    changed = {}
    for field in table(type(settings)) if fields is None else fields:
        value = getattr(settings, field.name)
        if field.kind.locate is not None and field.kind.locate(value, folder) != value:
            changed[field.name] = field.kind.locate(value, folder)
    return made(type(settings), {**vars(settings), **changed}) if changed else settings
