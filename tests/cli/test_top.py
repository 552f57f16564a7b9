"""prefork top: what it shows of a status, what keys do, and the whole of it in a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.status.model import Ended, Listening, Process, RunningRequest, Status, Totals, Working
from prefork.testing import Server, call_until, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.testing.processes import kill
from tests.support.probing import ask, held, probe, steady

pytest.importorskip("rich", reason="prefork[top] is not installed")

from prefork.cli.top_view import COLUMNS, HELP, KEYS, SHORT_KEYS, TopView, rate
from prefork.system.record import changed

TIMEOUT = 30.0


def worker(slot: int, **more: Any) -> Working:
    more.setdefault("pid", 100 + slot)
    more.setdefault("state", "idle")
    return Working(slot=slot, **more)


def status(*workers: Working, **more: Any) -> Status:
    more.setdefault("size", len(workers))
    more.setdefault("state", "serving")
    return Status(version="1.0", pid=7, workers=workers, **more)


def lines(view: TopView, width: int = 80, height: int = 24) -> list[str]:
    return [line.rstrip() for line in view.picture(width, height).plain.split("\n")]


def row_of(view: TopView, slot: int) -> dict[str, str]:
    """The cells of a worker's row by their headings."""
    shown = lines(view, 200)
    (heading,) = (line for line in shown if line.split()[:2] == ["#", "PID"])
    row = next(line for line in shown[shown.index(heading) + 1 :] if line.split()[:1] == [str(slot)])
    return dict(zip(heading.split(), row.split(), strict=True))


def selected(view: TopView) -> str:
    """The line that is shown in reverse."""
    picture = view.picture(80, 24)
    (span,) = (span for span in picture.spans if span.style == "reverse" or "reverse" in str(span.style))
    return picture.plain[span.start : span.end]


def slot_of(view: TopView) -> int | None:
    return view.slot


# The picture.


def test_the_picture() -> None:
    view = TopView()
    many = [
        worker(
            0,
            state="busy",
            seconds=1.24,
            served=100,
            parked=17,
            process=Process(cpu=1.0, rss=19 << 20, descriptors=12),
            requests=(RunningRequest(label="GET /a/long/path", waited=0.024),),
        ),
        worker(1, pid=4194304, state="backing off", error="EMFILE"),
        worker(2, pid=90, state="leaving"),
        worker(2, pid=91, state="starting"),
    ]
    view.take_status(status(*many, uptime=10.0, size=5, totals=Totals(served=100)))
    many[0] = changed(many[0], served=150, process=Process(cpu=1.5, rss=20 << 20, descriptors=12))
    view.take_status(
        status(
            *many,
            uptime=12.0,
            size=5,
            totals=Totals(served=150),
            listeners=(Listening(address="127.0.0.1:8000", waiting=3, backlog=128),),
            exhaustions=("worker 1: EMFILE for 2.0 s",),
            deaths=(Ended(slot=3, pid=80, how="killed by SIGKILL", ago=5),),
        )
    )
    shown = lines(view)
    assert len(shown) == 24
    assert shown[:7] == [
        "prefork 1.0, pid 7: serving, up 12s, generation 0",
        "127.0.0.1:8000  3 waiting of 128",
        "150 served, 0 failed, 0us each",
        "EXHAUSTED: worker 1: EMFILE for 2.0 s",
        "rate" + " " * 67 + "█    25/s",
        "queue" + " " * 66 + "█       3",
        "workers B!S..G   B busy  _ idle  S starts  ! backs off  G leaves",
    ]
    assert shown[7:12] == [
        "#     PID GEN STATE     FOR WAIT AGE DONE /S ERR KEPT MEAN MAX RSS CPU FDS",
        "0     100   0 busy     1.2s 24ms 0us  150 25   0   17    -   - 20M 25%  12 GET …",
        "1 4194304   0 backoff   0us    - 0us    0  0   0    0    -   -   -   -   -",
        "2      90   0 leaving   0us    - 0us    0  0   0    0    -   -   -   -   -",
        "2      91   0 starting  0us    - 0us    0  0   0    0    -   -   -   -   -",
    ]
    assert shown[-2:] == ["5.0s ago worker 3 (pid 80, generation 0) killed by SIGKILL after 0us, 0 served", KEYS]


def test_it_fits_eighty_columns_when_all_is_long() -> None:
    view = TopView()
    process = Process(rss=999 << 20, cpu=1000.0, descriptors=999)
    long = {
        "parked": 9999,
        "seconds": 3599.0,
        "age": 86399.0,
        "served": 999_999,
        "failed": 999,
        "mean": 0.9994,
        "longest": 0.9994,
    }
    wide = worker(12, pid=4194304, generation=100, state="starting", process=process, **long)
    view.take_status(status(wide, uptime=1.0))
    view.take_status(status(changed(wide, served=999_999 + 9999), uptime=2.0))
    (heading,) = (line for line in lines(view, 80) if "PID" in line and "STATE" in line)
    assert len(heading) <= 80
    assert len(KEYS) <= 80


