"""Thirty configurations as people write them for gunicorn, and what each becomes; some are served.

Which settings they have is what public ones have; the configurations themselves are made up.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prefork._version import __version__
from prefork.cli.main import main
from prefork.errors import SettingsError
from prefork.migration.gunicorn import retell, target_of
from prefork.migration.gunicorn_values import address
from prefork.migration.retelling import Retelling
from prefork.testing import request, running

SYNC = {"workers": 1}
LOCAL = {"log_timezone": "local"}
PROXIES = "forwarded_allow_ips = '127.0.0.1,::1' (gunicorn's default): from these REMOTE_ADDR is the address in X-For"
V2 = {"proxy_protocol": "v2"}


class Case(NamedTuple):
    """One configuration.

    Attributes:
        file: What gunicorn.conf.py says; "" for none.
        line: The command line.
        environ: The environment.
        values: What the settings of ours are, all of them.
        remarks: How each line begins that is said of what has no equal; "!" before those that behave otherwise.
        command: Who serves it.
    """

    file: str
    line: str
    values: Mapping[str, object]
    remarks: tuple[str, ...] = ()
    environ: Mapping[str, str] = {}
    command: str = "wsgi"


CASES = {
    "nothing but the application": Case("", "shop:app", SYNC),
    "variables that are not set": Case(
        "import os\npidfile = os.environ.get('NO_SUCH_FILE')\npreload_app = None", "shop:app", SYNC
    ),
    "quick start": Case("", "-w 4 -b 0.0.0.0:8000 shop:app", {"workers": 4, "bind": "0.0.0.0:8000"}),
    "behind HAProxy": Case(
        "proxy_allow_ips = '10.0.0.0/8'",
        "--proxy-protocol v2 shop:app",
        {**SYNC, **V2, "proxy_allow_ips": "10.0.0.0/8"},
    ),
    "behind HAProxy, as it was said before there were versions": Case(
        "proxy_protocol = True", "shop:app", {**SYNC, "proxy_protocol": "any"}
    ),
    "a host without a port": Case("", "--bind localhost shop:app", {**SYNC, "bind": "localhost:8000"}),
    "a socket for nginx": Case(
        "", "-b unix:/run/shop.sock shop.wsgi", {**SYNC, "bind": "unix:/run/shop.sock", "socket_mode": 0o777}
    ),
    "a socket for nginx's group": Case(
        "", "-b unix:///run/shop.sock -m 007 shop.wsgi", {**SYNC, "bind": "unix:/run/shop.sock", "socket_mode": 0o770}
    ),
    "Heroku": Case(
        "",
        "shop:app --log-file -",
        {"workers": 3, "bind": "0.0.0.0:5000", "log_file": ""},
        environ={"PORT": "5000", "WEB_CONCURRENCY": "3"},
    ),
    "arguments in the environment": Case(
        "workers = 2\ntimeout = 60",
        "shop:app --timeout 90",
        {"workers": 5, "timeout": 90, "bind": "[::1]:9000"},
        environ={"GUNICORN_CMD_ARGS": "--bind=[::1]:9000 --workers=5"},
    ),
    "computed workers": Case(
        "import multiprocessing\nbind = '127.0.0.1:8000'\nworkers = multiprocessing.cpu_count() * 0 + 9",
        "shop:app",
        {"workers": 9, "bind": "127.0.0.1:8000"},
    ),
    "threads": Case(
        "bind = '0.0.0.0:8080'\nworkers = 2\nworker_class = 'gthread'\nthreads = 4\ntimeout = 120\nkeepalive = 5",
        "shop:app",
        {"bind": "0.0.0.0:8080", "workers": 2, "threads": 4, "timeout": 120, "keepalive": 5},
        ("! timeout = 120 (gunicorn.conf.py): gthread lets a request take longer; here that is",),
    ),
    "threads with the default worker": Case(
        "threads = 4",
        "shop:app",
        {**SYNC, "threads": 4},
        ("! timeout = 30 (gunicorn's default): gthread lets a req",),
    ),
    "whole numbers of a command line": Case("", "-w 010 --timeout 08 shop:app", {"workers": 10, "timeout": 8}),
    "a mask of a file's": Case(
        "bind = 'unix:/run/a'\numask = 0o27", "shop:app", {**SYNC, "bind": "unix:/run/a", "socket_mode": 0o750}
    ),
    "proxies that are none": Case("forwarded_allow_ips = None", "shop:app", {**SYNC, "forwarded_allow_ips": ""}),
    "threads without a limit": Case("threads = 4\ntimeout = 0", "shop:app", {**SYNC, "timeout": 0, "threads": 4}),
    "one thread": Case(
        "",
        "--threads 1 -k gthread shop:app",
        SYNC,
        ("worker_class = 'gthread' (--worker-class): with", "! timeout = 30 (gunicorn's default): gthread lets a req"),
    ),
    "a port of each worker's, which a path can't be": Case(
        "bind = 'unix:/run/a'\nreuse_port = True\nkeyfile = 'a.key'",
        "shop:app",
        {**SYNC, "bind": "unix:/run/a", "socket_mode": 0o777},
        ("reuse_port = True (gunicorn.conf.py): it has no effect", "keyfile = 'a.key' (gunicorn.conf.py): it has no"),
    ),
    "recycling of a server that keeps connections": Case(
        "worker_class = 'gevent'\nmax_requests = 1000\nkeepalive = 5",
        "shop:app",
        {**SYNC, "worker_class": "gevent", "max_requests": 1000},
        (
            "! keepalive = 5 (gunicorn.conf.py): gevent keeps connections as long as it likes",
            "! max_requests = 1000 (gunicorn.conf.py): with gevent it counts connections",
        ),
    ),
    "recycling": Case(
        "max_requests = 1000\nmax_requests_jitter = 50\npreload_app = True\ngraceful_timeout = 45",
        "shop:app",
        {**SYNC, "max_requests": 1000, "max_requests_jitter": 50, "preload": True, "graceful_timeout": 45},
    ),
    "jitter of nothing": Case("max_requests_jitter = 50", "shop:app", SYNC),
    "more jitter than requests": Case(
        "max_requests = 10\nmax_requests_jitter = 50",
        "shop:app",
        {**SYNC, "max_requests": 10, "max_requests_jitter": 10},
        ("max_requests_jitter = 50 (gunicorn.conf.py): more than max_requests, so it is 10",),
    ),
    "logs in a container": Case(
        "accesslog = '-'\nerrorlog = '-'\nloglevel = 'WARN'\ncapture_output = True\nworker_tmp_dir = '/dev/shm'\n"
        "access_log_format = '%(h)s %(D)s'",
        "shop:app",
        {**SYNC, "access_log": "-", "access_log_format": "%(h)s %(D)s", "log_file": "", "log_level": "warning"},
        (
            "worker_tmp_dir = '/dev/shm' (gunicorn.conf.py): there is no heartbeat",
            "capture_output = True (gunicorn.conf",
        ),
    ),
    "logs in files": Case(
        "accesslog = 'logs/access.log'\nerrorlog = 'logs/error.log'\nloglevel = 'debug'",
        "shop:app",
        {**SYNC, "access_log": "logs/access.log", "log_file": "logs/error.log", "log_level": "debug"},
        ("! errorlog = 'logs/error.log' (gunicorn.conf.py): what the application writes to wsgi.errors",),
    ),
    "a file for all that is said": Case(
        "errorlog = 'error.log'\ncapture_output = True",
        "shop:app",
        {**SYNC, "log_file": "error.log"},
        (
            "! errorlog = 'error.log' (gunicorn.conf.py): what the application writes to wsgi.errors",
            "! capture_output = True (gunicorn.conf.py): what the application prints",
        ),
    ),
    "a log that is a stream": Case(
        "errorlog = '/dev/stdout'\ncapture_output = True",
        "shop:app",
        {**SYNC, "log_file": "/dev/stdout"},
        ("capture_output = True (gunicorn.conf.py): what the application prints",),
    ),
    "a log of one's own": Case(
        "logconfig_dict = {'version': 1}\nlogger_class = 'shop.logs.Quiet'\nstatsd_host = 'localhost:8125'\n"
        "statsd_prefix = 'shop'",
        "shop:app",
        {**SYNC, "statsd_host": "localhost:8125", "statsd_prefix": "shop.gunicorn", "access_log": "logger"},
        ("! logger_class = 'shop.logs.Quiet' (gu",),
    ),
    "syslog, and loggers of a file": Case(
        "syslog = True\nlogconfig = 'logging.ini'\nproc_name = 'a:b'\nsyslog_facility = 'daemon'",
        "shop:app",
        {
            **SYNC,
            "name": "a:b",
            "syslog": True,
            "syslog_addr": "udp://localhost:514",
            "syslog_prefix": "gunicorn.a.b",
            "syslog_facility": "daemon",
            "access_log": "logger",
            "logconfig": "logging.ini",
        },
        ("! syslog = True (gunicorn.conf.py): what the server says is of the program gunicorn.a.b, where",),
    ),
    "loggers of a file, and requests elsewhere": Case(
        "logconfig = 'logging.ini'\naccesslog = 'access.log'",
        "shop:app",
        {**SYNC, "access_log": "access.log", "logconfig": "logging.ini"},
        ("! logconfig = 'logging.ini' (gunicorn.conf.py): requests go to accesslog alone",),
    ),
    "loggers without one of requests": Case(
        "logconfig_dict = {'loggers': {}}\naccesslog = '-'\nlogconfig = 'logging.ini'",
        "shop:app",
        {**SYNC, "access_log": "-"},
    ),
    "a level that there is not": Case(
        "loglevel = 'trace'",
        "shop:app",
        {**SYNC, "log_level": "info"},
        ("loglevel = 'trace' (gunicorn.conf.py): there is no such level, so it is info",),
    ),
    "an empty log configuration": Case("logconfig_dict = {}\nlogconfig = None", "shop:app", SYNC),
    "the service of a distribution": Case(
        "daemon = True\npidfile = 'shop.pid'\nproc_name = 'shop'\nchdir = '/srv'\nraw_env = ['STAGE=live', 'A=b=c']",
        "shop:app",
        {**SYNC, "pidfile": "shop.pid", "name": "shop", "chdir": "/srv"},
        ("! daemon = True (gunicorn.conf.py): it stays in the foreground",),
    ),
    "uvicorn": Case(
        "worker_class = 'uvicorn.workers.UvicornWorker'\nworkers = 2\nkeepalive = 120\nforwarded_allow_ips = '*'",
        "shop:app",
        {"workers": 2, "keepalive": 120, "forwarded_allow_ips": "*"},
        command="asgi",
    ),
    "uvicorn with h11 and a path": Case(
        "worker_class = 'uvicorn_worker.UvicornH11Worker'\nroot_path = '/shop'\nlimit_request_line = 4094\n"
        "asgi_lifespan = 'off'",
        "shop:app",
        {**SYNC, "worker_options": "http=h11", "script_name": "/shop", "lifespan": "off"},
        ("! limit_request_line = 4094 (gunicorn.conf.py): uvicorn reads requests",),
        command="asgi",
    ),
    "a worker class in the file": Case(
        """
        class UvicornWorker:
            __module__, __qualname__ = "uvicorn_worker", "UvicornWorker"
        class Mine(UvicornWorker):
            CONFIG_KWARGS = {"loop": "asyncio", "server_header": False, "headers": [("a", "b")]}
        worker_class = Mine
        """,
        "shop:app",
        {**SYNC, "loop": "asyncio", "worker_options": "server_header=False"},
        ("! headers of the worker class (gunicorn.conf.py): it can't be said in worker_options",),
        command="asgi",
    ),
    "gunicorn's own ASGI worker": Case(
        "worker_class = 'asgi'\nasgi_loop = 'uvloop'", "shop:app", {**SYNC, "loop": "uvloop"}, command="asgi"
    ),
    "gevent": Case(
        "worker_class = 'gevent'\nworker_connections = 200\npreload_app = True\naccesslog = '-'",
        "shop:app",
        {**SYNC, "worker_class": "gevent", "worker_options": "connections=200", "access_log": "-"},
        ("! preload_app = True (gunicorn.conf.py): each worker loads the application, after gevent",),
    ),
    "tornado": Case(
        "worker_class = 'tornado'\naccesslog = '-'",
        "shop:app",
        {**SYNC, "worker_class": "tornado", "timeout": 30},
        ("! access_log = '-' (gunicorn.conf.py): tornado reads requests and answers them by itself",),
        command="serve",
    ),
    "aiohttp": Case(
        "worker_class = 'aiohttp.worker.GunicornUVLoopWebWorker'",
        "shop:app",
        {**SYNC, "worker_class": "aiohttp", "worker_options": "loop=uvloop", "timeout": 30},
        command="serve",
    ),
    "TLS": Case(
        "certfile = 'a.pem'\nkeyfile = 'a.key'\nca_certs = 'ca.pem'\ncert_reqs = 2\nciphers = 'HIGH'",
        "shop:app",
        {**SYNC, "certfile": "a.pem", "keyfile": "a.key", "ca_certs": "ca.pem"},
        ("! ciphers = 'HIGH' (gunicorn.conf.py): they are",),
    ),
    "authorities whom nobody asks": Case(
        "certfile = 'a.pem'\nca_certs = 'ca.pem'",
        "shop:app",
        {**SYNC, "certfile": "a.pem"},
        ("ca_certs = 'ca.pem' (gunicorn.conf.py): with cert_reqs = 0 it has no effect",),
    ),
    "limits": Case(
        "limit_request_line = 0\nlimit_request_fields = 50\nlimit_request_field_size = 0",
        "shop:app",
        {**SYNC, "limit_request_line": 0, "limit_request_fields": 50, "limit_request_field_size": 0},
    ),
    "proxies": Case(
        "forwarded_allow_ips = '10.0.0.1, 10.0.0.2'\nsecure_scheme_headers = {'X-FORWARDED-PROTO': 'https'}",
        "shop:app",
        {**SYNC, "forwarded_allow_ips": "10.0.0.1,10.0.0.2"},
        ("forwarded_allow_ips = '10.0.0.1,10.0.0.2' (gunicorn.conf.py): from these REMOTE_ADDR is the address in",),
    ),
    "no scheme of a proxy's": Case(
        "secure_scheme_headers = {}",
        "shop:app",
        SYNC,
        ("! secure_scheme_headers = {} (gunicorn.conf.py): X-Forwarded-Proto of a trusted proxy is what is believed",),
    ),
    "a scheme header of one's own": Case(
        "secure_scheme_headers = {'CloudFront-Forwarded-Proto': 'https'}\nheader_map = 'dangerous'",
        "shop:app",
        {**SYNC, "forwarded_allow_ips": "*", "script_name": "/shop"},
        (
            "! secure_scheme_headers = {'CloudFr",
            "! header_map = 'dangerous' (gunicorn.conf.py): fields with",
            "! forwarded_allow_ips = '*' (FORWARDED_ALLOW_IPS): from these REMOTE_ADDR is the address in X-Forw",
        ),
        environ={"FORWARDED_ALLOW_IPS": "*", "SCRIPT_NAME": "/shop/"},
    ),
    "development": Case(
        "reload = True\nreload_extra_files = ['a.html']\nspew = False\nreload_engine = 'poll'",
        "shop:app",
        {**SYNC, "reload": True},
        ("reload_engine = 'poll'", "! reload_extra_files = ['a.html'] (gunicorn.conf.py): only Python"),
    ),
    "hooks that nobody calls": Case(
        "def pre_request(worker, req): ...\ndef worker_int(worker): ...\ndef when_ready(server): ...",
        "shop:app",
        SYNC,
        (
            "! worker_int (gunicorn.conf.py): SIGINT",
            "! pre_request (gunicorn.conf.py): a WSGI middleware",
            "! when_ready (gunicorn.conf.py): it is called when the first workers serve",
        ),
    ),
    "a hook as somebody else": Case(
        "user = 'nobody'\ndef post_fork(server, worker): ...",
        "shop:app",
        {**SYNC, "user": "nobody"},
        ("! post_fork (gunicorn.conf.py): it is called as the user of the workers",),
    ),
    "a path for another kind of worker": Case(
        "root_path = '/shop'",
        "shop:app",
        SYNC,
        ("root_path = '/shop' (gunicorn.conf.py): it is for ASGI workers alone, so it is left out",),
    ),
    "what is gunicorn 25's and later": Case(
        "http_protocols = 'h2,h1'\ndirty_apps = ['a:b']\ncontrol_socket_disable = True\nhttp_parser = 'fast'",
        "shop:app",
        {**SYNC, "control": "off"},
        ("http_parser = 'fast'", "! http_protocols = 'h2,h1'", "! dirty_apps = ['a:b']"),
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to stand in; the import path is as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "SCRIPT_NAME", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path  # type: ignore[return-value]  # a fixture need not yield


def retold(line: str, file: str = "", environ: Mapping[str, str] | None = None) -> Retelling:
    if file:
        Path("gunicorn.conf.py").write_text(textwrap.dedent(file), encoding="utf-8")
    return retell(line.split(), environ or {})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_configuration_is_retold(case: Case, folder: Path) -> None:
    found = retold(case.line, case.file, case.environ)
    assert {name: value for name, (value, _) in found.values.items()} == {**LOCAL, **case.values}
    said = [f"{'! ' if remark.differs else ''}{remark.text}" for remark in found.remarks]
    usual = case.command == "wsgi" and not {"forwarded_allow_ips"} & set(case.values)
    assert sum(text.startswith(PROXIES) for text in said) == usual
    said = [text for text in said if not text.startswith(PROXIES)]
    read = [text for text in said if "does not read it anew" in text]
    assert len(read) == bool(case.file)
    said = [text for text in said if text not in read]
    assert len(said) == len(case.remarks), said
    for text, beginning in zip(said, case.remarks, strict=True):
        assert text.startswith(beginning)
    assert found.command == case.command


def test_what_proxies_say_is_told_whole(folder: Path) -> None:
    def told(file: str) -> str:
        return next(one.text for one in retold("shop:app", file).remarks if one.text.startswith("forwarded_allow_ips"))

    assert told("").endswith("where gunicorn leaves the proxy's")
    assert told("forwarded_allow_ips = '10.0.0.1'").endswith("reach the application unless PREFORK_FORWARDED=keep")
    assert told("forwarded_allow_ips = '*'").endswith("so name the proxies, or private")


@pytest.mark.parametrize(("logger", "told"), [("gunicorn.access", "logger"), ("gunicorn.error", None)])
def test_requests_are_logged_where_a_file_says_so(logger: str, told: str | None, folder: Path) -> None:
    (folder / "srv").mkdir()
    (folder / "srv" / "logging.ini").write_text(f"[logger_it]\nqualname = {logger}\n")
    found = retold("shop:app", "logconfig = 'logging.ini'\nchdir = 'srv'")
    assert found.values.get("access_log", (None,))[0] == told


def test_a_dictionary_for_logging_stands_over_gunicorn_s_own(folder: Path) -> None:
    found = retold("shop:app", "logconfig_dict = {'loggers': {'a': {}}, 'version': 1}").logging
    assert found is not None
    assert (found["loggers"], sorted(found["handlers"])) == ({"a": {}}, ["console", "error_console"])
    assert retold("shop:app", "logconfig_dict = {}").logging is None


def test_a_file_of_json_stands_over_gunicorn_s_own(folder: Path) -> None:
    (folder / "log.json").write_text('{"loggers": {"gunicorn.access": {"handlers": ["console"]}}}')
    found = retold("shop:app --log-config-json log.json --log-config log.ini --access-logfile -")
    assert found.logging is not None
    assert found.logging["loggers"] == {"gunicorn.access": {"handlers": ["console"]}}
    assert sorted(found.logging["handlers"]) == ["console", "error_console"]
    assert {name: value for name, (value, _) in found.values.items()} == {**LOCAL, **SYNC, "access_log": "logger"}
    assert "with gunicorn's own root, handlers, formatters beside it" in found.remarks[0].text
    (folder / "log.json").write_text('{"root": {}, "loggers": {}, "handlers": {}, "formatters": {}}')
    assert retold("shop:app --log-config-json log.json").values["logconfig"].value == "log.json"


@pytest.mark.parametrize(
    ("line", "file", "name"),
    [
        ("shop.wsgi:app", "", "gunicorn.shop.wsgi.app"),
        ("shop:app -n name", "", "gunicorn.name"),
        ("shop:app -n name --log-syslog-prefix mine", "", "gunicorn.mine"),
        ("shop:make()", "", "gunicorn.shop.make()"),
        ("", "wsgi_app = 'shop:app'", "gunicorn.gunicorn"),
    ],
)
def test_a_server_has_gunicorn_s_name_for_it_in_syslog(line: str, file: str, name: str, folder: Path) -> None:
    found = retold(f"{line} --log-syslog --check-config", file)
    assert found.values["syslog_prefix"].value == name
    assert not any("default_proc_name" in remark.text for remark in found.remarks)


def test_each_value_has_its_origin(folder: Path) -> None:
    found = retold("shop:app --timeout 5", "keepalive = 3", {"GUNICORN_CMD_ARGS": "-w 2", "PORT": "80"})
    assert {name: origin for name, (_, origin) in found.values.items()} == {
        "log_timezone": "gunicorn's default",
        "timeout": "--timeout",
        "keepalive": "gunicorn.conf.py",
        "workers": "GUNICORN_CMD_ARGS",
        "bind": "PORT",
    }


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("", "shop:app --wokers 3", "'--wokers' is not a flag of gunicorn's; did you mean --workers or"),
        ("", "shop:app --min-workers=3", "'--min-workers' is not a flag of gunicorn's; "),
        ("", "shop:app more", "'more' is one argument too many beside 'shop:app'; give one target"),
        ("workers = 'many'", "shop:app", "workers: 'many' is not a whole number; give one (from gunicorn.conf.py)"),
        ("workers = None", "shop:app", "workers: None is no value of it; leave it out (from gunicorn.conf.py)"),
        ("umask = '027'", "shop:app", "umask: '027' is not a whole number; give 0o27, without quotes (from gun"),
        ("preload_app = 1", "shop:app", "preload_app: 1 is neither True nor False; give one (from gunicorn.conf.py)"),
        ("workers = -1", "shop:app -w 2", "workers: -1 is out of range; give 0 or more (from gunicorn.conf.py)"),
        ("", "shop:app -w 0x4", "workers: '0x4' is not a whole number; give one (from --workers)"),
        ("proxy_allow_ips = ['::1']", "shop:app", "proxy_allow_ips: ['::1'] is not a text; give one (from gunicorn"),
        ("def on_exit(): ...", "shop:app", "on_exit: on_exit takes 0 arguments; gunicorn gives it 1 (from gunic"),
        ("post_fork = 'os.nosuch'", "shop:app", "post_fork: 'os.nosuch' is not to be had (AttributeError: module"),
        (
            "",
            "shop:app -k eventlet",
            "worker_class = 'eventlet' (--worker-class): there is no such worker here; give sync",
        ),
        ("", "shop:app --paste a.ini", "paste = 'a.ini' (--paster): give a factory"),
        ("protocol = 'uwsgi'", "shop:app", "protocol = 'uwsgi' (gunicorn.conf.py): HTTP/1.1 is spoken; have nginx use"),
        ("raw_env = ['STAGE']", "shop:app", "raw_env = ['STAGE'] (gunicorn.conf.py): 'STAGE' sets no variable"),
        ("\nworkers = nproc", "shop:app", "config: gunicorn.conf.py:2: NameError: name 'nproc' is not defined"),
        ("workers = = 3", "shop:app", "config: gunicorn.conf.py:1: SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "shop:app", "config: gunicorn.conf.py:1: SystemExit: 3"),
        ("", "shop:app -c other.py", "config: 'other.py' can't be read: No such file or directory"),
        ("", "shop:make('x')", "\"shop:make('x')\": a factory is called without arguments"),
    ],
)
def test_what_can_not_be_served_is_one_exact_line(folder: Path, file: str, line: str, told: str) -> None:
    with pytest.raises(SettingsError) as raised:
        retold(line, file)
    (problem,) = raised.value.problems
    assert problem.startswith(told)


def test_the_target_may_stand_in_the_file(folder: Path) -> None:
    assert retold("", "wsgi_app = 'shop.wsgi'").target == "shop.wsgi:application"
    assert retold("").target is not None
    assert target_of("shop:make()") == "shop:make()"


def test_the_file_may_import_what_lies_beside_it(folder: Path) -> None:
    (folder / "sizes_of_shop.py").write_text("MANY = 7\n")
    assert retold("shop:app", "import sizes_of_shop\nworkers = sizes_of_shop.MANY").values["workers"].value == 7
    assert retold("shop:app -c python:sizes_of_shop", "workers = 3").values["workers"].value == 1


def test_the_file_is_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__config__", sys)  # so that it is as before afterwards
    file = """
        from __future__ import annotations
        import sys
        from dataclasses import dataclass

        @dataclass
        class Sizes:
            many: int = 7

        workers = Sizes().many if sys.modules[__name__].Sizes is Sizes else 0
        """
    assert retold("shop:app", file).values["workers"].value == 7


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("tcp://0.0.0.0:80", "0.0.0.0:80"),
        ("", ":8000"),
        (":80", ":80"),
        ("[::]", "[::]:8000"),
        ("[::1]:80", "[::1]:80"),
        ("unix:a.sock", "unix:a.sock"),
        ("unix://a.sock", "unix:a.sock"),
        ("fd://3", "fd://3"),
    ],
)
def test_addresses(text: str, ours: str) -> None:
    assert address(text) == ours


class Thing:
    """Has what hooks are given, as far as these ask."""

    roster: tuple[object, ...] = ()
    pid = 7


class Worker:
    """Has what a worker's are given, as far as these ask."""

    __slots__ = ("left",)
    pid = 8
    stopping = False
    wsgi = "application"

    def recycle(self) -> None:
        self.left = True


