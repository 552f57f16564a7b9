"""What our commands say to the names of other servers' settings, and what a module of hooks is warned of."""

from __future__ import annotations

import types

import pytest
from uvicorn.main import main as uvicorn_main
from waitress.adjustments import Adjustments  # type: ignore[import-untyped]  # it has no types

from prefork import hooks
from prefork.cli import flags
from prefork.config import load as config
from prefork.config import settings
from prefork.config.fields import table
from prefork.embed.command import ASGIOptions
from prefork.errors import SettingsError
from prefork.migration import answers, uvicorn_settings, waitress_settings
from prefork.migration.foreign_setting import flag_of
from prefork.wsgi import options

WSGI = settings.fields() + options.fields()
HOOKS = [hook.name for hook in hooks.described()]


def complaint(*argv: str) -> str:
    (line,) = flags.read(["shop:application", *argv], WSGI).complaints
    return line


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--keep-alive", "it is gunicorn's, and called --keepalive here: seconds"),
        ("--daemon", "it is gunicorn's: it stays in the foreground; let a service manager"),
        ("-D", "it is gunicorn's: it stays in the foreground; let a service manager"),
        ("--env", "it is gunicorn's: set it in the environment of the command"),
        ("-e", "it is gunicorn's: set it in the environment of the command"),
        ("--access-logfile", "it is gunicorn's, and called --access-log here: a file, or - for standard output"),
        ("--error-logfile", "it is gunicorn's, and called --log-file here: - is standard output here"),
        ("--pid", "it is gunicorn's, and called --pidfile here"),
        ("--log-syslog", "it is gunicorn's, and called --syslog here: requests too"),
        ("--paste", "it is gunicorn's: give a factory"),
        ("--limit-request-feilds", "did you mean --limit-request-fields"),
    ],
)
def test_a_flag_of_gunicorns_is_answered_and_not_the_nearest_spelling(flag: str, told: str) -> None:
    assert complaint(f"{flag}=5").startswith(f"{flag!r} is not a flag; {told}")


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--host", "it is uvicorn's, and called --bind here: HOST:PORT"),
        ("--http", "it is uvicorn's: say it to uvicorn, --worker-options http=VALUE"),
        ("--no-server-header", "it is uvicorn's: say it to uvicorn, --worker-options server_header=false"),
        ("--daemon", "it is gunicorn's: it stays in the foreground"),
    ],
)
def test_users_of_an_asgi_server_come_from_uvicorn(flag: str, told: str) -> None:
    assert answers.to_flag(flag, [field.flag for field in settings.fields() + table(ASGIOptions)]).startswith(told)


def test_every_flag_of_the_installed_uvicorn_is_ours_or_has_an_answer() -> None:
    ours = {field.flag for field in settings.fields() + table(ASGIOptions)} | {"--version", "--help", "--app-dir"}
    theirs = {flag for given in uvicorn_main.params for flag in (*given.opts, *given.secondary_opts) if flag != "app"}
    answered = {flag for row in uvicorn_settings.ROWS for flag in row.flags}
    assert theirs <= ours | answered
    assert not ours & answered
    assert all(row.note or row.ours for row in uvicorn_settings.ROWS)
    assert {flag_of(row.ours) for row in uvicorn_settings.ROWS if row.ours} <= ours


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--listen", "it is waitress's, and called --bind here: HOST:PORT, and :PORT where the host is *"),
        ("--call", "it is waitress's: name it as MODULE:FACTORY()"),
        ("--url-prefix", "it is waitress's, and called --script-name here"),
        ("--trusted-proxy", "it is waitress's, and called --forwarded-allow-ips here"),
        ("--processes", "it is uWSGI's, and called --workers here"),
    ],
)
def test_a_flag_of_waitress_is_answered(flag: str, told: str) -> None:
    assert complaint(f"{flag}=5").startswith(f"{flag!r} is not a flag; {told}")


