"""What a loaded target is, as far as it shows."""

from __future__ import annotations

import functools
from typing import Any

import aiohttp.web
import django.core.handlers.asgi  # type: ignore[import-untyped]  # it has no types
import django.core.handlers.wsgi  # type: ignore[import-untyped]  # it has no types
import flask
import pytest
import tornado.web

from prefork import Worker
from prefork.config.embedding import options_of
from prefork.config.interface import interface_of, meant


def wsgi(environ: object, start_response: object) -> None: ...


def short(env: object, start_response: object) -> None: ...


def handle(connection: object, address: object) -> None: ...


def socketed(conn: object, addr: object) -> None: ...


def anything(a: object, b: object) -> None: ...


def free(*arguments: object) -> None: ...


def make() -> None: ...


def make_with(settings: str = "live") -> None: ...


async def asgi(scope: object, receive: object, send: object) -> None: ...


async def streams(reader: object, writer: object) -> None: ...


class Asgi:
    async def __call__(self, scope: object, receive: object, send: object) -> None: ...


class Wsgi:
    def __call__(self, environ: object, start_response: object) -> None: ...


class Site:
    def method(self, connection: object, address: object) -> None: ...


@pytest.mark.parametrize(
    ("found", "interface"),
    [
        (wsgi, "wsgi"),
        (short, "wsgi"),
        (Wsgi(), "wsgi"),
        (flask.Flask("shop"), "wsgi"),
        (django.core.handlers.wsgi.WSGIHandler.__new__(django.core.handlers.wsgi.WSGIHandler), "wsgi"),
        (django.core.handlers.asgi.ASGIHandler.__new__(django.core.handlers.asgi.ASGIHandler), "asgi"),
        (asgi, "asgi"),
        (Asgi(), "asgi"),
        (Asgi().__call__, "asgi"),
        (streams, "streams"),
        (handle, "handle"),
        (socketed, "handle"),
        (Site().method, "handle"),
        (make, "factory"),
        (make_with, "factory"),
        (functools.partial(wsgi, {}), "unknown"),
        (tornado.web.Application(), "tornado"),
        (anything, "unknown"),
        (free, "unknown"),
        (Worker, "worker"),
        (Worker(), "made"),
        (Wsgi, "unknown"),
        (5, "unknown"),
        (min, "unknown"),
    ],
)
def test_interfaces(found: Any, interface: str) -> None:
    assert interface_of(found) == interface


def test_an_aiohttp_application() -> None:
    assert interface_of(aiohttp.web.Application()) == "aiohttp"


def test_who_can_not_serve_it_says_who_can() -> None:
    assert meant(asgi, "shop:app", "wsgi") == "shop:app is an ASGI application; prefork asgi shop:app serves it"
    assert meant(wsgi, "shop:app", "handle") == "shop:app is a WSGI application; prefork wsgi shop:app serves it"
    assert meant(make, "shop:make", "wsgi").endswith("; give 'shop:make()'")
    assert meant(wsgi, "shop:app", "wsgi") == meant(anything, "shop:app", "wsgi") == ""


def test_options_are_read_as_what_they_are() -> None:
    assert options_of("") == {}
    assert options_of("a=1,b=2.5,c=true,d=none,e=h11,f=x=y,g='1'") == {
        "a": 1,
        "b": 2.5,
        "c": True,
        "d": None,
        "e": "h11",
        "f": "x=y",
        "g": "1",
    }