def test_hooks_are_given_what_gunicorn_gives(folder: Path) -> None:
    found = retold(
        "shop:app -w 3",
        """
        seen = []
        def child_exit(server, worker):
            seen.append((server.cfg.workers, worker.cfg.timeout, worker.pid, server.WORKERS, server.num_workers))
            worker.mine = 5
            seen.append(worker.mine)
            seen.append((server.address, server.timeout, worker.timeout, worker.app.callable, worker.app.wsgi()))
            worker.alive = False
            seen.append(worker.alive)
        """,
    )
    hook: Any = found.hooks["child_exit"]
    worker = Worker()
    hook(Thing(), worker)
    assert worker.left
    assert hook.__wrapped__.__globals__["seen"] == [
        (3, 30, 8, {}, 0),
        5,
        ([("127.0.0.1", 8000)], 30, 15.0, "application", "application"),
        True,
    ]


APPLICATION = """
import os
def application(environ, start_response):
    body = os.environ["STAGE"].encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_explain_writes_toml_that_is_ours_and_starts_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGE", "none")
    monkeypatch.setenv("SERVER_SOFTWARE", "none")
    (folder / "gunicorn.conf.py").write_text(
        "import os\nprint('my = own')\nos.system('echo and = of another')\n"
        "bind = 'unix:shop.sock'\nthreads = 2\nspew = True\nraw_env = ['STAGE=live']\ndef on_exit(server): ...\n"
    )
    (folder / "shop.py").write_text(APPLICATION)
    assert main(["gunicorn", "shop", "-w", "2", "--explain"]) == 0
    text = capfd.readouterr().out
    found = tomllib.loads(text)
    assert found == {
        "bind": "unix:shop.sock",
        "workers": 2,
        "threads": 2,
        "socket_mode": "0777",
        "log_timezone": "local",
    }
    assert "workers = 2  # --workers\n" in text
    assert text.startswith(
        "# prefork wsgi shop:application --config THIS-FILE\n"
        f"# in the environment: SERVER_SOFTWARE=gunicorn/27.0 (prefork/{__version__})\n"
        '# in the environment: STAGE=live\n# hooks = "MODULE"  # '
    )
    assert "\n# ! spew = True (gunicorn.conf.py): no line is traced" in text
    (folder / "shop.toml").write_text(text)
    assert main(["wsgi", "shop:application", "--config", "shop.toml", "--print-config"]) == 0
    assert 'socket_mode = "0777"  # shop.toml\n' in capfd.readouterr().out


def test_it_serves(tmp_path: Path) -> None:
    said = "import logging\nlogging.getLogger('gunicorn.error').info('said by a name of gunicorn\\'s')\n"
    (tmp_path / "shop.py").write_text(APPLICATION + said)
    (tmp_path / "gunicorn.conf.py").write_text(
        textwrap.dedent(
            """
            bind = ["127.0.0.1:0", "unix:shop.sock"]
            threads = 2
            spew = True
            worker_tmp_dir = "/dev/shm"
            raw_env = ["STAGE=live"]
            def child_exit(server, worker):
                server.log.info("pid %d of %d is gone, %s", worker.pid, server.cfg.workers, server.proc_name)
            """
        )
    )
    command = [sys.executable, "-m", "prefork", "gunicorn", "shop", "--workers", "1"]
    with running(command, cwd=tmp_path) as server:
        assert request(server.address).body == b"live"
        assert stat.S_IMODE(os.stat(tmp_path / "shop.sock").st_mode) == 0o777
        (pid,) = server.workers()
        log = server.log()
        assert "WARNING" in next(
            line for line in log.splitlines() if "gunicorn: spew = True (gunicorn.conf.py)" in line
        )
        assert "INFO" in next(line for line in log.splitlines() if "gunicorn: worker_tmp_dir = '/dev/shm'" in line)
        assert "INFO" in next(line for line in log.splitlines() if "said by a name of gunicorn's" in line)
        assert server.stop() == 0
        assert f"pid {pid} of 1 is gone, shop:application" in server.log()


NUMBERING = """
import os
bind = "127.0.0.1:0"
preload_app = bool(os.environ.get("PRELOADED"))
def on_starting(server):
    server.given = set()
