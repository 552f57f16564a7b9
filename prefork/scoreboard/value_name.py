"""What a value of the application's metrics is called in shared memory: all that a scrape has to know of it. Pure."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, cast

GAUGE: Final = "gauge"
OF_EACH: Final = "all"
"""The way of a gauge that is told of each process by itself."""

_LIVE: Final = "live"
_COUNTED: Final = "sum"
_WAYS: Final = frozenset({_COUNTED, "min", "max", "mostrecent", OF_EACH})


class ValueName(NamedTuple):
    """One value's.

    Attributes:
        type: The metric's, in prometheus_client's words.
        mode: A gauge's ``multiprocess_mode``; "" otherwise.
        metric: What the metric is called.
        name: What the sample is called.
        labels: Of the sample.
        help: Of the metric.
        pid: Of whom it is, where he is dead and that matters; else 0.
    """

    type: str
    mode: str
    metric: str
    name: str
    labels: dict[str, str]
    help: str
    pid: int = 0

    @property
    def text(self) -> str:
        """The name as it stands in memory."""
        return json.dumps(self)

    @classmethod
    def read(cls, text: str) -> ValueName | None:
        """The name that a text is; None when it is none, for others may write there."""
        try:
            read = cls(*cast("list[Any]", json.loads(text)))
        except (ValueError, TypeError, RecursionError):
            return None
        labels: object = read.labels
        texts: list[object] = [read.type, read.mode, read.metric, read.name, read.help]
        if not isinstance(labels, dict) or not all(isinstance(one, str) for one in (*texts, *labels.values())):
            return None
        return read if read.how in _WAYS else None

    @property
    def how(self) -> str:
        """What the values of several processes come to: sum, min, max, mostrecent, or all."""
        return self.mode.removeprefix(_LIVE) if self.type == GAUGE else _COUNTED

    def kept(self, pid: int) -> tuple[str, str] | None:
        """How the value of a process that has died is kept: under which name, and how; None for not at all."""
        if self.type == GAUGE and self.mode.startswith(_LIVE):
            return None
        if self.how == OF_EACH:
            return self._replace(pid=pid).text, _COUNTED
        return self.text, self.how
