"""The options of uWSGI (2.0) that configurations have, and what becomes of each: the table that all follows from.

Names are as in a file, with hyphens; each is a flag with two more. What needs more than a row says,
`prefork.migration.uwsgi_values` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prefork.migration.foreign_setting import ForeignSetting, Takes, Weight

_SHORT: Final = {
    "socket": "-s",
    "processes": "-p",
    "module": "-w",
    "master": "-M",
    "home": "-H",
    "daemonize": "-d",
    "harakiri": "-t",
    "max-requests": "-R",
    "listen": "-l",
    "chmod-socket": "-C",
    "buffer-size": "-b",
    "socket-timeout": "-z",
    "single-interpreter": "-i",
    "enable-threads": "-T",
    "disable-logging": "-L",
}


def _rows(
    names: str, takes: Takes, ours: str = "", note: str = "", weight: Weight = "same"
) -> Iterator[ForeignSetting]:
    """One row for each of several names of the same."""
    for name in names.split():
        flags = (f"--{name}", _SHORT[name]) if name in _SHORT else (f"--{name}",)
        yield ForeignSetting(name=name, flags=flags, takes=takes, ours=ours, note=note, weight=weight)


_HTTP: Final = "HTTP is spoken there, not the uwsgi protocol; nginx has proxy_pass http://... in place of uwsgi_pass"
_STATIC: Final = "static files are served by the proxy in front, or by the application (WhiteNoise)"
_PROCESS: Final = "run it as a service of its own"
_BEFORE: Final = "run it before the command, as ExecStartPre of systemd or in the container's entry point"
_LOGS: Final = "the log and --access-log are files, or standard streams, syslog or loggers (--logconfig)"

ROWS: Final = (
    # What is served.
    *_rows("module wsgi", "text", note="it is the argument, MODULE:ATTRIBUTE"),
    *_rows("wsgi-file file", "text", note="name its module, and its folder with --app-dir"),
    *_rows("callable", "text", note="it is the argument's second half, MODULE:ATTRIBUTE"),
    *_rows("mount", "list", "script_name", "and the argument names what is mounted"),
    *_rows("manage-script-name", "true", note="--script-name is taken from the path", weight="info"),
    *_rows("chdir chdir2", "text", "chdir"),
    *_rows("pythonpath python-path pp", "list", note="set PYTHONPATH, or --app-dir"),
    *_rows("home virtualenv venv pyhome", "text", note="run the prefork of that environment, PATH/bin/prefork"),
    *_rows("env", "list", note="set it in the environment of the command"),
    *_rows("plugins plugin", "list", note="there are no plugins", weight="warning"),
    *_rows("need-app", "true", note="an application that fails to start ends the start", weight="info"),
    *_rows("lazy-apps lazy", "true", note="each worker loads the application; --preload loads it once"),
    *_rows(
        "import shared-import py-import python-import",
        "list",
        note="import it in the application's module",
        weight="warning",
    ),
    *_rows("pymodule-alias", "list", note="set sys.modules in the application's module", weight="warning"),
    *_rows("unenv", "list", note="take it out of the environment of the command", weight="warning"),
    *_rows("paste ini-paste ini-paste-logged", "text", note="give a factory that calls loadapp()", weight="refused"),
    *_rows("wsgi-disable-file-wrapper", "true", note="a file is sent by sendfile(2), or read", weight="info"),
    *_rows(
        "wsgi-manage-chunked-input wsgi-env-behaviour wsgi-env-behavior wsgi-accept-buffer wsgi-accept-buffers",
        "maybe",
        note="the application is served by PEP 3333",
        weight="info",
    ),
    *_rows(
        "py-callos-afterfork py-call-osafterfork py-call-uwsgi-fork-hooks py-sharedarea-hook",
        "true",
        note="what is to be done after a fork is done",
        weight="info",
    ),
    *_rows("py-tracebacker", "text", note="prefork dump shows where a worker is", weight="info"),
    *_rows("skip-atexit skip-atexit-teardown", "true", note="atexit functions are called", weight="warning"),
    *_rows("reload-os-env", "true", note="prefork upgrade reads the configuration anew", weight="info"),
    *_rows(
        "touch-chain-reload touch-workers-reload touch-mules-reload",
        "list",
        note="prefork reload does it, worker by worker",
        weight="warning",
    ),
    *_rows("touch-logreopen touch-logrotate", "list", note="SIGUSR1 opens the log anew", weight="warning"),
    *_rows("single-interpreter", "true", note="there is one interpreter in a worker", weight="info"),
    *_rows("py-autoreload python-autoreload", "text", "reload"),
    *_rows("touch-reload fs-reload", "list", note="prefork reload does it", weight="warning"),
    # Where it listens.
    *_rows("http http-socket http11-socket", "list", "bind"),
    *_rows("socket uwsgi-socket", "list", "bind", _HTTP),
    *_rows("https https-socket", "list", "bind", "with --certfile and --keyfile"),
    *_rows("fastcgi-socket scgi-socket", "list", note="HTTP/1.1 is spoken; the proxy has to", weight="refused"),
    *_rows("protocol socket-protocol", "text", note="HTTP/1.1 is spoken"),
    *_rows("shared-socket", "list", note="name the address with --bind"),
    *_rows("abstract-socket", "true", note="an abstract socket is unix:@NAME"),
    *_rows("no-defer-accept", "true", "defer_accept", "as 0"),
    *_rows("freebind", "true", note="it can be set for all by net.ipv4.ip_nonlocal_bind", weight="warning"),
    *_rows("http-to-https http-to", "text", note="the proxy in front does it", weight="warning"),
    *_rows(
        "http-raw-body http-buffer-size http-connect-timeout http-manage-expect http-processes http-modifier1",
        "maybe",
        note="workers take connections by themselves",
        weight="info",
    ),
    *_rows(
        "socket-send-timeout socket-write-timeout",
        "whole",
        note="--io-timeout is for a send as for a receive",
        weight="info",
    ),
    *_rows("listen", "whole", "backlog"),
    *_rows("chmod-socket", "maybe", "socket_mode"),
    *_rows("chown-socket", "text", "socket_user", "and --socket-group"),
    *_rows("reuse-port", "true", "reuse_port", "a socket for each worker"),
    *_rows("so-keepalive", "true", "tcp_keepalive"),
    *_rows("tcp-nodelay", "true", "nodelay"),
    *_rows("http-keepalive", "maybe", "keepalive"),
    *_rows("vacuum", "true", note="the socket is removed at the end", weight="info"),
    *_rows("thunder-lock", "true", note="the kernel wakes one worker for a connection", weight="info"),
    # Workers.
    *_rows("processes workers", "whole", "workers"),
    *_rows("threads", "whole", "threads"),
    *_rows("enable-threads", "true", note="threads of the application always run", weight="info"),
    *_rows("master", "true", note="there always is one", weight="info"),
    *_rows("gevent", "whole", "worker_class", "gevent, with --worker-options connections=N"),
    *_rows(
        "gevent-monkey-patch gevent-early-monkey-patch", "true", note="--worker-class gevent does it", weight="info"
    ),
    *_rows(
        "async asyncio ugreen", "text", note="there is no such loop; give gevent, or prefork asgi", weight="refused"
    ),
    *_rows("cheaper", "whole", "min_workers", "processes is --max-workers then"),
    *_rows("cheaper-initial", "whole", "workers"),
    *_rows(
        "cheaper-algo cheaper-step cheaper-overload cheaper-rss-limit-soft",
        "text",
        note="it grows while connections wait, and shrinks when workers are idle",
        weight="info",
    ),
    *_rows("max-requests", "whole", "max_requests"),
    *_rows("max-requests-delta", "whole", "max_requests_jitter", "at random"),
    *_rows("max-worker-lifetime", "whole", "max_age"),
    *_rows("min-worker-lifetime", "whole", note="a replacement is READY before a worker leaves", weight="info"),
    *_rows("reload-on-rss evil-reload-on-rss", "whole", "max_memory", "in bytes, with K, M or G"),
    *_rows("reload-on-as", "whole", note="--max-memory limits resident memory", weight="warning"),
    *_rows("cheap die-on-idle idle", "maybe", note="min_workers is the least there are", weight="warning"),
    *_rows("no-orphans", "true", note="workers leave when their master is gone", weight="info"),
    *_rows("max-fd", "whole", note="the soft limit of descriptors becomes the hard one", weight="info"),
    *_rows(
        "limit-as limit-nproc", "whole", note="the service manager sets it; --max-memory replaces", weight="warning"
    ),
    *_rows("cpu-affinity", "whole", note="the kernel chooses; taskset sets it for all", weight="info"),
    # Times.
    *_rows("harakiri", "whole", "timeout"),
    *_rows("harakiri-verbose", "true", note="tracebacks are always logged", weight="info"),
    *_rows("harakiri-graceful-timeout", "whole", note="timeout ends a worker at once", weight="warning"),
    *_rows("reload-mercy worker-reload-mercy", "whole", "graceful_timeout"),
    *_rows("socket-timeout http-timeout", "whole", "io_timeout"),
    *_rows("die-on-term", "true", note="SIGTERM always stops", weight="info"),
    # Requests.
    *_rows("buffer-size", "whole", "limit_request_field_size", "and --limit-request-line"),
    *_rows("limit-post", "whole", "limit_request_body"),
    *_rows(
        "post-buffering post-buffering-bufsize",
        "text",
        note="--spool says which bodies are taken first",
        weight="info",
    ),
    *_rows("http-websockets", "true", note="prefork asgi serves websockets", weight="warning"),
    *_rows("http-auto-chunked http-chunked-input", "true", note="chunked bodies are taken and sent", weight="info"),
    *_rows(
        "static-map static-map2 check-static static-index static-expires static-gzip-all",
        "list",
        note=_STATIC,
        weight="warning",
    ),
    *_rows("offload-threads", "whole", note="wsgi.file_wrapper sends files by sendfile(2)", weight="info"),
    *_rows(
        "route route-host route-uri add-header rewrite", "list", note="the proxy in front does it", weight="warning"
    ),
    *_rows(
        "ignore-sigpipe ignore-write-errors disable-write-exception",
        "true",
        note="a client that went away is no error",
        weight="info",
    ),
    # Logs.
    *_rows("logto logto2", "text", "log_file", "and --access-log for requests"),
    *_rows(
        "daemonize daemonize2",
        "text",
        note="it stays in the foreground; let a service manager start it",
        weight="warning",
    ),
    *_rows("disable-logging", "true", note="requests are logged where --access-log says so"),
    *_rows("log-format logformat", "text", note="--access-log-format has gunicorn's atoms", weight="warning"),
    *_rows("log-date logdate log-micros log-master", "maybe", note="each line has its time", weight="info"),
    *_rows("log-reopen", "true", note="a file that was moved away is opened anew", weight="info"),
    *_rows("log-maxsize log-backupname", "text", note="logrotate does it", weight="warning"),
    *_rows("logger req-logger", "list", note=_LOGS, weight="warning"),
    *_rows("log-4xx log-5xx log-slow log-zero log-big", "maybe", note="--access-log has all requests"),
    *_rows("logfile-chmod logfile-chown", "text", note="a log file has what the umask leaves", weight="warning"),
    *_rows("logformat-strftime log-format-strftime", "true", note="--access-log-format says all", weight="info"),
    *_rows("log-encoder log-req-encoder", "text", note="--access-log-format says all", weight="info"),
    *_rows(
        "close-on-exec close-on-exec2 honour-stdin", "true", note="no descriptor of ours is inherited", weight="info"
    ),
    *_rows("log-x-forwarded-for", "true", note="--forwarded-allow-ips says whose are believed", weight="info"),
    *_rows("memory-report", "true", note="prefork status tells what workers use", weight="info"),
    *_rows(
        "stats stats-server stats-http stats-push", "maybe", note="prefork status, top and exporter tell", weight="info"
    ),
    *_rows("carbon", "list", note="--statsd-host and prefork exporter have the numbers", weight="warning"),
    # The process.
    *_rows("uid", "text", "user"),
    *_rows("gid", "text", "group"),
    *_rows("umask", "text", "umask"),
    *_rows("pidfile pidfile2 safe-pidfile safe-pidfile2", "text", "pidfile"),
    *_rows("procname procname-master", "text", "name"),
    *_rows(
        "auto-procname procname-prefix procname-prefix-spaced procname-append",
        "maybe",
        note="processes are named by --name, if setproctitle is installed",
        weight="info",
    ),
    *_rows("master-fifo", "list", note="prefork reload, stop and so on do it", weight="warning"),
    *_rows("show-config", "true", note="--print-config, or prefork uwsgi --explain, shows it", weight="info"),
    *_rows("strict", "true", note="what prefork does not know is always told", weight="info"),
    *_rows("emperor vassals-include", "text", note="each application is a service of its own", weight="refused"),
    *_rows(
        "mule mules spooler spooler-processes cron cron2 timer smart-attach-daemon attach-daemon attach-daemon2",
        "list",
        note=_PROCESS,
        weight="warning",
    ),
    *_rows(
        "cache2 cache sharedarea queue locks", "list", note="keep it in a service that is made for it", weight="warning"
    ),
    *_rows(
        "exec-asap exec-pre-app exec-pre-jail hook-asap hook-pre-app exec-as-root",
        "list",
        note=_BEFORE,
        weight="warning",
    ),
    *_rows(
        "exec-as-user exec-post-app hook-post-app hook-as-user-atexit exec-as-user-atexit",
        "list",
        note="hooks are functions in a module (--hooks)",
        weight="warning",
    ),
)
"""All rows."""

_FAMILIES: Final[tuple[tuple[str, Weight, str], ...]] = (
    ("route error-route response-route final-route", "warning", "the proxy in front does it"),
    ("static- check-static mime file-serve-mode", "warning", _STATIC),
    ("hook exec-", "warning", "hooks are functions in a module (--hooks)"),
    ("cheaper-", "info", "it grows while connections wait, and shrinks when workers are idle"),
    ("cache sharedarea queue", "warning", "keep it in a service that is made for it"),
    ("spooler mule cron timer farm", "warning", _PROCESS),
    ("emperor vassal subscri fastrouter", "warning", "each application is a service of its own"),
    ("stats- metric carbon", "info", "prefork status, top and exporter tell"),
    ("cgroup namespace ns- unshare chroot pivot- cap ", "warning", "the service manager or the container does it"),
)


def family(name: str) -> ForeignSetting | None:
    """The row for many options whose names begin alike; None for what is of no such family.

    Args:
        name: The option's name.
    """
    for beginnings, weight, note in _FAMILIES:
        if name.startswith(tuple(beginnings.split())):
            return ForeignSetting(name=name, note=note, weight=weight)
    return None