def pre_fork(server, worker):
    taken = {other.number for other in server.WORKERS.values() if other.alive}
    worker.number = min(set(range(9)) - taken)
    server.given.add(worker.number)
def post_fork(server, worker):
    os.environ["STAGE"] = str(getattr(worker, "number", "none"))
    worker.since = 7
def post_worker_init(worker):
    worker.log.info("age %d is complete", worker.age)
def worker_exit(server, worker):
    server.log.info("worker %d of age %d leaves, %s", getattr(worker, "number", -1), worker.age, worker.since)
def child_exit(server, worker):
    ages = sorted(other.age for other in server.WORKERS.values())
    server.log.info("worker %d of age %d is gone: %s, %s", worker.number, worker.age, server.given, ages)
"""
"""A number of its own for each worker, as public configurations give it."""


def test_what_a_hook_sets_on_a_worker_the_next_one_finds(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APPLICATION)
    (tmp_path / "gunicorn.conf.py").write_text(NUMBERING)
    with running([sys.executable, "-m", "prefork", "gunicorn", "shop", "-w", "2"], cwd=tmp_path) as server:
        assert request(server.address).body in {b"0", b"1"}
        server.wait_for_log("age 2 is complete")
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for_log("age 3 is complete")
        assert server.stop() == 0
        lines = server.log().splitlines()
    told = [line.partition(" worker ")[2] for line in lines if " leaves, 7" in line or " is gone: " in line]
    gone = [text for text in told if "gone" in text]
    assert sorted(text[0] for text in told if "leaves" in text) == ["0", "1"], told  # the third has the first's number
    assert sorted(text.split()[3] for text in gone) == ["1", "2", "3"], told
    assert all("{0, 1}" in text for text in gone), told


def test_what_does_not_reach_a_worker_of_a_mold_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APPLICATION)
    (tmp_path / "gunicorn.conf.py").write_text(NUMBERING)
    command = [sys.executable, "-m", "prefork", "gunicorn", "shop", "-w", "2"]
    with running(command, cwd=tmp_path, env={"PRELOADED": "1"}) as server:
        assert request(server.address).body == b"none"
        assert server.stop() == 0
        assert server.log().count("gunicorn: pre_fork sets number on a worker, which does not reach it") == 1
        assert "worker -1 of age 1 leaves, 7" in server.log()


FAILING = """
import os, sys
bind = "127.0.0.1:0"
def HOOK(GIVEN):
    if os.path.exists("wrong"):
        BODY
