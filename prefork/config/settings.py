"""All settings: names, types, defaults, what they mean, and what may not be combined.

`Settings` is the one table. Command-line flags, ``PREFORK_`` variables, TOML keys, their help and their documentation
derive from it through `fields`. Nothing here reads files, the environment or the system: settings say what is wanted;
whether it can be had (a user that exists, a port that is free) shows where it is tried.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from prefork.config import kinds, rules
from prefork.config.address import Address, parse
from prefork.config.fields import (
    APPLICATION,
    FAILURES,
    LISTENING,
    OPERATIONS,
    RECYCLING,
    STOPPING,
    TIMES,
    WORKERS,
    Field,
    made,
    setting,
    table,
)
from prefork.config.keepalive import Keepalive
from prefork.config.preloading import Preloading
from prefork.config.probing import Probing
from prefork.config.proxying import Proxying
from prefork.config.reporting import Reporting
from prefork.config.rules import Problem
from prefork.config.transport import Transport
from prefork.errors import SettingsError
from prefork.system.backoff import Backoff

_LONGEST_WAIT: Final = 2_000_000.0  # seconds; what poll(2) can wait for is 2**31 - 1 milliseconds
_TEN_YEARS: Final = 315_360_000.0
_MOST_WORKERS: Final = 10_000
_MOST_THREADS: Final = 1000
_C_INT: Final = 2**31 - 1

_SECONDS: Final = kinds.number("a number of seconds", most=_LONGEST_WAIT)


class Settings(Preloading, Reporting, Keepalive, Proxying, Probing, Transport, kw_only=True):
    """What a server is told. Immutable; checked as a whole when it is made.

    Every field is described in the table below, and by ``prefork serve --help``. Times are seconds, sizes are bytes.

    Raises:
        SettingsError: With all problems of all fields at once.
    """

    bind: str | tuple[str, ...] = setting(
        "127.0.0.1:8000",
        LISTENING,
        kinds.addresses(),
        "Listen here: host:port, [ipv6]:port, :port (every IPv4 address), unix:/path, unix:@name, seqpacket:/path, "
        "fd://NUMBER, systemd: or systemd:NAME. Port 0 takes a free one. May be given several times.",
        "-b",
    )
    backlog: int = setting(
        2048,
        LISTENING,
        kinds.whole("a length of the accept queue", least=1, most=_C_INT),
        "How many connections may wait to be accepted, on each listening socket. The kernel cuts it to "
        "net.core.somaxconn.",
    )
    reuse_port: bool = setting(
        False,
        LISTENING,
        kinds.switch(),
        "Give each worker a listening socket of its own (SO_REUSEPORT), and let a second server start on the same "
        "port beside this one.",
    )
    reuse_port_mode: Literal["hash", "random", "cpu"] = setting(
        "hash",
        LISTENING,
        kinds.choice("hash", "random", "cpu"),
        "With reuse_port, how the kernel picks the socket of a new connection: by a hash of its addresses, at random, "
        "or by the CPU that received it.",
    )

    takeover: str = setting(
        "",
        LISTENING,
        kinds.text(
            r"[^\0\n]+",
            "is no path of a file; name the predecessor's pidfile",
            metavar="PIDFILE",
            locate=kinds.path_in(),
        ),
        "Take the port over from the server whose pidfile this is: start beside it (both with reuse_port), and when "
        "all workers are ready, stop it without losing anybody. If they fail to boot, it goes on.",
    )

    workers: int | str = setting(
        "auto",
        WORKERS,
        kinds.computed(kinds.whole("a count of processes", least=1, most=_MOST_WORKERS)),
        "How many worker processes to run; auto is one for each CPU that this process may use (affinity and "
        "cgroup quota), and a text such as '2 * cpus + 1' is computed from their count.",
        "-w",
    )
    threads: int = setting(
        1,
        WORKERS,
        kinds.whole("a count of threads", least=1, most=_MOST_THREADS),
        "How many connections each worker serves at once, each in a thread of its own; a connection goes to a worker "
        "that has nothing in hand as long as there is one.",
    )
    min_workers: int = setting(
        0,
        WORKERS,
        kinds.whole("a count of processes", most=10_000),
        "Shrink to no fewer workers than this when there is little to do; 0 means the value of workers.",
    )
    max_workers: int = setting(
        0,
        WORKERS,
        kinds.whole("a count of processes", most=10_000),
        "Grow to no more workers than this while connections wait and no worker is idle; 0 means the value of workers.",
    )
    scale_queue_time: float = setting(
        0.0,
        WORKERS,
        _SECONDS,
        "With max_workers: grow when requests wait for longer than this while no worker is idle, on kept connections "
        "too. 0 means as soon as a connection waits to be accepted, however long, and for nothing else.",
    )
    idle_timeout: float = setting(
        30.0,
        WORKERS,
        _SECONDS,
        "How long the workers above min_workers must have been idle before one of them is let go.",
    )

    reload: bool = setting(
        False,
        APPLICATION,
        kinds.switch(),
        "For development: as soon as a Python file changes in a folder of the import path that is not one of installed "
        "packages, replace all workers by new code. Needs watchfiles (pip install 'prefork[reload]').",
    )
    gc: Literal["default", "idle"] = setting(
        "default",
        APPLICATION,
        kinds.choice("default", "idle"),
        "When Python looks through all its objects for garbage: by default in the midst of a request; with idle "
        "between two, when nobody waits for the worker, and in a quarter of the workers at once.",
    )
    hooks: str = setting(
        "",
        APPLICATION,
        kinds.text(
            r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?",
            "does not name an object; give module or module:object",
            metavar="MODULE[:OBJECT]",
        ),
        "Where functions are found that are called at points in the server's life; each has the name of its hook: "
        "on_starting, when_ready, post_fork, worker_exit and so on.",
    )
    timeout: float = setting(
        0.0,
        TIMES,
        _SECONDS,
        "End a worker that is busy with one connection for longer than this, after its tracebacks were logged. 0 means "
        "never.",
        "-t",
    )
    slow_log: float = setting(
        0.0,
        TIMES,
        kinds.number("a part of timeout", most=1.0, metavar="FRACTION"),
        "Log what a worker does that has been busy with one connection for this part of timeout (0.5 is half of it): "
        "its tracebacks, once, and it goes on. 0 means never.",
    )
    boot_timeout: float = setting(
        60.0,
        TIMES,
        _SECONDS,
        "End a worker that is not ready this long after its start. 0 means never.",
    )
    graceful_timeout: float = setting(
        30.0,
        TIMES,
        _SECONDS,
        "On SIGTERM, on a reload and when a worker is replaced: how long it may take to finish what it has accepted "
        "before it is killed.",
    )
    quick_timeout: float = setting(
        2.0,
        TIMES,
        _SECONDS,
        "On SIGINT and SIGQUIT: how long a worker may take to finish the connection in hand before it is killed.",
    )
    io_timeout: float = setting(
        0.0,
        TIMES,
        _SECONDS,
        "The longest wait of one receive or send on an accepted connection; beyond it the handler gets TimeoutError. 0 "
        "means no limit.",
    )

    max_requests: int = setting(
        0,
        RECYCLING,
        kinds.whole("a count of connections"),
        "Replace a worker after it has served this many connections. 0 means never.",
    )
    max_requests_jitter: int = setting(
        0,
        RECYCLING,
        kinds.whole("a count of connections"),
        "Add up to this many at random, for each worker anew, so that workers are not all replaced at once.",
    )
    max_age: float = setting(
        0.0,
        RECYCLING,
        kinds.number("a number of seconds", most=_TEN_YEARS),
        "Replace a worker this long after its start. 0 means never.",
    )
    max_age_jitter: float = setting(
        0.0,
        RECYCLING,
        kinds.number("a number of seconds", most=_TEN_YEARS),
        "Add up to this much at random, for each worker anew.",
    )
    max_memory: int = setting(
        0,
        RECYCLING,
        kinds.size(least=1 << 20),
        "Replace a worker whose resident memory is more than this; K, M and G are understood (1024). 0 means never.",
    )
    memory_guard: float = setting(
        0.9,
        RECYCLING,
        kinds.number("a part of the limit", most=1.0, metavar="FRACTION"),
        "When the memory of the server's cgroup is in use to this part of its limit, replace the largest worker that "
        "has grown, before the kernel kills one, and fork nobody until there is room. 0 means never.",
    )
    max_fds: float = setting(
        0.0,
        RECYCLING,
        kinds.number("a share or a count of descriptors", most=_C_INT, metavar="FRACTION|COUNT", counts=True),
        "Replace a worker that holds more open descriptors than this: a fraction of its limit, or a count. 0 means "
        "never.",
    )
    max_recycling: int = setting(
        1,
        RECYCLING,
        kinds.whole("a count of processes", least=1, most=10_000),
        "How many workers may be in replacement at the same time; each is replaced by a ready one.",
    )
    reload_surge: int = setting(
        1,
        RECYCLING,
        kinds.whole("a count of processes", least=1, most=10_000),
        "How many workers a reload may run beyond the usual number.",
    )

    stop: Literal["drain", "close"] = setting(
        "drain",
        STOPPING,
        kinds.choice("drain", "close"),
        "On SIGTERM: drain serves all who are connected already, also those not yet accepted; close refuses these at "
        "once.",
    )
    drain_delay: float = setting(
        0.0,
        STOPPING,
        _SECONDS,
        "On SIGTERM: go on serving for so long first, until load balancers have noticed: probes fail from the first "
        "moment, and kept connections end after their next answer. A second SIGTERM ends it.",
    )

    name: str = setting(
        "",
        OPERATIONS,
        kinds.text(r"[^\n\0]{1,200}", "is not a name; give a short one", metavar="NAME"),
        "What the server is called in titles and status; by the command, the target unless it is given.",
        "-n",
    )
    proc_titles: Literal["auto", "live", "off"] = setting(
        "auto",
        OPERATIONS,
        kinds.choice("auto", "live", "off"),
        "Name the processes in ps: auto if setproctitle is installed; live also shows what each worker does, for which "
        "the master wakes up once a second.",
    )
    control: str = setting(
        "",
        OPERATIONS,
        kinds.path("control socket", "auto", "off"),
        "Make a unix socket here by which prefork status, reload, stop and so on reach this server; auto chooses a "
        "place (RUNTIME_DIRECTORY, /run/prefork, or a folder of the user's own), nothing or off makes none.",
    )
    pidfile: str = setting(
        "",
        OPERATIONS,
        kinds.path("file"),
        "Write the master's process id into this file, and remove it at the end.",
        "-p",
    )
    user: str = setting(
        "",
        OPERATIONS,
        kinds.account("user"),
        "Run workers as this user, by name or number, with the user's groups and without capabilities. The master "
        "stays root, and so do the hooks that it runs.",
        "-u",
    )
    group: str = setting(
        "",
        OPERATIONS,
        kinds.account("group"),
        "Run workers with this group, by name or number, instead of the user's own.",
        "-g",
    )
    no_new_privs: Literal["auto", "yes", "no"] = setting(
        "auto",
        OPERATIONS,
        kinds.choice("auto", "yes", "no"),
        "Keep workers, and all that they execute, from gaining privileges through setuid programs and file "
        "capabilities (PR_SET_NO_NEW_PRIVS, prctl(2)); auto is yes with user and else no.",
    )
    umask: int | None = setting(
        None,
        OPERATIONS,
        kinds.mode(),
        "The permissions that new files don't get, in octal; without it that of whoever starts the server.",
    )
    chdir: str = setting(
        "",
        OPERATIONS,
        kinds.text(r".+", "is not a folder; name one", metavar="FOLDER"),
        "Change to this folder first: the application is looked for there, and relative paths are relative to it.",
    )

    crash_limit: int = setting(
        10,
        FAILURES,
        kinds.whole("a count of deaths", least=1, most=1_000_000),
        "This many workers that died young within crash_window are a crash loop; this many in a row that were killed "
        "before they were ready are a boot that has failed.",
    )
    crash_window: float = setting(
        60.0,
        FAILURES,
        kinds.number("a number of seconds", least=1.0, most=_LONGEST_WAIT),
        "The time in which crash_limit counts.",
    )
    on_crash_loop: Literal["degrade", "exit"] = setting(
        "degrade",
        FAILURES,
        kinds.choice("degrade", "exit"),
        "In a crash loop: degrade goes on with what works and says so, exit ends the server with code 4.",
    )
    exhausted: Literal["wait", "shed"] = setting(
        "wait",
        FAILURES,
        kinds.choice("wait", "shed"),
        "When descriptors have run out: wait leaves connections in the accept queue; shed accepts and refuses them, "
        "once all workers are exhausted.",
    )
    shed_rate: int = setting(
        100,
        FAILURES,
        kinds.whole("a count of connections a second", least=1, most=1_000_000),
        "The most connections a second that the server sheds.",
    )
    backoff_initial: float = setting(
        0.05,
        FAILURES,
        kinds.number("a number of seconds", least=0.001, most=3600.0),
        "After a failed accept that a retry can't mend: the first wait before the next.",
    )
    backoff_factor: float = setting(
        2.0,
        FAILURES,
        kinds.number("a factor", least=1.0, most=1000.0, metavar="FACTOR"),
        "How much longer each further wait is.",
    )
    backoff_max: float = setting(
        0.25,
        FAILURES,
        kinds.number("a number of seconds", least=0.001, most=3600.0),
        "The longest wait.",
    )
    backoff_jitter: float = setting(
        0.2,
        FAILURES,
        kinds.number("a fraction", most=1.0, metavar="FRACTION"),
        "The part of each wait that chance may take away, so that workers don't try in step.",
    )
    raise_nofile: bool = setting(
        True,
        FAILURES,
        kinds.switch(),
        "Raise the soft limit of open descriptors (RLIMIT_NOFILE) to the hard limit, in the master, which needs some "
        "for each worker, and in workers of prefork.embed. Other workers keep theirs, for what they execute.",
    )

    def settle(self) -> None:
        """Check the values, each by itself and all together, and give each its proper type.

        Raises:
            SettingsError: With all problems at once.
        """
        rules.settle(self, by_name())

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """The settings that a caller named; the way in for keyword arguments, where a name may be wrong too.

        Args:
            given: Values by name. Settings that it doesn't name have their defaults.

        Raises:
            SettingsError: With all problems at once, unknown names among them.
        """
        values, problems = examine(given)
        if problems:
            raise SettingsError(problem.text for problem in problems)
        return made(cls, values)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """What `bind` says, read."""
        return tuple(parse(text) for text in ((self.bind,) if isinstance(self.bind, str) else self.bind))

    @property
    def backoff(self) -> Backoff:
        """The delays of a worker whose accept fails."""
        return Backoff(self.backoff_initial, self.backoff_factor, self.backoff_max, self.backoff_jitter)

    def requests(self, chance: float) -> int:
        """After how many connections a worker is replaced; 0 = never.

        Args:
            chance: Where in the jitter its number falls, 0 <= chance < 1.
        """
        return self.max_requests and self.max_requests + int(chance * (self.max_requests_jitter + 1))

    def size(self, cpus: int) -> tuple[int, int, int]:
        """How many workers to run.

        Args:
            cpus: How many CPUs this process may use: what "auto" and "cpus" stand for.

        Returns:
            The counts at the start, at the least and at the most; least <= start <= most.
        """
        start = self.workers if isinstance(self.workers, int) else _computed(self.workers, cpus)
        start = max(start, self.min_workers)
        start = min(start, self.max_workers or start)
        return start, self.min_workers or start, self.max_workers or start


def _computed(workers: str, cpus: int) -> int:
    if workers == "auto":
        return max(1, cpus)
    from prefork.config import arithmetic

    return min(max(1, arithmetic.parse(workers)(cpus)), _MOST_WORKERS)


@functools.cache
def fields() -> tuple[Field, ...]:
    """All settings, in the order of the table."""
    return table(Settings)


@functools.cache
def by_name() -> Mapping[str, Field]:
    """All settings by their names."""
    return {field.name: field for field in fields()}


def examine(given: Mapping[str, object], bad: Collection[str] = ()) -> tuple[dict[str, Any], list[Problem]]:
    """Check values against their types and bounds, and against each other. Pure.

    Args:
        given: Values by name; settings that it doesn't name have their defaults.
        bad: Names of settings that are known to be wrong already: no rule that needs one of these is applied.

    Returns:
        The values in their proper types, those of the good settings; and everything that is wrong.
    """
    return rules.examine(by_name(), given, bad)
