import math
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.config import settings
from prefork.config.address import Address
from prefork.config.fields import GROUPS, Field
from prefork.config.settings import Settings
from prefork.errors import SettingsError
from prefork.system.backoff import Backoff
from prefork.system.record import changed

FIELDS = settings.fields()
NAMES = [field.name for field in FIELDS]


SHARES = "give 0 (off), a fraction such as 0.9, or a whole number"


def problems(**given: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as raised:
        Settings(**given)
    return raised.value.problems


def problem(**given: Any) -> str:
    (line,) = problems(**given)
    return line


def test_the_defaults_hold() -> None:
    made = Settings()
    assert made.bind == "127.0.0.1:8000"
    assert made.addresses == (Address("inet", host="127.0.0.1", port=8000),)
    assert made.backoff == Backoff(0.05, 2.0, 0.25, 0.2)
    assert made.size(cpus=3) == (3, 3, 3)


def test_settings_can_not_be_changed() -> None:
    with pytest.raises(AttributeError, match="workers of Settings can't be set"):
        Settings().workers = 2  # type: ignore[misc]  # that this is refused is the point


@pytest.mark.parametrize("field", FIELDS, ids=NAMES)
def test_every_setting_is_described(field: Field) -> None:
    assert field.group in GROUPS
    assert field.help.endswith(".")
    assert field.help[0].isupper()
    assert field.kind.metavar
    assert field.flag == "--" + field.name.replace("_", "-")
    assert field.env == "PREFORK_" + field.name.upper()
    assert getattr(Settings(), field.name) == field.default


def test_short_flags_are_not_shared() -> None:
    short = [field.short for field in FIELDS if field.short]
    assert len(short) == len(set(short))


@pytest.mark.parametrize("field", FIELDS, ids=NAMES)
def test_a_default_survives_text_and_toml(field: Field) -> None:
    assert field.check(field.parse(field.kind.show(field.default))) == field.default
    assert field.check(field.kind.plain(field.default)) == field.default


ODD: list[Any] = [
    *("", " ", "0", "-1", "1", "07", "1.5", "nan", "-inf", "1e400", "9" * 5000, "512M", "1.5g", "0o660", "8" * 30),
    *("auto", "AUTO", "yes", "No", "hash", "drain", "a:b", "a.b:c.d", ":0", ":1,:2", "unix:@x", "²", "\0", "\n"),
]
objects = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(),
    st.binary(max_size=4),
    st.lists(st.text(max_size=5), max_size=3),
    st.lists(st.integers(), max_size=2).map(tuple),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(ODD),
)


@given(st.dictionaries(st.sampled_from(NAMES), objects, min_size=1, max_size=4))
def test_any_values_make_settings_or_one_line_for_each_problem(given: dict[str, Any]) -> None:
    try:
        made = Settings(**given)
    except SettingsError as error:
        raised = error
    else:
        assert changed(made) == made  # what was accepted and tidied up is accepted again
        return
    assert raised.problems
    for line in raised.problems:
        assert "\n" not in line
        assert line.split(":")[0] in NAMES