"""
GIVEN = {"on_starting": "server", "post_fork": "server, worker", "post_worker_init": "worker"}


def failing(hook: str, body: str) -> str:
    """A configuration whose hook fails when there is a file."""
    return FAILING.replace("HOOK", hook).replace("GIVEN", GIVEN[hook]).replace("BODY", body)


@pytest.mark.parametrize("hook", ["on_starting", "post_fork", "post_worker_init"])
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise RuntimeError('no database')", "RuntimeError: no database"),
        ("sys.exit(1)", "SystemExit: 1"),
        ("GIVEN.cfg.set('certfile', 'a.pem')", "cfg.set('certfile') comes too late"),
    ],
    ids=["raises", "exits", "sets"],
)
def test_a_hook_that_fails_ends_the_start(hook: str, body: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APPLICATION)
    (tmp_path / "gunicorn.conf.py").write_text(failing(hook, body.replace("GIVEN", GIVEN[hook][:6])))
    (tmp_path / "wrong").touch()
    command = [sys.executable, "-m", "prefork", "gunicorn", "shop"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 4, ended.stderr
    assert f"hook {hook} failed:\n" in ended.stderr
    assert told in ended.stderr
    assert "serving on" not in ended.stderr


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["", "preload"])
def test_a_hook_that_fails_in_a_reload_leaves_the_old_workers(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APPLICATION)
    (tmp_path / "gunicorn.conf.py").write_text(failing("post_fork", "raise RuntimeError('no database')"))
    command = [sys.executable, "-m", "prefork", "gunicorn", "shop", "-e", "STAGE=live", *options]
    with running(command, cwd=tmp_path) as server:
        (worker,) = server.workers()
        (tmp_path / "wrong").touch()
        server.signal(signal.SIGHUP)
        server.wait_for_log("RuntimeError: no database")
        server.wait_for_log("generation 1 failed to boot; the old one goes on")
        assert server.workers() == [worker]
        assert request(server.address).body == b"live"
        assert server.stop() == 0


def test_a_hook_that_fails_in_an_upgrade_ends_no_server(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APPLICATION)
    (tmp_path / "gunicorn.conf.py").write_text(failing("on_starting", "raise RuntimeError('no database')"))
    command = [sys.executable, "-m", "prefork", "gunicorn", "shop", "-e", "STAGE=live"]
    with running(command, cwd=tmp_path) as server:
        (tmp_path / "wrong").touch()
        server.signal(signal.SIGUSR2)
        server.wait_for_log("hook on_starting failed: RuntimeError: no database; it goes on all the same")
        server.wait_for_log("generation 1 serves")
        assert request(server.address).body == b"live"
        assert server.stop() == 0


ASKING = """
bind = "127.0.0.1:0"
def told(app):
    try:
        return getattr(app.wsgi(), "__name__", "?")
    except Exception as error:
        return type(error).__name__
