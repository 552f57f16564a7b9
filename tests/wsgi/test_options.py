from __future__ import annotations

from typing import Any

import pytest

from prefork.config.settings import by_name
from prefork.errors import SettingsError
from prefork.wsgi.options import GROUPS, WSGIOptions, fields


def test_defaults_are_good() -> None:
    options = WSGIOptions()
    for field in fields():
        assert getattr(options, field.name) == field.default


def test_no_option_hides_a_setting() -> None:
    assert not {field.name for field in fields()} & set(by_name())


def test_each_option_is_described() -> None:
    for field in fields():
        assert field.group in GROUPS
        assert field.help.endswith(".")
        assert field.check(field.parse(field.kind.show(field.default))) == field.default


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"limit_request_line": 7}, "limit_request_line: 7 is not a length of the request line; give 16 or more"),
        ({"limit_request_fields": True}, "limit_request_fields: True is not"),
        ({"limit_request_field_size": -1}, "limit_request_field_size: -1 is not"),
        ({"limit_request_body": "1X"}, "limit_request_body: '1X' is not a size"),
        ({"header_timeout": float("nan")}, "header_timeout: nan is not"),
        ({"min_rate": -1}, "min_rate: -1 is not"),
        ({"spool": "some"}, "spool: 'some' is not known; give chunked, all or none"),
        ({"forwarded_allow_ips": "localhost"}, "forwarded_allow_ips: 'localhost' holds 'localhost', which is no"),
        ({"forwarded_allow_ips": 5}, "forwarded_allow_ips: 5 is not a list of addresses"),
        ({"script_name": "shop"}, "script_name: 'shop' is not a path"),
        ({"script_name": "/shop/"}, "script_name: '/shop/' is not a path"),
        ({"access_log_format": "common"}, "access_log_format: 'common' shows nothing of a request"),
    ],
)
def test_problems(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        WSGIOptions(**given)
    assert str(caught.value).startswith(problem)
    assert len(caught.value.problems) == 1


def test_all_problems_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        WSGIOptions(limit_request_line=7, min_rate=-1, spool="x")  # type: ignore[arg-type]  # that is the point
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["limit_request_line", "min_rate", "spool"]


def test_texts_as_a_configuration_gives_them() -> None:
    options = WSGIOptions(limit_request_body="2M", spool="ALL")  # type: ignore[arg-type]  # both are taken as text
    assert (options.limit_request_body, options.spool) == (2 << 20, "all")


def test_the_longest_head() -> None:
    options = WSGIOptions(limit_request_line=100, limit_request_fields=2, limit_request_field_size=50)
    head = b"a" * 100 + b"\r\n" + (b"a" * 50 + b"\r\n") * 2 + b"\r\n"
    assert options.limit_head == len(head)


def test_0_is_no_limit_as_it_is_to_gunicorn() -> None:
    options = WSGIOptions(limit_request_line=0, limit_request_fields=0, limit_request_field_size=0)
    assert options.limit_request_line == options.limit_request_field_size == 16 << 20
    assert options.limit_request_fields == 100_000
    assert 16 << 20 < options.limit_head < 33 << 20
