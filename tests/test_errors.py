import pickle

import pytest

from prefork import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.PreforkError, 1),
        (errors.SettingsError, 2),
        (errors.TargetError, 2),
        (errors.ListenError, 3),
        (errors.ListenerLostError, 3),
        (errors.BootError, 4),
    ],
)
def test_each_kind_has_its_exit_code(kind: type[errors.PreforkError], code: int) -> None:
    assert kind("why").exit_code == code
    assert issubclass(kind, errors.PreforkError)
    assert str(kind("why")) == "why"


def test_settings_error_shows_one_problem_a_line() -> None:
    error = errors.SettingsError(["workers: -1", "backlog: 0"])
    assert error.problems == ("workers: -1", "backlog: 0")
    assert str(error) == "workers: -1\nbacklog: 0"


def test_settings_error_of_a_string_is_one_problem() -> None:
    assert errors.SettingsError("workers: -1").problems == ("workers: -1",)


def test_settings_error_reads_its_problems_once() -> None:
    assert errors.SettingsError(str(n) for n in range(2)).problems == ("0", "1")


def test_settings_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.SettingsError(["a", "b"])))
    assert error.problems == ("a", "b")
    assert str(error) == "a\nb"


def test_a_word_that_is_nearly_right_is_recognised() -> None:
    known = ["workers", "max_workers", "timeout"]
    assert errors.did_you_mean("worker", known, "see --help") == "did you mean workers or max_workers?"
    assert errors.did_you_mean("colour", known, "see --help") == "see --help"