def ask(log, when, app):
    log.info("%s %s %s %s %s", when, app.app_uri, app.cfg.workers, getattr(app.callable, "__name__", None), told(app))
def pre_fork(server, worker):
    ask(server.log, "pre_fork", server.app)
def post_fork(server, worker):
    ask(server.log, "post_fork", worker.app)
    ask(server.log, "post_fork of server", server.app)
def post_worker_init(worker):
    ask(worker.log, "post_worker_init", worker.app)
"""


@pytest.mark.parametrize(
    ("options", "forked"),
    [([], "None SettingsError"), (["--preload"], "application application"), (["-k", "uvicorn"], "None SettingsError")],
    ids=["", "preload", "uvicorn"],
)
def test_a_hook_finds_the_application_where_it_is_loaded(options: list[str], forked: str, tmp_path: Path) -> None:
    asgi = "uvicorn" in options
    (tmp_path / "shop.py").write_text("async def application(scope, receive, send): ...\n" if asgi else APPLICATION)
    (tmp_path / "gunicorn.conf.py").write_text(ASKING)
    if asgi:
        options = ["-k", "uvicorn.workers.UvicornWorker"]
    with running([sys.executable, "-m", "prefork", "gunicorn", "shop", *options], cwd=tmp_path) as server:
        server.wait_for_log("pre_fork shop 1 None SettingsError")
        server.wait_for_log(f"post_fork shop 1 {forked}")
        server.wait_for_log(f"post_fork of server shop 1 {forked}")
        server.wait_for_log("post_worker_init shop 1 application application")
        assert server.stop() == 0


def test_an_application_that_asks_whether_gunicorn_serves_it_hears_yes(tmp_path: Path) -> None:
    asks = 'import os\nos.environ["STAGE"] = "gunicorn" in os.environ.get("SERVER_SOFTWARE", "") and "begun" or "not"\n'
    (tmp_path / "shop.py").write_text(asks + APPLICATION)
    command = [sys.executable, "-m", "prefork", "gunicorn", "shop", "--bind", "127.0.0.1:0"]
    with running(command, cwd=tmp_path) as server:
        assert request(server.address).body == b"begun"


def test_a_log_that_json_says_some_of_is_as_with_gunicorn(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import logging\nlogging.getLogger('shop').info('by the root')\n" + APPLICATION)
    (tmp_path / "log.json").write_text(
        '{"loggers": {"gunicorn.access": {"handlers": ["console"], "propagate": false}}}'
    )
    command = [sys.executable, "-m", "prefork", "gunicorn", "shop", "-b", "127.0.0.1:0", "-e", "STAGE=live"]
    with running([*command, "--log-config-json", "log.json"], cwd=tmp_path) as server:
        assert request(server.address).body == b"live"
        server.wait_for_log(r"\] \[INFO\] by the root\n")
        server.wait_for_log(r'\] \[INFO\] 127.0.0.1 - - .*"GET / HTTP/1.1" 200 4')


def test_the_folder_that_is_left_stays_on_the_import_path(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("STAGE = 'live'\n")
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / "shop.py").write_text(
        "import os\ndef application(environ, start_response):\n    import beside\n"
        "    os.environ['STAGE'] = beside.STAGE\n    return answer(environ, start_response)\n"
        + APPLICATION.replace("def application", "def answer")
    )
    command = [sys.executable, "-P", "-m", "prefork", "gunicorn", "shop", "-b", "127.0.0.1:0", "--chdir", "srv"]
    with running(command, cwd=tmp_path) as server:
        assert request(server.address).body == b"live"


ACTIVATES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="shop.socket", STAGE="live")
os.execv(sys.executable, [sys.executable, "-m", "prefork", *sys.argv[2:]])
"""
"""A service manager with a socket of its own."""


