"""All settings of gunicorn (27.0), and what becomes of each: the one table that everything about gunicorn follows from.

The command ``prefork gunicorn``, the answers that other commands give to a flag of gunicorn's, the warnings about a
module of hooks and the page for those who come from gunicorn are made of it. A test holds it against the gunicorn that
is installed. What needs more than a row says, `prefork.migration.gunicorn_values` does.
"""

from __future__ import annotations

from typing import Final

from prefork.migration.foreign_setting import ForeignSetting, Takes, Weight


def _same(
    name: str, flags: str, takes: Takes = "text", ours: str = "", note: str = "", default: object = None
) -> ForeignSetting:
    """One that has an equal."""
    return ForeignSetting(
        name=name,
        flags=tuple(flags.split()),
        takes=takes,
        ours=ours or name,
        note=note,
        default=_default(takes, default),
    )


def _none(name: str, flags: str, takes: Takes, weight: Weight, note: str, default: object = None) -> ForeignSetting:
    """One that has none."""
    return ForeignSetting(
        name=name, flags=tuple(flags.split()), takes=takes, note=note, weight=weight, default=_default(takes, default)
    )


def _default(takes: Takes, default: object) -> object:
    """A default, where the kind does not say it."""
    if default is None:
        return {"true": False, "list": [], "dict": {}}.get(takes)
    return default


def _hook(name: str, note: str = "") -> ForeignSetting:
    """A hook; one of ours has no note."""
    return ForeignSetting(name=name, takes="function", note=note, weight="warning" if note else "same")


_LOG: Final = "the log goes to standard error or --log-file, as text or JSON (--log-format)"
_DIRTY: Final = "there are no dirty arbiters; run such work in a process of its own, behind a queue"
_HTTP2: Final = "HTTP/1.1 is spoken; a proxy in front speaks HTTP/2 with clients"
_STRICT: Final = "such a request is answered 400; mend the client"

