import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.config import kinds, settings
from prefork.config import load as config
from prefork.config.fields import Field
from prefork.config.load import Configuration, Table
from prefork.config.settings import Settings
from prefork.errors import SettingsError

WriteFile = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    def write(text: str) -> str:
        path = tmp_path / "app.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def problems(*arguments: Any, **keywords: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as raised:
        config.load(*arguments, **keywords)
    return raised.value.problems


def test_nothing_given_is_the_defaults() -> None:
    found = config.load({}, {})
    assert found.settings == Settings()
    assert {given.origin for given in found.given.values()} == {"default"}


def test_each_source_beats_the_one_below_it(write: WriteFile) -> None:
    file = write("workers = 2\nbacklog = 20\ntimeout = 5\n")
    found = config.load(
        {"workers": "4", "preload": True, "nodelay": False, "bind": [":1", ":2"], "stop": None},
        {"PREFORK_WORKERS": "3", "PREFORK_BACKLOG": "30", "HOME": "/root"},
        file=file,
        defaults={"timeout": 30.0, "graceful_timeout": 9.0},
    )
    assert found.settings == Settings(
        workers=4,
        preload=True,
        nodelay=False,
        bind=(":1", ":2"),
        backlog=30,
        timeout=5.0,
        graceful_timeout=9.0,
    )
    assert {name: given.origin for name, given in found.given.items() if given.origin != "default"} == {
        "workers": "--workers",
        "preload": "--preload",
        "nodelay": "--no-nodelay",
        "bind": "--bind",
        "backlog": "PREFORK_BACKLOG",
        "timeout": file,
    }


def test_one_address_given_as_a_flag_is_not_a_list() -> None:
    assert config.load({"bind": [":1"]}, {}).settings.bind == ":1"


def test_the_environment_can_name_the_file(write: WriteFile) -> None:
    file = write("workers = 2")
    assert config.load({}, {"PREFORK_CONFIG": file}).settings.workers == 2
    assert config.load({}, {"PREFORK_CONFIG": "/nonexistent"}, file=file).settings.workers == 2
    assert config.load({}, {"PREFORK_CONFIG": ""}).settings == Settings()


def test_an_empty_variable_is_not_set() -> None:
    assert config.load({}, {"PREFORK_WORKERS": ""}).given["workers"].origin == "default"


def test_everything_wrong_is_reported_together_with_its_origin(write: WriteFile) -> None:
    file = write('timeout = "30"\nworker = 2\nmin_workers = 9\n')
    assert problems(
        {"workers": "many", "stop": "now", "max_workers": "3"},
        {"PREFORK_BACKLOG": "0", "PREFORK_WORKER": "4"},
        file=file,
        complaints=["TARGET is missing"],
    ) == (
        "TARGET is missing",
        f"worker: is not a setting; did you mean workers or min_workers? (from {file})",
        "PREFORK_WORKER: is not a variable of prefork's; did you mean PREFORK_WORKERS or PREFORK_MIN_WORKERS?",
        "backlog: 0 is not a length of the accept queue; give 1 or more (from PREFORK_BACKLOG)",
        "workers: 'many' is not a count of processes; give 1 or more, or \"auto\" (from --workers)",
        f"timeout: '30' is not a number of seconds; give 0 to 2000000 (from {file})",
        "stop: 'now' is not known; give drain or close (from --stop)",
    )


def test_a_contradiction_names_both_origins(write: WriteFile) -> None:
    file = write("min_workers = 9\n")
    assert problems({"max_workers": "3"}, {}, file=file) == (
        f"min_workers: 9 is more than max_workers (3); give 3 or less (from {file} and --max-workers)",
    )


def test_a_contradiction_with_a_default_names_what_was_given() -> None:
    found = problems({"max_workers": "3"}, {}, defaults={"workers": 4})
    assert found == ("max_workers: 3 is less than workers (4); give 4 or more (from --max-workers)",)


