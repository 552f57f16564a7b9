"""Fifteen configurations as people write them for uWSGI, and what each becomes. They are made up."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from prefork.config import settings
from prefork.config.fields import table
from prefork.errors import SettingsError
from prefork.migration.foreign_setting import ForeignSetting, by_name
from prefork.migration.uwsgi import retell
from prefork.migration.uwsgi_settings import ROWS
from prefork.system.limits import cpus
from prefork.testing import request, running
from prefork.wsgi.command import CommandOptions

OURS = {field.name for field in settings.fields() + table(CommandOptions)}
QUIETLY = {"workers": 1, "timeout": 0, "graceful_timeout": 60, "log_timezone": "local"}
ALWAYS = {**QUIETLY, "access_log": "-"}
PROXIES = "X-Forwarded-Proto is believed of the proxies in PREFORK_FORWARDED_ALLOW_IPS alone"
QUIET = ("vacuum", "master", "enable-threads", "die-on-term", "thunder-lock", "need-app", "lazy-apps")


class Case(NamedTuple):
    """One configuration.

    Attributes:
        file: The section [uwsgi].
        target: What is served.
        values: What the settings of ours are, all of them.
        remarks: How each line begins about what behaves otherwise.
        line: The command line behind the file's name.
    """

    file: str
    target: str
    values: Mapping[str, object]
    remarks: tuple[str, ...] = ()
    line: str = ""


CASES = {
    "a socket for nginx": Case(
        "module = shop.wsgi\nmaster = true\nprocesses = 5\nsocket = shop.sock\nchmod-socket = 660\nvacuum = true\n"
        "die-on-term = true",
        "shop.wsgi:application",
        {**ALWAYS, "workers": 5, "bind": ("unix:shop.sock",), "socket_mode": "660"},
        ("socket = ['shop.sock'] (app.ini): HTTP is spoken there, not the uwsgi protocol",),
    ),
    "HTTP": Case(
        "http = :8000\nmodule = shop:app\nthreads = 2\nenable-threads",
        "shop:app",
        {**ALWAYS, "bind": (":8000",), "threads": 2},
    ),
    "a socket that speaks HTTP": Case(
        "socket = 0.0.0.0:8001\nprotocol = http\nmodule = shop\ncallable = app\nworkers = 3",
        "shop:app",
        {**ALWAYS, "workers": 3, "bind": ("0.0.0.0:8001",)},
    ),
    "Django on a server": Case(
        "chdir = /srv/shop\nmodule = shop.wsgi:application\nharakiri = 60\nmax-requests = 5000\nuid = nobody\n"
        "gid = nogroup\npidfile = /run/shop.pid\ndaemonize = /var/log/shop.log",
        "shop.wsgi:application",
        {
            **ALWAYS,
            "chdir": "/srv/shop",
            "timeout": 60,
            "max_requests": 5000,
            "user": "nobody",
            "group": "nogroup",
            "pidfile": "/run/shop.pid",
            "log_file": "/var/log/shop.log",
            "access_log": "/var/log/shop.log",
        },
        (
            "daemonize = '/var/log/shop.log' (app.ini): it stays in the foreground",
            "daemonize = '/var/log/shop.log' (app.ini): what the application prints",
        ),
    ),
    "placeholders": Case(
        "base = /srv/%n\nuser = %(base)-$(STAGE)\nchdir = %(base)\nmodule = shop:app\nlogto = %(user).log\n"
        "processes = 2",
        "shop:app",
        {
            **ALWAYS,
            "workers": 2,
            "chdir": "/srv/app",
            "log_file": "/srv/app-live.log",
            "access_log": "/srv/app-live.log",
        },
        ("logto = '/srv/app-live.log' (app.ini): what the application prints, and writes to wsgi.errors",),
    ),
    "logs of a container": Case(
        "module = shop:app\nlogto = /dev/stdout",
        "shop:app",
        {**ALWAYS, "log_file": "/dev/stdout", "access_log": "/dev/stdout"},
    ),
    "grows and shrinks": Case(
        "module = shop:app\nprocesses = 10\ncheaper = 2\ncheaper-initial = 4\ncheaper-step = 1\ncheaper-algo = spare",
        "shop:app",
        {**ALWAYS, "min_workers": 2, "max_workers": 10, "workers": 4},
    ),
    "gevent": Case(
        "module = shop:app\ngevent = 100\nhttp-socket = :80\nlimit-post = 1048576\nbuffer-size = 65535",
        "shop:app",
        {
            **ALWAYS,
            "worker_class": "gevent",
            "worker_options": "connections=100",
            "bind": (":80",),
        },
        tuple(
            f"limit_request_{name} (app.ini): gevent reads"
            for name in ("field_size = 65535", "line = 65535", "body = 1048576")
        ),
    ),
    "large heads": Case(
        "module = shop:app\nbuffer-size = 65535",
        "shop:app",
        {**ALWAYS, "limit_request_line": 65535, "limit_request_field_size": 65535},
    ),
    "memory": Case(
        "module = shop:app\nreload-on-rss = 512\nworker-reload-mercy = 20\nmax-worker-lifetime = 3600",
        "shop:app",
        {**ALWAYS, "max_memory": "512M", "graceful_timeout": 20, "max_age": 3600},
    ),
    "a file": Case(
        "wsgi-file = web/server.py\ncallable = app\ndisable-logging = true\nenv = A=1\nenv = B = 2",
        "server:app",
        QUIETLY,
    ),
    "a mount": Case(
        "mount = /shop=shop:app\nmanage-script-name = true\nlisten = 128\nso-keepalive = true",
        "shop:app",
        {**ALWAYS, "script_name": "/shop", "backlog": 128, "tcp_keepalive": True},
    ),
    "TLS": Case(
        "module = shop:app\nhttps = 0.0.0.0:443,a.pem,a.key,HIGH",
        "shop:app",
        {**ALWAYS, "bind": ("0.0.0.0:443",), "certfile": "a.pem", "keyfile": "a.key"},
    ),
    "what a proxy, a queue and a manager do": Case(
        "module = shop:app\nstatic-map = /static=/srv\nmule = worker.py\ncron = 0 1 -1 -1 -1 a\ntouch-reload = a\n"
        "plugins = python3,router_static\nhook-pre-app = exec:./manage.py migrate\nlog-maxsize = 5",
        "shop:app",
        ALWAYS,
        (
            "plugins = ['python3,router_static'] (app.ini): there are no plugins",
            "touch-reload = ['a'] (app.ini): prefork reload",
            "static-map = ",
            "log-maxsize = '5'",
            "mule = ['worker.py'] (app.ini): run it as a service of its own",
            "cron = ",
            "hook-pre-app = ",
        ),
    ),
    "what nobody knows": Case(
        "module = shop:app\ncolour = red", "shop:app", ALWAYS, ("colour (app.ini): prefork knows no such option",)
    ),
    "a format of log lines, with placeholders of its own": Case(
        "module = shop:app\nlog-format = %(addr) [%(ltime)] %(uri)\nlogformat-strftime = true\nlog-date = %d/%m",
        "shop:app",
        ALWAYS,
        ("log-format = ",),
    ),
    "shared sockets": Case(
        "shared-socket = 127.0.0.1:80\nshared-socket = :81\nhttp = =1\nmodule = shop:app",
        "shop:app",
        {**ALWAYS, "bind": (":81",)},
        ("shared-socket = '127.0.0.1:80' (app.ini): nobody names it",),
    ),
    "an abstract socket": Case(
        "abstract-socket = true\nhttp-socket = /shop\nno-defer-accept = true\nmodule = shop:app",
        "shop:app",
        {**ALWAYS, "bind": ("unix:@/shop",), "defer_accept": 0},
    ),
    "errors alone in the log": Case(
        "module = shop:app\ndisable-logging =\nlog-5xx = true",
        "shop:app",
        QUIETLY,
        ("log-5xx = 'true' (app.ini): with disable-logging no request is logged",),
    ),
    "said twice, by two names": Case(
        "many = 9\nmodule = shop:app\nworkers = 4\nprocesses = %(many * 2)", "shop:app", {**ALWAYS, "workers": 18}
    ),
    "what holds somewhere": Case(
        "module = shop:app\nif-env = STAGE=live\nprocesses = 8\nname = %(_)\nendif =\nif-not-env = STAGE\nprocesses = 2"
        "\nendif =\nif-env = STAGE=test\nprocname = no\nend =\nif-not-exists = app.ini\nprocname = no\nendif\n"
        "for = 1 2\nhttp = :808%(_)\nendfor =\nprocname = %(name)",
        "shop:app",
        {**ALWAYS, "workers": 8, "bind": (":8081", ":8082"), "name": "live"},
    ),
    "what is not set, and what is not known": Case(
        "module = shop:app\nprocname = a$(NO_SUCH_NAME)\npidfile = /run/%v",
        "shop:app",
        {**ALWAYS, "name": "a", "pidfile": "/run/%v"},
        ("$(NO_SUCH_NAME) in procname (app.ini): the variable is not set", "%v in pidfile (app.ini): it is not known"),
    ),
    "what has no effect": Case(
        "module = shop:app\ncheaper = 0\nprocesses = 3\nhttp-socket = shop.sock\nreuse-port = true",
        "shop:app",
        {**ALWAYS, "workers": 3, "bind": ("unix:shop.sock",)},
    ),
    "comments behind values": Case(
        "module = shop:app\nprocesses = 4  ; four\nvacuum = true ; yes\nharakiri = 60 ; s\nchmod-socket = 660 ; all",
        "shop:app",
        {**ALWAYS, "workers": 4, "timeout": 60, "socket_mode": "660"},
    ),
    "flags of a container": Case(
        "module = shop:app",
        "shop:app",
        {**ALWAYS, "bind": (":80",), "limit_request_line": 83146, "limit_request_field_size": 83146},
        line="--http11-socket=:80 --post-buffering --buffer-size=83146 --socket-protocol http --log-format-strftime",
    ),
    "families of options": Case(
        "module = shop:app\ncheaper-busyness-max = 70\nroute-run = x:\nstatic-safe = /srv",
        "shop:app",
        ALWAYS,
        ("route-run (app.ini): the proxy in front does it", "static-safe (app.ini): static files are served by"),
    ),
    "flags beside the file": Case(
        "module = shop:app\nprocesses = 2",
        "shop:app",
        {**ALWAYS, "workers": 4, "bind": ("127.0.0.1:9000",), "name": "shop"},
        line="-p 4 --http-socket=127.0.0.1:9000 --procname shop --master",
    ),
    "another environment": Case(
        "module = shop:app\nvirtualenv = /srv/venv\npythonpath = /srv/a\npythonpath = /srv/b\nchown-socket = www:web",
        "shop:app",
        {**ALWAYS, "socket_user": "www", "socket_group": "web"},
        (f"virtualenv = '/srv/venv' (app.ini): this prefork is of {sys.prefix}; run /srv/venv/bin/prefork",),
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_configuration_is_retold(case: Case) -> None:
    Path("app.ini").write_text(f"; of uWSGI\n[other]\nmodule = no\n[uwsgi]\n{case.file}\n")
    found = retell(["app.ini", *case.line.split()], {"STAGE": "live"})
    assert found.target == case.target
    assert {name: value for name, (value, _) in found.values.items()} == case.values
    assert sum(remark.text.startswith(PROXIES) for remark in found.remarks) == 1
    said = [remark.text for remark in found.remarks if remark.differs and not remark.text.startswith(PROXIES)]
    assert len(said) == len(case.remarks), said
    for text, beginning in zip(said, case.remarks, strict=True):
        assert text.startswith(beginning)
    assert all(name in by_name(ROWS) for name in QUIET)


@pytest.mark.parametrize(
    ("address", "differs"),
    [(":80", True), ("10.0.0.1:80", True), ("127.0.0.1:80", False), ("localhost:80", False), ("a.sock", False)],
)
def test_who_is_believed_matters_where_others_can_connect(address: str, differs: bool) -> None:
    found = retell(["--module", "a", "--http-socket", address], {})
    assert [remark.differs for remark in found.remarks if remark.text.startswith(PROXIES)] == [differs]


def test_the_environment_and_the_path() -> None:
    Path("app.ini").write_text("[uwsgi]\nmodule=a:b\nenv = A=1\nenv=B=2=3\npythonpath = /srv/a:/srv/b\n")
    found = retell(["--ini", "app.ini"], {})
    assert (found.environment, found.path) == ({"A": "1", "B": "2=3"}, ("/srv/b", "/srv/a"))
    Path("app.ini").write_text("[uwsgi]\nmodule=a:b\nchdir = /srv\npythonpath = lib\npp = /other\n")
    assert retell(["app.ini"], {}).path == ("/srv/lib", "/other")
    Path("app.ini").write_text("[uwsgi]\nchdir = /srv\nwsgi-file = web/server.py\n")
    assert retell(["app.ini"], {}).path == ("/srv/web",)


@pytest.mark.parametrize("file", ["shop/web/wsgi.py", "{here}/shop/web/wsgi.py"])
def test_a_file_of_a_package_is_imported_as_what_it_is_there(file: str, folder: Path) -> None:
    """Not from its own folder: modules beside it would hide those that the application imports by the same name."""
    (folder / "srv" / "shop" / "web").mkdir(parents=True)
    for package in ("shop", "shop/web"):
        (folder / "srv" / package / "__init__.py").touch()
    for chdir in ("srv", folder / "srv"):
        Path("app.ini").write_text(f"[uwsgi]\nchdir = {chdir}\nwsgi-file = {file.format(here=folder / 'srv')}\n")
        found = retell(["app.ini"], {})
        assert (found.target, found.path) == ("shop.web.wsgi:application", (str(folder / "srv"),))


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("--frobnicate 30 --wsgi-file shop.py", {}),
        ("--frobnicate shop.py", {}),
        ("--frobnicate app.ini", {}),
        ("shop.py -p4 -ML", {"workers": 4, "access_log": None}),
        ("shop.py --chmod-socket --auto-procname", {"socket_mode": "0666"}),
        ("--http-keepalive shop.py --chmod-socket 660", {"socket_mode": "660"}),
        ("--http-keepalive 7 shop.py", {"keepalive": 7}),
        ("shop.py --http-keepalive", {}),
        ("bare.ini", {"socket_mode": "0666"}),
    ],
)
def test_what_stands_behind_a_flag_is_its_value_or_not(line: str, values: dict[str, object]) -> None:
    """As getopt(3) reads it; a flag that nobody knows has a value, unless that is an application or a file."""
    Path("app.ini").write_text("[uwsgi]\nwsgi-file = shop.py\n")
    Path("bare.ini").write_text("[uwsgi]\nwsgi-file = shop.py\nchmod-socket =\nhttp-keepalive\n")
    found = retell(line.split(), {})
    assert found.target == "shop:application"
    told = {name: value for name, (value, _) in found.values.items()}
    expected = {name: value for name, value in {**ALWAYS, **values}.items() if value is not None}
    assert told == expected


def test_what_is_opened_before_the_folder_is_changed(folder: Path) -> None:
    """The log and the pidfile; sockets come later, and so do pidfile2 and safe-pidfile (uWSGI 2.0, core/uwsgi.c)."""
    file = "[uwsgi]\nmodule = a:b\nchdir = srv\nlogto = a.log\nhttp-socket = a.sock\n"
    for name, begins in (("pidfile", str(folder / "a.pid")), ("pidfile2", "a.pid"), ("safe-pidfile", "a.pid")):
        Path("app.ini").write_text(f"{file}{name} = a.pid\n")
        found = {name: value for name, (value, _) in retell(["app.ini"], {}).values.items()}
        assert (found["log_file"], found["pidfile"]) == (str(folder / "a.log"), begins)
        assert (found["access_log"], found["bind"]) == (str(folder / "a.log"), ("unix:a.sock",))
    Path("app.ini").write_text("[uwsgi]\nmodule = a:b\nlogto = a.log\n")
    assert retell(["app.ini"], {}).values["log_file"].value == "a.log"


def test_variables_are_options_and_placeholders() -> None:
    Path("app.ini").write_text("[uwsgi]\nmodule = shop:app\nprocname = %(stage)\nprocesses = 2\n")
    environ = {"UWSGI_STAGE": "live", "UWSGI_PROCESSES": "4", "UWSGI_VERSION": "2.0", "UWSGI_CACHE2": "name=a"}
    for found in retell(["app.ini"], environ), retell([], {**environ, "UWSGI_INI": "app.ini"}):
        assert (found.values["name"].value, found.target) == ("live", "shop:app")
        assert [remark.text for remark in found.remarks if remark.differs] == [
            "cache2 = ['name=a'] (UWSGI_CACHE2): keep it in a service that is made for it"
        ]
    assert retell(["app.ini"], environ).values["workers"] == (4, "UWSGI_PROCESSES")


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        ("100%", "100"),
        ("100%% of %xy", "100% of y"),
        ("%(open", "%(open"),
        ("%(x) %(x + 2) %(x * x )", "3 5 9"),
        ("%(y / 2)", "-3"),
        ("%(%k * 2)", str(2 * cpus())),
        ("%(x + %k)", str(3 + cpus())),
        ("%(%nname)", "by the file"),
        ("%0", "AT"),
        ("%9", ""),
    ],
)
def test_what_a_value_becomes(value: str, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `uwsgi --show-config` (2.0.30) has it."""
    monkeypatch.chdir(tmp_path)
    lines = ["[uwsgi] ; another section", "module = no:no", "[uwsgi]", "module = a:b", "x = 3", "y = -7", "x = 4"]
    lines += [
        "set = appname=by the file",
        "pidfile",
        "set = z=1",
        "set = z=2",
        f"env = A={value}",
        "env = Z=%(x)%(y)%(z)",
    ]
    Path("app.ini").write_text("\n".join(lines))
    found = retell(["app.ini"], {})
    assert found.environment == {"A": filled.replace("AT", tmp_path.parts[1]), "Z": "3-71"}
    assert found.values["pidfile"].value == ""
    assert [remark.text.partition(" ")[0] for remark in found.remarks if remark.differs] == []