def test_every_flag_of_the_installed_waitress_is_ours_or_has_an_answer() -> None:
    ours = {field.flag for field in WSGI} | {"--help", "--app-dir"}
    theirs = {"--call"}
    for name, cast in Adjustments._params:  # its flags are made of these, and of nothing public
        flag = f"--{name.replace('_', '-')}"
        theirs |= {flag, flag.replace("--", "--no-")} if cast.__name__ == "asbool" else {flag}
    answered = {flag for row in waitress_settings.ROWS for flag in row.flags}
    assert theirs <= ours | answered
    assert not ours & answered
    assert answered <= theirs
    assert all(row.note or row.ours for row in waitress_settings.ROWS)
    assert {flag_of(row.ours) for row in waitress_settings.ROWS if row.ours} <= ours


def test_a_setting_that_this_command_has_not_is_told_as_one_of_the_other() -> None:
    known = [field.flag for field in settings.fields()]
    assert answers.to_flag("--root-path", known) == (
        "it is gunicorn's, and here a setting of prefork wsgi alone: --script-name"
    )


def test_the_same_names_in_a_file_and_in_variables(tmp_path: object) -> None:
    file = f"{tmp_path}/app.toml"
    with open(file, "w", encoding="utf-8") as opened:
        opened.write("spew = true\naccesslog = '-'\nwokers = 3\n")
    with pytest.raises(SettingsError) as raised:
        config.load({}, {"PREFORK_DAEMON": "1", "PREFORK_WORKRS": "2"}, file=file)
    spew, access, workers, daemon, variable = raised.value.problems
    assert spew.startswith("spew: is not a setting; it is gunicorn's: ")
    assert access.startswith("accesslog: is not a setting; it is gunicorn's, and here a setting of prefork wsgi alone")
    assert workers.startswith("wokers: is not a setting; did you mean workers")
    assert daemon.startswith("PREFORK_DAEMON: is not a variable of prefork's; it is gunicorn's: it stays in the fore")
    assert variable.startswith("PREFORK_WORKRS: is not a variable of prefork's; did you mean PREFORK_WORKERS")


def warnings(**names: object) -> list[str]:
    return list(answers.strange_hooks(types.SimpleNamespace(**names), HOOKS))


def test_hooks_that_nobody_calls_are_told() -> None:
    def function(*_: object) -> None: ...

    assert warnings(when_ready=function, child_exit=function, helper=function, _when_redy=function) == []
    (line,) = warnings(when_ready=function, when_redy=function)
    assert line == "when_redy is no hook, and is never called; did you mean when_ready?"
    (line,) = warnings(pre_request=function)
    assert line.startswith("pre_request is a hook of gunicorn's and none here: a WSGI middleware is called before each")


def test_hooks_of_an_object_are_looked_at_too() -> None:
    class Mine:
        __slots__ = ()

        def when_ready(self, server: object) -> None: ...

        def post_froke(self, server: object, worker: object) -> None: ...

        @property
        def on_reloads(self) -> None:
            raise AssertionError

    (line,) = answers.strange_hooks(Mine(), HOOKS)
    assert line == "post_froke is no hook, and is never called; did you mean post_fork?"


def test_settings_in_a_module_of_hooks_are_told() -> None:
    assert warnings(timeout=5, on_exit=print) == []
    (line,) = warnings(bind="0.0.0.0:80", workers=4, answer=42)
    assert line.startswith("settings are not read from a module of hooks (bind, workers); prefork gunicorn -c FILE")


def test_they_are_logged_when_the_hooks_are_found(caplog: pytest.LogCaptureFixture) -> None:
    module = types.ModuleType("site_hooks")
    exec("def when_ready(server): ...\ndef post_froke(server, worker): ...", module.__dict__)
    hooks.Hooks.from_namespace(module)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == "hooks: post_froke is no hook, and is never called; did you mean post_fork?"