def test_no_contradiction_is_derived_from_a_value_that_is_wrong_itself() -> None:
    assert problems({"max_requests_jitter": "5", "max_requests": "x"}, {}) == (
        "max_requests: 'x' is not a count of connections; give 0 or more (from --max-requests)",
    )


def test_a_value_that_is_beaten_may_be_wrong(write: WriteFile) -> None:
    file = write("workers = 0\n")
    found = config.load({"workers": "4", "stop": "close"}, {"PREFORK_WORKERS": "x", "PREFORK_STOP": "x"}, file=file)
    assert (found.settings.workers, found.settings.stop) == (4, "close")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"workers 4", "is not TOML: Expected '='"),
        (b"\xff", "is not TOML: it is not UTF-8 text"),
        (b"workers = " + b"9" * 5000, "is not TOML: "),
        (b"workers = " + b"[" * 100_000, "is not TOML: "),
    ],
)
def test_a_file_that_is_not_toml_is_one_problem(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "app.toml"
    path.write_bytes(content)
    (line,) = problems({}, {}, file=str(path))
    assert line.startswith(f"config: {str(path)!r} {problem}")
    assert "\n" not in line


def test_a_key_without_characters_can_be_seen(write: WriteFile) -> None:
    (line,) = problems({}, {}, file=write('"" = 1'))
    assert line.startswith("'': is not a setting; ")


def test_a_mark_at_the_beginning_is_no_part_of_a_file(tmp_path: Path) -> None:
    """Editors of Windows begin UTF-8 text so, and end its lines with two characters."""
    (tmp_path / "marked.toml").write_bytes(b'\xef\xbb\xbfworkers = 3\r\nname = "shop"\r\n')
    found = config.load({}, {}, file=str(tmp_path / "marked.toml")).settings
    assert (found.workers, found.name) == (3, "shop")


def test_a_file_that_can_not_be_read_does_not_hide_the_rest(tmp_path: Path) -> None:
    assert problems({"workers": "0"}, {}, file=str(tmp_path)) == (
        f"config: {str(tmp_path)!r} can't be read: Is a directory; name a file that this user may read",
        'workers: 0 is not a count of processes; give 1 or more, or "auto" (from --workers)',
    )


def test_toml_types_are_held_to(write: WriteFile) -> None:
    file = write("workers = true\npreload = 1\ntimeout = 1979-05-27\nmax_memory = '1G'\n[stop]\nx = 1\n")
    assert [line.split(":")[0] for line in problems({}, {}, file=file)] == ["preload", "workers", "timeout", "stop"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PREFORK_SERVICE_HOST", "10.0.0.1"),
        ("PREFORK_SERVICE_PORT", "80"),
        ("PREFORK_SERVICE_PORT_HTTP", "80"),
        ("PREFORK_PORT", "tcp://10.0.0.1:80"),
        ("PREFORK_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("PREFORK_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("PREFORK_WEB_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_variables_of_a_kubernetes_service_are_not_ours(variable: str, value: str) -> None:
    assert config.load({}, {variable: value}).settings == Settings()


@pytest.mark.parametrize("variable", ["PREFORK_PORT", "PREFORK_RESUE_PORT", "PREFORK_", "PREFORK_WORKERS_X"])
def test_other_variables_with_our_prefix_are_mistakes(variable: str) -> None:
    (line,) = problems({}, {variable: "1"})
    assert line.startswith(f"{variable}: is not a variable of prefork's; ")


def test_the_printed_configuration_says_where_each_value_came_from() -> None:
    printed = config.load({"bind": [":1", "unix:@x"]}, {"PREFORK_MAX_MEMORY": "1536K"}, file=None).toml()
    assert 'bind = [":1", "unix:@x"]  # --bind\n' in printed
    assert 'max_memory = "1536K"  # PREFORK_MAX_MEMORY\n' in printed
    assert 'workers = "auto"  # default\n' in printed
    assert set(tomllib.loads(printed)) == {field.name for field in settings.fields()}


checked = st.sampled_from(
    [
        *(("workers", value) for value in ("auto", "4")),
        *(("bind", value) for value in (":0", ":1,:2", "unix:/tmp/a\\b", 'unix:@q"ä', "[::1]:80")),
        *(("max_memory", value) for value in ("0", "1G", "1048577")),
        *(("socket_mode", value) for value in ("0660", "7")),
        *(("max_fds", value) for value in ("0.9", "100")),
        *(("timeout", value) for value in ("0.1", "1e-9", "2e6", "30")),
        ("preload", "yes"),
        ("hooks", "a.b:c"),
        ("socket_user", "www"),
    ]
)


@given(st.lists(checked).map(dict))
def test_what_is_printed_gives_the_same_settings_when_read(
    tmp_path_factory: pytest.TempPathFactory, flags: dict[str, str]
) -> None:
    found = config.load(flags, {})
    path = tmp_path_factory.mktemp("printed") / "app.toml"
    path.write_text(found.toml(), encoding="utf-8")
    assert config.load({}, {}, file=str(path)).settings == found.settings


@given(st.dictionaries(st.sampled_from([field.name for field in settings.fields()]), st.text(), max_size=3))
def test_any_text_gives_settings_or_printable_problems(flags: dict[str, str]) -> None:
    try:
        config.load(flags, {})
    except SettingsError as error:
        problems = error.problems
    else:
        return
    assert problems
    assert all(line.isprintable() for line in problems)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extra:
    colour: str = "red"
    depth: int = 1

    def __post_init__(self) -> None:
        if self.colour == "blue" and self.depth > 1:
            raise SettingsError("depth: 2 is too deep for blue; give 1")


EXTRA = Table(
    fields=(
        Field(name="colour", default="red", kind=kinds.choice("red", "blue"), group="Paint", help="Which."),
        Field(name="depth", default=1, kind=kinds.whole("a depth", least=1), group="Paint", help="How deep."),
    ),
    groups=("Paint",),
    make=Extra,
)


def load_extra(flags: dict[str, object], environ: dict[str, str]) -> Configuration:
    return config.load(flags, environ, table=EXTRA)


def test_a_command_may_have_settings_of_its_own() -> None:
    found = load_extra({"colour": "blue"}, {"PREFORK_WORKERS": "2"})
    assert found.extra == Extra(colour="blue")
    assert found.settings.workers == 2
    assert '# Paint\ncolour = "blue"  # --colour\ndepth = 1  # default\n' in found.toml()


def test_problems_of_a_commands_own_settings_come_with_the_others() -> None:
    assert problems({"depth": "x", "workers": "0"}, {}, table=EXTRA) == (
        'workers: 0 is not a count of processes; give 1 or more, or "auto" (from --workers)',
        "depth: 'x' is not a depth; give 1 or more (from --depth)",
    )
    assert problems({"colour": "green", "depth": "0"}, {}, table=EXTRA) == (
        "colour: 'green' is not known; give red or blue (from --colour)",
        "depth: 0 is not a depth; give 1 or more (from --depth)",
    )
    assert problems({"colour": "blue"}, {"PREFORK_DEPTH": "2"}, table=EXTRA) == (
        "depth: 2 is too deep for blue; give 1 (from PREFORK_DEPTH)",
    )


def test_settings_of_another_command_are_unknown() -> None:
    assert problems({}, {"PREFORK_COLOUR": "red"})[0].startswith("PREFORK_COLOUR: is not a variable")


# What platforms set.


def test_variables_of_platforms(write: WriteFile) -> None:
    found = config.load({}, {"PORT": "5000", "WEB_CONCURRENCY": "3", "FORWARDED_ALLOW_IPS": "*"})
    assert (found.settings.bind, found.settings.workers) == ("0.0.0.0:5000", 3)
    assert (found.given["bind"].origin, found.given["workers"].origin) == ("PORT", "WEB_CONCURRENCY")


@pytest.mark.parametrize(
    ("flags", "environ", "text", "bind"),
    [
        ({"bind": [":1"]}, {"PREFORK_BIND": ":2"}, 'bind = ":3"', ":1"),
        ({}, {"PREFORK_BIND": ":2"}, 'bind = ":3"', ":2"),
        ({}, {}, 'bind = ":3"', ":3"),
        ({}, {}, "", "0.0.0.0:5000"),
    ],
)
def test_what_beats_a_platform(
    write: WriteFile, flags: dict[str, object], environ: dict[str, str], text: str, bind: str
) -> None:
    assert config.load(flags, {"PORT": "5000", **environ}, file=write(text)).settings.bind == bind
    assert config.load(flags, {"PORT": "none", **environ}, file=write(text or 'bind=":4"')).settings.bind in {
        bind,
        ":4",
    }


@pytest.mark.parametrize("port", ["0", "65536", "x", "80 ", "-1", "tcp://10.0.0.1:80", "9" * 5000])
def test_a_port_that_is_none(port: str) -> None:
    (problem,) = problems({}, {"PORT": port})
    assert problem == f"bind: {port[:40]!r} is not a port; give a port from 1 to 65535, or unset it (from PORT)"


def test_a_count_that_is_none() -> None:
    (problem,) = problems({}, {"WEB_CONCURRENCY": "many"})
    assert problem.startswith("workers: 'many' is not a count of processes")
    assert problem.endswith("(from WEB_CONCURRENCY)")


def test_a_command_without_proxies_needs_no_variable_about_them() -> None:
    assert config.load({}, {"FORWARDED_ALLOW_IPS": "nonsense"}).settings == Settings()


# Variables in a file.


def test_variables_in_a_file(write: WriteFile) -> None:
    file = write(
        """
        bind = ["0.0.0.0:${PORT:-8000}", "unix:${DIR}/s"]
        workers = "${WEB_CONCURRENCY:-2 * cpus + 1}"
        preload = "${PRELOAD:-yes}"
        max_memory = "${MEMORY:-512M}"
        name = "${NAME:-}a$${b}${EMPTY:-c}"
        """
    )
    found = config.load({}, {"PORT": "5000", "DIR": "/run", "MEMORY": "1G", "EMPTY": ""}, file=file)
    settings = found.settings
    assert settings.bind == ("0.0.0.0:5000", "unix:/run/s")
    assert (settings.workers, settings.preload, settings.max_memory) == ("2 * cpus + 1", True, 1 << 30)
    assert settings.name == "a${b}c"
    assert found.given["bind"].origin == file
    again = config.load({}, {}, file=write(found.toml()))
    assert again.settings.workers == "2 * cpus + 1"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('workers = "${SHOP}"', "workers: needs the variable SHOP, which is not set; set it, or give ${SHOP:-DEFAULT}"),
        ('bind = [":1", "${A}:1"]', "bind: needs the variable A, which is not set; set it, or give ${A:-DEFAULT}"),
        ('name = "${}"', "name: holds '${}', which names no variable; give ${NAME} or ${NAME:-DEFAULT}"),
        ('name = "${A"', "name: holds '${A', which names no variable; give ${NAME} or ${NAME:-DEFAULT}"),
        ('workers = "${X:-many}"', "workers: 'many' is not a count of processes"),
    ],
)
def test_variables_that_are_wrong(write: WriteFile, text: str, why: str) -> None:
    file = write(text)
    (problem,) = problems({}, {}, file=file)
    assert problem.startswith(why)
    assert problem.endswith(f"(from {file})")
    assert config.load({"workers": "1", "bind": [":1"], "name": "n"}, {}, file=file).settings.workers == 1
