"""The command, as its user meets it: every test starts a real process."""

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import prefork
from prefork.cli import main as cli
from prefork.cli.commands import CommandParser
from prefork.config import settings
from prefork.config.fields import GROUPS
from prefork.testing import call_until, request, running_target
from tests.support.forked import SERVERS
from tests.support.programs import run_program

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PREFORK_")}


_IN_A_SHELL = "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1], sys.executable])"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application, to run the command in."""
    (tmp_path / "hello.py").write_text(
        "def handle(connection, address):\n"
        "    connection.recv(1000)\n"
        "    connection.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nhi\\n')\n"
        "number = 5\n"
    )
    (tmp_path / "lacks.py").write_text("import no_such_library\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    return tmp_path


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return SERVERS.run([sys.executable, "-m", "prefork", *arguments], cwd=cwd, env=ENVIRONMENT | environment)


def program(source: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def problems(done: subprocess.CompletedProcess[str], code: int = 2) -> list[str]:
    """What a failed command complained of: nothing but lines in the agreed form."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert all(line.startswith("prefork: error: ") for line in lines), done.stderr
    return [line.removeprefix("prefork: error: ") for line in lines]


def test_the_version_is_told_by_module_and_script() -> None:
    script = Path(sys.executable).with_name("prefork")
    told = subprocess.run([script, "-V"], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == run("--version").stdout == f"prefork {prefork.__version__}\n"


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_the_overview_lists_the_commands(flag: str) -> None:
    done = run(flag)
    assert done.returncode == 0
    assert re.search(r"^ {2}serve +serve a function", done.stdout, re.MULTILINE)


def test_no_command_at_all_is_a_mistake_that_shows_the_overview() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == run("--help").stdout


def test_an_unknown_command_is_named() -> None:
    assert problems(run("srve")) == ["'srve' is not a command; did you mean serve?"]
    assert problems(run("--workers", "4")) == ["'--workers' is not a command; prefork --help lists them"]


@pytest.mark.long
def test_every_command_can_be_found() -> None:
    for command in cli.COMMANDS:
        done = run(command.name, "--help")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: prefork {command.name} ")


@pytest.mark.parametrize(("columns", "width"), [("20", 60), ("79", 79), ("500", 100)])
def test_the_help_fits_the_terminal(columns: str, width: int) -> None:
    body = run("serve", "--help", COLUMNS=columns).stdout.partition("Signals to the master")[0]
    assert max(map(len, body.splitlines())) <= width


def test_no_help_is_coloured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As argparse of CPython 3.14 has it at a terminal, or where this variable asks for it."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(["status", "--help"]) == 0
    assert "x1b" not in capsys.readouterr().out
    assert CommandParser("status", "").color is False


def test_the_help_tells_of_every_setting() -> None:
    told = run("serve", "-h", COLUMNS="100").stdout
    assert max(map(len, told.splitlines())) <= 100
    for field in settings.fields():
        assert re.search(rf"(^ {{2}}|, ){field.flag}[ ,]", told, re.MULTILINE), field.flag
        assert " ".join(field.help.split()) in " ".join(told.split())
    for group in GROUPS:
        assert f"\n{group}:\n" in told
    assert "--no-preload" in told
    assert "-w, --workers COUNT|auto" in told
    assert "(default: 127.0.0.1:8000)" in told


def test_the_configuration_is_printed_as_toml(folder: Path) -> None:
    (folder / "app.toml").write_text("backlog = 7\nworkers = 9\n")
    done = run("serve", "-c", "app.toml", "-w", "2", "--no-nodelay", "--print-config", cwd=folder, PREFORK_TIMEOUT="3")
    assert (done.returncode, done.stderr) == (0, "")
    for line in [
        "backlog = 7  # app.toml",
        "workers = 2  # --workers",
        "nodelay = false  # --no-nodelay",
        "timeout = 3.0  # PREFORK_TIMEOUT",
        'bind = "127.0.0.1:8000"  # default',
    ]:
        assert line in done.stdout.splitlines()
    (folder / "printed.toml").write_text(done.stdout)
    again = run("serve", "--config", "printed.toml", "--print-config", cwd=folder)
    assert tomllib.loads(again.stdout) == tomllib.loads(done.stdout)


def test_everything_wrong_is_told_at_once(folder: Path) -> None:
    (folder / "app.toml").write_text("worker = 9\nbacklog = 'x'\n")
    told = problems(
        run(
            *("serve", "helo:handle", "--config", "app.toml", "--stop=now", "--workes", "3", "--bind", "a:b"),
            *("--bind", ":70000"),
            cwd=folder,
            PREFORK_TIMEOUT="soon",
        )
    )
    assert told == [
        "'--workes' is not a flag; did you mean --workers or --min-workers?",
        f"'helo:handle': there is no module 'helo' in {folder} or on the import path; did you mean hello?",
        "worker: is not a setting; did you mean workers or min_workers? (from app.toml)",
        "bind: 'a:b' has no port that TCP knows; give 0 to 65535 after the last colon (from --bind)",
        "backlog: 'x' is not a length of the accept queue; give 1 or more (from app.toml)",
        "timeout: 'soon' is not a number of seconds; give 0 to 2000000 (from PREFORK_TIMEOUT)",
        "stop: 'now' is not known; give drain or close (from --stop)",
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "there is nothing to serve; give MODULE:ATTRIBUTE (prefork serve --help)"),
        (("hello:handle", "more"), "'more' is one argument too many beside 'hello:handle'; give one target"),
        (("hello:handle", "--workers"), "-w/--workers: expected one argument"),
        (("hello:handle", "--preload=yes"), "--preload/--no-preload: ignored explicit argument 'yes'"),
        (("hello:handle", "--tim", "3"), "'--tim' is not a flag; "),
        (("hello:handle", "--wörkers=3"), "'--wörkers' is not a flag; did you mean --workers or --min-workers?"),
        (("hello:handle", "--workers", "many"), 'give 1 or more, or "auto" (from --workers)'),
        (("hello:handle", "--workers", "-1"), 'give 1 or more, or "auto" (from --workers)'),
        (("hello:handle", "--workers=0"), 'give 1 or more, or "auto" (from --workers)'),
        (("hello:handle", "--config", "missing.toml"), "can't be read: No such file or directory"),
        (("hello:handle", "--config", "hello.py"), "config: 'hello.py' is not TOML"),
        (("hello:handle", "--app-dir", "missing"), "app_dir: 'missing' is not a folder"),
        (("hello.py",), "give the module's name without .py"),
        (("hello",), "'hello' has no attribute; give hello:NAME"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folder: Path, arguments: tuple[str, ...], problem: str) -> None:
    (line,) = problems(run("serve", *arguments, cwd=folder))
    assert problem in line


def test_the_value_of_an_unknown_flag_is_not_taken_for_the_target(folder: Path) -> None:
    told = ["'--colour' is not a flag; --help lists them all"]
    assert problems(run("serve", "--colour", "red")) == told
    assert problems(run("serve", "--colour", "red", "hello:handle", cwd=folder)) == told
    assert problems(run("serve", "hello:handle", "--colour", "red", cwd=folder)) == told


def test_output_that_nobody_reads_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "prefork", "serve", "--help"],
        env=ENVIRONMENT,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        ("2>&1 >/dev/full", 1, "prefork: error: standard output can't be written: No space left on device; "),
        ("2>&1 >&-", 0, ""),
        ("2>/dev/full >&-", 0, ""),
    ],
)
def test_output_that_can_not_be_written_is_one_line(redirection: str, code: int, told: str) -> None:
    done = program(_IN_A_SHELL, f'"$0" -m prefork --help {redirection}')
    assert done.returncode == code, done.stdout
    assert done.stdout.startswith(told)
    assert done.stdout.count("\n") == bool(told)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_the_exit_code_tells_of_a_mistake_that_can_not_be_written(redirection: str) -> None:
    assert program(_IN_A_SHELL, f'"$0" -m prefork serve missing:handle {redirection}').returncode == 2
    assert program(_IN_A_SHELL, f'"$0" -m prefork serv {redirection}').returncode == 2