@pytest.mark.parametrize("placeholder", ["%(x+2)", "%(x ++)", "%(nosuch)"])
def test_a_placeholder_that_stands_for_nothing_is_refused(placeholder: str) -> None:
    Path("app.ini").write_text(f"[uwsgi]\nmodule = a:b\nx = 3\nenv = A={placeholder}\n")
    with pytest.raises(SettingsError, match="is not known; define it before"):
        retell(["app.ini"], {})


def test_a_placeholder_may_stand_before_what_it_stands_for() -> None:
    Path("app.ini").write_text(
        "[uwsgi]\nhttp-socket = %(where):%(port)\nwhere = %(_host_)\n_host_ = 127.0.0.1\nport = 80\nport = 81\n"
        "module = a\nenv = A=%(port)\nif-env = NONE\nenv = B=1\nendif =\n"
    )
    found = retell(["app.ini"], {})
    assert found.values["bind"].value == ("127.0.0.1:80",)
    assert found.environment == {"A": "80"}
    assert not any("no such option" in remark.text for remark in found.remarks)
    for circle in ("a = %(a)", "a = %(b)\nb = %(a)", "if-env = NONE\nc = 1\nendif =\na = %(c)"):
        Path("app.ini").write_text(f"[uwsgi]\nmodule = shop\nprocname = %(a)\n{circle}\n")
        with pytest.raises(SettingsError, match="is not known"):
            retell(["app.ini"], {})