CONFIG: Final = (
    _none(
        "config",
        "-c --config",
        "text",
        "same",
        "prefork gunicorn reads gunicorn.conf.py; others read TOML",
        "./gunicorn.conf.py",
    ),
    _none("wsgi_app", "", "text", "same", "it is the argument, MODULE:ATTRIBUTE"),
    _none("check_config", "--check-config", "true", "same", "--check, or prefork check"),
    _none("print_config", "--print-config", "true", "same", "--print-config, with the origin of each value"),
)
SOCKETS: Final = (
    _same("bind", "-b --bind", "list", note="also unix:@name, systemd:name", default=["127.0.0.1:8000"]),
    _same("backlog", "--backlog", "whole", default=2048),
    _same("reuse_port", "--reuse-port", "true", note="a socket for each worker"),
)
WORKERS: Final = (
    _same("workers", "-w --workers", "whole", note="the default is one for each CPU, and not 1", default=1),
    _same(
        "worker_class",
        "-k --worker-class",
        note="sync, gevent; prefork asgi for uvicorn's, prefork serve for tornado's and aiohttp's",
        default="sync",
    ),
    _same("threads", "--threads", "whole", note="of sync and gthread; a second one when no worker is idle", default=1),
    _none(
        "worker_connections",
        "--worker-connections",
        "whole",
        "info",
        "it limits --worker-class gevent alone, by --worker-options connections=1000",
        1000,
    ),
    _same("max_requests", "--max-requests", "whole", default=0),
    _same("max_requests_jitter", "--max-requests-jitter", "whole", default=0),
    _same(
        "timeout", "-t --timeout", "whole", note="time busy with one request, not time without a heartbeat", default=30
    ),
    _same("graceful_timeout", "--graceful-timeout", "whole", default=30),
    _same("keepalive", "--keep-alive", "whole", note="seconds; connections outlive their worker", default=2),
    _none("asgi_loop", "--asgi-loop", "text", "same", "--loop of prefork asgi", "auto"),
    _none("asgi_lifespan", "--asgi-lifespan", "text", "same", "--lifespan of prefork asgi", "auto"),
    _none(
        "asgi_disconnect_grace_period",
        "--asgi-disconnect-grace-period",
        "whole",
        "info",
        "the application hears of a client that went away at once, by http.disconnect",
        3,
    ),
    _none(
        "websocket_max_message_size",
        "--websocket-max-message-size",
        "whole",
        "same",
        "--ws-max-size of prefork asgi",
        16777216,
    ),
    _none("http_parser", "--http-parser", "text", "info", "requests are read by httptools alone", "auto"),
)
SECURITY: Final = (
    _same("limit_request_line", "--limit-request-line", "whole", default=4094),
    _same("limit_request_fields", "--limit-request-fields", "whole", default=100),
    _same("limit_request_field_size", "--limit-request-field_size", "whole", default=8190),
)
DEBUGGING: Final = (
    _same("reload", "--reload", "true", note="needs the extra reload; an edit that fails replaces nothing"),
    _none("reload_engine", "--reload-engine", "text", "info", "watchfiles tells of changes", "auto"),
    _none(
        "reload_extra_files",
        "--reload-extra-file",
        "list",
        "warning",
        "only Python files of the application are watched; prefork reload after a change of another",
    ),
    _none("spew", "--spew", "true", "warning", "no line is traced; prefork dump shows where a worker is"),
)
MECHANICS: Final = (
    _same("preload_app", "--preload", "true", "preload", "in a process beside the master, as the workers' user"),
    _none("sendfile", "--no-sendfile", "false", "info", "wsgi.file_wrapper sends files by sendfile(2)"),
    _same("chdir", "--chdir"),
    _none(
        "daemon",
        "-D --daemon",
        "true",
        "warning",
        "it stays in the foreground; let a service manager (systemd, a container) start it",
    ),
    _none("raw_env", "-e --env", "list", "same", "set it in the environment of the command"),
    _same("pidfile", "-p --pid"),
    _none("worker_tmp_dir", "--worker-tmp-dir", "text", "info", "there is no heartbeat, and no file for it"),
    _same("user", "-u --user", note="HOME, USER and their like become the user's"),
    _same("group", "-g --group"),
    _same(
        "umask",
        "-m --umask",
        "whole",
        "socket_mode",
        "gunicorn's is that of its unix socket alone; ours of that name is the whole server's",
        0,
    ),
    _none("initgroups", "--initgroups", "true", "info", "workers always have the groups of their user"),
    _none("tmp_upload_dir", "", "text", "info", "temporary files are where TMPDIR says"),
    _none(
        "secure_scheme_headers",
        "",
        "dict",
        "warning",
        "X-Forwarded-Proto of a trusted proxy is what is believed; have the proxy send it",
        {"X-FORWARDED-PROTOCOL": "ssl", "X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"},
    ),
    _same(
        "forwarded_allow_ips",
        "--forwarded-allow-ips",
        note="networks too; REMOTE_ADDR is the client's then, and not the proxy's",
        default="127.0.0.1,::1",
    ),
    _none("pythonpath", "--pythonpath", "text", "same", "set PYTHONPATH, or --app-dir"),
    _none("paste", "--paste --paster", "text", "refused", "give a factory, MODULE:FACTORY(), that calls loadapp()"),
    _none("raw_paste_global_conf", "--paste-global", "list", "info", "paste's ini files are not read"),
    _same(
        "proxy_protocol",
        "--proxy-protocol",
        "maybe",
        note="off, v1, v2 or any, which is gunicorn's auto",
        default="off",
    ),
    _same("proxy_allow_ips", "--proxy-allow-from", note="networks too", default="127.0.0.1,::1"),
    _none("protocol", "--protocol", "text", "refused", "HTTP/1.1 is spoken; have nginx use proxy_pass", "http"),
    _none("uwsgi_allow_ips", "--uwsgi-allow-from", "text", "info", "the uwsgi protocol is not spoken", "127.0.0.1,::1"),
    _none("permit_obsolete_folding", "--permit-obsolete-folding", "true", "warning", _STRICT),
    _none("strip_header_spaces", "--strip-header-spaces", "true", "warning", _STRICT),
    _none(
        "permit_unconventional_http_method",
        "--permit-unconventional-http-method",
        "true",
        "info",
        "the application is given whatever method is a token (RFC 9110)",
    ),
    _none("permit_unconventional_http_version", "--permit-unconventional-http-version", "true", "warning", _STRICT),
    _none(
        "casefold_http_method",
        "--casefold-http-method",
        "true",
        "warning",
        "methods are given to the application as they come (RFC 9110, 9.1)",
    ),
    _none(
        "forwarder_headers",
        "--forwarder-headers",
        "text",
        "warning",
        "fields with an underscore never reach the application; give --script-name for SCRIPT_NAME",
        "SCRIPT_NAME,PATH_INFO",
    ),
    _none(
        "header_map",
        "--header-map",
        "text",
        "warning",
        "fields with an underscore are dropped; have the client send hyphens",
        "drop",
    ),
    _same(
        "root_path",
        "--root-path",
        ours="script_name",
        note="the path under which an ASGI application is mounted; SCRIPT_NAME is for WSGI, in both",
        default="",
    ),
)
LOGGING: Final = (
    _same("accesslog", "--access-logfile", ours="access_log", note="a file, or - for standard output"),
    _none(
        "disable_redirect_access_to_syslog",
        "--disable-redirect-access-to-syslog",
        "true",
        "info",
        "requests are in syslog only where --access-log is logger",
    ),
    _same(
        "access_log_format",
        "--access-logformat",
        note="the same atoms; also combined and json",
        default='%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"',
    ),
    _same(
        "errorlog",
        "--error-logfile --log-file",
        ours="log_file",
        note="- is standard output here, and nothing standard error",
        default="-",
    ),
    _same("loglevel", "--log-level", ours="log_level", default="info"),
    _none(
        "capture_output",
        "--capture-output",
        "true",
        "info",
        "what the application prints goes where the command's standard output and standard error go",
    ),
    _none(
        "logger_class",
        "--logger-class",
        "text",
        "warning",
        f"the log has no class of one's own: {_LOG}; handlers of one's own go on logging.getLogger('prefork')",
        "gunicorn.glogging.Logger",
    ),
    _same(
        "logconfig", "--log-config", note="ini, or TOML or JSON; the loggers prefork and prefork.access, or gunicorn's"
    ),
    _none("logconfig_dict", "", "dict", "same", "elsewhere it is a file of TOML or JSON for --logconfig"),
    _same(
        "logconfig_json",
        "--log-config-json",
        ours="logconfig",
        note="gunicorn's own stands beside what it says, which elsewhere the file has to say itself",
    ),
    _same("syslog_addr", "--log-syslog-to", note="unix:///dev/log unless it is given", default="udp://localhost:514"),
    _same("syslog", "--log-syslog", "true", note="requests too, with --access-log logger"),
    _same("syslog_prefix", "--log-syslog-prefix", note="NAME and NAME.access are the programs' names"),
    _same("syslog_facility", "--log-syslog-facility", default="user"),
    _none(
        "enable_stdio_inheritance",
        "-R --enable-stdio-inheritance",
        "true",
        "info",
        "workers always have the standard streams of the command",
    ),
    _same("statsd_host", "--statsd-host", note="gunicorn's names, after statsd_prefix"),
    _same("dogstatsd_tags", "--dogstatsd-tags", default=""),
    _same(
        "statsd_prefix",
        "--statsd-prefix",
        note="all that names begin with, prefork by default: gunicorn here gives the names of before",
        default="",
    ),
    _none(
        "enable_backlog_metric",
        "--enable-backlog-metric",
        "true",
        "info",
        "prefork status and the metrics always tell how many wait",
    ),
)
NAMING: Final = (
    _same("proc_name", "-n --name", ours="name"),
    _none(
        "default_proc_name",
        "",
        "text",
        "info",
        "the target is what a server is called unless --name says so",
        "gunicorn",
    ),
)
TLS: Final = (
    _same("keyfile", "--keyfile"),
    _same("certfile", "--certfile"),
    _same("ca_certs", "--ca-certs", note="asks each client for a certificate, as cert_reqs = 2 does"),
    _none(
        "cert_reqs",
        "--cert-reqs",
        "whole",
        "info",
        "with --ca-certs each client has to have a certificate, else nobody is asked for one",
        0,
    ),
    _none("ssl_version", "--ssl-version", "text", "info", "--ssl-minimum-version says the oldest that is spoken"),
    _none("ciphers", "--ciphers", "text", "warning", "they are those of OpenSSL's configuration (openssl.cnf)"),
    _none(
        "suppress_ragged_eofs",
        "--suppress-ragged-eofs",
        "true",
        "info",
        "a connection that ends early is quiet",
        True,
    ),
    _none(
        "do_handshake_on_connect",
        "--do-handshake-on-connect",
        "true",
        "info",
        "the worker does the handshake, within --header-timeout",
    ),
)
CONTROL: Final = (
    _same("control_socket", "--control-socket", ours="control", note="prefork status and its like speak with it"),
    _none("control_socket_mode", "--control-socket-mode", "whole", "info", "it is for its owner alone (0600)", 0o600),
    _none("control_socket_disable", "--no-control-socket", "true", "same", "--control off"),
)
HTTP2: Final = (
    _none("http_protocols", "--http-protocols", "text", "warning", _HTTP2, "h1"),
    _none("http2_cleartext", "--http2-cleartext", "text", "info", _HTTP2, "off"),
    _none("http2_max_concurrent_streams", "--http2-max-concurrent-streams", "whole", "info", _HTTP2, 100),
    _none("http2_initial_window_size", "--http2-initial-window-size", "whole", "info", _HTTP2, 65535),
    _none("http2_max_frame_size", "--http2-max-frame-size", "whole", "info", _HTTP2, 16384),
    _none("http2_max_header_list_size", "--http2-max-header-list-size", "whole", "info", _HTTP2, 65536),
)
DIRTY: Final = (
    _none("dirty_apps", "--dirty-app", "list", "warning", _DIRTY),
    _none("dirty_workers", "--dirty-workers", "whole", "info", _DIRTY, 0),
    _none("dirty_timeout", "--dirty-timeout", "whole", "info", _DIRTY, 300),
    _none("dirty_threads", "--dirty-threads", "whole", "info", _DIRTY, 1),
    _none("dirty_graceful_timeout", "--dirty-graceful-timeout", "whole", "info", _DIRTY, 30),
)
HOOKS: Final = (
    _hook("on_starting"),
    _hook("on_reload"),
    _hook("when_ready"),
    _hook("pre_fork"),
    _hook("post_fork"),
    _hook("post_worker_init"),
    _hook("worker_int", "SIGINT and SIGQUIT of a worker are the master's affair; worker_exit is called at its end"),
    _hook("worker_abort"),
    _hook(
        "pre_exec", "an upgrade executes the command in the same process; on_starting and when_ready are called there"
    ),
    _hook("pre_request", "a WSGI middleware is called before each request"),
    _hook("post_request", "a WSGI middleware is called after each request; --access-log writes of it"),
    _hook("child_exit"),
    _hook("worker_exit"),
    _hook("nworkers_changed", "prefork status and the metrics tell how many there are, worker.slot which one this is"),
    _hook("on_exit"),
    _hook("ssl_context", "give --certfile, --keyfile, --ca-certs and --ssl-minimum-version"),
    _hook("on_dirty_starting", _DIRTY),
    _hook("dirty_post_fork", _DIRTY),
    _hook("dirty_worker_init", _DIRTY),
    _hook("dirty_worker_exit", _DIRTY),
)

GROUPS: Final = {
    "Config file": CONFIG,
    "Server socket": SOCKETS,
    "Worker processes": WORKERS,
    "Security": SECURITY,
    "Server mechanics": MECHANICS,
    "Logging": LOGGING,
    "Process naming": NAMING,
    "TLS": TLS,
    "Debugging": DEBUGGING,
    "Control": CONTROL,
    "Server hooks": HOOKS,
    "HTTP/2": HTTP2,
    "Dirty arbiters": DIRTY,
}
"""All rows, under the headings of the page."""

ROWS: Final = tuple(row for rows in GROUPS.values() for row in rows)
"""All rows."""