def test_what_the_encoding_of_the_output_lacks_is_escaped() -> None:
    done = run("serve", "--name", "caf\u00e9", "--print-config", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r'name = "caf\xe9"  # --name' in done.stdout.splitlines()


def test_a_server_takes_none_of_the_standard_numbers_for_itself(folder: Path) -> None:
    with subprocess.Popen(
        ["sh", "-c", 'exec "$0" -m prefork serve hello:handle -b unix:s -w 1 --control c <&- >&- 2>&-', sys.executable],
        cwd=folder,
        env=ENVIRONMENT,
    ) as server:
        try:
            call_until(lambda: run("check", "--live", "--control", "c", cwd=folder).returncode == 0, bool)
            for fd in range(3):
                assert os.readlink(f"/proc/{server.pid}/fd/{fd}") == "/dev/null"
        finally:
            server.terminate()


@pytest.mark.parametrize("limit", ["9", "10"])  # with 9 the way to the socket's file had room, and back it had not
def test_too_few_descriptors_to_begin_with_are_one_line(folder: Path, limit: str) -> None:
    before = sorted(os.listdir(folder))
    shell = 'ulimit -n "$1"; exec "$0" -m prefork serve hello:handle -b unix:s -w 1'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, limit],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (line,) = problems(done, code=3)
    # How many an interpreter has in use, and so who asks for one too many, is of its version.
    assert re.match(
        r"(there are no descriptors to begin with|bind: unix:s): [Tt]oo many open files; raise the lim", line
    )
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("command", ["serve a:b", "exporter --listen 127.0.0.1:0"])
def test_a_folder_that_is_gone_is_one_line(tmp_path: Path, command: str) -> None:
    shell = f'mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir ../gone; "$0" -m prefork {command}'
    assert problems(program(_IN_A_SHELL, shell)) == [
        "the current folder can't be used: No such file or directory; start in another"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_may_not_be_searched_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir(mode=0o700)
    done = run_program(
        """
        import os, sys
        from prefork.config import launch
        from prefork.errors import SettingsError
        os.chdir(sys.argv[1])
        os.setresuid(65534, 65534, 65534)
        try:
            launch.begin()
        except SettingsError as error:
            print(error)
        """,
        str(tmp_path / "ours"),
    )
    assert done.stdout == "the current folder can't be used: Permission denied; start in another\n"


@contextlib.contextmanager
def check_that_loads(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A check of an application whose import does not end, in a process group of its own, while it imports."""
    (folder / "slow.py").write_text("print('importing', flush=True)\nimport signal\nsignal.pause()\n")
    command = [sys.executable, "-m", "prefork", "check", "slow:handle"]
    with subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, cli.INTERRUPTED), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_check_that_is_ended_leaves_nobody_behind_and_is_quiet(folder: Path, signum: int, code: int) -> None:
    with check_that_loads(folder) as process:
        process.send_signal(signum)
        output = process.communicate(timeout=60)  # ends when the one that loads, which has the pipes too, has ended
    assert (process.returncode, *output) == (code, b"", b"")


def test_ctrl_c_while_a_check_loads_is_quiet(folder: Path) -> None:
    with check_that_loads(folder) as process:
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does: the one that loads gets it too
        output = process.communicate(timeout=60)
    assert output == (b"", b"")


def test_ctrl_c_before_anything_serves_is_quiet(tmp_path: Path) -> None:
    fifo = tmp_path / "config.toml"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [sys.executable, "-m", "prefork", "serve", "--print-config", "--config", fifo],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        writer = call_until(lambda: opened_for_writing(fifo), message="the command reads its configuration")
        assert writer is not None
        process.send_signal(signal.SIGINT)
        os.close(writer)  # where it came just before read(2), it is seen after that
        try:
            output = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, *output) == (cli.INTERRUPTED, b"", b"")


def opened_for_writing(fifo: Path) -> int | None:
    """A descriptor, once somebody reads (fifo(7): without a reader a non-blocking open fails with ENXIO)."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def test_serve_serves_and_says_so_in_one_line(folder: Path) -> None:
    with running_target("hello:handle", app_dir=folder, workers=2) as server:
        assert request(server.address).body == b"hi\n"
        log = server.log().splitlines()
        stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
        assert re.fullmatch(
            rf"{stamp} INFO {server.pid} serving on 127\.0\.0\.1:\d+ with 2 workers, pid {server.pid}", log[0]
        )
        assert server.stop() == 0


def test_the_current_folder_is_on_the_import_path_of_the_script_too(folder: Path) -> None:
    script = str(Path(sys.executable).with_name("prefork"))
    with subprocess.Popen(
        [script, "serve", "hello:handle", "--bind", "127.0.0.1:0", "--workers", "1"],
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "serving on" in process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_an_application_that_lacks_a_library(folder: Path, preload: str) -> None:
    done = run("serve", "lacks:handle", "--bind", "127.0.0.1:0", "--workers", "2", preload, cwd=folder)
    line = f"{folder}/lacks.py:1: ModuleNotFoundError: No module named 'no_such_library'"
    assert f"prefork: error: 'lacks:handle' can't be imported: {line}" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
@pytest.mark.parametrize(("target", "problem"), [("hello:hande", "no attribute 'hande'"), ("hello:number", "is int")])
def test_an_attribute_that_can_not_be_served(folder: Path, preload: str, target: str, problem: str) -> None:
    done = run("serve", target, "--bind", "127.0.0.1:0", "--workers", "2", preload, cwd=folder)
    assert sum(line.startswith("prefork: error: ") for line in done.stderr.splitlines()) == 1
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
@pytest.mark.parametrize(
    "failing", ["raise RuntimeError('as asked')", "import sys; sys.exit(3)", "import sys; sys.exit()"]
)
def test_an_application_that_fails_is_exit_code_4(folder: Path, preload: str, failing: str) -> None:
    (folder / "fails.py").write_text(f"{failing}\n")
    done = run("serve", "fails:handle", "--bind", "127.0.0.1:0", "--workers", "2", preload, cwd=folder)
    told = done.stderr.splitlines()
    assert done.returncode == 4
    assert done.stderr.count("Traceback (most recent call last):") == 1, done.stderr
    assert told[-1].startswith("prefork: error: the application failed to boot"), done.stderr


@pytest.mark.parametrize("failing", ["raise RuntimeError('as asked')", "import sys; sys.exit(3)", "def f(:"])
def test_hooks_that_fail_are_exit_code_4(folder: Path, failing: str) -> None:
    (folder / "fails.py").write_text(f"{failing}\n")
    done = run("serve", "hello:handle", "--bind", "127.0.0.1:0", "--hooks", "fails", cwd=folder)
    assert done.returncode == 4
    assert done.stderr.count("Traceback (most recent call last):") == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("prefork: error: hooks: 'fails' failed to load: "), done.stderr


def test_hooks_that_are_not_there_are_named(folder: Path) -> None:
    (line,) = problems(run("serve", "hello:handle", "--bind", "127.0.0.1:0", "--hooks", "hell", cwd=folder))
    assert line.startswith("hooks: 'hell': there is no module 'hell' in ")


def test_an_address_in_use_is_exit_code_3(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        (line,) = problems(run("serve", "hello:handle", "--bind", bind, cwd=folder), code=3)
    assert bind in line


LOGS = """if True:
    import logging
    from prefork.services import log as logs
    logs.configure("warning")
    logs.configure("warning")
    logging.getLogger("prefork").info("unseen")
    logging.getLogger("prefork").warning("seen")
    logging.getLogger("app").warning("mine")
    assert not logging.getLogger().handlers
    logging.basicConfig(format="root %(message)s")
    logging.getLogger("prefork").warning("once")
"""


def test_the_log_goes_to_standard_error_and_leaves_the_applications_alone() -> None:
    done = program(LOGS)
    assert (done.returncode, done.stdout) == (0, "")
    ours, others, again = done.stderr.splitlines()
    assert re.fullmatch(r"\S+ WARNING \d+ seen", ours)
    assert others == "mine"
    assert re.fullmatch(r"\S+ WARNING \d+ once", again)


PAINT = """if True:
    import dataclasses, sys
    from prefork.cli import main as cli
    from prefork.cli.serving import ServingCommand, serving
    from prefork.config import fields, kinds, load as config
    from prefork.errors import BootError

    @dataclasses.dataclass(kw_only=True)
    class Paint:
        colour: str = "red"

    colour = fields.Field(name="colour", default="red", kind=kinds.choice("red", "blue"), group="Paint", help="Which.")

    def run(text, configuration, app_dir, start):
        if configuration.extra.colour == "blue":
            raise BootError("no blue is left\\nask again")
        print(text, configuration.extra.colour, configuration.settings.timeout, app_dir)
        return 7

    def paint(argv):
        table = config.Table(fields=(colour,), groups=("Paint",), make=Paint)
        command = ServingCommand(name="paint", target="MODULE", about="Paints.", epilog="The end.", run=run,
                              defaults={"timeout": 30.0}, table=table)
        return serving(command, argv)

    cli.COMMANDS += (cli.Command("paint", "paint it", "__main__:paint"),)
    sys.exit(cli.main())
"""


def test_another_command_that_serves_is_a_description() -> None:
    done = program(PAINT, "paint", "socket:socket", "--app-dir", "/")
    assert (done.returncode, done.stdout, done.stderr) == (7, "socket:socket red 30.0 /\n", "")
    told = program(PAINT, "paint", "--help").stdout
    assert told.startswith("usage: prefork paint MODULE [FLAG ...]\n\nPaints.\n")
    assert told.endswith("The end.\n")
    assert "\nPaint:\n  --colour red|blue " in told
    assert re.search(r"--timeout SECONDS .*?\(default:\s30\)", told, re.DOTALL)
    assert problems(program(PAINT, "paint", "socket:socket", PREFORK_COLOUR="green")) == [
        "colour: 'green' is not known; give red or blue (from PREFORK_COLOUR)"
    ]
    assert 'colour = "blue"  # --colour\n' in program(PAINT, "paint", "--colour", "blue", "--print-config").stdout


def test_an_error_ends_the_command_with_its_lines_and_its_code() -> None:
    assert problems(program(PAINT, "paint", "socket:socket", "--colour=blue"), code=4) == [
        "no blue is left",
        "ask again",
    ]