def test_yaml_json_sections_and_files_within_files() -> None:
    Path("app.yaml").write_text("uwsgi:\n  module: shop:app\n  master: true\n  env: [A=1, B=2]\n  http: ':80'\n")
    Path("app.json").write_text(json.dumps({"uwsgi": {"module": "shop:app", "env": ["A=1", "B=2"], "http": ":80"}}))
    for name in ("app.yaml", "app.json"):
        found = retell([name], {})
        assert found.target == "shop:app"
        assert found.environment == {"A": "1", "B": "2"}
        assert found.values["bind"].value == (":80",)
    Path("parts.ini").write_text("[common]\nprocesses = 7\n[uwsgi]\nprocesses = 8\n")
    Path("app.ini").write_text("[live]\nini = parts.ini:common\nmodule = %c.%s.%e.%n:app\n")
    found = retell(["app.ini:live"], {})
    assert found.values["workers"].value == 7
    assert found.target == f"{Path.cwd().name}.app.ini.ini.app:app"


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        (
            "module = a:b\nprocesses = many",
            "app.ini",
            "processes: 'many' is not a whole number; give one",
        ),
        ("module = a:b\nfastcgi-socket = :9", "app.ini", "fastcgi-socket = [':9'] (app.ini): HTTP/1.1 is spoken"),
        ("emperor = /etc/vassals", "app.ini", "emperor = '/etc/vassals' (app.ini): each application is a service"),
        (
            "mount = /a=a:a\nmount = /b=b:b",
            "app.ini",
            "mount = ['/a=a:a', '/b=b:b'] (app.ini): one application",
        ),
        ("wsgi-file = moin.wsgi", "app.ini", "wsgi-file: 'moin.wsgi' is no module's file"),
        ("socket = %(socket_of_shop)", "app.ini", "app.ini: %(socket_of_shop) is not known; define it before"),
        ("if-reload = A", "app.ini", "app.ini: if-reload is not understood; write what holds here without it"),
        ("for = a\nif-env = A", "app.ini", "app.ini: if-env stands within another block; end that before"),
        ("http = =1\nshared-socket = :1", "app.ini", "http: '=1' names none of 1 shared-socket; give an address"),
        ("ini = app.ini", "app.ini", "'app.ini' includes itself; leave that out"),
        ("", "app.ini:live", "'app.ini' has no section [live]; name another, as FILE:SECTION"),
        ("", "other.ini", "'other.ini' can't be read: No such file or directory"),
        ("", "--xml app.xml", "'app.xml' can't be read: No such file or directory"),
        ("", "--ini", "--ini: expected one argument"),
        ("", "-Q 3", "'-Q' is not a flag of uWSGI's that prefork knows; write it as --NAME"),
    ],
)
def test_what_can_not_be_served_is_one_exact_line(file: str, line: str, told: str) -> None:
    Path("app.ini").write_text(f"[uwsgi]\n{file}\n")
    with pytest.raises(SettingsError) as raised:
        retell(line.split(), {})
    (problem,) = raised.value.problems
    assert problem.startswith(told)