def test_at_sixty_columns_the_least_is_left_out_and_one_sees_it() -> None:
    view = TopView()
    process = Process(rss=999 << 20, cpu=1000.0, descriptors=999)
    long = {"parked": 9999, "seconds": 3599.0, "served": 999_999, "mean": 0.9994, "longest": 0.9994}
    view.take_status(status(worker(12, pid=4194304, state="starting", process=process, **long), uptime=1.0))
    shown = lines(view, 60)
    (heading,) = (line for line in shown if "STATE" in line)
    assert heading.split() == ["#", "PID", "STATE", "FOR", "WAIT", "DONE", "/S", "ERR", "RSS", "CPU", "…"]
    row = shown[shown.index(heading) + 1]
    assert row.split() == ["12", "4194304", "starting", "59m59", "-", "999999", "0", "0", "999M", "-"]
    assert all(len(line) <= 60 for line in shown)
    assert shown[-1] == SHORT_KEYS
    for _ in range([column.heading for column in COLUMNS].index("FDS")):
        view.press("s")
    assert "FDS" in next(line for line in lines(view, 60) if "STATE" in line)


def test_the_requests_in_place_of_the_workers() -> None:
    view = TopView()
    view.take_status(status(worker(1, requests=(RunningRequest(label="GET /" + "a" * 80, peer="::1", seconds=2.0),))))
    view.press("v")
    shown = lines(view, 60)
    assert "SLOT PID  FOR WAITED FROM REQUEST" in shown
    (row,) = (line for line in shown if "GET /aaa" in line)
    assert row.startswith("   1 101 2.0s      - ::1  GET /a")
    assert row.endswith("a…")
    view.press("v")
    assert "SLOT PID  FOR WAITED FROM REQUEST" not in lines(view, 60)


def test_how_long_things_waited_over_time() -> None:
    view = TopView()
    spark: list[str] = []
    for number, waited in enumerate(((5, 0, 0), (10, 0, 0), (10, 90, 2), (10, 90, 2))):
        totals = Totals(served=number, waited=waited, waited_bounds=(0.004, 0.008))
        view.take_status(status(worker(0), uptime=float(number), totals=totals))
        spark = [line for line in lines(view) if line.startswith("waited")]
        if number < 2:
            assert not spark
    assert spark[0].endswith("0us")
    assert "█" in spark[0]


def test_what_it_means() -> None:
    view = TopView()
    view.take_status(status(worker(0)))
    view.press("?")
    shown = lines(view)
    assert [line for line in HELP.split("\n") if line not in shown] == []
    assert max(map(len, HELP.split("\n"))) <= 60
    view.press("x")
    assert HELP.split("\n")[0] not in lines(view)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (20, 5), (1, 1), (200, 60), (40, 2)])
def test_it_fits_any_size(width: int, height: int) -> None:
    view = TopView()
    for count in (0, 100):
        view.take_status(status(*(worker(slot) for slot in range(count)), uptime=float(count)))
        shown = lines(view, width, height)
        assert len(shown) == height
        assert max(map(len, shown)) <= width


def test_before_the_first_answer() -> None:
    shown = lines(TopView())
    assert shown[0] == "no answer yet"
    assert shown[-1] == KEYS


def test_a_worker_that_leaves_hides_no_other_of_its_slot() -> None:
    view = TopView()
    view.take_status(status(worker(0, state="busy"), worker(0, pid=9, state="leaving"), size=1))
    assert any(line.startswith("workers BG ") for line in lines(view))


def test_rates_need_two_statuses_of_one_server() -> None:
    view = TopView()
    view.take_status(status(worker(0, served=1000), uptime=5.0, totals=Totals(served=1000)))
    assert row_of(view, 0)["/S"] == "0"
    view.take_status(status(worker(0, served=1010), uptime=6.0, totals=Totals(served=1010)))
    assert row_of(view, 0)["/S"] == "10"
    view.take_status(status(worker(0, served=1050), uptime=7.0, started=99.0, totals=Totals(served=1050)))
    assert row_of(view, 0)["/S"] == "0"  # another server of the same pid
    view.take_status(status(worker(0, pid=555, served=50), uptime=8.0, started=99.0, totals=Totals(served=1100)))
    assert row_of(view, 0)["/S"] == "0"  # another process in the slot
    assert any(line.startswith("rate") and line.endswith("50/s") for line in lines(view))


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.05, "0.1"), (9.94, "9.9"), (9.96, "10"), (9999, "9999"), (12_345, "12k")]
)
def test_a_rate_is_short(value: float, text: str) -> None:
    assert rate(value) == text


