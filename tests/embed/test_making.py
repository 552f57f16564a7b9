"""Making a Worker class of a server, and what is said when that can't be."""

from __future__ import annotations

import json
import os
import re
import socketserver
from collections.abc import Callable
from typing import Any

import pytest

from prefork import Worker, embed
from prefork.errors import TargetError
from prefork.testing import NotServingError, Outcome, burst, request
from prefork.testing.plugin import ServerFactory
from tests.support.embed.servers import EXAMPLES, SUBJECTS, Subject, each, serve, serve_app
from tests.support.programs import facts

MAKERS: list[Callable[..., type[Worker]]] = [getattr(embed, name) for name in embed.__all__ if name != "socketserver"]


def nothing(*_: object) -> None:
    """What can be called, and isn't."""


def test_every_server_of_the_tests_has_a_function_and_an_example() -> None:
    names = {subject.name for subject in SUBJECTS}
    assert names == set(embed.__all__)
    assert {path.stem.removeprefix("with_") for path in EXAMPLES.glob("with_*.py")} == names


def test_an_example_is_ten_lines_of_its_users_own_at_the_most() -> None:
    for path in EXAMPLES.glob("with_*.py"):
        assert len([line for line in path.read_text().splitlines() if line.strip()]) <= 10, path


def test_making_a_worker_imports_no_server() -> None:
    found = facts(
        """
        import json, sys
        import prefork
        before = set(sys.modules)
        from prefork import embed
        for name in embed.__all__:
            if name == "socketserver":
                embed.socketserver(__import__("socketserver").TCPServer, object)
            else:
                getattr(embed, name)("nowhere:application", **({"loop": "uvloop"} if name == "uvicorn" else {}))
        print(json.dumps(sorted({module.partition(".")[0] for module in set(sys.modules) - before})))
        """
    )
    assert not set(found) & {subject.module or subject.name for subject in SUBJECTS} - {"asyncio", "socketserver"}
    assert "uvloop" not in found


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: str(make.__name__))
def test_what_is_made_is_a_worker_class(make: Callable[..., type[Worker]]) -> None:
    made = make("application:wsgi")
    assert issubclass(made, Worker)
    assert made is not make("application:wsgi"), "two servers in one module are two classes"
    assert issubclass(make(nothing), Worker)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: str(make.__name__))
def test_what_can_not_be_served_is_said_at_once(make: Callable[..., type[Worker]]) -> None:
    with pytest.raises(TargetError, match=r"application\.py"):
        make("application.py")
    with pytest.raises(TypeError, match="int"):
        make(7)


@pytest.mark.parametrize(
    ("make", "options", "remedy"),
    [
        (embed.uvicorn, {"workers": 4}, "setting"),
        (embed.uvicorn, {"limit_max_requests": 4}, "max_requests"),
        (embed.hypercorn, {"bind": "127.0.0.1:8000"}, "bind"),
        (embed.waitress, {"port": 8000}, "setting"),
        (embed.cheroot, {"bind_addr": ("127.0.0.1", 8000)}, "setting"),
        (embed.gevent, {"spawn": 10}, "connections"),
        (embed.aiohttp, {"handle_signals": True}, "signals"),
        (embed.tornado, {"backlog": 10}, "setting"),
        (embed.asyncio, {"port": 8000}, "setting"),
        (embed.werkzeug, {"ssl_context": "adhoc"}, "proxy"),
        (embed.wsgiref, {"request_queue_size": 1}, "setting"),
    ],
)
def test_an_option_that_is_preforks_is_refused(make: Any, options: dict[str, object], remedy: str) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=f"{name}.*{remedy}"):
        make("application:wsgi", **options)


@pytest.mark.parametrize("server", [socketserver.UDPServer, socketserver.BaseServer, socketserver.ThreadingUDPServer])
def test_a_server_of_datagrams_is_refused(server: type[socketserver.BaseServer]) -> None:
    with pytest.raises(TypeError, match=server.__name__):
        embed.socketserver(server, nothing)


def fails(server: ServerFactory, target: str, code: int, **settings: object) -> str:
    """The log of a server that does not come to serve."""
    with pytest.raises(NotServingError, match=f"exit code {code}") as caught:
        serve_app(server, target, **settings)
    return str(caught.value)


def test_a_server_that_is_not_installed_is_one_line(prefork_server: ServerFactory) -> None:
    log = fails(prefork_server, "broken:without_bjoern", 2)
    assert "bjoern is not installed; pip install bjoern" in log
    assert "Traceback" not in log


def test_an_application_that_is_not_there_is_one_line(prefork_server: ServerFactory) -> None:
    log = fails(prefork_server, "broken:without_application", 2)
    assert "has no attribute 'wsg'" in log
    assert "Traceback" not in log


@each(subject for subject in SUBJECTS if subject.name == "uvicorn")
def test_an_application_that_does_not_start_up_fails_the_boot(prefork_server: ServerFactory, subject: Subject) -> None:
    log = fails(prefork_server, "broken:that_does_not_start_up", 4)
    assert "lifespan startup failed" in log


