"""Templates of the access log: gunicorn's atoms, and gunicorn's lines."""

from __future__ import annotations

import base64
import importlib
import json
import os
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from prefork.errors import SettingsError
from prefork.system.zone import find
from prefork.wsgi.access_format import ATOMS, COMBINED, MEANINGS, AccessRecord, compiled
from prefork.wsgi.options import WSGIOptions

NOW = 1795184645.678


class Answer:
    """A response that was sent."""

    def __init__(self, status: str = "200 OK", sent: int = 5, **fields: str) -> None:
        self.status, self.sent = status, sent
        self._fields = {name.replace("_", "-"): value for name, value in fields.items()}

    def field(self, name: str) -> str | None:
        return self._fields.get(name)


ENVIRON = {
    "REMOTE_ADDR": "203.0.113.7",
    "REQUEST_METHOD": "GET",
    "RAW_URI": "/a%20b?c=d",
    "REQUEST_URI": "/a%20b?c=d",
    "PATH_INFO": "/a b",
    "QUERY_STRING": "c=d",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_REFERER": "http://x/",
    "HTTP_USER_AGENT": "test/1 (a)",
    "HTTP_X_REQUEST_ID": "r-1",
    "CONTENT_TYPE": "text/css",
    "wsgi.url_scheme": "https",
}


def line(
    form: str, environ: dict[str, Any] = ENVIRON, answer: Answer | None = None, seconds: float = 1.25, **zone: Any
) -> str:
    return compiled(form)(AccessRecord(environ, answer or Answer(), seconds, NOW, zone.get("zone")))


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("%(h)s|%(l)s|%(u)s", "203.0.113.7|-|-"),
        ("%(r)s", "GET /a%20b?c=d HTTP/1.1"),
        ("%(m)s %(U)s %(q)s %(H)s", "GET /a b c=d HTTP/1.1"),
        ("%(s)s %(b)s %(B)s %(B)d", "200 5 5 5"),
        ("%(f)s %(a)s", "http://x/ test/1 (a)"),
        ("%(T)s %(M)s %(D)s %(L)s", "1 1250 1250000 1.250000"),
        ("%(D)010d|%(T)4d|%(M)-6d|", "0001250000|   1|1250  |"),
        ("%(t)s", "[20/Nov/2026:14:24:05 +0000]"),
        ("%({x-request-id}i)s %({X-Request-ID}i)s %({content-type}i)s %({x-none}i)s", "r-1 r-1 text/css -"),
        ("%({content-type}o)s %({Content-Type}o)s %({x-none}o)s", "text/plain text/plain -"),
        ("%({wsgi.url_scheme}e)s %({request_method}e)s %({NONE}e)s", "https GET -"),
        ("100%% of %(s)s", "100% of 200"),
        ("%(h)s %%(h)s", "203.0.113.7 %(h)s"),
    ],
)
def test_atoms(form: str, text: str) -> None:
    assert line(form, answer=Answer(content_type="text/plain")) == text


def test_the_process() -> None:
    assert line("%(p)s") == f"<{os.getpid()}>"


def test_every_atom_is_told_of() -> None:
    assert ATOMS.keys() == MEANINGS.keys()
    assert set(ATOMS) == set("hlutrmUqHsbBfaTDMLpQ")


def test_what_could_not_be_read() -> None:
    form = "".join(f"%({atom})s" for atom in "hlurmUqHsbfa")
    assert line(form, {}, Answer("", 0)) == "-" * 12


@pytest.mark.parametrize("atom", ["u", "m", "U", "q", "f", "a", "r", "{x-request-id}i", "{evil}e", "{evil}o"])
def test_nothing_ends_quotes_or_lines(atom: str) -> None:
    evil = 'a" 200 "\n127.0.0.1 \\ \x1b[31m\u2028'
    environ = dict.fromkeys((*ENVIRON, "REMOTE_USER", "evil"), evil)
    text = line(f'"%({atom})s"', environ, Answer(evil=evil))
    assert text.isprintable()
    assert text.isascii()
    assert text.count('"') == 2


@pytest.mark.parametrize("atom", ["u", "m", "U", "q", "f", "a", "r", "{x-request-id}i", "{evil}e", "{evil}o"])
@pytest.mark.parametrize(
    "evil", ['a" \\ \n\x1b\x7f', "\xc3\xa9", "\u2028\u20ac", "\U0001f600", "\udc80", "\\x41\\u0041"]
)
def test_a_template_of_json_gives_json(atom: str, evil: str) -> None:
    environ = dict.fromkeys((*ENVIRON, "REMOTE_USER", "evil"), evil)
    text = line(f' {{"told": "%({atom})s", "bytes": %(B)s, "at": "%(t)s"}}', environ, Answer(evil=evil))
    assert text.isascii()
    assert text.isprintable()
    assert text.count('"') == line('{"told": "%(h)s", "bytes": %(B)s, "at": "%(t)s"}').count('"')
    told = json.loads(text)
    assert told["told"] == (" ".join([evil] * 3) if atom == "r" else evil)
    assert told["bytes"] == 5


@pytest.mark.parametrize(
    ("given", "user"),
    [
        ("Basic " + base64.b64encode(b"alice:secret").decode(), "alice"),
        ("Basic !", "-"),
        ("Basic /w==", "-"),
        ("Bearer x", "-"),
    ],
)
def test_the_user_that_a_client_claims_to_be(given: str, user: str) -> None:
    assert line("%(u)s", {"HTTP_AUTHORIZATION": given}) == user


def test_the_time_of_a_zone() -> None:
    assert line("%(t)s", zone=find("Asia/Kathmandu", None)) == "[20/Nov/2026:20:09:05 +0545]"
    assert line("%(t)s") == "[20/Nov/2026:14:24:05 +0000]"


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("common", "shows nothing of a request"),
        ("%(x)s", "holds %(x), which is no atom; there are h l u t"),
        ("%(h)s %s", "holds '%s', which is no atom"),
        ("%(h)s %", "holds '%', which is no atom"),
        ("%(h) %(s)s", "holds '%(h) ', which is no atom"),
        ("%(h)d", "writes an atom in a form that it does not have"),
        ("%({a}x)s", "holds '%({a}x)s', which is no atom"),
        ("%(h)s\n", "is not a form"),
    ],
)
def test_what_is_no_template(form: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        WSGIOptions(access_log_format=form)
    assert str(caught.value).startswith("access_log_format: ")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "form",
    [
        COMBINED,
        '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %(D)s %({x-request-id}i)s',
        "%(m)s %(U)s?%(q)s %(H)s -> %(s)s in %(L)ss, %(M)sms, %(T)ss, %(B)d bytes %({content-type}o)s %(p)s",
        "remote=%({x-forwarded-for}i)s status=%(s)s took=%(D)d ref=%({Referer}i)s",
    ],
)
def test_a_line_is_what_gunicorn_writes(form: str) -> None:
    config, glogging = map(importlib.import_module, ("gunicorn.config", "gunicorn.glogging"))
    logger = glogging.Logger(config.Config())
    response = SimpleNamespace(status="200 OK", sent=5, headers=[("Content-Type", "text/plain")])
    request = SimpleNamespace(headers=[("REFERER", "http://x/"), ("X-REQUEST-ID", "r-1")])
    logger.now = lambda: "[20/Nov/2026:14:24:05 +0000]"
    atoms = logger.atoms_wrapper_class(logger.atoms(response, request, ENVIRON, timedelta(seconds=1.25)))
    assert line(form, answer=Answer(content_type="text/plain")) == form % atoms