# Keys.


def test_sorting() -> None:
    view = TopView()
    view.take_status(status(worker(0, served=5), worker(1, served=9), worker(2, served=7)))

    def order() -> list[int]:
        return [row.worker.slot for row in view._rows]

    assert order() == [0, 1, 2]
    for column in COLUMNS:
        if column.heading == "DONE":
            break
        view.press("s")
    assert order() == [1, 2, 0]
    view.press("S")
    assert order() == [0, 2, 1]
    view.press("S")
    for _ in range(len(COLUMNS)):
        view.press("s")
    assert order() == [1, 2, 0]


def test_every_column_can_be_sorted_by() -> None:
    view = TopView()
    view.take_status(
        status(worker(0, state="busy"), worker(1, process=Process(rss=1, cpu=1.0, descriptors=1)), uptime=1.0)
    )
    for _ in COLUMNS:
        view.press("s")
        assert len(lines(view)) == 24


def test_the_selection_stays_with_its_worker() -> None:
    view = TopView()
    view.take_status(status(*(worker(slot, served=slot) for slot in range(5))))
    view.press("j")
    view.press("down")
    assert slot_of(view) == 2
    assert selected(view).split()[0] == "2"
    for _ in range([column.heading for column in COLUMNS].index("DONE")):
        view.press("s")
    assert slot_of(view) == 2
    view.press("k")
    view.press("up")
    assert slot_of(view) == 4
    for _ in range(9):
        view.press("j")
    assert slot_of(view) == 0
    view.take_status(status(worker(3)))
    assert slot_of(view) == 3
    view.take_status(status())
    assert slot_of(view) is None
    assert view.press("d") == "dump"


def test_the_selected_row_is_always_in_sight() -> None:
    view = TopView()
    view.take_status(status(*(worker(slot) for slot in range(100))))
    for step in range(100):
        assert selected(view).split()[0] == str(step)
        view.press("j")


@pytest.mark.parametrize(
    ("key", "what"),
    [("q", "quit"), ("\x03", "quit"), ("d", "dump"), ("r", "recycle"), ("R", "reload"), ("+", "more"), ("-", "less")],
)
def test_what_others_do(key: str, what: str) -> None:
    assert TopView().press(key) == what


def test_a_key_that_is_none_does_nothing() -> None:
    assert TopView().press("z") == ""


def test_a_text_covers_the_table_until_a_key() -> None:
    view = TopView()
    view.take_status(status(worker(0)))
    view.show("title", "\n".join(f"line {number}" for number in range(50)))
    assert "line 3" in lines(view)
    view.press("j")
    assert "title" not in lines(view)
    view.press("k")
    assert "title" in lines(view)
    for key, last in (("k", "title"), ("j", "line 49")):
        for _ in range(99):
            view.press(key)
        assert next(filter(None, lines(view))) == last or last in lines(view)
    assert view.press("q") == "quit"
    assert view.press("r") == ""
    assert "title" not in lines(view)
    assert any("PID" in line for line in lines(view))


# In a terminal.