@each(subject for subject in SUBJECTS if subject.name == "hypercorn")
def test_an_application_that_hypercorn_does_not_start_up(prefork_server: ServerFactory, subject: Subject) -> None:
    assert "this one does not start up" in fails(prefork_server, "broken:that_hypercorn_does_not_start_up", 4)


@each(subject for subject in SUBJECTS if subject.name in {"bjoern", "cheroot"})
def test_a_server_of_one_address_is_given_one(prefork_server: ServerFactory, subject: Subject) -> None:
    bind = ["127.0.0.1:0", f"unix:@prefork-embed-{os.getpid()}"]
    log = fails(prefork_server, f"blocked:{subject.name}", 2, bind=bind)
    assert f"{subject.name} serves one address, and there are 2" in log


def test_streams_are_not_served_in_packets(prefork_server: ServerFactory) -> None:
    log = fails(prefork_server, "blocked:waitress", 2, bind=f"seqpacket:@prefork-embed-{os.getpid()}")
    assert "waitress serves byte streams" in log


@each(subject for subject in SUBJECTS if subject.name not in {"bjoern", "cheroot"})
def test_several_addresses(prefork_server: ServerFactory, subject: Subject) -> None:
    # waitress mixes no families, and the handlers of http.server know no AF_UNIX.
    other = (
        "127.0.0.1:0"
        if subject.name in {"waitress", "wsgiref", "socketserver"}
        else f"unix:@prefork-embed-{subject.name}-{os.getpid()}"
    )
    server = serve(prefork_server, subject, bind=["127.0.0.1:0", other])
    for address in server.addresses:
        assert burst(address, 4).wait().answered == 4
    assert server.stop() == 0


@each(subject for subject in SUBJECTS if subject.name in {"bjoern", "cheroot"})
def test_a_unix_socket(prefork_server: ServerFactory, subject: Subject) -> None:
    server = serve(prefork_server, subject, bind=f"unix:@prefork-embed-{subject.name}-{os.getpid()}")
    assert burst(server.address, 4).wait().answered == 4
    assert server.stop() == 0


def test_a_master_of_ones_own(prefork_server: ServerFactory) -> None:
    """The class may be made, and be given the application itself, where the master is."""
    server = prefork_server.script(
        """
        import logging
        import prefork
        from prefork import embed

        def application(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [str(environ["wsgi.multiprocess"]).encode()]

        logging.basicConfig(level=logging.INFO)
        prefork.Master(embed.wsgiref(application), prefork.Settings(bind="127.0.0.1:0", workers=2)).run()
        """
    )
    assert request(server.address).body == b"True"
    assert server.stop() == 0


def test_forking_servers_wait_for_their_children(prefork_server: ServerFactory) -> None:
    server = serve_app(prefork_server, "mixed:Forking")
    slow = b"GET /?wait=0.5 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    waiting = burst(server.address, 4, payload=slow)
    workers = {str(pid).encode() for pid in server.workers()}
    assert server.stop() == 0
    assert waiting.wait().answered == 4
    assert not set(waiting.tally.bodies) & workers, "the children answer"
    assert sum(map(int, re.findall(r"(\d+) connections served", server.log()))) == 4


def test_a_handler_that_fails_costs_its_connection_only(prefork_server: ServerFactory) -> None:
    server = serve_app(prefork_server, "mixed:Failing", workers=1)
    before = server.workers()
    for _ in range(3):
        assert request(server.address).data == b""
    server.wait_for_log("this one fails")
    assert server.workers() == before


def test_a_connection_that_a_server_does_not_want_is_closed_at_once(prefork_server: ServerFactory) -> None:
    server = serve_app(prefork_server, "mixed:Choosing", workers=1)
    before = server.workers()
    for _ in range(2):
        assert request(server.address, timeout=10).outcome in {Outcome.EMPTY, Outcome.RESET}
    assert server.workers() == before


def test_a_conversation_that_fails_is_logged(prefork_server: ServerFactory) -> None:
    server = serve_app(prefork_server, "mixed:Talking", workers=1)
    before = server.workers()
    assert request(server.address).data == b""
    server.wait_for_log(r"the handler failed on a connection from \('127.0.0.1'")
    server.wait_for_log("ValueError: this one fails")
    assert server.workers() == before


OPTIONS = {
    "aiohttp": ["access_log", "shutdown_timeout", "keepalive_timeout", "ssl_context", "loop", "max_line_size"],
    "asyncio": ["limit", "ssl", "ssl_handshake_timeout", "loop"],
    "cheroot": ["numthreads", "ssl_adapter", "server_name", "timeout"],
    "gevent": ["connections", "patch", "log", "handler_class", "certfile", "keyfile", "environ", "error_log"],
    "hypercorn": ["mode", "loop", "certfile", "keep_alive_timeout", "errorlog", "websocket_max_message_size"],
    "tornado": ["ssl_options", "xheaders", "max_buffer_size", "loop"],
    "uvicorn": ["loop", "http", "lifespan", "access_log", "ssl_certfile", "log_config", "interface", "server_header"],
    "waitress": ["threads", "clear_untrusted_proxy_headers", "asyncore_use_poll", "channel_timeout"],
    "werkzeug": ["threaded", "processes", "request_handler"],
    "wsgiref": ["handler_class"],
}