@given(st.sampled_from(FIELDS), st.text() | st.sampled_from(ODD))
def test_any_text_is_parsed_to_a_value_or_refused(field: Field, text: str) -> None:
    try:
        value = field.check(field.parse(text))
    except ValueError as error:
        refused = error
    else:
        assert field.check(field.parse(field.kind.show(value))) == value
        assert field.check(field.kind.plain(value)) == value
        return
    assert str(refused).startswith(f"{field.name}: ")
    assert str(refused).isprintable()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", "4", 4),
        ("workers", " auto ", "auto"),
        ("max_memory", "512M", 512 << 20),
        ("max_memory", "1.5g", 3 << 29),
        ("max_memory", "2097152", 2 << 20),
        ("max_fds", "0.9", 0.9),
        ("max_fds", "500", 500.0),
        ("timeout", "1e2", 100.0),
        ("preload", " On ", True),
        ("preload", "0", False),
        ("socket_mode", "0660", 0o660),
        ("socket_mode", "0o600", 0o600),
        ("socket_mode", "", None),
        ("stop", "CLOSE", "close"),
        ("bind", ":1, unix:@a", (":1", "unix:@a")),
        ("bind", "unix:@a", "unix:@a"),
        ("hooks", "app.hooks:live", "app.hooks:live"),
        ("socket_user", "www-data", "www-data"),
    ],
)
def test_text_is_read(name: str, text: str, value: object) -> None:
    field = settings.by_name()[name]
    assert field.check(field.parse(text)) == value


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"workers": -1}, 'workers: -1 is not a count of processes; give 1 or more, or "auto"'),
        ({"workers": 0}, 'workers: 0 is not a count of processes; give 1 or more, or "auto"'),
        ({"workers": 10_001}, 'workers: 10001 is not a count of processes; give at most 10000, or "auto"'),
        ({"workers": True}, 'workers: True is not a count of processes; give 1 or more, or "auto"'),
        ({"workers": 2.0}, 'workers: 2.0 is not a count of processes; give 1 or more, or "auto"'),
        ({"backlog": 0}, "backlog: 0 is not a length of the accept queue; give 1 or more"),
        ({"timeout": math.nan}, "timeout: nan is not a number of seconds; give 0 to 2000000"),
        ({"timeout": math.inf}, "timeout: inf is not a number of seconds; give 0 to 2000000"),
        ({"timeout": True}, "timeout: True is not a number of seconds; give 0 to 2000000"),
        ({"timeout": "30"}, "timeout: '30' is not a number of seconds; give 0 to 2000000"),
        ({"preload": 1}, "preload: 1 is neither yes nor no; give true or false"),
        ({"stop": "now"}, "stop: 'now' is not known; give drain or close"),
        ({"reuse_port_mode": "x"}, "reuse_port_mode: 'x' is not known; give hash, random or cpu"),
        ({"max_memory": 512}, "max_memory: 512 is not a size; give 0 (off) or 1M and more, such as 512M"),
        ({"max_memory": "1T"}, "max_memory: '1T' is not a size; give 0 (off) or 1M and more, such as 512M"),
        ({"max_fds": 1.5}, f"max_fds: 1.5 is not a share or a count of descriptors; {SHARES}"),
        (
            {"socket_mode": 0o1777},
            'socket_mode: 1023 is not a file mode; give octal digits in quotes, such as "0660"',
        ),
        ({"hooks": "a b"}, "hooks: 'a b' does not name an object; give module or module:object"),
        ({"socket_user": "a\x7f"}, "socket_user: 'a\\x7f' is not a user; give a name or a number"),
        ({"socket_user": "a:b"}, "socket_user: 'a:b' is not a user; give a name or a number"),
        ({"bind": "localhost"}, "bind: 'localhost' has no port; give host:port, [address]:port or unix:/path"),
        ({"bind": ()}, "bind: () is not an address; give host:port or unix:/path, or several of them"),
        ({"bind": (":1", 2)}, "bind: 2 is not an address; give host:port or unix:/path, or several of them"),
        ({"crash_window": 0}, "crash_window: 0 is not a number of seconds; give 1 to 2000000"),
    ],
)
def test_a_problem_names_setting_value_and_remedy(given: dict[str, Any], line: str) -> None:
    assert problem(**given) == line


def test_a_long_value_is_cut_in_its_problem() -> None:
    assert len(problem(stop="x" * 10_000)) < 120
    assert problem(
        backlog=16**5000
    ) == "backlog: a number of thousands of digits is not a length of the accept queue; " + ("give at most 2147483647")


def test_all_problems_come_together() -> None:
    lines = problems(workers=0, timeout=-1.0, bind="x", min_workers=9, max_workers=3, max_age_jitter=1.0)
    assert [line.split(":")[0] for line in lines] == [
        "bind",
        "workers",
        "timeout",
        "max_age_jitter",
    ]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"min_workers": 5, "max_workers": 3},
            "min_workers: 5 is more than max_workers (3); give 3 or less",
        ),
        ({"workers": 2, "min_workers": 3}, "min_workers: 3 is more than workers (2); give 2 or less"),
        ({"workers": 4, "max_workers": 3}, "max_workers: 3 is less than workers (4); give 4 or more"),
        (
            {"max_requests_jitter": 5},
            "max_requests_jitter: 5 is more than max_requests (0); give max_requests as well",
        ),
        (
            {"max_requests": 4, "max_requests_jitter": 5},
            "max_requests_jitter: 5 is more than max_requests (4); give 4 or less",
        ),
        ({"max_age": 1, "max_age_jitter": 1.5}, "max_age_jitter: 1.5 is more than max_age (1); give 1 or less"),
        (
            {"backoff_initial": 0.5},
            "backoff_initial: 0.5 is more than backoff_max (0.25); give 0.25 or less",
        ),
        (
            {"reuse_port": True, "bind": "unix:/run/a"},
            "reuse_port: True has no use without a TCP address in bind; leave it out",
        ),
        (
            {"fork_safety": "refuse"},
            "fork_safety: 'refuse' has no use without preload; give preload as well",
        ),
        (
            {"agent_request_time": 0.2},
            "agent_request_time: 0.2 has no use without agent_bind; give agent_bind as well",
        ),
        (
            {"scale_queue_time": 0.2, "workers": 4},
            "scale_queue_time: 0.2 has no use while the number of workers is fixed; give max_workers as well",
        ),
        (
            {"refork_after": [50, 100]},
            "refork_after: (50, 100) has no use without preload; give preload as well",
        ),
        (
            {"preload": True, "refork_after": [200], "max_requests": 100, "max_requests_jitter": 50},
            "refork_after: no worker serves 200 with max_requests (100); give 100 or less",
        ),
        (
            {"certfile": "c.pem", "bind": "seqpacket:/run/a"},
            "certfile: TLS needs a stream, and 'seqpacket:/run/a' has packets; leave one of them out",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], line: str) -> None:
    assert problem(**given) == line


