"""What a worker does with a script that ``prefork run`` has brought. WORKER: its main thread, between two instructions.

The text of this module is sent along with the script (see `prefork.cli.run`), for a worker may be of another release.
So it builds on nothing of prefork's but the natives, which every worker has imported.
"""

from __future__ import annotations

import io
import json
import sys
import traceback
from typing import TextIO

from prefork.system.natives import socket, threading

_PATIENCE = 5.0  # seconds for who asked to take it


class _ScriptOutput(io.TextIOBase):
    """What the script prints goes to who asked; what other threads print meanwhile, where it went before.

    Args:
        before: where that is.
    """

    def __init__(self, before: TextIO) -> None:
        self.text: list[str] = []
        self._before = before
        self._thread = threading.get_ident()

    def write(self, text: str, /) -> int:
        """Take ``text``."""
        if threading.get_ident() == self._thread:
            self.text.append(text)
            return len(text)
        return self._before.write(text)


def run(source: bytes, name: str, address: str) -> None:
    """Run a script, and tell who asked. Raises nothing: the worker goes on as if nothing had been.

    Args:
        source: the script.
        name: its path, for tracebacks.
        address: the unix socket of who asked. A connection there says that the script has begun; its end, that it is
            over.
    """
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(_PATIENCE)
            asked.connect(address)
            asked.sendall(json.dumps(_executed(source, name)).encode())
            asked.shutdown(socket.SHUT_WR)  # what the script has forked holds the connection, too
    except OSError:
        pass  # who asked is gone


def _executed(source: bytes, name: str) -> dict[str, str]:
    before = sys.stdout, sys.stderr
    output = _ScriptOutput(before[0])
    sys.stdout, sys.stderr = output, _ScriptOutput(before[1])
    sys.stderr.text = output.text  # in one order, as a terminal has it
    raised = ""
    try:
        exec(compile(source, name, "exec"), {"__name__": "__main__", "__file__": name})
    except SystemExit as end:
        raised = "" if end.code in {None, 0} else f"SystemExit: {end.code}"
    except BaseException as error:  # noqa: BLE001  # it is the script's affair, and never the worker's
        error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None  # from the script on
        raised = "".join(traceback.format_exception(error))
    finally:
        sys.stdout, sys.stderr = before
    return {"output": "".join(output.text), "raised": raised}