def test_a_server_is_given_only_options_that_it_has() -> None:
    """A misspelt one ended in a traceback, or did nothing, or, with gevent, broke every connection."""
    program = """
        import json, sys
        from prefork import Settings, SettingsError, TargetError, embed

        said = {}
        for server, options in json.loads(sys.argv[1]).items():
            for option in options:
                worker = getattr(embed, server)("os:getcwd", **{option: "asyncio" if option == "loop" else None})()
                try:
                    worker.__prefork_check__(Settings())
                except TargetError:  # it is not installed
                    break
                except SettingsError as error:
                    said[f"{server} {option}"] = str(error)
        print(json.dumps(said))
    """
    assert facts(program, json.dumps(OPTIONS)) == {}
    strange = facts(program, json.dumps({server: ["nosuch"] for server in OPTIONS}))
    assert all(
        line.endswith(f"nosuch is no option of {name.split()[0]}'s; leave it out") for name, line in strange.items()
    )
    assert {"asyncio nosuch", "uvicorn nosuch", "wsgiref nosuch"} <= strange.keys()
    (line,) = facts(program, json.dumps({"uvicorn": ["limit_concurency"]})).values()
    assert line.endswith("did you mean limit_concurrency?")


REFUSED: dict[str, dict[str, tuple[object, str]]] = {
    "uvicorn": {
        "limit_concurrency": ("abc", "a number"),
        "timeout_keep_alive": (True, "a number"),
        "h11_max_incomplete_event_size": ("x", "a number"),
        "root_path": (3, "a text"),
        "lifespan": ("xx", "auto or on or off"),
        "headers": (1, "it in a program of your own"),
        "server_header": ("maybe", "true or false"),
    },
    "hypercorn": {
        "keep_alive_timeout": ("abc", "a number"),
        "h11_max_incomplete_size": ("foo", "a number"),
        "loglevel": (7, "a text"),
        "alpn_protocols": ("h2", "it in a program of your own"),
    },
    "aiohttp": {"keepalive_timeout": ("x", "a number"), "auto_decompress": ("x", "true or false")},
    "tornado": {"max_body_size": ("1M", "a number"), "xheaders": ("no", "true or false")},
    "cheroot": {"numthreads": ("abc", "a number"), "timeout": ("zz", "a number"), "peercreds_enabled": (5, "true or")},
    "gevent": {"connections": ("x", "a number"), "error_log": ("file", "default"), "handler_class": (3, "it in a")},
    "asyncio": {"limit": ("x", "a number")},
    "werkzeug": {"processes": ("x", "a number"), "threaded": ("x", "true or false")},
    "wsgiref": {"handler_class": (3, "it in a program"), "handle_error": ("x", "it in a program")},
}
TAKEN: dict[str, dict[str, object]] = {
    "uvicorn": {
        "limit_concurrency": 100,
        "timeout_keep_alive": 7.5,
        "root_path": "/a",
        "log_level": "debug",
        "server_header": 0,
        "http": "h11",
        "log_config": None,
        "ws_ping_interval": 3,
        "ssl_certfile": "x.pem",
    },
    "hypercorn": {"keep_alive_timeout": 2.5, "loglevel": "DEBUG", "accesslog": "-", "server_names": ["a"]},
    "aiohttp": {"keepalive_timeout": 3, "access_log": None, "access_log_format": "%a"},
    "tornado": {"max_body_size": 10, "xheaders": True, "idle_connection_timeout": 3},
    "cheroot": {"numthreads": 3, "timeout": 0.5, "server_name": "a"},
    "waitress": {"threads": 3, "expose_tracebacks": "yes", "ident": 3, "trusted_proxy_headers": "x-forwarded-for"},
    "gevent": {"connections": 3, "log": "default", "environ": {}, "certfile": "x"},
    "werkzeug": {"processes": 3, "threaded": True},
}


def test_a_value_of_another_kind_is_one_line() -> None:
    """One ended in a traceback of the server's, or let it serve and fail with every request."""
    program = """
        import json, sys
        from prefork import Settings, SettingsError, TargetError, embed

        said = {}
        for server, options in json.loads(sys.argv[1]).items():
            for name, (value, wanted) in options.items():
                option = name.strip()
                worker = getattr(embed, server)("os:getcwd", **{option: value})()
                try:
                    worker.__prefork_check__(Settings())
                    heard = "taken"
                except TargetError:  # it is not installed
                    break
                except SettingsError as error:
                    heard = str(error)
                line = f"worker_options: {option} of {server}'s can't be {value!r}; give {wanted}"
                if not heard.startswith(line if wanted else "taken"):
                    said[f"{server} {option}"] = heard
        print(json.dumps(said))
    """
    tried: dict[str, dict[str, tuple[object, str]]] = {server: dict(options) for server, options in REFUSED.items()}
    for server, options in TAKEN.items():
        tried.setdefault(server, {}).update({f"{name} ": (value, "") for name, value in options.items()})
    assert facts(program, json.dumps(tried)) == {}
