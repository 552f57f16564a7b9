"""``prefork top``: a running server, live, in a terminal. Needs ``prefork[top]``."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import re
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from prefork.cli.commands import CommandParser
from prefork.errors import ControlError, PreforkError
from prefork.services.control.client import Client
from prefork.system.natives import os, select, signal, time
from prefork.system.signals import wakeup

if TYPE_CHECKING:
    from prefork.cli.top_view import TopView

_TIMEOUT: Final = 5.0  # seconds for an answer; a dump takes up to three
_GONE: Final = ((errno.EIO,), (errno.ENXIO,), (errno.ENODEV,))
"""What the kernel says of a terminal that has been hung up, or taken away (tty_ioctl(4))."""
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP)
_KEY: Final = re.compile(rb"\x1b[\[O][0-9;]*.|[^\x1b]", re.DOTALL)  # several may come at once
_ARROWS: Final = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}


def top(argv: Sequence[str]) -> int:
    """``prefork top``."""
    parser = CommandParser(
        "top",
        "Show a running server, live: its listeners, its rate and queue over time, every worker. Keys sort, dump,\n"
        "recycle, scale, reload. Needs prefork[top].",
    )
    parser.add_argument(
        "--interval", metavar="SECONDS", type=float, default=1.0, help="between two looks (default: %(default)g)"
    )
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    if not 0.05 <= arguments.interval <= 3600:
        parser.error(f"--interval: {arguments.interval:g} is out of range; give 0.05 to 3600 seconds")
    if importlib.util.find_spec("rich") is None:
        raise PreforkError("prefork top needs rich; pip install 'prefork[top]'")
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise PreforkError("prefork top needs a terminal; prefork status prints the same once")
    Client(arguments.control, timeout=_TIMEOUT).close()  # a server that was never there is a mistake; later it may go
    try:
        _run(arguments.control, arguments.interval)
    except KeyboardInterrupt:
        pass
    except (OSError, termios.error) as error:
        if error.args[:1] not in _GONE:
            raise
        raise PreforkError("the terminal is gone") from None
    return 0


def _run(control: str, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from prefork.cli.top_view import TopView

    console = Console()
    if console.is_dumb_terminal or not console.is_terminal:  # which rich would draw nothing on, and say nothing
        why = f"TERM={os.environ.get('TERM', '')}" if console.is_dumb_terminal else "TTY_COMPATIBLE, or its like"
        raise PreforkError(f"prefork top can't draw on this terminal ({why}); prefork status prints the same once")
    view = TopView()
    server = _ServerConnection(control)
    with _keyboard() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                due = max(due + interval, time.monotonic())
                server.look_at_status(view)
            size = os.get_terminal_size(sys.stdout.fileno())
            live.update(view.picture(size.columns, size.lines), refresh=True)
            for key in _pressed(keys, due):
                wanted = view.press(key)
                if wanted == "quit":
                    server.close()
                    return
                if wanted:
                    server.do(wanted, view)
                    due = time.monotonic()


class _ServerConnection:
    """The server that is looked at: one connection, made anew when it was lost."""

    def __init__(self, control: str) -> None:
        self._control = control
        self._client: Client | None = None

    def look_at_status(self, view: TopView) -> None:
        """Take its status to the view."""
        self._ask(view, lambda client: view.take_status(client.status()))

    def do(self, what: str, view: TopView) -> None:
        """Do what a key stands for."""
        slot = view.slot

        def ask(client: Client) -> None:
            match what:
                case "reload":
                    view.note = f"reload: generation {client.reload(wait=False)} is on its way"
                case "more" | "less":
                    now = client.status(processes=False).size  # the view's may be old, or that of none yet
                    size = max(1, now + (1 if what == "more" else -1))
                    client.scale(size)
                    view.note = f"{size} workers"
                case "recycle" if slot is not None:
                    client.recycle(slot, wait=False)
                    view.note = f"slot {slot}: its replacement is on its way"
                case "dump" if slot is not None:
                    view.show(f"slot {slot}, tracebacks (j k scroll, any other key closes)", client.dump(slot))

        self._ask(view, ask)

    def _ask(self, view: TopView, question: Callable[[Client], None]) -> None:
        try:
            if self._client is None:
                self._client = Client(self._control, timeout=_TIMEOUT)
            question(self._client)
        except ControlError as error:
            view.note = str(error).splitlines()[0]
            self.close()

    def close(self) -> None:
        """Hang up. Idempotent."""
        if self._client is not None:
            self._client.close()
            self._client = None


@contextlib.contextmanager
def _keyboard() -> Iterator[tuple[int, int]]:
    """The terminal gives each key at once, without showing it.

    Yields:
        The descriptor of the keyboard, and one that a change of the terminal's size makes readable.
    """
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    with wakeup() as resized:
        before_us: list[tuple[int, Any]] = [
            (signal.SIGWINCH, signal.signal(signal.SIGWINCH, lambda *_: None)),
            *((signum, signal.signal(signum, _end)) for signum in _ENDS),
        ]
        try:
            tty.setcbreak(stdin)
            yield stdin, resized
        finally:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(stdin, termios.TCSADRAIN, before)
            for signum, handler in before_us:
                signal.signal(signum, handler)


def _end(signum: int, _: object) -> None:
    """Leave by way of what puts the terminal in order, with the exit code that a shell reports for the signal."""
    sys.exit(128 + signum)


def _pressed(keys: tuple[int, int], until: float) -> list[str]:
    """The keys that were pressed, or nothing: time is up, or the size has changed."""
    keyboard, resized = keys
    ready, _, _ = select.select([keyboard, resized], [], [], max(0.0, until - time.monotonic()))
    if resized in ready:
        os.read(resized, 4096)
    if keyboard not in ready:
        return []
    data = os.read(keyboard, 64)
    if not data:
        return ["q"]  # the terminal is gone
    return [_ARROWS.get(key, key.decode("ascii", "ignore")) for key in _KEY.findall(data)]
