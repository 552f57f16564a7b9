"""What comes from outside is read, or refused in a clear line: never a traceback, never a hang.

Arguments, variables and files; what service managers and predecessors leave in the environment. What workers leave in
shared memory is in `test_fuzz_workers.py`, requests to the control socket are in `test_control.py`.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from prefork.cli.main import main
from prefork.config import settings
from prefork.config.launch import HANDOVER, REHEARSAL
from prefork.errors import ControlError, ListenError, PreforkError, SettingsError
from prefork.services.control import paths
from prefork.services.sd_notify import Notify
from prefork.supervisor import fdstore, upgrade
from prefork.supervisor.event_loop import Loop
from prefork.supervisor.handover import Handover, HandoverError
from prefork.supervisor.takeover import Takeover
from prefork.system import systemd

FLAGS = [field.flag for field in settings.fields()]
VARIABLES = [field.env for field in settings.fields()]

# What a variable may hold, a file's bytes that are not UTF-8 included (PEP 383), and what numbers may be mistaken for.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=20).filter(
    lambda text: not any("\ud800" <= char <= "\udfff" and not "\udc80" <= char <= "\udcff" for char in text)
)
ODD = [
    *(
        "",
        "-1",
        "0",
        "1e999",
        "nan",
        "inf",
        "-inf",
        "1_0",
        " 1 ",
        "+1",
        "0x10",
        "٣",
        "²",
        "1.",
        ".5",
        "--",
        "=",
        "a" * 5000,
    ),
    *(
        "2147483648",
        "4294967296",
        str(1 << 64),
        "9" * 400,
        "9" * 5000,
        ":",
        ":::",
        "[",
        "[::",
        "unix:",
        "fd://" + "9" * 5000,
    ),
]
WORDS = st.sampled_from(ODD) | TEXT | st.integers().map(str)

few = limits(max_examples=60)


def told(*arguments: str) -> str:
    """What the command says on standard error; fails unless it is fine, or says line by line what is wrong."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    said = err.getvalue()
    assert code in {0, 1, 2}
    assert bool(said) == (code != 0)
    assert all(line.startswith("prefork: error: ") for line in said.splitlines()), said
    assert all(char.isprintable() or char == "\n" for char in said), ascii(said)
    return said


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@few
@given(st.lists(st.tuples(st.sampled_from(FLAGS), WORDS), max_size=4), st.sampled_from(["serve", "wsgi"]), WORDS)
def test_flags(flags: list[tuple[str, str]], command: str, target: str) -> None:
    told(command, "--print-config", *(f"{flag}={value}" for flag, value in flags))
    told(command, "--print-config", *(word for pair in flags for word in pair), "--", target)


@few
@given(st.lists(WORDS, max_size=5), st.sampled_from(["status", "scale", "stop", "recycle", "dump", "health", "check"]))
def test_arguments_of_the_commands(words: list[str], command: str) -> None:
    if not {"-h", "--help"} & set(words):
        told(command, "--control=/nonexistent/control", "--timeout=0.1", *words, "--no-such-flag")


@few
@given(st.dictionaries(st.sampled_from(VARIABLES) | TEXT.map("PREFORK_{}".format), WORDS, max_size=4))
def test_variables(variables: dict[str, str]) -> None:
    usable = {name: value for name, value in variables.items() if "=" not in name and value.isprintable()}
    with environment(usable):
        told("serve", "--print-config")


NAMES = st.sampled_from([field.name for field in settings.fields()]) | st.text(max_size=8)
LINES = st.tuples(NAMES, st.sampled_from(["=", "=[", '="', "=1979-01-01", "={}", "]"]), WORDS)
TOML = st.lists(LINES.map("".join), max_size=4).map(lambda lines: "\n".join(lines).encode(errors="surrogateescape"))


@few
@given(TOML | st.binary(max_size=200))
def test_files(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        told("serve", "--print-config", "--config", file.name)


# What a service manager says.


@few
@given(WORDS, st.none() | WORDS, st.booleans())
@example("1000000000", None, True)
@example(str(1 << 70), None, True)
@example("9" * 5000, None, True)
def test_listen_fds(count: str, names: str | None, ours: bool) -> None:
    environ = {"LISTEN_PID": str(os.getpid()) if ours else count, "LISTEN_FDS": count}
    if count.isdecimal() and 0 < int(count[:20]) < 100:
        return  # would take the test's own descriptors
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    try:
        assert systemd.listen_fds(environ) == {}
    except ListenError as error:
        (line,) = str(error).splitlines()
        assert len(line) < 500
    assert environ == {}


@few
@given(WORDS, WORDS, WORDS)
@example("/nonexistent", "9" * 5000, "")
@example("/nonexistent", "9" * 400, "")
@example("@", "1", "")
def test_notify(path: str, microseconds: str, pid: str) -> None:
    found = Notify.of({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": microseconds, "WATCHDOG_PID": pid or "7"}, 7)
    assert (found is None) == (path[:1] not in {"/", "@"})


@few
@given(WORDS, WORDS)
@example("9" * 5000, "/nonexistent")
def test_the_descriptor_store(room: str, path: str) -> None:
    fdstore.keep([], {"FDSTORE": room, "NOTIFY_SOCKET": path})


@few
@given(WORDS, WORDS, WORDS)
def test_the_folder_of_control_sockets(given_folder: str, own: str, control: str) -> None:
    environ = {"RUNTIME_DIRECTORY": given_folder, "XDG_RUNTIME_DIR": own, "PREFORK_CONTROL": control}
    try:
        paths.find("", environ)
    except ControlError:
        pass


# What predecessors leave.


@few
@given(WORDS, WORDS, st.booleans())
@example("9" * 5000, "1", False)
@example(str(1 << 40), "", True)
def test_hand_over_records_that_are_named(fd: str, pid: str, ours: bool) -> None:
    value = f"{fd}:{os.getpid() if ours else pid}"
    for variable, read in (
        (HANDOVER, upgrade.received),
        (REHEARSAL, lambda: upgrade.rehearse(settings.Settings(), None, None)),
    ):
        with environment({variable: value.replace(str(os.getpid()), str(os.getppid())) if ours else value}):
            with contextlib.suppress(HandoverError, PreforkError):
                read()
            assert variable not in os.environ


@few
@given(st.binary(max_size=300) | TEXT.map(lambda text: text.encode(errors="surrogateescape")))
def test_hand_over_records(data: bytes) -> None:
    with pytest.raises(HandoverError):
        Handover.decode(data)


@few
@given(WORDS.map(lambda text: text.encode(errors="surrogateescape")) | st.binary(max_size=60))
@example(b"9" * 5000)
@example(b"\xd9\xa3")
def test_pidfiles_of_predecessors(data: bytes) -> None:
    if data.strip().isdigit() and int(data[:20]) < 1 << 22:
        return  # may be a process
    loop = Loop()
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            with pytest.raises(SettingsError) as caught:
                Takeover(loop, file.name)
        finally:
            loop.close()
    assert len(str(caught.value).splitlines()) == 1


def test_the_fuzz_reaches_what_is_read() -> None:
    """A fuzz whose every input were refused at the door would prove nothing."""
    assert told("serve", "--print-config", "--workers=3") == ""
    assert "workers" in told("serve", "--print-config", "--workers=-1")
    assert "unrecognized arguments: \\n" in told("status", "\n")