@pytest.mark.parametrize(
    "given",
    [
        {"min_workers": 3, "max_workers": 3},
        {"workers": 3, "min_workers": 3},
        {"workers": 3, "max_workers": 3},
        {"max_requests": 5, "max_requests_jitter": 5},
        {"max_age": 5, "max_age_jitter": 5},
        {"backoff_initial": 0.25, "backoff_max": 0.25},
        {"certfile": "c.pem", "bind": "unix:/run/a"},
    ],
)
def test_what_just_fits_together_is_accepted(given: dict[str, Any]) -> None:
    Settings(**given)


@pytest.mark.parametrize(
    ("first", "second", "v6only"),
    [
        (":1", ":1", False),
        (":1", "1", False),
        ("0.0.0.0:1", ":1", False),
        ("127.0.0.1:1", ":1", False),
        ("[::]:1", ":1", False),
        (":1", "[::]:1", False),
        ("[::]:1", "[::1]:1", True),
        ("[::]:1", "example.org:1", False),
        ("unix:/a", "unix:/a", False),
        ("unix:/a", "seqpacket:/a", False),
        ("fd://3", "fd://3", False),
        ("systemd:", "systemd:web", False),
        ("systemd:web", "systemd:", False),
        ("systemd:web", "systemd:web", False),
    ],
)
def test_an_address_asked_for_twice_is_refused(first: str, second: str, *, v6only: bool) -> None:
    line = problem(bind=(first, second), v6only=v6only)
    assert line.startswith(f"bind: {second!r} ")
    assert first in line


@pytest.mark.parametrize(
    ("first", "second", "v6only"),
    [
        (":0", ":0", False),
        (":1", ":2", False),
        (":1", "[::]:1", True),
        (":1", "[::1]:1", False),
        (":1", "web1:1", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("unix:@a", "unix:a", False),
        ("unix:/a", "seqpacket:/b", False),
        ("unix:@a", "seqpacket:@a", False),
        ("systemd:web", "systemd:api", False),
    ],
)
def test_addresses_that_can_be_had_together_are_accepted(first: str, second: str, *, v6only: bool) -> None:
    assert len(Settings(bind=(first, second), v6only=v6only).addresses) == 2


def test_a_list_of_addresses_is_kept_as_a_tuple() -> None:
    assert Settings(bind=[":1", ":2"]).bind == (":1", ":2")  # type: ignore[arg-type]  # what TOML gives


@pytest.mark.parametrize(
    ("given", "cpus", "size"),
    [
        ({"workers": 4}, 8, (4, 4, 4)),
        ({"workers": 4, "min_workers": 1}, 8, (4, 1, 4)),
        ({"workers": 4, "max_workers": 9}, 8, (4, 4, 9)),
        ({}, 0, (1, 1, 1)),
        ({"min_workers": 3}, 2, (3, 3, 3)),
        ({"max_workers": 3}, 8, (3, 3, 3)),
        ({"min_workers": 2, "max_workers": 8}, 4, (4, 2, 8)),
    ],
)
def test_the_size_of_the_server(given: dict[str, Any], cpus: int, size: tuple[int, int, int]) -> None:
    assert Settings(**given).size(cpus) == size


@given(st.sampled_from(["auto", 1, 5]), st.integers(0, 9), st.integers(0, 9), st.integers(-1, 64))
def test_the_size_is_always_in_order(workers: Any, least: int, most: int, cpus: int) -> None:
    try:
        made = Settings(workers=workers, min_workers=least, max_workers=most)
    except SettingsError:
        return
    start, low, high = made.size(cpus)
    assert 1 <= low <= start <= high


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_workers_are_replaced_after_the_number_of_requests_and_a_part_of_the_jitter(
    least: int, jitter: int, chance: float
) -> None:
    settings = Settings(max_requests=least, max_requests_jitter=min(jitter, least))
    limit = settings.requests(chance)
    assert least <= limit <= least + settings.max_requests_jitter
    assert (limit == 0) == (least == 0)
    assert settings.requests(0.0) == least


def test_of_reports_unknown_names_with_the_rest() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.of({"worker": 2, "colour": "red", "workers": 0})
    assert raised.value.problems == (
        "worker: is not a setting; did you mean workers or min_workers?",
        "colour: is not a setting; prefork serve --help lists them all",
        'workers: 0 is not a count of processes; give 1 or more, or "auto"',
    )


def test_of_gives_what_the_caller_named() -> None:
    assert Settings.of({"workers": 3, "max_memory": "1G"}) == Settings(workers=3, max_memory=1 << 30)


def test_examine_applies_no_rule_to_what_is_known_to_be_wrong() -> None:
    values, found = settings.examine({"min_workers": 5, "max_workers": 3}, bad={"max_workers"})
    assert not found
    assert values["min_workers"] == 5


def test_a_mode_in_toml_may_be_octal() -> None:
    assert Settings(**tomllib.loads("socket_mode = 0o640")).socket_mode == 0o640