def test_a_mark_at_the_beginning_is_no_part_of_a_file() -> None:
    Path("app.ini").write_bytes(b"\xef\xbb\xbf[uwsgi]\r\nhttp = :1\r\nmodule = shop\r\n")
    assert retell(["app.ini"], {}).values["bind"][0] == (":1",)


def test_xml_is_not_read() -> None:
    Path("app.xml").write_text("<uwsgi/>")
    with pytest.raises(SettingsError, match="XML is not read; write an ini file"):
        retell(["app.xml"], {})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_leads_to_a_setting_or_says_why_not(row: ForeignSetting) -> None:
    assert row.ours in OURS if row.ours else row.note
    assert not row.note.endswith(".")
    assert len(by_name(ROWS)) == len(ROWS)


def test_it_serves(folder: Path) -> None:
    (folder / "shop.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', '3')])\n"
        "    return [b'hi\\n']\n"
    )
    (folder / "app.ini").write_text(
        "[uwsgi]\nmodule = shop:app\nhttp = 127.0.0.1:0\nprocesses = 1\nthreads = 2\nhttp-websockets = true\n"
    )
    with running([sys.executable, "-m", "prefork", "uwsgi", "app.ini"], cwd=folder) as server:
        assert request(server.address).body == b"hi\n"
        assert "WARNING" in next(line for line in server.log().splitlines() if "uwsgi: http-websockets" in line)
        assert server.stop() == 0
        assert '"GET / HTTP/1.1" 200 3' in server.log()
