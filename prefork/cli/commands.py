"""The commands that speak with a running server: each reads its few arguments, asks, and prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from prefork.cli.main import write
from prefork.errors import ControlError, SettingsError, printable
from prefork.services.control.client import Client
from prefork.status import text as report
from prefork.system import codec

_DIGITS: Final = 20  # of a count; int() refuses to read some thousands

UNFIT: Final = 1
"""The exit code for a server that is not ready, did not reload, or can't be reached."""


class CommandParser(argparse.ArgumentParser):
    """The arguments of one command; mistakes are raised, as everywhere, and not printed here.

    Args:
        name: the command's.
        about: what it does, and its exit codes if they tell something.
    """

    def __init__(self, name: str, about: str) -> None:
        super().__init__(
            prog=f"prefork {name}",
            description=about,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # CPython 3.14 colours a help by itself; `write` escapes what would move a cursor, and completion reads it.
        self.color = False
        self.add_argument(
            "--control",
            metavar="PATH",
            default="",
            help="the server's control socket; without it PREFORK_CONTROL, else that of the only server that runs here",
        )

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as one line."""
        raise SettingsError(f"{printable(message.removeprefix('argument '))}; {self.prog} --help tells more")

    def seconds(self, default: float | None, what: str) -> None:
        """Add ``--timeout``."""
        shown = f"{default:g}" if default is not None else "as long as it takes"
        self.add_argument(
            "--timeout", metavar="SECONDS", type=_seconds, default=default, help=f"{what} (default: {shown})"
        )

    def read(self, argv: Sequence[str]) -> argparse.Namespace | None:
        """The arguments; None when only help was wanted, which has been printed."""
        if "-h" in argv or "--help" in argv:
            write(self.format_help())
            return None
        return self.parse_args(argv)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; give one above 0")
    return value


_MOLD = "mold"


def _slot_or_mold(text: str) -> int | str:
    return text if text == _MOLD else _count(0, "a slot, or mold")(text)


def _count(least: int, what: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > _DIGITS or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}; give {least} or more")
        return int(text)

    return read


slot_of = _count(0, "a slot")
"""Reads a slot from an argument; raises argparse.ArgumentTypeError when it is none."""


def status(argv: Sequence[str]) -> int:
    """``prefork status``."""
    parser = CommandParser("status", "Show what a running server does: its listeners, its workers, its last deaths.")
    parser.add_argument("--json", action="store_true", help="print it as JSON, for programs")
    parser.add_argument(
        "--requests", action="store_true", help="show what runs now: how long, from where, method and path"
    )
    parser.seconds(10.0, "how long the server may take to answer")
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    with Client(arguments.control, timeout=arguments.timeout) as client:
        found = client.status(processes=arguments.json or not arguments.requests)
    page = report.requests if arguments.requests else report.page
    write(codec.encoded(found) + "\n" if arguments.json else page(found))
    return 0


def reload(argv: Sequence[str]) -> int:
    """``prefork reload``."""
    parser = CommandParser(
        "reload",
        "Replace every worker of a running server by one with new code, without losing anybody, and wait until all\n"
        "have been replaced. Exit code 1 says that the new code failed to start; then the old one goes on.",
    )
    return _renew(parser, argv, Client.reload)


def upgrade(argv: Sequence[str]) -> int:
    """``prefork upgrade``."""
    parser = CommandParser(
        "upgrade",
        "Have the master execute the same command anew in its own process - a new interpreter, new packages, a new\n"
        "prefork - and then replace every worker; wait until all have been replaced. Nobody is lost. The new code is\n"
        "tried in another process first; exit code 1 says that it failed there, and the old code goes on.",
    )
    return _renew(parser, argv, Client.upgrade)


def _renew(parser: CommandParser, argv: Sequence[str], order: Callable[..., int]) -> int:
    """Give an order that replaces every worker, and say of which generation the new ones are."""
    parser.add_argument("--no-wait", action="store_true", help="don't wait, only ask")
    parser.seconds(None, "how long to wait")
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    with Client(arguments.control) as client:
        who = client.who()
        generation = order(client, wait=not arguments.no_wait, timeout=arguments.timeout)
    write(f"generation {generation} {'is on its way' if arguments.no_wait else 'serves'} ({who})\n")
    return 0


def scale(argv: Sequence[str]) -> int:
    """``prefork scale``."""
    parser = CommandParser("scale", "Run another number of workers.")
    parser.add_argument("workers", metavar="WORKERS", type=_count(1, "a count of workers"), help="how many")
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    with Client(arguments.control) as client:
        who = client.who()
        before = client.scale(arguments.workers)
    write(f"{arguments.workers} workers instead of {before} ({who})\n")
    return 0


def recycle(argv: Sequence[str]) -> int:
    """``prefork recycle``."""
    parser = CommandParser("recycle", "Replace one worker; it leaves when its replacement serves.")
    parser.add_argument("slot", metavar="SLOT", type=slot_of, help="whose, as prefork status shows it")
    parser.add_argument("--no-wait", action="store_true", help="don't wait, only ask")
    parser.seconds(None, "how long to wait")
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    with Client(arguments.control) as client:
        who = client.who()
        pid = client.recycle(arguments.slot, wait=not arguments.no_wait, timeout=arguments.timeout)
    told = "its replacement is on its way" if pid is None else f"pid {pid} serves"
    write(f"slot {arguments.slot}: {told} ({who})\n")
    return 0


def dump(argv: Sequence[str]) -> int:
    """``prefork dump``."""
    parser = CommandParser(
        "dump", "Print the tracebacks of all threads of a worker, or of the mold, which goes on working."
    )
    parser.add_argument(
        "slot", metavar="SLOT|mold", type=_slot_or_mold, help="whose, as prefork status shows it; mold with preload"
    )
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    with Client(arguments.control) as client:
        who = client.who()
        mold = arguments.slot == _MOLD
        text = client.dump_mold() if mold else client.dump(arguments.slot)
    write(f"{'the mold' if mold else f'slot {arguments.slot}'} ({who})\n{text.rstrip()}\n")
    return 0


def stop(argv: Sequence[str]) -> int:
    """``prefork stop``."""
    parser = CommandParser(
        "stop", "Stop a running server and wait until it has ended. All who are connected are served."
    )
    parser.add_argument("--quick", action="store_true", help="finish only the connections in hand, as Ctrl-C does")
    parser.add_argument("--no-wait", action="store_true", help="don't wait, only ask")
    parser.seconds(None, "how long to wait")
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    with Client(arguments.control) as client:
        who = client.who()
        client.stop(quick=arguments.quick, wait=not arguments.no_wait, timeout=arguments.timeout)
    write(f"{'about to stop' if arguments.no_wait else 'stopped'} ({who})\n")
    return 0


def live(argv: Sequence[str]) -> int:
    """``prefork check --live``: whether the server that runs here is fit for work, by the exit code."""
    parser = CommandParser(
        "check --live",
        "Ask a running server whether it is ready: it answers, it has started, workers accept, and it is not about to\n"
        f"stop. Exit code 0 if so, {UNFIT} if not. Made for the health checks of containers.",
    )
    parser.seconds(5.0, "how long the server may take to answer")
    arguments = parser.read(argv)
    if arguments is None:
        return 0
    with Client(arguments.control, timeout=arguments.timeout) as client:
        who = client.who()
        health = client.health()
    told = f"{health.state}, {health.serving} of {health.size} workers accept ({who})"
    if not health.ready:
        raise ControlError(f"not ready: {told}")
    write(f"ready: {told}\n")
    return 0
