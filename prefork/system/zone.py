"""Which time of day a log has: UTC, or that of a zone which is settled when the server starts.

The zone of a process is the application's to change (time.tzset; Django does it), so time.localtime says nothing of a
server's. A zone is found once, by the name that the setting gives or by what TZ says before the application runs
(tzset(3)), and asked from then on. `zoneinfo` and `datetime` are imported for one that isn't UTC
alone.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from prefork.errors import SettingsError
from prefork.system.natives import os, time

if TYPE_CHECKING:
    from datetime import tzinfo

UTC = "utc"
LOCAL = "local"

_LOCALTIME = "/etc/localtime"


def find(name: str, tz: str | None) -> tzinfo | None:
    """The zone that the setting ``log_timezone`` names.

    Args:
        name: "utc", "local", or a name of the IANA time zone database.
        tz: What TZ is in the environment, for "local"; None when it isn't there, then /etc/localtime has it.

    Returns:
        The zone; None for UTC.

    Raises:
        SettingsError: There is none of that name on this machine.
    """
    if name == UTC:
        return None
    import zoneinfo

    wanted = name if name != LOCAL else None if tz is None else tz.removeprefix(":")
    if not wanted and wanted is not None:
        return None  # TZ is empty: UTC
    try:
        if wanted is None:
            return _read(_LOCALTIME) if os.path.exists(_LOCALTIME) else None
        if wanted.startswith("/"):
            return _read(wanted)
        try:
            return zoneinfo.ZoneInfo(wanted)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            if name != LOCAL:
                raise
            return _of_rule(wanted)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        shown = "/etc/localtime" if wanted is None else repr(wanted)
        remedy = "name another, or install tzdata"
        raise SettingsError(f"log_timezone: {shown} is no zone that this machine knows; {remedy}") from None


def _read(path: str) -> tzinfo:
    with open(path, "rb") as file:
        return _parsed(file)


def _of_rule(rule: str) -> tzinfo:
    """The zone of a rule as POSIX has it, such as CET-1CEST,M3.5.0,M10.5.0/3: a file without moments (RFC 9636)."""
    import io
    import struct

    head = b"TZif2" + bytes(15)
    block = head + struct.pack(">6I", 0, 0, 0, 0, 1, 4) + struct.pack(">iBB", 0, 0, 0) + b"UTC\0"
    return _parsed(io.BytesIO(block * 2 + b"\n" + rule.encode("ascii", "replace") + b"\n"))


def _parsed(file: IO[bytes]) -> tzinfo:
    import zoneinfo

    return zoneinfo.ZoneInfo.from_file(file)


def broken_down(seconds: float, zone: tzinfo | None) -> tuple[time.struct_time, str]:
    """A time of day: its parts, and how far it is ahead of UTC, as in "+0130".

    Args:
        seconds: Since the epoch.
        zone: From `find`.
    """
    if zone is None:
        return time.gmtime(seconds), "+0000"
    from datetime import datetime

    at = datetime.fromtimestamp(seconds // 1, zone)  # which would round what is all but a second up
    return at.timetuple(), f"{at:%z}"[:5]


def timestamp(seconds: float, zone: tzinfo | None = None) -> str:
    """A time of day as every log has it: RFC 3339, with milliseconds.

    Args:
        seconds: Since the epoch.
        zone: From `find`.
    """
    at, ahead = broken_down(seconds, zone)
    offset = "Z" if zone is None else f"{ahead[:3]}:{ahead[3:]}"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', at)}.{int(seconds * 1000) % 1000:03d}{offset}"
