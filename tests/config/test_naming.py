"""Files that settings name: fixed at the start, wherever the application goes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from prefork.config.fields import located
from prefork.config.settings import Settings, by_name, fields
from prefork.testing import request, wait_for
from prefork.testing.plugin import ServerFactory
from prefork.wsgi import options as wsgi
from tests.support.tls_clients import CERTS

WSGI_APP = """\
import os
os.chdir("/")

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"fine"]
"""
AWAY = """\
import os
os.chdir("/")

def handle(connection, address):
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n" + os.getcwd().encode())
"""
HOOKS = "import os\ndef on_starting(server):\n    os.chdir('/')\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_every_setting_that_names_a_file_is_made_absolute() -> None:
    """What has a path in its help is one; a new one is not forgotten."""
    paths = {field.name for field in (*fields(), *wsgi.fields()) if field.kind.locate is not None}
    assert paths == {
        "log_file",
        "logconfig",
        "access_log",
        "pidfile",
        "takeover",
        "control",
        "certfile",
        "keyfile",
        "ca_certs",
    }
    named = {field.name for field in (*fields(), *wsgi.fields()) if field.kind.metavar in {"PATH", "FILE", "PIDFILE"}}
    assert paths == named - {"script_name", "health_path", "warmup"}  # which are paths of requests


def test_words_and_absolute_paths_stay() -> None:
    settings = located(Settings(pidfile="run/p", log_file="-", control="auto", certfile="/c"), "/srv/shop")
    assert (settings.pidfile, settings.log_file) == ("/srv/shop/run/p", "-")
    assert (settings.control, settings.certfile, settings.keyfile) == ("auto", "/c", "")
    assert located(settings, "/elsewhere") is settings
    assert located(wsgi.WSGIOptions(access_log="-"), "/srv").access_log == "-"
    assert by_name()["control"].kind.locate is not None


@pytest.mark.parametrize("chdir", ["", "deploy"])
def test_an_application_that_goes_elsewhere_takes_no_file_with_it(
    prefork_server: ServerFactory, tmp_path: Path, chdir: str
) -> None:
    """A hook of the master's before it listens, and each worker: all that is named later is named from the start."""
    home = tmp_path / "deploy" if chdir else tmp_path
    home.mkdir(exist_ok=True)
    (home / "away.py").write_text(AWAY)
    (home / "hooked.py").write_text(HOOKS)
    for name in ("server.pem", "server.key"):
        shutil.copy(CERTS / name, home)
    names = {"pidfile": "p", "control": "c", "log_file": "log", "certfile": "server.pem", "keyfile": "server.key"}
    server = prefork_server(
        "away:handle",
        bind="unix:s",
        workers=1,
        hooks="hooked",
        **names,
        **({"chdir": chdir} if chdir else {}),
        options={"cwd": tmp_path, "ready": ""},
    )
    wait_for(lambda: (home / "log").exists() and "serving on" in (home / "log").read_text())
    assert {"p", "c", "s", "log"} <= set(os.listdir(home))
    (home / "log").rename(home / "log.1")
    server.signal(signal.SIGUSR1)
    wait_for((home / "log").exists)
    server.signal(signal.SIGHUP)
    wait_for(lambda: "generation 1 serves" in (home / "log").read_text())
    assert "the certificate in use stays" not in (home / "log").read_text()
    assert (home / "p").read_text() == f"{server.pid}\n"
    assert server.stop() == 0
    assert not {"p", "c", "s"} & set(os.listdir(home))


def test_the_access_log_and_its_rotation_stay_where_they_were(prefork_server: ServerFactory, tmp_path: Path) -> None:
    """The application changes the folder in the worker, when it is loaded and so before the file is opened."""
    (tmp_path / "shop.py").write_text(WSGI_APP)
    server = prefork_server(
        "shop:application",
        subcommand="wsgi",
        workers=1,
        access_log="access",
        log_file="log",
        options={"cwd": tmp_path, "ready": ""},
        bind=f"unix:{tmp_path / 's'}",
    )
    wait_for(lambda: (tmp_path / "log").exists() and "serving on" in (tmp_path / "log").read_text())
    assert request(f"unix:{tmp_path / 's'}", GET).status == 200
    wait_for(lambda: (tmp_path / "access").read_text().count("\n") == 1)
    shutil.move(tmp_path / "access", tmp_path / "access.1")

    def follows() -> bool:
        return request(f"unix:{tmp_path / 's'}", GET).status == 200 and (tmp_path / "access").exists()

    wait_for(follows)  # it looks once a second
    assert server.stop() == 0