@pytest.mark.parametrize(
    "line",
    [
        "gunicorn shop",
        "gunicorn shop --bind unix:{path} --umask 7",
        "gunicorn shop --preload --bind 127.0.0.1:0",
        "uwsgi --module shop",
        "uwsgi --module shop --socket {path} --chmod-socket=660",
    ],
)
def test_it_listens_on_what_a_service_manager_passes(tmp_path: Path, line: str) -> None:
    (tmp_path / "shop.py").write_text(APPLICATION)
    path = str(tmp_path / "shop.sock")
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(path)
        os.chmod(path, 0o660)
        passed.listen()
        command = [sys.executable, "-c", ACTIVATES, str(passed.fileno()), *line.format(path=path).split()]
        with running(command, cwd=tmp_path, pass_fds=[passed.fileno()]) as server:
            assert server.address == f"unix:{path}"
            assert request(server.address).body == b"live"
            assert server.log().count("it listens on the sockets that the service manager has passed") == 1
            server.signal(signal.SIGUSR2)  # the next image is passed nothing
            server.wait_for_log("generation 1 serves")
            assert request(server.address).body == b"live"
            assert server.stop() == 0
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


def test_what_raw_env_says_of_that_holds(folder: Path) -> None:
    assert retold("shop:app").environment == {"SERVER_SOFTWARE": f"gunicorn/27.0 (prefork/{__version__})"}
    assert retold("shop:app -e SERVER_SOFTWARE=mine").environment == {"SERVER_SOFTWARE": "mine"}


def test_what_gunicorn_checks_is_checked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SOFTWARE", "none")
    (folder / "shop.py").write_text("async def app(scope, receive, send): ...\n")
    assert main(["gunicorn", "shop:app", "--check-config"]) == 2
    assert "prefork: error: shop:app is an ASGI application; prefork asgi shop:app serves it" in capsys.readouterr().err
    assert main(["gunicorn", "--print-config", "-w", "2"]) == 0
    assert "workers = 2  # --workers" in capsys.readouterr().out
    (folder / "gunicorn.conf.py").write_text("logconfig_dict = {'handlers': {'a': {'class': 'no.such'}}}\n")
    assert main(["gunicorn", "shop:app", "--check-config"]) == 2
    assert "error: logconfig: the dictionary can't be used: Unable to configure handler" in capsys.readouterr().err