def plain(drawn: str) -> str:
    """What is drawn, without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)


class Terminal:
    """`prefork top` with a terminal of its own, and what has been drawn on it."""

    def __init__(self, path: str, *arguments: str, **environ: str) -> None:
        self._ours, self.theirs = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefork", "top", "--control", path, "--interval", "0.1", *arguments],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "", "LINES": ""} | environ,
        )
        self.text = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def key(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, pattern: str) -> str:
        """Wait until what is drawn from now on matches."""
        start = len(self.text)
        deadline = time.monotonic() + TIMEOUT
        while True:
            found = re.search(pattern, plain(self.text[start:]))
            if found:
                return found[0]
            assert time.monotonic() < deadline, f"{pattern!r} in {self.text[-3000:]!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self.text += os.read(self._ours, 65536).decode(errors="replace")

    def ended(self) -> int:
        """Its exit code; what it still draws is read, so that it can end."""
        wait_for(self._has_ended)
        return self.process.wait()

    def _has_ended(self) -> bool:
        while select.select([self._ours], [], [], 0)[0]:
            self.text += os.read(self._ours, 65536).decode(errors="replace")
        return self.process.poll() is not None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self.theirs)


@pytest.fixture
def path() -> Iterator[str]:
    """Short, for messages are cut where the terminal ends."""
    with tempfile.TemporaryDirectory(prefix="pf-") as folder:
        yield f"{folder}/s"


@pytest.fixture
def server(prefork_server: ServerFactory, path: str) -> Server:
    return probe(prefork_server, workers=2, control=path)


@pytest.fixture
def terminal(server: Server, path: str) -> Iterator[Terminal]:
    with contextlib.closing(Terminal(path)) as made:
        made.until(f"pid {server.pid}: serving")
        yield made


def test_it_shows_the_server_live_and_leaves_the_terminal_as_it_was(server: Server, terminal: Terminal) -> None:
    terminal.until("workers __")
    with held(server) as (one,):
        terminal.until("workers (B_|_B)")
        one.finish()
    terminal.until("workers __")
    for _ in range(3):
        ask(server)
    terminal.until("4 served")
    terminal.key("q")
    assert terminal.ended() == 0
    assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert "\x1b[?1049h" in terminal.text  # the other screen, and back
    assert "\x1b[?1049l" in terminal.text


def test_ctrl_c_is_a_way_out_too(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ended() == 0
    assert termios.tcgetattr(terminal.theirs) == terminal.before


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TTY_COMPATIBLE", "0")])
def test_a_terminal_that_nothing_can_be_drawn_on_is_told(path: str, name: str, value: str) -> None:
    with contextlib.closing(Terminal(path, **{name: value})) as terminal:
        assert terminal.ended() == 1
        assert f"prefork top can't draw on this terminal ({name}" in terminal.text
        assert termios.tcgetattr(terminal.theirs) == terminal.before


def test_it_follows_the_terminal_s_size(terminal: Terminal) -> None:
    assert "reload" in KEYS
    terminal.until("R reload")
    terminal.resize(40, 10)
    terminal.process.send_signal(signal.SIGWINCH)

    def frame() -> list[str]:
        terminal.until("q quit")
        drawn = plain(terminal.text)
        return drawn[drawn.rindex("prefork 0.1.0", 0, drawn.rindex("q quit")) :].splitlines()

    # Those that were drawn before are of the old size.
    call_until(frame, lambda drawn: len(drawn) <= 10 and max(map(len, drawn)) <= 40, message="a frame that fits")


def test_its_keys_steer_the_server(server: Server, terminal: Terminal) -> None:
    terminal.key("+")
    terminal.until("3 workers")
    steady(server, 3)
    terminal.key("-")
    steady(server, 2)
    before = server.workers()
    terminal.key("j")
    terminal.key("r")
    terminal.until("slot 1: its replacement is on its way")
    wait_for(lambda: len(set(server.workers()) - set(before)) == 1 and len(server.workers()) == 2)
    terminal.key("d")
    terminal.until("slot 1, tracebacks")
    terminal.until(r"forked\.py.* in live")  # who is READY needs not have come to its loop
    terminal.key("x")
    terminal.until("PID")
    terminal.key("R")
    server.wait_for_log("generation 1 serves")


def test_keys_that_come_together_all_count(server: Server, terminal: Terminal) -> None:
    terminal.key("++")
    terminal.until("4 workers")
    steady(server, 4)
    terminal.key("\x1b[B\x1b[B\x1b[5~r")
    terminal.until("slot 2: its replacement is on its way")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(terminal: Terminal, signum: int) -> None:
    terminal.process.send_signal(signum)
    assert terminal.ended() == 128 + signum
    assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert "\x1b[?1049l" in terminal.text


def test_a_terminal_that_goes_is_one_line(server: Server, path: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with open(tmp_path / "said", "wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefork", "top", "--control", path, "--interval", "0.1"],
                stdin=theirs,
                stdout=theirs,
                stderr=said,
                env=os.environ | {"TERM": "xterm"},
            )
        os.close(theirs)
        assert os.read(ours, 1)
    finally:
        os.close(ours)
    assert process.wait(TIMEOUT) in {0, 1}  # without a key, or the picture: whatever it was at
    assert (tmp_path / "said").read_text() in {"", "prefork: error: the terminal is gone\n"}


def test_a_server_that_goes_and_comes_back(
    server: Server, terminal: Terminal, prefork_server: ServerFactory, path: str
) -> None:
    kill(*server.tree())
    terminal.until(f"nobody listens at {path}")
    again = probe(prefork_server, workers=3, control=path)
    terminal.until(f"pid {again.pid}: serving")
    terminal.key("q")
    assert terminal.ended() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--interval", "0"], "--interval: 0 is out of range; give 0.05 to 3600 seconds"),
        (["--control", "/no/where"], "prefork top needs a terminal; prefork status prints the same once"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefork", "top", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {1, 2}
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert done.stderr.startswith(f"prefork: error: {said}")


def test_a_server_that_was_never_there_is_one_line(tmp_path: Path) -> None:
    with contextlib.closing(Terminal(str(tmp_path / "none"))) as terminal:
        assert terminal.ended() == 1
        assert (
            "none does not exist; the server has ended, or has its control socket elsewhere"
            in terminal.text.replace("\r\n", " ")
        )
